//! What a manifest comes to for what runs now: read, loaded and checked, and nothing of it done.

use super::{
    super::{
        App, Parts,
        assemble::{self, Settings, configuration, external_settings, grants, has_outbox, misfits_at},
    },
    ApplyError, Request, StartError,
    plan::{self, Plan},
};
use crate::{
    engine::CodeCache,
    gateway::ApiDocument,
    manifest::{self, Manifest},
    outbound::ExternalSettings,
    rollout::{Changing, Loaded, Past, Shapes},
    service::{FixedResults, Grants},
};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering::Relaxed},
};

/// A manifest, about to be brought about.
pub(super) struct Draft<'a> {
    pub changing: Changing<'a>,
    pub before: Arc<Parts>,
    pub manifest: Arc<Manifest>,
    pub components: super::Components,
    /// What is to become a revision: other components, and those whose service is another now.
    pub loaded: BTreeMap<String, Loaded>,
    /// The services whose scope stays as it is.
    pub same: BTreeSet<String>,
    /// What each service reads by `wasi:config`.
    pub config: BTreeMap<String, Settings>,
    pub external: BTreeMap<String, ExternalSettings>,
    /// What the gateway shows of its API.
    pub document: Option<Arc<ApiDocument>>,
    pub grants: BTreeMap<String, Grants>,
    pub shapes: Shapes,
    pub results: BTreeMap<manifest::Edge, FixedResults>,
    pub plan: Plan,
    pub past: Past,
}

// === impl Draft ===

