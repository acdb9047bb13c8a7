//! How long to wait before the next try.

use std::time::Duration;

/// Exponential backoff with jitter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// The wait after the first try.
    pub first: Duration,
    /// The longest wait.
    pub max: Duration,
    /// Which part of a wait is left to chance, from 0 (none) to 1 (all of it). Chance keeps those who failed together
    /// from trying together again.
    pub jitter: f64,
}

// === impl Backoff ===

impl Backoff {
    /// The longest wait after `attempt` failed tries, counted from 1: it doubles with each.
    pub fn ceiling(&self, attempt: u32) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        self.first.saturating_mul(1 << doublings).min(self.max)
    }

    /// The wait after `attempt` failed tries, counted from 1.
    pub fn after(&self, attempt: u32) -> Duration {
        self.ceiling(attempt).mul_f64(1.0 - self.jitter * fastrand::f64())
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), max: Duration::from_secs(60), jitter: 0.5 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_doubles_up_to_its_maximum() {
        let backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(5), jitter: 0.0 };
        let waits: Vec<_> = (1..=5).map(|attempt| backoff.after(attempt).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 5, 5]);
    }

    proptest! {
        #[test]
        fn jitter_only_shortens(attempt: u32, first in 0..100_000u64, jitter in 0.0..=1.0f64) {
            let max = Duration::from_secs(60);
            let backoff = Backoff { first: Duration::from_millis(first).min(max), max, jitter };
            let full = Backoff { jitter: 0.0, ..backoff };
            prop_assert!(backoff.after(attempt) <= full.after(attempt));
            prop_assert!(full.after(attempt) <= max);
        }
    }
}
