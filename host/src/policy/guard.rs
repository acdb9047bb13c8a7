//! The guard of an edge: runs calls under the edge's policy.

use super::{
    Breaker, BreakerCommand, BreakerSnapshot, BudgetSnapshot, Deadline, Ended, Fault, FaultKind, InjectPolicy, Jitter,
    Outcome, Policy, Rejected, Repeat, Result,
    budget::Budget,
    bulkhead::{Bulkhead, Permit, Refused},
    deadline::{Allowance, until},
    totals::Totals,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, future::Future, pin::pin, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};

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
    /// Where the policy has one, and retries at all.
    budget: Option<Arc<Budget>>,
    totals: Arc<Totals>,
    jitter: Jitter,
}

/// One try of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Which try it is, from 1.
    pub number: u32,
    /// When the attempt is dropped, answered or not; the nearer of the caller's and the edge's own deadline, and the
    /// same for all attempts of a call.
    pub deadline: Deadline,
}

/// What the callee answered, with what of it concerns the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<T> {
    /// The answer.
    pub value: T,
    /// Its HTTP status, if it has one: the policy says whether it counts as a failure.
    pub status: Option<u16>,
    /// After how long the callee wants to be asked again, if it says so (HTTP's `Retry-After`).
    pub retry_after: Option<Duration>,
}

/// How an attempt ended, and what follows from it.
enum Tried<T> {
    /// With an answer that is none to retry or to complain of.
    Answered(T),
    Failed(Failed<T>),
}

/// An attempt that may be followed by another.
struct Failed<T> {
    /// What the caller gets if none follows.
    result: Result<T>,
    ended: Ended,
    told: Option<Duration>,
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
    /// Answers of the callee that counted as failures by their HTTP status, retried ones included.
    pub failed_answers: u64,
    /// Attempts after the first of a call.
    pub retries: u64,
    /// The retry budget, if the edge has one.
    pub budget: Option<BudgetSnapshot>,
    /// Retries that the budget did not allow.
    pub refused_retries: u64,
    /// Calls that ended without any attempt: the breaker was open, the bulkhead full, or the time over.
    pub rejected: u64,
    /// Stale answers that callers got in place of failures.
    pub stale_answers: u64,
    /// Fixed answers that callers got in place of failures.
    pub fixed_answers: u64,
    /// What is done to attempts on purpose, if anything.
    pub inject: Option<String>,
    /// Attempts that it was done to.
    pub injected: u64,
}

// === impl Answer ===

impl<T> Answer<T> {
    /// An answer that is good whatever it says.
    pub fn of(value: T) -> Self {
        Self { value, status: None, retry_after: None }
    }
}

// === impl Guard ===

impl Guard {
    /// A guard with a closed breaker. `edge` names it in logs, status and faults: "order -> user".
    pub fn new(edge: impl Into<Arc<str>>, policy: Policy) -> Self {
        let edge = edge.into();
        let of = policy.params();
        let breaker = of.breaker.map(|policy| Arc::new(Breaker::new(Arc::clone(&edge), policy)));
        let bulkhead = of.bulkhead.as_ref().map(|policy| Arc::new(Bulkhead::new(policy.clone())));
        let budget = budget_of(&policy).map(|policy| Arc::new(Budget::new(policy)));
        tell_injection(&edge, None, of.inject.as_ref());
        Self { edge, policy, breaker, bulkhead, budget, totals: Arc::default(), jitter: Jitter::FULL }
    }

