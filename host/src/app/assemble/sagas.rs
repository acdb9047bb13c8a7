//! The sagas of services: who does their steps, and who hears the events that they wait for.

use super::{super::Edges, host_id};
use crate::{
    events::{DeliveryPolicy, Subscription},
    manifest::{self, Manifest, ManifestErrors, SAGAS},
    policy::{Backoff, Deadline, Fault, FaultKind},
    saga::{self, Access, Awaiting, Outcome, Register, StepCall, Steps, binding::Doing},
    service::{CallContext, Edge},
    store::Database,
};
use futures::future::BoxFuture;
use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};
use tokio::{sync::watch, time::Instant};

/// The sagas of services by name: of each that has a database, whether its component has some or not.
pub(in crate::app) type Sagas = BTreeMap<String, Arc<Register>>;

/// How often an event is handed to sagas that can't be written: for a day or so, then it is a dead letter.
const ATTEMPTS: u32 = 1_000;

/// Who does the steps of a service's sagas. The edge is the application's, and ends with it.
struct OverEdge(Weak<Edge>);

/// The sagas of each service that has a database. Those of `before` go on.
pub(in crate::app) fn sagas(
    manifest: &Manifest,
    databases: &BTreeMap<String, Database>,
    edges: &Edges,
    before: &Sagas,
) -> Result<Sagas, ManifestErrors> {
    let mut sagas = Sagas::new();
    for (name, service) in &manifest.services {
        let (Some(database), Some(edge)) = (databases.get(name), edges.get(&manifest::Edge::new(SAGAS, name))) else {
            continue;
        };
        let register = match before.get(name) {
            Some(register) => register.clone(),
            None => {
                let steps = Arc::new(OverEdge(Arc::downgrade(edge)));
                Register::new(name.as_str(), database.clone(), steps, saga_settings(manifest, service)?)
            }
        };
        sagas.insert(name.clone(), register);
    }
    Ok(sagas)
}

/// How the sagas of a service are run.
pub(in crate::app) fn saga_settings(
    manifest: &Manifest,
    service: &manifest::Service,
) -> Result<saga::Settings, ManifestErrors> {
    let host = match manifest.store {
        manifest::Store::Files => None,
        manifest::Store::Server(_) => Some(host_id(manifest)?),
    };
    let manifest::Sagas { attempts, backoff, max_backoff, concurrency, max, timeout, keep } = service.sagas;
    let backoff = Backoff { first: backoff, max: max_backoff, ..Backoff::default() };
    Ok(saga::Settings { attempts, backoff, concurrency, max, timeout, keep, host, ..saga::Settings::default() })
}

/// What a service may do with sagas.
pub(super) fn access(manifest: &Manifest, sagas: &Sagas, service: &Arc<str>) -> Access {
    let calls = manifest.services.get(&**service).into_iter().flat_map(|it| &it.calls);
    let others = calls.map(|callee| (callee.value.clone(), sagas.get(&callee.value).cloned()));
    Access::new(service.clone(), sagas.get(&**service).cloned(), others)
}

/// By which name the sagas of a service subscribe to what they await; no service has a name with a dot.
pub(in crate::app) fn subscriber(service: &str) -> String {
    format!("{service}.{SAGAS}")
}

/// The subscriptions to what sagas await, those that are wanted by service and topic.
pub(in crate::app) fn awaiting(
    manifest: &Manifest,
    sagas: &Sagas,
    running: &watch::Receiver<bool>,
    wanted: impl Fn(&str, &str) -> bool,
) -> Vec<Subscription> {
    let mut all = Vec::new();
    for (name, service) in &manifest.services {
        let Some(register) = sagas.get(name) else { continue };
        for topic in service.awaits.iter().filter(|topic| wanted(name, &topic.value)) {
            let awaiting = Arc::new(Awaiting { register: register.clone(), running: running.clone() });
            let policy = DeliveryPolicy { max_attempts: ATTEMPTS, ..DeliveryPolicy::default() };
            all.push(Subscription::new(topic.value.as_str(), subscriber(name), awaiting).with_policy(policy));
        }
    }
    all
}

// === impl OverEdge ===

impl OverEdge {
    async fn call(&self, doing: Doing, call: StepCall) -> Result<Outcome, Fault> {
        let gone = || Fault::new(FaultKind::Unreachable, "the service is no more");
        let edge = self.0.upgrade().ok_or_else(gone)?;
        let deadline = Deadline { at: Instant::now() + edge.deadline(), of: edge.name().clone() };
        let context = CallContext { caller: SAGAS.into(), deadline, trace: call.trace, unit: None };
        edge.step(&context, doing, call).await
    }
}

impl Steps for OverEdge {
    fn act(&self, call: StepCall) -> BoxFuture<'_, Result<Outcome, Fault>> {
        Box::pin(self.call(Doing::Action, call))
    }

    fn compensate(&self, call: StepCall) -> BoxFuture<'_, Result<Outcome, Fault>> {
        Box::pin(self.call(Doing::Compensation, call))
    }
}
