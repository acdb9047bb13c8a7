//! State: a relational database for each service, by `wharf:store`.
//!
//! A database is one SQLite file with a write-ahead log, one thread that writes and a few sessions that read. Readers
//! never wait for the writer nor it for them, and a query sees every write that was acknowledged before it began.
//!
//! Choices, and why:
//! - **One writer thread, group commit.** SQLite has one writer at a time anyway. A queue before it replaces lock
//!   errors by waiting in order, bounded, and lets one commit serve all that wait.
//! - **Quick reads stay on the async thread**, under a budget of instructions that a statement
//!   has to earn by having been quick before. Everything else runs
//!   where it may block.
//! - **Acknowledged means it survives the process**, also `kill -9`. That it survives a power failure too costs a disk
//!   flush for each commit and is a setting ([`Settings::durable_at_power_loss`]); without it the last commits may be
//!   lost then, but the database is whole.
//! - **Spilling to disk, not to memory.** A sort that outgrows its cache goes to a temporary file: a query that a
//!   service gets wrong must not take the memory of its neighbours.

mod binding;
mod configure;
mod error;
mod guard;
mod job;
mod migration;
mod queue;
mod readers;
mod session;
mod transaction;
mod watch;
mod writer;

pub use binding::{
    Constraint, Error, MIGRATIONS, Rows, SqlCtx, SqlView, Statement, Value, add_to_linker, read_migrations,
};
pub use error::OpenError;
pub use migration::{Applied, MigrateError, Migration};
pub use transaction::Transaction;

use job::job;
use queue::{Queue, Refused};
use readers::{Read, Readers};
use session::Session;
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};
use tokio::{sync::oneshot, time::Duration};
use writer::Work;

/// What a database may take. The defaults suit a service among others on a small machine.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The most rows that a query may return.
    pub max_rows: usize,
    /// The most bytes that a query may return.
    pub max_bytes: usize,
    /// The most bytes of one value.
    pub max_value_bytes: usize,
    /// The most bytes of a statement's text.
    pub max_sql_bytes: usize,
    /// The most statements in a batch.
    pub max_batch: usize,
    /// The most bytes of a migration's text.
    pub max_migration_bytes: usize,
    /// The most bytes of the database's file.
    pub max_file_bytes: u64,
    /// How long a statement may run.
    pub statement_time: Duration,
    /// How long a transaction may stay open.
    pub transaction_time: Duration,
    /// How long all statements of a migration may run.
    pub migration_time: Duration,
    /// How long to wait for a lock that another process holds.
    pub lock_wait: Duration,
    /// Queries that may run at once.
    pub readers: usize,
    /// Jobs that may wait for the writer, and queries that may wait for a reader.
    pub queue: usize,
    /// The most bytes of pages that a connection keeps in memory.
    pub cache_bytes: u64,
    /// Whether a commit is flushed to the disk before it is acknowledged, so that it survives a power failure.
    pub durable_at_power_loss: bool,
}

/// The database of one service. Clones are the same database; it is closed when the last is dropped.
#[derive(Clone)]
pub struct Database(Arc<Inner>);

struct Inner {
    file: PathBuf,
    settings: Arc<Settings>,
    readers: Readers,
    queue: Arc<Queue<Work>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_rows: 10_000,
            max_bytes: 8 << 20,
            max_value_bytes: 4 << 20,
            max_sql_bytes: 64 << 10,
            max_batch: 1_000,
            max_migration_bytes: 1 << 20,
            max_file_bytes: 4 << 30,
            statement_time: Duration::from_secs(5),
            transaction_time: Duration::from_secs(5),
            migration_time: Duration::from_secs(60),
            lock_wait: Duration::from_secs(1),
            readers: 4,
            queue: 1_024,
            cache_bytes: 4 << 20,
            durable_at_power_loss: false,
        }
    }
}

// === impl Database ===

impl Database {
    /// Opens the database of a service, `<data>/db/<service>.sqlite`, and makes it if there is none.
    ///
    /// # Errors
    /// When the name can't be a file's, or the folder or the file can't be made or opened.
    pub async fn of_service(data: &Path, service: &str, settings: Settings) -> Result<Self, OpenError> {
        let named = service.starts_with(|first: char| first.is_ascii_lowercase())
            && service.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if !named {
            return Err(OpenError::Name(service.into()));
        }
        Self::open(data.join("db").join(format!("{service}.sqlite")), settings).await
    }

