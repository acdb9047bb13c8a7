//! What counts as a failure of the callee.
//!
//! A policy of its own, because breaker, outlier ejection, retry and fallback must agree on it. Faults of the platform
//! count; a domain answer ("user not found") never does. With HTTP the status says which it is: 5xx is the callee's
//! failure, 4xx the caller's own, unless the policy says otherwise. And an answer that took too long can count as slow,
//! which is no failure: a breaker that opens for slowness says so.

use super::{Ended, FaultKind, InvalidPolicy, StatusSet, invalid};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::{fmt, time::Duration};

/// How a call failed: by a fault, or by an answer whose HTTP status counts as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// A fault.
    Fault(FaultKind),
    /// An HTTP answer with this status.
    Status(u16),
}

/// What an attempt came to, in the words of a breaker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// How it failed, if it did.
    pub failure: Option<Failure>,
    /// Whether it took longer than the policy calls quick.
    pub slow: bool,
}

/// The parts of a [`FailurePolicy`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureParams {
    /// The kinds of fault that count, out of those that speak of the callee
    /// ([`FaultKind::counts_as_failure`]).
    pub faults: Vec<FaultKind>,
    /// The HTTP statuses that count.
    pub status: StatusSet,
    /// From which duration on an attempt is slow; `None`: none is.
    pub slow: Option<Duration>,
}

/// Which outcomes count against the callee.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailurePolicy {
    params: FailureParams,
    counts: [bool; FaultKind::ALL.len()],
}

// === impl Failure ===

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(kind) => kind.fmt(f),
            Self::Status(status) => write!(f, "status {status}"),
        }
    }
}

impl Serialize for Failure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Failure {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let status = text.strip_prefix("status ").and_then(|status| status.parse().ok()).map(Self::Status);
        let fault = || FaultKind::parse(&text).map(Self::Fault);
        status.or_else(fault).ok_or_else(|| D::Error::custom(format_args!("{text:?} is no failure")))
    }
}

// === impl Outcome ===

impl Outcome {
    /// A quick answer.
    pub const GOOD: Self = Self { failure: None, slow: false };

    /// A quick failure.
    pub const fn failed(failure: Failure) -> Self {
        Self { failure: Some(failure), slow: false }
    }
}

// === impl FailurePolicy ===

impl FailurePolicy {
    /// A policy of these parts.
    ///
    /// # Errors
    ///
    /// When a kind of fault is listed that says nothing of the callee (`circuit-open`, `cancelled`, `denied`), or `slow`
    /// is zero or longer than [`MAX_DURATION`](super::MAX_DURATION).
    pub fn try_new(params: FailureParams) -> Result<Self, InvalidPolicy> {
        if let Some(kind) = params.faults.iter().find(|kind| !kind.counts_as_failure()) {
            let speaking = FaultKind::ALL.into_iter().filter(|kind| kind.counts_as_failure());
            let expected = speaking.map(|kind| format!("`{kind}`")).collect::<Vec<_>>().join(", ");
            let found = format_args!("`{kind}`, which is not the callee's doing");
            return Err(InvalidPolicy::new("failure.faults", format!("kinds out of {expected}"), found));
        }
        if let Some(slow) = params.slow {
            invalid::check_duration("failure.slow", slow)?;
        }
        let counts = FaultKind::ALL.map(|kind| params.faults.contains(&kind));
        Ok(Self { params, counts })
    }

    /// Its parts.
    pub fn params(&self) -> &FailureParams {
        &self.params
    }

    /// Whether a fault counts.
    pub fn of_fault(&self, kind: FaultKind) -> Option<Failure> {
        // The order of `FaultKind::ALL` is that of the declaration.
        self.counts[kind as usize].then_some(Failure::Fault(kind))
    }

    /// Whether an answer with this HTTP status counts.
    pub fn of_status(&self, status: u16) -> Option<Failure> {
        self.params.status.contains(status).then_some(Failure::Status(status))
    }

