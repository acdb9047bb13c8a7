//! The databases of services on a PostgreSQL server: a schema for each, and a role that can open no other.
//!
//! Choices, and why:
//! - **A role for each service** that its connections log in as. PostgreSQL itself then keeps services apart, and what a
//!   service's SQL may be is a second fence (`guard`), not the only one. How roles and schemas are made: `provision`.
//! - **The same dialect.** What differs between the two databases in what both understand is put into PostgreSQL's
//!   words (`dialect`), so that a component runs on either.
//! - **Serializable transactions**, since with SQLite's one writer every transaction is. One that lost against another is
//!   `busy`; a single statement or a batch, which asks nobody in between, is tried again here.
//! - **A savepoint around each statement** of a transaction: one that fails changes nothing, and the transaction goes on.
//! - **What was begun runs to its end**, on a task of its own, also when nobody waits for it any more: a connection whose
//!   state nobody knows would have to be closed, and opening one is the dearest thing that there is here.
//! - **No trust in the server's answers' size**: see `stream`.

mod connection;
mod dialect;
mod error;
mod guard;
mod lexer;
mod login;
mod migration;
mod pool;
mod provision;
mod stream;
mod transaction;
mod values;

pub(super) use transaction::Transaction;

use super::{
    Authority, Committed, OpenError, Settings,
    binding::{Error, Rows, Statement},
    migration::{Applied, MigrateError, Migration},
};
use connection::{Connection, Failure, HostWords, Outcome, Task, Want};
use error::lost_a_race;
use guard::Verb;
use login::Login;
use migration::Migrating;
use pool::{Lease, Pool, Total};
use provision::{Names, Provisioned, Role, protect, provision};
use std::{
    collections::BTreeSet,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::time::{Duration, Instant, sleep, timeout};

/// How much longer than a statement's time limit, which the server keeps, to wait for its answer.
const GRACE: Duration = Duration::from_secs(2);

/// Between two tries of a statement that lost against another: drawn from zero to this.
const PAUSE: Duration = Duration::from_millis(20);

/// Connections of the host's own in each service's database.
const HOST_CONNECTIONS: usize = 2;

/// Where a PostgreSQL server is, and how much of it an application may use.
#[derive(Clone)]
pub struct ServerSettings {
    /// The application's name.
    pub app: String,
    /// Its URL. It may hold a password.
    pub url: String,
    /// A file with the certificates to trust, in place of the well-known ones.
    pub certificates: Option<PathBuf>,
    /// The most connections of the whole application.
    pub connections: usize,
}

/// A PostgreSQL server with the databases of an application's services.
#[derive(Clone)]
pub struct Server(Arc<ServerInner>);

struct ServerInner {
    settings: ServerSettings,
    login: Login,
    total: Arc<Total>,
    /// The roles of services that have a URL of their own.
    given: Mutex<BTreeSet<String>>,
}

/// The database of a service.
#[derive(Clone)]
pub(super) struct Postgres(Arc<Inner>);

struct Inner {
    names: Names,
    server: String,
    /// That of a role which is the service's own.
    own: Option<Login>,
    settings: Arc<Settings>,
    service: Pool,
    host: Pool,
    words: Arc<HostWords>,
}

/// The connection did not answer in time; it is given up.
fn silent(connection: &Connection) -> Error {
    connection.give_up();
    Error::Unavailable("the database does not answer".into())
}

// === impl Server ===

impl Server {
    /// Reads the URL; connects nowhere yet.
    ///
    /// # Errors
    /// When the URL is none, or the certificates can't be read.
    pub fn new(settings: ServerSettings) -> Result<Self, OpenError> {
        let login = Login::read(&settings.url, settings.certificates.as_deref())?;
        let total = Arc::new(Total::new(settings.connections));
        Ok(Self(Arc::new(ServerInner { settings, login, total, given: Mutex::default() })))
    }

    /// Logs in by the password of this URL, with the connections that are made from now on. `false`, and nothing is done, where
    /// the URL says something else too.
    pub fn log_in_by(&self, url: &str) -> bool {
        self.0.login.log_in_by(url)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Server").field(&format_args!("{}", self.0.login)).finish()
    }
}

// === impl Postgres ===

impl Postgres {
    /// Opens the database of a service, and makes what it lacks. `url`: the one of a role that is the service's own.
    pub(super) async fn open(
        server: &Server,
        service: &str,
        url: Option<&str>,
        settings: Settings,
    ) -> Result<Self, OpenError> {
        let ServerInner { settings: common, login, total, given } = &*server.0;
        let own = url.map(|url| Login::read(url, common.certificates.as_deref())).transpose()?;
        if let Some(own) = &own {
            let role = format!("{own} {} {}", own.database(), own.user());
            if !given.lock().unwrap_or_else(PoisonError::into_inner).insert(role) {
                return Err(OpenError::Shared { role: own.user().into() });
            }
        }
        let (owner, role) = own.as_ref().map_or((login, Role::Made), |own| (own, Role::Given));
        let names = Names::new(&common.app, service, owner.database());
        let settings = Arc::new(settings);
        let Provisioned { service, host, words } = provision(owner, role, &names, total, &settings).await?;
        let pool = |login, limit: usize| Pool::new(login, settings.clone(), total.clone(), limit.max(1));
        Ok(Self(Arc::new(Inner {
            names,
            server: owner.to_string(),
            own: own.clone(),
            service: pool(service, settings.connections),
            host: pool(host, HOST_CONNECTIONS),
            settings: settings.clone(),
            words: Arc::new(words),
        })))
    }

    /// Logs in by the password of this URL from now on, which is of the service's own role; see [`Server::log_in_by`].
    pub(super) fn log_in_by(&self, url: &str) -> bool {
        self.0.own.as_ref().is_some_and(|own| own.log_in_by(url))
    }

    pub(super) async fn query(&self, statement: Statement, authority: Authority) -> Result<Rows, Error> {
        let task = Task::read(statement, authority, &self.0.settings)?;
        // What changes rows and returns too many of them must not have changed any.
        let whole = task.text.verb != Verb::Read;
        match self.run(vec![task], Want::Rows, whole, authority).await?.pop() {
            Some(Outcome::Rows(rows)) => Ok(rows),
            _ => Ok(Rows { columns: Vec::new(), rows: Vec::new() }),
        }
    }

    pub(super) async fn execute(&self, statement: Statement, authority: Authority) -> Result<u64, Error> {
        let task = Task::read(statement, authority, &self.0.settings)?;
        Ok(counts(self.run(vec![task], Want::Count, false, authority).await?).pop().unwrap_or(0))
    }

    pub(super) async fn batch(&self, statements: Vec<Statement>, authority: Authority) -> Result<Vec<u64>, Error> {
        if statements.is_empty() {
            return Ok(Vec::new());
        }
        let read = |statement| Task::read(statement, authority, &self.0.settings);
        let tasks = statements.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Ok(counts(self.run(tasks, Want::Count, true, authority).await?))
    }

    /// Runs the statements of a service, then the host's own, in one transaction.
    pub(super) async fn batch_then(
        &self,
        statements: Vec<Statement>,
        host: Vec<Statement>,
        then: Committed,
    ) -> Result<Vec<u64>, Error> {
        let inner = &self.0;
        let number = statements.len();
        let tasks = Task::read_all(statements, host, &inner.words, &inner.settings)?;
        if tasks.is_empty() {
            then.run();
            return Ok(Vec::new());
        }
        let mut changed = counts(self.run_then(tasks, Want::Count, true, Authority::Service, then).await?);
        changed.truncate(number);
        Ok(changed)
    }

    pub(super) async fn begin(&self) -> Result<Transaction, Error> {
        let lease = self.0.service.take().await?;
        Transaction::begin(lease, self.0.words.clone(), self.0.settings.clone()).await
    }

    pub(super) async fn migrate(&self, migrations: &[Migration]) -> Result<Applied, MigrateError> {
        let lease = self.0.service.take().await.map_err(MigrateError::Refused)?;
        let (inner, migrations) = (self.0.clone(), migrations.to_vec());
        let migrating = tokio::spawn(async move {
            let migrating = Migrating {
                connection: &lease,
                settings: &inner.settings,
                words: &inner.words,
                schema: &inner.names.schema,
            };
            let result = migrating.apply(&migrations).await;
            // What it was set to is nothing for the calls that come next.
            lease.give_up();
            result
        });
        migrating.await.unwrap_or_else(|error| Err(MigrateError::Refused(Error::Unavailable(error.to_string()))))
    }

    /// Finishes what runs, takes nothing more, and closes the connections.
    pub(super) async fn close(&self) {
        self.0.service.close().await;
        self.0.host.close().await;
    }

    /// Runs statements, `whole` in one transaction, and again where they lost against others.
    async fn run(
        &self,
        tasks: Vec<Task>,
        want: Want,
        whole: bool,
        authority: Authority,
    ) -> Result<Vec<Outcome>, Error> {
        self.run_then(tasks, want, whole, authority, Committed::default()).await
    }

    /// As [`run`](Self::run), with what is done by the try that was committed, also where nobody waits for it any more.
    async fn run_then(
        &self,
        tasks: Vec<Task>,
        want: Want,
        whole: bool,
        authority: Authority,
        then: Committed,
    ) -> Result<Vec<Outcome>, Error> {
        let inner = &self.0;
        let (pool, limit) = match authority {
            Authority::Service => (&inner.service, inner.settings.statement_time),
            Authority::Host => (&inner.host, inner.settings.statement_time),
        };
        let reads = tasks.iter().all(|task| task.text.verb == Verb::Read);
        let tasks: Arc<[Task]> = tasks.into();
        let end = Instant::now() + limit;
        let mut anew = false;
        loop {
            let lease = if anew { pool.take_new().await? } else { pool.take().await? };
            let attempt =
                Attempt { lease, tasks: tasks.clone(), want, whole, inner: inner.clone(), then: then.clone() };
            let attempt = match tokio::spawn(attempt.run()).await {
                Ok(attempt) => attempt,
                Err(error) => return Err(Error::Unavailable(error.to_string())),
            };
            match attempt {
                Ok(outcomes) => return Ok(outcomes),
                Err(Failed { again: Again::Raced, .. }) if Instant::now() < end => {
                    sleep(PAUSE.mul_f32(fastrand::f32())).await
                }
                // It may have been cut while nobody used it. What reads can be asked twice.
                Err(Failed { again: Again::Cut, .. }) if reads && !anew => anew = true,
                Err(failed) => return Err(failed.error),
            }
        }
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.0.names.schema, self.0.server)
    }
}

