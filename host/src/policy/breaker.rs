//! The circuit breaker of an edge, or of one of several endpoints.
//!
//! ```text
//!      failures in a row, failure rate, slow rate        open time over
//!   closed ──────────────────────────────────────▶ open ────────────────▶ half-open
//!     ▲                                              ▲                      │   │
//!     │                                              └── the probes failed ─┘   │
//!     └───────────────────────────────────────────────────── the probes passed ─┘
//!
//!   An operator's: forced-open, disabled, metrics-only; a reset leads to closed.
//! ```
//!
//! A callee in trouble is made worse by more calls, and a caller in line behind it by waiting for it. An open breaker
//! answers at once and leaves the callee alone for a while; a half-open one lets a set number of calls through as probes
//! and refuses the others, so that a callee that just came back isn't met by all who missed it.
//!
//! Failures in a row find a dead callee within a few calls, and never find one that fails every second call. So there
//! are rates beside them: of failed and of slow calls, over the last calls or the last stretch of time. The window by
//! time is for decisions that don't depend on how many calls come: a burst of failures at a high rate of calls decides as
//! the same share of failures spread out. A rate waits for a minimum of calls, because one failure of one call is 100 %.
//!
//! The probes are decided on together, by the same rates as the calls in the window: one unlucky probe among ten doesn't
//! keep out a callee that the policy would leave closed. The decision falls as soon as the probes under way can't change
//! it. States, windows and the half-open decision are those of resilience4j's `CircuitBreakerStateMachine`, whose
//! documented cases are among the tests; the early decision and the row of failures (Envoy's `consecutive_5xx`,
//! linkerd's `consecutive-failures`) are not from there.
//!
//! An opening that follows hard on another, from half-open or sooner after closing than it had been open, doubles the
//! open time up to the policy's maximum: a callee that flaps is asked ever more rarely.
//!
//! Nearly always a breaker is closed and its calls succeed, so that way is one atomic load before the call and one
//! after it, and with a window two counts more. All else, transitions and whatever an open or half-open breaker is
//! asked, takes a lock.

mod policy;
mod state;
mod window;
mod word;

pub use self::{
    policy::{BreakerMode, BreakerParams, BreakerPolicy, WindowSize},
    state::{BreakerCommand, BreakerSnapshot, BreakerState, Rejected, TripReason},
    window::WindowSums,
};

use self::{
    policy::Decision,
    state::{Probes, Reason},
    window::Window,
    word::Word,
};
use super::Outcome;
use arc_swap::ArcSwap;
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::Instant;

/// The live breaker of an edge or an endpoint.
#[derive(Debug)]
pub struct Breaker {
    name: Arc<str>,
    policy: BreakerPolicy,
    /// State, generation and failures in a row.
    ///
    /// `Relaxed` suffices for it everywhere: on the strength of a word alone nothing is read but the word. The rest is
    /// behind the lock, and the word changes its state only while the lock is held.
    word: AtomicU64,
    /// For a policy with rates.
    window: Option<Arc<ArcSwap<Window>>>,
    rest: Mutex<Rest>,
}

/// What only an open or half-open breaker is asked, and people.
#[derive(Clone, Debug)]
struct Rest {
    /// When the present state began.
    since: Instant,
    /// Why it opened the last time, or would have.
    last_trip: Option<TripReason>,
    /// Openings that followed hard on each other.
    openings: u32,
    /// In half-open.
    probes: Probes,
    /// In metrics-only: when it last said that it would have opened.
    told: Option<Instant>,
}

/// The breaker let an attempt pass, and waits to hear how it went.
///
/// Dropped untold, the attempt counts for nothing, and the place of a probe is free for another.
#[derive(Debug)]
#[must_use = "tell the breaker how the attempt went"]
pub struct Admission<'a> {
    breaker: &'a Breaker,
    /// The word's generation when the attempt began.
    generation: u32,
    is_probe: bool,
}

/// What is to be told once the lock is released.
#[derive(Debug)]
enum Told {
    Entered(BreakerState, Option<TripReason>, Duration),
    WouldHaveOpened(TripReason),
}

// === impl Breaker ===