    /// Opens the database in a file, and makes it if there is none.
    ///
    /// # Errors
    /// When its folder or the file can't be made or opened.
    pub async fn open(file: PathBuf, settings: Settings) -> Result<Self, OpenError> {
        let file = in_folder(file)?;
        let settings = Arc::new(settings);
        let queue = Arc::new(Queue::new(settings.queue));
        let thread = writer::start(file.clone(), settings.clone(), queue.clone()).await?;
        let readers = Readers::new(file.clone(), settings.clone());
        Ok(Self(Arc::new(Inner { file, settings, readers, queue, thread: Mutex::new(Some(thread)) })))
    }

    /// The file that it is in.
    pub fn file(&self) -> &Path {
        &self.0.file
    }

    /// Runs one query and returns its rows. It may also be a statement that changes rows and returns some
    /// (`INSERT … RETURNING`).
    ///
    /// # Errors
    /// Those of `wharf:store/sql.error`, `closed` excepted.
    pub async fn query(&self, statement: Statement) -> Result<Rows, Error> {
        let statement = if begins_as_query(&statement.sql) {
            match self.0.readers.read(statement).await {
                Read::Done(result) => return result,
                Read::Writes(statement) => statement,
            }
        } else {
            statement
        };
        self.write(move |session| session.query(&statement)).await
    }

    /// Runs one statement and returns how many rows it changed.
    ///
    /// # Errors
    /// Those of `wharf:store/sql.error`, `closed` excepted.
    pub async fn execute(&self, statement: Statement) -> Result<u64, Error> {
        self.write(move |session| session.execute(&statement)).await
    }

    /// Runs statements in one transaction, all or none, and returns how many rows each changed.
    ///
    /// # Errors
    /// Those of `wharf:store/sql.error`, `closed` excepted.
    pub async fn batch(&self, statements: Vec<Statement>) -> Result<Vec<u64>, Error> {
        let limit = self.0.settings.max_batch;
        if statements.len() > limit {
            return Err(Error::TooLarge(format!("a batch of {} statements, more than {limit}", statements.len())));
        }
        self.write(move |session| statements.iter().map(|statement| session.execute(statement)).collect()).await
    }

    /// Begins a transaction. Other writers wait until it ends.
    ///
    /// # Errors
    /// `busy` when too many wait already.
    pub async fn begin(&self) -> Result<Transaction, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(Work::Begin(reply))?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Applies those migrations that the database has not yet, each in a transaction of its own.
    ///
    /// # Errors
    /// When the migrations are out of order, one was changed after it had been applied, the database has later ones,
    /// or a statement fails.
    pub async fn migrate(&self, migrations: &[Migration]) -> Result<Applied, MigrateError> {
        let (reply, answer) = oneshot::channel();
        self.send(Work::Migrate(migrations.to_vec(), reply)).map_err(MigrateError::Refused)?;
        answer.await.unwrap_or_else(|_| Err(MigrateError::Refused(closed())))
    }

    /// Finishes what waits, takes nothing more, and closes the file, its log copied into it. Calls after this fail
    /// with `unavailable`.
    pub async fn close(&self) {
        // NB: the readers first. SQLite copies and removes the log when the last connection goes, and only the writer's
        // can do it; with its queue closed it may be gone at once.
        self.0.readers.close().await;
        self.0.queue.close();
        let thread = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && !matches!(tokio::task::spawn_blocking(move || thread.join()).await, Ok(Ok(())))
        {
            tracing::error!(file = %self.0.file.display(), "the writer of a database ended by a panic");
        }
    }

    async fn write<A, F>(&self, run: F) -> Result<A, Error>
    where
        A: Send + 'static,
        F: FnMut(&Session) -> Result<A, Error> + Send + 'static,
    {
        let (job, answer) = job(run);
        self.send(Work::Write(job))?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    fn send(&self, work: Work) -> Result<(), Error> {
        self.0.queue.push(work).map_err(|refused| match refused {
            Refused::Full => {
                Error::Busy(format!("{} jobs are waiting for this database already", self.0.settings.queue))
            }
            Refused::Closed => closed(),
        })
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Database").field(&self.0.file).finish()
    }
}

// === impl Inner ===

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue.close();
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
    let word = sql.trim_start();
    let word = word.split(|character: char| !character.is_ascii_alphabetic()).next().unwrap_or_default();
    !["INSERT", "UPDATE", "DELETE", "REPLACE"].iter().any(|other| word.eq_ignore_ascii_case(other))
}

#[cfg(test)]
mod tests;
