//! State: a relational database for each service, by `wharf:store`.
//!
//! A service can't tell what is behind its database: [`Database`] and [`Transaction`] are a closed set of backends
//! with the same promises, which one suite of tests holds all of them to. By default it is a SQLite file of its
//! own (`sqlite`); where the manifest names a server, a schema and a role of its own in PostgreSQL (`postgres`).
//!
//! Besides what a service says there is what the host says in the service's database: statements with the host's
//! authority, which keep books that have to be true together with the service's data.

pub(crate) mod binding;
mod committed;
mod ending;
mod error;
mod lease;
mod migration;
mod postgres;
mod sqlite;
mod unit;

pub use binding::{
    Constraint, Error, MIGRATIONS, OfCall, Rows, SqlCtx, SqlView, Statement, Value, add_to_linker, read_migrations,
};
pub(crate) use committed::{Committed, Then};
pub use error::OpenError;
pub(crate) use lease::Lease;
#[cfg(test)]
pub(crate) use lease::Turn;
pub use migration::{Applied, MigrateError, Migration};
pub use postgres::{Server, ServerSettings};
pub use unit::Unit;
pub(crate) use unit::{Access, Ended, Held};

use postgres::Postgres;
use sqlite::Sqlite;
use std::{
    fmt,
    path::{Path, PathBuf},
};
use tokio::time::Duration;

/// Tables whose names begin so are the host's: services may read them, not change them.
const HOST_TABLES: &str = "_wharf_";

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
    /// Queries that may run at once, in a file.
    pub readers: usize,
    /// The most connections to a server.
    pub connections: usize,
    /// Jobs that may wait for the writer, and queries that may wait for a reader.
    pub queue: usize,
    /// The most bytes of pages that a connection keeps in memory.
    pub cache_bytes: u64,
    /// Whether a commit is flushed to the disk before it is acknowledged, so that it survives a power failure.
    pub durable_at_power_loss: bool,
}

/// The database of one service. Clones are the same database; it is closed when the last is dropped.
#[derive(Clone)]
pub struct Database {
    backend: Backend,
    max_batch: usize,
    reads_only: bool,
}

#[derive(Clone)]
enum Backend {
    Sqlite(Sqlite),
    Postgres(Postgres),
}

/// Statements that take effect together or not at all.
///
/// It ends by [`commit`](Self::commit), by [`rollback`](Self::rollback), by its time limit, or when the last clone is
/// dropped, which rolls it back.
#[derive(Clone, Debug)]
pub struct Transaction {
    begun: Begun,
    then: Committed,
}

#[derive(Clone, Debug)]
enum Begun {
    Sqlite(sqlite::Transaction),
    Postgres(postgres::Transaction),
}

/// A point within a transaction, to go back to. There is one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Savepoint {
    /// Here it is.
    Set,
    /// What was done since stays, as part of the transaction.
    Keep,
    /// What was done since is undone.
    Undo,
}

