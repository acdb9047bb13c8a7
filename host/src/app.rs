//! The application: everything of a manifest, put together and running.
//!
//! The only place that knows all parts of the house. A capability is added by its folder and one line here.

mod admin;
mod apply;
mod assemble;
mod audit;
mod hold;
mod lock;
mod rotation;
mod status;
mod watch;

pub use admin::{
    AdminAddress, AdminError, Handled, Letter, Letters, NewSaga, ROLLOUT, RolloutCommand, RolloutOrder, SagaList,
    SagaOrder, ServiceDiff, StageOrder, Token, WholeLetter,
};
pub use apply::{ApplyError, Kind, Plan, Planned, Request};
pub use assemble::{Components, StartError, admin_address, check};
pub use audit::{Audit, AuditEntry, AuditError, Came, Deed, Who, last_entries};
pub use rotation::Rotated;
pub use status::{Draining, SagasStatus, ServiceStatus, Status};
pub use watch::{Builds, Watch};

use crate::{
    events::Bus,
    gateway::{ApiDocument, Gateway, SharedRoutes, SharedTerms},
    keyvalue::Buckets,
    manifest::{self, Manifest, did_you_mean},
    outbound::{External, ExternalSnapshot},
    outbox::Outbox,
    policy::{BreakerCommand, EndpointSnapshot, GuardSnapshot},
    rollout::{Rollout, StartWith},
    service::Edge,
    store::Database,
    telemetry::AccessLog,
};
use admin::{Admin, SharedToken};
use arc_swap::ArcSwap;
use assemble::{Grounds, Sagas};
use futures::future::join_all;
use hold::Holds;
use lock::DataLock;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
};
use tokio::time::{Duration, Instant, timeout};

/// A running application.
pub struct App {
    parts: ArcSwap<Parts>,
    grounds: Grounds,
    rollout: Arc<Rollout>,
    routes: SharedRoutes,
    terms: SharedTerms,
    bus: Bus,
    address: SocketAddr,
    started: Instant,
    audit: Audit,
    /// What the admin API is opened by, where it listens on an address.
    token: Option<SharedToken>,
    /// Held by the one who brings another manifest about.
    applying: tokio::sync::Mutex<()>,
    /// This run of the host, and how often another manifest was brought about in it.
    identity: String,
    applied: AtomicU64,
    /// Tells who watches files that there may be others.
    other_files: tokio::sync::watch::Sender<()>,
    /// Of those who build components without wanting them to be deployed.
    holds: Holds,
    /// Let go when all the rest is.
    _lock: DataLock,
}

/// What a manifest brings about, as it is now.
#[derive(Clone)]
struct Parts {
    manifest: Arc<Manifest>,
    components: Components,
    document: Option<Arc<ApiDocument>>,
    edges: Edges,
    external: BTreeMap<String, Arc<External>>,
    databases: BTreeMap<String, Database>,
    buckets: BTreeMap<String, Buckets>,
    outboxes: BTreeMap<String, Outbox>,
    sagas: Sagas,
}

/// All edges of an application, by who calls whom.
type Edges = BTreeMap<manifest::Edge, Arc<Edge>>;

/// Why an operator's word on a circuit breaker can't be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// There is no such edge.
    #[error("there is no edge `{edge}`{meant}; `wharf status` shows all of them")]
    UnknownEdge {
        /// What was named.
        edge: String,
        /// A suggestion, or nothing.
        meant: String,
    },
    /// There is no such endpoint.
    #[error(
        "there is no endpoint `{endpoint}`{meant}; `wharf status` shows all of them, each is called `SERVICE at ENDPOINT`"
    )]
    UnknownEndpoint {
        /// What was named.
        endpoint: String,
        /// A suggestion, or nothing.
        meant: String,
    },
    /// The policy of the edge switches the breaker off.
    #[error("the edge `{0}` has no circuit breaker: its policy says `breaker = false`")]
    NoBreaker(String),
    /// The manifest switches the breakers of the service's endpoints off.
    #[error("the endpoint `{0}` has no circuit breaker: its service says `outlier = false`")]
    NoOutlier(String),
}

/// An application with everything bound and loaded, about to serve.
pub struct Ready {
    app: Arc<App>,
    gateway: Gateway,
    admin: Admin,
}

/// How an application ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// Requests that were still in flight when the grace was over.
    pub cut: usize,
}

// === impl App ===

impl App {
    /// Loads and binds everything that the manifest names; serves nothing yet.
    ///
    /// # Errors
    ///
    /// The first thing that does not hold, with its place in the manifest where it has one. Then nothing runs.
    pub async fn start(
        manifest: Manifest,
        components: Components,
        with: StartWith,
        log: AccessLog,
    ) -> Result<Ready, StartError> {
        assemble::start(manifest, components, with, log).await
    }

