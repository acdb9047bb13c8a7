//! What was committed and waits for the bus: what those who publish share with the relay.
//!
//! The relay is told of each event by the commit itself, and as many as fit are held for it. When there are more, it is told
//! no more of them ([`Tail::behind`]) and reads their rows once it has come so far; when it finds no further ones, it is told
//! again. What is committed in between it may have both ways, and knows by its id.

use super::super::{
    OutboxSnapshot, Settings,
    rows::{self, Found, Key},
};
use crate::{
    events::{Bus, Prepared},
    store::{Database, Error},
};
use jiff::Timestamp;
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
};
use tokio::sync::{Notify, watch};

/// An event on its way to the bus.
pub(in crate::outbox) struct Outgoing {
    pub key: Key,
    pub prepared: Prepared,
}

/// What the relay shares with those who publish.
pub(in crate::outbox) struct Shared {
    pub service: Arc<str>,
    pub bus: Bus,
    pub database: Database,
    pub(super) settings: Settings,
    tail: Mutex<Tail>,
    pub(super) arrived: Notify,
    pub(super) closing: watch::Sender<bool>,
    /// How many wait, for whoever waits for none.
    waiting: watch::Sender<usize>,
    /// The last position that was given out.
    position: AtomicI64,
}

/// What was committed and is not published yet.
struct Tail {
    /// What the relay holds, oldest first.
    held: VecDeque<Outgoing>,
    held_bytes: usize,
    /// There are rows that the relay does not hold, all of them younger than those that it holds. It is not told of any
    /// others until it has read them.
    behind: bool,
    /// All that wait, and what is about to be committed.
    events: usize,
    bytes: usize,
    /// Of these, what is about to be committed.
    pending: usize,
    pending_bytes: usize,
    /// All that was ever committed here.
    committed: usize,
    committed_bytes: usize,
    /// When the one was published that is to go next.
    oldest: Option<Timestamp>,
    error: Option<String>,
}

// === impl Shared ===

impl Shared {
    pub fn new(service: Arc<str>, database: Database, bus: Bus, settings: Settings, found: Found) -> Self {
        let tail = Tail {
            held: VecDeque::new(),
            held_bytes: 0,
            behind: found.events > 0,
            events: found.events,
            bytes: found.bytes,
            pending: 0,
            pending_bytes: 0,
            committed: 0,
            committed_bytes: 0,
            oldest: found.oldest,
            error: None,
        };
        Self {
            service,
            bus,
            database,
            settings,
            tail: Mutex::new(tail),
            arrived: Notify::new(),
            closing: watch::Sender::new(false),
            waiting: watch::Sender::new(found.events),
            position: AtomicI64::new(found.last),
        }
    }

    /// A position for a new row: the time, but later than any that was given out or found.
    pub fn position(&self) -> i64 {
        let now = Timestamp::now().as_microsecond();
        let before = self.position.fetch_update(Relaxed, Relaxed, |last| Some(now.max(last + 1)));
        before.map_or(now, |last| now.max(last + 1))
    }

    /// Takes a place for an event with so many bytes, if there is one.
    pub fn enter(&self, bytes: usize) -> bool {
        let mut tail = self.tail();
        let fits = tail.events < self.settings.max_events && tail.bytes + bytes <= self.settings.max_bytes;
        if fits {
            tail.events += 1;
            tail.bytes += bytes;
            tail.pending += 1;
            tail.pending_bytes += bytes;
            self.waiting.send_replace(tail.events);
        }
        fits
    }

    /// Gives a place back.
    pub fn leave(&self, bytes: usize) {
        let mut tail = self.tail();
        tail.leave(bytes);
        tail.settle(bytes);
        self.waiting.send_replace(tail.events);
    }

    /// An event is committed, and its row is there. Called in the order of the commits.
    pub fn committed(&self, outgoing: Outgoing) {
        let mut tail = self.tail();
        let bytes = outgoing.prepared.event.data.len();
        tail.settle(bytes);
        tail.committed += 1;
        tail.committed_bytes += bytes;
        if self.database.is_shared() {
            drop(tail);
            return self.arrived.notify_one();
        }
        let fits = tail.held.len() < self.settings.held_events && tail.held_bytes + bytes <= self.settings.held_bytes;
        // NB: one that does not fit, and all after it, or they would overtake it.
        tail.behind |= !fits;
        if !tail.behind {
            tail.held_bytes += bytes;
            tail.held.push_back(outgoing);
        }
        drop(tail);
        self.arrived.notify_one();
    }

