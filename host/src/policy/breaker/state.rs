//! A breaker's states, and why it is in one: the words that logs, status and faults share.

use crate::policy::FaultKind;
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
}

/// Why a breaker opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TripReason {
    /// As many failures in a row as the policy allows, with no success between them.
    ConsecutiveFailures {
        /// How many.
        failures: u32,
        /// How the last of them failed.
        last: FaultKind,
    },
    /// A probe failed.
    ProbeFailed {
        /// How it failed.
        fault: FaultKind,
    },
}

/// The breaker let no attempt pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the circuit breaker is {state} ({})", Reason(.reason))]
pub struct Rejected {
    /// Open or half-open.
    pub state: BreakerState,
    /// Why it had opened.
    pub reason: Option<TripReason>,
    /// After how long the next probe may pass, if that is known: not while the probes are under way.
    pub retry_after: Option<Duration>,
}

/// A breaker as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerSnapshot {
    /// Its state. It stays open after the open time until a call comes that can be the probe.
    pub state: BreakerState,
    /// For how long it has been in this state, in milliseconds.
    pub state_for_ms: u64,
    /// Why it opened the last time, if ever it did.
    pub last_trip: Option<String>,
    /// Failures in a row while closed.
    pub consecutive_failures: u32,
    /// When open: after how many milliseconds a call may pass as a probe.
    pub retry_after_ms: Option<u64>,
    /// When half-open: probes under way.
    pub probes: u32,
}

/// The reason in the parentheses of a message.
pub(super) struct Reason<'a>(pub(super) &'a Option<TripReason>);

// === impl BreakerState, TripReason, Reason ===

impl fmt::Display for BreakerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        })
    }
}

impl fmt::Display for TripReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConsecutiveFailures { failures: 1, last } => write!(f, "a failure: {last}"),
            Self::ConsecutiveFailures { failures, last } => {
                write!(f, "{failures} failures in a row, the last: {last}")
            }
            Self::ProbeFailed { fault } => write!(f, "a probe failed: {fault}"),
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
