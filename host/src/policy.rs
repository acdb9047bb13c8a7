//! What guards a call between two services.
//!
//! There is one mechanism for typed calls, HTTP requests and event deliveries: a [`Guard`] on each edge, which runs a
//! call under the edge's [`Policy`]. In the order in which a call meets them:
//!
//! 1. **Deadline**: the nearer of the caller's and the edge's own. It bounds everything below, waiting included.
//! 2. **Bulkhead**: how many calls may be under way on the edge, and how many may wait for one of them to end; who can't
//!    wait long enough is sent away at once.
//! 3. **Circuit breaker**, before each attempt: a callee that keeps failing, or is slow, is left alone for a while.
//! 4. **Injection**, where it is on: faults on purpose.
//! 5. **Retry**: another attempt after a failure, where one is safe, the deadline has room for it and the **budget**
//!    allows it.
//!
//! Where the callee is an external service with several endpoints, a **balancer** chooses one for each attempt, and each
//! endpoint has a breaker of its own behind the edge's.
//! Before all of them, where requests come in from outside, a **rate limit** says how many somebody may make.
//! Behind all of them, where calls wait for a callee that has no room, a **fair queue** lets callers take turns.
//!
//! **Failure** says what counts as one, for all of them. **Fallback** is what a caller gets in place of a failure.
//! A **rollout** says how a new revision of a service comes to get its calls, and when it does as well as the old one.
//!
//! The bulkhead stands before the breaker and holds its permit over all attempts, because it bounds what the *caller*
//! may pile up, backing off included. The breaker stands inside the retry, because every attempt is evidence.
//!
//! Everything here is a state machine over tokio's clock. Nothing knows wasmtime, hyper or the manifest, so that every
//! transition can be tested on a paused clock. Policies are values whose constructors refuse what can't work and name
//! the field; the manifest adds the place.

mod backoff;
mod balancer;
pub mod bounds;
mod breaker;
mod budget;
mod bulkhead;
mod deadline;
mod failure;
mod fair_queue;
mod fallback;
mod fault;
mod functions;
mod guard;
mod health;
mod hold;
mod inject;
mod invalid;
mod judge;
mod outlier;
mod rate_limit;
mod retry;
mod ring;
mod rollout;
mod status;
mod totals;
mod wave;

pub use self::{
    backoff::Backoff,
    balancer::{
        AttemptAt, Balance, BalancePolicy, Balancer, Choice, EndpointSnapshot, InFlight, Picked, Standing, Tried,
    },
    breaker::{
        Admission, Breaker, BreakerCommand, BreakerMode, BreakerParams, BreakerPolicy, BreakerSnapshot, BreakerState,
        Rejected, TripReason, WindowSize, WindowSums,
    },
    budget::{BudgetPolicy, BudgetSnapshot},
    bulkhead::BulkheadPolicy,
    deadline::Deadline,
    failure::{Failure, FailureParams, FailurePolicy, Outcome},
    fair_queue::{FairQueue, Pushed},
    fallback::{FallbackParams, FallbackPolicy, FixedAnswer, FixedResult, StaleCache, StaleParams},
    fault::{Fault, FaultKind, Result},
    functions::FunctionList,
    guard::{Answer, Attempt, Guard, GuardSnapshot},
    health::{Health, HealthParams, HealthPolicy, HealthSnapshot},
    hold::HoldTime,
    inject::InjectPolicy,
    invalid::InvalidPolicy,
    judge::{Account, CallEnd, Judgement, Tally, judge},
    outlier::OutlierPolicy,
    rate_limit::{KeysSnapshot, Quota, RateLimitKey, RateLimitParams, RateLimitPolicy, RateLimitSnapshot, RateLimiter},
    retry::{Ended, Jitter, Repeat, RetryParams, RetryPolicy},
    rollout::{MAX_STAGES, Mark, RolloutParams, RolloutPolicy, Split, Stage},
    status::StatusSet,
    wave::{NotWave, WaveText},
};

