//! Faults on purpose: for tests and game days.
//!
//! What holds on paper is found out by breaking it. An edge can be told to delay a share of its attempts, or to fail
//! them, with nothing at the callee: the attempts that are hit end as if the callee had done it, so breaker, retry and
//! fallback do what they would do then. It is off unless the manifest turns it on, and an edge that has it says so in
//! the log when it begins and in every status.

use super::{Fault, FaultKind, InvalidPolicy, bounds, invalid};
use std::{fmt, time::Duration};

/// What is done to a share of an edge's attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InjectPolicy {
    percent: u32,
    delay: Option<Duration>,
    fault: Option<FaultKind>,
}

// === impl InjectPolicy ===

impl InjectPolicy {
    /// `percent` of the attempts (1 to 100) are delayed by `delay`, and then end with `fault` if there is one.
    ///
    /// # Errors
    ///
    /// When `percent` is out of range, neither delay nor fault is given, or `fault` is one that no callee causes.
    pub fn try_new(percent: u32, delay: Option<Duration>, fault: Option<FaultKind>) -> Result<Self, InvalidPolicy> {
        invalid::check_count("inject.percent", percent, bounds::PERCENT)?;
        if let Some(delay) = delay {
            invalid::check_duration("inject.delay", delay)?;
        }
        if let Some(kind) = fault.filter(|kind| !kind.counts_as_failure()) {
            let expected = "a fault that a callee can cause, such as `unreachable` or `trapped`";
            return Err(InvalidPolicy::new("inject.fault", expected, format_args!("`{kind}`")));
        }
        if delay.is_none() && fault.is_none() {
            return Err(InvalidPolicy::new("inject", "a `delay`, a `fault` or both", "neither"));
        }
        Ok(Self { percent, delay, fault })
    }

    /// How many in a hundred attempts are hit.
    pub fn percent(&self) -> u32 {
        self.percent
    }

    /// By how long they are delayed.
    pub fn delay(&self) -> Option<Duration> {
        self.delay
    }

    /// What they end with.
    pub fn fault(&self) -> Option<FaultKind> {
        self.fault
    }

    /// Whether the next attempt is hit.
    pub(super) fn hits(&self) -> bool {
        fastrand::u32(0..100) < self.percent
    }

    /// What an attempt that is hit ends with.
    pub(super) fn injected(&self, edge: &str) -> Option<Fault> {
        self.fault.map(|kind| Fault::new(kind, format!("{edge}: injected by the policy of the edge")))
    }
}

impl fmt::Display for InjectPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} % of the attempts", self.percent)?;
        if let Some(delay) = self.delay {
            write!(f, " delayed by {delay:?}")?;
        }
        match self.fault {
            Some(kind) => write!(f, " end with `{kind}`"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_hits_its_share() {
        fastrand::seed(7);
        for percent in [1, 30, 100] {
            let policy = InjectPolicy::try_new(percent, None, Some(FaultKind::Trapped)).unwrap();
            let hits = (0..10_000).filter(|_| policy.hits()).count() as u32;
            assert!(hits.abs_diff(percent * 100) <= 150, "{hits} for {percent} %");
        }
    }

    #[test]
    fn it_says_what_it_does() {
        let second = Duration::from_secs(1);
        for (delay, fault, shown) in [
            (Some(second), None, "30 % of the attempts delayed by 1s"),
            (None, Some(FaultKind::Unreachable), "30 % of the attempts end with `unreachable`"),
            (Some(second), Some(FaultKind::Trapped), "30 % of the attempts delayed by 1s end with `trapped`"),
        ] {
            assert_eq!(InjectPolicy::try_new(30, delay, fault).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let refused = |percent, delay, fault| InjectPolicy::try_new(percent, delay, fault).unwrap_err().to_string();
        let fault = Some(FaultKind::Trapped);
        assert_eq!(refused(0, None, fault), "`inject.percent`: expected 1 to 100, found 0");
        assert_eq!(refused(101, None, fault), "`inject.percent`: expected 1 to 100, found 101");
        assert_eq!(refused(1, None, None), "`inject`: expected a `delay`, a `fault` or both, found neither");
        assert_eq!(
            refused(1, Some(Duration::ZERO), None),
            "`inject.delay`: expected more than zero and at most 24h, found 0ns"
        );
        assert_eq!(
            refused(1, None, Some(FaultKind::Denied)),
            "`inject.fault`: expected a fault that a callee can cause, such as `unreachable` or `trapped`, found `denied`"
        );
    }
}
