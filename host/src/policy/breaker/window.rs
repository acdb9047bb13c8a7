//! What a breaker remembers of the calls behind it: of so many calls, or of so much time.

use super::policy::WindowSize;
use crate::policy::{Outcome, ring::TimeRing};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{
    AtomicI64, AtomicU8, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use tokio::time::Instant;

/// What a window saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSums {
    /// Calls that ended.
    pub calls: u32,
    /// Those of them that failed.
    pub failed: u32,
    /// Those of them that were slow, failed or not.
    pub slow: u32,
}

/// The window of a breaker that goes by rates.
///
/// Nothing empties one: a breaker that closes again takes a new one. Counts of attempts that end in that moment then go
/// to the old one, and can't leave a sum wrong for good.
#[derive(Debug)]
pub(super) enum Window {
    Calls(CallWindow),
    // Boxed, since its buckets have cache lines of their own.
    Time(Box<TimeWindow>),
}

/// The last so many calls, to the call.
#[derive(Debug)]
pub(super) struct CallWindow {
    /// How the calls ended; the oldest is overwritten.
    slots: Box<[AtomicU8]>,
    /// How many calls there were.
    ended: AtomicU64,
    // Signed, because the one who overwrites a slot can be ahead of the one who wrote it.
    failed: AtomicI64,
    slow: AtomicI64,
}

/// The calls of the last so much time, in ten buckets.
#[derive(Debug)]
pub(super) struct TimeWindow {
    ring: TimeRing<3>,
    /// The tick of the latest call that failed or was slow.
    last_bad: AtomicU64,
}

const FAILED: u8 = 1;
const SLOW: u8 = 2;

// The counters of a `TimeWindow`.
const CALLS_COUNTER: usize = 0;
const FAILED_COUNTER: usize = 1;
const SLOW_COUNTER: usize = 2;

// === impl WindowSums ===

impl WindowSums {
    /// How many in a hundred failed, rounded down.
    pub fn failure_rate(&self) -> u32 {
        percent(self.failed, self.calls)
    }

    /// How many in a hundred were slow, rounded down.
    pub fn slow_rate(&self) -> u32 {
        percent(self.slow, self.calls)
    }
}

fn percent(part: u32, of: u32) -> u32 {
    // At most 100, since a part is no more than the whole.
    (u64::from(part.min(of)) * 100).checked_div(u64::from(of)).unwrap_or(0) as u32
}

// === impl Window ===

impl Window {
    pub(super) fn new(size: WindowSize) -> Self {
        match size {
            WindowSize::Calls(calls) => Self::Calls(CallWindow::new(calls)),
            WindowSize::Time(time) => {
                Self::Time(Box::new(TimeWindow { ring: TimeRing::new(time), last_bad: AtomicU64::new(0) }))
            }
        }
    }

    /// Notes how a call ended. Gives what there is in the window now, if any call in it failed or was slow: else there is
    /// nothing to decide, and most calls end so.
    pub(super) fn record(&self, outcome: Outcome, now: Instant) -> Option<WindowSums> {
        match self {
            Self::Calls(window) => window.record(outcome),
            Self::Time(window) => window.record(outcome, now),
        }
    }

    pub(super) fn sums(&self, now: Instant) -> WindowSums {
        match self {
            Self::Calls(window) => window.sums(),
            Self::Time(window) => window.sums(window.ring.tick(now)),
        }
    }
}

// === impl CallWindow ===

impl CallWindow {
    fn new(calls: u32) -> Self {
        let slots = (0..calls).map(|_| AtomicU8::new(0)).collect();
        Self { slots, ended: AtomicU64::new(0), failed: AtomicI64::new(0), slow: AtomicI64::new(0) }
    }

    fn record(&self, outcome: Outcome) -> Option<WindowSums> {
        let new = if outcome.failure.is_some() { FAILED } else { 0 } | if outcome.slow { SLOW } else { 0 };
        let at = self.ended.fetch_add(1, Relaxed) % self.slots.len() as u64;
        let old = self.slots[at as usize].swap(new, Relaxed);
        for (flag, sum) in [(FAILED, &self.failed), (SLOW, &self.slow)] {
            match (old & flag != 0, new & flag != 0) {
                (false, true) => drop(sum.fetch_add(1, Relaxed)),
                (true, false) => drop(sum.fetch_sub(1, Relaxed)),
                _ => {}
            }
        }
        let sums = self.sums();
        (sums.failed > 0 || sums.slow > 0).then_some(sums)
    }

