//! The one who writes. What waits together is committed together, and nobody is answered before the commit that holds
//! what he asked for; the commit is the dear part of a small write, and under load one pays for many.
//!
//! A short event that comes alone is written right where it is published, on an async thread: that takes some ten
//! microseconds, and handing it to another thread and back as long again.

use super::{
    cursor::{Cursor, Saving},
    log::Log,
    row, schema,
};
use crate::{
    events::{Event, Prepared},
    policy::{Fault, FaultKind},
};
use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};
use std::{
    cell::Cell,
    collections::HashMap,
    path::Path,
    sync::{Arc, PoisonError, atomic::Ordering::Relaxed},
};
use tokio::{
    sync::oneshot,
    time::{Duration, Instant},
};

/// The most that shares a commit.
const GROUP: usize = 256;
const GROUP_BYTES: usize = 4 << 20;

/// How often, at most, a commit of publishers carries what subscriptions have settled.
const CARRY: Duration = Duration::from_millis(10);
/// For how long at least an event must have been open to count as slow; twice as long at most.
const SLOW: Duration = Duration::from_millis(250);

/// Pages of write-ahead log that are copied into the file aside, while writing goes on: 8 MiB. While it does, the copy
/// never reaches the end, and the log's file only grows; when it has come to so many the writer copies the rest itself,
/// and begins it anew.
const CHECKPOINT_ASIDE: i32 = 2_000;
const CHECKPOINT_HERE: i32 = 16_000;

/// What is written where it is published: not more often than this, since what comes faster is better written together;
/// and for a while not at all after a commit that took longer than this, which waited for the disk.
const HERE_EVERY: Duration = Duration::from_micros(150);
const HERE_AT_MOST: Duration = Duration::from_millis(1);
const HERE_REST: Duration = Duration::from_millis(100);

thread_local! {
    /// Pages in the write-ahead log after the last commit of this thread: a hook that SQLite calls without any state.
    static LOG_PAGES: Cell<i32> = const { Cell::new(0) };
}

const BEGIN: &str = "BEGIN IMMEDIATE";

/// What the writer does.
pub(super) enum Work {
    /// Takes an event.
    Append(Prepared, oneshot::Sender<Result<(), Fault>>),
    /// Does something else, all of it or nothing.
    Run(Box<dyn Job>),
    /// Saves what cursors have come to.
    Save,
}

/// Something that the writer does in the transaction of all.
pub(super) trait Job: Send {
    /// Does it.
    fn run(&mut self, page: &mut Page<'_>, log: &Log) -> Result<(), Fault>;
    /// It is committed, or it failed.
    fn end(self: Box<Self>, outcome: Result<(), Fault>);
}

pub(super) struct Writer {
    connection: Connection,
    next: i64,
    /// When the last event came.
    last: i64,
    topics: HashMap<Arc<str>, i64>,
    sources: HashMap<Arc<str>, i64>,
    page_size: u64,
    saved: Instant,
    slow: Instant,
    /// Pages of the write-ahead log after the last commit, and when it was last copied.
    pages: i32,
    copied: i32,
    /// From when on something may be written where it is published.
    here_from: Instant,
}

/// What is being written.
pub(super) struct Page<'w> {
    writer: &'w mut Writer,
    /// What has come into the log.
    appended: Vec<(i64, Arc<Event>)>,
    /// The earliest time for which something was scheduled.
    due: Option<i64>,
    /// What cursors have come to must be part of it.
    save: bool,
}

struct Doing<A, F> {
    run: F,
    answer: Option<A>,
    reply: oneshot::Sender<Result<A, Fault>>,
}

/// A job that does `run`, and where its answer will be.
pub(super) fn job<A: Send + 'static>(
    run: impl FnMut(&mut Page<'_>) -> rusqlite::Result<A> + Send + 'static,
) -> (Box<dyn Job>, oneshot::Receiver<Result<A, Fault>>) {
    let (reply, answer) = oneshot::channel();
    (Box::new(Doing { run, answer: None, reply }), answer)
}

// === impl Doing ===