    /// A guard for the same edge under another policy: the counters and the breaker's state carry on.
    ///
    /// Calls under way finish under the old policy. If the bulkhead is changed, the new one doesn't see them, so for
    /// the time that they take more calls may be under way than it says.
    #[must_use]
    pub fn with_policy(&self, policy: Policy) -> Self {
        let of = policy.params();
        let breaker = of.breaker.map(|policy| match &self.breaker {
            Some(breaker) if *breaker.policy() == policy => Arc::clone(breaker),
            Some(breaker) => Arc::new(breaker.with_policy(policy)),
            None => Arc::new(Breaker::new(Arc::clone(&self.edge), policy)),
        });
        let bulkhead = of.bulkhead.as_ref().map(|policy| match &self.bulkhead {
            Some(bulkhead) if bulkhead.policy() == policy => Arc::clone(bulkhead),
            _ => Arc::new(Bulkhead::new(policy.clone())),
        });
        let budget = budget_of(&policy).map(|policy| match &self.budget {
            Some(budget) if *budget.policy() == policy => Arc::clone(budget),
            _ => Arc::new(Budget::new(policy)),
        });
        tell_injection(&self.edge, self.policy.params().inject.as_ref(), of.inject.as_ref());
        let (edge, totals) = (Arc::clone(&self.edge), Arc::clone(&self.totals));
        Self { edge, policy, breaker, bulkhead, budget, totals, jitter: self.jitter.clone() }
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

    /// Counts an answer that a caller got in place of a failure: a stale one, or a fixed one.
    pub fn count_fallback(&self, is_stale: bool) {
        self.totals.count_fallback(is_stale);
    }

    /// Does to the breaker what an operator says. `None` if the edge has none.
    pub fn command(&self, command: BreakerCommand) -> Option<()> {
        self.breaker.as_ref().map(|breaker| breaker.command(command))
    }

    /// The callee is another one than it was: see [`Breaker::callee_changed`](super::Breaker::callee_changed).
    pub fn callee_changed(&self) {
        if let Some(breaker) = &self.breaker {
            breaker.callee_changed();
        }
    }

    /// Runs a call: `attempt` makes it, once or, after a failure that allows another try, again. `deadline` is the
    /// caller's own. Whatever the callee answers is `Ok`, its domain errors too; an answer with a status that the policy
    /// calls a failure counts as one, may be retried like one, and is `Ok` all the same.
    ///
    /// Dropping the future gives the call up: the attempt under way is dropped, and its places in bulkhead and breaker
    /// are free again.
    ///
    /// # Errors
    ///
    /// What the last attempt ended with, or why there was none: `circuit-open`, `overloaded`, `deadline-exceeded`. A
    /// fault that says that nothing was begun is true of all attempts: if an earlier one may have had its effect, it is
    /// that one's fault that is returned.
    pub async fn run<T, F, Fut>(&self, deadline: &Deadline, repeat: Repeat, mut attempt: F) -> Result<T>
    where
        F: FnMut(Attempt) -> Fut,
        Fut: Future<Output = Result<Answer<T>>>,
    {
        let call = self.totals.begin();
        let began = Instant::now();
        let allowance = Allowance::new(began, (self.policy.params().deadline, &self.edge), deadline);
        if let Some(budget) = &self.budget {
            budget.deposit(began);
        }
        let result = match self.enter(&allowance).await {
            Ok(permit) => {
                let began = permit.as_ref().map_or(began, Permit::began);
                self.attempts(&allowance, began, repeat, &mut attempt).await
            }
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
            failed_answers: self.totals.failed_answers(),
            retries: self.totals.retries(),
            budget: self.budget.as_ref().map(|budget| budget.snapshot()),
            refused_retries: self.totals.refused_retries(),
            rejected: self.totals.rejected(),
            stale_answers: self.totals.stale_answers(),
            fixed_answers: self.totals.fixed_answers(),
            inject: self.policy.params().inject.map(|inject| inject.to_string()),
            injected: self.totals.injected(),
        }
    }

    /// Passes the bulkhead.
    async fn enter(&self, allowance: &Allowance) -> Result<Option<Permit<'_>>> {
        let (began, deadline) = (allowance.began, allowance.at());
        if deadline <= began {
            return Err(self.out_of_time(allowance));
        }
        let Some(bulkhead) = &self.bulkhead else { return Ok(None) };
        if let Some(permit) = bulkhead.try_enter(began) {
            return Ok(Some(permit));
        }
        // What will be refused at the end of the queue need not stand in it.
        if let Some(rejected) = self.breaker.as_ref().and_then(|breaker| breaker.rejection_at(began)) {
            return Err(self.circuit_open(&rejected));
        }
        match bulkhead.enter(began, deadline).await {
            Ok(permit) if deadline <= permit.began() => Err(self.out_of_time(allowance)),
            Ok(permit) => Ok(Some(permit)),
            Err(Refused::Deadline) => Err(self.out_of_time(allowance)),
            Err(Refused::Full) => Err(self.full(bulkhead)),
            Err(Refused::Hopeless(wait)) => Err(self.hopeless(bulkhead, wait, allowance)),
        }
    }

