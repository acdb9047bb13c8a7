//! Hands the events of one subscription to its subscriber.
//!
//! Every subscription has a dispatcher of its own, so a slow subscriber slows nobody else. All buses use the same one:
//! they differ in where events come from and in what is to be done when one is settled, which is their [`Ledger`].
//!
//! Where the subscription's order is by subject, an event is tried only when all of its subject that came before it are
//! settled. One that is tried again and again holds up its own subject and nobody else: it takes none of the places of
//! those that are handled while it waits.

mod lines;

use super::{
    DeadReason, DeliveryPolicy, Event, Subscriber, Subscription, Verdict,
    archive::{Burial, MAX_ERROR},
    meter::Meter,
    room::Place,
};
use crate::policy::{Fault, FaultKind};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use lines::Lines;
use std::{cmp::Ordering, collections::BinaryHeap, future::Future, panic::AssertUnwindSafe, sync::Arc};
use tokio::{
    sync::{mpsc, watch},
    time::{Duration, Instant, sleep_until},
};

/// The longest time that a subscriber can put an event off.
const MAX_DELAY: Duration = Duration::from_secs(60 * 60);

/// Where a bus keeps account of which events are settled.
pub(super) trait Ledger: Send + Sync + 'static {
    /// What identifies an event that is being delivered.
    type Receipt: Send + Sync + 'static;

    /// Whether unsettled events outlive this process. Where they do, a dispatcher that closes leaves them.
    const DURABLE: bool;

    /// The event is about to be tried, the first time or again; `false` where it is not this process's to try any more.
    fn begin(&self, _: &Self::Receipt, _attempt: u32) -> impl Future<Output = bool> + Send {
        std::future::ready(true)
    }

    /// The event needs no further try.
    fn settle(&self, receipt: Self::Receipt) -> impl Future<Output = ()> + Send;

    /// A try failed, and another will follow when it is `due`. Where unsettled events outlive this process, so does the
    /// number of their tries.
    fn failed(
        &self,
        receipt: &Self::Receipt,
        attempt: u32,
        due: Duration,
        error: &str,
    ) -> impl Future<Output = ()> + Send;

    /// The event is given up: it becomes a dead letter, and is settled by that and not before.
    fn bury(&self, receipt: Self::Receipt, burial: Burial) -> impl Future<Output = ()> + Send;

    /// This process is done with the event, though it is not settled.
    fn leave(&self, receipt: Self::Receipt);

    /// When an event that comes to the dispatcher may be tried, if not at once: where a try failed before it came.
    fn not_before(&self, _: &Self::Receipt) -> Option<Instant> {
        None
    }
}

/// The ledger of a bus whose events live and die with the process: a settled one only gives its place back.
pub(super) struct InMemory;

/// An event on its way to a subscriber.
pub(super) struct Delivery<R> {
    pub(super) event: Arc<Event>,
    /// Which try comes next, counted from 1.
    pub(super) attempt: u32,
    pub(super) receipt: R,
}

/// When a dispatcher must be done; `None` while it need not close.
pub(super) type Closing = watch::Receiver<Option<Instant>>;

pub(super) struct Dispatcher<L: Ledger> {
    core: Arc<Core<L>>,
    inbox: mpsc::UnboundedReceiver<Delivery<L::Receipt>>,
    closing: Closing,
}

/// What every try of every event needs.
struct Core<L> {
    topic: Arc<str>,
    service: Arc<str>,
    subscriber: Arc<dyn Subscriber>,
    policy: DeliveryPolicy,
    meter: Arc<Meter>,
    ledger: Arc<L>,
}

/// An event that waits for its next try.
struct Waiting<R> {
    due: Instant,
    delivery: Delivery<R>,
    /// How often in a row the subscriber could not be asked at all.
    refused: u32,
}

/// What came of a try.
struct Tried<R> {
    event: Arc<Event>,
    /// The next one; else the event is settled, or not this process's any more.
    again: Option<Waiting<R>>,
}

enum Next {
    Settled,
    /// Why, the last error, and how often it was tried.
    Dead(DeadReason, String, u32),
    Again(Duration, String),
    /// The subscriber could not be asked: that is no try of the event.
    Refused(Duration, String),
}

// === impl Dispatcher ===