impl<A: Send, F: FnMut(&mut Page<'_>) -> rusqlite::Result<A> + Send> Job for Doing<A, F> {
    fn run(&mut self, page: &mut Page<'_>, log: &Log) -> Result<(), Fault> {
        self.answer = Some((self.run)(page).map_err(|error| trouble(&log.file, &error))?);
        Ok(())
    }

    fn end(self: Box<Self>, outcome: Result<(), Fault>) {
        if let (Some(answer), Ok(())) = (self.answer, &outcome) {
            let _ = self.reply.send(Ok(answer));
        } else if let Err(fault) = outcome {
            let _ = self.reply.send(Err(fault));
        }
    }
}

// === impl Writer ===

impl Writer {
    pub(super) fn new(connection: Connection) -> rusqlite::Result<Self> {
        connection.wal_hook(Some(|_, pages| {
            LOG_PAGES.set(pages);
            Ok(())
        }));
        // No event may get a number that one had before which retention has dropped.
        let used =
            "SELECT max(coalesce((SELECT max(seq) FROM events), 0), coalesce((SELECT max(position) FROM cursors), 0),
                        coalesce((SELECT max(until) FROM cursors), 0), coalesce((SELECT max(seq) FROM dead), 0))";
        let used: i64 = connection.query_row(used, [], |row| row.get(0))?;
        let last = connection.query_row("SELECT coalesce(max(at), 0) FROM events", [], |row| row.get(0)).optional()?;
        let now = Instant::now();
        let page_size = connection.pragma_query_value(None, "page_size", |row| row.get::<_, i64>(0))?;
        Ok(Self {
            connection,
            next: used + 1,
            last: last.unwrap_or(0),
            topics: HashMap::new(),
            sources: HashMap::new(),
            page_size: u64::try_from(page_size).unwrap_or(4096),
            saved: now,
            slow: now,
            pages: 0,
            copied: 0,
            here_from: now,
        })
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The number of the last event.
    pub(super) fn end(&self) -> i64 {
        self.next - 1
    }

    /// How many bytes of the file are in use.
    pub(super) fn used(&self) -> rusqlite::Result<u64> {
        let count = |sql| self.connection.prepare_cached(sql)?.query_row([], |row| row.get::<_, i64>(0));
        let pages = count("PRAGMA page_count")? - count("PRAGMA freelist_count")?;
        Ok(u64::try_from(pages).unwrap_or(0) * self.page_size)
    }

    /// The row of a topic, made where there is none.
    pub(super) fn topic(&mut self, name: &Arc<str>) -> rusqlite::Result<i64> {
        intern(&self.connection, &mut self.topics, "topics", name)
    }

    fn source(&mut self, name: &Arc<str>) -> rusqlite::Result<i64> {
        intern(&self.connection, &mut self.sources, "sources", name)
    }

    /// Writes a group in one transaction, and with it what subscriptions have settled, where that is due.
    fn group(&mut self, log: &Log, group: Vec<Work>) {
        let save = group.iter().any(|work| matches!(work, Work::Save)) || self.saved.elapsed() >= CARRY;
        self.write(log, group, save);
    }

    fn write(&mut self, log: &Log, group: Vec<Work>, save: bool) {
        let was = (self.next, self.last);
        LOG_PAGES.set(self.pages);
        let mut page = Page { writer: self, appended: Vec::new(), due: None, save };
        let (mut appends, mut jobs) = (Vec::new(), Vec::new());
        let written = page.write(log, group, &mut appends, &mut jobs);
        let Page { appended, due, save: _, writer } = page;
        writer.pages = LOG_PAGES.get();
        match written {
            Ok(savings) => {
                for (cursor, saving) in savings {
                    cursor.saved(&saving);
                    if saving.finished {
                        log.retire(&cursor);
                    }
                }
                log.announce(&appended);
                if let Some(due) = due {
                    log.schedule(due);
                }
                appends.into_iter().for_each(|(reply, outcome)| drop(reply.send(outcome)));
                jobs.into_iter().for_each(|(job, outcome)| job.end(outcome));
            }
            Err((fault, savings)) => {
                writer.forget(was);
                savings.into_iter().for_each(|(cursor, saving)| cursor.unsaved(saving));
                let failed = |outcome: Result<(), Fault>| outcome.and(Err(fault.clone()));
                appends.into_iter().for_each(|(reply, outcome)| drop(reply.send(failed(outcome))));
                jobs.into_iter().for_each(|(job, outcome)| job.end(failed(outcome)));
            }
        }
        log.save_again();
    }