    async fn attempts<T, F, Fut>(
        &self,
        allowance: &Allowance,
        mut began: Instant,
        repeat: Repeat,
        attempt: &mut F,
    ) -> Result<T>
    where
        F: FnMut(Attempt) -> Fut,
        Fut: Future<Output = Result<Answer<T>>>,
    {
        // What the last attempt came to, and the last fault that may have had an effect.
        let (mut last, mut effect): (Option<Result<T>>, Option<Fault>) = (None, None);
        for number in 1.. {
            let admission = match self.breaker.as_ref().map(|breaker| breaker.admit()).transpose() {
                Ok(admission) => admission,
                Err(rejected) => {
                    if last.is_none() {
                        self.totals.count_rejected();
                        return Err(self.circuit_open(&rejected));
                    }
                    break;
                }
            };
            if number > 1 {
                self.totals.count_retry();
            }
            let injected = match &self.policy.params().inject {
                Some(inject) if inject.hits() => self.inject(inject, allowance).await,
                _ => None,
            };
            let result = match injected {
                Some(fault) => Err(fault),
                None => {
                    // Dropped with this block: nothing of an attempt outlives it, least of all into the pause.
                    let deadline = allowance.until.clone();
                    let under_way = pin!(attempt(Attempt { number, deadline }));
                    until(allowance.at(), under_way).await.unwrap_or_else(|_elapsed| Err(self.out_of_time(allowance)))
                }
            };
            let now = Instant::now();
            let (tried, outcome) = self.judge(result, began, now, allowance);
            if let (Some(admission), Some(outcome)) = (admission, outcome) {
                admission.end(outcome, now);
            }
            let Failed { result, ended, told } = match tried {
                Tried::Answered(value) => return Ok(value),
                Tried::Failed(failed) => failed,
            };

            let remaining = allowance.at().saturating_duration_since(now);
            let pause = self.policy.params().retry.pause(number, (ended, told), repeat, remaining, &self.jitter);
            // Nor does anyone wait for what the breaker will refuse.
            let is_rejected = |at| self.breaker.as_ref().is_some_and(|breaker| breaker.rejection_at(at).is_some());
            let pause = pause.filter(|pause| !is_rejected(now + *pause) && self.affords(now));
            if let Err(fault) = &result
                && !fault.kind().nothing_begun()
            {
                effect = Some(fault.clone());
            }
            last = Some(result);
            let Some(pause) = pause else { break };
            tracing::debug!(edge = &*self.edge, number, ?pause, "another attempt");
            sleep(pause).await;
            began = Instant::now();
            if allowance.at() <= began {
                break;
            }
        }
        match (last, effect) {
            (Some(Ok(answer)), _) => Ok(answer),
            (_, Some(effect)) => Err(effect),
            (Some(Err(fault)), None) => Err(fault),
            // There is always an attempt, or its refusal.
            (None, None) => Err(self.out_of_time(allowance)),
        }
    }