    /// The manifest that it runs.
    pub fn manifest(&self) -> Arc<Manifest> {
        self.parts.load().manifest.clone()
    }

    /// The component file of each service, as it is now.
    pub fn components(&self) -> Components {
        self.parts.load().components.clone()
    }

    /// Changes whenever another manifest was brought about, or other component files.
    pub fn other_files(&self) -> tokio::sync::watch::Receiver<()> {
        self.other_files.subscribe()
    }

    /// Does to the circuit breaker of an edge ("order -> user") what an operator says, and gives the edge as it is then.
    ///
    /// # Errors
    ///
    /// When there is no such edge, or it has no breaker.
    pub fn command(&self, edge: &str, command: BreakerCommand) -> Result<GuardSnapshot, CommandError> {
        let parts = self.parts.load();
        let Some(found) = parts.edges.values().find(|known| **known.name() == *edge) else {
            let meant = self.nearly(edge);
            return Err(CommandError::UnknownEdge { edge: edge.escape_debug().to_string(), meant });
        };
        found.command(command).ok_or_else(|| CommandError::NoBreaker(edge.to_owned()))?;
        Ok(found.snapshot())
    }

    /// Does to the circuit breaker of one endpoint of a service outside ("payment at http://10.0.0.1:8080") what an
    /// operator says, and gives the endpoint as it is then.
    ///
    /// # Errors
    ///
    /// When there is no such endpoint, or it has no breaker.
    pub fn command_endpoint(&self, name: &str, command: BreakerCommand) -> Result<EndpointSnapshot, CommandError> {
        let parts = self.parts.load();
        let found = name.split_once(" at ").and_then(|(service, endpoint)| {
            let external = parts.external.get(service)?;
            external.command(endpoint, command)
        });
        let Some(found) = found else {
            let meant = self.nearly(name);
            return Err(CommandError::UnknownEndpoint { endpoint: name.escape_debug().to_string(), meant });
        };
        found.ok_or_else(|| CommandError::NoOutlier(name.to_owned()))
    }

    /// The edge or the endpoint that is nearly called so, as a suggestion.
    fn nearly(&self, name: &str) -> String {
        let parts = self.parts.load();
        let endpoints = parts.external.values().flat_map(|external| {
            let ExternalSnapshot { name, endpoints, .. } = external.snapshot();
            endpoints.into_iter().map(move |endpoint| format!("{name} at {}", endpoint.endpoint))
        });
        let names: Vec<_> = parts.edges.values().map(|edge| edge.name().to_string()).chain(endpoints).collect();
        did_you_mean(name, names.iter().map(String::as_str))
    }

    /// The services and the way to replace them.
    pub fn rollout(&self) -> &Arc<Rollout> {
        &self.rollout
    }

    /// The log of who changed what.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// Where the gateway listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How it stands.
    pub fn status(&self) -> Status {
        Status::of(self)
    }
}

// === impl Ready ===

impl Ready {
    /// The application.
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Serves until `shutdown`, then lets what is in flight finish, within the gateway's grace.
    ///
    /// What happens to components and a manifest that change, `watch` says.
    pub async fn serve(self, shutdown: impl Future<Output = ()>, watch: Watch) -> Ended {
        let Self { app, gateway, admin } = self;
        let grace = app.manifest().gateway.shutdown_grace;
        // Before anybody can deploy: see there.
        let watch = watch::watch(app.clone(), watch);
        let mut aside = vec![tokio::spawn(admin.serve(app.clone()))];
        aside.push(tokio::spawn(audit::note_rollouts(app.audit.clone(), app.rollout.ended())));
        aside.push(tokio::spawn(watch));
        aside.push(tokio::spawn(rotation::rotate(app.clone())));
        let drained = gateway.serve(shutdown).await;
        for task in aside {
            task.abort();
            // The socket's file is gone only when its task is.
            let _ = task.await;
        }
        let grace = grace.min(Duration::from_secs(10));
        // Who brings another manifest about is let finish what is begun.
        let _applying = timeout(grace, app.applying.lock()).await;
        let parts = app.parts.load_full();
        let until = Instant::now() + grace / 2;
        // Sagas go on at the next start. What their steps have published by then leaves with the rest.
        join_all(parts.sagas.values().map(|sagas| sagas.close(until))).await;
        // First what the requests left to publish; what the handling of events adds still is there at the next start.
        join_all(parts.outboxes.values().map(|outbox| outbox.drain(until))).await;
        app.bus.shutdown(grace).await;
        join_all(parts.outboxes.values().map(Outbox::close)).await;
        app.rollout.stop();
        for database in parts.databases.values() {
            database.close().await;
        }
        for buckets in parts.buckets.values() {
            buckets.close().await;
        }
        Ended { cut: drained.cut }
    }
}
