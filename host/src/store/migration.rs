//! Migrations: the schema of a service, step by step, as its component knows it.
//!
//! What was applied is recorded in the database itself, with a digest, in the transaction that applied it: a crash
//! between two steps leaves a schema that is exactly one of those that the service's authors have seen.
//!
//! Foreign keys are checked at the end of each step and not within it: SQLite can change most of a table's definition
//! only by building a new table and dropping the old one, to which others refer.

use super::{Settings, binding::Error, session::Session};
use rusqlite::{Connection, OptionalExtension};
use sha2::{Digest, Sha256};
use thiserror::Error as ThisError;
use wasmtime::component::{ComponentType, Lift, Lower};

/// Where the applied migrations are recorded.
pub(super) const TABLE: &str = "CREATE TABLE IF NOT EXISTS _wharf_migrations (
    version INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    applied_at TEXT NOT NULL
) STRICT";

/// One step of a schema: `wharf:store/migrations.migration`.
#[derive(Clone, Debug, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(record)]
pub struct Migration {
    /// Counted up from 1 without gaps.
    pub version: u32,
    /// What it does, for people.
    pub name: String,
    /// SQL, one or more statements.
    pub sql: String,
}

/// What [`Database::migrate`](super::Database::migrate) did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The version of the schema before; 0 for an empty database.
    pub from: u32,
    /// The version of the schema now.
    pub to: u32,
}

/// The schema could not be brought up to date. Steps before the one that failed stay applied.
#[derive(Clone, Debug, PartialEq, ThisError)]
pub enum MigrateError {
    /// The component's migrations are not counted 1, 2, 3, …
    #[error(
        "migration {found} (`{name}`) stands where version {expected} was expected; versions count up from 1 without \
         gaps or repetitions"
    )]
    Order {
        /// The version that should stand there.
        expected: u32,
        /// The version that stands there.
        found: u32,
        /// Its name.
        name: String,
    },
    /// A migration is longer than the limit.
    #[error("migration {version} (`{name}`) has {bytes} bytes of SQL, more than the {limit} allowed")]
    TooLong {
        /// Its version.
        version: u32,
        /// Its name.
        name: String,
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        limit: usize,
    },
    /// The database has been migrated further than the component knows.
    #[error(
        "the database has schema version {database}, but the component knows only {component}; deploy a component that \
         has the later migrations, or restore an older copy of the database"
    )]
    Newer {
        /// The version of the database's schema.
        database: u32,
        /// The last version that the component knows.
        component: u32,
    },
    /// A migration was edited after it had been applied.
    #[error(
        "migration {version} (`{name}`) was changed after it had been applied on {applied_at}; put it back as it was, \
         and make the change in a new migration"
    )]
    Changed {
        /// Its version.
        version: u32,
        /// Its name.
        name: String,
        /// When it had been applied (UTC).
        applied_at: String,
    },
    /// The database was made by migrations of other names and other SQL.
    #[error(
        "migration {version} is `{name}`, but the one that was applied to this database on {applied_at} is `{applied}`; \
         deploy the component that the database belongs to, or, if it is the same one with its migrations rewritten, \
         put them back as they were"
    )]
    Foreign {
        /// Its version.
        version: u32,
        /// Its name.
        name: String,
        /// The name of the one that was applied.
        applied: String,
        /// When that was (UTC).
        applied_at: String,
    },
    /// A statement failed; the whole migration was undone.
    #[error("migration {version} (`{name}`) failed at its statement {statement}: {}", words(.source_error))]
    Failed {
        /// Its version.
        version: u32,
        /// Its name.
        name: String,
        /// Which of its statements, counted from 1.
        statement: usize,
        /// What SQLite said.
        source_error: Error,
    },
    /// It left rows without the rows that they refer to; the whole migration was undone.
    #[error("migration {version} (`{name}`) leaves rows in `{table}` whose rows in `{parent}` do not exist")]
    Orphans {
        /// Its version.
        version: u32,
        /// Its name.
        name: String,
        /// Where the rows are.
        table: String,
        /// Where the rows are missing that they refer to.
        parent: String,
    },
    /// The record of migrations could not be read or written.
    #[error("the record of migrations could not be read or written: {}", words(.0))]
    Record(Error),
    /// The database is closed, or has too much to do.
    #[error("the database takes no migrations now: {}", words(.0))]
    Refused(Error),
}