impl Breaker {
    /// A breaker in the first state of its policy. `name` is the edge's or the endpoint's, for the log.
    pub fn new(name: Arc<str>, policy: BreakerPolicy) -> Self {
        let rest = Rest { since: Instant::now(), last_trip: None, openings: 0, probes: Probes::default(), told: None };
        let word = Word::first(first_state(&policy));
        Self { name, policy, word: AtomicU64::new(word.into()), window: new_window(&policy), rest: Mutex::new(rest) }
    }

    /// A breaker in the same state under another policy. An open time that is under way is measured by the new policy;
    /// probes start afresh, and what is under way at the old breaker counts no more. A window of another size starts
    /// empty.
    #[must_use]
    pub fn with_policy(&self, policy: BreakerPolicy) -> Self {
        let rest = self.lock();
        let mut word = self.word();
        let mut rest = Rest { probes: Probes::default(), ..rest.clone() };
        let is_operators = matches!(word.state(), BreakerState::ForcedOpen | BreakerState::Disabled);
        let begins = self.policy.params().mode != policy.params().mode && !is_operators;
        if begins {
            word = word.next(first_state(&policy));
            rest.since = Instant::now();
        }
        let same = self.policy.params().window == policy.params().window && policy.has_rates() && !begins;
        let window = self.window.as_ref().filter(|_| same).cloned().or_else(|| new_window(&policy));
        Self { name: Arc::clone(&self.name), policy, word: AtomicU64::new(word.into()), window, rest: Mutex::new(rest) }
    }

    /// The policy.
    pub fn policy(&self) -> &BreakerPolicy {
        &self.policy
    }

