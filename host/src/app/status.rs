//! How a running application stands: what the admin API and `wharf status` show.

use super::App;
use crate::{
    events::BusSnapshot,
    gateway::RouteLimitSnapshot,
    outbound::ExternalSnapshot,
    outbox::OutboxSnapshot,
    policy::GuardSnapshot,
    rollout::RolloutSnapshot,
    service::{PoolSnapshot, RevisionInfo},
};
use serde::{Deserialize, Serialize};

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
        let services = app.rollout.members().map(|member| {
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
        Self {
            app: app.manifest().app.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_string(),
            pid: std::process::id(),
            uptime_seconds: app.started.elapsed().as_secs(),
            gateway: format!("http://{}", app.address),
            services: services.collect(),
            rate_limits: app.routes.limits(),
            external: app.external.values().map(|external| external.snapshot()).collect(),
            edges: app.edges.values().map(|edge| edge.snapshot()).collect(),
            events: app.bus.snapshot(),
            outboxes: app.outboxes.iter().map(|outbox| outbox.snapshot()).collect(),
        }
    }
}