    fn sums(&self) -> WindowSums {
        let calls = self.ended.load(Relaxed).min(self.slots.len() as u64) as u32;
        let of = |sum: &AtomicI64| sum.load(Relaxed).clamp(0, i64::from(calls)) as u32;
        WindowSums { calls, failed: of(&self.failed), slow: of(&self.slow) }
    }
}

// === impl TimeWindow ===

impl TimeWindow {
    fn record(&self, outcome: Outcome, now: Instant) -> Option<WindowSums> {
        let tick = self.ring.tick(now);
        self.ring.add(tick, CALLS_COUNTER);
        if outcome == Outcome::GOOD {
            let last_bad = self.last_bad.load(Acquire);
            if last_bad == 0 || TimeRing::<3>::has_left(last_bad, tick) {
                return None;
            }
            return Some(self.sums(tick));
        }
        if outcome.failure.is_some() {
            self.ring.add(tick, FAILED_COUNTER);
        }
        if outcome.slow {
            self.ring.add(tick, SLOW_COUNTER);
        }
        self.last_bad.fetch_max(tick, Release);
        Some(self.sums(tick))
    }

    fn sums(&self, tick: u64) -> WindowSums {
        let [calls, failed, slow] = self.ring.sums(tick);
        WindowSums { calls, failed: failed.min(calls), slow: slow.min(calls) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Failure, FaultKind};
    use std::time::Duration;

    fn outcome(flags: u8) -> Outcome {
        let failure = (flags & FAILED != 0).then_some(Failure::Fault(FaultKind::Trapped));
        Outcome { failure, slow: flags & SLOW != 0 }
    }

    #[tokio::test(start_paused = true)]
    async fn of_so_many_calls_the_oldest_is_forgotten_first() {
        let window = Window::new(WindowSize::Calls(3));
        let now = Instant::now();
        for (flags, expected) in [
            (0, (1, 0, 0)),
            (FAILED, (2, 1, 0)),
            (FAILED | SLOW, (3, 2, 1)),
            (0, (3, 2, 1)),
            (SLOW, (3, 1, 2)),
            (0, (3, 0, 1)),
            (0, (3, 0, 1)),
            (0, (3, 0, 0)),
        ] {
            let sums = window.record(outcome(flags), now);
            let (calls, failed, slow) = expected;
            let expected = WindowSums { calls, failed, slow };
            assert_eq!(sums, (failed + slow > 0).then_some(expected));
            assert_eq!(window.sums(now), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_so_much_time_what_is_older_is_forgotten() {
        let window = Window::new(WindowSize::Time(Duration::from_secs(10)));
        assert_eq!(window.record(outcome(0), Instant::now()), None);
        tokio::time::advance(Duration::from_secs(5)).await;
        let bad = window.record(outcome(FAILED | SLOW), Instant::now()).unwrap();
        assert_eq!(bad, WindowSums { calls: 2, failed: 1, slow: 1 });
        tokio::time::advance(Duration::from_secs(5)).await;
        let later = window.record(outcome(0), Instant::now()).unwrap();
        assert_eq!(later, WindowSums { calls: 2, failed: 1, slow: 1 });
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(window.record(outcome(0), Instant::now()), None);
    }

    /// Under real threads no count is lost and no sum drifts.
    #[test]
    fn threads_leave_the_sums_right() {
        let window = Window::new(WindowSize::Calls(64));
        let now = Instant::now();
        std::thread::scope(|scope| {
            for flags in [0, FAILED, SLOW, FAILED | SLOW] {
                let window = &window;
                scope.spawn(move || (0..10_000).for_each(|_| _ = window.record(outcome(flags), now)));
            }
        });
        (0..64).for_each(|_| _ = window.record(outcome(0), now));
        assert_eq!(window.sums(now), WindowSums { calls: 64, failed: 0, slow: 0 });
    }
}
