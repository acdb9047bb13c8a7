//! A transaction: a connection, a task that serves it, and its owner's way to that task.

use super::{
    connection::{HostWords, Outcome, Task, Want},
    counts,
    error::lost_a_race,
    pool::Lease,
    silent,
};
use crate::store::{
    Authority, Committed, Error, Rows, Savepoint, Settings, Statement,
    ending::{COMMANDS, Ending, full},
    postgres::connection::Failure,
};
use std::sync::Arc;
use tokio::{
    sync::{
        mpsc::{self, Receiver, Sender, error::TrySendError},
        oneshot,
    },
    time::{Duration, Instant, error::Elapsed, timeout, timeout_at},
};

/// A transaction on a connection that is its own until it ends.
#[derive(Clone, Debug)]
pub(in crate::store) struct Transaction {
    commands: Sender<Command>,
    ending: Ending,
    words: Arc<HostWords>,
    settings: Arc<Settings>,
}

/// What the owner of a transaction asks.
#[derive(Debug)]
enum Command {
    Run(Box<Task>, Want, oneshot::Sender<Result<Outcome, Error>>),
    Batch(Vec<Task>, oneshot::Sender<Result<Vec<Outcome>, Error>>),
    Savepoint(Savepoint, oneshot::Sender<Result<(), Error>>),
    Commit(Committed, oneshot::Sender<Result<(), Error>>),
    Rollback(oneshot::Sender<Result<(), Error>>),
}

const BY_STATEMENT: &str = "it was rolled back by a statement that failed";

/// The task's side.
struct Serving {
    lease: Lease,
    words: Arc<HostWords>,
    settings: Arc<Settings>,
    deadline: Instant,
}

// === impl Transaction ===

impl Transaction {
    /// Begins one on this connection.
    pub(super) async fn begin(lease: Lease, words: Arc<HostWords>, settings: Arc<Settings>) -> Result<Self, Error> {
        let (commands, mut receiver) = mpsc::channel(COMMANDS);
        let ending = Ending::default();
        let transaction = Self { commands, ending: ending.clone(), words: words.clone(), settings: settings.clone() };
        let (reply, begun) = oneshot::channel();
        tokio::spawn(async move {
            let limit = settings.statement_time;
            let result = match timeout(limit, lease.begin()).await {
                Ok(result) => result.map_err(|failure| lease.explain(failure, None, limit)),
                Err(_) => Err(silent(&lease)),
            };
            let failed = result.is_err();
            if reply.send(result).is_err() || failed {
                return lease.roll_back().await;
            }
            let deadline = Instant::now() + settings.transaction_time;
            let serving = Serving { lease, words, settings, deadline };
            let reason = serving.serve(&mut receiver).await;
            // Before the receiver is dropped: whoever finds it gone looks here for the reason.
            ending.set(reason);
        });
        begun.await.unwrap_or_else(|_| Err(Error::Unavailable("the host is ending".into())))?;
        Ok(transaction)
    }

    pub(in crate::store) async fn query(&self, statement: Statement, authority: Authority) -> Result<Rows, Error> {
        match self.run(statement, authority, Want::Rows).await? {
            Outcome::Rows(rows) => Ok(rows),
            Outcome::Count(_) => Ok(Rows { columns: Vec::new(), rows: Vec::new() }),
        }
    }

    pub(in crate::store) async fn execute(&self, statement: Statement, authority: Authority) -> Result<u64, Error> {
        match self.run(statement, authority, Want::Count).await? {
            Outcome::Count(count) => Ok(count),
            Outcome::Rows(_) => Ok(0),
        }
    }

    /// All statements or none: those of a service, then the host's own.
    pub(in crate::store) async fn batch(
        &self,
        statements: Vec<Statement>,
        host: Vec<Statement>,
    ) -> Result<Vec<u64>, Error> {
        let number = statements.len();
        let tasks = self.unless_closed(Task::read_all(statements, host, &self.words, &self.settings))?;
        let (reply, answer) = oneshot::channel();
        let mut changed = counts(self.send(Command::Batch(tasks, reply), answer).await?);
        changed.truncate(number);
        Ok(changed)
    }

