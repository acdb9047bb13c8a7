//! The writer: the one session that changes a database.
//!
//! SQLite has one writer at a time anyway; with turns before it nobody ever meets a lock. Jobs that wait together are
//! committed together: the commit is the dear part of a small write, and under load one pays for many. Each job has a
//! savepoint of its own, so one that fails takes back only what it did itself, and none is answered before the commit that
//! holds it.

use super::{
    job::Job,
    migration,
    session::{Role, Session},
};
use crate::store::{Applied, Committed, Error, MigrateError, Migration, OpenError, Savepoint, Settings};
use std::{cell::Cell, path::Path, sync::Arc};
use tokio::time::{Duration, Instant};

/// The most jobs that share a commit, and how long the first of them may wait for the others to run.
const GROUP: usize = 64;
const GROUP_TIME: Duration = Duration::from_millis(5);

/// Pages in the write-ahead log from which on it is copied into the database: 4 MiB. Nobody writes meanwhile.
const CHECKPOINT_PAGES: i32 = 1_000;

/// A commit that takes longer than this waited for the disk: the next is made where it may block.
const QUICK_COMMIT: Duration = Duration::from_millis(1);

thread_local! {
    /// Pages in the write-ahead log after the last commit of this thread: a hook that SQLite calls without any state.
    static LOG_PAGES: Cell<i32> = const { Cell::new(0) };
}

/// What the writer says between jobs.
#[derive(Clone, Copy)]
enum Step {
    Begin,
    Commit,
    Rollback,
    Savepoint,
    RollbackTo,
    Release,
    Nest,
    Undo,
    Keep,
}

/// The session that writes, and what it says between jobs.
pub(super) struct Writer {
    session: Session,
    settings: Arc<Settings>,
    /// Pages in the write-ahead log after the last commit.
    log_pages: i32,
    /// Whether a commit may be made on an async thread.
    commits_quickly: bool,
}

// === impl Step ===

impl Step {
    const fn sql(self) -> &'static str {
        match self {
            Self::Begin => "BEGIN IMMEDIATE",
            Self::Commit => "COMMIT",
            Self::Rollback => "ROLLBACK",
            Self::Savepoint => "SAVEPOINT job",
            Self::RollbackTo => "ROLLBACK TO job",
            Self::Release => "RELEASE job",
            Self::Nest => "SAVEPOINT nested",
            Self::Undo => "ROLLBACK TO nested",
            Self::Keep => "RELEASE nested",
        }
    }
}

// === impl Writer ===

impl Writer {
    /// Opens the database in a file, and makes it if there is none.
    pub(super) fn open(file: &Path, settings: Arc<Settings>) -> Result<Self, OpenError> {
        let session = Session::open(file, Role::Writer, settings.clone())?;
        session
            .as_host(|connection| {
                connection.wal_hook(Some(|_, pages| {
                    LOG_PAGES.set(pages);
                    Ok(())
                }));
                connection.execute_batch(migration::TABLE)
            })
            .map_err(|source| OpenError::File { file: file.to_owned(), source })?;
        let commits_quickly = !settings.durable_at_power_loss;
        Ok(Self { session, settings, log_pages: 0, commits_quickly })
    }

    /// Brings the schema up to date.
    pub(super) fn migrate(&mut self, migrations: &[Migration]) -> Result<Applied, MigrateError> {
        self.session.be_patient();
        migration::apply(&self.session, migrations, &self.settings)
    }

    /// Runs a job in a transaction of its own on an async thread, if that is surely short; else nothing of it is done, and
    /// the job returned.
    pub(super) fn alone_if_short(&mut self, mut job: Box<dyn Job>) -> Option<Box<dyn Job>> {
        if !self.commits_quickly {
            return Some(job);
        }
        self.session.hurry();
        if self.control(Step::Begin).is_err() {
            // Another process has the file, or it is in trouble: that may take.
            return Some(job);
        }
        let succeeded = job.run(&self.session);
        if self.session.was_refused() {
            self.rollback();
            return Some(job);
        }
        self.end(&mut *job, succeeded);
        job.answer();
        None
    }