/// Whose word a statement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Authority {
    /// A service's: it may do what a service may.
    Service,
    /// The host's own: it may also make and change tables whose names begin with [`HOST_TABLES`].
    Host,
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
            connections: 8,
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
        let max_batch = settings.max_batch;
        Ok(Self { backend: Backend::Sqlite(Sqlite::open(file, settings).await?), max_batch, reads_only: false })
    }

    /// Opens the database of a service on a server, and makes what it lacks. With `url`, as the role that this names and
    /// that is the service's own.
    ///
    /// # Errors
    /// When the server can't be reached, does not let us in, or has no safe place for the service.
    pub async fn on_server(
        server: &Server,
        service: &str,
        url: Option<&str>,
        settings: Settings,
    ) -> Result<Self, OpenError> {
        let max_batch = settings.max_batch;
        let postgres = Postgres::open(server, service, url, settings).await?;
        Ok(Self { backend: Backend::Postgres(postgres), max_batch, reads_only: false })
    }

    /// Logs in by the password of this URL, of a role that is the service's own, with the connections that are made from now
    /// on. `false`, and nothing is done, where the URL says something else too, or there is no such role.
    pub fn log_in_by(&self, url: &str) -> bool {
        match &self.backend {
            Backend::Sqlite(_) => false,
            Backend::Postgres(postgres) => postgres.log_in_by(url),
        }
    }

    /// Whether other hosts may have it open at the same time, and transactions may overlap: so it is on a server. In a
    /// file there is one writer, and one transaction after the other.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.backend, Backend::Postgres(_))
    }

    /// The same database for somebody who may not change it: of a service's statements only queries are run, and those
    /// that begin with `SELECT` or `VALUES`.
    pub fn read_only(&self) -> Self {
        Self { reads_only: true, ..self.clone() }
    }

    /// Runs one query and returns its rows. It may also be a statement that changes rows and returns some
    /// (`INSERT … RETURNING`).
    ///
    /// # Errors
    /// Those of `wharf:store/sql.error`, `closed` excepted.
    pub async fn query(&self, statement: Statement) -> Result<Rows, Error> {
        self.query_by(statement, Authority::Service).await
    }

    /// Runs one statement and returns how many rows it changed.
    ///
    /// # Errors
    /// Those of `wharf:store/sql.error`, `closed` excepted.
    pub async fn execute(&self, statement: Statement) -> Result<u64, Error> {
        self.execute_by(statement, Authority::Service).await
    }

    /// Runs statements in one transaction, all or none, and returns how many rows each changed.
    ///
    /// # Errors
    /// Those of `wharf:store/sql.error`, `closed` excepted.
    pub async fn batch(&self, statements: Vec<Statement>) -> Result<Vec<u64>, Error> {
        self.batch_by(statements, Authority::Service).await
    }

    /// As [`query`](Self::query), with the host's authority: for what the host keeps in tables of its own, whose names
    /// begin with `_wharf_`. In the dialect that the backends share, like a service's, and within the same limits.
    ///
    /// # Errors
    /// Those of `wharf:store/sql.error`, `closed` excepted.
    pub(crate) async fn host_query(&self, statement: Statement) -> Result<Rows, Error> {
        self.query_by(statement, Authority::Host).await
    }

    /// As [`execute`](Self::execute), with the host's authority; see [`host_query`](Self::host_query).
    ///
    /// # Errors
    /// Those of `wharf:store/sql.error`, `closed` excepted.
    pub(crate) async fn host_execute(&self, statement: Statement) -> Result<u64, Error> {
        self.execute_by(statement, Authority::Host).await
    }

    /// Runs a service's statements and then the host's own in one transaction, all or none, and returns how many rows each
    /// of the service's changed. What is in `then` is done when all of it is committed.
    ///
    /// # Errors
    /// Those of `wharf:store/sql.error`, `closed` excepted.
    pub(crate) async fn batch_then(
        &self,
        statements: Vec<Statement>,
        host: Vec<Statement>,
        then: Committed,
    ) -> Result<Vec<u64>, Error> {
        self.check_batch(statements.len() + host.len())?;
        match &self.backend {
            Backend::Sqlite(sqlite) => sqlite.batch_then(statements, host, then).await,
            Backend::Postgres(postgres) => postgres.batch_then(statements, host, then).await,
        }
    }

    /// As [`batch`](Self::batch), with the host's authority; see [`host_query`](Self::host_query).
    ///
    /// # Errors
    /// Those of `wharf:store/sql.error`, `closed` excepted.
    pub(crate) async fn host_batch(&self, statements: Vec<Statement>) -> Result<Vec<u64>, Error> {
        self.batch_by(statements, Authority::Host).await
    }

    /// Begins a transaction. Other writers wait until it ends.
    ///
    /// # Errors
    /// `busy` when too many wait already.
    pub async fn begin(&self) -> Result<Transaction, Error> {
        self.check_write(Authority::Service)?;
        let begun = match &self.backend {
            Backend::Sqlite(sqlite) => Begun::Sqlite(sqlite.begin().await?),
            Backend::Postgres(postgres) => Begun::Postgres(postgres.begin().await?),
        };
        Ok(Transaction { begun, then: Committed::default() })
    }

    /// Applies those migrations that the database has not yet, each in a transaction of its own.
    ///
    /// # Errors
    /// When the migrations are out of order, one was changed after it had been applied, the database has later ones,
    /// or a statement fails.
    pub async fn migrate(&self, migrations: &[Migration]) -> Result<Applied, MigrateError> {
        match &self.backend {
            Backend::Sqlite(sqlite) => sqlite.migrate(migrations).await,
            Backend::Postgres(postgres) => postgres.migrate(migrations).await,
        }
    }

    /// The names of the migrations that were applied, in their order: the first is that of version 1.
    ///
    /// # Errors
    /// When their record can't be read.
    pub async fn applied_migrations(&self) -> Result<Vec<String>, MigrateError> {
        // To a component that knows none, all of them are unknown, and nothing is done.
        match self.migrate(&[]).await {
            Ok(_) => Ok(Vec::new()),
            Err(MigrateError::Newer { unknown, .. }) => Ok(unknown),
            Err(error) => Err(error),
        }
    }

    /// Finishes what waits, takes nothing more, and closes it. Calls after this fail with `unavailable`.
    pub async fn close(&self) {
        match &self.backend {
            Backend::Sqlite(sqlite) => sqlite.close().await,
            Backend::Postgres(postgres) => postgres.close().await,
        }
    }

    async fn query_by(&self, statement: Statement, authority: Authority) -> Result<Rows, Error> {
        if !reads(&statement.sql) {
            self.check_write(authority)?;
        }
        match &self.backend {
            Backend::Sqlite(sqlite) => sqlite.query(statement, authority).await,
            Backend::Postgres(postgres) => postgres.query(statement, authority).await,
        }
    }

    async fn execute_by(&self, statement: Statement, authority: Authority) -> Result<u64, Error> {
        self.check_write(authority)?;
        match &self.backend {
            Backend::Sqlite(sqlite) => sqlite.execute(statement, authority).await,
            Backend::Postgres(postgres) => postgres.execute(statement, authority).await,
        }
    }

    async fn batch_by(&self, statements: Vec<Statement>, authority: Authority) -> Result<Vec<u64>, Error> {
        self.check_write(authority)?;
        self.check_batch(statements.len())?;
        match &self.backend {
            Backend::Sqlite(sqlite) => sqlite.batch(statements, authority).await,
            Backend::Postgres(postgres) => postgres.batch(statements, authority).await,
        }
    }

    fn check_write(&self, authority: Authority) -> Result<(), Error> {
        if self.reads_only && authority == Authority::Service {
            return Err(Error::Unavailable(
                "only queries are run here: this revision answers copies of requests".into(),
            ));
        }
        Ok(())
    }

    fn check_batch(&self, length: usize) -> Result<(), Error> {
        let limit = self.max_batch;
        if length > limit {
            return Err(Error::TooLarge(format!("a batch of {length} statements, more than {limit}")));
        }
        Ok(())
    }
}

