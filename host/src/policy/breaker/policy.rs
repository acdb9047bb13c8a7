//! What a breaker is told to do.

use super::{TripReason, state::Probes, window::WindowSums};
use crate::policy::{Backoff, Failure, InvalidPolicy, Outcome, bounds, invalid};
use std::time::Duration;

/// The shortest window by time: its buckets are a tenth of it.
const SHORTEST_WINDOW: Duration = Duration::from_millis(10);

/// How many calls a rate is formed from at least, where the policy does not say.
const DEFAULT_MINIMUM: u32 = 20;

/// From which rate of failed probes on a breaker opens again that has no failure rate of its own, in percent.
const PROBES_FAILED: u32 = 50;

/// What a breaker looks back on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowSize {
    /// The last so many calls.
    Calls(u32),
    /// The calls of the last so much time.
    Time(Duration),
}

/// Whether a breaker acts on what it sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BreakerMode {
    /// It opens.
    #[default]
    Enforce,
    /// It counts, and says when it would have opened. For finding out what a policy would do.
    MetricsOnly,
}

/// The parts of a [`BreakerPolicy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerParams {
    /// Whether it opens.
    pub mode: BreakerMode,
    /// How many failures in a row open it (1 to 1,000,000); `None`: no number does.
    pub failures: Option<u32>,
    /// From how many failed calls in a hundred of the window on it opens (1 to 100); `None`: no rate does.
    pub failure_rate: Option<u32>,
    /// From how many slow calls in a hundred of the window on it opens (1 to 100); `None`: no rate does.
    pub slow_rate: Option<u32>,
    /// What the rates are formed over.
    pub window: WindowSize,
    /// How many calls must be in the window before a rate is formed; `None`: 20, or as many as the window holds.
    pub minimum: Option<u32>,
    /// How long it stays open.
    pub open: Duration,
    /// How long it stays open at most. Each opening that follows hard on another doubles the time up to this; `None`: it
    /// stays the same.
    pub max_open: Option<Duration>,
    /// How many probes it lets through when half-open (1 to 1,000). Their outcomes together decide.
    pub half_open: u32,
}

/// When a breaker opens, for how long, and what closes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BreakerPolicy(BreakerParams);

/// What the probes of a half-open breaker come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Close,
    Open(TripReason),
}

// === impl BreakerPolicy ===

impl BreakerPolicy {
    /// A policy of these parts.
    ///
    /// # Errors
    ///
    /// When a number or duration is out of range, nothing is given that could open it, a rate waits for more calls than
    /// its window holds, or `max_open` is shorter than `open`.
    pub fn try_new(params: BreakerParams) -> Result<Self, InvalidPolicy> {
        let BreakerParams { failures, failure_rate, slow_rate, window, minimum, open, max_open, half_open, .. } =
            params;
        if failures.is_none() && failure_rate.is_none() && slow_rate.is_none() {
            let expected = "`failures`, `failure-rate` or `slow-rate`, so that something opens it";
            return Err(InvalidPolicy::new("breaker", expected, "none of them"));
        }
        for (field, found, accepted) in [
            ("breaker.failures", failures, bounds::FAILURES),
            ("breaker.failure-rate", failure_rate, bounds::PERCENT),
            ("breaker.slow-rate", slow_rate, bounds::PERCENT),
            ("breaker.minimum", minimum, bounds::MINIMUM),
            ("breaker.half-open", Some(half_open), bounds::HALF_OPEN),
        ] {
            if let Some(found) = found {
                invalid::check_count(field, found, accepted)?;
            }
        }
        match window {
            WindowSize::Calls(calls) => {
                invalid::check_count("breaker.window", calls, bounds::WINDOW_CALLS)?;
                if let Some(minimum) = minimum.filter(|minimum| *minimum > calls) {
                    let expected = format!("at most `breaker.window` ({calls} calls)");
                    return Err(InvalidPolicy::new("breaker.minimum", expected, minimum));
                }
            }
            WindowSize::Time(time) => {
                invalid::check_duration("breaker.window", time)?;
                if time < SHORTEST_WINDOW {
                    let expected = format!("at least {SHORTEST_WINDOW:?}");
                    return Err(InvalidPolicy::new("breaker.window", expected, format_args!("{time:?}")));
                }
            }
        }
        invalid::check_duration("breaker.open", open)?;
        if let Some(max_open) = max_open {
            invalid::check_duration("breaker.max-open", max_open)?;
            if max_open < open {
                let expected = format!("at least `breaker.open` ({open:?})");
                return Err(InvalidPolicy::new("breaker.max-open", expected, format_args!("{max_open:?}")));
            }
        }
        Ok(Self(params))
    }