/// Applies those migrations that the database has not yet.
pub(super) fn apply(session: &Session, migrations: &[Migration], settings: &Settings) -> Result<Applied, MigrateError> {
    check_order(migrations, settings.max_migration_bytes)?;
    let recorded = |error: rusqlite::Error| MigrateError::Record(session.explain(&error));
    let known = session.as_host(read_record).map_err(recorded)?;
    let (database, component) = (count(known.len()), count(migrations.len()));
    // First whether they are the same at all: only then it means something that there are fewer or more of them.
    for (migration, Recorded { name: applied, sha256, applied_at }) in migrations.iter().zip(known) {
        if digest(&migration.sql) != sha256 {
            let Migration { version, name, .. } = migration.clone();
            return Err(if name == applied {
                MigrateError::Changed { version, name, applied_at }
            } else {
                MigrateError::Foreign { version, name, applied, applied_at }
            });
        }
    }
    if database > component {
        return Err(MigrateError::Newer { database, component });
    }
    let new = &migrations[database as usize..];
    if !new.is_empty() {
        // NB: SQLite ignores this within a transaction, so it is around all of them.
        session.as_host(|connection| connection.pragma_update(None, "foreign_keys", false)).map_err(recorded)?;
        let applied = new.iter().try_for_each(|migration| apply_one(session, migration, settings));
        session.as_host(|connection| connection.pragma_update(None, "foreign_keys", true)).map_err(recorded)?;
        applied?;
    }
    Ok(Applied { from: database, to: component })
}

fn apply_one(session: &Session, migration: &Migration, settings: &Settings) -> Result<(), MigrateError> {
    let recorded = |error: rusqlite::Error| MigrateError::Record(session.explain(&error));
    session.as_host(|connection| connection.execute_batch("BEGIN IMMEDIATE")).map_err(recorded)?;
    let applied = run(session, migration, settings);
    // SQLite may have rolled back already; then there is nothing left to undo.
    if applied.is_err() && session.in_transaction() {
        session.as_host(|connection| connection.execute_batch("ROLLBACK")).map_err(recorded)?;
    }
    applied
}

fn check_order(migrations: &[Migration], limit: usize) -> Result<(), MigrateError> {
    for (expected, migration) in (1..).zip(migrations) {
        let Migration { version, name, sql } = migration;
        if *version != expected {
            return Err(MigrateError::Order { expected, found: *version, name: name.clone() });
        }
        if sql.len() > limit {
            return Err(MigrateError::TooLong { version: *version, name: name.clone(), bytes: sql.len(), limit });
        }
    }
    Ok(())
}

/// A migration that was applied.
struct Recorded {
    name: String,
    sha256: String,
    applied_at: String,
}

fn read_record(connection: &Connection) -> rusqlite::Result<Vec<Recorded>> {
    connection
        .prepare("SELECT name, sha256, applied_at FROM _wharf_migrations ORDER BY version")?
        .query_map([], |row| Ok(Recorded { name: row.get(0)?, sha256: row.get(1)?, applied_at: row.get(2)? }))?
        .collect()
}

fn run(session: &Session, migration: &Migration, settings: &Settings) -> Result<(), MigrateError> {
    let Migration { version, name, sql } = migration;
    let failed = |statement, source_error| MigrateError::Failed {
        version: *version,
        name: name.clone(),
        statement,
        source_error,
    };
    if sql.contains('\0') {
        return Err(failed(1, Error::Invalid("the SQL contains a NUL character".into())));
    }
    session.migrate(sql, settings.migration_time).map_err(|(statement, error)| failed(statement, error))?;
    if let Some((table, parent)) =
        session.as_host(orphan).map_err(|error| MigrateError::Record(session.explain(&error)))?
    {
        return Err(MigrateError::Orphans { version: *version, name: name.clone(), table, parent });
    }
    session
        .as_host(|connection| {
            connection.execute(
                "INSERT INTO _wharf_migrations VALUES (?1, ?2, ?3, strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))",
                (version, name, digest(sql)),
            )?;
            connection.execute_batch("COMMIT")
        })
        .map_err(|error| MigrateError::Record(session.explain(&error)))
}

/// A table with a row that refers to none, and the table that it refers to.
fn orphan(connection: &Connection) -> rusqlite::Result<Option<(String, String)>> {
    let mut check = connection.prepare("PRAGMA foreign_key_check")?;
    check.query_row([], |row| Ok((row.get("table")?, row.get("parent")?))).optional()
}

fn digest(sql: &str) -> String {
    Sha256::digest(sql).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn words(error: &Error) -> &str {
    match error {
        Error::Invalid(text)
        | Error::Constraint((_, text))
        | Error::Busy(text)
        | Error::TooLarge(text)
        | Error::Closed(text)
        | Error::Unavailable(text) => text,
    }
}
