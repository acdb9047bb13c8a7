//! A connection, and the few ways in which statements run on it.
//!
//! Statements are prepared once for each connection. What is known beforehand is sent in one piece without waiting for
//! the answers between (`BEGIN` with a batch and its `COMMIT`, a savepoint with its statement), so that a visit to the
//! database costs one round trip.

use super::{
    dialect::Text,
    error::{is_stale, is_timeout, translate},
    values::{Column, Param, Unfit, length},
};
use crate::store::{Authority, Error, Rows, Savepoint, Settings, Statement as Asked, Value};
use bytes::BytesMut;
use futures::{
    TryStreamExt,
    future::{MaybeDone, join_all, maybe_done},
    join, poll,
};
use lru::LruCache;
use std::{
    fmt,
    num::NonZeroUsize,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Duration, Instant},
};
use tokio_postgres::{Client, RowStream, Statement, types::ToSql};

/// Statements that a connection keeps prepared.
const PREPARED: NonZeroUsize = NonZeroUsize::new(128).unwrap();

/// What a row's value counts for beside its text or bytes.
const VALUE_BYTES: usize = size_of::<Value>();

/// Rows and bytes beyond the limit that are read and thrown away, so that the connection can be used on.
const DRAINED: usize = 16;

/// A connection to the server, logged in and set up.
pub(super) struct Connection {
    client: Client,
    prepared: Mutex<LruCache<(Authority, String), Statement>>,
    settings: Arc<Settings>,
    /// The server sent a frame that was too long.
    exceeded: Arc<AtomicBool>,
    /// Whether it can't be told what state it is in.
    broken: AtomicBool,
    /// Whether the last statement of the transaction has left its savepoint, to be released together with the next.
    saved: AtomicBool,
    /// Its place among the connections of the application.
    _place: OwnedSemaphorePermit,
}

/// A statement, read, and its values.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) text: Text,
    pub(super) params: Vec<Value>,
}

/// What is wanted of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    Rows,
    Count,
}

/// What came of a statement.
#[derive(Debug)]
pub(super) enum Outcome {
    Rows(Rows),
    Count(u64),
}

/// Why a statement failed.
#[derive(Debug)]
pub(super) enum Failure {
    Said(tokio_postgres::Error),
    Ours(Error),
}

/// What a service's connection needs to speak for the host within a transaction; see [`provision`](super::provision).
#[derive(Clone)]
pub(super) struct HostWords {
    pub(super) key: String,
    /// The schema of the host's tables, as SQL.
    pub(super) host: String,
    pub(super) host_path: String,
    pub(super) service_path: String,
}

impl fmt::Debug for HostWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the key.
        f.debug_tuple("HostWords").field(&self.host).finish()
    }
}

const SPEAK: &str = "SELECT set_config('search_path', $1, true), set_config('wharf.key', $2, true)";

// === impl Task ===

impl Task {
    /// Reads a statement and checks what can be checked without the database.
    pub(super) fn read(statement: Asked, authority: Authority, settings: &Settings) -> Result<Self, Error> {
        let text = Text::read(&statement.sql, authority, settings.max_sql_bytes)?;
        let (takes, given) = (text.parameters, statement.params.len());
        if takes != given {
            return Err(Error::Invalid(format!("the statement takes {takes} parameters, {given} were given")));
        }
        statement.params.iter().try_for_each(|value| super::values::check_length(value, settings.max_value_bytes))?;
        Ok(Self { text, params: statement.params })
    }

    /// Reads the statements of a service and then the host's own, which are to run on the service's connection in one
    /// transaction. What comes of the former comes first.
    pub(super) fn read_all(
        statements: Vec<Asked>,
        host: Vec<Asked>,
        words: &HostWords,
        settings: &Settings,
    ) -> Result<Vec<Self>, Error> {
        let read = |statement| Self::read(statement, Authority::Service, settings);
        let mut tasks = statements.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
        if !host.is_empty() {
            tasks.push(Self::speak(&words.host_path, &words.key));
            for statement in host {
                tasks.push(Self::read(statement, Authority::Host, settings)?);
            }
            tasks.push(Self::speak(&words.service_path, ""));
        }
        Ok(tasks)
    }