/// Whether a statement can do nothing but read. Of those that begin otherwise, some can as well.
fn reads(sql: &str) -> bool {
    begins_with(sql, &["SELECT", "VALUES"])
}

/// Whether a statement's first word is one of these.
fn begins_with(sql: &str, words: &[&str]) -> bool {
    let sql = sql.trim_start();
    let first = sql.split(|character: char| !character.is_ascii_alphabetic()).next().unwrap_or_default();
    words.iter().any(|word| word.eq_ignore_ascii_case(first))
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.backend {
            Backend::Sqlite(sqlite) => f.debug_tuple("Database").field(&sqlite.file()).finish(),
            Backend::Postgres(postgres) => f.debug_tuple("Database").field(postgres).finish(),
        }
    }
}

// === impl Transaction ===

impl Transaction {
    /// Runs a query and returns its rows. What the transaction did is visible to it.
    ///
    /// # Errors
    /// As [`Database::query`], and `closed` once the transaction has ended.
    pub async fn query(&self, statement: Statement) -> Result<Rows, Error> {
        self.query_by(statement, Authority::Service).await
    }

    /// Runs a statement and returns how many rows it changed. One that fails changes nothing, and the transaction goes
    /// on, except where the database gives all of it up (`closed` from then on).
    ///
    /// # Errors
    /// As [`Database::execute`], and `closed` once the transaction has ended.
    pub async fn execute(&self, statement: Statement) -> Result<u64, Error> {
        self.execute_by(statement, Authority::Service).await
    }

