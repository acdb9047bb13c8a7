//! What guards a call between two services.
//!
//! There is one mechanism for typed calls, HTTP requests and event deliveries: a [`Guard`] on each edge, which runs a
//! call under the edge's [`Policy`]. In the order in which a call meets them:
//!
//! 1. **Deadline**: the nearer of the caller's and the edge's own. It bounds everything below, waiting included.
//! 2. **Bulkhead**: how many calls may be under way on the edge, and how many may wait for one of them to end.
//! 3. **Circuit breaker**, before each attempt: a callee that keeps failing is left alone for a while.
//! 4. **Retry**: another attempt after a fault, where one is safe and the deadline has room for it.
//!
//! The bulkhead stands before the breaker and holds its permit over all attempts, because it bounds what the *caller*
//! may pile up, backing off included. The breaker stands inside the retry, because every attempt is evidence.
//!
//! Everything here is a state machine over tokio's clock. Nothing knows wasmtime, hyper or the manifest, so that every
//! transition can be tested on a paused clock.

mod backoff;
mod breaker;
mod bulkhead;
mod deadline;
mod fault;
mod guard;
mod invalid;
mod retry;
mod totals;

pub use self::{
    backoff::Backoff,
    breaker::{Admission, Breaker, BreakerPolicy, BreakerSnapshot, BreakerState, Rejected, TripReason},
    bulkhead::BulkheadPolicy,
    fault::{Fault, FaultKind, Result},
    guard::{Attempt, Guard, GuardSnapshot},
    invalid::InvalidPolicy,
    retry::{Jitter, RetryPolicy},
};

use std::time::Duration;

/// The longest duration that a policy takes. It is beyond any use, and far from where adding it to an instant would
/// overflow.
pub const MAX_DURATION: Duration = Duration::from_secs(24 * 60 * 60);

/// What an edge does with the calls that pass it.
///
/// A value: two edges with equal policies share nothing but the numbers. The live state is the [`Guard`]'s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    deadline: Duration,
    retry: RetryPolicy,
    breaker: Option<BreakerPolicy>,
    bulkhead: Option<BulkheadPolicy>,
}

// === impl Policy ===

impl Policy {
    /// A policy whose calls get at most `deadline`, from the moment they reach the edge to their answer: waiting in the
    /// bulkhead, all attempts and the pauses between them included. `None` is no breaker, or no bulkhead.
    ///
    /// # Errors
    ///
    /// When `deadline` is zero or longer than [`MAX_DURATION`].
    pub fn try_new(
        deadline: Duration,
        retry: RetryPolicy,
        breaker: Option<BreakerPolicy>,
        bulkhead: Option<BulkheadPolicy>,
    ) -> std::result::Result<Self, InvalidPolicy> {
        invalid::check_duration("deadline", deadline)?;
        Ok(Self { deadline, retry, breaker, bulkhead })
    }

    /// How long a call may take at most.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// When a fault is followed by another attempt.
    pub fn retry(&self) -> &RetryPolicy {
        &self.retry
    }

    /// When the callee is left alone; `None` is never.
    pub fn breaker(&self) -> Option<&BreakerPolicy> {
        self.breaker.as_ref()
    }

    /// How many calls may be under way; `None` is any number.
    pub fn bulkhead(&self) -> Option<&BulkheadPolicy> {
        self.bulkhead.as_ref()
    }
}

impl Default for Policy {
    /// Five seconds, and the defaults of retry, breaker and bulkhead.
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(5),
            retry: RetryPolicy::default(),
            breaker: Some(BreakerPolicy::default()),
            bulkhead: Some(BulkheadPolicy::default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_without_time_is_refused() {
        let refused = |deadline| Policy::try_new(deadline, RetryPolicy::never(), None, None).unwrap_err().to_string();
        assert_eq!(refused(Duration::ZERO), "`deadline`: expected more than zero and at most 24h, found 0ns");
        assert_eq!(
            refused(Duration::MAX),
            format!("`deadline`: expected more than zero and at most 24h, found {:?}", Duration::MAX)
        );
        assert!(Policy::try_new(MAX_DURATION, RetryPolicy::never(), None, None).is_ok());
    }
}