impl<'a> Draft<'a> {
    pub async fn new(app: &'a App, request: &Request) -> Result<Self, ApplyError> {
        if let Request::Apply { components, .. } = request {
            // So that whoever deploys meanwhile need not wait for the compiler: what it made is found again below.
            let manifest = Manifest::load(&app.manifest().path)?;
            other_components(app, &manifest, components).await?;
        }
        let changing = app.rollout.changing().await;
        let before = app.parts.load_full();
        let old = &*before.manifest;
        let new = match request {
            Request::Secrets(rotated) if *rotated.manifest == *old => old.clone(),
            Request::Secrets(_) => return Err(ApplyError::Stale),
            Request::Reload | Request::Apply { .. } => Manifest::load(&old.path)?,
        };
        let fixed = needing_restart(old, &new);
        if !fixed.is_empty() {
            return Err(ApplyError::NeedsRestart(fixed));
        }
        let components = match request {
            Request::Reload => {
                let asks = asking(old, &new);
                if !asks.is_empty() {
                    return Err(ApplyError::Asks(asks));
                }
                before.components.clone()
            }
            Request::Secrets(_) => before.components.clone(),
            Request::Apply { components, .. } => {
                let (named, given): (BTreeSet<_>, BTreeSet<_>) =
                    (new.services.keys().collect(), components.keys().collect());
                if let Some(name) = named.symmetric_difference(&given).next() {
                    return Err(ApplyError::Components((*name).clone()));
                }
                components.clone()
            }
        };
        let past = match request {
            Request::Reload | Request::Secrets(_) => Past::Refused,
            Request::Apply { past, .. } => *past,
        };
        let mut loaded = match request {
            Request::Reload | Request::Secrets(_) => BTreeMap::new(),
            Request::Apply { .. } => other_components(app, &new, &components).await?,
        };
        let hashes: BTreeMap<_, _> = loaded.iter().map(|(name, it)| (name.clone(), it.hash().to_owned())).collect();

        let members = changing.members();
        let mut config = BTreeMap::new();
        for (name, service) in &new.services {
            let present = || members.get(name).map(|member| member.terms.scope.config.clone());
            let settings = match request {
                Request::Secrets(rotated) if rotated.service == *name => rotated.settings.clone(),
                Request::Secrets(_) => present().unwrap_or_default(),
                Request::Reload | Request::Apply { .. } => configuration(&new, service)?,
            };
            config.insert(name.clone(), settings);
        }
        let mut same = BTreeSet::new();
        let mut secrets = BTreeSet::new();
        for (name, service) in &new.services {
            let (Some(was), Some(member)) = (old.services.get(name), members.get(name)) else { continue };
            let reads = member.terms.scope.config == config[name];
            if !reads && was.config == service.config && was.secrets == service.secrets {
                secrets.insert(name.clone());
            }
            if reads && is_same(old, was, &new, service) {
                same.insert(name.clone());
            } else if !loaded.contains_key(name)
                && let Some(again) = changing.again(name).await
            {
                loaded.insert(name.clone(), again);
            }
        }

        let gone = members.keys().filter(|name| !new.services.contains_key(*name));
        for name in loaded.keys().chain(gone) {
            changing.is_settled(name).map_err(StartError::from)?;
        }

        let mut external = BTreeMap::new();
        let mut certificates = BTreeSet::new();
        for (name, service) in &new.external {
            let settings = external_settings(&new, service)?;
            if old.external.get(name) == Some(service)
                && before.external.get(name).is_some_and(|present| !present.goes_by(&settings))
            {
                certificates.insert(name.clone());
            }
            external.insert(name.clone(), settings);
        }

        let document = match request {
            Request::Secrets(_) => before.document.clone(),
            Request::Reload | Request::Apply { .. } => assemble::checked_document(&new)?,
        };

        let grants = grants(&new);
        let shapes = changing.shapes(new.services.keys(), &loaded);
        let mut misfits = changing.misfits(&shapes, &grants);
        let mut results = BTreeMap::new();
        for ends in new.edges() {
            let policy = new.edge_policy(&ends.caller, &ends.callee);
            match changing.fixed_results(&shapes, (&ends.caller, &ends.callee), &policy.params().fallback) {
                Ok(of_edge) => _ = results.insert(ends, of_edge),
                Err(found) => misfits.extend(found),
            }
        }
        if !misfits.is_empty() {
            return Err(misfits_at(&new, &misfits).into());
        }

        let component = |name: &String| {
            let hash = hashes.get(name)?;
            Some((changing.info(name).map(|info| info.hash), hash.clone()))
        };
        let components_changed =
            new.services.keys().filter_map(|name| Some((name.clone(), component(name)?))).collect();
        let other_document = old.gateway.document == new.gateway.document && document != before.document;
        let sagas = shapes.iter().filter(|(_, shape)| shape.has_sagas()).map(|(name, _)| name.clone()).collect();
        let aside =
            plan::Aside { components: components_changed, secrets, sagas, certificates, document: other_document };
        let changes = plan::changes(old, &new, &aside);
        let mut digest = Sha256::new();
        digest.update(format!("{} {} ", app.identity, app.applied.load(Relaxed)));
        for name in members.keys() {
            digest.update(format!("{name} {:?} ", changing.info(name).map(|info| info.number)));
        }
        digest.update(format!("{new:?} {hashes:?} {document:?} {changes:?}"));
        for (name, settings) in &config {
            for (key, value) in settings {
                digest.update(format!("{name:?} {key:?} {} ", value.expose().len()));
                digest.update(value.expose());
            }
        }
        let id: String = format!("{:x}", digest.finalize()).chars().take(16).collect();
        let plan = Plan { id, changes };
        let manifest = Arc::new(new);
        Ok(Self {
            changing,
            before,
            manifest,
            components,
            loaded,
            same,
            config,
            external,
            document,
            grants,
            shapes,
            results,
            plan,
            past,
        })
    }
}

impl Draft<'_> {
    /// Whether all is as it is to be.
    pub fn changes_nothing(&self) -> bool {
        self.plan.changes.is_empty() && self.loaded.is_empty() && *self.before.manifest == *self.manifest
    }
}

/// The components that are not those that run, read and compiled.
async fn other_components(
    app: &App,
    manifest: &Manifest,
    components: &super::Components,
) -> Result<BTreeMap<String, Loaded>, ApplyError> {
    let members = app.rollout.members();
    let mut loaded = BTreeMap::new();
    for (name, path) in components {
        let wasm = assemble::read(manifest, name, path)?;
        let Some(service) = manifest.services.get(name) else { return Err(ApplyError::Components(name.clone())) };
        let (trust, origin) = (assemble::trust(service), assemble::origin(service, path));
        let running = members.get(name).and_then(|member| Some(member.service.revision()?.info().hash.clone()));
        let hashing = tokio::task::spawn_blocking(move || (CodeCache::content_hash(&wasm), wasm));
        let (hash, wasm) = hashing.await.map_err(|error| ApplyError::Failed(error.to_string()))?;
        if running.is_some_and(|running| running == hash) {
            // Who has to have signed it may be others now.
            trust.check(&wasm).map_err(|distrust| manifest.error_at(&service.component.place(), distrust))?;
            continue;
        }
        let component = Loaded::new(app.rollout.engine(), &trust, wasm, origin).await;
        let component = component.map_err(|error| manifest.error_at(&service.component.place(), error))?.of_manifest();
        loaded.insert(name.clone(), component);
    }
    Ok(loaded)
}

