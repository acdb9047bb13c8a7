//! The application: everything of a manifest, put together and running.
//!
//! The only place that knows all parts of the house. A capability is added by its folder and one line here.

mod admin;
mod assemble;
mod status;
mod watch;

pub use admin::{AdminAddress, AdminError, Token};
pub use assemble::{Components, StartError, admin_address, check};
pub use status::{ServiceStatus, Status};

use crate::{
    events::Bus, gateway::Gateway, manifest::Manifest, outbound::External, rollout::Rollout, service::Edge,
    store::Database, telemetry::AccessLog,
};
use admin::Admin;
use std::{net::SocketAddr, sync::Arc};
use tokio::time::{Duration, Instant};

/// A running application.
pub struct App {
    manifest: Manifest,
    rollout: Rollout,
    edges: Vec<Arc<Edge>>,
    external: Vec<Arc<External>>,
    bus: Bus,
    databases: Vec<Database>,
    address: SocketAddr,
    started: Instant,
}

/// An application with everything bound and loaded, about to serve.
pub struct Ready {
    app: Arc<App>,
    gateway: Gateway,
    admin: Admin,
    components: Components,
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
    pub async fn start(manifest: Manifest, components: Components, log: AccessLog) -> Result<Ready, StartError> {
        assemble::start(manifest, components, log).await
    }

    /// The manifest that it runs.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The services and the way to replace them.
    pub fn rollout(&self) -> &Rollout {
        &self.rollout
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
    /// With `watch`, a component whose file changes is deployed.
    pub async fn serve(self, shutdown: impl Future<Output = ()>, watch: bool) -> Ended {
        let Self { app, gateway, admin, components } = self;
        let grace = app.manifest.gateway.shutdown_grace;
        // Before anybody can deploy: see there.
        let watch = watch.then(|| watch::watch(app.clone(), components));
        let mut aside = vec![tokio::spawn(admin.serve(app.clone()))];
        aside.extend(watch.map(tokio::spawn));
        let drained = gateway.serve(shutdown).await;
        for task in aside {
            task.abort();
            // The socket's file is gone only when its task is.
            let _ = task.await;
        }
        app.bus.shutdown(grace.min(Duration::from_secs(10))).await;
        app.rollout.stop();
        for database in &app.databases {
            database.close().await;
        }
        Ended { cut: drained.cut }
    }
}
