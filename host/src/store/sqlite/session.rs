//! A session: one SQLite connection, fenced in.
//!
//! Whatever a service sends is run here, within limits that it can't lift: the guard decides what a statement may do,
//! SQLite's own limits how large it may be, the watch how long it may run, and the collector how much it may return.

use super::{
    bounded::is_bounded,
    configure::{COMPILED, configure},
    error::translate,
    guard::{Author, Guard},
    shape::Shape,
    watch::{STRIDE, Watch},
};
use crate::store::{Authority, Error, OpenError, Rows, Settings, Statement, Value};
use rusqlite::{
    Batch, Connection, OpenFlags,
    fallible_iterator::FallibleIterator,
    types::{ToSqlOutput, ValueRef},
};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    path::Path,
    sync::{Arc, atomic::Ordering},
};
use tokio::time::{Duration, Instant};

/// Statements whose shape a session remembers.
const REMEMBERED: usize = 4 * COMPILED;

/// A statement that needs no more strides than this is quick: it may run on an async thread.
const QUICK_STRIDES: u32 = 8;

/// A statement that takes longer than this is not quick, however few its instructions.
const QUICK_TIME: Duration = Duration::from_micros(300);

/// In a hurry: the most statements, and bytes of values for one of them.
const HURRY_STATEMENTS: u32 = 64;
const HURRY_BYTES: usize = 64 << 10;

/// What a row's value counts for beside its text or bytes.
const VALUE_BYTES: usize = size_of::<Value>();

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The one session of a database that changes it.
    Writer,
    /// One of several that only read.
    Reader,
}

pub(super) struct Session {
    connection: Connection,
    role: Role,
    guard: Guard,
    watch: Watch,
    settings: Arc<Settings>,
    /// The shapes of a service's statements.
    shapes: Shapes,
    /// The shapes of the host's own. Apart: that the host may run a statement must not tell that a service may.
    host_shapes: Shapes,
    /// When the transaction must end that the statements belong to.
    deadline: Cell<Option<Instant>>,
    pace: Pace,
}

/// Whether a session is in a hurry: it runs on an async thread then, and nothing that may take long.
#[derive(Default)]
struct Pace {
    hurries: Cell<bool>,
    /// How many statements there may be still.
    left: Cell<u32>,
    /// Something was not run for it.
    refused: Cell<bool>,
}

/// Shapes by the text of their statements.
type Shapes = RefCell<HashMap<Box<str>, Arc<Shape>>>;

// === impl Session ===

impl Session {
    /// Opens a connection to the database in `file`; a writer makes the file if there is none.
    pub(super) fn open(file: &Path, role: Role, settings: Arc<Settings>) -> Result<Self, OpenError> {
        let failed = |source| OpenError::File { file: file.to_owned(), source };
        let access = match role {
            Role::Writer => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
            Role::Reader => OpenFlags::SQLITE_OPEN_READ_ONLY,
        };
        let connection = Connection::open_with_flags(file, access | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(failed)?;
        connection.busy_timeout(settings.lock_wait).map_err(failed)?;
        if role == Role::Writer {
            let mode: String =
                connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0)).map_err(failed)?;
            if mode != "wal" {
                return Err(OpenError::Journal { file: file.to_owned(), mode });
            }
        }
        configure(&connection, role, &settings).map_err(failed)?;
        let guard = Guard::new();
        let watch = Watch::new();
        let (asked, looking) = (guard.clone(), watch.clone());
        connection
            .authorizer(Some(move |context: rusqlite::hooks::AuthContext<'_>| asked.authorize(context)))
            .map_err(failed)?;
        connection.progress_handler(STRIDE, Some(move || looking.look())).map_err(failed)?;
        if role == Role::Reader {
            // It may run on an async thread, where nobody waits for a lock.
            connection.busy_timeout(Duration::ZERO).map_err(failed)?;
        }
        guard.set(Author::Service);
        Ok(Self {
            connection,
            role,
            guard,
            watch,
            settings,
            shapes: Shapes::default(),
            host_shapes: Shapes::default(),
            deadline: Cell::new(None),
            pace: Pace::default(),
        })
    }

    /// Runs a query and returns its rows.
    pub(super) fn query(&self, statement: &Statement, authority: Authority) -> Result<Rows, Error> {
        let shape = self.shape_to_run(statement, authority)?;
        self.timed(&shape, || self.run(statement, &shape, authority, u32::MAX, |prepared| self.collect(prepared)))
    }

    /// Runs a query on an async thread: at once if it was quick the last time, and only as long as it is so again.
    /// `None` when it has to run elsewhere.
    pub(super) fn query_if_quick(&self, statement: &Statement, authority: Authority) -> Option<Result<Rows, Error>> {
        let shape = self.shapes(authority).borrow().get(statement.sql.as_str()).cloned()?;
        if !shape.quick.load(Ordering::Relaxed) {
            return None;
        }
        let run = || self.run(statement, &shape, authority, QUICK_STRIDES, |prepared| self.collect(prepared));
        let result = self.timed(&shape, run);
        if self.watch.stopped() || matches!(result, Err(Error::Busy(_))) {
            shape.quick.store(false, Ordering::Relaxed);
            return None;
        }
        Some(result)
    }

    /// Runs a statement and returns how many rows it changed.
    pub(super) fn execute(&self, statement: &Statement, authority: Authority) -> Result<u64, Error> {
        let shape = self.shape_to_run(statement, authority)?;
        let count = |prepared: &mut rusqlite::Statement<'_>| {
            let before = self.connection.total_changes();
            let mut rows = prepared.raw_query();
            while rows.next().map_err(|error| self.explain(&error))?.is_some() {}
            drop(rows);
            // SQLite leaves the last count as it was where a statement changes no rows by nature.
            Ok(if self.connection.total_changes() == before { 0 } else { self.connection.changes() })
        };
        let result = self.timed(&shape, || self.run(statement, &shape, authority, u32::MAX, count));
        if shape.reshapes {
            self.forget();
        }
        result
    }