fn counts(outcomes: Vec<Outcome>) -> Vec<u64> {
    let count = |outcome| match outcome {
        Outcome::Count(count) => count,
        Outcome::Rows(_) => 0,
    };
    outcomes.into_iter().map(count).collect()
}

/// One try.
struct Attempt {
    lease: Lease,
    tasks: Arc<[Task]>,
    want: Want,
    whole: bool,
    inner: Arc<Inner>,
    then: Committed,
}

/// Why a try failed, and what may be done about it.
struct Failed {
    error: Error,
    again: Again,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    /// It would fail again.
    No,
    /// It lost against another.
    Raced,
    /// The connection was gone.
    Cut,
}

// === impl Attempt ===

impl Attempt {
    async fn run(self) -> Result<Vec<Outcome>, Failed> {
        let limit = self.inner.settings.statement_time;
        let most = limit.max(self.inner.settings.transaction_time) + GRACE;
        let Ok(result) = timeout(most, self.run_on()).await else {
            return Err(Failed { error: silent(&self.lease), again: Again::No });
        };
        if result.is_ok() {
            self.then.run();
        }
        result.map_err(|failure| {
            let again = match &failure {
                Failure::Said(error) if lost_a_race(error) => Again::Raced,
                Failure::Said(_) if self.lease.is_closed() => Again::Cut,
                _ => Again::No,
            };
            Failed { error: self.lease.explain(failure, None, limit), again }
        })
    }

