//! The circuit breaker of an edge.
//!
//! ```text
//!            failures in a row                 open time over
//!   closed ────────────────────▶ open ──────────────────────────▶ half-open
//!     ▲                            ▲                                │   │
//!     │                            └────────── a probe fails ───────┘   │
//!     └──────────────────────────────────────────── all probes succeed ─┘
//! ```
//!
//! A callee in trouble is made worse by more calls, and a caller in line behind it by waiting for it. An open breaker
//! answers at once and leaves the callee alone for a while; a half-open one lets a set number of calls through as probes
//! and refuses the others, so that a callee that just came back isn't met by all who missed it.
//!
//! Nearly always a breaker is closed and its calls succeed, so that way is one atomic load before the call and one
//! after it. All else, transitions and whatever an open or half-open breaker is asked, takes a lock.

mod policy;
mod state;
mod word;

pub use self::{
    policy::BreakerPolicy,
    state::{BreakerSnapshot, BreakerState, Rejected, TripReason},
};

use self::{state::Reason, word::Word};
use super::FaultKind;
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::Instant;

/// The live breaker of an edge.
#[derive(Debug)]
pub struct Breaker {
    edge: Arc<str>,
    policy: BreakerPolicy,
    /// State, generation and failures in a row.
    ///
    /// `Relaxed` suffices for it everywhere: on the strength of a word alone nothing is read but the word. The rest is
    /// behind the lock, and the word leaves or enters a state other than closed only while the lock is held.
    word: AtomicU64,
    rest: Mutex<Rest>,
}

/// What only an open or half-open breaker is asked, and people.
#[derive(Clone, Debug)]
struct Rest {
    /// When the present state began.
    since: Instant,
    /// Why it opened the last time.
    last_trip: Option<TripReason>,
    /// In half-open: probes under way.
    probing: u32,
    /// In half-open: probes that succeeded.
    succeeded: u32,
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

/// One change of state, to be told once the lock is released.
#[derive(Debug)]
struct Transition {
    to: BreakerState,
    reason: Option<TripReason>,
}

// === impl Breaker ===

impl Breaker {
    /// A closed breaker for the edge of this name.
    pub fn new(edge: Arc<str>, policy: BreakerPolicy) -> Self {
        let rest = Rest { since: Instant::now(), last_trip: None, probing: 0, succeeded: 0 };
        Self { edge, policy, word: AtomicU64::new(Word::closed(0, 0).into()), rest: Mutex::new(rest) }
    }

    /// A breaker in the same state under another policy. An open time that is under way is measured by the new policy;
    /// probes start afresh, and what is under way at the old breaker counts no more.
    #[must_use]
    pub fn with_policy(&self, policy: BreakerPolicy) -> Self {
        let rest = self.lock();
        let word = self.word.load(Relaxed);
        let rest = Rest { probing: 0, succeeded: 0, ..rest.clone() };
        Self { edge: Arc::clone(&self.edge), policy, word: AtomicU64::new(word), rest: Mutex::new(rest) }
    }

    /// The policy.
    pub fn policy(&self) -> &BreakerPolicy {
        &self.policy
    }

    /// Asks for an attempt to pass.
    ///
    /// # Errors
    ///
    /// When the breaker is open, or half-open with all its probes under way.
    pub fn admit(&self) -> Result<Admission<'_>, Rejected> {
        let word = self.word();
        if word.state() == BreakerState::Closed {
            return Ok(Admission { breaker: self, generation: word.generation(), is_probe: false });
        }
        self.admit_probe()
    }

    /// What a call at this time, now or later, would surely be told: that the breaker is open. Asks without becoming a
    /// probe; a half-open breaker may have a place by then.
    pub fn rejection_at(&self, at: Instant) -> Option<Rejected> {
        if self.word().state() == BreakerState::Closed {
            return None;
        }
        let rest = self.lock();
        (self.word().state() == BreakerState::Open).then(|| self.rejection(&rest, at)).flatten()
    }

    /// The breaker as it is now.
    pub fn snapshot(&self) -> BreakerSnapshot {
        let rest = self.lock();
        let (word, now) = (self.word(), Instant::now());
        let probe_at = rest.since + self.policy.open();
        let is_open = word.state() == BreakerState::Open;
        BreakerSnapshot {
            state: word.state(),
            state_for_ms: millis(now.saturating_duration_since(rest.since)),
            last_trip: rest.last_trip.map(|reason| reason.to_string()),
            consecutive_failures: word.failures(),
            retry_after_ms: is_open.then(|| millis(probe_at.saturating_duration_since(now))),
            probes: rest.probing,
        }
    }

