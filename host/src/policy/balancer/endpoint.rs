//! One of several endpoints: its load, its health, its circuit breaker.

use super::{AttemptAt, BalancePolicy};
use crate::policy::{
    Admission, Breaker, BreakerCommand, BreakerSnapshot, BreakerState, Ended, FaultKind, Health, HealthSnapshot,
    Rejected, deadline::is_fair,
};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};
use tokio::time::Instant;

/// An endpoint with its live state.
#[derive(Debug)]
pub(super) struct EndpointState<T> {
    /// No other endpoint of the service has or had it.
    pub(super) id: u64,
    pub(super) name: Arc<str>,
    pub(super) target: T,
    pub(super) health: Arc<Health>,
    breaker: Option<Arc<Breaker>>,
    counts: Arc<Counts>,
}

/// What was counted of an endpoint. It outlives every change of the manifest that leaves the endpoint there.
#[derive(Debug, Default)]
struct Counts {
    in_flight: AtomicUsize,
    calls: AtomicU64,
    failures: AtomicU64,
}

/// How an endpoint stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It gets calls.
    Healthy,
    /// Its breaker is half-open, and has room for a probe.
    OnProbation,
    /// Its breaker is open, but too many are out already: it gets calls.
    KeptIn,
    /// Its breaker is open: it gets none.
    Ejected,
    /// An operator has taken it out: it gets none.
    TakenOut,
    /// Its health probes failed: it gets none.
    Unhealthy,
}

/// An endpoint that was picked for an attempt, and waits to hear how that went.
///
/// Dropped untold, the attempt was given up, and says nothing of the endpoint; but if the deadline has passed by then, it
/// was the endpoint that let it pass.
#[derive(Debug)]
#[must_use = "tell the endpoint how the attempt went"]
pub struct Picked<'a, T> {
    endpoint: &'a Arc<EndpointState<T>>,
    admission: Option<Admission<'a>>,
    in_flight: Option<InFlight>,
    attempt: AttemptAt<'a>,
    began: Instant,
}

/// A call under way at an endpoint. It is one until this is dropped.
#[derive(Debug)]
pub struct InFlight(Arc<Counts>);

/// An endpoint as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSnapshot {
    /// Its origin.
    pub endpoint: String,
    /// How it stands.
    pub standing: Standing,
    /// Why it is not simply healthy.
    pub reason: Option<String>,
    /// Calls under way, those whose answer is still streaming too.
    pub in_flight: u64,
    /// Attempts of calls that went to it.
    pub calls: u64,
    /// Those of them that failed.
    pub failures: u64,
    /// Its breaker, if it has one.
    pub breaker: Option<BreakerSnapshot>,
    /// What its probes say, if it is probed.
    pub health: Option<HealthSnapshot>,
}

// === impl EndpointState ===

impl<T> EndpointState<T> {
    pub(super) fn new(id: u64, service: &str, name: Arc<str>, target: T, policy: &BalancePolicy) -> Self {
        let breaker = new_breaker(service, &name, policy);
        Self { id, name, target, health: Arc::default(), breaker, counts: Arc::default() }
    }

    /// The same endpoint, reached in another way or under another policy.
    pub(super) fn changed(&self, service: &str, target: T, policy: &BalancePolicy) -> Self {
        let breaker = match (&self.breaker, policy.outlier) {
            (Some(breaker), Some(outlier)) if breaker.policy() == outlier.breaker() => Some(Arc::clone(breaker)),
            (Some(breaker), Some(outlier)) => Some(Arc::new(breaker.with_policy(*outlier.breaker()))),
            (None, _) | (_, None) => new_breaker(service, &self.name, policy),
        };
        // What was found out by probes is nothing to go by where there are none: nobody would ever find out otherwise.
        let health = if policy.health.is_some() { Arc::clone(&self.health) } else { Arc::default() };
        Self { id: self.id, name: Arc::clone(&self.name), target, health, breaker, counts: Arc::clone(&self.counts) }
    }

    /// Whether there is nothing to think about.
    pub(super) fn is_well(&self) -> bool {
        self.health.is_healthy() && self.breaker.as_ref().is_none_or(|breaker| breaker.lets_all_pass())
    }

    /// How it stands by itself: whether it may be ejected depends on the others.
    pub(super) fn standing(&self) -> Standing {
        if !self.health.is_healthy() {
            return Standing::Unhealthy;
        }
        if self.is_well() {
            return Standing::Healthy;
        }
        match self.refusal() {
            Some(refusal) if refusal.state == BreakerState::ForcedOpen => Standing::TakenOut,
            Some(_) => Standing::Ejected,
            None => Standing::OnProbation,
        }
    }

    /// Does to its breaker what an operator says. `None` if it has none.
    pub(super) fn command(&self, command: BreakerCommand) -> Option<()> {
        self.breaker.as_ref().map(|breaker| breaker.command(command))
    }