    pub(in crate::store) async fn savepoint(&self, savepoint: Savepoint) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Savepoint(savepoint, reply), answer).await
    }

    pub(in crate::store) async fn commit(&self, then: Committed) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Commit(then, reply), answer).await
    }

    pub(in crate::store) async fn rollback(&self) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Rollback(reply), answer).await
    }

    async fn run(&self, statement: Statement, authority: Authority, want: Want) -> Result<Outcome, Error> {
        let task = self.unless_closed(Task::read(statement, authority, &self.settings))?;
        let (reply, answer) = oneshot::channel();
        self.send(Command::Run(Box::new(task), want, reply), answer).await
    }

    async fn send<A>(&self, command: Command, answer: oneshot::Receiver<Result<A, Error>>) -> Result<A, Error> {
        match self.commands.try_send(command) {
            Ok(()) => answer.await.unwrap_or_else(|_| Err(self.ending.closed())),
            Err(TrySendError::Full(_)) => Err(full()),
            Err(TrySendError::Closed(_)) => Err(self.ending.closed()),
        }
    }

    /// That it has ended says more than what is wrong with a statement.
    fn unless_closed<A>(&self, read: Result<A, Error>) -> Result<A, Error> {
        read.map_err(|error| if self.commands.is_closed() { self.ending.closed() } else { error })
    }
}

// === impl Serving ===

impl Serving {
    /// Does what the transaction's owner says until it ends, and returns how.
    async fn serve(self, commands: &mut Receiver<Command>) -> String {
        let limit = self.settings.transaction_time;
        loop {
            let command = match timeout_at(self.deadline, commands.recv()).await {
                Ok(Some(command)) => command,
                Ok(None) => {
                    self.lease.roll_back().await;
                    return "it was dropped and rolled back".into();
                }
                Err(_) => {
                    self.lease.roll_back().await;
                    return format!("it was rolled back at its time limit of {limit:?}");
                }
            };
            match command {
                Command::Run(_, _, reply) if reply.is_closed() => {}
                Command::Run(task, want, reply) => {
                    if self.answer(self.run(&task, want).await, reply).await {
                        return BY_STATEMENT.into();
                    }
                }
                Command::Batch(_, reply) if reply.is_closed() => {}
                Command::Batch(tasks, reply) => {
                    if self.answer(self.batch(&tasks).await, reply).await {
                        return BY_STATEMENT.into();
                    }
                }
                Command::Savepoint(savepoint, reply) => {
                    let limit = self.settings.statement_time;
                    let result = match timeout(limit + super::GRACE, self.lease.nest(savepoint)).await {
                        Ok(result) => result.map_err(|failure| self.lease.explain(failure, None, limit)),
                        Err(_) => Err(silent(&self.lease)),
                    };
                    let failed = result.is_err();
                    if failed {
                        self.lease.roll_back().await;
                    }
                    let _ = reply.send(result);
                    if failed {
                        return "it was rolled back, for its savepoint failed".into();
                    }
                }
                Command::Commit(then, reply) => {
                    let limit = self.settings.statement_time;
                    let result = match timeout(limit + super::GRACE, self.lease.commit()).await {
                        Ok(result) => result.map_err(|failure| self.lease.explain(failure, None, limit)),
                        Err(_) => Err(silent(&self.lease)),
                    };
                    let reason = match &result {
                        Ok(()) => {
                            then.run();
                            "it was committed".into()
                        }
                        Err(error) => format!("it was rolled back, for its commit failed: {error}"),
                    };
                    let _ = reply.send(result);
                    return reason;
                }
                Command::Rollback(reply) => {
                    self.lease.roll_back().await;
                    let _ = reply.send(Ok(()));
                    return "it was rolled back".into();
                }
            }
        }
    }

    /// Answers with what a statement came to; returns whether the transaction is lost with it.
    async fn answer<A>(
        &self,
        (result, lost): (Result<A, Error>, bool),
        reply: oneshot::Sender<Result<A, Error>>,
    ) -> bool {
        if lost {
            self.lease.roll_back().await;
        }
        let _ = reply.send(result);
        lost
    }

    /// Runs a statement; also whether the transaction is lost with it.
    async fn run(&self, task: &Task, want: Want) -> (Result<Outcome, Error>, bool) {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let limit = self.settings.statement_time.min(left);
        let running = self.lease.run_in_savepoint(task, want, limit, &self.words);
        self.outcome(timeout(limit + super::GRACE, running).await, limit)
    }

    /// Runs statements, all or none; also whether the transaction is lost with them.
    async fn batch(&self, tasks: &[Task]) -> (Result<Vec<Outcome>, Error>, bool) {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let limit = self.settings.statement_time.min(left);
        let running = self.lease.run_all_in_savepoint(tasks, limit);
        self.outcome(timeout(left + super::GRACE, running).await, limit)
    }

    fn outcome<A>(&self, result: Result<Result<A, Failure>, Elapsed>, limit: Duration) -> (Result<A, Error>, bool) {
        let Ok(result) = result else { return (Err(silent(&self.lease)), true) };
        match result {
            Ok(outcome) => (Ok(outcome), !self.lease.is_sound()),
            Err(failure) => {
                let raced = matches!(&failure, Failure::Said(error) if lost_a_race(error));
                let error = self.lease.explain(failure, Some(self.deadline), limit);
                (Err(error), raced || !self.lease.is_sound())
            }
        }
    }
}