    /// Begins a transaction, if nobody has to be waited for.
    fn begin_at_once(&self) -> bool {
        let begin = || {
            self.connection.busy_timeout(Duration::ZERO)?;
            self.connection.prepare_cached(BEGIN)?.execute([])
        };
        let begun = self.connection.is_autocommit() && begin().is_ok();
        if let Err(error) = self.connection.busy_timeout(schema::LOCK_WAIT) {
            tracing::warn!(%error, "how long the event log waits for a lock can't be set");
        }
        begun
    }

    /// After a transaction that was lost.
    fn forget(&mut self, was: (i64, i64)) {
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "a transaction of the event log could not be rolled back");
        }
        (self.next, self.last) = was;
        // What was new in there is not in the file.
        self.topics.clear();
        self.sources.clear();
    }

    /// Sees to it that the write-ahead log is copied into the file: outside of any commit, and mostly by somebody else.
    fn checkpoint(&mut self, log: &Arc<Log>) {
        let pages = self.pages;
        if pages < self.copied {
            self.copied = 0;
        }
        if pages - self.copied < CHECKPOINT_ASIDE {
            return;
        }
        if pages < CHECKPOINT_HERE {
            if log.checkpoint_aside() {
                self.copied = pages;
            }
            return;
        }
        // Once all is copied the next commit begins it anew. Where someone still reads what is in there, it grows on.
        self.copied = pages;
        if let Err(error) = checkpoint(&self.connection) {
            tracing::warn!(%error, "the write-ahead log of the events could not be copied; it will be tried again");
        }
    }
}

/// Writes what waits until nothing does.
pub(super) fn drain(log: &Arc<Log>) {
    let mut writer = log.writer.lock().unwrap_or_else(PoisonError::into_inner);
    if !writer.connection.is_autocommit() {
        // A panic came in between.
        let was = (writer.next, writer.last);
        writer.forget(was);
    }
    loop {
        let group = log.queue.take(GROUP, GROUP_BYTES);
        if group.is_empty() {
            return;
        }
        writer.group(log, group);
        writer.checkpoint(log);
    }
}

/// Writes the event that waits first, where that is surely short: for an async thread.
pub(super) fn write_here(log: &Arc<Log>) {
    let Ok(mut writer) = log.writer.try_lock() else { return };
    let began = Instant::now();
    // Copying what has become so much is left to who may wait for it; and where another process has the file, so is this.
    if began < writer.here_from || writer.pages >= CHECKPOINT_HERE || !writer.begin_at_once() {
        return;
    }
    let first = log.queue.take(1, GROUP_BYTES);
    writer.write(log, first, false);
    if writer.pages < CHECKPOINT_HERE {
        writer.checkpoint(log);
    }
    let took = began.elapsed();
    writer.here_from = began + took + if took > HERE_AT_MOST { HERE_REST } else { HERE_EVERY };
}

/// Copies what it can of the write-ahead log into the file.
pub(super) fn checkpoint(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
}

/// The row of a name, made where there is none.
fn intern(
    connection: &Connection,
    known: &mut HashMap<Arc<str>, i64>,
    table: &str,
    name: &Arc<str>,
) -> rusqlite::Result<i64> {
    if let Some(id) = known.get(name) {
        return Ok(*id);
    }
    let select = format!("SELECT id FROM {table} WHERE name = ?1");
    let id = match connection.prepare_cached(&select)?.query_row([&**name], |row| row.get(0)).optional()? {
        Some(id) => id,
        None => {
            connection.prepare_cached(&format!("INSERT INTO {table} (name) VALUES (?1)"))?.execute([&**name])?;
            connection.last_insert_rowid()
        }
    };
    known.insert(Arc::clone(name), id);
    Ok(id)
}

type Savings = Vec<(Arc<Cursor>, Saving)>;
type Appends = Vec<(oneshot::Sender<Result<(), Fault>>, Result<(), Fault>)>;
type Jobs = Vec<(Box<dyn Job>, Result<(), Fault>)>;

// === impl Page ===