pub(crate) use self::retry::names_function;

use std::time::Duration;

/// The longest duration that a policy takes. It is beyond any use, and far from where adding it to an instant would
/// overflow.
pub const MAX_DURATION: Duration = Duration::from_secs(24 * 60 * 60);

/// The parts of a [`Policy`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyParams {
    /// How long a call may take at most, from the moment it reaches the edge to its answer: waiting in the bulkhead, all
    /// attempts and the pauses between them included.
    pub deadline: Duration,
    /// What counts as a failure.
    pub failure: FailurePolicy,
    /// When a failure is followed by another attempt.
    pub retry: RetryPolicy,
    /// When the callee is left alone; `None`: never.
    pub breaker: Option<BreakerPolicy>,
    /// How many calls may be under way; `None`: any number.
    pub bulkhead: Option<BulkheadPolicy>,
    /// What the caller gets in place of a failure.
    pub fallback: FallbackPolicy,
    /// What is done to attempts on purpose; `None`: nothing.
    pub inject: Option<InjectPolicy>,
}

/// What an edge does with the calls that pass it.
///
/// A value: two edges with equal policies share nothing but the numbers. The live state is the [`Guard`]'s.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy(PolicyParams);

// === impl Policy ===

impl Policy {
    /// A policy of these parts.
    ///
    /// # Errors
    ///
    /// When `deadline` is zero or longer than [`MAX_DURATION`], or the breaker goes by slow calls and nothing says which
    /// are.
    pub fn try_new(params: PolicyParams) -> std::result::Result<Self, InvalidPolicy> {
        invalid::check_duration("deadline", params.deadline)?;
        let slow_rate = params.breaker.as_ref().and_then(|breaker| breaker.params().slow_rate);
        if slow_rate.is_some() && params.failure.params().slow.is_none() {
            let expected = "a duration from which on a call is slow, because `breaker.slow-rate` is set";
            return Err(InvalidPolicy::new("failure.slow", expected, "none"));
        }
        Ok(Self(params))
    }

    /// Its parts.
    pub fn params(&self) -> &PolicyParams {
        &self.0
    }
}

impl Default for PolicyParams {
    /// Five seconds, and the defaults of failure, retry, breaker and bulkhead.
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(5),
            failure: FailurePolicy::default(),
            retry: RetryPolicy::default(),
            breaker: Some(BreakerPolicy::default()),
            bulkhead: Some(BulkheadPolicy::default()),
            fallback: FallbackPolicy::default(),
            inject: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_without_time_is_refused() {
        let params = |deadline| PolicyParams { deadline, ..PolicyParams::default() };
        let refused = |deadline| Policy::try_new(params(deadline)).unwrap_err().to_string();
        assert_eq!(refused(Duration::ZERO), "`deadline`: expected more than zero and at most 24h, found 0ns");
        assert_eq!(
            refused(Duration::MAX),
            format!("`deadline`: expected more than zero and at most 24h, found {:?}", Duration::MAX)
        );
        assert!(Policy::try_new(params(MAX_DURATION)).is_ok());
    }

    #[test]
    fn a_slow_rate_without_a_word_on_what_is_slow_is_refused() {
        let breaker = BreakerPolicy::try_new(BreakerParams { slow_rate: Some(50), ..BreakerParams::default() });
        let params = PolicyParams { breaker: Some(breaker.unwrap()), ..PolicyParams::default() };
        assert_eq!(
            Policy::try_new(params.clone()).unwrap_err().to_string(),
            "`failure.slow`: expected a duration from which on a call is slow, because `breaker.slow-rate` is set, \
             found none"
        );
        let failure = FailureParams { slow: Some(Duration::from_secs(1)), ..FailureParams::default() };
        let failure = FailurePolicy::try_new(failure).unwrap();
        assert!(Policy::try_new(PolicyParams { failure, ..params }).is_ok());
    }
}
