//! Several services at once, and which services there are.
//!
//! Everything that can fail comes first, for all of them, and then all is put in place under one lock: new services before
//! those that may call them, so that no call finds nothing.

use super::{DeployError, Loaded, Member, Members, Rollout, Shapes, fixed_results, in_time, not_migrated, wrong};
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
    pub revisions: Vec<(Arc<Member>, Revision)>,
    /// All edges with their policies, and the fixed results that these have.
    pub edges: Vec<(Arc<Edge>, Policy, FixedResults)>,
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

    /// Whether components of these shapes fit each other and what is granted.
    ///
    /// # Errors
    ///
    /// Everything that does not fit.
    pub fn check(&self, shapes: &Shapes, grants: &BTreeMap<String, Grants>) -> Result<(), Vec<Misfit>> {
        let found = misfits(shapes, grants);
        if found.is_empty() { Ok(()) } else { Err(found) }
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
    ) -> Result<Vec<(Arc<Member>, Revision)>, DeployError> {
        let mut linked = Vec::new();
        for (name, loaded) in loaded {
            let Some(member) = members.get(&name) else { continue };
            let hash = loaded.hash.clone();
            let revision = self.rollout.link(member, loaded, shapes)?;
            let migrations = match &member.scope.database {
                Some(_) => in_time(revision.migrations()).await.map_err(|source| wrong(member, source))?,
                None => Vec::new(),
            };
            linked.push((member.clone(), revision, migrations, hash));
        }
        let warm = async |member: &Member, revision: &Revision| {
            in_time(revision.warm()).await.map_err(|source| wrong(member, source))
        };
        for (member, revision, ..) in linked.iter().filter(|(.., migrations, _)| migrations.is_empty()) {
            warm(member, revision).await?;
        }
        for (member, revision, migrations, hash) in linked.iter().filter(|(.., migrations, _)| !migrations.is_empty()) {
            if let Some(database) = &member.scope.database {
                let migrated = database.migrate(migrations).await.map_err(|source| not_migrated(member, source));
                migrated.map_err(|error| self.rollout.explained(error, hash))?;
            }
            warm(member, revision).await?;
        }
        Ok(linked.into_iter().map(|(member, revision, ..)| (member, revision)).collect())
    }

    /// Puts all of it in place. Services that are no more still run, for whoever is on the way to them.
    pub fn put_in_place(&self, change: Change) {
        let Change { members, shapes, revisions, edges } = change;
        let mut running = self.rollout.running();
        for (edge, policy, results) in edges {
            if edge.policy() != policy {
                edge.set_policy(policy);
            }
            edge.set_fixed_results(results);
        }
        let (new, other): (Vec<_>, Vec<_>) =
            revisions.into_iter().partition(|(member, _)| member.service.revision().is_none());
        for (member, revision) in new.into_iter().chain(other) {
            member.service.swap(Some(Arc::new(revision)));
        }
        self.rollout.members.store(Arc::new(members));
        *running.0 = shapes;
    }
}
