//! Deadlines: until when a call may take, and who says so.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};
use tokio::{
    task::coop::unconstrained,
    time::{Instant, sleep_until},
};

/// When the answer to a call is of no more use, and whose limit that is.
///
/// It travels with everything that is done on the call's behalf and can only come nearer. Whoever set it is named, so
/// that the one who reads "no answer in time" at the end of a chain of calls knows which number to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// The moment.
    pub at: Instant,
    /// Who set it: an edge ("order -> user"), or what stands before the edges ("the route /api/orders").
    pub of: Arc<str>,
}

/// The time of a call on an edge: the nearer of the caller's deadline and the edge's own.
#[derive(Clone, Debug)]
pub(super) struct Allowance {
    /// When it ends.
    pub(super) until: Deadline,
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
    /// The nearer of this one and one in `limit` from now, which `of` sets.
    #[must_use]
    pub fn or_in(&self, limit: Duration, of: &Arc<str>) -> Self {
        let at = Instant::now() + limit;
        if at < self.at { Self { at, of: Arc::clone(of) } } else { self.clone() }
    }

    /// How much time is left; zero when it has passed.
    pub fn remaining(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }
}

// === impl Allowance ===

impl Allowance {
    /// The time of a call that comes to an edge at `began`, which gives each call the time `edge`.
    pub(super) fn new(began: Instant, (edge, name): (Duration, &Arc<str>), caller: &Deadline) -> Self {
        let until = match began + edge {
            at if at <= caller.at => Deadline { at, of: Arc::clone(name) },
            _ => caller.clone(),
        };
        Self { until, began, edge }
    }

    /// When it ends.
    pub(super) fn at(&self) -> Instant {
        self.until.at
    }

    /// Whether the caller's own deadline is the nearer one.
    pub(super) fn is_callers(&self) -> bool {
        self.at() < self.began + self.edge
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
        is_fair(self.at().saturating_duration_since(began), self.edge)
    }
}

/// Whether an attempt that was given so much time had a fair chance, by the deadline of its edge.
pub(super) fn is_fair(given: Duration, edge: Duration) -> bool {
    given * 2 >= edge
}

/// Runs `future` until `deadline`.
///
/// Like [`tokio::time::timeout_at`], with a timer only for a future that isn't ready at once: registering one takes a
/// lock and more time than all the rest of a closed edge. The future stays where the caller pinned it, because one taken
/// by value would be kept twice in the task: as it was passed and as it is polled.
pub(super) async fn until<F: Future>(deadline: Instant, mut future: Pin<&mut F>) -> Result<F::Output, Elapsed> {
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