    async fn run_on(&self) -> Result<Vec<Outcome>, Failure> {
        let made = |task: &Task| task.text.authority == Authority::Host && task.text.verb == Verb::Define;
        match &self.tasks[..] {
            tasks if tasks.iter().any(made) => self.make(tasks).await,
            [task] if !self.whole => Ok(vec![self.lease.run(task, self.want).await?]),
            tasks => self.lease.run_all(tasks, self.want).await,
        }
    }

    /// Runs statements that make the host's tables, with what keeps these. Other hosts may be about to make the same.
    async fn make(&self, tasks: &[Task]) -> Result<Vec<Outcome>, Failure> {
        let (lease, host) = (&self.lease, &self.inner.names.host);
        // NB: not serializable, or it would not see what was made while it waited.
        lease.say("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
        let making = async {
            lease.ask("SELECT pg_advisory_xact_lock($1)", &[&self.inner.names.lock()]).await?;
            let mut outcomes = Vec::with_capacity(tasks.len());
            for task in tasks {
                outcomes.push(lease.run_within(task, self.want).await?);
            }
            protect(lease, host).await?;
            Ok(outcomes)
        };
        match making.await {
            Ok(outcomes) => lease.commit().await.map(|()| outcomes),
            Err(failure) => {
                lease.roll_back().await;
                Err(failure)
            }
        }
    }
}

#[cfg(test)]
mod tests;
