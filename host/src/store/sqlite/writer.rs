//! The writer: the one thread that changes a database.
//!
//! SQLite has one writer at a time anyway; with a thread of its own nobody ever meets a lock, and the queue before it
//! is where waiting is bounded and visible. Jobs that wait together are committed together: the commit is the dear
//! part of a small write, and under load one pays for many. Each job has a savepoint of its own, so one that fails
//! takes back only what it did itself, and none is answered before the commit that holds it.

use super::{
    job::Job,
    migration,
    queue::Queue,
    session::{Role, Session},
    transaction::{Command, Transaction},
};
use crate::store::{Applied, Error, MigrateError, Migration, OpenError, Savepoint, Settings};
use std::{
    cell::{Cell, RefCell},
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread,
};
use tokio::{
    sync::oneshot,
    time::{Duration, Instant},
};

/// The most jobs that share a commit, and how long the first of them may wait for the others to run.
const GROUP: usize = 64;
const GROUP_TIME: Duration = Duration::from_millis(5);

/// Pages in the write-ahead log from which on it is copied into the database: 4 MiB.
const CHECKPOINT_PAGES: i32 = 1_000;

/// Enough for SQLite, whose recursion the session's limits bound; only what is touched counts.
const STACK: usize = 1 << 20;

thread_local! {
    /// Pages in the write-ahead log after the last commit: a hook that SQLite calls without any state.
    static LOG_PAGES: Cell<i32> = const { Cell::new(0) };
}

/// What the writer does.
pub(super) enum Work {
    /// A job in a transaction of its own, as far as anyone can tell.
    Write(Box<dyn Job>),
    /// Begins a transaction that is steered from outside.
    Begin(oneshot::Sender<Result<Transaction, Error>>),
    /// Brings the schema up to date.
    Migrate(Vec<Migration>, oneshot::Sender<Result<Applied, MigrateError>>),
}

/// Opens the database on a thread of its own and serves `queue` until it is closed.
pub(super) async fn start(
    file: PathBuf,
    settings: Arc<Settings>,
    queue: Arc<Queue<Work>>,
) -> Result<thread::JoinHandle<()>, OpenError> {
    let (opened, outcome) = oneshot::channel();
    let name = file.file_stem().map_or_else(|| "store".into(), |name| format!("store {}", name.to_string_lossy()));
    let path = file.clone();
    let thread = thread::Builder::new()
        .name(name)
        .stack_size(STACK)
        .spawn(move || match open(&path, settings.clone()) {
            Ok(session) => {
                // NB: the queue closes however this thread ends, or callers would wait for ever.
                let _closing = Closing(&queue);
                if opened.send(Ok(())).is_ok() {
                    serve(&session, &settings, &queue);
                }
            }
            Err(error) => {
                let _ = opened.send(Err(error));
            }
        })
        .map_err(|source| OpenError::Thread { file: file.clone(), source })?;
    match outcome.await {
        Ok(outcome) => outcome.map(|()| thread),
        Err(_) => Err(OpenError::Thread { file, source: std::io::Error::other("it ended at once") }),
    }
}

struct Closing<'a>(&'a Queue<Work>);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        drop(self.0.abandon());
    }
}

fn open(file: &Path, settings: Arc<Settings>) -> Result<Session, OpenError> {
    let session = Session::open(file, Role::Writer, settings)?;
    session
        .as_host(|connection| {
            connection.wal_hook(Some(|_, pages| {
                LOG_PAGES.set(pages);
                Ok(())
            }));
            connection.execute_batch(migration::TABLE)
        })
        .map_err(|source| OpenError::File { file: file.to_owned(), source })?;
    Ok(session)
}

