//! Everything that can fail, before anything of it shows.

use super::{
    super::{
        App, Parts,
        assemble::{
            self, Sagas, awaiting, buckets, databases, deploy_error_at, has_outbox, outboxes, scope, subscriber,
            subscriptions, terms,
        },
    },
    ApplyError, StartError,
    draft::Draft,
};
use crate::{
    events::{Bus, Entered},
    gateway::Routes,
    keyvalue::Buckets,
    mail::Way,
    manifest::{self, Manifest},
    outbound::{External, ExternalChange},
    outbox::Outbox,
    rollout::{Change, Changing, Entering, Member, Members},
    saga::{self, Register},
    service::Service,
    store::Database,
};
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::watch;

/// What is to be put in place.
pub(super) struct Prepared {
    pub parts: Parts,
    pub change: Change,
    pub routes: Routes,
    pub external: Vec<(Arc<External>, ExternalChange)>,
    /// Where mail goes, where that is another way.
    pub mail: Option<Way>,
    /// How sagas are run, where that is otherwise.
    pub saga_settings: Vec<(Arc<Register>, saga::Settings)>,
    /// The subscriptions that begin, or go on otherwise.
    pub entered: Vec<Entered>,
    /// Those that end, by topic and service.
    pub ended: Vec<(String, String)>,
}

/// What was opened on the way, and has to be closed where the way leads no further.
#[derive(Default)]
struct Opened {
    databases: BTreeMap<String, Database>,
    buckets: BTreeMap<String, Buckets>,
    outboxes: BTreeMap<String, Outbox>,
    revisions: Vec<Entering>,
    entered: Vec<Entered>,
}

// === impl Opened ===

impl Opened {
    async fn close(self, bus: &Bus, changing: &Changing<'_>, why: &str) {
        changing.abandon(self.revisions, why).await;
        for entered in self.entered {
            bus.strike(entered).await;
        }
        for outbox in self.outboxes.values() {
            outbox.close().await;
        }
        for buckets in self.buckets.values() {
            buckets.close().await;
        }
        for database in self.databases.values() {
            database.close().await;
        }
    }
}

// === impl Prepared ===

impl Prepared {
    pub async fn new(app: &App, draft: &mut Draft<'_>) -> Result<Self, ApplyError> {
        let mut opened = Opened::default();
        match Self::with(app, draft, &mut opened).await {
            Ok(mut prepared) => {
                prepared.change.revisions = opened.revisions;
                Ok(Self { entered: opened.entered, ..prepared })
            }
            Err(error) => {
                opened.close(&app.bus, &draft.changing, &error.to_string()).await;
                Err(error)
            }
        }
    }

    async fn with(app: &App, draft: &mut Draft<'_>, opened: &mut Opened) -> Result<Self, ApplyError> {
        let (manifest, before) = (draft.manifest.clone(), draft.before.clone());
        let old = &*before.manifest;
        let present = draft.changing.members();
        let services: BTreeMap<String, Arc<Service>> = manifest
            .services
            .keys()
            .map(|name| {
                let service = present.get(name).map(|member| member.service.clone());
                (name.clone(), service.unwrap_or_else(|| Service::new(name.as_str())))
            })
            .collect();
        let (external, changes) = outside(app, draft).await?;
        let mail = (old.mail != manifest.mail).then(|| assemble::way_of_mail(&manifest)).transpose()?;
        let edges = assemble::edges(&manifest, &services, &external, &app.grounds, &before.edges);
        let routes = assemble::routes(&manifest, draft.document.clone(), &edges, &app.rollout.marked())?;

        let had = |name: &str, has: fn(&manifest::Service) -> bool| old.services.get(name).is_some_and(has);
        opened.databases = databases(&manifest, &app.grounds, |name| !had(name, |it| it.database.is_some())).await?;
        opened.buckets = buckets(&manifest, &app.grounds, |name| !had(name, |it| !it.buckets.is_empty())).await?;
        let all_databases = kept(&manifest, &before.databases, |it| it.database.is_some(), &opened.databases);
        app.bus.declare(&assemble::publishes(&manifest)).await.map_err(StartError::from)?;
        let opening = outboxes(&manifest, &all_databases, &app.bus, |name| !had(name, has_outbox)).await;
        opened.outboxes = opening?;

        let mut all_buckets = kept(&manifest, &before.buckets, |it| !it.buckets.is_empty(), &opened.buckets);
        for (name, buckets) in &mut all_buckets {
            if !opened.buckets.contains_key(name) {
                let names = manifest.services[name].buckets.iter().map(|bucket| bucket.value.clone());
                *buckets = buckets.renamed(names);
            }
        }
        // One whose database is another starts with none.
        let stays = |name: &String| !opened.databases.contains_key(name);
        let before_sagas: Sagas =
            before.sagas.iter().filter(|(name, _)| stays(name)).map(|(name, it)| (name.clone(), it.clone())).collect();
        let sagas = assemble::sagas(&manifest, &all_databases, &edges, &before_sagas).map_err(StartError::from)?;
        let mut saga_settings = Vec::new();
        for (name, register) in &before_sagas {
            let (Some(was), Some(service)) = (old.services.get(name), manifest.services.get(name)) else { continue };
            if was.sagas != service.sagas {
                let settings = assemble::saga_settings(&manifest, service).map_err(StartError::from)?;
                saga_settings.push((register.clone(), settings));
            }
        }
        let parts = Parts {
            sagas,
            components: draft.components.clone(),
            document: draft.document.clone(),
            external,
            outboxes: kept(&manifest, &before.outboxes, has_outbox, &opened.outboxes),
            databases: all_databases,
            buckets: all_buckets,
            edges,
            manifest: manifest.clone(),
        };
        let members = members(app, draft, &parts, &services);
        let loaded = std::mem::take(&mut draft.loaded);
        let revisions = draft.changing.prepare(&members, loaded, &draft.shapes, draft.past).await;
        opened.revisions = revisions.map_err(|error| deploy_error_at(&manifest, error))?;

        let is_other = |name: &str, it: &manifest::Subscription| {
            let was = old.services.get(name).and_then(|was| was.subscribes.iter().find(|was| was.topic == it.topic));
            // Marks are kept by the time for which the log is.
            let other_marks = it.policy.deduplicate && old.retention.age != manifest.retention.age;
            other_marks || was.is_none_or(|was| was.policy != it.policy)
        };
        // The services run when deliveries begin.
        let running = watch::Sender::new(true).subscribe();
        for subscription in subscriptions(&manifest, &parts.edges, &parts.databases, &running, is_other).await? {
            opened.entered.push(app.bus.enter(subscription).await.map_err(StartError::from)?);
        }
        let awaited = |name: &str, topic: &str| {
            let was = before.sagas.get(name).zip(parts.sagas.get(name));
            let stays = was.is_some_and(|(was, is)| Arc::ptr_eq(was, is));
            !stays || !old.services.get(name).is_some_and(|was| was.awaits.iter().any(|it| it.value == topic))
        };
        for subscription in awaiting(&manifest, &parts.sagas, &running, awaited) {
            opened.entered.push(app.bus.enter(subscription).await.map_err(StartError::from)?);
        }
        let recorded = draft.changing.record(&mut opened.revisions).await;
        recorded.map_err(|error| deploy_error_at(&manifest, error))?;
        let mut results = std::mem::take(&mut draft.results);
        let edges = parts.edges.iter().map(|(ends, edge)| {
            let policy = manifest.edge_policy(&ends.caller, &ends.callee).clone();
            (edge.clone(), policy, results.remove(ends).unwrap_or_default())
        });
        let change = Change {
            edges: edges.collect(),
            members,
            revisions: Vec::new(),
            shapes: std::mem::take(&mut draft.shapes),
        };
        let ended = ended(old, &manifest);
        let entered = Vec::new();
        Ok(Self { parts, change, routes, external: changes, mail, saga_settings, entered, ended })
    }
}

