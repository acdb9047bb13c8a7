//! Several services at once, and which services there are.
//!
//! Everything that can fail comes first, for all of them, and then all is put in place under one lock: new services before
//! those that may call them, so that no call finds nothing.

use super::{
    DeployError, Loaded, Member, Members, Newer, Past, Reversal, Rollout, Serving, Shapes, Standing,
    fit::fixed_results,
    kept_in_mind,
    steps::{migrate, migrations_of, read_sagas, sagas_go_on, serve_sagas, unrecorded, warm},
};
use crate::{
    policy::{FallbackPolicy, Policy},
    service::{Edge, FixedResults, Grants, Misfit, Revision, RevisionInfo, misfits},
};
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::MutexGuard;

/// No revision and no service comes or goes by anybody else as long as this is there.
pub struct Changing<'a> {
    rollout: &'a Rollout,
    _alone: MutexGuard<'a, ()>,
}

/// What is to be put in place. Nothing of it can fail any more.
pub struct Change {
    /// All services that there are to be.
    pub members: Members,
    /// What their components need and offer.
    pub shapes: Shapes,
    /// The new revisions.
    pub revisions: Vec<Entering>,
    /// All edges with their policies, and the fixed results that these have.
    pub edges: Vec<(Arc<Edge>, Policy, FixedResults)>,
}

/// A revision that is about to serve.
pub struct Entering {
    member: Arc<Member>,
    revision: Arc<Revision>,
    /// What is to be recorded; `None` where the revision is the one that serves already, linked otherwise.
    serving: Option<Serving>,
    /// How the record was before, once it says that this one serves.
    reversal: Option<Reversal>,
    /// Which migrations its database had before.
    before: Option<Vec<String>>,
}

/// What was begun for a service.
struct Begun {
    member: Arc<Member>,
    /// The number of its new revision; `None` where it is the one that serves, linked otherwise.
    number: Option<u64>,
    /// Which migrations its database had before, once it may have more.
    before: Option<Vec<String>>,
}

// === impl Rollout ===

impl Rollout {
    /// Waits until nobody deploys, and keeps it so.
    pub async fn changing(&self) -> Changing<'_> {
        Changing { rollout: self, _alone: self.deploying.lock().await }
    }
}

// === impl Changing ===