    /// Asks for an attempt to pass.
    ///
    /// # Errors
    ///
    /// When the breaker is open or forced open, or half-open with all its probes under way.
    pub fn admit(&self) -> Result<Admission<'_>, Rejected> {
        let word = self.word();
        if word.state().lets_pass() {
            return Ok(Admission { breaker: self, generation: word.generation(), is_probe: false });
        }
        self.admit_probe()
    }

    /// What a call at this time, now or later, would surely be told: that the breaker is open. Asks without becoming a
    /// probe; a half-open breaker may have a place by then.
    pub fn rejection_at(&self, at: Instant) -> Option<Rejected> {
        if self.word().state().lets_pass() {
            return None;
        }
        let rest = self.lock();
        self.rejection(self.word().state(), &rest, at)
    }

    /// What a call would be told now, if it would be refused: also by a half-open breaker whose probes are all under way.
    /// Asks without becoming a probe.
    pub fn refusal(&self) -> Option<Rejected> {
        if self.lets_all_pass() {
            return None;
        }
        let rest = self.lock();
        match self.word().state() {
            BreakerState::HalfOpen => self.no_place(&rest),
            state => self.rejection(state, &rest, Instant::now()),
        }
    }

    /// Whether it is in a state in which every call passes.
    pub fn lets_all_pass(&self) -> bool {
        self.word().state().lets_pass()
    }

    /// Does what an operator says.
    pub fn command(&self, command: BreakerCommand) {
        let mut rest = self.lock();
        let now = Instant::now();
        let to = match command {
            BreakerCommand::ForceOpen => {
                rest.last_trip = Some(TripReason::Operator);
                BreakerState::ForcedOpen
            }
            BreakerCommand::Disable => BreakerState::Disabled,
            BreakerCommand::MetricsOnly => BreakerState::MetricsOnly,
            BreakerCommand::Reset => {
                (rest.last_trip, rest.openings) = (None, 0);
                first_state(&self.policy)
            }
        };
        rest.told = None;
        self.renew_window();
        let told = self.enter(&mut rest, to, now);
        drop(rest);
        self.tell(Some(told));
    }

    /// The callee is another one than it was: if the breaker is open, it lets probes through at once. What an operator said
    /// stays.
    pub fn callee_changed(&self) {
        let mut rest = self.lock();
        if self.word().state() != BreakerState::Open {
            return;
        }
        rest.openings = 0;
        let told = self.enter(&mut rest, BreakerState::HalfOpen, Instant::now());
        drop(rest);
        self.tell(Some(told));
    }

    /// The breaker as it is now.
    pub fn snapshot(&self) -> BreakerSnapshot {
        let rest = self.lock();
        let (word, now) = (self.word(), Instant::now());
        let probe_at = rest.since + self.policy.open_time(rest.openings);
        let is_open = word.state() == BreakerState::Open;
        BreakerSnapshot {
            state: word.state(),
            state_for_ms: millis(now.saturating_duration_since(rest.since)),
            last_trip: rest.last_trip,
            consecutive_failures: word.failures(),
            window: self.window.as_ref().map(|window| window.load().sums(now)),
            retry_after_ms: is_open.then(|| millis(probe_at.saturating_duration_since(now))),
            probes: rest.probes.under_way,
            openings: rest.openings,
        }
    }

    #[cold]
    fn admit_probe(&self) -> Result<Admission<'_>, Rejected> {
        let mut rest = self.lock();
        // Read again: it may have changed before the lock was had.
        let word = self.word();
        let told = match word.state() {
            state if state.lets_pass() => {
                return Ok(Admission { breaker: self, generation: word.generation(), is_probe: false });
            }
            BreakerState::HalfOpen => {
                if let Some(rejected) = self.no_place(&rest) {
                    return Err(rejected);
                }
                None
            }
            state => {
                let now = Instant::now();
                if let Some(rejected) = self.rejection(state, &rest, now) {
                    return Err(rejected);
                }
                Some(self.enter(&mut rest, BreakerState::HalfOpen, now))
            }
        };
        rest.probes.under_way += 1;
        drop(rest);
        self.tell(told);
        Ok(Admission { breaker: self, generation: self.word().generation(), is_probe: true })
    }

    /// The answer of a half-open breaker, while it has all its probes.
    fn no_place(&self, rest: &Rest) -> Option<Rejected> {
        let is_full = rest.probes.under_way + rest.probes.ended >= self.policy.params().half_open;
        is_full.then_some(Rejected { state: BreakerState::HalfOpen, reason: rest.last_trip, retry_after: None })
    }

    /// The answer of an open breaker, until its open time is over.
    fn rejection(&self, state: BreakerState, rest: &Rest, at: Instant) -> Option<Rejected> {
        let retry_after = match state {
            BreakerState::Open => {
                let until = rest.since + self.policy.open_time(rest.openings);
                Some(until.checked_duration_since(at).filter(|left| !left.is_zero())?)
            }
            BreakerState::ForcedOpen => None,
            _ => return None,
        };
        Some(Rejected { state, reason: rest.last_trip, retry_after })
    }

    /// Counts an attempt that no probe was.
    fn record(&self, generation: u32, outcome: Outcome, now: Instant) {
        let word = self.word();
        // The outcome of an attempt that began before the last transition is old news: it must not open a breaker whose
        // probes just found the callee well, nor make one look well that was opened meanwhile.
        if word.generation() != generation || word.state() == BreakerState::Disabled {
            return;
        }
        let sums = self.window.as_ref().and_then(|window| window.load().record(outcome, now));
        let failures = if outcome.failure.is_some() || word.failures() > 0 { self.count(word, outcome) } else { 0 };
        if (outcome.failure.is_some() || sums.is_some())
            && let Some(reason) = self.policy.trip(failures, sums, outcome)
        {
            self.trip(generation, reason, now);
        }
    }

    /// Counts the failures in a row.
    fn count(&self, mut word: Word, outcome: Outcome) -> u32 {
        let generation = word.generation();
        while word.generation() == generation {
            let failures = if outcome.failure.is_some() { word.failures().saturating_add(1) } else { 0 };
            match self.swap(word, word.with_failures(failures)) {
                Ok(()) => return failures,
                Err(newer) => word = newer,
            }
        }
        0
    }

    #[cold]
    fn trip(&self, generation: u32, reason: TripReason, now: Instant) {
        let mut rest = self.lock();
        let word = self.word();
        // Another was first.
        if word.generation() != generation {
            return;
        }
        let told = if word.state() == BreakerState::MetricsOnly {
            let open = self.policy.params().open;
            let is_new = rest.told.is_none_or(|told| now.saturating_duration_since(told) >= open);
            rest.last_trip = Some(reason);
            is_new.then(|| {
                rest.told = Some(now);
                Told::WouldHaveOpened(reason)
            })
        } else {
            Some(self.open(&mut rest, reason, now))
        };
        drop(rest);
        self.tell(told);
    }

    #[cold]
    fn record_probe(&self, generation: u32, outcome: Option<(Outcome, Instant)>) {
        let mut rest = self.lock();
        let word = self.word();
        // The others decided meanwhile, and the breaker is closed or open, or half-open for another time.
        if word.state() != BreakerState::HalfOpen || word.generation() != generation {
            return;
        }
        let probes = &mut rest.probes;
        probes.under_way -= 1;
        let Some((outcome, now)) = outcome else { return };
        probes.ended += 1;
        probes.failed += u32::from(outcome.failure.is_some());
        probes.slow += u32::from(outcome.slow);
        let told = match self.policy.decide(probes, outcome.failure) {
            None => return,
            Some(Decision::Open(reason)) => self.open(&mut rest, reason, now),
            Some(Decision::Close) => {
                self.renew_window();
                self.enter(&mut rest, BreakerState::Closed, now)
            }
        };
        drop(rest);
        self.tell(Some(told));
    }

    fn open(&self, rest: &mut Rest, reason: TripReason, now: Instant) -> Told {
        let was_open = self.policy.open_time(rest.openings);
        let closed_for = now.saturating_duration_since(rest.since);
        let hard_upon = rest.openings > 0 && (self.word().state() == BreakerState::HalfOpen || closed_for < was_open);
        rest.openings = if hard_upon { rest.openings.saturating_add(1) } else { 1 };
        rest.last_trip = Some(reason);
        self.enter(rest, BreakerState::Open, now)
    }

    fn enter(&self, rest: &mut Rest, state: BreakerState, now: Instant) -> Told {
        self.word.store(self.word().next(state).into(), Relaxed);
        (rest.since, rest.probes) = (now, Probes::default());
        Told::Entered(state, rest.last_trip, self.policy.open_time(rest.openings))
    }

    /// What was counted does not count in another state.
    fn renew_window(&self) {
        if let Some(window) = &self.window {
            window.store(Arc::new(Window::new(self.policy.params().window)));
        }
    }

    fn tell(&self, told: Option<Told>) {
        let edge = &*self.name;
        match told {
            None => {}
            Some(Told::WouldHaveOpened(reason)) => {
                tracing::warn!(edge, %reason, "circuit breaker would have opened; it only counts");
            }
            Some(Told::Entered(state, reason, open_for)) => {
                let reason = Reason(&reason);
                match state {
                    BreakerState::Open => tracing::warn!(edge, %reason, ?open_for, "circuit breaker opened"),
                    BreakerState::HalfOpen => {
                        let probes = self.policy.params().half_open;
                        tracing::info!(edge, %reason, probes, "circuit breaker half-open");
                    }
                    BreakerState::Closed => tracing::info!(edge, %reason, "circuit breaker closed"),
                    BreakerState::ForcedOpen => tracing::warn!(edge, "circuit breaker forced open by an operator"),
                    BreakerState::Disabled => tracing::warn!(edge, "circuit breaker disabled by an operator"),
                    BreakerState::MetricsOnly => tracing::warn!(edge, "circuit breaker only counts"),
                }
            }
        }
    }

    fn word(&self) -> Word {
        self.word.load(Relaxed).into()
    }

    fn swap(&self, old: Word, new: Word) -> Result<(), Word> {
        let swapped = self.word.compare_exchange_weak(old.into(), new.into(), Relaxed, Relaxed);
        swapped.map(drop).map_err(Word::from)
    }

    fn lock(&self) -> MutexGuard<'_, Rest> {
        // Nothing that holds the lock can leave the rest half changed.
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn first_state(policy: &BreakerPolicy) -> BreakerState {
    match policy.params().mode {
        BreakerMode::Enforce => BreakerState::Closed,
        BreakerMode::MetricsOnly => BreakerState::MetricsOnly,
    }
}

fn new_window(policy: &BreakerPolicy) -> Option<Arc<ArcSwap<Window>>> {
    policy.has_rates().then(|| Arc::new(ArcSwap::from_pointee(Window::new(policy.params().window))))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

// === impl Admission ===

impl Admission<'_> {
    /// Tells how the attempt ended, at `now`.
    pub fn end(self, outcome: Outcome, now: Instant) {
        if self.is_probe {
            self.breaker.record_probe(self.generation, Some((outcome, now)));
        } else {
            self.breaker.record(self.generation, outcome, now);
        }
        std::mem::forget(self);
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        if self.is_probe {
            self.breaker.record_probe(self.generation, None);
        }
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod resilience4j;
#[cfg(test)]
mod tests;
