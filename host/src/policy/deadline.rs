//! The deadline of a call.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};
use tokio::{
    task::coop::unconstrained,
    time::{Instant, sleep_until},
};

/// Until when a call may take, and whose limit that is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    /// The nearer of the edge's and the caller's.
    pub(super) at: Instant,
    /// When the call reached the edge.
    pub(super) began: Instant,
    /// How long the edge gives a call.
    edge: Duration,
}

/// The deadline passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Elapsed;

// === impl Deadline ===

impl Deadline {
    pub(super) fn new(began: Instant, edge: Duration, caller: Instant) -> Self {
        Self { at: caller.min(began + edge), began, edge }
    }

    /// Whether the caller's own deadline is the nearer one.
    pub(super) fn is_callers(&self) -> bool {
        self.at < self.began + self.edge
    }

    /// Whether an attempt that began at `began` and got no answer until the deadline speaks against the callee.
    ///
    /// Whose deadline it was can't be the measure. A caller in haste, with a few milliseconds left of its own deadline,
    /// learns nothing of the callee and must not open its breaker. But deadlines travel, so the caller's is nearly
    /// always the nearer one, be it by a millisecond: if only the edge's own deadline counted, a callee that hangs
    /// would never be found out behind a gateway with the same deadline. So the measure is the time that the attempt
    /// was given: half of what the edge gives a call is a fair chance, less (because the caller was in haste, the call
    /// waited long in the bulkhead, or it is a late retry) says little.
    pub(super) fn was_fair(&self, began: Instant) -> bool {
        self.at.saturating_duration_since(began) * 2 >= self.edge
    }
}

/// Runs `future` until `deadline`.
///
/// Like [`tokio::time::timeout_at`], with a timer only for a future that isn't ready at once: registering one takes a
/// lock and more time than all the rest of a closed edge.
pub(super) async fn until<F: Future>(deadline: Instant, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    let mut timer = pin!(None);
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        if timer.is_none() {
            // NB: without `unconstrained`, a future that uses up the task's budget at every poll would keep the timer
            // from ever being seen.
            timer.set(Some(unconstrained(sleep_until(deadline))));
        }
        match timer.as_mut().as_pin_mut() {
            Some(timer) => timer.poll(cx).map(|()| Err(Elapsed)),
            None => Poll::Pending,
        }
    })
    .await
}

#[cfg(test)]
mod tests;