fn serve(session: &Session, settings: &Arc<Settings>, queue: &Queue<Work>) {
    let writer = match Writer::new(session) {
        Ok(writer) => writer,
        Err(error) => return tracing::error!(?error, "the writer of a database could not start"),
    };
    while let Some(work) = queue.pop() {
        match work {
            Work::Write(first) => writer.group(first, queue),
            Work::Begin(reply) => writer.transaction(reply, settings.transaction_time),
            Work::Migrate(migrations, reply) => {
                let _ = reply.send(migration::apply(session, &migrations, settings));
            }
        }
        writer.checkpoint();
    }
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

struct Writer<'s> {
    session: &'s Session,
    /// The steps, compiled. Not in the session's cache, where a service could name them by their text.
    steps: [RefCell<rusqlite::Statement<'s>>; 9],
}

// === impl Step ===

impl Step {
    const ALL: [Self; 9] = [
        Self::Begin,
        Self::Commit,
        Self::Rollback,
        Self::Savepoint,
        Self::RollbackTo,
        Self::Release,
        Self::Nest,
        Self::Undo,
        Self::Keep,
    ];

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

impl<'s> Writer<'s> {
    fn new(session: &'s Session) -> Result<Self, Error> {
        let [begin, commit, rollback, savepoint, rollback_to, release, nest, undo, keep] =
            Step::ALL.map(|step| session.compile(step.sql()));
        let steps = [begin?, commit?, rollback?, savepoint?, rollback_to?, release?, nest?, undo?, keep?];
        let steps = steps.map(RefCell::new);
        Ok(Self { session, steps })
    }

    /// Runs a job together with those that wait behind it.
    fn group(&self, first: Box<dyn Job>, queue: &Queue<Work>) {
        if first.is_abandoned() {
            return;
        }
        let Some(next) = next_write(queue) else { return self.alone(first) };
        if let Err(error) = self.control(Step::Begin) {
            return [first, next].into_iter().for_each(|job| refuse(job, &error));
        }
        let began = Instant::now();
        let mut done = Vec::new();
        let mut waiting = [first, next].into_iter();
        while let Some(mut job) = waiting.next().or_else(|| {
            let room = done.len() < GROUP && began.elapsed() < GROUP_TIME;
            if room { next_write(queue) } else { None }
        }) {
            let succeeded = self.run_in_savepoint(&mut *job);
            if !self.session.in_transaction() {
                // It ended the transaction of all, and with it what the others did: they start over, each alone.
                job.answer();
                done.into_iter().map(|(job, _)| job).chain(waiting).for_each(|job| self.alone(job));
                return;
            }
            done.push((job, succeeded));
        }
        match self.control(Step::Commit) {
            Ok(()) => done.into_iter().for_each(|(job, _)| job.answer()),
            Err(_) => {
                // One of them broke a promise that is checked only at the end; alone, it fails alone.
                self.rollback();
                for (job, succeeded) in done {
                    if succeeded { self.alone(job) } else { job.answer() }
                }
            }
        }
    }

    /// Runs a job in a transaction of its own.
    fn alone(&self, mut job: Box<dyn Job>) {
        if let Err(error) = self.control(Step::Begin) {
            return refuse(job, &error);
        }
        if !job.run(self.session) {
            self.rollback();
        } else if let Err(error) = self.control(Step::Commit) {
            self.rollback();
            job.fail(error);
        }
        job.answer();
    }

    /// Runs a job so that it leaves nothing behind when it fails; returns whether it succeeded.
    fn run_in_savepoint(&self, job: &mut dyn Job) -> bool {
        if let Err(error) = self.control(Step::Savepoint) {
            job.fail(error);
            return false;
        }
        let succeeded = job.run(self.session);
        if self.session.in_transaction() {
            let undone = if succeeded { Ok(()) } else { self.control(Step::RollbackTo) };
            if let Err(error) = undone.and_then(|()| self.control(Step::Release)) {
                // What the job did can't be told from what others did: nothing of it may be committed.
                self.rollback();
                job.fail(error);
                return false;
            }
        }
        succeeded
    }

    /// Serves one transaction until it ends.
    fn transaction(&self, reply: oneshot::Sender<Result<Transaction, Error>>, limit: Duration) {
        if reply.is_closed() {
            return;
        }
        if let Err(error) = self.control(Step::Begin) {
            let _ = reply.send(Err(error));
            return;
        }
        let (transaction, commands, ending) = Transaction::new();
        if reply.send(Ok(transaction)).is_err() {
            return self.rollback();
        }
        let deadline = Instant::now() + limit;
        self.session.set_deadline(Some(deadline));
        let reason = self.commands(&commands, deadline, limit);
        self.session.set_deadline(None);
        if self.session.in_transaction() {
            self.rollback();
        }
        // Before the receiver is dropped: whoever finds it gone looks here for the reason.
        ending.set(reason);
        drop(commands);
    }

    /// Does what a transaction's owner says, and returns how it ended.
    fn commands(&self, commands: &Receiver<Command>, deadline: Instant, limit: Duration) -> String {
        loop {
            let command = match commands.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(command) => command,
                Err(RecvTimeoutError::Disconnected) => return "it was dropped and rolled back".into(),
                Err(RecvTimeoutError::Timeout) => return format!("it was rolled back at its time limit of {limit:?}"),
            };
            match command {
                Command::Run(job) if job.is_abandoned() => {}
                Command::Run(mut job) => {
                    self.run_in_savepoint(&mut *job);
                    let lost = !self.session.in_transaction();
                    job.answer();
                    if lost && Instant::now() < deadline {
                        return "it was rolled back by a statement that failed".into();
                    }
                }
                Command::Savepoint(savepoint, reply) => {
                    let _ = reply.send(self.savepoint(savepoint));
                }
                Command::Commit(then, reply) => {
                    let result = self.control(Step::Commit);
                    let reason = match &result {
                        Ok(()) => {
                            then.run();
                            "it was committed".into()
                        }
                        Err(error) => {
                            self.rollback();
                            format!("it was rolled back, for its commit failed: {error}")
                        }
                    };
                    let _ = reply.send(result);
                    return reason;
                }
                Command::Rollback(reply) => {
                    self.rollback();
                    let _ = reply.send(Ok(()));
                    return "it was rolled back".into();
                }
            }
        }
    }

    fn savepoint(&self, savepoint: Savepoint) -> Result<(), Error> {
        match savepoint {
            Savepoint::Set => self.control(Step::Nest),
            Savepoint::Keep => self.control(Step::Keep),
            Savepoint::Undo => self.control(Step::Undo).and_then(|()| self.control(Step::Keep)),
        }
    }

    /// Copies the log into the database when it is long enough: here, so that no job waits for it inside its commit.
    fn checkpoint(&self) {
        if LOG_PAGES.get() < CHECKPOINT_PAGES {
            return;
        }
        LOG_PAGES.set(0);
        let result =
            self.session.as_host(|connection| connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())));
        if let Err(error) = result {
            tracing::warn!(%error, "the write-ahead log could not be copied into the database; it will be tried again");
        }
    }

    fn control(&self, step: Step) -> Result<(), Error> {
        let mut statement = self.steps[step as usize].borrow_mut();
        self.session.as_host(|_| statement.raw_execute()).map(drop).map_err(|error| self.session.explain(&error))
    }

    fn rollback(&self) {
        if self.session.in_transaction()
            && let Err(error) = self.control(Step::Rollback)
        {
            tracing::error!(?error, "a transaction could not be rolled back");
        }
    }
}

