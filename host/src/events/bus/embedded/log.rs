//! The log: one file, who writes it, who reads it, and the cursors in it.

use super::{
    cursor::{Cursor, Saving},
    queue::{Queue, Refused, Taken},
    readers::Readers,
    schema::{self, LogError},
    writer::{self, Job, Page, Work, Writer, job},
};
use crate::{
    events::{Durability, Event, LogSnapshot, Prepared, Retention, bus::closed},
    policy::{Fault, FaultKind},
};
use arc_swap::ArcSwap;
use rusqlite::Connection;
use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed},
    },
};
use tokio::{
    runtime::Handle,
    sync::{Notify, oneshot},
};

/// The most publishers, and bytes of events, that wait for the writer.
const QUEUE: usize = 4_096;
const QUEUE_BYTES: usize = 32 << 20;

/// Up to this, in bytes, an event is short.
const SHORT: usize = 16 << 10;

pub(super) struct Log {
    pub(super) file: PathBuf,
    pub(super) retention: ArcSwap<Retention>,
    pub(super) queue: Queue<Work>,
    pub(super) writer: Mutex<Writer>,
    pub(super) readers: Readers,
    /// How many bytes of the file are in use.
    pub(super) used: AtomicU64,
    /// Wakes whoever saves what cursors have come to, whoever drops old events, and whoever waits for what is scheduled.
    pub(super) dirty: Arc<Notify>,
    pub(super) sweep: Notify,
    pub(super) scheduled: Notify,
    /// The earliest time for which something is scheduled.
    pub(super) due: AtomicI64,
    /// Those that follow the log, by topic.
    followers: RwLock<Followers>,
    /// All of them, also replays.
    cursors: Mutex<Vec<Arc<Cursor>>>,
    runtime: Handle,
    /// Whether a commit waits for the disk.
    waits_for_disk: bool,
    /// Copies the write-ahead log aside; taken while it does.
    copier: Arc<Mutex<Connection>>,
    copying: Arc<AtomicBool>,
}

type Followers = HashMap<Arc<str>, Vec<Arc<Cursor>>>;

/// Ends the time of a writer, however it ends.
struct Writing(Arc<Log>);

// === impl Log ===

impl Log {
    pub(super) fn new(
        file: PathBuf,
        durability: Durability,
        retention: Retention,
        writer: Writer,
        cursors: Vec<Arc<Cursor>>,
        dirty: Arc<Notify>,
    ) -> Result<Arc<Self>, LogError> {
        let failed = |source| schema::failed(&file, source);
        let copier = schema::open_to_checkpoint(&file, durability).map_err(failed)?;
        let due = "SELECT coalesce(min(due), 9223372036854775807) FROM scheduled";
        let due: i64 = writer.connection().query_row(due, [], |row| row.get(0)).map_err(failed)?;
        let used = writer.used().map_err(failed)?;
        let log = Arc::new(Self {
            readers: Readers::new(file.clone()),
            file,
            retention: ArcSwap::from_pointee(retention),
            queue: Queue::new(QUEUE, QUEUE_BYTES),
            writer: Mutex::new(writer),
            used: AtomicU64::new(used),
            dirty,
            sweep: Notify::new(),
            scheduled: Notify::new(),
            due: AtomicI64::new(due),
            followers: RwLock::default(),
            cursors: Mutex::default(),
            runtime: Handle::current(),
            waits_for_disk: durability == Durability::Fsync,
            copier: Arc::new(Mutex::new(copier)),
            copying: Arc::default(),
        });
        log.follow(&cursors);
        Ok(log)
    }

