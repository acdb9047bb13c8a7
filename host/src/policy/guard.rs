//! The guard of an edge: runs calls under the edge's policy.

use super::{
    Breaker, BreakerSnapshot, Fault, FaultKind, Jitter, Policy, Rejected, Result,
    bulkhead::{Bulkhead, Refused},
    deadline::{Deadline, until},
    totals::Totals,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, future::Future, pin::pin, sync::Arc};
use tokio::{
    sync::SemaphorePermit,
    time::{Instant, sleep},
};

/// The policy of one edge with its live state.
///
/// A call that meets a closed breaker and room in the bulkhead, and is answered, costs one look at the clock and a few
/// atomic operations: nothing is allocated, and no lock is held while the call is under way.
#[derive(Debug)]
pub struct Guard {
    edge: Arc<str>,
    policy: Policy,
    breaker: Option<Arc<Breaker>>,
    bulkhead: Option<Arc<Bulkhead>>,
    totals: Arc<Totals>,
    jitter: Jitter,
}

/// One try of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Which try it is, from 1.
    pub number: u32,
    /// When the attempt is dropped, answered or not; the nearer of the caller's and the edge's own deadline, and the
    /// same for all attempts of a call.
    pub deadline: Instant,
}

/// An edge as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardSnapshot {
    /// The edge's name.
    pub edge: String,
    /// The breaker, if the edge has one.
    pub breaker: Option<BreakerSnapshot>,
    /// Calls under way, those in the queue not counted.
    pub in_flight: u64,
    /// Calls that wait in the bulkhead's queue.
    pub queued: u64,
    /// Calls that came, since the edge was made.
    pub calls: u64,
    /// Calls that ended with a fault, by its kind; those that their caller gave up are `cancelled`. All others that
    /// ended were answered.
    pub faults: BTreeMap<String, u64>,
    /// Attempts after the first of a call.
    pub retries: u64,
    /// Calls that ended without any attempt: the breaker was open, the bulkhead full, or the time over.
    pub rejected: u64,
}

// === impl Guard ===

impl Guard {
    /// A guard with a closed breaker. `edge` names it in logs, status and faults: "order -> user".
    pub fn new(edge: impl Into<Arc<str>>, policy: Policy) -> Self {
        let edge = edge.into();
        let breaker = policy.breaker().map(|policy| Arc::new(Breaker::new(Arc::clone(&edge), policy.clone())));
        let bulkhead = policy.bulkhead().map(|policy| Arc::new(Bulkhead::new(policy.clone())));
        Self { edge, policy, breaker, bulkhead, totals: Arc::default(), jitter: Jitter::FULL }
    }

    /// A guard for the same edge under another policy: the counters and the breaker's state carry on.
    ///
    /// Calls under way finish under the old policy. If the bulkhead is changed, the new one doesn't see them, so for
    /// the time that they take more calls may be under way than it says.
    #[must_use]
    pub fn with_policy(&self, policy: Policy) -> Self {
        let breaker = policy.breaker().map(|policy| match &self.breaker {
            Some(breaker) if breaker.policy() == policy => Arc::clone(breaker),
            Some(breaker) => Arc::new(breaker.with_policy(policy.clone())),
            None => Arc::new(Breaker::new(Arc::clone(&self.edge), policy.clone())),
        });
        let bulkhead = policy.bulkhead().map(|policy| match &self.bulkhead {
            Some(bulkhead) if bulkhead.policy() == policy => Arc::clone(bulkhead),
            _ => Arc::new(Bulkhead::new(policy.clone())),
        });
        let (edge, totals) = (Arc::clone(&self.edge), Arc::clone(&self.totals));
        Self { edge, policy, breaker, bulkhead, totals, jitter: self.jitter.clone() }
    }

    /// Takes the pauses between attempts from another source of chance.
    #[must_use]
    pub fn with_jitter(self, jitter: Jitter) -> Self {
        Self { jitter, ..self }
    }

    /// The name of the edge.
    pub fn edge(&self) -> &str {
        &self.edge
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Runs a call: `attempt` makes it, once or, after a fault that allows another try, again. `deadline` is the
    /// caller's own. `idempotent` says that the call may be made twice, so that also a fault after it was begun may be
    /// followed by another attempt. Whatever the callee answers is `Ok`, its domain errors too.
    ///
    /// Dropping the future gives the call up: the attempt under way is dropped, and its places in bulkhead and breaker
    /// are free again.
    ///
    /// # Errors
    ///
    /// What the last attempt ended with, or why there was none: `circuit-open`, `overloaded`, `deadline-exceeded`. A
    /// fault that says that nothing was begun is true of all attempts: if an earlier one may have had its effect, it is
    /// that one's fault that is returned.
    pub async fn run<T, F, Fut>(&self, deadline: Instant, idempotent: bool, attempt: F) -> Result<T>
    where
        F: FnMut(Attempt) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        self.run_as(deadline, Some(idempotent), attempt).await
    }