    /// Runs the statements of a service, then the host's own, and returns how many rows each of the service's changed.
    pub(super) fn batch(&self, statements: &[Statement], host: &[Statement]) -> Result<Vec<u64>, Error> {
        let changed = statements.iter().map(|statement| self.execute(statement, Authority::Service));
        let changed = changed.collect::<Result<_, _>>()?;
        for statement in host {
            self.execute(statement, Authority::Host)?;
        }
        Ok(changed)
    }

    /// Whether the statement changes nothing.
    pub(super) fn reads(&self, sql: &str, authority: Authority) -> Result<bool, Error> {
        Ok(self.shape(sql, authority)?.reads)
    }

    /// The connection, for the host's own statements, to which neither guard nor watch applies.
    pub(super) fn as_host<R>(&self, run: impl FnOnce(&Connection) -> R) -> R {
        self.watch.pause();
        self.written_by(Author::Host, run)
    }

    /// From now on only what is surely short is run, and nobody waits for a lock: for an async thread.
    pub(super) fn hurry(&self) {
        self.pace.left.set(HURRY_STATEMENTS);
        self.pace.refused.set(false);
        if !self.pace.hurries.replace(true) {
            self.set_lock_wait(Duration::ZERO);
        }
    }

    /// From now on everything is run: for a thread that may block.
    pub(super) fn be_patient(&self) {
        self.pace.refused.set(false);
        if self.pace.hurries.replace(false) {
            self.set_lock_wait(self.settings.lock_wait);
        }
    }

    /// Whether something was not run since it is in a [`hurry`](Self::hurry).
    pub(super) fn was_refused(&self) -> bool {
        self.pace.refused.get()
    }

    fn set_lock_wait(&self, wait: Duration) {
        if let Err(error) = self.wait_for_locks(wait) {
            tracing::warn!(?error, "how long a database waits for a lock can't be set");
        }
    }

    /// Runs the statements of a migration; an error says which of them failed.
    pub(super) fn migrate(&self, sql: &str, limit: Duration) -> Result<(), (usize, Error)> {
        self.forget();
        self.watch.start(limit, u32::MAX);
        self.written_by(Author::Migration, |connection| {
            let mut statements = Batch::new(connection, sql);
            for number in 1.. {
                let run = || -> rusqlite::Result<bool> {
                    let Some(mut statement) = statements.next()? else { return Ok(false) };
                    let mut rows = statement.raw_query();
                    while rows.next()?.is_some() {}
                    Ok(true)
                };
                match { run }() {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => return Err((number, self.explain(&error))),
                }
            }
            Ok(())
        })
    }

    /// From now on statements must end by then, whatever time they have otherwise.
    pub(super) fn set_deadline(&self, deadline: Option<Instant>) {
        self.deadline.set(deadline);
    }

