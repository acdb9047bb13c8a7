//! A transaction as its owner holds it.

use super::{
    binding::{Error, Rows, Statement},
    job::{Job, job},
    session::Session,
};
use std::sync::{
    Arc, OnceLock,
    mpsc::{self, Receiver, SyncSender, TrySendError},
};
use tokio::sync::oneshot;

/// Commands that may wait in one transaction.
const COMMANDS: usize = 16;

/// Statements that take effect together or not at all.
///
/// The writer serves nobody else until it ends: by [`commit`](Self::commit), by [`rollback`](Self::rollback), by its
/// time limit, or when the last clone is dropped, which rolls it back.
#[derive(Clone, Debug)]
pub struct Transaction {
    commands: SyncSender<Command>,
    ended: Arc<OnceLock<String>>,
}

/// What the owner of a transaction asks of the writer.
pub(super) enum Command {
    Run(Box<dyn Job>),
    Commit(oneshot::Sender<Result<(), Error>>),
    Rollback(oneshot::Sender<Result<(), Error>>),
}

// === impl Transaction ===

impl Transaction {
    /// A transaction; its commands; and where the writer says how it ended.
    pub(super) fn new() -> (Self, Receiver<Command>, Arc<OnceLock<String>>) {
        let (commands, receiver) = mpsc::sync_channel(COMMANDS);
        let ended = Arc::<OnceLock<String>>::default();
        (Self { commands, ended: ended.clone() }, receiver, ended)
    }

    /// Runs a query and returns its rows. What the transaction did is visible to it.
    ///
    /// # Errors
    /// As [`Database::query`](super::Database::query), and `closed` once the transaction has ended.
    pub async fn query(&self, statement: Statement) -> Result<Rows, Error> {
        self.run(move |session| session.query(&statement)).await
    }

    /// Runs a statement and returns how many rows it changed. One that fails changes nothing, and the transaction goes
    /// on, except where SQLite gives all of it up (`closed` from then on).
    ///
    /// # Errors
    /// As [`Database::execute`](super::Database::execute), and `closed` once the transaction has ended.
    pub async fn execute(&self, statement: Statement) -> Result<u64, Error> {
        self.run(move |session| session.execute(&statement)).await
    }

    /// Makes all of it durable and visible, and ends the transaction.
    ///
    /// # Errors
    /// `constraint` when a promise is broken that is checked only now; all of it is undone then. `closed` once the
    /// transaction has ended.
    pub async fn commit(&self) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Commit(reply), answer).await
    }

    /// Undoes all of it and ends the transaction.
    ///
    /// # Errors
    /// `closed` once the transaction has ended.
    pub async fn rollback(&self) -> Result<(), Error> {
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
            Ok(()) => answer.await.unwrap_or_else(|_| Err(self.closed())),
            Err(TrySendError::Full(_)) => {
                Err(Error::Busy(format!("{COMMANDS} statements of this transaction are waiting already")))
            }
            Err(TrySendError::Disconnected(_)) => Err(self.closed()),
        }
    }

    fn closed(&self) -> Error {
        let reason = self.ended.get().map_or("the database was closed", String::as_str);
        Error::Closed(format!("the transaction has ended: {reason}"))
    }
}