    /// As [`run`](Self::run), for a call that can be made just once, whatever it ends with.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub async fn run_once<T, F, Fut>(&self, deadline: Instant, attempt: F) -> Result<T>
    where
        F: FnMut(Attempt) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        self.run_as(deadline, None, attempt).await
    }

    /// `idempotent` is `None` where there can be no second attempt.
    async fn run_as<T, F, Fut>(&self, deadline: Instant, idempotent: Option<bool>, mut attempt: F) -> Result<T>
    where
        F: FnMut(Attempt) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let call = self.totals.begin();
        let deadline = Deadline::new(Instant::now(), self.policy.deadline(), deadline);
        let result = match self.enter(&deadline).await {
            Ok((_permit, began)) => self.attempts(&deadline, began, idempotent, &mut attempt).await,
            Err(fault) => {
                self.totals.count_rejected();
                Err(fault)
            }
        };
        call.end(&result);
        result
    }

    /// The edge as it is now.
    pub fn snapshot(&self) -> GuardSnapshot {
        let queued = self.bulkhead.as_ref().map_or(0, |bulkhead| u64::from(bulkhead.queued()));
        let (begun, ended) = self.totals.begun_and_ended();
        GuardSnapshot {
            edge: self.edge.to_string(),
            breaker: self.breaker.as_ref().map(|breaker| breaker.snapshot()),
            in_flight: (begun - ended).saturating_sub(queued),
            queued,
            calls: begun,
            faults: self.totals.faults(),
            retries: self.totals.retries(),
            rejected: self.totals.rejected(),
        }
    }

    /// Passes the bulkhead. With the permit comes the time at which the first attempt begins.
    async fn enter(&self, deadline: &Deadline) -> Result<(Option<SemaphorePermit<'_>>, Instant)> {
        if deadline.at <= deadline.began {
            return Err(self.out_of_time(deadline));
        }
        let Some(bulkhead) = &self.bulkhead else { return Ok((None, deadline.began)) };
        if let Some(permit) = bulkhead.try_enter() {
            return Ok((Some(permit), deadline.began));
        }
        // What will be refused at the end of the queue need not stand in it.
        if let Some(rejected) = self.breaker.as_ref().and_then(|breaker| breaker.rejection_at(deadline.began)) {
            return Err(self.circuit_open(&rejected));
        }
        match bulkhead.enter(deadline.at).await {
            Ok(permit) => {
                let now = Instant::now();
                if deadline.at <= now { Err(self.out_of_time(deadline)) } else { Ok((Some(permit), now)) }
            }
            Err(Refused::Deadline) => Err(self.out_of_time(deadline)),
            Err(Refused::Full) => Err(self.full(bulkhead)),
        }
    }

    async fn attempts<T, F, Fut>(
        &self,
        deadline: &Deadline,
        mut began: Instant,
        idempotent: Option<bool>,
        attempt: &mut F,
    ) -> Result<T>
    where
        F: FnMut(Attempt) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        // The last fault, and the last that may have had an effect.
        let (mut fault, mut effect): (Option<Fault>, Option<Fault>) = (None, None);
        for number in 1.. {
            let admission = match self.breaker.as_ref().map(|breaker| breaker.admit()).transpose() {
                Ok(admission) => admission,
                Err(rejected) => {
                    let Some(fault) = effect.or(fault) else {
                        self.totals.count_rejected();
                        return Err(self.circuit_open(&rejected));
                    };
                    return Err(fault);
                }
            };
            if number > 1 {
                self.totals.count_retry();
            }
            let ended = {
                // Dropped with this block: nothing of an attempt outlives it, least of all into the pause.
                let under_way = pin!(attempt(Attempt { number, deadline: deadline.at }));
                match until(deadline.at, under_way).await {
                    Ok(Ok(answer)) => {
                        if let Some(admission) = admission {
                            admission.succeed();
                        }
                        return Ok(answer);
                    }
                    Ok(Err(fault)) => fault,
                    Err(_elapsed) => self.out_of_time(deadline),
                }
            };
            let counts = match ended.kind() {
                FaultKind::DeadlineExceeded => deadline.was_fair(began),
                kind => kind.counts_as_failure(),
            };
            if let Some(admission) = admission.filter(|_| counts) {
                admission.fail(ended.kind());
            }

            let now = Instant::now();
            let remaining = deadline.at.saturating_duration_since(now);
            let retry = self.policy.retry();
            let pause = idempotent.and_then(|it| retry.pause(number, &ended, it, remaining, &self.jitter));
            // Nor does anyone wait for what the breaker will refuse.
            let is_rejected = |at| self.breaker.as_ref().is_some_and(|breaker| breaker.rejection_at(at).is_some());
            let pause = pause.filter(|pause| !is_rejected(now + *pause));
            if ended.kind().nothing_begun() {
                fault = Some(ended);
            } else {
                effect = Some(ended);
            }
            let Some(pause) = pause else { break };
            tracing::debug!(edge = &*self.edge, number, ?pause, "another attempt");
            sleep(pause).await;
            began = Instant::now();
            if deadline.at <= began {
                break;
            }
        }
        Err(effect.or(fault).unwrap_or_else(|| self.out_of_time(deadline)))
    }

    #[cold]
    fn circuit_open(&self, rejected: &Rejected) -> Fault {
        // A half-open breaker can't tell when it will be closed, but its probes end by the deadline of the edge.
        let after = rejected.retry_after.unwrap_or(self.policy.deadline());
        Fault::new(FaultKind::CircuitOpen, format!("{}: {rejected}", self.edge)).with_retry_after(after)
    }

    #[cold]
    fn full(&self, bulkhead: &Bulkhead) -> Fault {
        let (concurrent, queue) = (bulkhead.policy().concurrent(), bulkhead.policy().queue());
        let message = format!(
            "{}: the bulkhead is full ({concurrent} calls may be under way and {queue} wait, and as many do)",
            self.edge,
        );
        Fault::new(FaultKind::Overloaded, message)
    }

    #[cold]
    fn out_of_time(&self, deadline: &Deadline) -> Fault {
        let given = deadline.at.saturating_duration_since(deadline.began);
        let whose = if deadline.is_callers() { "the caller's deadline" } else { "the deadline of the edge" };
        let message = if given.is_zero() {
            format!("{}: {whose} had passed before the call came", self.edge)
        } else {
            format!("{}: no answer within {given:?}, {whose}", self.edge)
        };
        Fault::new(FaultKind::DeadlineExceeded, message)
    }
}

#[cfg(test)]
mod tests;
