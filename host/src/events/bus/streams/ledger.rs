//! What becomes of an entry that the dispatcher has.

use super::{entry, group::Group, holdings::Source, scripts};
use crate::events::{Event, archive::Burial, dispatcher::Ledger, room::Place};
use ::redis::{Cmd, RedisResult};
use jiff::Timestamp;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};
use tokio::time::{Duration, Instant};

/// One entry in the hands of this host.
pub(super) struct Held {
    pub(super) source: Source,
    pub(super) generation: u64,
    pub(super) id: String,
    pub(super) event: Arc<Event>,
    /// Whether Redis has counted the try that comes next.
    pub(super) counted: AtomicBool,
    /// Whether it is being tried.
    pub(super) trying: AtomicBool,
    pub(super) _place: Place,
}

/// A dead letter on its way.
#[derive(Clone, Debug)]
pub(super) struct Letter {
    burial: Burial,
    at: Timestamp,
    /// `None` where there was none in the entry.
    event: Option<Arc<Event>>,
}

// === impl Letter ===

impl Letter {
    pub(super) fn new(burial: Burial, event: Option<Arc<Event>>) -> Self {
        Self { burial, at: Timestamp::now(), event }
    }

    /// The arguments of [`scripts::BURY`] from the number of the letter's own on.
    pub(super) fn encode(&self, topic: &str, service: &str, bury: &mut Cmd) {
        let Burial { reason, error, attempts } = &self.burial;
        bury.arg(12);
        bury.arg("dead-service").arg(service).arg("dead-topic").arg(topic);
        bury.arg("dead-reason").arg(reason.name()).arg("dead-error").arg(error);
        bury.arg("dead-attempts").arg(attempts).arg("dead-at").arg(format!("{:.3}", self.at));
        if let Some(event) = &self.event {
            entry::encode(event, bury);
        }
    }
}

// === impl Group ===

impl Group {
    /// Counts a try in Redis; `false` where the entry is not this host's to try.
    async fn count(&self, held: &Held, attempt: u32) -> bool {
        let mut failed = 0;
        loop {
            let counted: RedisResult<u8> = {
                let mut begin = scripts::BEGIN.on([self.leases(), self.stream(held.source)]);
                begin.arg(&self.host).arg(&*self.service).arg(held.source.partition()).arg(&held.id).arg(attempt);
                self.redis.query(&begin).await
            };
            match counted {
                Ok(1) => return true,
                Ok(2) => {
                    tracing::warn!(topic = %self.topic, entry = held.id, service = %self.service, attempts = attempt - 1,
                        "the Redis stream does not hold the event any more, or it was settled elsewhere");
                    return false;
                }
                Ok(_) => {
                    self.holdings().lose(held.source);
                    return false;
                }
                Err(err) => {
                    failed += 1;
                    self.recover(&err, failed).await;
                    if !self.holdings().holds(held.source, held.generation, Instant::now()) {
                        return false;
                    }
                }
            }
        }
    }

    fn tried(&self, held: &Held) {
        if held.trying.swap(false, Relaxed) {
            let mut holdings = self.holdings();
            holdings.end(held.source);
            if holdings.has_drained() {
                self.drained.notify_one();
            }
        }
    }

    /// The entry is settled, one way or the other.
    async fn done(&self, held: Held, letter: Option<Letter>) {
        self.finish(held.source, &held.id, letter).await;
        self.leave(held);
    }
}

impl Ledger for Group {
    type Receipt = Held;
    const DURABLE: bool = true;

    async fn begin(&self, held: &Held, attempt: u32) -> bool {
        if !self.holdings().begin(held.source, held.generation, Instant::now()) {
            return false;
        }
        held.trying.store(true, Relaxed);
        held.counted.load(Relaxed) || self.count(held, attempt).await
    }

    async fn settle(&self, held: Held) {
        self.done(held, None).await;
    }

    async fn failed(&self, held: &Held, _: u32, _: Duration, _: &str) {
        held.counted.store(false, Relaxed);
        self.tried(held);
    }

    async fn bury(&self, held: Held, burial: Burial) {
        let letter = Letter::new(burial, Some(Arc::clone(&held.event)));
        self.done(held, Some(letter)).await;
    }

    fn leave(&self, held: Held) {
        self.tried(&held);
        self.holdings().let_go(held.source, held.generation, &held.id);
    }
}