    /// Runs a job together with those that wait behind it, and returns all of them, to be answered.
    pub(super) fn group(
        &mut self,
        first: Box<dyn Job>,
        mut next_write: impl FnMut() -> Option<Box<dyn Job>>,
    ) -> Vec<Box<dyn Job>> {
        self.session.be_patient();
        let Some(next) = next_write() else { return vec![self.alone(first)] };
        if let Err(error) = self.control(Step::Begin) {
            return [first, next].map(|job| failed(job, &error)).into();
        }
        let began = Instant::now();
        let mut done = Vec::new();
        let mut waiting = [first, next].into_iter();
        while let Some(mut job) = waiting.next().or_else(|| {
            let room = done.len() < GROUP && began.elapsed() < GROUP_TIME;
            if room { next_write() } else { None }
        }) {
            let outcome = self.in_savepoint(|session| job.run(session).then_some(()).ok_or(()));
            let succeeded = outcome.unwrap_or_else(|error| {
                job.fail(error);
                Err(())
            });
            if !self.session.in_transaction() {
                // It ended the transaction of all, and with it what the others did: they start over, each alone.
                let others = done.into_iter().map(|(job, _)| job).chain(waiting);
                let mut all: Vec<_> = others.map(|job| self.alone(job)).collect();
                all.push(job);
                return all;
            }
            done.push((job, succeeded.is_ok()));
        }
        if self.commit().is_ok() {
            return done.into_iter().map(|(job, _)| job).collect();
        }
        // One of them broke a promise that is checked only at the end; alone, it fails alone.
        self.rollback();
        done.into_iter().map(|(job, succeeded)| if succeeded { self.alone(job) } else { job }).collect()
    }

    /// Runs a job in a transaction of its own.
    fn alone(&mut self, mut job: Box<dyn Job>) -> Box<dyn Job> {
        if let Err(error) = self.control(Step::Begin) {
            return failed(job, &error);
        }
        let succeeded = job.run(&self.session);
        self.end(&mut *job, succeeded);
        job
    }

    fn end(&mut self, job: &mut dyn Job, succeeded: bool) {
        if !succeeded {
            self.rollback();
        } else if let Err(error) = self.commit() {
            self.rollback();
            job.fail(error);
        }
    }

    /// Runs something so that it leaves nothing behind when it fails. The outer error is that its outcome is not known, and
    /// the transaction undone.
    fn in_savepoint<A, E>(&mut self, run: impl FnOnce(&Session) -> Result<A, E>) -> Result<Result<A, E>, Error> {
        self.control(Step::Savepoint)?;
        let outcome = run(&self.session);
        if self.session.in_transaction() {
            let undone = if outcome.is_ok() { Ok(()) } else { self.control(Step::RollbackTo) };
            if let Err(error) = undone.and_then(|()| self.control(Step::Release)) {
                // What it did can't be told from what others did: nothing of it may be committed.
                self.rollback();
                return Err(error);
            }
        }
        Ok(outcome)
    }

    /// Begins a transaction that is steered from outside, and must end by then.
    pub(super) fn begin(&mut self, deadline: Instant) -> Result<(), Error> {
        self.session.be_patient();
        self.control(Step::Begin)?;
        self.session.set_deadline(Some(deadline));
        Ok(())
    }

