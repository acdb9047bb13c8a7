//! Counters over a sliding stretch of time.
//!
//! A ring of buckets, each for a fixed stretch of time: a count falls into the bucket of its moment, and a bucket whose
//! time has come round again begins at zero. What is summed reaches back at least nine tenths of the window and at most
//! all of it, however many or few calls came: a decision on it depends on what happened, not on how fast.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};
use tokio::time::Instant;

/// Into how many buckets a window is cut.
const BUCKETS: u64 = 10;

/// `N` counters over a window of time.
#[derive(Debug)]
pub(super) struct TimeRing<const N: usize> {
    origin: Instant,
    /// How long a bucket lasts, in nanoseconds.
    bucket: u64,
    buckets: [Bucket<N>; BUCKETS as usize],
    turning: Mutex<()>,
}

/// A cache line of its own, so that a bucket just left and the one now counted in don't slow each other down.
#[derive(Debug)]
#[repr(align(64))]
struct Bucket<const N: usize> {
    /// Which stretch of time it counts, from 1; 0 for none.
    tick: AtomicU64,
    counts: [AtomicU32; N],
}

// === impl TimeRing ===

impl<const N: usize> TimeRing<N> {
    /// A ring over `window`, which is at least ten nanoseconds.
    pub(super) fn new(window: Duration) -> Self {
        let bucket = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX) / BUCKETS;
        let empty = |_| Bucket { tick: AtomicU64::new(0), counts: std::array::from_fn(|_| AtomicU32::new(0)) };
        Self {
            origin: Instant::now(),
            bucket: bucket.max(1),
            buckets: std::array::from_fn(empty),
            turning: Mutex::new(()),
        }
    }

    /// The stretch of time that `now` falls into.
    pub(super) fn tick(&self, now: Instant) -> u64 {
        let nanos = now.saturating_duration_since(self.origin).as_nanos();
        u64::try_from(nanos).unwrap_or(u64::MAX) / self.bucket + 1
    }

    /// Counts one in counter `which`.
    pub(super) fn add(&self, tick: u64, which: usize) {
        let bucket = &self.buckets[(tick % BUCKETS) as usize];
        if bucket.tick.load(Acquire) != tick {
            self.turn(bucket, tick);
        }
        // NB: a thread that was held up for a whole window just here counts into the next round. One call is then in
        // the wrong bucket, for one round.
        bucket.counts[which].fetch_add(1, Relaxed);
    }

    /// What was counted within the window that ends with `tick`.
    pub(super) fn sums(&self, tick: u64) -> [u32; N] {
        let mut sums = [0_u32; N];
        for bucket in &self.buckets {
            let at = bucket.tick.load(Acquire);
            if at == 0 || at > tick || at + BUCKETS <= tick {
                continue;
            }
            for (sum, count) in sums.iter_mut().zip(&bucket.counts) {
                *sum = sum.saturating_add(count.load(Relaxed));
            }
        }
        sums
    }

    /// Whether something counted at `then` has left the window that ends with `tick`.
    pub(super) fn has_left(then: u64, tick: u64) -> bool {
        then + BUCKETS <= tick
    }

    #[cold]
    fn turn(&self, bucket: &Bucket<N>, tick: u64) {
        let _turning = self.turning.lock().unwrap_or_else(PoisonError::into_inner);
        // Another may have turned it, this far or (if this thread was held up) farther.
        if bucket.tick.load(Relaxed) < tick {
            bucket.counts.iter().for_each(|count| count.store(0, Relaxed));
            // Release, for whoever finds the tick right to find the counts begun anew.
            bucket.tick.store(tick, Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::time::advance;

    const WINDOW: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn what_is_older_than_the_window_is_forgotten() {
        let ring = TimeRing::<2>::new(WINDOW);
        let now = || ring.tick(Instant::now());
        ring.add(now(), 0);
        ring.add(now(), 1);
        advance(Duration::from_millis(9_999)).await;
        ring.add(now(), 0);
        assert_eq!(ring.sums(now()), [2, 1]);
        advance(Duration::from_millis(1)).await;
        assert_eq!(ring.sums(now()), [1, 0]);
        advance(WINDOW).await;
        assert_eq!(ring.sums(now()), [0, 0], "though nothing came to turn the buckets");
    }

    proptest! {
        /// Against a list of all counts with their times.
        #[test]
        fn sums_what_the_last_ten_buckets_saw(steps in proptest::collection::vec((0..2_500_u64, 0..3_usize), 1..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let ring = TimeRing::<3>::new(WINDOW);
                let (began, mut all) = (Instant::now(), Vec::new());
                for (wait, which) in steps {
                    advance(Duration::from_millis(wait)).await;
                    let second = began.elapsed().as_secs();
                    ring.add(ring.tick(Instant::now()), which);
                    all.push((second, which));
                    let expected = [0, 1, 2].map(|which| {
                        all.iter().filter(|(then, counted)| *counted == which && then + BUCKETS > second).count() as u32
                    });
                    assert_eq!(ring.sums(ring.tick(Instant::now())), expected);
                }
            });
        }
    }
}
