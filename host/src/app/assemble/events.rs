//! What carries events, and who gets them.

use super::{super::Edges, StartError, host_id};
use crate::{
    events::{BusConfig, BusKind, EmbeddedConfig, Event, RedisConfig, Retention, Subscriber, Subscription, Verdict},
    inbox::Inbox,
    manifest::{self, EVENTS, Manifest},
    policy::{Deadline, Fault, FaultKind},
    service::{CallContext, Edge},
    store::{Database, Unit},
    telemetry::TraceContext,
};
use futures::future::BoxFuture;
use std::{collections::BTreeMap, sync::Arc};
use tokio::{sync::watch, time::Instant};

pub(super) fn bus_config(manifest: &Manifest) -> Result<BusConfig, StartError> {
    let redis = |url: &manifest::Placed<manifest::ServerUrl>| {
        let secret = url.resolve().map_err(|error| manifest.error_at(url, error))?;
        Ok::<_, StartError>(RedisConfig { consumer: host_id(manifest)?, ..RedisConfig::new(secret.expose()) })
    };
    let kind = match &manifest.bus {
        manifest::Bus::Embedded(durability) => BusKind::Embedded(EmbeddedConfig {
            file: manifest.app.data.value.join("events.sqlite"),
            durability: *durability,
        }),
        manifest::Bus::RedisStreams(url, sharing) => {
            let manifest::Sharing { partitions, lease, trim } = *sharing;
            BusKind::RedisStreams(RedisConfig { partitions, lease, trim, ..redis(url)? })
        }
        manifest::Bus::RedisPubsub(url) => BusKind::RedisPubSub(redis(url)?),
    };
    let publishes = manifest
        .services
        .iter()
        .map(|(name, service)| (name.clone(), service.publishes.iter().map(|topic| topic.value.clone()).collect()));
    Ok(BusConfig {
        app: manifest.app.name.clone(),
        kind,
        publishes: publishes.collect(),
        retention: manifest.retention.clone(),
    })
}

pub(super) async fn subscriptions(
    manifest: &Manifest,
    edges: &Edges,
    databases: &BTreeMap<String, Database>,
    retention: &Retention,
    running: &watch::Sender<bool>,
) -> Result<Vec<Subscription>, StartError> {
    let mut all = Vec::new();
    for (name, service) in &manifest.services {
        let Some(edge) = edges.get(&manifest::Edge::new(EVENTS, name)) else { continue };
        let mut inbox = None;
        for manifest::Subscription { topic, policy } in &service.subscribes {
            if policy.deduplicate && inbox.is_none() {
                let Some(database) = databases.get(name) else {
                    let wrong = "`deduplicate` keeps its marks in the service's own database: set `database = true`";
                    return Err(manifest.error_at(topic, wrong).into());
                };
                // Twice the time for which the log knows an event.
                inbox = Some(Inbox::open(name.as_str(), database.clone(), retention.age * 2).await?);
            }
            let inbox = inbox.clone().filter(|_| policy.deduplicate);
            let subscriber = Arc::new(Handler { edge: edge.clone(), inbox, running: running.subscribe() });
            let subscription = Subscription::new(topic.value.as_str(), name.as_str(), subscriber);
            all.push(subscription.with_policy(policy.clone()));
        }
    }
    Ok(all)
}

/// What the bus delivers by: an edge, and the inbox of a subscription that recognises what it had before.
struct Handler {
    edge: Arc<Edge>,
    inbox: Option<Inbox>,
    /// Whether the services run. A bus has events of the past at once, and those must not use up their tries, nor open the
    /// edge's circuit breaker, on services that are about to come up.
    running: watch::Receiver<bool>,
}

impl Subscriber for Handler {
    fn deliver(&self, event: Arc<Event>, attempt: u32) -> BoxFuture<'_, Result<Verdict, Fault>> {
        let handle = move |event: Arc<Event>, unit: Option<Unit>| async move {
            let trace = event.traceparent.map_or_else(TraceContext::root, |trace| trace.child());
            let deadline = Deadline { at: Instant::now() + self.edge.deadline(), of: self.edge.name().clone() };
            let context = CallContext { caller: EVENTS.into(), deadline, trace, unit };
            self.edge.event(&context, &event, attempt).await
        };
        Box::pin(async move {
            if self.running.clone().wait_for(|running| *running).await.is_err() {
                return Err(Fault::new(FaultKind::Unreachable, "the services did not come up"));
            }
            match &self.inbox {
                None => handle(event, None).await,
                Some(inbox) => inbox.once(&event, |unit| handle(event.clone(), Some(unit))).await,
            }
        })
    }
}
