//! A service, as a rollout knows it.

use super::{RolloutSnapshot, lock, staged::Staged};
use crate::{
    policy::RolloutPolicy,
    saga::Register,
    service::{Grants, InstanceSettings, Revision, Scope, Service},
    store::MigrateError,
    trust::Trust,
};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

/// What a rollout has to know of one service.
pub struct Member {
    /// Where calls come in.
    pub service: Arc<Service>,
    /// What it is and may do, and what a component must do to be its.
    pub terms: Terms,
    /// The staged rollout that is under way, or was the last.
    pub(super) staged: Arc<Mutex<Option<Arc<Staged>>>>,
    /// Revisions that get no more calls, and have some under way.
    draining: Arc<Mutex<Vec<Arc<Revision>>>>,
}

/// What the manifest says of a service, as far as its revisions go by it.
pub struct Terms {
    /// What it may do.
    pub scope: Arc<Scope>,
    /// What components must agree with of that.
    pub grants: Grants,
    /// How its instances are used.
    pub settings: InstanceSettings,
    /// How a new revision comes to get its calls, unless a deploy says otherwise.
    pub policy: RolloutPolicy,
    /// Whose signature its component must carry.
    pub trust: Trust,
    /// Its sagas, where it has a database to keep them in.
    pub sagas: Option<Arc<Register>>,
}

// === impl Member ===

impl Member {
    /// A service that has no revision yet.
    pub fn new(service: Arc<Service>, terms: Terms) -> Arc<Self> {
        Arc::new(Self { service, terms, staged: Arc::default(), draining: Arc::default() })
    }

    /// The same service on other terms.
    ///
    /// NB: while nobody deploys, see [`Rollout::changing`](super::Rollout::changing).
    #[must_use]
    pub fn changed(&self, terms: Terms) -> Arc<Self> {
        let (service, staged, draining) = (self.service.clone(), self.staged.clone(), self.draining.clone());
        Arc::new(Self { service, terms, staged, draining })
    }

    /// The staged rollout that is under way, or was the last.
    pub fn rollout(&self) -> Option<RolloutSnapshot> {
        Some(lock(&self.staged).as_ref()?.snapshot(self.service.name()))
    }

    /// Revisions that get no more calls, and have some under way.
    pub fn draining(&self) -> Vec<Arc<Revision>> {
        lock(&self.draining).clone()
    }

    pub(super) fn under_way(&self) -> Option<Arc<Staged>> {
        lock(&self.staged).clone().filter(|staged| staged.is_under_way())
    }

    /// Lets a revision that gets no more calls end those that it has, in the background.
    pub(super) fn retire(self: &Arc<Self>, revision: Arc<Revision>, limit: Duration) {
        let member = self.clone();
        lock(&member.draining).push(revision.clone());
        tokio::spawn(async move {
            let ended = revision.drain(limit).await;
            let (service, number) = (member.service.name(), revision.info().number);
            if ended > 0 {
                tracing::warn!(%service, revision = number, calls = ended, ?limit, "calls ended with the drain of a revision");
            }
            lock(&member.draining).retain(|it| !Arc::ptr_eq(it, &revision));
        });
    }

    /// The names of the migrations that its database has; none where there is no database.
    pub(super) async fn applied(&self) -> Result<Vec<String>, MigrateError> {
        match &self.terms.scope.database {
            Some(database) => database.applied_migrations().await,
            None => Ok(Vec::new()),
        }
    }
}