impl<L: Ledger> Dispatcher<L> {
    pub(super) fn new(
        subscription: Subscription,
        meter: Arc<Meter>,
        ledger: Arc<L>,
        inbox: mpsc::UnboundedReceiver<Delivery<L::Receipt>>,
        closing: Closing,
    ) -> Self {
        let Subscription { topic, service, subscriber, policy } = subscription;
        Self { core: Arc::new(Core { topic, service, subscriber, policy, meter, ledger }), inbox, closing }
    }

    /// Runs until the inbox is closed and all that came out of it is settled, or left where it is kept.
    pub(super) async fn run(mut self) {
        let core = self.core;
        let mut lines = Lines::new(core.policy.order);
        let mut in_flight: FuturesUnordered<BoxFuture<'static, Tried<L::Receipt>>> = FuturesUnordered::new();
        let mut waiting: BinaryHeap<Waiting<L::Receipt>> = BinaryHeap::new();
        let (mut open, mut until) = (true, None);
        loop {
            while in_flight.len() < core.policy.concurrency {
                // What is due again goes first, or it would never be its turn while there is enough that is new.
                if waiting.peek().is_some_and(|it| it.due <= Instant::now())
                    && let Some(Waiting { delivery, refused, .. }) = waiting.pop()
                {
                    in_flight.push(Arc::clone(&core).attempt(delivery, refused).boxed());
                    continue;
                }
                let Some(delivery) = lines.pop() else { break };
                match core.ledger.not_before(&delivery.receipt) {
                    Some(due) if due > Instant::now() => waiting.push(Waiting { due, delivery, refused: 0 }),
                    _ => in_flight.push(Arc::clone(&core).attempt(delivery, 0).boxed()),
                }
            }
            core.meter.set_load(in_flight.len(), waiting.len());
            // Whoever stands in a line stands behind one that is in flight or waits.
            if !open && in_flight.is_empty() && waiting.is_empty() {
                return;
            }
            let free = in_flight.len() < core.policy.concurrency;
            let due = waiting.peek().map(|it| it.due);
            tokio::select! {
                biased;
                changed = self.closing.changed(), if until.is_none() => {
                    // Where the other side is gone, nobody waits for what is left.
                    let deadline = self.closing.borrow().unwrap_or_else(Instant::now);
                    until = Some(if changed.is_ok() { deadline } else { Instant::now() });
                    for it in waiting.drain().collect::<Vec<_>>() {
                        core.keep_or_leave(it, until, &mut waiting, &mut lines);
                    }
                    if L::DURABLE {
                        lines.drain().for_each(|it| core.ledger.leave(it.receipt));
                        self.inbox.close();
                    }
                }
                Some(Tried { event, again }) = in_flight.next() => match again {
                    Some(it) => core.keep_or_leave(it, until, &mut waiting, &mut lines),
                    None => lines.done(&event),
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if free && due.is_some() => {}
                // What comes has its room already, so it is taken in also when nothing can be tried now: who is behind
                // it may be.
                delivery = self.inbox.recv(), if open => match delivery {
                    Some(delivery) if L::DURABLE && until.is_some() => core.ledger.leave(delivery.receipt),
                    Some(delivery) => lines.push(delivery),
                    None => open = false,
                }
            }
        }
    }
}

// === impl Core ===

impl<L: Ledger> Core<L> {
    /// Lets an event wait for its next try, unless the dispatcher closes before that comes.
    fn keep_or_leave(
        &self,
        it: Waiting<L::Receipt>,
        until: Option<Instant>,
        waiting: &mut BinaryHeap<Waiting<L::Receipt>>,
        lines: &mut Lines<L::Receipt>,
    ) {
        match until {
            Some(_) if L::DURABLE => self.ledger.leave(it.delivery.receipt),
            Some(until) if it.due > until => {
                let event = it.delivery.event;
                tracing::error!(topic = %event.topic, id = %event.id, service = %self.service,
                    attempts = it.delivery.attempt - 1, "event lost: the bus stops before its next try");
                self.ledger.leave(it.delivery.receipt);
                lines.done(&event);
            }
            _ => waiting.push(it),
        }
    }