/// Whether what a service is and may do is what it was, so that the revision that runs can go on.
fn is_same(old: &Manifest, was: &manifest::Service, new: &Manifest, service: &manifest::Service) -> bool {
    // NB: all fields by name, so that whoever adds one decides what it means here. `config` and `secrets` are compared as
    // what they come to; the component, topics and subscriptions don't concern the scope.
    let manifest::Service {
        name: _,
        component: _,
        database,
        buckets,
        publishes: _,
        subscribes: _,
        // The component's definitions are held against them when it becomes a revision.
        awaits,
        // The sagas themselves are told.
        sagas: _,
        calls,
        outbound,
        mail,
        config: _,
        secrets: _,
        instances,
        limits,
        // How another revision comes, and whose it must be.
        rollout: _,
        signed_by: _,
    } = service;
    // Whom it calls may be in another place now: then an edge is another.
    let same_place = |callee: &manifest::Placed<String>| {
        old.services.contains_key(&callee.value) == new.services.contains_key(&callee.value)
    };
    was.calls == *calls
        && was.awaits == *awaits
        && calls.iter().all(same_place)
        && was.outbound == *outbound
        && was.mail == *mail
        && was.buckets == *buckets
        && was.database.is_some() == database.is_some()
        && has_outbox(was) == has_outbox(service)
        && was.instances == *instances
        && was.limits == *limits
}

/// What differs and is to be looked at before it is done.
fn asking(old: &Manifest, new: &Manifest) -> Vec<String> {
    let came = new.services.keys().filter(|name| !old.services.contains_key(*name));
    let went = old.services.keys().filter(|name| !new.services.contains_key(*name));
    let other = new
        .services
        .iter()
        .filter(|(name, service)| old.services.get(*name).is_some_and(|was| was.component != service.component));
    let signed = new
        .services
        .iter()
        .filter(|(name, service)| old.services.get(*name).is_some_and(|was| was.signed_by != service.signed_by));
    let signed = signed.map(|(name, _)| format!("services.{name} is to be signed by others"));
    let came = came.map(|name| format!("services.{name} is new"));
    let went = went.map(|name| format!("services.{name} is no more"));
    let other = other.map(|(name, _)| format!("services.{name} has another component"));
    came.chain(went).chain(other).chain(signed).collect()
}

/// What differs and only a start brings about.
fn needing_restart(old: &Manifest, new: &Manifest) -> Vec<String> {
    // NB: all fields by name, as above.
    let Manifest {
        path: _,
        // Each service has the keys, where it names none of its own.
        app: manifest::App { name, data, revisions, signed_by: _ },
        gateway,
        admin,
        services,
        external: _,
        topics: _,
        bus,
        retention: _,
        store,
        key_value,
        mail: _,
        policies: _,
    } = new;
    let manifest::Gateway {
        listen,
        max_header_bytes: _,
        max_body_bytes: _,
        header_timeout: _,
        body_timeout: _,
        idle_timeout: _,
        shutdown_grace: _,
        max_connections,
        routes: _,
        aggregates: _,
        document: _,
    } = gateway;
    let was = &old.gateway;
    let differ = [
        ("app.name", old.app.name != *name),
        ("app.data", old.app.data != *data),
        ("app.revisions", old.app.revisions != *revisions),
        ("gateway.listen", was.listen != *listen),
        ("gateway.max-connections", was.max_connections != *max_connections),
        ("admin", old.admin != *admin),
        ("store", old.store != *store),
        ("events.bus", old.bus != *bus),
        ("key-value", old.key_value != *key_value),
    ];
    let differ = differ.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key.to_owned());
    let databases = services.iter().filter(|(name, service)| {
        let was = old.services.get(*name).and_then(|was| was.database.as_ref());
        was.zip(service.database.as_ref()).is_some_and(|(was, is)| was != is)
    });
    let databases = databases.map(|(name, _)| format!("services.{name}.database"));
    differ.chain(databases).collect()
}