/// What stays of those that there were, and what was opened besides.
fn kept<T: Clone>(
    manifest: &Manifest,
    before: &BTreeMap<String, T>,
    has: fn(&manifest::Service) -> bool,
    opened: &BTreeMap<String, T>,
) -> BTreeMap<String, T> {
    let stays = before.iter().filter(|(name, _)| manifest.services.get(*name).is_some_and(has));
    stays.chain(opened).map(|(name, it)| (name.clone(), it.clone())).collect()
}

type Outside = (BTreeMap<String, Arc<External>>, Vec<(Arc<External>, ExternalChange)>);

/// The services outside, and what is new for those that there were already.
async fn outside(app: &App, draft: &Draft<'_>) -> Result<Outside, ApplyError> {
    let (manifest, before) = (&draft.manifest, &draft.before);
    let (mut all, mut changes) = (BTreeMap::new(), Vec::new());
    for (name, settings) in &draft.external {
        let service = &manifest.external[name];
        let wrong = |problem: String| match service.addresses.place() {
            Some(place) => manifest.error_at(place, problem),
            None => manifest.error_at(&service.name, problem),
        };
        let external = match before.external.get(name) {
            Some(present) => {
                let change = present.prepare(settings.clone()).await.map_err(wrong)?;
                changes.extend(change.map(|change| (present.clone(), change)));
                present.clone()
            }
            None => {
                let new = External::start(settings.clone(), app.grounds.client.clone()).await;
                // At a start it would be tried again later; here somebody waits who can mend it.
                if let Some(problem) = new.snapshot().problem {
                    return Err(wrong(problem).into());
                }
                new
            }
        };
        all.insert(name.clone(), external);
    }
    Ok((all, changes))
}

fn members(app: &App, draft: &Draft<'_>, parts: &Parts, services: &BTreeMap<String, Arc<Service>>) -> Members {
    let present = draft.changing.members();
    let member = |(name, service): (&String, &manifest::Service)| {
        let grants = draft.grants.get(name).cloned().unwrap_or_default();
        let of = &services[name];
        let scope = || {
            let config = draft.config.get(name).cloned().unwrap_or_default();
            Arc::new(scope(parts, of, service, config, &app.bus))
        };
        let member = match present.get(name) {
            Some(present) => {
                let scope = if draft.same.contains(name) { present.terms.scope.clone() } else { scope() };
                present.changed(terms(service, scope, grants, parts.sagas.get(name)))
            }
            None => Member::new(of.clone(), terms(service, scope(), grants, parts.sagas.get(name))),
        };
        (name.clone(), member)
    };
    draft.manifest.services.iter().map(member).collect()
}

/// The subscriptions that are no more, by topic and service.
fn ended(old: &Manifest, new: &Manifest) -> Vec<(String, String)> {
    let mut ended = Vec::new();
    for (name, was) in &old.services {
        let stays = |topic: &manifest::Placed<String>| {
            new.services.get(name).is_some_and(|service| service.subscribes.iter().any(|it| it.topic == *topic))
        };
        let gone = was.subscribes.iter().filter(|it| !stays(&it.topic));
        ended.extend(gone.map(|it| (it.topic.value.clone(), name.clone())));
        let awaits = |topic: &manifest::Placed<String>| {
            new.services.get(name).is_some_and(|service| service.awaits.contains(topic))
        };
        let gone = was.awaits.iter().filter(|topic| !awaits(topic));
        ended.extend(gone.map(|topic| (topic.value.clone(), subscriber(name))));
    }
    ended
}
