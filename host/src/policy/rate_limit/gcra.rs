//! The generic cell rate algorithm (ITU-T I.371, annex A): a bucket that drains as one number.
//!
//! A bucket holds `burst` requests and gets one back in every interval. What is kept of it is only the moment at which
//! it will be full again, in nanoseconds since the limiter began; it is full if that has passed. So a bucket that nobody
//! has touched and one that is full again are the same, and forgetting the latter changes nothing.

use super::{Quota, RateLimitParams, RateLimitPolicy};
use std::time::Duration;

/// How buckets drain and fill.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meter {
    /// After how many nanoseconds a bucket gets one request back. Rounded up, so that the rate is never exceeded.
    interval: u64,
    /// How long an empty bucket takes to be full.
    capacity: u64,
}

// === impl Meter ===

impl Meter {
    pub(super) fn new(policy: &RateLimitPolicy) -> Self {
        let RateLimitParams { requests, per, .. } = policy.params();
        // The policy's bounds keep both below two days.
        let interval = per.as_nanos().div_ceil(u128::from(*requests)) as u64;
        Self { interval, capacity: interval * u64::from(policy.burst()) }
    }

    /// Takes one request out of the bucket that will be full at `full_at`, if it holds one.
    pub(super) fn take(&self, full_at: &mut u64, now: u64) -> Quota {
        let mut lacks = full_at.saturating_sub(now);
        let granted = lacks.saturating_add(self.interval) <= self.capacity;
        if granted {
            lacks += self.interval;
            *full_at = now.saturating_add(lacks);
        }
        let left = self.capacity.saturating_sub(lacks) / self.interval;
        // It lacks something in either case, so there is room for one more.
        let more_in = lacks.saturating_sub(self.capacity - (left + 1) * self.interval);
        // No more than the burst, which is one of a policy.
        Quota { granted, left: left as u32, more_in: Duration::from_nanos(more_in) }
    }
}
