//! Faults: what the platform says when a call could not be made or not be finished.

use super::{Ended, TripReason};
use std::{borrow::Cow, fmt, time::Duration};

/// The kinds of fault. Closed: whoever handles faults handles all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// Nobody answers there; nothing was begun.
    Unreachable,
    /// The circuit breaker of the edge is open; nothing was begun.
    CircuitOpen,
    /// No room at the callee or in the bulkhead before it; nothing was begun.
    Overloaded,
    /// The caller's time ran out; the call may have had its effect.
    DeadlineExceeded,
    /// The callee's instance ended abnormally, or its results were more than a call carries; the call may have had its
    /// effect.
    Trapped,
    /// The call was given up before it ended.
    Cancelled,
    /// The manifest does not grant it, or its parameters are more than a call carries; nothing was begun.
    Denied,
}

/// A platform fault: its kind decides, its message explains.
///
/// A domain error ("user not found") is the callee's own answer and never becomes a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    kind: FaultKind,
    message: Cow<'static, str>,
    retry_after: Option<Duration>,
    is_nowhere: bool,
    // Boxed, because few faults have one and all are moved about.
    trip: Option<Box<TripReason>>,
}

/// What callers of this crate get in place of an answer.
pub type Result<T> = std::result::Result<T, Fault>;

// === impl FaultKind ===

impl FaultKind {
    /// All kinds, in the order of the WIT enum `wharf:platform/faults.fault-kind`.
    pub const ALL: [Self; 7] = [
        Self::Unreachable,
        Self::CircuitOpen,
        Self::Overloaded,
        Self::DeadlineExceeded,
        Self::Trapped,
        Self::Cancelled,
        Self::Denied,
    ];

    /// The name that logs, metrics, problem bodies and WIT use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::CircuitOpen => "circuit-open",
            Self::Overloaded => "overloaded",
            Self::DeadlineExceeded => "deadline-exceeded",
            Self::Trapped => "trapped",
            Self::Cancelled => "cancelled",
            Self::Denied => "denied",
        }
    }

    /// The kind of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// Whether the call surely had no effect, so that another try is safe whatever the call does.
    pub const fn nothing_begun(self) -> bool {
        match self {
            Self::Unreachable | Self::CircuitOpen | Self::Overloaded | Self::Denied => true,
            Self::DeadlineExceeded | Self::Trapped | Self::Cancelled => false,
        }
    }

    /// Whether the fault speaks of the callee's health, and so counts against its circuit breaker. What the caller's
    /// own side refused (an open circuit, a full bulkhead, a missing grant) or gave up does not.
    pub const fn counts_as_failure(self) -> bool {
        match self {
            Self::Unreachable | Self::Overloaded | Self::DeadlineExceeded | Self::Trapped => true,
            Self::CircuitOpen | Self::Cancelled | Self::Denied => false,
        }
    }

    /// The status by which an HTTP client learns of it.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Unreachable | Self::Trapped => 502,
            Self::CircuitOpen | Self::Overloaded | Self::Cancelled => 503,
            Self::DeadlineExceeded => 504,
            Self::Denied => 403,
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Fault ===

impl Fault {
    /// A fault of this kind; `message` says what happened and where, for people and logs.
    pub fn new(kind: FaultKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), retry_after: None, is_nowhere: false, trip: None }
    }

    /// `unreachable` because nobody is there to be asked, known without asking: see [`Ended::Nowhere`].
    pub fn nowhere(message: impl Into<Cow<'static, str>>) -> Self {
        Self { is_nowhere: true, ..Self::new(FaultKind::Unreachable, message) }
    }

    /// Says after how long another try may succeed.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Says why the circuit breaker that refused the call had opened.
    #[must_use]
    pub fn with_trip(mut self, reason: TripReason) -> Self {
        self.trip = Some(Box::new(reason));
        self
    }

    /// What kind of fault it is.
    pub fn kind(&self) -> FaultKind {
        self.kind
    }

    /// How an attempt ended that ended with it.
    pub fn ended(&self) -> Ended {
        if self.is_nowhere { Ended::Nowhere } else { Ended::Fault(self.kind) }
    }

    /// What happened, for people and logs.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// After how long another try may succeed, where that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// For `circuit-open`: why the breaker had opened.
    pub fn trip(&self) -> Option<TripReason> {
        self.trip.as_deref().copied()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_of_the_callers_own_side_never_counts_against_the_callee() {
        for kind in FaultKind::ALL {
            if matches!(kind, FaultKind::CircuitOpen | FaultKind::Denied | FaultKind::Cancelled) {
                assert!(!kind.counts_as_failure(), "{kind}");
            }
        }
    }

    #[test]
    fn every_kind_is_an_http_error() {
        for kind in FaultKind::ALL {
            assert!((400..600).contains(&kind.http_status()), "{kind}");
        }
    }
}
