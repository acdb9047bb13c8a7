//! Another attempt after a fault: whether, and after how long.
//!
//! The pause before the next attempt is drawn evenly between zero and a ceiling that doubles with every attempt ("full
//! jitter", Marc Brooker, *Exponential Backoff And Jitter*, AWS Architecture Blog, 2015). Callers who failed together
//! would come back together if they all paused alike; spread over the whole interval they do the least work in total.
//! That matters more here than a minimal pause, which full jitter does not promise.

use super::{Backoff, Fault, FaultKind, InvalidPolicy, invalid};
use std::{fmt, sync::Arc, time::Duration};

/// When a fault is followed by another attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    attempts: u32,
    backoff: Duration,
    max_backoff: Duration,
}

/// Where the pause between two attempts falls between zero and its ceiling.
#[derive(Clone)]
pub struct Jitter(Draw);

#[derive(Clone)]
enum Draw {
    Full,
    With(Arc<dyn Fn(Duration) -> Duration + Send + Sync>),
}

// === impl RetryPolicy ===

impl RetryPolicy {
    /// At most `attempts` attempts in all, the first included (1 to 10; 1 is no retry). The ceiling of the pause is
    /// `backoff` after the first fault and doubles up to `max_backoff`.
    ///
    /// # Errors
    ///
    /// When `attempts` is out of range, a duration is zero or longer than [`MAX_DURATION`](super::MAX_DURATION), or
    /// `max_backoff` is shorter than `backoff`.
    pub fn try_new(attempts: u32, backoff: Duration, max_backoff: Duration) -> Result<Self, InvalidPolicy> {
        invalid::check_count("retry.attempts", attempts, 1..=10)?;
        invalid::check_duration("retry.backoff", backoff)?;
        invalid::check_duration("retry.max-backoff", max_backoff)?;
        if max_backoff < backoff {
            let expected = format!("at least `retry.backoff` ({backoff:?})");
            return Err(InvalidPolicy::new("retry.max-backoff", expected, format_args!("{max_backoff:?}")));
        }
        Ok(Self { attempts, backoff, max_backoff })
    }

    /// One attempt and no other.
    pub fn never() -> Self {
        Self { attempts: 1, ..Self::default() }
    }

    /// How many attempts a call gets at most, the first included.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The ceiling of the pause after the first fault.
    pub fn backoff(&self) -> Duration {
        self.backoff
    }

    /// What the ceiling of the pause grows to.
    pub fn max_backoff(&self) -> Duration {
        self.max_backoff
    }

    /// The longest pause after the attempt of this number (from 1) failed.
    pub fn ceiling(&self, number: u32) -> Duration {
        Backoff { first: self.backoff, max: self.max_backoff, jitter: 1.0 }.ceiling(number)
    }

    /// How long to pause before the next attempt, after the attempt of this number (from 1) ended with `fault`; `None`
    /// when there shall be no other, or it could not begin within `remaining`.
    ///
    /// Where the fault says when another try may succeed, the pause is that plus the jitter: all who were told the
    /// same moment would otherwise come at it together.
    pub fn pause(
        &self,
        number: u32,
        fault: &Fault,
        idempotent: bool,
        remaining: Duration,
        jitter: &Jitter,
    ) -> Option<Duration> {
        if number >= self.attempts || !may_retry(fault.kind(), idempotent) {
            return None;
        }
        let told = fault.retry_after().unwrap_or_default();
        let pause = told.saturating_add(jitter.draw(self.ceiling(number)));
        (pause < remaining).then_some(pause)
    }
}

impl Default for RetryPolicy {
    /// Three attempts; 50 ms, doubling up to one second.
    fn default() -> Self {
        Self { attempts: 3, backoff: Duration::from_millis(50), max_backoff: Duration::from_secs(1) }
    }
}

/// Whether another attempt can do good and no harm.
fn may_retry(kind: FaultKind, idempotent: bool) -> bool {
    match kind {
        FaultKind::Unreachable | FaultKind::Overloaded => true,
        FaultKind::DeadlineExceeded | FaultKind::Trapped => idempotent,
        // Safe, but the answer would be the same: an open breaker asks to be left alone, a grant does not appear by
        // asking again. And who gave a call up does not want it made once more.
        FaultKind::CircuitOpen | FaultKind::Denied | FaultKind::Cancelled => false,
    }
}

// === impl Jitter ===

impl Jitter {
    /// Evenly between zero and the ceiling.
    pub const FULL: Self = Self(Draw::Full);

    /// A source of one's own, for tests: it gets the ceiling and gives the pause, which is cut off at the ceiling.
    pub fn with(draw: impl Fn(Duration) -> Duration + Send + Sync + 'static) -> Self {
        Self(Draw::With(Arc::new(draw)))
    }

    fn draw(&self, ceiling: Duration) -> Duration {
        match &self.0 {
            // 53 bits of chance, which are microseconds in a day; `MAX_DURATION` keeps the product in range.
            Draw::Full => ceiling.mul_f64(fastrand::f64()),
            Draw::With(draw) => draw(ceiling).min(ceiling),
        }
    }
}

impl fmt::Debug for Jitter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Draw::Full => "Jitter::FULL",
            Draw::With(_) => "Jitter::with(..)",
        })
    }
}

#[cfg(test)]
mod tests;