    /// Its parts.
    pub fn params(&self) -> &BreakerParams {
        &self.0
    }

    /// Whether it looks at rates, and so needs a window.
    pub(super) fn has_rates(&self) -> bool {
        self.0.failure_rate.is_some() || self.0.slow_rate.is_some()
    }

    /// How long the breaker stays open after so many openings that followed hard on each other, counted from 1.
    pub fn open_time(&self, openings: u32) -> Duration {
        let max = self.0.max_open.unwrap_or(self.0.open);
        Backoff { first: self.0.open, max, jitter: 0.0 }.ceiling(openings)
    }

    /// Why a closed breaker opens, if it does: after `failures` in a row and with this in its window. `outcome` is the
    /// call's that ended last.
    pub(super) fn trip(&self, failures: u32, sums: Option<WindowSums>, outcome: Outcome) -> Option<TripReason> {
        let limit = self.0.failures.filter(|limit| failures >= *limit);
        if let (Some(_), Some(last)) = (limit, outcome.failure) {
            return Some(TripReason::ConsecutiveFailures { failures, last });
        }
        let sums = sums.filter(|sums| sums.calls >= self.minimum())?;
        let reaches = |rate: Option<u32>, part: u32| {
            rate.filter(|rate| u64::from(part) * 100 >= u64::from(*rate) * u64::from(sums.calls))
        };
        if let Some(threshold) = reaches(self.0.failure_rate, sums.failed) {
            let (failed, calls) = (sums.failed, sums.calls);
            return Some(TripReason::FailureRate { failed, calls, threshold });
        }
        let threshold = reaches(self.0.slow_rate, sums.slow)?;
        Some(TripReason::SlowRate { slow: sums.slow, calls: sums.calls, threshold })
    }

    /// What the probes come to, as soon as those that have not ended can't change it. Where they disagree, the same rates
    /// decide as over the window; 50 % of failures where the policy has no failure rate.
    pub(super) fn decide(&self, probes: &Probes, last: Option<Failure>) -> Option<Decision> {
        let of = self.0.half_open;
        let left = of.saturating_sub(probes.ended);
        let reaches = |rate: u32, part: u32| u64::from(part) * 100 >= u64::from(rate) * u64::from(of);
        let failure_rate = self.0.failure_rate.unwrap_or(PROBES_FAILED);
        if let Some(last) = last.filter(|_| reaches(failure_rate, probes.failed)) {
            return Some(Decision::Open(TripReason::ProbesFailed { failed: probes.failed, of, last }));
        }
        if self.0.slow_rate.is_some_and(|rate| reaches(rate, probes.slow)) {
            return Some(Decision::Open(TripReason::ProbesSlow { slow: probes.slow, of }));
        }
        let open_still = reaches(failure_rate, probes.failed + left)
            || self.0.slow_rate.is_some_and(|rate| reaches(rate, probes.slow + left));
        (!open_still).then_some(Decision::Close)
    }

    fn minimum(&self) -> u32 {
        self.0.minimum.unwrap_or(match self.0.window {
            WindowSize::Calls(calls) => calls.min(DEFAULT_MINIMUM),
            WindowSize::Time(_) => DEFAULT_MINIMUM,
        })
    }
}

impl Default for BreakerParams {
    /// Five failures in a row, sixty seconds, one probe. Rates are off; given one, it is formed over the last 100 calls.
    fn default() -> Self {
        Self {
            mode: BreakerMode::Enforce,
            failures: Some(5),
            failure_rate: None,
            slow_rate: None,
            window: WindowSize::Calls(100),
            minimum: None,
            open: Duration::from_secs(60),
            max_open: None,
            half_open: 1,
        }
    }
}
