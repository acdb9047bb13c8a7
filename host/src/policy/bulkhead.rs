//! How many calls may be under way on an edge.
//!
//! A callee that becomes slow holds its callers' calls, and with them memory, workers and connections of the caller,
//! until nothing is left for its other callees. A bulkhead bounds what one edge can hold. Calls beyond it wait in a
//! queue of bounded length, first come first served; beyond that they are refused at once, which is kinder than a wait
//! that ends at the deadline. And so is a call at the end of a queue that will not move fast enough for it (load
//! shedding, see [`HoldTime`]): its place is for one that has the time.

use super::{HoldTime, InvalidPolicy, bounds, invalid};
use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout_at},
};

/// How many calls may be under way on an edge, and how many may wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BulkheadPolicy {
    concurrent: u32,
    queue: u32,
}

/// The live state of a bulkhead.
#[derive(Debug)]
pub(super) struct Bulkhead {
    policy: BulkheadPolicy,
    // NB: tokio's semaphore is fair: a permit that is returned while others wait goes to the first of them, so
    // `try_acquire` never passes the queue.
    permits: Semaphore,
    queued: AtomicU32,
    hold: HoldTime,
}

/// A place inside, given back when dropped.
#[derive(Debug)]
pub(super) struct Permit<'a> {
    bulkhead: &'a Bulkhead,
    began: Instant,
    _permit: SemaphorePermit<'a>,
}

/// Why a call was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// As many as may are under way, and as many as may wait.
    Full,
    /// The deadline passed while the call waited.
    Deadline,
    /// The wait would be so long, and the deadline is sooner.
    Hopeless(Duration),
}

/// A place in the queue, given back when dropped.
struct Place<'a>(&'a AtomicU32);

// === impl BulkheadPolicy ===

impl BulkheadPolicy {
    /// At most `concurrent` calls under way (1 to 1,000,000) and `queue` waiting (0 to 1,000,000; 0 is no waiting).
    ///
    /// # Errors
    ///
    /// When a number is out of range.
    pub fn try_new(concurrent: u32, queue: u32) -> Result<Self, InvalidPolicy> {
        invalid::check_count("bulkhead.concurrent", concurrent, bounds::CONCURRENT)?;
        invalid::check_count("bulkhead.queue", queue, bounds::QUEUE)?;
        Ok(Self { concurrent, queue })
    }

    /// How many calls may be under way.
    pub fn concurrent(&self) -> u32 {
        self.concurrent
    }

    /// How many calls may wait.
    pub fn queue(&self) -> u32 {
        self.queue
    }
}

impl Default for BulkheadPolicy {
    /// 256 under way, 1,024 waiting.
    fn default() -> Self {
        Self { concurrent: 256, queue: 1024 }
    }
}

// === impl Bulkhead ===

impl Bulkhead {
    pub(super) fn new(policy: BulkheadPolicy) -> Self {
        let permits = Semaphore::new(policy.concurrent as usize);
        Self { policy, permits, queued: AtomicU32::new(0), hold: HoldTime::default() }
    }

    pub(super) fn policy(&self) -> &BulkheadPolicy {
        &self.policy
    }

    /// A permit, if one is free and nobody waits, for a call that comes `now`.
    pub(super) fn try_enter(&self, now: Instant) -> Option<Permit<'_>> {
        let permit = self.permits.try_acquire().ok()?;
        Some(Permit { bulkhead: self, began: now, _permit: permit })
    }

    /// A permit, after waiting for one in the queue. Dropping the future leaves the queue.
    pub(super) async fn enter(&self, now: Instant, deadline: Instant) -> Result<Permit<'_>, Refused> {
        let ahead = self.queued();
        let _place = self.take_place().ok_or(Refused::Full)?;
        let wait = self.hold.expected_wait(ahead as usize, self.policy.concurrent as usize);
        // NB: who would be the first waits in any case. Else a queue that was slow once and is empty would never find out
        // that it no longer is.
        let wait = wait.filter(|_| ahead > 0);
        if let Some(wait) = wait.filter(|wait| *wait >= deadline.saturating_duration_since(now)) {
            return Err(Refused::Hopeless(wait));
        }
        match timeout_at(deadline, self.permits.acquire()).await {
            Ok(Ok(permit)) => Ok(Permit { bulkhead: self, began: Instant::now(), _permit: permit }),
            // Nobody closes the semaphore. Were it closed, no permit could be had.
            Ok(Err(_)) => Err(Refused::Full),
            Err(_) => Err(Refused::Deadline),
        }
    }

    /// How many calls wait now.
    pub(super) fn queued(&self) -> u32 {
        self.queued.load(Relaxed)
    }

    fn take_place(&self) -> Option<Place<'_>> {
        let room = |queued: u32| (queued < self.policy.queue).then(|| queued + 1);
        self.queued.fetch_update(Relaxed, Relaxed, room).ok()?;
        Some(Place(&self.queued))
    }
}

// === impl Permit ===

impl Permit<'_> {
    /// When it was given.
    pub(super) fn began(&self) -> Instant {
        self.began
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        // While nobody waits nobody asks, and a call need not look at the clock once more.
        if self.bulkhead.queued() > 0 {
            self.bulkhead.hold.record(self.began.elapsed());
        }
    }
}

// === impl Place ===

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests;
