//! What travels with every call, whatever kind of call it is.

use crate::telemetry::TraceContext;
use std::sync::Arc;
use tokio::time::{Duration, Instant};

/// Travels with a call from where it entered the house to the last callee: who asks, until when, and in which trace.
#[derive(Clone, Debug)]
pub struct CallContext {
    /// Who makes the call: a service's name, `gateway` or `events`.
    pub caller: Arc<str>,
    /// When the answer is of no more use to the caller.
    pub deadline: Instant,
    /// The trace that the call belongs to.
    pub trace: TraceContext,
}

// === impl CallContext ===

impl CallContext {
    /// The context of a call that `caller` makes because of this one: same trace, and a deadline that can only come
    /// nearer.
    #[must_use]
    pub fn child(&self, caller: Arc<str>, limit: Duration) -> Self {
        Self { caller, deadline: self.deadline.min(Instant::now() + limit), trace: self.trace.child() }
    }

    /// How much time is left; zero when the deadline has passed.
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}
