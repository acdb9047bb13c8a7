//! What a breaker is told to do.

use crate::policy::{InvalidPolicy, invalid};
use std::time::Duration;

/// When a breaker opens, for how long, and what closes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerPolicy {
    failures: u32,
    open: Duration,
    half_open: u32,
}

// === impl BreakerPolicy ===

impl BreakerPolicy {
    /// Opens after `failures` in a row (1 to 1,000,000), stays open for `open`, then lets `half_open` probes (1 to
    /// 1,000) through, and closes when all of them succeeded.
    ///
    /// # Errors
    ///
    /// When a number is out of range or `open` is zero or longer than [`MAX_DURATION`](super::MAX_DURATION).
    pub fn try_new(failures: u32, open: Duration, half_open: u32) -> Result<Self, InvalidPolicy> {
        invalid::check_count("breaker.failures", failures, 1..=1_000_000)?;
        invalid::check_duration("breaker.open", open)?;
        invalid::check_count("breaker.half-open", half_open, 1..=1_000)?;
        Ok(Self { failures, open, half_open })
    }

    /// How many failures in a row open it.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// How long it stays open.
    pub fn open(&self) -> Duration {
        self.open
    }

    /// How many probes it lets through when half-open, and how many successes close it.
    pub fn half_open(&self) -> u32 {
        self.half_open
    }
}

impl Default for BreakerPolicy {
    /// Five failures, sixty seconds, one probe.
    fn default() -> Self {
        Self { failures: 5, open: Duration::from_secs(60), half_open: 1 }
    }
}