    /// As [`begin`](Self::begin), on an async thread; `false` where another process has the file, and may have it for long.
    pub(super) fn begin_if_free(&mut self, deadline: Instant) -> Result<bool, Error> {
        self.session.hurry();
        match self.control(Step::Begin) {
            Ok(()) => {
                self.session.set_deadline(Some(deadline));
                Ok(true)
            }
            Err(Error::Busy(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Runs something in a transaction that is steered from outside.
    pub(super) fn run<A>(&mut self, run: impl FnOnce(&Session) -> Result<A, Error>) -> Result<A, Error> {
        self.session.be_patient();
        self.in_savepoint(run).flatten()
    }

    /// As [`run`](Self::run), on an async thread, if it is surely short; else nothing of it is done, and there is no outcome.
    pub(super) fn run_if_short<A>(
        &mut self,
        run: impl FnOnce(&Session) -> Result<A, Error>,
    ) -> Option<Result<A, Error>> {
        self.session.hurry();
        let outcome = self.in_savepoint(run).flatten();
        if self.session.was_refused() { None } else { Some(outcome) }
    }

    pub(super) fn savepoint(&mut self, savepoint: Savepoint) -> Result<(), Error> {
        match savepoint {
            Savepoint::Set => self.control(Step::Nest),
            Savepoint::Keep => self.control(Step::Keep),
            Savepoint::Undo => self.control(Step::Undo).and_then(|()| self.control(Step::Keep)),
        }
    }

    /// Commits a transaction that is steered from outside; where that fails, it is rolled back.
    pub(super) fn commit_and(&mut self, then: &Committed) -> Result<(), Error> {
        let result = self.commit();
        match &result {
            Ok(()) => then.run(),
            Err(_) => self.rollback(),
        }
        result
    }

    /// Whether a commit may be made on an async thread.
    pub(super) fn commits_quickly(&self) -> bool {
        self.commits_quickly
    }

    /// Whether a transaction is under way.
    pub(super) fn in_transaction(&self) -> bool {
        self.session.in_transaction()
    }

    /// Leaves nothing of this turn to the next.
    pub(super) fn leave(&mut self) {
        self.rollback();
        self.session.set_deadline(None);
    }

    /// Whether the log is long enough to be copied into the database.
    pub(super) fn is_due_to_copy(&self) -> bool {
        self.log_pages >= CHECKPOINT_PAGES
    }

    /// Copies the log into the database when it is long enough: between turns, so that no job waits for it inside its commit.
    pub(super) fn copy_if_due(&mut self) {
        if !self.is_due_to_copy() {
            return;
        }
        self.log_pages = 0;
        self.session.be_patient();
        let result =
            self.session.as_host(|connection| connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())));
        if let Err(error) = result {
            tracing::warn!(%error, "the write-ahead log could not be copied into the database; it will be tried again");
        }
    }

    fn commit(&mut self) -> Result<(), Error> {
        LOG_PAGES.set(self.log_pages);
        let began = Instant::now();
        let result = self.control(Step::Commit);
        self.log_pages = LOG_PAGES.get();
        self.commits_quickly = !self.settings.durable_at_power_loss && began.elapsed() <= QUICK_COMMIT;
        result
    }

    fn control(&self, step: Step) -> Result<(), Error> {
        // NB: from the cache of the session, in which a service's statements are too. A service that names one of these by its
        // text does not get at it: its own statements are looked at first, and these are refused to it.
        let run = |connection: &rusqlite::Connection| connection.prepare_cached(step.sql())?.raw_execute();
        self.session.as_host(run).map(drop).map_err(|error| self.session.explain(&error))
    }

    fn rollback(&self) {
        if self.session.in_transaction()
            && let Err(error) = self.control(Step::Rollback)
        {
            tracing::error!(?error, "a transaction could not be rolled back");
        }
    }
}

fn failed(mut job: Box<dyn Job>, error: &Error) -> Box<dyn Job> {
    job.fail(error.clone());
    job
}

#[cfg(test)]
mod tests {
    use super::{super::job::job, *};
    use crate::store::{Authority, Statement};
    use std::{
        collections::VecDeque,
        sync::atomic::{AtomicU32, Ordering},
    };

    #[test]
    fn jobs_that_wait_together_share_a_commit() {
        let file = std::env::temp_dir().join(format!("wharf-writer-{}.sqlite", uuid::Uuid::new_v4()));
        let mut writer = Writer::open(&file, Arc::default()).unwrap();
        let commits = Arc::new(AtomicU32::new(0));
        writer.session.as_host(|connection| {
            connection.execute_batch("CREATE TABLE t (v UNIQUE)").unwrap();
            let commits = commits.clone();
            let hook = move || {
                commits.fetch_add(1, Ordering::Relaxed);
                false
            };
            connection.commit_hook(Some(hook)).unwrap();
        });
        let mut queue = VecDeque::new();
        let insert = |value: usize| {
            let statement = Statement { sql: format!("INSERT INTO t VALUES ({value})"), params: Vec::new() };
            job(move |session: &Session| session.execute(&statement, Authority::Service))
        };
        let mut answers: Vec<_> = (0..=GROUP)
            .map(|value| {
                let (job, answer) = insert(value);
                queue.push_back(job);
                answer
            })
            .collect();
        let first = queue.pop_front().unwrap();
        writer.group(first, || queue.pop_front()).into_iter().for_each(|job| job.answer());
        assert_eq!(commits.load(Ordering::Relaxed), 1);
        let answered = answers.iter_mut().filter_map(|answer| answer.try_recv().ok()).collect::<Vec<_>>();
        // Fewer than all where the machine is so slow that the group's time ran out; never fewer than two.
        assert!(answered.len() >= 2 && answered.len() <= GROUP && answered.iter().all(|answer| *answer == Ok(1)));
        drop(writer);
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", file.display()));
        }
    }
}