    /// What an attempt comes to that ended like this after so long; `None` where it says nothing of the callee.
    ///
    /// `was_fair`: whether an attempt that met its deadline had a fair chance.
    pub(super) fn outcome(&self, ended: Ended, took: Duration, was_fair: bool) -> Option<Outcome> {
        let slow = self.is_slow(took);
        match ended {
            Ended::Status(status) => Some(Outcome { failure: self.of_status(status), slow }),
            Ended::Nowhere => None,
            Ended::Fault(FaultKind::DeadlineExceeded) if !was_fair => None,
            Ended::Fault(kind) => {
                let failure = self.of_fault(kind);
                // A fault that the policy does not count is no success either.
                (kind.counts_as_failure() && (failure.is_some() || slow)).then_some(Outcome { failure, slow })
            }
        }
    }

    /// Whether an attempt that took so long is slow.
    pub fn is_slow(&self, took: Duration) -> bool {
        self.params.slow.is_some_and(|slow| took >= slow)
    }
}

impl Default for FailureParams {
    /// All faults that speak of the callee, and 5xx; nothing is slow.
    fn default() -> Self {
        let faults = FaultKind::ALL.into_iter().filter(|kind| kind.counts_as_failure()).collect();
        Self { faults, status: StatusSet::SERVER_ERRORS, slow: None }
    }
}

impl Default for FailurePolicy {
    fn default() -> Self {
        let params = FailureParams::default();
        let counts = FaultKind::ALL.map(FaultKind::counts_as_failure);
        Self { params, counts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(params: FailureParams) -> String {
        FailurePolicy::try_new(params).unwrap_err().to_string()
    }

    #[test]
    fn by_default_faults_of_the_callee_and_5xx_count_and_4xx_never_does() {
        let policy = FailurePolicy::default();
        assert_eq!(FailurePolicy::try_new(FailureParams::default()), Ok(policy.clone()));
        for kind in FaultKind::ALL {
            assert_eq!(policy.of_fault(kind).is_some(), kind.counts_as_failure(), "{kind}");
        }
        for status in 100..600 {
            assert_eq!(policy.of_status(status).is_some(), status >= 500, "{status}");
        }
        assert!(!policy.is_slow(Duration::MAX));
    }

    #[test]
    fn what_is_said_counts() {
        let status = StatusSet::try_new(["429", "503"]).unwrap();
        let params = FailureParams { faults: vec![FaultKind::Trapped], status, slow: Some(Duration::from_secs(1)) };
        let policy = FailurePolicy::try_new(params).unwrap();
        assert_eq!(policy.of_fault(FaultKind::Trapped), Some(Failure::Fault(FaultKind::Trapped)));
        assert_eq!(policy.of_fault(FaultKind::Unreachable), None);
        assert_eq!(policy.of_status(429), Some(Failure::Status(429)));
        assert_eq!(policy.of_status(500), None);
        assert!(policy.is_slow(Duration::from_secs(1)));
        assert!(!policy.is_slow(Duration::from_millis(999)));
    }

    #[test]
    fn to_find_nobody_to_ask_is_no_outcome() {
        let policy = FailurePolicy::default();
        let outcome = |ended| policy.outcome(ended, Duration::ZERO, true);
        assert_eq!(outcome(Ended::Nowhere), None);
        assert!(outcome(Ended::Fault(FaultKind::Unreachable)).is_some_and(|outcome| outcome.failure.is_some()));
    }

    #[test]
    fn nonsense_is_refused() {
        for kind in FaultKind::ALL.into_iter().filter(|kind| !kind.counts_as_failure()) {
            let message = refused(FailureParams { faults: vec![kind], ..FailureParams::default() });
            assert_eq!(
                message,
                format!(
                    "`failure.faults`: expected kinds out of `unreachable`, `overloaded`, `deadline-exceeded`, `trapped`, \
                     found `{kind}`, which is not the callee's doing"
                )
            );
        }
        let message = refused(FailureParams { slow: Some(Duration::ZERO), ..FailureParams::default() });
        assert_eq!(message, "`failure.slow`: expected more than zero and at most 24h, found 0ns");
    }

    #[test]
    fn a_failure_is_the_same_word_everywhere() {
        for failure in FaultKind::ALL.map(Failure::Fault).into_iter().chain([Failure::Status(503)]) {
            let json = serde_json::to_value(failure).unwrap();
            assert_eq!(json, failure.to_string());
            assert_eq!(serde_json::from_value::<Failure>(json).unwrap(), failure);
        }
        assert!(serde_json::from_str::<Failure>("\"nonsense\"").is_err());
    }
}