impl Page<'_> {
    fn write(
        &mut self,
        log: &Log,
        group: Vec<Work>,
        appends: &mut Appends,
        jobs: &mut Jobs,
    ) -> Result<Savings, (Fault, Savings)> {
        let file = &log.file;
        let is_begun = !self.writer.connection.is_autocommit();
        let mut lost = if is_begun { None } else { self.step(file, BEGIN).err() };
        let full = if lost.is_none() { log.is_full(self.writer).err() } else { None };
        for work in group {
            let outcome = |done: Result<(), Fault>, lost: &mut Option<Fault>| {
                if let Err(fault) = &done {
                    lost.get_or_insert(fault.clone());
                }
                done
            };
            match work {
                Work::Save => {}
                Work::Append(_, reply) if let Some(fault) = lost.as_ref().or(full.as_ref()) => {
                    appends.push((reply, Err(fault.clone())));
                }
                Work::Append(prepared, reply) => {
                    let done = self.append(&prepared).map_err(|error| trouble(file, &error));
                    appends.push((reply, outcome(done, &mut lost)));
                }
                Work::Run(job) if let Some(fault) = &lost => jobs.push((job, Err(fault.clone()))),
                Work::Run(mut job) => {
                    let done = self.run(log, &mut *job);
                    // It took back what it did, unless that took everything back.
                    let ended = self.writer.connection.is_autocommit();
                    let done = if ended { outcome(done, &mut lost) } else { done };
                    jobs.push((job, done));
                }
            }
        }
        if let Some(fault) = lost {
            return Err((fault, Vec::new()));
        }
        let savings = if self.save { log.savings(self.slow()) } else { Vec::new() };
        if let Err(error) = self.save(&savings) {
            return Err((trouble(file, &error), savings));
        }
        // Before the commit: after it this would be two transactions more.
        let used = self.writer.used();
        match self.writer.connection.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([])) {
            Ok(_) => {
                if self.save {
                    self.writer.saved = Instant::now();
                }
                if let Ok(used) = used {
                    log.used.store(used, Relaxed);
                }
                Ok(savings)
            }
            Err(error) => Err((unconfirmed(file, &error), savings)),
        }
    }

    /// Runs a job so that it leaves nothing behind when it fails.
    fn run(&mut self, log: &Log, job: &mut dyn Job) -> Result<(), Fault> {
        let file = &log.file;
        self.step(file, "SAVEPOINT job")?;
        let (was, appended, due) = ((self.writer.next, self.writer.last), self.appended.len(), self.due);
        let done = job.run(self, log);
        if done.is_err() && !self.writer.connection.is_autocommit() {
            self.step(file, "ROLLBACK TO job")?;
            self.appended.truncate(appended);
            self.due = due;
            (self.writer.next, self.writer.last) = was;
            self.writer.topics.clear();
            self.writer.sources.clear();
        }
        if !self.writer.connection.is_autocommit() {
            self.step(file, "RELEASE job")?;
        }
        done
    }

    fn step(&self, file: &Path, sql: &str) -> Result<(), Fault> {
        let done = self.writer.connection.prepare_cached(sql).and_then(|mut step| step.execute([]));
        done.map(drop).map_err(|error| trouble(file, &error))
    }

    /// Takes an event into the log, or into what is scheduled.
    pub(super) fn append(&mut self, Prepared { event, due }: &Prepared) -> rusqlite::Result<()> {
        let now = Timestamp::now();
        match due {
            Some(due) if *due > now => {
                let (topic, source) = (self.writer.topic(&event.topic)?, self.writer.source(&event.source)?);
                let sql = "INSERT INTO scheduled \
                    (due, topic, event, source, subject, time, datacontenttype, traceparent, data) \
                    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
                // Rounded up, or it would be due before its time.
                let due = due.as_millisecond() + i64::from(due.subsec_nanosecond() % 1_000_000 > 0);
                self.writer.connection.prepare_cached(sql)?.execute(params![
                    due,
                    topic,
                    event.id,
                    source,
                    event.subject,
                    event.time.as_millisecond(),
                    row::content_type(event),
                    event.traceparent.map(|trace| trace.to_string()),
                    &*event.data,
                ])?;
                self.due = Some(self.due.map_or(due, |other| other.min(due)));
                Ok(())
            }
            _ => self.append_now(event, now),
        }
    }

    /// Takes an event into the log.
    pub(super) fn append_now(&mut self, event: &Arc<Event>, now: Timestamp) -> rusqlite::Result<()> {
        let (topic, source) = (self.writer.topic(&event.topic)?, self.writer.source(&event.source)?);
        let sql = "INSERT INTO events (seq, at, topic, id, source, subject, time, datacontenttype, traceparent, data) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
        let seq = self.writer.next;
        // A clock that was set back must not make the past later than the present.
        let at = now.as_millisecond().max(self.writer.last);
        let trace = event.traceparent.map(|trace| trace.encode());
        self.writer.connection.prepare_cached(sql)?.execute(params![
            seq,
            at,
            topic,
            event.id,
            source,
            event.subject,
            event.time.as_millisecond(),
            row::content_type(event),
            trace.as_ref().and_then(|trace| str::from_utf8(trace).ok()),
            &*event.data,
        ])?;
        (self.writer.next, self.writer.last) = (seq + 1, at);
        self.appended.push((seq, Arc::clone(event)));
        Ok(())
    }

    /// For statements of a job.
    pub(super) fn connection(&self) -> &Connection {
        &self.writer.connection
    }

    pub(super) fn topic(&mut self, name: &Arc<str>) -> rusqlite::Result<i64> {
        self.writer.topic(name)
    }

    pub(super) fn writer(&self) -> &Writer {
        self.writer
    }

    pub(super) fn writer_mut(&mut self) -> &mut Writer {
        self.writer
    }

    /// What cursors have come to must be part of the same transaction.
    pub(super) fn save_too(&mut self) {
        self.save = true;
    }

    /// Whether it is time to look for what is slow.
    fn slow(&mut self) -> bool {
        let now = Instant::now();
        let slow = now.duration_since(self.writer.slow) >= SLOW;
        if slow {
            self.writer.slow = now;
        }
        slow
    }

    fn save(&self, savings: &Savings) -> rusqlite::Result<()> {
        let connection = &self.writer.connection;
        for (cursor, saving) in savings {
            if saving.finished {
                connection.prepare_cached("DELETE FROM pending WHERE cursor = ?1")?.execute([cursor.id])?;
                connection.prepare_cached("DELETE FROM cursors WHERE id = ?1")?.execute([cursor.id])?;
                continue;
            }
            let update = "UPDATE cursors SET position = ?2 WHERE id = ?1";
            connection.prepare_cached(update)?.execute((cursor.id, saving.position))?;
            for (seq, row) in &saving.rows {
                match row {
                    Some(row) => {
                        let put = "INSERT OR REPLACE INTO pending (cursor, seq, attempts, due, error) \
                             VALUES (?1, ?2, ?3, ?4, ?5)";
                        let values = (cursor.id, seq, row.attempts, row.due, &row.error);
                        connection.prepare_cached(put)?.execute(values)?;
                    }
                    None => {
                        let drop = "DELETE FROM pending WHERE cursor = ?1 AND seq = ?2";
                        connection.prepare_cached(drop)?.execute((cursor.id, seq))?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// What a publisher hears when the log could not be written; nothing was then.
pub(super) fn trouble(file: &Path, error: &rusqlite::Error) -> Fault {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Fault::new(
            FaultKind::Overloaded,
            format!(
                "there is no space left on the disk of the event log {}: free some; nothing was published",
                file.display()
            ),
        ),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Fault::new(
            FaultKind::Overloaded,
            format!(
                "another program holds a lock on the event log {}: have it end; nothing was published",
                file.display()
            ),
        ),
        _ => Fault::new(FaultKind::Unreachable, in_words(file, error)),
    }
}

/// What he hears when the last step failed. A full disk fails it before anything of it can count; of other errors nobody
/// knows what a later recovery finds.
fn unconfirmed(file: &Path, error: &rusqlite::Error) -> Fault {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => trouble(file, error),
        _ => {
            let words = in_words(file, error);
            Fault::new(FaultKind::DeadlineExceeded, format!("the event may not have been published: {words}"))
        }
    }
}

fn in_words(file: &Path, error: &rusqlite::Error) -> String {
    let file = file.display();
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            format!("the event log {file} is damaged: {error}; stop the host and put a backup in its place")
        }
        _ => format!("the event log {file} can't be written: {error}"),
    }
}
