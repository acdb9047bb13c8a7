//! What travels with every call, whatever kind of call it is.

use crate::{policy::Deadline, store::Unit, telemetry::TraceContext};
use std::sync::Arc;
use tokio::time::{Duration, Instant};

/// How long a call may take that a service makes in its background: on its own account, after the call to it that began
/// the work was answered. With a caller it would be the caller's time that bounds it. The deadline of the edge is mostly
/// the nearer one.
const BACKGROUND_DEADLINE: Duration = Duration::from_secs(30);

/// Travels with a call from where it entered the house to the last callee: who asks, until when, and in which trace.
#[derive(Clone, Debug)]
pub struct CallContext {
    /// Who makes the call: a service's name, `gateway` or `events`.
    pub caller: Arc<str>,
    /// When the answer is of no more use to the caller.
    pub deadline: Deadline,
    /// The trace that the call belongs to.
    pub trace: TraceContext,
    /// What all that the callee writes to its database on behalf of the call is part of; `None` where each statement stands
    /// for itself. It is of this call alone: calls that the callee makes have none.
    pub unit: Option<Unit>,
}

// === impl CallContext ===

impl CallContext {
    /// That of a call which `service` makes in its background.
    pub(crate) fn background(service: &Arc<str>) -> Self {
        let at = Instant::now() + BACKGROUND_DEADLINE;
        let deadline = Deadline { at, of: format!("the background of {service}").into() };
        Self { caller: Arc::clone(service), deadline, trace: TraceContext::root(), unit: None }
    }

    /// How much time is left; zero when the deadline has passed.
    pub fn remaining(&self) -> Duration {
        self.deadline.remaining()
    }
}
