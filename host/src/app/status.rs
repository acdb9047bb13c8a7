//! How a running application stands: what the admin API and `wharf status` show.

use super::App;
use crate::{
    events::BusSnapshot,
    gateway::RouteLimitSnapshot,
    manifest::{Edge, SAGAS},
    outbound::ExternalSnapshot,
    outbox::OutboxSnapshot,
    policy::GuardSnapshot,
    rollout::RolloutSnapshot,
    saga::{Counts, Register},
    service::{PoolSnapshot, RevisionInfo},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A look at a running application.
#[derive(Debug, Serialize, Deserialize)]
pub struct Status {
    /// The application's name.
    pub app: String,
    /// The host's version.
    pub version: String,
    /// The host's process.
    pub pid: u32,
    /// How long it has run, in seconds.
    pub uptime_seconds: u64,
    /// Where the gateway listens.
    pub gateway: String,
    /// The services that run here, by name.
    pub services: Vec<ServiceStatus>,
    /// The rate limits, in the order of the routes.
    pub rate_limits: Vec<RouteLimitSnapshot>,
    /// The services outside, by name.
    pub external: Vec<ExternalSnapshot>,
    /// The edges, by name.
    pub edges: Vec<GuardSnapshot>,
    /// The events.
    pub events: BusSnapshot,
    /// The outboxes, by service: events that are committed and that the bus has not taken yet.
    pub outboxes: Vec<OutboxSnapshot>,
    /// The sagas of each service that has some.
    #[serde(default)]
    pub sagas: Vec<SagasStatus>,
}

/// A look at the sagas of a service.
#[derive(Debug, Serialize, Deserialize)]
pub struct SagasStatus {
    /// The service.
    pub service: String,
    /// How many are under way, as far as this host knows.
    pub under_way: usize,
    /// How they stand.
    #[serde(flatten)]
    pub counts: Counts,
}

/// A look at a service.
#[derive(Debug, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// The revision that calls go to.
    pub revision: Option<RevisionInfo>,
    /// The version of `wasi:http` that it handles, where it handles any.
    pub http: Option<String>,
    /// Its instances.
    pub instances: PoolSnapshot,
    /// The staged rollout of another revision that is under way, or was the last.
    #[serde(default)]
    pub rollout: Option<RolloutSnapshot>,
    /// Revisions that get no more calls, and have some under way.
    #[serde(default)]
    pub draining: Vec<Draining>,
}

/// A look at a revision that was replaced.
#[derive(Debug, Serialize, Deserialize)]
pub struct Draining {
    /// Its number.
    pub revision: u64,
    /// Calls that it still has.
    pub in_flight: usize,
}

// === impl Status ===

impl Status {
    pub(super) fn of(app: &App) -> Self {
        let (members, parts) = (app.rollout.members(), app.parts.load());
        let services = members.values().map(|member| {
            let revision = member.service.revision();
            ServiceStatus {
                name: member.service.name().to_string(),
                http: revision
                    .as_ref()
                    .and_then(|revision| revision.http())
                    .map(|version| version.as_str().to_string()),
                instances: revision.as_ref().map(|revision| revision.instances()).unwrap_or_default(),
                revision: revision.map(|revision| revision.info().clone()),
                rollout: member.rollout(),
                draining: member
                    .draining()
                    .iter()
                    .map(|it| (it.info().number, it.instances()))
                    .map(|(revision, instances)| Draining { revision, in_flight: instances.in_flight })
                    .collect(),
            }
        });
        // Any service with a database could have sagas, and few do.
        let is_used = |ends: &Edge| {
            ends.caller != SAGAS || parts.sagas.get(&ends.callee).is_some_and(|sagas| sagas.sagas().is_ok())
        };
        let of_service = |(service, register): (&String, &Arc<Register>)| {
            let counts = register.sagas().ok()?.counts();
            Some(SagasStatus { service: service.clone(), under_way: counts.under_way(), counts })
        };
        Self {
            app: parts.manifest.app.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_string(),
            pid: std::process::id(),
            uptime_seconds: app.started.elapsed().as_secs(),
            gateway: format!("http://{}", app.address),
            services: services.collect(),
            rate_limits: app.routes.limits(),
            external: parts.external.values().map(|external| external.snapshot()).collect(),
            edges: parts.edges.iter().filter(|(ends, _)| is_used(ends)).map(|(_, edge)| edge.snapshot()).collect(),
            events: app.bus.snapshot(),
            outboxes: parts.outboxes.values().map(|outbox| outbox.snapshot()).collect(),
            sagas: parts.sagas.iter().filter_map(of_service).collect(),
        }
    }
}
