//! Another attempt after a fault: whether, and after how long.
//!
//! The pause before the next attempt is drawn evenly between zero and a ceiling that doubles with every attempt ("full
//! jitter", Marc Brooker, *Exponential Backoff And Jitter*, AWS Architecture Blog, 2015). Callers who failed together
//! would come back together if they all paused alike; spread over the whole interval they do the least work in total.
//! That matters more here than a minimal pause, which full jitter does not promise.

use super::{Backoff, BudgetPolicy, FaultKind, InvalidPolicy, StatusSet, bounds, invalid};
use std::{fmt, sync::Arc, time::Duration};

/// The parts of a [`RetryPolicy`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryParams {
    /// How many attempts a call gets at most, the first included (1 to 10; 1 is no retry).
    pub attempts: u32,
    /// The ceiling of the pause after the first attempt; it doubles with each further one.
    pub backoff: Duration,
    /// What the ceiling of the pause grows to.
    pub max_backoff: Duration,
    /// The HTTP statuses after which an idempotent call is made again.
    pub status: StatusSet,
    /// How many retries the edge may make; `None`: any number.
    pub budget: Option<BudgetPolicy>,
    /// The functions that may be made again also after they were begun, by their names or their full names:
    /// `find`, `shop:users/directory.find`.
    pub idempotent: Vec<String>,
}

/// When an attempt that failed is followed by another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetryPolicy(RetryParams);

/// Whether a call can be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// It can't: what it sends is gone with the first attempt.
    Never,
    /// Only if the attempt before surely had no effect, since two effects are not as good as one.
    IfNothingBegun,
    /// Always: it is idempotent.
    Always,
}

/// How an attempt ended that another may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By a fault.
    Fault(FaultKind),
    /// By an HTTP answer with this status.
    Status(u16),
    /// Before it began, because all endpoints of the callee are known to be out and nobody was asked: `unreachable`.
    ///
    /// It says nothing new of anybody, so it is neither a failure nor a success. If it counted, the breaker of the edge
    /// would open for what probes and resolver have found out already, and refuse calls for a while when they have long
    /// found out that an endpoint is back. And no other attempt follows, since it would end the same way.
    Nowhere,
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
    /// A policy of these parts.
    ///
    /// # Errors
    ///
    /// When `attempts` is out of range, a duration is zero or longer than [`MAX_DURATION`](super::MAX_DURATION),
    /// `max_backoff` is shorter than `backoff`, or `idempotent` has an empty name or one twice.
    pub fn try_new(params: RetryParams) -> Result<Self, InvalidPolicy> {
        let RetryParams { attempts, backoff, max_backoff, .. } = params;
        invalid::check_count("retry.attempts", attempts, bounds::ATTEMPTS)?;
        invalid::check_duration("retry.backoff", backoff)?;
        invalid::check_duration("retry.max-backoff", max_backoff)?;
        if max_backoff < backoff {
            let expected = format!("at least `retry.backoff` ({backoff:?})");
            return Err(InvalidPolicy::new("retry.max-backoff", expected, format_args!("{max_backoff:?}")));
        }
        invalid::check_functions("retry.idempotent", &params.idempotent)?;
        Ok(Self(params))
    }

    /// One attempt and no other.
    pub fn never() -> Self {
        Self(RetryParams { attempts: 1, ..RetryParams::default() })
    }

    /// Its parts.
    pub fn params(&self) -> &RetryParams {
        &self.0
    }

    /// Whether there is ever a second attempt.
    pub fn retries(&self) -> bool {
        self.0.attempts > 1
    }

    /// Whether the policy calls this function of this interface idempotent.
    pub fn is_idempotent(&self, interface: &str, function: &str) -> bool {
        names_function(&self.0.idempotent, interface, function)
    }

    /// The longest pause after the attempt of this number (from 1) failed.
    pub fn ceiling(&self, number: u32) -> Duration {
        Backoff { first: self.0.backoff, max: self.0.max_backoff, jitter: 1.0 }.ceiling(number)
    }

    /// How long to pause before the next attempt, after the attempt of this number (from 1) ended like this; `None` when
    /// there shall be no other, or it could not begin within `remaining`.
    ///
    /// Where the callee says when another try may succeed (`told`, HTTP's `Retry-After`), the pause is that plus the
    /// jitter: all who were told the same moment would otherwise come at it together.
    pub fn pause(
        &self,
        number: u32,
        (ended, told): (Ended, Option<Duration>),
        repeat: Repeat,
        remaining: Duration,
        jitter: &Jitter,
    ) -> Option<Duration> {
        if number >= self.0.attempts || !self.may_retry(ended, repeat) {
            return None;
        }
        let pause = told.unwrap_or_default().saturating_add(jitter.draw(self.ceiling(number)));
        (pause < remaining).then_some(pause)
    }

    /// Whether another attempt can do good and no harm.
    fn may_retry(&self, ended: Ended, repeat: Repeat) -> bool {
        match (ended, repeat) {
            (_, Repeat::Never) | (Ended::Nowhere, _) => false,
            (Ended::Status(status), repeat) => repeat == Repeat::Always && self.0.status.contains(status),
            (Ended::Fault(FaultKind::Unreachable | FaultKind::Overloaded), _) => true,
            (Ended::Fault(FaultKind::DeadlineExceeded | FaultKind::Trapped), repeat) => repeat == Repeat::Always,
            // Safe, but the answer would be the same: an open breaker asks to be left alone, a grant does not appear by
            // asking again. And who gave a call up does not want it made once more.
            (Ended::Fault(FaultKind::CircuitOpen | FaultKind::Denied | FaultKind::Cancelled), _) => false,
        }
    }
}

impl Default for RetryParams {
    /// Three attempts; 50 ms, doubling up to one second; 502, 503 and 504; the default budget.
    fn default() -> Self {
        Self {
            attempts: 3,
            backoff: Duration::from_millis(50),
            max_backoff: Duration::from_secs(1),
            status: StatusSet::GATEWAY_ERRORS,
            budget: Some(BudgetPolicy::default()),
            idempotent: Vec::new(),
        }
    }
}

/// Whether a list of functions names this one: by its name, or by its full name, with or without the version.
///
/// It is asked at each typed call, so it looks at no more than it must: mostly the list is empty or names others.
pub(crate) fn names_function(names: &[String], interface: &str, function: &str) -> bool {
    let is_interface = |of: &str| {
        let version = interface.strip_prefix(of);
        of.contains('/') && version.is_some_and(|version| version.is_empty() || version.starts_with('@'))
    };
    names.iter().any(|name| match name.strip_suffix(function) {
        Some("") => true,
        Some(before) => before.strip_suffix('.').is_some_and(is_interface),
        None => false,
    })
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
