//! A transaction as its owner holds it.

use super::{
    job::{Job, job},
    session::Session,
};
use crate::store::{
    Authority, Committed, Error, Rows, Savepoint, Statement,
    ending::{COMMANDS, Ending, full},
};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use tokio::sync::oneshot;

/// A transaction; the writer serves nobody else until it ends.
#[derive(Clone, Debug)]
pub(in crate::store) struct Transaction {
    commands: SyncSender<Command>,
    ending: Ending,
}

/// What the owner of a transaction asks of the writer.
pub(super) enum Command {
    Run(Box<dyn Job>),
    Savepoint(Savepoint, oneshot::Sender<Result<(), Error>>),
    Commit(Committed, oneshot::Sender<Result<(), Error>>),
    Rollback(oneshot::Sender<Result<(), Error>>),
}

// === impl Transaction ===

impl Transaction {
    /// A transaction; its commands; and where the writer says how it ended.
    pub(super) fn new() -> (Self, Receiver<Command>, Ending) {
        let (commands, receiver) = mpsc::sync_channel(COMMANDS);
        let ending = Ending::default();
        (Self { commands, ending: ending.clone() }, receiver, ending)
    }

    pub(in crate::store) async fn query(&self, statement: Statement, authority: Authority) -> Result<Rows, Error> {
        self.run(move |session| session.query(&statement, authority)).await
    }

    pub(in crate::store) async fn execute(&self, statement: Statement, authority: Authority) -> Result<u64, Error> {
        self.run(move |session| session.execute(&statement, authority)).await
    }

    /// All statements or none: those of a service, then the host's own.
    pub(in crate::store) async fn batch(
        &self,
        statements: Vec<Statement>,
        host: Vec<Statement>,
    ) -> Result<Vec<u64>, Error> {
        self.run(move |session| session.batch(&statements, &host)).await
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

    async fn run<A, F>(&self, run: F) -> Result<A, Error>
    where
        A: Send + 'static,
        F: FnMut(&Session) -> Result<A, Error> + Send + 'static,
    {
        let (job, answer) = job(run);
        self.send(Command::Run(job), answer).await
    }

    async fn send<A>(&self, command: Command, answer: oneshot::Receiver<Result<A, Error>>) -> Result<A, Error> {
        match self.commands.try_send(command) {
            Ok(()) => answer.await.unwrap_or_else(|_| Err(self.ending.closed())),
            Err(TrySendError::Full(_)) => Err(full()),
            Err(TrySendError::Disconnected(_)) => Err(self.ending.closed()),
        }
    }
}
