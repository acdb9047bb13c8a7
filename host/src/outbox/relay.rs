//! The relay: takes what was committed to the bus, in the order of the commits.
//!
//! It is told of each event by the commit itself and holds those events, as many as fit. When there are more, it is told no
//! more of them ([`Tail::behind`]) and reads their rows once it has come so far; when it finds no further ones, it is told
//! again. What is committed in between it may have both ways, and knows by its id.
//!
//! Where other hosts have the same database, it is told only that there is something, and reads all of it, while it is this
//! host's turn.

use super::{
    OutboxSnapshot, Settings,
    lease::Lease,
    rows::{self, Found, Key, PAGE, Row},
};
use crate::{
    events::{Bus, Prepared, PublishError},
    policy::Backoff,
    store::{Database, Error},
};
use jiff::Timestamp;
use std::{
    collections::{HashSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
};
use tokio::{
    sync::{Notify, watch},
    time::{Duration, Instant, sleep_until},
};

/// How long to wait before an event is offered to the bus again, or the database is asked again.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(50), max: Duration::from_secs(5), jitter: 0.5 };

/// An event on its way to the bus.
pub(super) struct Outgoing {
    pub key: Key,
    pub prepared: Prepared,
}

/// What the relay shares with those who publish.
pub(super) struct Shared {
    pub service: Arc<str>,
    pub bus: Bus,
    pub database: Database,
    settings: Settings,
    tail: Mutex<Tail>,
    arrived: Notify,
    closing: watch::Sender<bool>,
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

/// Publishes. There is one for each outbox.
pub(super) struct Relay {
    shared: Arc<Shared>,
    closing: watch::Receiver<bool>,
    /// Rows whose events the bus has taken.
    taken: Vec<Key>,
    /// Events whose rows were read of late: the commit may tell of them still.
    read: HashSet<String>,
    /// When the first of them is to be deleted at the latest.
    delete_at: Option<Instant>,
    look_at: Instant,
    /// Where other hosts have the same database: whose turn it is.
    lease: Option<Lease>,
    /// Events that could not be published, not to be tried again before `look_at`.
    aside: HashSet<String>,
}

/// Why the relay stops in what it does.
enum Halt {
    /// The outbox is closing.
    Closing,
    /// It is another host's turn.
    Lost,
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

    /// The bus has taken the event that was to go next.
    fn published(&self, bytes: usize) {
        let mut tail = self.tail();
        if !self.database.is_shared() {
            // Else it may be another's, and is counted in the table.
            tail.leave(bytes);
        }
        (tail.error, tail.oldest) = (None, None);
        self.waiting.send_replace(tail.events);
    }

    /// Counts what waits in the table, where other hosts write and relay too.
    async fn recount(&self) -> Result<(), Error> {
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

// === impl Relay ===

impl Relay {
    pub fn new(shared: Arc<Shared>) -> Self {
        let (closing, look_at) = (shared.closing.subscribe(), Instant::now() + shared.settings.look_every);
        let lease =
            shared.database.is_shared().then(|| Lease::new(shared.database.clone(), shared.settings.host.as_deref()));
        let (taken, read, aside) = (Vec::new(), HashSet::new(), HashSet::new());
        Self { shared, closing, taken, read, delete_at: None, look_at, lease, aside }
    }

    /// Runs until the outbox is closed.
    pub async fn run(mut self) {
        if self.lease.is_some() {
            while let Err(Halt::Lost) = self.relay_in_turn().await {}
        } else {
            // Its turn never ends.
            let _ = self.relay().await;
        }
        // What the bus has taken need not be there at the next start; where this fails it is published once more then.
        if !self.taken.is_empty()
            && let Err(error) = rows::delete(&self.shared.database, &self.taken).await
        {
            tracing::warn!(service = %self.shared.service, ?error, "published events could not be deleted from the outbox");
        }
        if let Some(lease) = &mut self.lease
            && let Err(error) = lease.release().await
        {
            let service = &self.shared.service;
            tracing::warn!(%service, ?error, "the outbox could not be handed over; another host takes it in a few seconds");
        }
    }

    /// Relays what all hosts wrote, while it is this one's turn.
    async fn relay_in_turn(&mut self) -> Result<std::convert::Infallible, Halt> {
        loop {
            self.look_after_turn().await;
            if self.is_its_turn() {
                self.sweep().await?;
            }
            let look_at = match &self.lease {
                Some(lease) if lease.is_held() => {
                    lease.next().min(Instant::now() + self.shared.settings.look_every_shared)
                }
                Some(lease) => lease.next(),
                None => self.look_at,
            };
            tokio::select! {
                biased;
                _ = self.closing.wait_for(|closing| *closing) => return Err(Halt::Closing),
                () = self.shared.arrived.notified(), if self.is_its_turn() => {}
                () = sleep_until(look_at) => {}
            }
        }
    }

    /// Publishes all that is in the table.
    async fn sweep(&mut self) -> Result<(), Halt> {
        if self.look_at <= Instant::now() {
            self.look_at = Instant::now() + self.shared.settings.look_every;
            self.aside.clear();
        }
        self.delete_all().await?;
        let start = Key { at_least: i64::MIN, id: String::new() };
        let page = self.page(&start).await?;
        let found = !page.is_empty();
        if page.len() < PAGE {
            self.publish_all(page).await?;
        } else {
            // NB: where transactions overlap, a row may come before those that were read already, and one that tells of
            // what happened after it behind them. At one moment there is not the latter without the former: so only rows
            // are published that were there at one moment, in their order.
            let mut left: HashSet<String> = self.ids().await?.into_iter().collect();
            let any = left.iter().any(|id| !self.aside.contains(id));
            let mut after = start;
            while !left.is_empty() {
                let mut page = self.page(&after).await?;
                let Some(last) = page.last() else { break };
                after = last.key.clone();
                page.retain(|row| left.remove(&row.key.id));
                self.publish_all(page).await?;
            }
            if any {
                // There may be more.
                self.shared.arrived.notify_one();
            }
        }
        if found || self.shared.tail().events > 0 {
            self.delete().await;
            self.recount().await;
        }
        Ok(())
    }

    async fn publish_all(&mut self, page: Vec<Row>) -> Result<(), Halt> {
        for Row { key, bytes, prepared } in page {
            match prepared {
                _ if self.aside.contains(&key.id) => {}
                Some(prepared) => self.publish(key, prepared, bytes).await?,
                None => self.set_aside(&key.id, "its row is no event".into()),
            }
        }
        Ok(())
    }

    /// Does what there is to do for its turn, where that is due, and counts.
    async fn look_after_turn(&mut self) {
        let Some(lease) = &mut self.lease else { return };
        if Instant::now() < lease.next() {
            return;
        }
        if let Err(error) = lease.beat().await {
            let service = &self.shared.service;
            tracing::warn!(%service, ?error, "the database can't say which host is to empty the outbox; it is asked again");
        }
        self.delete().await;
        self.recount().await;
    }

    fn is_its_turn(&self) -> bool {
        self.lease.as_ref().is_none_or(Lease::is_held)
    }

    async fn recount(&self) {
        match self.shared.recount().await {
            Err(error) => self.shared.tail().error = Some(format!("the database can't be read: {}", error.words())),
            // What is wrong with the bus is known to the host whose turn it is.
            Ok(()) if !self.is_its_turn() => self.shared.tail().error = None,
            Ok(()) => {}
        }
    }

    async fn relay(&mut self) -> Result<std::convert::Infallible, Halt> {
        loop {
            let next = self.shared.tail().pop();
            if let Some(Outgoing { key, prepared }) = next {
                if self.read.remove(&key.id) {
                    continue;
                }
                let bytes = prepared.event.data.len();
                self.publish(key, prepared, bytes).await?;
            } else if self.shared.tail().behind {
                self.catch_up().await?;
            } else {
                self.wait().await?;
            }
        }
    }

    /// Waits for something to do, and does what there is time for now.
    async fn wait(&mut self) -> Result<(), Halt> {
        let until = self.delete_at.map_or(self.look_at, |delete_at| delete_at.min(self.look_at));
        tokio::select! {
            biased;
            _ = self.closing.wait_for(|closing| *closing) => return Err(Halt::Closing),
            () = self.shared.arrived.notified() => return Ok(()),
            () = sleep_until(until) => {}
        }
        if until == self.look_at {
            self.shared.tail().behind = true;
        } else {
            self.delete().await;
        }
        Ok(())
    }

    /// Publishes what lies in the table, until it is told again of what is committed and has read all from before.
    async fn catch_up(&mut self) -> Result<(), Halt> {
        self.look_at = Instant::now() + self.shared.settings.look_every;
        self.delete_all().await?;
        let mut after = Key { at_least: i64::MIN, id: String::new() };
        let mut told = false;
        loop {
            let page = self.page(&after).await?;
            let is_last = page.len() < PAGE;
            if let Some(last) = page.last() {
                after = last.key.clone();
            }
            if !told {
                self.read.clear();
            }
            self.read.extend(page.iter().map(|row| row.key.id.clone()));
            self.publish_all(page).await?;
            match (is_last, told) {
                (false, _) => {}
                // From here on it is told; what came between the last page and this is on the next.
                (true, false) => {
                    self.shared.tail().behind = false;
                    told = true;
                }
                (true, true) => break,
            }
        }
        self.shared.tail().oldest = None;
        Ok(())
    }

    async fn page(&mut self, after: &Key) -> Result<Vec<Row>, Halt> {
        for failed in 1.. {
            match rows::read(&self.shared.database, after).await {
                Ok(page) => return Ok(page),
                Err(error) => self.unreadable(&error, failed).await?,
            }
        }
        Err(Halt::Closing)
    }

    async fn ids(&mut self) -> Result<Vec<String>, Halt> {
        for failed in 1.. {
            match rows::ids(&self.shared.database).await {
                Ok(ids) => return Ok(ids),
                Err(error) => self.unreadable(&error, failed).await?,
            }
        }
        Err(Halt::Closing)
    }

    async fn unreadable(&mut self, error: &Error, failed: u32) -> Result<(), Halt> {
        self.trouble(format!("the database can't be read: {}", error.words()), failed);
        self.pause(failed).await
    }

    /// Offers an event to the bus until it takes it.
    async fn publish(&mut self, key: Key, prepared: Prepared, bytes: usize) -> Result<(), Halt> {
        self.shared.tail().oldest = Some(prepared.event.time);
        for failed in 1.. {
            self.look_after_turn().await;
            if !self.is_its_turn() {
                return Err(Halt::Lost);
            }
            let after = match self.shared.bus.publish_prepared(prepared.clone()).await {
                Ok(()) => break,
                Err(PublishError::Fault(fault)) => {
                    self.trouble(fault.to_string(), failed);
                    fault.retry_after()
                }
                Err(error) => {
                    self.set_aside(&key.id, error.to_string());
                    return Ok(());
                }
            };
            self.pause_at_least(failed, after.unwrap_or_default()).await?;
        }
        self.shared.published(bytes);
        self.taken.push(key);
        let now = Instant::now();
        let delete_at = *self.delete_at.get_or_insert(now + self.shared.settings.delete_after);
        // NB: by the clock too, while there is always more to publish: a host that dies again and again must not begin with
        // the same ones each time.
        if self.taken.len() >= self.shared.settings.group || delete_at <= now {
            self.delete().await;
        }
        Ok(())
    }

    /// An event that this bus can't carry, or a row that is none: it stays where it is, and holds up nobody. Whoever looks
    /// for it finds it in the table; it is tried once more whenever the table is read.
    fn set_aside(&mut self, id: &str, reason: String) {
        tracing::error!(service = %self.shared.service, id, reason, "an event stays in the outbox: it can't be published");
        self.shared.tail().error = Some(format!("{id} can't be published: {reason}"));
        if self.lease.is_some() {
            self.aside.insert(id.to_owned());
        }
    }

    /// What is published already must not be read again.
    async fn delete_all(&mut self) -> Result<(), Halt> {
        while !self.taken.is_empty() {
            self.delete().await;
            if !self.taken.is_empty() {
                self.pause(1).await?;
            }
        }
        Ok(())
    }

    /// Deletes the rows whose events the bus has taken. Where that fails they stay on the list.
    async fn delete(&mut self) {
        self.delete_at = None;
        while !self.taken.is_empty() {
            let group = self.taken.len().min(self.shared.settings.group);
            match rows::delete(&self.shared.database, &self.taken[..group]).await {
                Ok(()) => drop(self.taken.drain(..group)),
                Err(error) => {
                    let service = &self.shared.service;
                    tracing::warn!(%service, ?error, "published events could not be deleted from the outbox; it is tried again");
                    self.delete_at = Some(Instant::now() + BACKOFF.max);
                    return;
                }
            }
        }
    }

    fn trouble(&self, reason: String, failed: u32) {
        if failed == 1 {
            tracing::warn!(service = %self.shared.service, reason, "the outbox waits; it is tried again until it succeeds");
        }
        self.shared.tail().error = Some(reason);
    }

    async fn pause(&mut self, failed: u32) -> Result<(), Halt> {
        self.pause_at_least(failed, Duration::ZERO).await
    }

    async fn pause_at_least(&mut self, failed: u32, least: Duration) -> Result<(), Halt> {
        let until = Instant::now() + BACKOFF.after(failed).max(least.min(BACKOFF.max));
        loop {
            let wake_at = self.lease.as_ref().map_or(until, |lease| until.min(lease.next()));
            tokio::select! {
                biased;
                _ = self.closing.wait_for(|closing| *closing) => return Err(Halt::Closing),
                () = sleep_until(wake_at) => {}
            }
            if Instant::now() >= until {
                return Ok(());
            }
            self.look_after_turn().await;
        }
    }
}