    /// What its breaker says, if it lets no call pass.
    pub(super) fn refusal(&self) -> Option<Rejected> {
        self.breaker.as_ref().and_then(|breaker| breaker.refusal())
    }

    pub(super) fn in_flight(&self) -> usize {
        self.counts.in_flight.load(Relaxed)
    }

    /// Begins a call. `None` if the breaker of an ejected endpoint does not let it pass; that of another has no say.
    pub(super) fn enter<'a>(self: &'a Arc<Self>, is_ejected: bool, attempt: AttemptAt<'a>) -> Option<Picked<'a, T>> {
        let admission = match self.breaker.as_ref().map(|breaker| breaker.admit()) {
            Some(Ok(admission)) => Some(admission),
            Some(Err(_)) if is_ejected => return None,
            Some(Err(_)) | None => None,
        };
        self.counts.calls.fetch_add(1, Relaxed);
        self.counts.in_flight.fetch_add(1, Relaxed);
        let in_flight = Some(InFlight(Arc::clone(&self.counts)));
        Some(Picked { endpoint: self, admission, in_flight, attempt, began: Instant::now() })
    }

    /// Why it is out, as the end of a sentence.
    pub(super) fn why(&self) -> String {
        match (self.health.is_healthy(), self.refusal()) {
            (false, _) => format!("is unhealthy ({})", self.health.problem().unwrap_or_default()),
            (true, Some(Rejected { state: BreakerState::ForcedOpen, .. })) => "was taken out by an operator".into(),
            (true, Some(Rejected { reason: Some(reason), .. })) => format!("is ejected ({reason})"),
            (true, _) => "is on probation".into(),
        }
    }

    pub(super) fn snapshot(&self, standing: Standing, has_health: bool) -> EndpointSnapshot {
        let breaker = self.breaker.as_ref().map(|breaker| breaker.snapshot());
        let reason = match standing {
            Standing::Healthy => breaker.as_ref().and_then(|breaker| match breaker.state {
                BreakerState::Disabled => Some("its circuit breaker is disabled".to_owned()),
                BreakerState::MetricsOnly => Some("its circuit breaker only counts".to_owned()),
                _ => None,
            }),
            Standing::Unhealthy => self.health.problem(),
            Standing::TakenOut => Some("by an operator".to_owned()),
            Standing::Ejected | Standing::KeptIn | Standing::OnProbation => {
                breaker.as_ref().and_then(|breaker| breaker.last_trip).map(|trip| trip.to_string())
            }
        };
        EndpointSnapshot {
            endpoint: self.name.to_string(),
            standing,
            reason,
            in_flight: self.in_flight() as u64,
            calls: self.counts.calls.load(Relaxed),
            failures: self.counts.failures.load(Relaxed),
            breaker,
            health: has_health.then(|| self.health.snapshot()),
        }
    }
}

fn new_breaker(service: &str, endpoint: &str, policy: &BalancePolicy) -> Option<Arc<Breaker>> {
    let outlier = policy.outlier?;
    Some(Arc::new(Breaker::new(format!("{service} at {endpoint}").into(), *outlier.breaker())))
}

// === impl Standing ===

impl Standing {
    /// The name that status and JSON use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::OnProbation => "on-probation",
            Self::KeptIn => "kept-in",
            Self::Ejected => "ejected",
            Self::TakenOut => "taken-out",
            Self::Unhealthy => "unhealthy",
        }
    }

    /// Whether calls may go to it.
    pub const fn takes_calls(self) -> bool {
        matches!(self, Self::Healthy | Self::OnProbation | Self::KeptIn)
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Picked ===

impl<T> Picked<'_, T> {
    /// What is needed to call it.
    pub fn target(&self) -> &T {
        &self.endpoint.target
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.endpoint.name
    }

    pub(super) fn id(&self) -> u64 {
        self.endpoint.id
    }

    /// Tells how the attempt ended. It stays in flight until what is returned is dropped, for an answer that streams.
    pub fn end(mut self, ended: Ended) -> Option<InFlight> {
        self.record(ended, Instant::now());
        self.in_flight.take()
    }

    fn record(&mut self, ended: Ended, now: Instant) {
        let AttemptAt { policy, deadline } = self.attempt;
        let given = deadline.saturating_duration_since(self.began);
        let was_fair = is_fair(given, policy.params().deadline);
        let took = now.saturating_duration_since(self.began);
        let Some(outcome) = policy.params().failure.outcome(ended, took, was_fair) else { return };
        if outcome.failure.is_some() {
            self.endpoint.counts.failures.fetch_add(1, Relaxed);
        }
        if let Some(admission) = self.admission.take() {
            admission.end(outcome, now);
        }
    }
}

impl<T> Drop for Picked<'_, T> {
    fn drop(&mut self) {
        let now = Instant::now();
        if self.in_flight.is_some() && now >= self.attempt.deadline {
            self.record(Ended::Fault(FaultKind::DeadlineExceeded), now);
        }
    }
}

// === impl InFlight ===

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}