    /// What an attempt that ended `now` comes to: for the caller, and for the breaker. `None` for the breaker where it
    /// says nothing of the callee.
    fn judge<T>(
        &self,
        result: Result<Answer<T>>,
        began: Instant,
        now: Instant,
        allowance: &Allowance,
    ) -> (Tried<T>, Option<Outcome>) {
        let policy = &self.policy.params().failure;
        let took = now.saturating_duration_since(began);
        match result {
            Ok(Answer { value, status, retry_after }) => {
                let status = status.unwrap_or_default();
                let outcome = policy.outcome(Ended::Status(status), took, true);
                let is_failure = outcome.is_some_and(|outcome| outcome.failure.is_some());
                if !is_failure && !self.policy.params().retry.params().status.contains(status) {
                    return (Tried::Answered(value), outcome);
                }
                if is_failure {
                    self.totals.count_failed_answer();
                }
                let failed = Failed { result: Ok(value), ended: Ended::Status(status), told: retry_after };
                (Tried::Failed(failed), outcome)
            }
            Err(fault) => {
                let ended = fault.ended();
                let outcome = policy.outcome(ended, took, allowance.was_fair(began));
                let told = fault.retry_after();
                (Tried::Failed(Failed { result: Err(fault), ended, told }), outcome)
            }
        }
    }

    /// Whether the budget has one more retry, which is then made.
    fn affords(&self, now: Instant) -> bool {
        let affords = self.budget.as_ref().is_none_or(|budget| budget.withdraw(now));
        if !affords {
            self.totals.count_refused_retry();
            tracing::debug!(edge = &*self.edge, "the retry budget is spent");
        }
        affords
    }

    #[cold]
    async fn inject(&self, inject: &InjectPolicy, allowance: &Allowance) -> Option<Fault> {
        self.totals.count_injected();
        if let Some(delay) = inject.delay()
            && until(allowance.at(), pin!(sleep(delay))).await.is_err()
        {
            return Some(self.out_of_time(allowance));
        }
        inject.injected(&self.edge)
    }

    #[cold]
    fn circuit_open(&self, rejected: &Rejected) -> Fault {
        // A half-open breaker can't tell when it will be closed, but its probes end by the deadline of the edge.
        let after = rejected.retry_after.unwrap_or(self.policy.params().deadline);
        let fault = Fault::new(FaultKind::CircuitOpen, format!("{}: {rejected}", self.edge)).with_retry_after(after);
        match rejected.reason {
            Some(reason) => fault.with_trip(reason),
            None => fault,
        }
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
    fn hopeless(&self, bulkhead: &Bulkhead, wait: Duration, allowance: &Allowance) -> Fault {
        let left = allowance.at().saturating_duration_since(allowance.began);
        let message = format!(
            "{}: {} calls wait before the bulkhead, which takes about {wait:.1?}, and the call has {left:.1?} left",
            self.edge,
            bulkhead.queued(),
        );
        Fault::new(FaultKind::Overloaded, message).with_retry_after(wait)
    }

    #[cold]
    fn out_of_time(&self, allowance: &Allowance) -> Fault {
        let given = allowance.at().saturating_duration_since(allowance.began);
        let whose = match allowance.is_callers() {
            true => format!("the deadline of `{}`", allowance.until.of),
            false => "the deadline of the edge".into(),
        };
        let message = if given.is_zero() {
            format!("{}: {whose} had passed before the call came", self.edge)
        } else if allowance.is_callers() {
            format!("{}: no answer within {given:?}, what was left of {whose}", self.edge)
        } else {
            format!("{}: no answer within {given:?}, {whose}", self.edge)
        };
        Fault::new(FaultKind::DeadlineExceeded, message)
    }
}

/// The budget of a policy that retries at all.
fn budget_of(policy: &Policy) -> Option<super::BudgetPolicy> {
    let retry = &policy.params().retry;
    retry.params().budget.filter(|_| retry.retries())
}

/// Nobody shall wonder why an edge fails that was told to.
fn tell_injection(edge: &str, before: Option<&InjectPolicy>, now: Option<&InjectPolicy>) {
    match (before, now) {
        (before, Some(now)) if before != Some(now) => tracing::warn!(edge, inject = %now, "FAULT INJECTION IS ON"),
        (Some(_), None) => tracing::warn!(edge, "fault injection is off again"),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