impl Changing<'_> {
    /// The services as they are.
    pub fn members(&self) -> Arc<Members> {
        self.rollout.members()
    }

    /// What is known of the revision that runs.
    pub fn info(&self, service: &str) -> Option<RevisionInfo> {
        Some(self.revision(service)?.info().clone())
    }

    /// The revision that runs.
    pub fn revision(&self, service: &str) -> Option<Arc<Revision>> {
        self.members().get(service)?.service.revision()
    }

    /// What components need and offer, once these services run: each what was loaded, or what it runs.
    pub fn shapes<'n>(&self, services: impl Iterator<Item = &'n String>, loaded: &BTreeMap<String, Loaded>) -> Shapes {
        let running = self.rollout.running();
        let shape = |name: &String| match loaded.get(name) {
            Some(loaded) => Some(Arc::new(loaded.shape())),
            None => running.0.get(name).cloned(),
        };
        services.filter_map(|name| Some((name.clone(), shape(name)?))).collect()
    }

    /// Where components of these shapes do not fit each other, those that are on trial, and what is granted.
    pub fn misfits(&self, shapes: &Shapes, grants: &BTreeMap<String, Grants>) -> Vec<Misfit> {
        self.rollout.beside_trials(shapes, |shapes| misfits(shapes, grants))
    }

    /// The fixed results that the edge between these two has by this policy.
    ///
    /// # Errors
    ///
    /// Each that does not fit the component.
    pub fn fixed_results(
        &self,
        shapes: &Shapes,
        ends: (&str, &str),
        policy: &FallbackPolicy,
    ) -> Result<FixedResults, Vec<Misfit>> {
        fixed_results(shapes, ends, policy)
    }

    /// The revision that runs, to be linked otherwise. It stays the revision that it is.
    pub async fn again(&self, service: &str) -> Option<Loaded> {
        let (revision, kept) = (self.revision(service)?, self.rollout.history.current(service).await?);
        Some(Loaded::again(&revision, kept))
    }

    /// Whether nobody has to be waited for: no rollout by stages is under way.
    ///
    /// # Errors
    ///
    /// When one is.
    pub fn is_settled(&self, service: &str) -> Result<(), DeployError> {
        match self.members().get(service).and_then(|member| member.under_way()) {
            Some(staged) => {
                Err(DeployError::UnderWay { service: service.to_owned(), revision: staged.revision.number })
            }
            None => Ok(()),
        }
    }

    /// Everything that comes before the swap, for all that was loaded. What can fail without a trace comes first; schemas
    /// are brought up to date when all components were linked and said what theirs are.
    ///
    /// # Errors
    ///
    /// The first thing that keeps one from running. Migrations that were run by then stay.
    pub async fn prepare(
        &self,
        members: &Members,
        loaded: BTreeMap<String, Loaded>,
        shapes: &Shapes,
        past: Past,
    ) -> Result<Vec<Entering>, DeployError> {
        let (mut begun, mut at) = (BTreeMap::new(), String::new());
        let prepared = self.prepare_all(members, loaded, shapes, past.into(), (&mut begun, &mut at)).await;
        if let Err(error) = &prepared {
            let why = error.to_string();
            for (name, Begun { member, number, before }) in begun {
                self.rollout.note_migrations(&member, before, &why).await;
                match number {
                    Some(number) if name == at => self.failed(&member, number, &why).await,
                    // It was none of its doing.
                    Some(number) => self.forget(&member, number).await,
                    None => {}
                }
            }
        }
        prepared
    }

    async fn prepare_all(
        &self,
        members: &Members,
        loaded: BTreeMap<String, Loaded>,
        shapes: &Shapes,
        of_new: Newer,
        (begun, at): (&mut BTreeMap<String, Begun>, &mut String),
    ) -> Result<Vec<Entering>, DeployError> {
        let mut linked = Vec::new();
        for (name, mut loaded) in loaded {
            let Some(member) = members.get(&name).cloned() else { continue };
            at.clone_from(&name);
            let info = self.rollout.begin(&member, &mut loaded).await?;
            let number = loaded.is_new().then_some(info.number);
            begun.insert(name, Begun { member: member.clone(), number, before: None });
            let revision = self.rollout.link(&member, &loaded, info, &member.terms.scope, shapes)?;
            read_sagas(&member, &revision).await?;
            if loaded.is_new() {
                sagas_go_on(&member, &revision).await?;
            }
            let migrations = migrations_of(&member, &revision).await?;
            linked.push((member, revision, migrations, loaded));
        }
        for (member, revision, ..) in linked.iter().filter(|(.., migrations, _)| migrations.is_empty()) {
            *at = member.service.name().to_string();
            warm(member, revision).await?;
        }
        let mut entering = Vec::new();
        for (member, revision, migrations, loaded) in linked {
            // What serves does so on the schema that there is.
            let newer = if loaded.is_new() { of_new } else { Newer::Allowed };
            *at = member.service.name().to_string();
            let before = member.applied().await.ok();
            if let Some(begun) = begun.get_mut(at) {
                begun.before.clone_from(&before);
            }
            let migrated = async {
                let serving = migrate(&member, &loaded, &revision, &migrations, newer).await?;
                if !migrations.is_empty() {
                    warm(&member, &revision).await?;
                }
                Ok(serving)
            };
            match migrated.await {
                Ok(serving) => {
                    let serving = loaded.is_new().then_some(serving);
                    let revision = Arc::new(revision);
                    entering.push(Entering { member, revision, serving, reversal: None, before });
                }
                Err(error) => return Err(self.rollout.explained(error, &loaded.hash)),
            }
        }
        Ok(entering)
    }

    async fn failed(&self, member: &Member, number: u64, why: &str) {
        let name = member.service.name();
        kept_in_mind(self.rollout.history.end(name, number, Standing::Failed, why.to_owned()).await);
    }

    async fn forget(&self, member: &Member, number: u64) {
        kept_in_mind(self.rollout.history.forget(member.service.name(), number).await);
    }

    /// The record says that all of them serve, just before they do.
    ///
    /// # Errors
    ///
    /// When it can't be written. What was written by then is to be taken back by [`abandon`](Self::abandon).
    pub async fn record(&self, entering: &mut [Entering]) -> Result<(), DeployError> {
        for it in entering {
            let Some(serving) = it.serving.clone() else { continue };
            let (name, number) = (it.member.service.name(), it.revision.info().number);
            let recorded = self.rollout.history.serve(name, number, serving).await;
            it.reversal = Some(recorded.map_err(|source| unrecorded(&it.member, source))?);
        }
        Ok(())
    }

    /// They will not serve after all, for this reason, which is none of theirs.
    pub async fn abandon(&self, entering: Vec<Entering>, why: &str) {
        for Entering { member, revision, serving, reversal, before } in entering {
            if let Some(reversal) = reversal {
                let name = member.service.name();
                kept_in_mind(self.rollout.history.put_back(name, reversal, why.to_owned()).await);
            }
            if serving.is_some() {
                self.forget(&member, revision.info().number).await;
            }
            self.rollout.note_migrations(&member, before, why).await;
        }
    }

    /// Puts all of it in place. Services that are no more still run, for whoever is on the way to them.
    pub async fn put_in_place(&self, change: Change) {
        let Change { members, shapes, revisions, edges } = change;
        let serving: Vec<_> = revisions.iter().map(|it| (it.member.clone(), it.revision.clone())).collect();
        {
            let mut running = self.rollout.running();
            for (edge, policy, results) in edges {
                if edge.policy() != policy {
                    edge.set_policy(policy);
                }
                edge.set_fixed_results(results);
            }
            let (new, other): (Vec<_>, Vec<_>) =
                revisions.into_iter().partition(|it| it.member.service.revision().is_none());
            for Entering { member, revision, .. } in new.into_iter().chain(other) {
                if let Some(before) = member.service.swap(Some(revision)) {
                    member.retire(before, member.terms.policy.params().drain);
                }
            }
            self.rollout.members.store(Arc::new(members));
            *running.0 = shapes;
        }
        for (member, revision) in serving {
            serve_sagas(&member, &revision).await;
        }
        self.rollout.tidy().await;
    }
}