    async fn attempt(self: Arc<Self>, delivery: Delivery<L::Receipt>, refused: u32) -> Tried<L::Receipt> {
        let Delivery { event, attempt, receipt } = delivery;
        let next = if attempt > self.policy.max_attempts {
            // Only where tries were counted that this process did not see, for example because it died of them.
            let error = format!("it was tried as often as allowed ({}), without an answer", self.policy.max_attempts);
            Next::Dead(DeadReason::AttemptsExhausted, error, attempt - 1)
        } else if !self.ledger.begin(&receipt, attempt).await {
            self.ledger.leave(receipt);
            return Tried { event, again: None };
        } else {
            // A panic in here must not end the dispatcher, or the subscription would stand still in silence.
            let delivery = async { self.subscriber.deliver(Arc::clone(&event), attempt).await };
            let delivered = AssertUnwindSafe(delivery).catch_unwind().await;
            let panicked = |_| Err(Fault::new(FaultKind::Trapped, "the subscriber panicked"));
            self.judge(delivered.unwrap_or_else(panicked), attempt, refused)
        };
        match next {
            Next::Settled => {
                self.meter.delivered();
                self.ledger.settle(receipt).await;
            }
            Next::Dead(reason, error, attempts) => {
                let error: String = error.chars().take(MAX_ERROR).collect();
                tracing::error!(topic = %self.topic, id = %event.id, service = %self.service, attempts, ?reason, %error,
                    "event is dead");
                self.ledger.bury(receipt, Burial { reason, error, attempts }).await;
                self.meter.rejected();
            }
            Next::Again(delay, error) => return self.later(event, receipt, attempt, 0, delay, error).await,
            Next::Refused(delay, error) => {
                return self.later(event, receipt, attempt - 1, refused + 1, delay, error).await;
            }
        }
        Tried { event, again: None }
    }

    /// Lets an event that has had `attempts` tries wait for the next.
    async fn later(
        &self,
        event: Arc<Event>,
        receipt: L::Receipt,
        attempts: u32,
        refused: u32,
        delay: Duration,
        error: String,
    ) -> Tried<L::Receipt> {
        self.meter.retried();
        let delay = delay.min(MAX_DELAY);
        let due = Instant::now() + delay;
        let error: String = error.chars().take(MAX_ERROR).collect();
        self.ledger.failed(&receipt, attempts, delay, &error).await;
        let delivery = Delivery { event: Arc::clone(&event), attempt: attempts + 1, receipt };
        Tried { event, again: Some(Waiting { due, delivery, refused }) }
    }

    fn judge(&self, answer: Result<Verdict, Fault>, attempt: u32, refused: u32) -> Next {
        let (delay, reason) = match answer {
            Ok(Verdict::Ack) => return Next::Settled,
            Ok(Verdict::Reject(reason)) => return Next::Dead(DeadReason::Rejected, reason, attempt),
            // No further try can be granted what this one was not.
            Err(fault) if fault.kind() == FaultKind::Denied => {
                return Next::Dead(DeadReason::Denied, fault.to_string(), attempt);
            }
            // The subscriber is away, busy, or spared by its circuit breaker: the event is not at fault, and it must not die of
            // it, however long that takes.
            Err(fault) if fault.kind().nothing_begun() => {
                let backoff = self.policy.backoff.after(attempt.saturating_add(refused));
                let delay = fault.retry_after().map_or(backoff, |after| after.max(backoff));
                return Next::Refused(delay, fault.to_string());
            }
            Ok(Verdict::Retry(delay)) => (delay, "the subscriber asked for another try".into()),
            Err(fault) => {
                // A retry before this would come to the same end, and use up a try.
                let delay = fault.retry_after().map(|after| after.max(self.policy.backoff.after(attempt)));
                (delay, fault.to_string())
            }
        };
        if attempt >= self.policy.max_attempts {
            return Next::Dead(DeadReason::AttemptsExhausted, reason, attempt);
        }
        Next::Again(delay.unwrap_or_else(|| self.policy.backoff.after(attempt)), reason)
    }
}

// === impl InMemory ===

impl Ledger for InMemory {
    type Receipt = Place;
    const DURABLE: bool = false;

    async fn settle(&self, place: Place) {
        drop(place);
    }

    async fn failed(&self, _: &Place, _: u32, _: Duration, _: &str) {}

    async fn bury(&self, place: Place, _: Burial) {
        drop(place);
    }

    fn leave(&self, place: Place) {
        drop(place);
    }
}

// === impl Waiting ===

impl<R> Ord for Waiting<R> {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap gives its greatest first, and that must be what is due first.
        other.due.cmp(&self.due)
    }
}

impl<R> PartialOrd for Waiting<R> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<R> PartialEq for Waiting<R> {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl<R> Eq for Waiting<R> {}

#[cfg(test)]
mod tests;