    /// Has an event written; returns when it is.
    pub(super) async fn publish(self: &Arc<Self>, prepared: Prepared) -> Result<(), Fault> {
        let (reply, answer) = oneshot::channel();
        let size = prepared.event.data.len();
        let taken = self.queue.push(size, Work::Append(prepared, reply)).map_err(|refused| match refused {
            Refused::Full => Fault::new(
                FaultKind::Overloaded,
                format!("too many events wait to be written to {}; try again later", self.file.display()),
            ),
            Refused::Closed => closed(),
        })?;
        if taken == Taken::Start && size <= SHORT && !self.waits_for_disk {
            self.write_here();
        } else {
            self.start(taken);
        }
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Has something written, all of it or nothing.
    pub(super) async fn write<A: Send + 'static>(
        self: &Arc<Self>,
        write: impl FnMut(&mut Page<'_>) -> rusqlite::Result<A> + Send + 'static,
    ) -> Result<A, Fault> {
        let (job, answer) = job(write);
        self.submit(job)?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    pub(super) fn submit(self: &Arc<Self>, job: Box<dyn Job>) -> Result<(), Fault> {
        let taken = self.queue.push_own(Work::Run(job));
        self.start(taken.map_err(|_| closed())?);
        Ok(())
    }

    /// Has it saved what cursors have come to.
    pub(super) fn save(self: &Arc<Self>) {
        if let Ok(taken) = self.queue.push_own(Work::Save) {
            self.start(taken);
        }
    }

    /// Writes what waits and what cursors have come to, and takes nothing more.
    pub(super) async fn close(self: &Arc<Self>) {
        let saved = self.write(|page| {
            page.save_too();
            Ok(())
        });
        if let Err(error) = saved.await {
            tracing::warn!(%error, "what was settled last could not be saved; it will be delivered again");
        }
        self.queue.close();
        self.readers.close();
        // So that the one file has everything in it: people copy it while the host is stopped.
        let log = Arc::clone(self);
        let copying = self.runtime.spawn_blocking(move || {
            let writer = log.writer.lock().unwrap_or_else(PoisonError::into_inner);
            writer.connection().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        });
        if let Ok(Err(error)) = copying.await {
            tracing::warn!(%error, "the write-ahead log of the events could not be copied; it stays beside the log");
        }
    }

    /// Whether nothing more may be published.
    pub(super) fn is_full(&self, writer: &Writer) -> Result<(), Fault> {
        let used = writer.used().map_err(|error| writer::trouble(&self.file, &error))?;
        let limit = self.retention.load().limit;
        if used > self.size() {
            self.sweep.notify_one();
        }
        if used < limit {
            return Ok(());
        }
        let file = self.file.display();
        let text = format!("the event log {file} has reached its limit of {limit} bytes; {}", self.cause(writer));
        Err(Fault::new(FaultKind::Overloaded, text))
    }

    /// How many bytes may be in use before what is settled is dropped: well before the limit.
    pub(super) fn size(&self) -> u64 {
        let retention = self.retention.load();
        retention.size.min(retention.limit / 4 * 3)
    }

    /// What fills the log.
    fn cause(&self, writer: &Writer) -> String {
        let removed = "SELECT s.service, t.name, c.position FROM cursors c JOIN subscriptions s ON s.id = c.subscription \
             JOIN topics t ON t.id = s.topic WHERE s.removed IS NOT NULL ORDER BY c.position LIMIT 1";
        let removed = writer.connection().prepare_cached(removed).and_then(|mut statement| {
            statement
                .query_row([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?)))
        });
        let furthest = self.cursors().iter().map(|cursor| (cursor.behind(), Arc::clone(cursor))).collect::<Vec<_>>();
        let furthest = furthest.into_iter().filter(|((count, _), _)| *count > 0).min_by_key(|((_, first), _)| *first);
        match (removed, furthest) {
            (Ok((service, topic, position)), furthest)
                if furthest.as_ref().is_none_or(|((_, first), _)| *first > position) =>
            {
                format!(
                    "the subscription of {service} to {topic}, which is no longer in the manifest, is furthest behind: it \
                     is forgotten after the retention's age; put it back, or raise the limit"
                )
            }
            (_, Some(((count, _), cursor))) => format!(
                "the subscription of {} to {} is furthest behind, by {count} events: see why it is slow, or raise the limit",
                cursor.seat.service, cursor.seat.topic
            ),
            _ => "dead letters and scheduled events fill it, or what was settled is being dropped just now: drop dead \
                  letters by `wharf events`, or raise the limit"
                .into(),
        }
    }

    /// Hands new events over to those that follow the log.
    pub(super) fn announce(&self, events: &[(i64, Arc<Event>)]) {
        let followers = self.followers();
        for (seq, event) in events {
            for cursor in followers.get(&event.topic).into_iter().flatten() {
                cursor.announce(*seq, event);
            }
        }
    }

    /// Notes that something is scheduled for then.
    pub(super) fn schedule(&self, due: i64) {
        if due < self.due.fetch_min(due, Relaxed) {
            self.scheduled.notify_one();
        }
    }

    /// What there is to be saved of all cursors.
    pub(super) fn savings(&self, slow: bool) -> Vec<(Arc<Cursor>, Saving)> {
        self.cursors().iter().filter_map(|cursor| Some((Arc::clone(cursor), cursor.save(slow)?))).collect()
    }

    /// Has it saved again soon, where there is still something to save.
    pub(super) fn save_again(&self) {
        if self.cursors().iter().any(|cursor| cursor.is_dirty()) {
            self.dirty.notify_one();
        }
    }

    /// The cursor of a subscription that follows the log.
    pub(super) fn follower(&self, topic: &str, service: &str) -> Option<Arc<Cursor>> {
        let followers = self.followers();
        followers.get(topic)?.iter().find(|cursor| *cursor.seat.service == *service).cloned()
    }

    /// All that follow the log.
    pub(super) fn all_followers(&self) -> Vec<Arc<Cursor>> {
        self.followers().values().flatten().cloned().collect()
    }

    /// Adds the cursors of a subscription: that which follows the log, and those of replays.
    pub(super) fn follow(&self, cursors: &[Arc<Cursor>]) {
        let mut followers = self.followers.write().unwrap_or_else(PoisonError::into_inner);
        for cursor in cursors.iter().filter(|cursor| cursor.until.is_none()) {
            followers.entry(Arc::clone(&cursor.seat.topic)).or_default().push(Arc::clone(cursor));
        }
        drop(followers);
        self.cursors().extend(cursors.iter().cloned());
    }

    /// Takes all cursors of a subscription away.
    pub(super) fn unfollow(&self, topic: &str, service: &str) {
        let is_other = |cursor: &Arc<Cursor>| *cursor.seat.topic != *topic || *cursor.seat.service != *service;
        let mut followers = self.followers.write().unwrap_or_else(PoisonError::into_inner);
        followers.values_mut().for_each(|of_topic| of_topic.retain(is_other));
        drop(followers);
        self.cursors().retain(is_other);
    }

    fn followers(&self) -> RwLockReadGuard<'_, Followers> {
        self.followers.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The replays into a subscription.
    pub(super) fn replays(&self, subscription: i64) -> Vec<Arc<Cursor>> {
        let cursors = self.cursors();
        let its = cursors.iter().filter(|it| it.until.is_some() && it.seat.subscription == subscription);
        its.cloned().collect()
    }

    /// Adds a replay.
    pub(super) fn add(&self, cursor: &Arc<Cursor>) {
        self.cursors().push(Arc::clone(cursor));
    }

    /// A replay is through.
    pub(super) fn retire(&self, through: &Arc<Cursor>) {
        self.cursors().retain(|cursor| cursor.id != through.id);
    }

    /// Copies the write-ahead log into the file, unless that is being done.
    pub(super) fn checkpoint_aside(&self) -> bool {
        if self.copying.swap(true, Relaxed) {
            return false;
        }
        let (copier, copying) = (Arc::clone(&self.copier), Arc::clone(&self.copying));
        self.runtime.spawn_blocking(move || {
            let done = writer::checkpoint(&copier.lock().unwrap_or_else(PoisonError::into_inner));
            copying.store(false, Relaxed);
            if let Err(error) = done {
                tracing::warn!(%error, "the write-ahead log of the events could not be copied; it will be tried again");
            }
        });
        true
    }

    pub(super) fn snapshot(&self) -> LogSnapshot {
        LogSnapshot { bytes: self.used.load(Relaxed), limit: self.retention.load().limit }
    }

    /// Writes what waits first on this thread, if that is surely short; what is left is left to a writer.
    fn write_here(self: &Arc<Self>) {
        let writing = Writing(Arc::clone(self));
        writer::write_here(&writing.0);
        if self.queue.ended() {
            self.start(Taken::Start);
        }
    }

    fn start(self: &Arc<Self>, taken: Taken) {
        if taken == Taken::Start {
            let writing = Writing(Arc::clone(self));
            drop(self.runtime.spawn_blocking(move || writer::drain(&writing.0)));
        }
    }

    fn cursors(&self) -> MutexGuard<'_, Vec<Arc<Cursor>>> {
        self.cursors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Writing ===

impl Drop for Writing {
    fn drop(&mut self) {
        // NB: after a panic there may be someone waiting whom nobody would start a writer for.
        if std::thread::panicking() && self.0.queue.ended() {
            self.0.start(Taken::Start);
        }
    }
}