fn next_write(queue: &Queue<Work>) -> Option<Box<dyn Job>> {
    while let Some(Work::Write(job)) = queue.pop_if(|work| matches!(work, Work::Write(_))) {
        if !job.is_abandoned() {
            return Some(job);
        }
    }
    None
}

fn refuse(mut job: Box<dyn Job>, error: &Error) {
    job.fail(error.clone());
    job.answer();
}

#[cfg(test)]
mod tests {
    use super::{super::job::job, *};
    use crate::store::{Authority, Statement};
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn jobs_that_wait_together_share_a_commit() {
        let file = std::env::temp_dir().join(format!("wharf-writer-{}.sqlite", uuid::Uuid::new_v4()));
        let session = open(&file, Arc::default()).unwrap();
        let commits = Arc::new(AtomicU32::new(0));
        session.as_host(|connection| {
            connection.execute_batch("CREATE TABLE t (v UNIQUE)").unwrap();
            let commits = commits.clone();
            let hook = move || {
                commits.fetch_add(1, Ordering::Relaxed);
                false
            };
            connection.commit_hook(Some(hook)).unwrap();
        });
        let queue = Queue::new(100);
        let insert = |value: usize| {
            let statement = Statement { sql: format!("INSERT INTO t VALUES ({value})"), params: Vec::new() };
            job(move |session: &Session| session.execute(&statement, Authority::Service))
        };
        let mut answers: Vec<_> = (0..=GROUP)
            .map(|value| {
                let (job, answer) = insert(value);
                queue.push(Work::Write(job)).unwrap();
                answer
            })
            .collect();
        let Some(Work::Write(first)) = queue.pop() else { panic!("no job") };
        Writer::new(&session).unwrap().group(first, &queue);
        assert_eq!(commits.load(Ordering::Relaxed), 1);
        let answered = answers.iter_mut().filter_map(|answer| answer.try_recv().ok()).collect::<Vec<_>>();
        // Fewer than all where the machine is so slow that the group's time ran out; never fewer than two.
        assert!(answered.len() >= 2 && answered.len() <= GROUP && answered.iter().all(|answer| *answer == Ok(1)));
        drop(session);
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", file.display()));
        }
    }
}
