//! The end of what the manifest has no longer.
//!
//! Whoever was on the way to it when it went gets there: a service runs on until nobody has an edge to it any more (a
//! request that was routed before, a neighbour's call under way), and its database is open until its last instance is
//! gone. Both have a limit. What it stored stays on the disk.

use super::super::Parts;
use crate::{
    keyvalue::Buckets,
    outbox::Outbox,
    rollout::Changing,
    service::{Edge, Scope, Service},
    store::Database,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};
use tokio::time::{Duration, Instant, sleep};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// What is about to end. Holds nothing that it waits for.
pub(super) struct Retiring {
    services: Vec<Arc<Service>>,
    /// The ways to them.
    edges: Vec<Weak<Edge>>,
    /// What their instances have, and those of services that lose something.
    scopes: Vec<Weak<Scope>>,
    outboxes: Vec<Outbox>,
    buckets: Vec<Buckets>,
    databases: Vec<Database>,
}

// === impl Retiring ===

impl Retiring {
    /// What of `before` is not in `after`.
    pub fn of(before: &Parts, after: &Parts, changing: &Changing<'_>) -> Self {
        let (old, new) = (&before.manifest, &after.manifest);
        let members = changing.members();
        let gone = |name: &String| !new.services.contains_key(name);
        let services = members.iter().filter(|(name, _)| gone(name)).map(|(_, member)| member.service.clone());
        let edges =
            before.edges.iter().filter(|(ends, _)| gone(&ends.callee) && old.services.contains_key(&ends.callee));
        let scopes = members.iter().filter(|(name, _)| gone(name) || loses_state(before, after, name));
        Self {
            services: services.collect(),
            edges: edges.map(|(_, edge)| Arc::downgrade(edge)).collect(),
            scopes: scopes.map(|(_, member)| Arc::downgrade(&member.scope)).collect(),
            outboxes: missing(&before.outboxes, &after.outboxes),
            buckets: missing(&before.buckets, &after.buckets),
            databases: missing(&before.databases, &after.databases),
        }
    }

    /// Waits until nobody needs it any more, at most until the deadline, and ends it.
    pub async fn retire(self, deadline: Instant) {
        let Self { services, edges, scopes, outboxes, buckets, databases } = self;
        let mut late = !gone(&edges, deadline).await;
        for service in &services {
            service.swap(None);
        }
        late |= !gone(&scopes, deadline).await;
        if late {
            let services: Vec<_> = services.iter().map(|service| service.name()).collect();
            tracing::warn!(
                ?services,
                "what is no longer in the manifest was still in use at the end of the grace period"
            );
        }
        for outbox in outboxes {
            outbox.drain(deadline).await;
            outbox.close().await;
        }
        for buckets in buckets {
            buckets.close().await;
        }
        for database in databases {
            database.close().await;
        }
    }
}

/// Whether a service has state no longer that it had.
fn loses_state(before: &Parts, after: &Parts, name: &str) -> bool {
    (before.databases.contains_key(name) && !after.databases.contains_key(name))
        || (before.buckets.contains_key(name) && !after.buckets.contains_key(name))
        || (before.outboxes.contains_key(name) && !after.outboxes.contains_key(name))
}

fn missing<T: Clone>(before: &BTreeMap<String, T>, after: &BTreeMap<String, T>) -> Vec<T> {
    before.iter().filter(|(name, _)| !after.contains_key(*name)).map(|(_, it)| it.clone()).collect()
}

/// Waits until all of them are gone; whether they are by the deadline.
async fn gone<T>(all: &[Weak<T>], deadline: Instant) -> bool {
    while all.iter().any(|it| it.strong_count() > 0) {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(PAUSE).await;
    }
    true
}