    /// As [`query`](Self::query), with the host's authority; see [`Database::host_query`].
    ///
    /// # Errors
    /// As [`Database::query`], and `closed` once the transaction has ended.
    #[allow(dead_code, reason = "for capabilities that keep books beside a service's data")]
    pub(crate) async fn host_query(&self, statement: Statement) -> Result<Rows, Error> {
        self.query_by(statement, Authority::Host).await
    }

    /// As [`execute`](Self::execute), with the host's authority; see [`Database::host_query`].
    ///
    /// # Errors
    /// As [`Database::execute`], and `closed` once the transaction has ended.
    pub(crate) async fn host_execute(&self, statement: Statement) -> Result<u64, Error> {
        self.execute_by(statement, Authority::Host).await
    }

    /// Runs a service's statements and then the host's own, all or none, and returns how many rows each of the service's
    /// changed. Where one fails, none of them changes anything, and the transaction goes on.
    ///
    /// # Errors
    /// As [`Database::execute`], and `closed` once the transaction has ended.
    pub(crate) async fn batch(&self, statements: Vec<Statement>, host: Vec<Statement>) -> Result<Vec<u64>, Error> {
        match &self.begun {
            Begun::Sqlite(transaction) => transaction.batch(statements, host).await,
            Begun::Postgres(transaction) => transaction.batch(statements, host).await,
        }
    }

    /// Sets the transaction's savepoint, or ends it.
    ///
    /// # Errors
    /// `closed` once the transaction has ended.
    pub(crate) async fn savepoint(&self, savepoint: Savepoint) -> Result<(), Error> {
        match &self.begun {
            Begun::Sqlite(transaction) => transaction.savepoint(savepoint).await,
            Begun::Postgres(transaction) => transaction.savepoint(savepoint).await,
        }
    }

    /// What is done once it is committed.
    pub(crate) fn then(&self) -> &Committed {
        &self.then
    }

    /// Makes all of it durable and visible, and ends the transaction.
    ///
    /// # Errors
    /// `constraint` when a promise is broken that is checked only now; all of it is undone then. `closed` once the
    /// transaction has ended.
    pub async fn commit(&self) -> Result<(), Error> {
        match &self.begun {
            Begun::Sqlite(transaction) => transaction.commit(self.then.clone()).await,
            Begun::Postgres(transaction) => transaction.commit(self.then.clone()).await,
        }
    }

    /// Undoes all of it and ends the transaction.
    ///
    /// # Errors
    /// `closed` once the transaction has ended.
    pub async fn rollback(&self) -> Result<(), Error> {
        match &self.begun {
            Begun::Sqlite(transaction) => transaction.rollback().await?,
            Begun::Postgres(transaction) => transaction.rollback().await?,
        }
        self.then.truncate(0);
        Ok(())
    }

    async fn query_by(&self, statement: Statement, authority: Authority) -> Result<Rows, Error> {
        match &self.begun {
            Begun::Sqlite(transaction) => transaction.query(statement, authority).await,
            Begun::Postgres(transaction) => transaction.query(statement, authority).await,
        }
    }

    async fn execute_by(&self, statement: Statement, authority: Authority) -> Result<u64, Error> {
        match &self.begun {
            Begun::Sqlite(transaction) => transaction.execute(statement, authority).await,
            Begun::Postgres(transaction) => transaction.execute(statement, authority).await,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
