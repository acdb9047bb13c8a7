//! One load of a service: a component, linked and ready to be called.

use super::{
    driver::alongside,
    exports::{Exports, FunctionKey, HttpVersion},
    health, link,
    metadata::Metadata,
    pool::{InstanceSettings, Pool, PoolSnapshot},
    scope::Scope,
    shape::{Grants, Shape, provider},
    state::State,
};
use crate::{
    engine::Engine,
    policy::{Fault, FaultKind},
    saga::{Definition, binding::read_definitions},
    store::{Migration, read_migrations},
    telemetry::GuestOutput,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};
use tokio::time::{Duration, Instant};
use wasmtime::component::Component;

/// A revision of a service.
pub struct Revision {
    info: RevisionInfo,
    http: Option<HttpVersion>,
    sagas: OnceLock<Vec<Definition>>,
    pub(super) pool: Arc<Pool>,
}

/// What is known of a revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RevisionInfo {
    /// Counted up from 1 for each service.
    pub number: u64,
    /// SHA-256 of the component.
    pub hash: String,
    /// Where it was loaded from.
    pub origin: String,
    /// When it was loaded, RFC 3339.
    pub loaded: String,
    /// What the component says of itself.
    #[serde(flatten)]
    pub metadata: Metadata,
}

/// Why a component can't become a revision.
#[derive(Debug, thiserror::Error)]
pub enum RevisionError {
    /// It imports something that is not there, or not as it expects it.
    #[error("{0}")]
    Link(String),
    /// Its first instance could not be made.
    #[error("its first instance failed: {0}")]
    Instantiate(Fault),
    /// It did not come up in time.
    #[error("it was not ready within {0:?}")]
    Late(Duration),
    /// It says itself that it can't be called.
    #[error("it says that it is not ready: {0}")]
    NotReady(String),
    /// It could not say whether it is ready.
    #[error("it can't be asked whether it is ready: {0}")]
    Health(String),
    /// It could not say what its schema is.
    #[error("its migrations can't be read: {0}")]
    Migrations(String),
    /// It could not say which sagas it has, or they are none.
    #[error("its sagas can't be read: {0}")]
    Sagas(String),
}

// === impl Revision ===

impl Revision {
    /// Links `component` for the service that `scope` describes. `shapes` are those of all services, this one's
    /// included, and must have been found to fit.
    ///
    /// # Errors
    ///
    /// [`RevisionError::Link`] with the import that can't be satisfied.
    pub fn link(
        engine: &Arc<Engine>,
        component: &Component,
        info: RevisionInfo,
        scope: &Arc<Scope>,
        grants: &Grants,
        shapes: &BTreeMap<String, Arc<Shape>>,
        mut settings: InstanceSettings,
    ) -> Result<Self, RevisionError> {
        let wrong = |error: wasmtime::Error| RevisionError::Link(format!("{error:#}"));
        let mut linker = State::linker(engine.wasmtime()).map_err(wrong)?;
        let shape = Shape::of(component);
        for (interface, functions) in shape.neighbours() {
            let callee = provider(&scope.name, interface, grants, shapes);
            let callee = callee.map_err(|(_, message)| RevisionError::Link(message))?;
            let edge = scope.edges.get(callee).ok_or_else(|| {
                RevisionError::Link(format!("`services.{}.calls` does not name `{callee}`", scope.name))
            })?;
            let mut instance = linker.instance(interface).map_err(wrong)?;
            for (function, ty) in functions {
                let key = FunctionKey::new(interface, function, ty);
                link::define(&mut instance, key, ty, edge.clone()).map_err(wrong)?;
            }
        }
        let pre = linker.instantiate_pre(component).map_err(wrong)?;
        let exports = Exports::of(component, &pre);
        let http = exports.http();
        if http == Some(HttpVersion::P2) {
            // A 0.2 handler holds its whole instance until it returns.
            settings.concurrency = 1;
        }
        let new_state = {
            let (scope, output) = (scope.clone(), GuestOutput::new(scope.name.clone()));
            Box::new(move || State::new(scope.clone(), &output))
        };
        let pool = Pool::new(engine.clone(), scope.name.clone(), settings, pre, exports, new_state);
        Ok(Self { info, http, sagas: OnceLock::new(), pool })
    }

