//! A breaker's states, and why it is in one: the words that logs, status and faults share.

use super::window::WindowSums;
use crate::policy::Failure;
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// The states of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BreakerState {
    /// Calls pass.
    Closed,
    /// No call passes until the open time is over.
    Open,
    /// A set number of calls passes, to find out whether the callee is back.
    HalfOpen,
    /// No call passes until an operator resets it.
    ForcedOpen,
    /// All calls pass and none is counted, until an operator resets it.
    Disabled,
    /// All calls pass and are counted; it says when it would have opened.
    MetricsOnly,
}

/// What an operator can do with a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BreakerCommand {
    /// Let no call pass until further notice.
    ForceOpen,
    /// Let all calls pass and count none until further notice.
    Disable,
    /// Let all calls pass, count them, and say when it would have opened, until further notice.
    MetricsOnly,
    /// Forget all that was and begin afresh, as the policy says.
    Reset,
}

/// Why a breaker opened, or would have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum TripReason {
    /// As many failures in a row as the policy allows, with no success between them.
    ConsecutiveFailures {
        /// How many.
        failures: u32,
        /// How the last of them failed.
        last: Failure,
    },
    /// Too many of the calls in the window failed.
    FailureRate {
        /// How many failed.
        failed: u32,
        /// Of how many.
        calls: u32,
        /// How many in a hundred are too many.
        threshold: u32,
    },
    /// Too many of the calls in the window were slow.
    SlowRate {
        /// How many were slow.
        slow: u32,
        /// Of how many.
        calls: u32,
        /// How many in a hundred are too many.
        threshold: u32,
    },
    /// Too many of the probes failed.
    ProbesFailed {
        /// How many.
        failed: u32,
        /// Of how many.
        of: u32,
        /// How the last of them failed.
        last: Failure,
    },
    /// Too many of the probes were slow.
    ProbesSlow {
        /// How many.
        slow: u32,
        /// Of how many.
        of: u32,
    },
    /// An operator opened it.
    Operator,
}

/// The breaker let no attempt pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the circuit breaker is {state} ({})", Reason(.reason))]
pub struct Rejected {
    /// Open, half-open or forced-open.
    pub state: BreakerState,
    /// Why it had opened.
    pub reason: Option<TripReason>,
    /// After how long the next probe may pass, if that is known: not while the probes are under way, nor where an operator
    /// decides.
    pub retry_after: Option<Duration>,
}

/// A breaker as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerSnapshot {
    /// Its state. It stays open after the open time until a call comes that can be the probe.
    pub state: BreakerState,
    /// For how long it has been in this state, in milliseconds.
    pub state_for_ms: u64,
    /// Why it opened the last time, if ever it did; for one that only counts, why it would have.
    pub last_trip: Option<TripReason>,
    /// Failures in a row while closed.
    pub consecutive_failures: u32,
    /// What the rates are formed from, for a breaker that goes by rates.
    pub window: Option<WindowSums>,
    /// When open: after how many milliseconds a call may pass as a probe.
    pub retry_after_ms: Option<u64>,
    /// When half-open: probes under way.
    pub probes: u32,
    /// How often it opened hard upon an earlier opening; its open time grows with that.
    pub openings: u32,
}

/// The probes of a half-open breaker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Probes {
    pub(super) under_way: u32,
    pub(super) ended: u32,
    pub(super) failed: u32,
    pub(super) slow: u32,
}

/// The reason in the parentheses of a message.
pub(super) struct Reason<'a>(pub(super) &'a Option<TripReason>);

// === impl BreakerState ===

impl BreakerState {
    /// The name that logs, status and metrics use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
            Self::ForcedOpen => "forced-open",
            Self::Disabled => "disabled",
            Self::MetricsOnly => "metrics-only",
        }
    }

    /// Whether every call passes.
    pub(super) const fn lets_pass(self) -> bool {
        matches!(self, Self::Closed | Self::Disabled | Self::MetricsOnly)
    }
}

impl fmt::Display for BreakerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl BreakerCommand ===

impl BreakerCommand {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::ForceOpen, Self::Disable, Self::MetricsOnly, Self::Reset];

    /// The name that command line and admin API use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ForceOpen => "force-open",
            Self::Disable => "disable",
            Self::MetricsOnly => "metrics-only",
            Self::Reset => "reset",
        }
    }
}

// === impl TripReason, Reason ===

impl TripReason {
    /// The kind of reason, in one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ConsecutiveFailures { .. } => "consecutive-failures",
            Self::FailureRate { .. } => "failure-rate",
            Self::SlowRate { .. } => "slow-rate",
            Self::ProbesFailed { .. } => "probes-failed",
            Self::ProbesSlow { .. } => "probes-slow",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for TripReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConsecutiveFailures { failures: 1, last } => write!(f, "a failure: {last}"),
            Self::ConsecutiveFailures { failures, last } => {
                write!(f, "{failures} failures in a row, the last: {last}")
            }
            Self::FailureRate { failed, calls, threshold } => {
                write!(f, "{failed} of {calls} calls failed, {threshold} % are too many")
            }
            Self::SlowRate { slow, calls, threshold } => {
                write!(f, "{slow} of {calls} calls were slow, {threshold} % are too many")
            }
            Self::ProbesFailed { failed: 1, of: 1, last } => write!(f, "the probe failed: {last}"),
            Self::ProbesFailed { failed, of, last } => write!(f, "{failed} of {of} probes failed, the last: {last}"),
            Self::ProbesSlow { slow: 1, of: 1 } => f.write_str("the probe was slow"),
            Self::ProbesSlow { slow, of } => write!(f, "{slow} of {of} probes were slow"),
            Self::Operator => f.write_str("an operator opened it"),
        }
    }
}

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(reason) => reason.fmt(f),
            None => f.write_str("never tripped"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::FaultKind;

    #[test]
    fn json_uses_the_same_words_as_people() {
        for state in [
            BreakerState::Closed,
            BreakerState::Open,
            BreakerState::HalfOpen,
            BreakerState::ForcedOpen,
            BreakerState::Disabled,
            BreakerState::MetricsOnly,
        ] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.to_string());
        }
        for command in BreakerCommand::ALL {
            assert_eq!(serde_json::to_value(command).unwrap(), command.as_str());
        }
        let last = Failure::Fault(FaultKind::Trapped);
        for reason in [
            TripReason::ConsecutiveFailures { failures: 5, last },
            TripReason::FailureRate { failed: 5, calls: 10, threshold: 50 },
            TripReason::SlowRate { slow: 5, calls: 10, threshold: 50 },
            TripReason::ProbesFailed { failed: 1, of: 2, last },
            TripReason::ProbesSlow { slow: 1, of: 2 },
            TripReason::Operator,
        ] {
            let json = serde_json::to_value(reason).unwrap();
            assert_eq!(json["kind"], reason.as_str());
            assert_eq!(serde_json::from_value::<TripReason>(json).unwrap(), reason);
        }
    }
}
