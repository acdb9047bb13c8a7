//! The end of what the manifest has no longer.
//!
//! Whoever was on the way to it when it went gets there: a service runs on until nobody has an edge to it any more (a
//! request that was routed before, a neighbour's call under way), and its database is open until its last instance is
//! gone. So services that go together end one after the other, callers first. Those that call each other in a circle hold
//! each other: they end once nobody else can call them and none of them has anything to do. All of it has a limit. What
//! they stored stays on the disk.

use super::super::Parts;
use crate::{
    keyvalue::Buckets,
    outbox::Outbox,
    rollout::Changing,
    saga::Register,
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
    services: Vec<Leaving>,
    /// What the instances of these have, and of services that lose something.
    scopes: Vec<Weak<Scope>>,
    sagas: Vec<Arc<Register>>,
    outboxes: Vec<Outbox>,
    buckets: Vec<Buckets>,
    databases: Vec<Database>,
}

/// A service that is about to end.
struct Leaving {
    service: Arc<Service>,
    /// The ways to it, by who has them.
    ways: Vec<(String, Weak<Edge>)>,
}

// === impl Leaving ===

impl Leaving {
    /// Who may still call it.
    fn callers(&self) -> impl Iterator<Item = &str> {
        self.ways.iter().filter(|(_, edge)| edge.strong_count() > 0).map(|(caller, _)| caller.as_str())
    }

    fn is_idle(&self) -> bool {
        self.service.revision().is_none_or(|revision| {
            let instances = revision.instances();
            instances.under_way == 0 && instances.queued == 0
        })
    }
}

// === impl Retiring ===

impl Retiring {
    /// What of `before` is not in `after`.
    pub fn of(before: &Parts, after: &Parts, changing: &Changing<'_>) -> Self {
        let members = changing.members();
        let gone = |name: &String| !after.manifest.services.contains_key(name);
        let leaving = |name: &String, service: &Arc<Service>| {
            let ways = before.edges.iter().filter(|(ends, _)| ends.callee == *name);
            let ways = ways.map(|(ends, edge)| (ends.caller.clone(), Arc::downgrade(edge)));
            Leaving { service: service.clone(), ways: ways.collect() }
        };
        let services = members.iter().filter(|(name, _)| gone(name));
        let scopes = members.iter().filter(|(name, _)| gone(name) || loses_state(before, after, name));
        Self {
            services: services.map(|(name, member)| leaving(name, &member.service)).collect(),
            scopes: scopes.map(|(_, member)| Arc::downgrade(&member.terms.scope)).collect(),
            sagas: missing(&before.sagas, &after.sagas),
            outboxes: missing(&before.outboxes, &after.outboxes),
            buckets: missing(&before.buckets, &after.buckets),
            databases: missing(&before.databases, &after.databases),
        }
    }

    /// Waits until nobody needs it any more, at most until the deadline, and ends it.
    pub async fn retire(self, deadline: Instant) {
        let Self { services, scopes, sagas, outboxes, buckets, databases } = self;
        // They are callers too.
        for sagas in sagas {
            sagas.close(deadline).await;
        }
        let mut late = leave(services, deadline).await;
        while scopes.iter().any(|scope| scope.strong_count() > 0) {
            if Instant::now() >= deadline {
                late.push("an instance that is still at work".to_owned());
                break;
            }
            sleep(PAUSE).await;
        }
        if !late.is_empty() {
            tracing::warn!(?late, "what is no longer in the manifest was still in use at the end of the grace period");
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

/// Ends services, each when nobody is on the way to it any more. Returns those that somebody still was at the deadline.
async fn leave(mut services: Vec<Leaving>, deadline: Instant) -> Vec<String> {
    let mut late = Vec::new();
    while !services.is_empty() {
        let names: Vec<_> = services.iter().map(|it| it.service.name().clone()).collect();
        let over = Instant::now() >= deadline;
        let circle = services
            .iter()
            .all(|it| it.is_idle() && it.callers().all(|caller| names.iter().any(|name| **name == *caller)));
        services.retain(|it| {
            let called = it.callers().next().is_some();
            let ends = !called || circle || over;
            if ends {
                it.service.swap(None);
            }
            if called && over && !circle {
                late.push(it.service.name().to_string());
            }
            !ends
        });
        if !services.is_empty() {
            sleep(PAUSE).await;
        }
    }
    late
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
