//! How long a wait in a queue will be.
//!
//! A call that waits for what it can't get in time takes the place of one that could: when it is its turn at last, its
//! caller is gone. So queues ask at the entrance how long the wait will be, and send away whoever can't stay that long.
//! The measure is how long those before held their places, smoothed as TCP smooths round trips (RFC 6298: an eighth of
//! each new one). Nothing is known while nobody has waited yet; then nobody is sent away.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// How long a place is held, on the average of late.
#[derive(Debug, Default)]
pub struct HoldTime(
    /// In nanoseconds; 0 for not known.
    AtomicU64,
);

// === impl HoldTime ===

impl HoldTime {
    /// Somebody held a place so long.
    pub fn record(&self, held: Duration) {
        let held = u64::try_from(held.as_nanos()).unwrap_or(u64::MAX).max(1);
        // Of two who record at once one may be lost: it is an average.
        let before = self.0.load(Relaxed);
        let after = if before == 0 { held } else { before - before / 8 + held / 8 };
        self.0.store(after.max(1), Relaxed);
    }

    /// How long the wait will be behind `ahead` others for one of `places`; `None` if nothing is known.
    pub fn expected_wait(&self, ahead: usize, places: usize) -> Option<Duration> {
        let held = self.0.load(Relaxed);
        if held == 0 {
            return None;
        }
        // The one in front waits for the first of `places` to become free.
        let turns = (ahead as u128 + 1) * u128::from(held) / places.max(1) as u128;
        Some(Duration::from_nanos(u64::try_from(turns).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn nothing_is_known_at_first() {
        assert_eq!(HoldTime::default().expected_wait(100, 1), None);
    }

    #[test]
    fn the_wait_grows_with_those_ahead_and_shrinks_with_the_places() {
        let hold = HoldTime::default();
        hold.record(SECOND);
        assert_eq!(hold.expected_wait(0, 1), Some(SECOND));
        assert_eq!(hold.expected_wait(3, 1), Some(4 * SECOND));
        assert_eq!(hold.expected_wait(3, 2), Some(2 * SECOND));
        assert_eq!(hold.expected_wait(0, 4), Some(SECOND / 4));
        assert!(hold.expected_wait(usize::MAX, 1).is_some());
    }

    #[test]
    fn it_follows_what_holds_now() {
        let hold = HoldTime::default();
        hold.record(10 * SECOND);
        for _ in 0..100 {
            hold.record(SECOND);
        }
        let wait = hold.expected_wait(0, 1).unwrap();
        assert!((SECOND * 9 / 10..SECOND * 11 / 10).contains(&wait), "{wait:?}");
        hold.record(Duration::ZERO);
        hold.record(Duration::MAX);
        assert!(hold.expected_wait(usize::MAX, 0).is_some());
    }
}