    /// From then on within the transaction, what is said is said with this key, about tables on this path.
    fn speak(path: &str, key: &str) -> Self {
        Self { text: Text::own(SPEAK), params: vec![Value::Text(path.into()), Value::Text(key.into())] }
    }
}

// === impl Failure ===

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Said(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Ours(error)
    }
}

// === impl Connection ===

impl Connection {
    pub(super) fn new(
        client: Client,
        settings: Arc<Settings>,
        exceeded: Arc<AtomicBool>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let prepared = Mutex::new(LruCache::new(PREPARED));
        let (broken, saved) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { client, prepared, settings, exceeded, broken, saved, _place: place }
    }

    /// Whether it can be used on.
    pub(super) fn is_sound(&self) -> bool {
        !self.client.is_closed() && !self.broken.load(Ordering::Relaxed)
    }

    /// Whether the server has gone, or sent it away.
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// It must not be used on.
    pub(super) fn give_up(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    /// Says something without parameters and without an answer, one statement or more.
    pub(super) async fn say(&self, words: &str) -> Result<(), Failure> {
        Ok(self.client.batch_execute(words).await?)
    }

    /// Runs a statement of the host's own.
    pub(super) async fn ask(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<tokio_postgres::Row>, Failure> {
        Ok(self.client.query(sql, params).await?)
    }

    /// Runs one statement as its own transaction.
    pub(super) async fn run(&self, task: &Task, want: Want) -> Result<Outcome, Failure> {
        let statement = self.prepare(&task.text).await?;
        match self.run_prepared(&statement, task, want).await {
            Err(Failure::Said(error)) if is_stale(&error) => {
                self.forget(&task.text);
                let statement = self.prepare(&task.text).await?;
                self.run_prepared(&statement, task, want).await
            }
            result => result,
        }
    }

    /// Runs statements in one transaction, all or none.
    pub(super) async fn run_all(&self, tasks: &[Task], want: Want) -> Result<Vec<Outcome>, Failure> {
        let together = match self.prepare_all(tasks).await {
            Some(statements) if want == Want::Count => {
                let fits = statements.iter().zip(tasks).try_for_each(|(statement, task)| fit(statement, &task.params));
                fits.map_err(Failure::Ours)?;
                self.together(&statements, tasks).await
            }
            // One of them may only be prepared after another has run, and rows may turn out to be too many.
            _ => self.one_by_one(tasks, want).await,
        };
        match together {
            Err(Failure::Said(error)) if is_stale(&error) => {
                tasks.iter().for_each(|task| self.forget(&task.text));
                self.one_by_one(tasks, want).await
            }
            result => result,
        }
    }

    /// Runs one statement within a transaction, which is lost if it fails.
    pub(super) async fn run_within(&self, task: &Task, want: Want) -> Result<Outcome, Failure> {
        let statement = self.prepare(&task.text).await?;
        self.run_prepared(&statement, task, want).await
    }

    async fn one_by_one(&self, tasks: &[Task], want: Want) -> Result<Vec<Outcome>, Failure> {
        self.say("BEGIN").await?;
        let mut outcomes = Vec::with_capacity(tasks.len());
        for task in tasks {
            match self.run_within(task, want).await {
                Ok(outcome) => outcomes.push(outcome),
                Err(failure) => {
                    self.roll_back().await;
                    return Err(failure);
                }
            }
        }
        self.commit().await?;
        Ok(outcomes)
    }

    /// All of it in one piece.
    ///
    /// NB: once a statement has failed, PostgreSQL takes no further one and makes a rollback of the commit. That holds
    /// only for those that reach it, so each was found to [`fit`] before.
    async fn together(&self, statements: &[Statement], tasks: &[Task]) -> Result<Vec<Outcome>, Failure> {
        let mut begin = sent(self.client.batch_execute("BEGIN")).await;
        let mut running = Vec::with_capacity(tasks.len());
        for (statement, task) in statements.iter().zip(tasks) {
            running.push(sent(self.run_prepared(statement, task, Want::Count)).await);
        }
        let mut commit = sent(self.client.batch_execute("COMMIT")).await;
        let (begun, outcomes, committed) = join!(
            done(begin.as_mut()),
            join_all(running.iter_mut().map(|it| done(it.as_mut()))),
            done(commit.as_mut())
        );
        begun?;
        let outcomes = outcomes.into_iter().collect::<Result<Vec<_>, _>>()?;
        committed?;
        Ok(outcomes)
    }

    /// Begins a transaction.
    pub(super) async fn begin(&self) -> Result<(), Failure> {
        self.saved.store(false, Ordering::Relaxed);
        self.say("BEGIN").await
    }

    /// Commits it; where that fails, nothing of it is left.
    pub(super) async fn commit(&self) -> Result<(), Failure> {
        let result = self.say("COMMIT").await;
        if result.is_err() {
            self.roll_back().await;
        }
        result
    }

    /// Rolls it back, if there is one.
    pub(super) async fn roll_back(&self) {
        if self.client.batch_execute("ROLLBACK").await.is_err() {
            self.give_up();
        }
    }

    /// Runs a statement within a transaction so that it leaves nothing behind when it fails. `words` are for those with
    /// the host's authority.
    pub(super) async fn run_in_savepoint(
        &self,
        task: &Task,
        want: Want,
        limit: Duration,
        words: &HostWords,
    ) -> Result<Outcome, Failure> {
        let mut result = self.attempt(task, want, limit, words).await;
        if let Err(Failure::Said(error)) = &result
            && is_stale(error)
        {
            self.undo().await;
            self.forget(&task.text);
            result = self.attempt(task, want, limit, words).await;
        }
        if result.is_err() {
            self.undo().await;
        }
        result
    }

    async fn attempt(&self, task: &Task, want: Want, limit: Duration, words: &HostWords) -> Result<Outcome, Failure> {
        let savepoint = self.savepoint_with(limit);
        if task.text.authority == Authority::Host {
            self.say(&savepoint).await?;
            self.speak(&words.host_path, &words.key).await?;
            let statement = self.prepare(&task.text).await?;
            let outcome = self.run_prepared(&statement, task, want).await?;
            self.speak(&words.service_path, "").await?;
            return Ok(outcome);
        }
        let outcome = match self.known(&task.text) {
            Some(statement) => {
                let (saved, outcome) =
                    join!(self.client.batch_execute(&savepoint), self.run_prepared(&statement, task, want));
                saved?;
                outcome?
            }
            None => {
                let (saved, statement) = join!(self.client.batch_execute(&savepoint), self.prepare(&task.text));
                saved?;
                self.run_prepared(&statement?, task, want).await?
            }
        };
        Ok(outcome)
    }

    /// Runs statements within a transaction so that they leave nothing behind when one of them fails, and returns what they
    /// changed.
    pub(super) async fn run_all_in_savepoint(&self, tasks: &[Task], limit: Duration) -> Result<Vec<Outcome>, Failure> {
        let mut result = self.attempt_all(tasks, limit).await;
        if let Err(Failure::Said(error)) = &result
            && is_stale(error)
        {
            self.undo().await;
            tasks.iter().for_each(|task| self.forget(&task.text));
            result = self.attempt_all(tasks, limit).await;
        }
        if result.is_err() {
            self.undo().await;
        }
        result
    }

    async fn attempt_all(&self, tasks: &[Task], limit: Duration) -> Result<Vec<Outcome>, Failure> {
        let savepoint = self.savepoint_with(limit);
        let known = tasks.iter().map(|task| self.known(&task.text)).collect::<Option<Vec<_>>>();
        if let Some(statements) = known
            && statements.iter().zip(tasks).all(|(statement, task)| fit(statement, &task.params).is_ok())
        {
            // In one piece; what comes after one that failed is not run by PostgreSQL.
            let mut saving = sent(self.client.batch_execute(&savepoint)).await;
            let mut running = Vec::with_capacity(tasks.len());
            for (statement, task) in statements.iter().zip(tasks) {
                running.push(sent(self.run_prepared(statement, task, Want::Count)).await);
            }
            let (saved, outcomes) =
                join!(done(saving.as_mut()), join_all(running.iter_mut().map(|it| done(it.as_mut()))));
            saved?;
            return outcomes.into_iter().collect();
        }
        self.say(&savepoint).await?;
        let mut outcomes = Vec::with_capacity(tasks.len());
        for task in tasks {
            outcomes.push(self.run_within(task, Want::Count).await?);
        }
        Ok(outcomes)
    }

    /// Sets the transaction's own savepoint, or ends it. Where that fails, the transaction is lost.
    pub(super) async fn nest(&self, savepoint: Savepoint) -> Result<(), Failure> {
        let saved = self.saved.swap(false, Ordering::Relaxed);
        let words = match savepoint {
            Savepoint::Set if saved => "RELEASE job; SAVEPOINT nested",
            Savepoint::Set => "SAVEPOINT nested",
            // With it goes what a statement has left in it.
            Savepoint::Keep => "RELEASE nested",
            Savepoint::Undo => "ROLLBACK TO nested; RELEASE nested",
        };
        self.say(words).await
    }

    /// Words that set the savepoint of a statement and how long it may run.
    fn savepoint_with(&self, limit: Duration) -> String {
        let limit = limit.as_millis().max(1);
        let before = if self.saved.swap(true, Ordering::Relaxed) { "RELEASE job; " } else { "" };
        format!("{before}SAVEPOINT job; SET LOCAL statement_timeout = {limit}")
    }

    /// From now on within the transaction, what is said is said with this key, about tables on this path.
    pub(super) async fn speak(&self, path: &str, key: &str) -> Result<(), Failure> {
        let speak = Text::own(SPEAK);
        let statement = self.prepare(&speak).await?;
        self.client.execute(&statement, &[&path, &key]).await?;
        Ok(())
    }

    async fn undo(&self) {
        self.saved.store(false, Ordering::Relaxed);
        if self.client.batch_execute("ROLLBACK TO job; RELEASE job").await.is_err() {
            self.give_up();
        }
    }

    /// The error in the words of the WIT, with the reason where a limit of the host is the cause.
    pub(super) fn explain(&self, failure: Failure, deadline: Option<Instant>, limit: Duration) -> Error {
        let error = match failure {
            Failure::Ours(error) => return error,
            Failure::Said(error) => error,
        };
        if self.exceeded.load(Ordering::Relaxed) {
            return Error::TooLarge(format!("a row has more than the {} bytes allowed", self.settings.max_bytes));
        }
        if is_timeout(&error) {
            return match deadline {
                Some(deadline) if deadline <= Instant::now() => {
                    Error::Closed("the statement was stopped at the time limit of its transaction".into())
                }
                _ => Error::TooLarge(format!("the statement was stopped: it ran longer than {limit:?}")),
            };
        }
        let translated = translate(&error);
        if let Error::Unavailable(reason) = &translated {
            tracing::warn!(reason, "a database could not be read or written");
        }
        translated
    }

    async fn run_prepared(&self, statement: &Statement, task: &Task, want: Want) -> Result<Outcome, Failure> {
        let params = task.params.iter().map(Param);
        let rows = self.client.query_raw(statement, params).await?;
        match want {
            Want::Rows => Ok(Outcome::Rows(self.collect(statement, rows).await?)),
            Want::Count => {
                let mut rows = std::pin::pin!(rows);
                while rows.try_next().await?.is_some() {}
                let counted = rows.rows_affected().unwrap_or(0);
                Ok(Outcome::Count(if task.text.counts { counted } else { 0 }))
            }
        }
    }

    async fn collect(&self, statement: &Statement, stream: RowStream) -> Result<Rows, Failure> {
        let (max_rows, max_bytes) = (self.settings.max_rows, self.settings.max_bytes);
        let mut stream = std::pin::pin!(stream);
        let columns: Vec<String> = statement.columns().iter().map(|column| column.name().to_owned()).collect();
        let mut rows = Vec::new();
        let mut bytes = 0;
        let mut failed = None;
        let mut read = 0;
        while let Some(row) = stream.try_next().await? {
            read += 1;
            if failed.is_some() {
                // What was sent already has to be taken; when there is no end to it, the connection ends.
                if read > max_rows.saturating_mul(DRAINED) {
                    self.give_up();
                    break;
                }
                continue;
            }
            if rows.len() == max_rows {
                failed = Some(Error::TooLarge(format!("the query yields more than {max_rows} rows")));
                continue;
            }
            let mut values = Vec::with_capacity(columns.len());
            for at in 0..columns.len() {
                match row.try_get::<_, Column>(at) {
                    Ok(Column(value)) => {
                        bytes += VALUE_BYTES + length(&value);
                        values.push(value);
                    }
                    Err(error) => {
                        let reason = std::error::Error::source(&error).map(ToString::to_string);
                        let reason = reason.unwrap_or_else(|| error.to_string());
                        let (column, row) = (at + 1, rows.len() + 1);
                        failed = Some(Error::Invalid(format!("column {column} of row {row} {reason}")));
                        break;
                    }
                }
            }
            if bytes > max_bytes {
                failed = Some(Error::TooLarge(format!("the query yields more than {max_bytes} bytes")));
            } else if failed.is_none() {
                rows.push(values);
            }
        }
        match failed {
            Some(error) => Err(Failure::Ours(error)),
            None => Ok(Rows { columns, rows }),
        }
    }

    async fn prepare(&self, text: &Text) -> Result<Statement, Failure> {
        if let Some(statement) = self.known(text) {
            return Ok(statement);
        }
        let statement = self.client.prepare(&text.sql).await?;
        self.remember(text, &statement);
        Ok(statement)
    }

    /// The statements, prepared; `None` where one can't be now.
    async fn prepare_all(&self, tasks: &[Task]) -> Option<Vec<Statement>> {
        let mut new: Vec<&Text> =
            tasks.iter().map(|task| &task.text).filter(|text| self.known(text).is_none()).collect();
        new.sort_by(|a, b| a.sql.cmp(&b.sql));
        new.dedup_by(|a, b| a.sql == b.sql);
        if new.len() > PREPARED.get() / 2 {
            return None;
        }
        for (text, statement) in new.iter().zip(join_all(new.iter().map(|text| self.client.prepare(&text.sql))).await) {
            self.remember(text, &statement.ok()?);
        }
        tasks.iter().map(|task| self.known(&task.text)).collect()
    }

    fn known(&self, text: &Text) -> Option<Statement> {
        self.prepared().get(&(text.authority, text.sql.clone())).cloned()
    }

    fn remember(&self, text: &Text, statement: &Statement) {
        self.prepared().put((text.authority, text.sql.clone()), statement.clone());
    }

    fn forget(&self, text: &Text) {
        self.prepared().pop(&(text.authority, text.sql.clone()));
    }

    fn prepared(&self) -> MutexGuard<'_, LruCache<(Authority, String), Statement>> {
        // No code that can panic runs under this lock, so a poisoned one is whole.
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the values go with a statement's parameters, so that it will be sent.
fn fit(statement: &Statement, params: &[Value]) -> Result<(), Error> {
    let mut scratch = BytesMut::new();
    for (value, ty) in params.iter().zip(statement.params()) {
        scratch.clear();
        if let Err(error) = Param(value).to_sql(ty, &mut scratch) {
            return Err(match error.downcast::<Unfit>() {
                Ok(unfit) => Error::Invalid(unfit.to_string()),
                Err(other) => Error::Invalid(other.to_string()),
            });
        }
    }
    Ok(())
}

/// Begins a request, so that it is on its way before those that are begun after it.
async fn sent<F: Future>(request: F) -> Pin<Box<MaybeDone<F>>> {
    let mut request = Box::pin(maybe_done(request));
    let _ = poll!(request.as_mut());
    request
}

/// The answer to a request.
async fn done<F: Future>(mut request: Pin<&mut MaybeDone<F>>) -> F::Output {
    request.as_mut().await;
    match request.take_output() {
        Some(output) => output,
        // It is taken once only.
        None => std::future::pending().await,
    }
}