    /// The bus has taken an event. `oldest` is the one that has been offered to it for the longest now; `well` is whether
    /// it has refused none.
    pub(super) fn published(&self, bytes: usize, oldest: Option<Timestamp>, well: bool) {
        let mut tail = self.tail();
        if !self.database.is_shared() {
            // Else it may be another's, and is counted in the table.
            tail.leave(bytes);
        }
        tail.oldest = oldest;
        if well {
            tail.error = None;
        }
        self.waiting.send_replace(tail.events);
    }

    /// What is wrong now, if anything is.
    pub(super) fn set_error(&self, error: Option<String>) {
        self.tail().error = error;
    }

    /// When the one was published that has been offered to the bus for the longest.
    pub(super) fn set_oldest(&self, oldest: Option<Timestamp>) {
        self.tail().oldest = oldest;
    }

    /// Takes the next one that the relay was told of.
    pub(super) fn pop(&self) -> Option<Outgoing> {
        self.tail().pop()
    }

    /// Whether there are rows that the relay was not told of.
    pub(super) fn is_behind(&self) -> bool {
        self.tail().behind
    }

    /// From here on the relay is told of nothing: all that was committed, and is not in its hands, it will read.
    pub(super) fn fall_behind(&self) {
        let mut tail = self.tail();
        tail.behind = true;
        // NB: their rows are read now, and what is read goes before what the relay is told of later.
        tail.held.clear();
        tail.held_bytes = 0;
    }

    /// From here on the relay is told of what is committed.
    pub(super) fn catch_up(&self) {
        self.tail().behind = false;
    }

    /// Whether any are known to wait.
    pub(super) fn any_waits(&self) -> bool {
        self.tail().events > 0
    }

    /// Counts what waits in the table, where other hosts write and relay too.
    pub(super) async fn recount(&self) -> Result<(), Error> {
        let (before, before_bytes, quiet) = {
            let tail = self.tail();
            (tail.committed, tail.committed_bytes, tail.pending == 0)
        };
        let found = rows::count(&self.database).await?;
        let mut tail = self.tail();
        if quiet && tail.pending == 0 && tail.committed == before {
            (tail.events, tail.bytes) = (found.events, found.bytes);
        } else {
            // What was committed meanwhile may have been found or not: it is counted, and no more than was known to wait.
            let events = found.events + tail.pending + (tail.committed - before);
            let bytes = found.bytes + tail.pending_bytes + (tail.committed_bytes - before_bytes);
            (tail.events, tail.bytes) = (tail.events.min(events), tail.bytes.min(bytes));
        }
        tail.oldest = found.oldest;
        self.waiting.send_replace(tail.events);
        Ok(())
    }

    /// How many wait for the bus.
    pub fn waiting(&self) -> watch::Receiver<usize> {
        self.waiting.subscribe()
    }

    pub async fn emptied(&self) {
        let _ = self.waiting().wait_for(|waiting| *waiting == 0).await;
    }

    pub fn close(&self) {
        self.closing.send_replace(true);
    }

    pub fn snapshot(&self) -> OutboxSnapshot {
        let tail = self.tail();
        let next = tail.held.front().map(|it| it.prepared.event.time);
        let oldest = tail.oldest.or(next).filter(|_| tail.events > 0);
        let age = oldest.map(|oldest| Timestamp::now().as_millisecond() - oldest.as_millisecond());
        OutboxSnapshot {
            service: self.service.to_string(),
            waiting: tail.events,
            bytes: tail.bytes,
            oldest_ms: age.map(|age| u64::try_from(age).unwrap_or_default()),
            error: tail.error.clone(),
        }
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        // No code that can panic runs under this lock, so a poisoned one is whole.
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Tail ===

impl Tail {
    fn leave(&mut self, bytes: usize) {
        self.events = self.events.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// What was about to be committed is, or is not.
    fn settle(&mut self, bytes: usize) {
        self.pending = self.pending.saturating_sub(1);
        self.pending_bytes = self.pending_bytes.saturating_sub(bytes);
    }

    fn pop(&mut self) -> Option<Outgoing> {
        let outgoing = self.held.pop_front()?;
        self.held_bytes -= outgoing.prepared.event.data.len();
        Some(outgoing)
    }
}