    #[cold]
    fn admit_probe(&self) -> Result<Admission<'_>, Rejected> {
        let mut rest = self.lock();
        // Read again: it may have changed before the lock was had.
        let word = self.word();
        let (word, transition) = match word.state() {
            BreakerState::Closed => {
                return Ok(Admission { breaker: self, generation: word.generation(), is_probe: false });
            }
            BreakerState::Open => {
                let now = Instant::now();
                if let Some(rejected) = self.rejection(&rest, now) {
                    return Err(rejected);
                }
                self.enter(&mut rest, word.next(BreakerState::HalfOpen), now)
            }
            BreakerState::HalfOpen if rest.probing + rest.succeeded >= self.policy.half_open() => {
                return Err(Rejected { state: BreakerState::HalfOpen, reason: rest.last_trip, retry_after: None });
            }
            BreakerState::HalfOpen => (word, None),
        };
        rest.probing += 1;
        drop(rest);
        self.tell(transition);
        Ok(Admission { breaker: self, generation: word.generation(), is_probe: true })
    }

    /// The answer of an open breaker, until its open time is over.
    fn rejection(&self, rest: &Rest, at: Instant) -> Option<Rejected> {
        let left = (rest.since + self.policy.open()).checked_duration_since(at).filter(|left| !left.is_zero())?;
        Some(Rejected { state: BreakerState::Open, reason: rest.last_trip, retry_after: Some(left) })
    }

    fn record_success(&self) {
        let mut word = self.word();
        // Whether the generation is still the attempt's is no matter here: a success is good news in any.
        while word.state() == BreakerState::Closed && word.failures() > 0 {
            match self.swap(word, Word::closed(word.generation(), 0)) {
                Ok(()) => return,
                Err(newer) => word = newer,
            }
        }
    }

    #[cold]
    fn record_failure(&self, generation: u32, fault: FaultKind) {
        let mut word = self.word();
        // A failure of an attempt that began before the last transition is old news: it must not open a breaker whose
        // probes just found the callee well.
        while word.state() == BreakerState::Closed && word.generation() == generation {
            let failures = word.failures().saturating_add(1);
            if failures < self.policy.failures() {
                match self.swap(word, Word::closed(generation, failures)) {
                    Ok(()) => return,
                    Err(newer) => word = newer,
                }
                continue;
            }
            // The lock before the word: whoever sees the word open then waits here until the rest fits it.
            let mut rest = self.lock();
            match self.swap(word, word.next(BreakerState::Open)) {
                Ok(()) => {
                    let reason = TripReason::ConsecutiveFailures { failures, last: fault };
                    let transition = open(&mut rest, reason);
                    drop(rest);
                    return self.tell(Some(transition));
                }
                Err(newer) => word = newer,
            }
        }
    }

    #[cold]
    fn record_probe(&self, generation: u32, outcome: Option<std::result::Result<(), FaultKind>>) {
        let mut rest = self.lock();
        let word = self.word();
        // Another probe failed meanwhile, and the breaker is open, or half-open for another time.
        if word.state() != BreakerState::HalfOpen || word.generation() != generation {
            return;
        }
        rest.probing -= 1;
        let transition = match outcome {
            None => None,
            Some(Ok(())) => {
                rest.succeeded += 1;
                if rest.succeeded < self.policy.half_open() {
                    None
                } else {
                    self.enter(&mut rest, word.next(BreakerState::Closed), Instant::now()).1
                }
            }
            Some(Err(fault)) => {
                self.word.store(word.next(BreakerState::Open).into(), Relaxed);
                Some(open(&mut rest, TripReason::ProbeFailed { fault }))
            }
        };
        drop(rest);
        self.tell(transition);
    }

    /// Leaves a state that only the holder of the lock can leave.
    fn enter(&self, rest: &mut Rest, word: Word, now: Instant) -> (Word, Option<Transition>) {
        self.word.store(word.into(), Relaxed);
        *rest = Rest { since: now, last_trip: rest.last_trip, probing: 0, succeeded: 0 };
        (word, Some(Transition { to: word.state(), reason: rest.last_trip }))
    }

    fn tell(&self, transition: Option<Transition>) {
        let Some(Transition { to, reason }) = transition else { return };
        let (edge, reason) = (&*self.edge, Reason(&reason));
        match to {
            BreakerState::Open => {
                tracing::warn!(edge, %reason, open_for = ?self.policy.open(), "circuit breaker opened");
            }
            BreakerState::HalfOpen => {
                tracing::info!(edge, %reason, probes = self.policy.half_open(), "circuit breaker half-open");
            }
            BreakerState::Closed => tracing::info!(edge, %reason, "circuit breaker closed"),
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

fn open(rest: &mut Rest, reason: TripReason) -> Transition {
    *rest = Rest { since: Instant::now(), last_trip: Some(reason), probing: 0, succeeded: 0 };
    Transition { to: BreakerState::Open, reason: Some(reason) }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

// === impl Admission ===

impl Admission<'_> {
    /// The callee answered.
    pub fn succeed(self) {
        if self.is_probe {
            self.breaker.record_probe(self.generation, Some(Ok(())));
        } else {
            self.breaker.record_success();
        }
        std::mem::forget(self);
    }

    /// The callee failed. Which faults speak of the callee is not the breaker's to know: see
    /// [`FaultKind::counts_as_failure`].
    pub fn fail(self, fault: FaultKind) {
        if self.is_probe {
            self.breaker.record_probe(self.generation, Some(Err(fault)));
        } else {
            self.breaker.record_failure(self.generation, fault);
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
mod tests;
