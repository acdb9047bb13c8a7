//! How many calls may be under way on an edge.
//!
//! A callee that becomes slow holds its callers' calls, and with them memory, workers and connections of the caller,
//! until nothing is left for its other callees. A bulkhead bounds what one edge can hold. Calls beyond it wait in a
//! queue of bounded length, first come first served; beyond that they are refused at once, which is kinder than a wait
//! that ends at the deadline.

use super::{InvalidPolicy, invalid};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout_at},
};

/// The most that a bulkhead lets through, and the most that its queue holds.
const MAX_CALLS: u32 = 1_000_000;

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
}

/// Why a call was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// As many as may are under way, and as many as may wait.
    Full,
    /// The deadline passed while the call waited.
    Deadline,
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
        invalid::check_count("bulkhead.concurrent", concurrent, 1..=MAX_CALLS)?;
        invalid::check_count("bulkhead.queue", queue, 0..=MAX_CALLS)?;
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
        Self { policy, permits, queued: AtomicU32::new(0) }
    }

    pub(super) fn policy(&self) -> &BulkheadPolicy {
        &self.policy
    }

    /// A permit, if one is free and nobody waits.
    pub(super) fn try_enter(&self) -> Option<SemaphorePermit<'_>> {
        self.permits.try_acquire().ok()
    }

    /// A permit, after waiting for one in the queue. Dropping the future leaves the queue.
    pub(super) async fn enter(&self, deadline: Instant) -> Result<SemaphorePermit<'_>, Refused> {
        let _place = self.take_place().ok_or(Refused::Full)?;
        match timeout_at(deadline, self.permits.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
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

// === impl Place ===

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests;
