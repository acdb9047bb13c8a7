//! Calls of steps, as the runner makes them.

use crate::{events::Event, policy::Fault, telemetry::TraceContext};
use bytes::Bytes;
use futures::future::BoxFuture;
use std::{sync::Arc, time::Duration};

/// Who does the steps of a service's sagas: the edge from `sagas` to the service.
///
/// A fault where nothing was begun ([`FaultKind::nothing_begun`](crate::policy::FaultKind::nothing_begun)) is no try; every
/// other fault is one whose effect nobody knows.
pub trait Steps: Send + Sync + 'static {
    /// Calls the action of a step.
    fn act(&self, call: StepCall) -> BoxFuture<'_, Result<Outcome, Fault>>;

    /// Calls the compensation of a step.
    fn compensate(&self, call: StepCall) -> BoxFuture<'_, Result<Outcome, Fault>>;
}

/// One call of an action or a compensation.
#[derive(Clone, Debug, PartialEq)]
pub struct StepCall {
    /// The name of the saga's definition.
    pub saga: Arc<str>,
    /// The saga's own id.
    pub id: Arc<str>,
    /// The step's name.
    pub step: String,
    /// `<service>/<saga>/<id>/<step>`, for a compensation with `/compensate` behind it: the same on every try.
    pub key: String,
    /// Which try it is, counted from 1.
    pub attempt: u32,
    /// When the saga was started, RFC 3339 in UTC.
    pub started_at: Arc<str>,
    /// The saga's state, a JSON object.
    pub state: Bytes,
    /// The event that the step waited for.
    pub event: Option<Arc<Event>>,
    /// In a compensation: why the saga is compensated.
    pub reason: Option<Arc<str>>,
    /// Its place in the trace of whatever started the saga.
    pub trace: TraceContext,
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done; the JSON object is merged into the saga's state as RFC 7396 has it.
    Done(Bytes),
    /// It will never be done, and nothing was.
    Failed(String),
    /// Not now.
    Retry(Again),
}

/// Another try, later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Again {
    /// Why, for people.
    pub reason: String,
    /// After how long, where that is known.
    pub after: Option<Duration>,
}
