//! How the dispatchers tell the log what became of events.

use super::{
    cursor::{Cursor, Held},
    log::Log,
    writer::{Job, Page, trouble},
};
use crate::{
    events::{Event, archive::Burial, dispatcher::Ledger},
    policy::{Backoff, Fault},
};
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;
use tokio::{
    sync::oneshot,
    time::{Duration, Instant, sleep},
};

/// How long to wait after a dead letter could not be written.
const TROUBLE: Backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(5), jitter: 0.5 };

/// What was settled is noted here and saved a moment later, with the next commit or in one of its own.
pub(super) struct Accounts {
    pub(super) log: Arc<Log>,
}

/// Makes an event a dead letter, and settles it in the same transaction.
struct Burying {
    cursor: Arc<Cursor>,
    seq: i64,
    event: Arc<Event>,
    burial: Burial,
    settled: bool,
    reply: oneshot::Sender<Result<(), Fault>>,
}

// === impl Accounts ===

impl Ledger for Accounts {
    type Receipt = Held;
    const DURABLE: bool = true;

    async fn begin(&self, held: &Held, attempt: u32) -> bool {
        if held.cursor.is_stopped() {
            return false;
        }
        if held.cursor.begins(held.seq, &held.event, attempt) {
            let saving = self.log.write(|page| {
                page.save_too();
                Ok(())
            });
            // Where it can't be written it is tried all the same: a full disk must not stop deliveries.
            if let Err(reason) = saving.await {
                tracing::debug!(id = %held.event.id, %reason, "a try is not saved before it begins");
            }
        }
        true
    }

    async fn settle(&self, held: Held) {
        held.cursor.settle(held.seq, &held.event, false);
    }

    async fn failed(&self, held: &Held, attempt: u32, due: Duration, error: &str) {
        let due = SignedDuration::try_from(due).unwrap_or(SignedDuration::MAX);
        let due = Timestamp::now().checked_add(due).unwrap_or(Timestamp::MAX);
        held.cursor.failed(held.seq, &held.event, attempt, due, error);
    }

    async fn bury(&self, held: Held, burial: Burial) {
        let mut failed = 0;
        loop {
            let (reply, answer) = oneshot::channel();
            let burying = Burying {
                cursor: Arc::clone(&held.cursor),
                seq: held.seq,
                event: Arc::clone(&held.event),
                burial: burial.clone(),
                settled: false,
                reply,
            };
            let Err(fault) = self.log.submit(Box::new(burying)) else {
                match answer.await {
                    Ok(Ok(())) => return,
                    Ok(Err(fault)) => {
                        failed += 1;
                        tracing::error!(topic = %held.event.topic, id = %held.event.id, reason = %fault,
                            "a dead letter could not be written; it will be tried again");
                        sleep(TROUBLE.after(failed)).await;
                        continue;
                    }
                    // The writer ended with it; whether it is written is not known, and it is better there twice.
                    Err(_) => continue,
                }
            };
            // The log is closed: the event is not settled, and will be delivered again.
            tracing::warn!(id = %held.event.id, reason = %fault, "a dead letter was not written");
            return;
        }
    }

    fn leave(&self, held: Held) {
        drop(held);
    }

    fn not_before(&self, held: &Held) -> Option<Instant> {
        held.due
    }
}

// === impl Burying ===

impl Burying {
    fn write(&self, page: &Page<'_>) -> rusqlite::Result<()> {
        let Burial { reason, error, attempts } = &self.burial;
        let insert =
            "INSERT INTO dead (subscription, seq, reason, error, attempts, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let at = Timestamp::now().as_millisecond();
        let values = (self.cursor.seat.subscription, self.seq, reason.name(), error, attempts, at);
        page.connection().prepare_cached(insert)?.execute(values)?;
        Ok(())
    }
}

impl Job for Burying {
    fn run(&mut self, page: &mut Page<'_>, log: &Log) -> Result<(), Fault> {
        self.write(page).map_err(|error| trouble(&log.file, &error))?;
        self.cursor.settle(self.seq, &self.event, true);
        self.settled = true;
        page.save_too();
        Ok(())
    }

    fn end(self: Box<Self>, outcome: Result<(), Fault>) {
        if outcome.is_ok() {
            self.cursor.seat.meter.add_dead();
        } else if self.settled {
            self.cursor.unsettle(self.seq, &self.event, self.burial.attempts.saturating_sub(1));
        }
        let _ = self.reply.send(outcome);
    }
}