    /// Makes the first instance, so that no caller has to wait for it, and to see that it can be made.
    ///
    /// # Errors
    ///
    /// [`RevisionError::Instantiate`] when it traps or finds no room.
    pub async fn warm(&self) -> Result<(), RevisionError> {
        self.pool.warm().await.map_err(RevisionError::Instantiate)
    }

    /// Asks it whether it is ready, where it exports [`HEALTH`](super::HEALTH).
    ///
    /// # Errors
    ///
    /// [`RevisionError::NotReady`] when it is not, [`RevisionError::Instantiate`] and [`RevisionError::Health`] when the
    /// guest fails.
    pub async fn ready(&self) -> Result<(), RevisionError> {
        if !self.pool.exports().has_health() {
            return Ok(());
        }
        let asked = alongside(async {
            let (mut store, instance) = self.pool.bare_instance().await.map_err(RevisionError::Instantiate)?;
            let asked = health::ask(&mut store, &instance).await;
            asked.map_err(|error| RevisionError::Health(format!("{error:#}")))
        });
        asked.await?.map_err(RevisionError::NotReady)
    }

    /// The schema that the component declares; empty where it declares none.
    ///
    /// # Errors
    ///
    /// [`RevisionError::Instantiate`] and [`RevisionError::Migrations`] when the guest fails.
    pub async fn migrations(&self) -> Result<Vec<Migration>, RevisionError> {
        if !self.pool.exports().has_migrations() {
            return Ok(Vec::new());
        }
        let read = alongside(async {
            let (mut store, instance) = self.pool.bare_instance().await.map_err(RevisionError::Instantiate)?;
            let read = read_migrations(&mut store, &instance).await;
            read.map_err(|error| RevisionError::Migrations(format!("{error:#}")))
        });
        Ok(read.await?.unwrap_or_default())
    }

    /// Asks it which sagas it has, where it exports some. What it says is not checked yet.
    ///
    /// # Errors
    ///
    /// [`RevisionError::Instantiate`] and [`RevisionError::Sagas`] when the guest fails.
    pub async fn read_sagas(&self) -> Result<&[Definition], RevisionError> {
        if !self.has_sagas() {
            return Ok(&[]);
        }
        let read = alongside(async {
            let (mut store, instance) = self.pool.bare_instance().await.map_err(RevisionError::Instantiate)?;
            let read = read_definitions(&mut store, &instance).await;
            read.map_err(|error| RevisionError::Sagas(format!("{error:#}")))
        });
        let definitions = read.await?;
        Ok(self.sagas.get_or_init(|| definitions))
    }

    /// Whether it exports sagas.
    pub fn has_sagas(&self) -> bool {
        self.pool.exports().has_steps()
    }

    /// The sagas that it has, once it was [asked](Self::read_sagas).
    pub fn sagas(&self) -> &[Definition] {
        self.sagas.get().map_or(&[], Vec::as_slice)
    }

    /// The component that it is of.
    pub fn component(&self) -> &Component {
        self.pool.component()
    }

    /// What is known of it.
    pub fn info(&self) -> &RevisionInfo {
        &self.info
    }

    /// The version of `wasi:http` that it handles.
    pub fn http(&self) -> Option<HttpVersion> {
        self.http
    }

    /// Lets the calls end that are under way, and after `limit` ends those that are left with a fault that says so. It is
    /// to get no more of them. Says how many were ended.
    pub async fn drain(&self, limit: Duration) -> usize {
        let fault = || {
            let (service, number) = (self.pool.service(), self.info.number);
            let message = format!(
                "revision {number} of service `{service}` was replaced, and the call was still under way after the {limit:?} \
                 that it has to drain"
            );
            Fault::new(FaultKind::Cancelled, message)
        };
        self.pool.drain(Instant::now() + limit, fault).await
    }

    /// A look at its instances.
    pub fn instances(&self) -> PoolSnapshot {
        self.pool.snapshot()
    }
}
