//! What the tests of this folder share.

mod proxy;
mod server;

pub(super) use proxy::Proxy;
pub(crate) use server::Server;

use super::{Bus, BusConfig, BusKind, DeliveryPolicy, Event, Retention, Subscriber, Subscription, Verdict};
use crate::policy::{Backoff, Fault, FaultKind};
use futures::{FutureExt, future::BoxFuture};
use std::sync::Arc;
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Duration, Instant, timeout},
};

/// How long to wait for what must happen.
pub(super) const SOON: Duration = Duration::from_secs(20);

type Answer = Result<Verdict, Fault>;

/// A delivery as a subscriber saw it.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) event: Arc<Event>,
    pub(super) attempt: u32,
    pub(super) at: Instant,
}

/// The deliveries of one subscription, in order.
pub(super) struct Log(mpsc::UnboundedReceiver<Seen>);

struct Probe<F> {
    log: mpsc::UnboundedSender<Seen>,
    answer: F,
}

// === impl Probe ===

impl<F, R> Subscriber for Probe<F>
where
    F: Fn(Arc<Event>, u32) -> R + Send + Sync + 'static,
    R: Future<Output = Answer> + Send + 'static,
{
    fn deliver(&self, event: Arc<Event>, attempt: u32) -> BoxFuture<'_, Answer> {
        let _ = self.log.send(Seen { event: Arc::clone(&event), attempt, at: Instant::now() });
        (self.answer)(event, attempt).boxed()
    }
}

/// A subscriber that answers like this, and the log of what it is given.
pub(super) fn probe<R>(answer: impl Fn(Arc<Event>, u32) -> R + Send + Sync + 'static) -> (Arc<dyn Subscriber>, Log)
where
    R: Future<Output = Answer> + Send + 'static,
{
    let (log, seen) = mpsc::unbounded_channel();
    (Arc::new(Probe { log, answer }), Log(seen))
}

/// A subscriber that acknowledges everything.
pub(super) fn acknowledging() -> (Arc<dyn Subscriber>, Log) {
    probe(|_, _| async { Ok(Verdict::Ack) })
}

/// A subscriber that needs a permit for each answer.
pub(super) fn gated() -> (Arc<dyn Subscriber>, Log, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let (subscriber, log) = probe(move |_, _| {
        let gate = Arc::clone(&held);
        async move {
            gate.acquire().await.unwrap().forget();
            Ok(Verdict::Ack)
        }
    });
    (subscriber, log, gate)
}

pub(super) fn trapped() -> Fault {
    Fault::new(FaultKind::Trapped, "unreachable executed")
}

/// No chance in the waits.
pub(super) fn policy() -> DeliveryPolicy {
    let backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(60), jitter: 0.0 };
    DeliveryPolicy { backoff, ..DeliveryPolicy::default() }
}

/// A bus on which `order` may publish `order.created` and `order.confirmed`.
pub(super) async fn start(kind: BusKind, subscriptions: Vec<Subscription>) -> Bus {
    start_with(kind, Retention::default(), subscriptions).await
}

/// The same, with a retention of its own.
pub(super) async fn start_with(kind: BusKind, retention: Retention, subscriptions: Vec<Subscription>) -> Bus {
    let topics = vec!["order.created".into(), "order.confirmed".into()];
    let publishes = [("order".to_owned(), topics)].into();
    Bus::start(BusConfig { app: "shop".into(), kind, publishes, retention }, subscriptions).await.unwrap()
}

// === impl Log ===

impl Log {
    pub(super) async fn next(&mut self) -> Seen {
        let next = timeout(SOON, self.0.recv()).await;
        next.expect("no delivery came in time").expect("the subscriber is gone")
    }

    /// The payloads of the next deliveries.
    pub(super) async fn texts(&mut self, count: usize) -> Vec<String> {
        let mut texts = Vec::new();
        while texts.len() < count {
            texts.push(self.next().await.text());
        }
        texts
    }

    /// What has been delivered so far and not been looked at.
    pub(super) fn rest(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.0.try_recv().ok()).map(|seen| seen.text()).collect()
    }
}

impl Seen {
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.event.data.to_vec()).unwrap()
    }
}

/// Asks until the answer is yes.
pub(super) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let asking = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, asking).await.unwrap_or_else(|_| panic!("did not come about: {what}"));
}