    /// Whether a transaction is under way.
    pub(super) fn in_transaction(&self) -> bool {
        !self.connection.is_autocommit()
    }

    /// How long to wait for a lock that another connection holds.
    pub(super) fn wait_for_locks(&self, wait: Duration) -> Result<(), Error> {
        self.connection.busy_timeout(wait).map_err(|error| translate(&error))
    }

    /// SQLite's error in the words of the WIT, with the reason where this session is the cause.
    pub(super) fn explain(&self, error: &rusqlite::Error) -> Error {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::AuthorizationForStatementDenied) => {
                Error::Invalid(self.guard.refusal().unwrap_or_else(|| error.to_string()))
            }
            Some(rusqlite::ErrorCode::OperationInterrupted)
                if self.deadline.get().is_some_and(|deadline| deadline <= Instant::now()) =>
            {
                Error::Closed("the statement was stopped at the time limit of its transaction".into())
            }
            Some(rusqlite::ErrorCode::OperationInterrupted) => {
                Error::TooLarge(format!("the statement was stopped: it ran longer than {:?}", self.limit()))
            }
            _ => {
                let translated = translate(error);
                if let Error::Unavailable(reason) = &translated {
                    tracing::warn!(file = self.connection.path(), reason, "a database could not be read or written");
                }
                translated
            }
        }
    }

    fn written_by<'s, R>(&'s self, author: Author, run: impl FnOnce(&'s Connection) -> R) -> R {
        let before = self.guard.set(author);
        let result = run(&self.connection);
        self.guard.set(before);
        result
    }

    /// How long a statement may run now.
    fn limit(&self) -> Duration {
        let limit = self.settings.statement_time;
        self.deadline.get().map_or(limit, |deadline| limit.min(deadline.saturating_duration_since(Instant::now())))
    }

    fn run<R>(
        &self,
        statement: &Statement,
        shape: &Shape,
        authority: Authority,
        strides: u32,
        step: impl FnOnce(&mut rusqlite::Statement<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        if statement.params.len() != shape.count {
            let (takes, given) = (shape.count, statement.params.len());
            return Err(Error::Invalid(format!("the statement takes {takes} parameters, {given} were given")));
        }
        self.watch.start(self.limit(), strides);
        // NB: around the steps too. SQLite compiles a statement anew when the schema has changed, and asks the guard again.
        self.written_by(authority.into(), |connection| {
            let mut prepared = connection.prepare_cached(&statement.sql).map_err(|error| self.explain(&error))?;
            for (index, &place) in shape.parameters.iter().enumerate() {
                prepared
                    .raw_bind_parameter(index + 1, borrow(&statement.params[place]))
                    .map_err(|error| self.explain(&error))?;
            }
            step(&mut prepared)
        })
    }

    fn collect(&self, prepared: &mut rusqlite::Statement<'_>) -> Result<Rows, Error> {
        let mut rows = Vec::new();
        let mut bytes = 0;
        let mut cursor = prepared.raw_query();
        while let Some(row) = cursor.next().map_err(|error| self.explain(&error))? {
            if rows.len() == self.settings.max_rows {
                return Err(Error::TooLarge(format!("the query yields more than {} rows", self.settings.max_rows)));
            }
            let width = row.as_ref().column_count();
            let mut values = Vec::with_capacity(width);
            for column in 0..width {
                let value = own(row.get_ref(column).map_err(|error| self.explain(&error))?).map_err(|()| {
                    Error::Invalid(format!(
                        "column {} of row {} holds text that is not UTF-8; CAST it AS BLOB to read it",
                        column + 1,
                        rows.len() + 1
                    ))
                })?;
                bytes += VALUE_BYTES
                    + match &value {
                        Value::Text(text) => text.len(),
                        Value::Blob(blob) => blob.len(),
                        _ => 0,
                    };
                values.push(value);
            }
            if bytes > self.settings.max_bytes {
                return Err(Error::TooLarge(format!("the query yields more than {} bytes", self.settings.max_bytes)));
            }
            rows.push(values);
        }
        drop(cursor);
        // After the rows: SQLite may have compiled the statement anew for a changed schema.
        let columns = prepared.column_names().into_iter().map(str::to_owned).collect();
        Ok(Rows { columns, rows })
    }

    fn shapes(&self, authority: Authority) -> &Shapes {
        match authority {
            Authority::Service => &self.shapes,
            Authority::Host => &self.host_shapes,
        }
    }

    /// Notes whether a statement is quick.
    fn timed<R>(&self, shape: &Shape, run: impl FnOnce() -> R) -> R {
        let began = Instant::now();
        let result = run();
        let quick = self.watch.strides() <= QUICK_STRIDES && began.elapsed() <= QUICK_TIME;
        shape.quick.store(quick, Ordering::Relaxed);
        result
    }

    /// The shape of a statement that is to be run now.
    fn shape_to_run(&self, statement: &Statement, authority: Authority) -> Result<Arc<Shape>, Error> {
        if !self.pace.hurries.get() {
            return self.shape(&statement.sql, authority);
        }
        let left = self.pace.left.get();
        self.pace.left.set(left.saturating_sub(1));
        let known = self.shapes(authority).borrow().get(statement.sql.as_str()).cloned();
        // The host knows of its own that they are short, where they were so.
        let short = |shape: &Arc<Shape>| {
            left > 0
                && shape.quick.load(Ordering::Relaxed)
                && (shape.bounded || (authority == Authority::Host && !shape.reshapes))
                && size(&statement.params) <= HURRY_BYTES
        };
        known.filter(short).ok_or_else(|| {
            self.pace.refused.set(true);
            Error::Busy("it takes longer than may be waited for here".into())
        })
    }

    /// Forgets what is known of statements: the schema they were compiled for has changed.
    fn forget(&self) {
        self.shapes.borrow_mut().clear();
        self.host_shapes.borrow_mut().clear();
    }

    fn shape(&self, sql: &str, authority: Authority) -> Result<Arc<Shape>, Error> {
        let shapes = self.shapes(authority);
        if let Some(shape) = shapes.borrow().get(sql) {
            return Ok(shape.clone());
        }
        let shape = Arc::new(self.written_by(authority.into(), |connection| self.inspect(connection, sql))?);
        let mut shapes = shapes.borrow_mut();
        if shapes.len() >= REMEMBERED {
            // A service that builds its SQL by hand; whoever uses parameters never gets here.
            shapes.clear();
        }
        shapes.insert(sql.into(), shape.clone());
        Ok(shape)
    }

    fn inspect(&self, connection: &Connection, sql: &str) -> Result<Shape, Error> {
        if sql.len() > self.settings.max_sql_bytes {
            return Err(Error::TooLarge(format!("the statement is longer than {} bytes", self.settings.max_sql_bytes)));
        }
        if sql.contains('\0') {
            return Err(Error::Invalid("the statement contains a NUL character".into()));
        }
        self.watch.start(self.limit(), u32::MAX);
        // NB: not `prepare`, which recurses into each further statement of the text, as deep as a guest likes.
        let mut statements = Batch::new(connection, sql);
        let Some(first) = statements.next().map_err(|error| self.explain(&error))? else {
            return Err(Error::Invalid("the statement is empty".into()));
        };
        if !matches!(statements.next(), Ok(None)) {
            return Err(Error::Invalid("more than one statement: send them one by one, or as a batch".into()));
        }
        // Where it can't be told it is not. Readers go by how long it took.
        let is_bounded = || self.written_by(Author::Host, |connection| is_bounded(connection, sql)).unwrap_or_default();
        Shape::of(&first, sql, || self.role == Role::Writer && is_bounded())
    }
}

fn size(values: &[Value]) -> usize {
    let size = |value: &Value| match value {
        Value::Text(text) => text.len(),
        Value::Blob(blob) => blob.len(),
        Value::Null | Value::Integer(_) | Value::Real(_) => 0,
    };
    values.iter().map(size).sum()
}

fn borrow(value: &Value) -> ToSqlOutput<'_> {
    ToSqlOutput::Borrowed(match value {
        Value::Null => ValueRef::Null,
        Value::Integer(integer) => ValueRef::Integer(*integer),
        Value::Real(real) => ValueRef::Real(*real),
        Value::Text(text) => ValueRef::Text(text.as_bytes()),
        Value::Blob(blob) => ValueRef::Blob(blob),
    })
}

fn own(value: ValueRef<'_>) -> Result<Value, ()> {
    Ok(match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(integer) => Value::Integer(integer),
        ValueRef::Real(real) => Value::Real(real),
        ValueRef::Text(text) => Value::Text(str::from_utf8(text).map_err(|_| ())?.to_owned()),
        ValueRef::Blob(blob) => Value::Blob(blob.to_vec()),
    })
}
