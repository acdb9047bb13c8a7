//! The database of a service in a file of its own, by SQLite.
//!
//! One file with a write-ahead log, one session that writes and a few that read. Readers never wait for the
//! writer nor it for them, and a query sees every write that was acknowledged before it began.
//!
//! Choices, and why:
//! - **One writer, in turns, and group commit.** SQLite has one writer at a time anyway. Turns before it replace lock
//!   errors by waiting in order, bounded, and let one commit serve all that wait.
//! - **What is short stays on the async thread**: a query under a budget of instructions that it has to earn by having been
//!   quick before, and a write whose compiled form can do only little, commit included. Everything else runs where it may
//!   block.
//! - **Acknowledged means it survives the process**, also `kill -9`. That it survives a power failure too costs a disk
//!   flush for each commit and is a setting ([`Settings::durable_at_power_loss`]); without it the last commits may be
//!   lost then, but the database is whole.
//! - **Spilling to disk, not to memory.** A sort that outgrows its cache goes to a temporary file: a query that a
//!   service gets wrong must not take the memory of its neighbours.

mod bounded;
mod configure;
mod error;
mod guard;
mod job;
mod migration;
mod readers;
mod session;
mod shape;
mod transaction;
mod turns;
mod watch;
mod writer;

pub(super) use transaction::Transaction;

use super::{
    Authority, Committed, OpenError, Settings, begins_with,
    binding::{Error, Rows, Statement},
    migration::{Applied, MigrateError, Migration},
};
use job::{Job, job, job_then};
use readers::{Read, Readers};
use session::Session;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::task;
use turns::{Refused, Turns};
use writer::Writer;

/// A database in a file. Clones are the same database; it is closed when the last is dropped.
#[derive(Clone)]
pub(super) struct Sqlite(Arc<Inner>);

struct Inner {
    file: PathBuf,
    settings: Arc<Settings>,
    readers: Readers,
    turns: Turns,
}

// === impl Sqlite ===

impl Sqlite {
    /// Opens the database in a file, and makes it if there is none.
    pub(super) async fn open(file: PathBuf, settings: Settings) -> Result<Self, OpenError> {
        let file = in_folder(file)?;
        let settings = Arc::new(settings);
        let opened = task::spawn_blocking({
            let (file, settings) = (file.clone(), settings.clone());
            move || Writer::open(&file, settings)
        });
        let ended = |error: task::JoinError| OpenError::Thread { file: file.clone(), source: error.into() };
        let turns = Turns::new(opened.await.map_err(ended)??, settings.queue);
        let readers = Readers::new(file.clone(), settings.clone());
        Ok(Self(Arc::new(Inner { file, settings, readers, turns })))
    }

    /// The file that it is in.
    pub(super) fn file(&self) -> &Path {
        &self.0.file
    }

    pub(super) async fn query(&self, statement: Statement, authority: Authority) -> Result<Rows, Error> {
        let statement = if begins_as_query(&statement.sql) {
            match self.0.readers.read(statement, authority).await {
                Read::Done(result) => return result,
                Read::Writes(statement) => statement,
            }
        } else {
            statement
        };
        self.write(move |session| session.query(&statement, authority)).await
    }

    pub(super) async fn execute(&self, statement: Statement, authority: Authority) -> Result<u64, Error> {
        self.write(move |session| session.execute(&statement, authority)).await
    }

    pub(super) async fn batch(&self, statements: Vec<Statement>, authority: Authority) -> Result<Vec<u64>, Error> {
        let run =
            move |session: &Session| statements.iter().map(|statement| session.execute(statement, authority)).collect();
        self.write(run).await
    }

    /// Runs the statements of a service, then the host's own, in one transaction.
    pub(super) async fn batch_then(
        &self,
        statements: Vec<Statement>,
        host: Vec<Statement>,
        then: Committed,
    ) -> Result<Vec<u64>, Error> {
        let (job, answer) = job_then(move |session: &Session| session.batch(&statements, &host), Some(then));
        self.enqueue(job)?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Begins a transaction. Other writers wait until it ends.
    pub(super) async fn begin(&self) -> Result<Transaction, Error> {
        Transaction::begin(&self.0.turns, self.0.settings.clone()).await
    }

    pub(super) async fn migrate(&self, migrations: &[Migration]) -> Result<Applied, MigrateError> {
        let mut turn =
            self.0.turns.take().await.map_err(|why| MigrateError::Refused(refused(why, &self.0.settings)))?;
        let migrations = migrations.to_vec();
        let migrating = task::spawn_blocking(move || turn.writer().migrate(&migrations));
        migrating.await.unwrap_or_else(|_| Err(MigrateError::Refused(closed())))
    }

    /// Finishes what waits, takes nothing more, and closes the file, its log copied into it.
    pub(super) async fn close(&self) {
        // NB: the readers first. SQLite copies and removes the log when the last connection goes, and only the writer's
        // can do it.
        self.0.readers.close().await;
        if let Some(writer) = self.0.turns.close().await
            && task::spawn_blocking(move || drop(writer)).await.is_err()
        {
            tracing::error!(file = %self.0.file.display(), "a database was not closed as it should be");
        }
    }

    async fn write<A, F>(&self, run: F) -> Result<A, Error>
    where
        A: Send + 'static,
        F: FnMut(&Session) -> Result<A, Error> + Send + 'static,
    {
        let (job, answer) = job(run);
        self.enqueue(job)?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    fn enqueue(&self, job: Box<dyn Job>) -> Result<(), Error> {
        self.0.turns.write(job).map_err(|why| refused(why, &self.0.settings))
    }
}

/// Why somebody has no turn.
fn refused(refused: Refused, settings: &Settings) -> Error {
    match refused {
        Refused::Full => Error::Busy(format!("{} jobs are waiting for this database already", settings.queue)),
        Refused::Closed => closed(),
    }
}

fn closed() -> Error {
    Error::Unavailable("the database is closed".into())
}

/// The file's absolute path, its folder made where it was missing.
fn in_folder(file: PathBuf) -> Result<PathBuf, OpenError> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = |source| OpenError::Folder { folder: folder.to_owned(), source };
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder).map_err(failed)?;
    // NB: absolute, so that SQLite can't take a name that begins with `file:` for a URI.
    let folder = folder.canonicalize().map_err(failed)?;
    Ok(folder.join(file.file_name().unwrap_or_default()))
}

/// Whether the text looks like a query: it spares those that surely change something a visit to a reader.
fn begins_as_query(sql: &str) -> bool {
    !begins_with(sql, &["INSERT", "UPDATE", "DELETE", "REPLACE"])
}

#[cfg(test)]
mod tests;
