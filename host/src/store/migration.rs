//! Migrations: the schema of a service, step by step, as its component knows it.
//!
//! What was applied is recorded in the database itself, with a digest, in the transaction that applied it: a crash
//! between two steps leaves a schema that is exactly one of those that the service's authors have seen.
//!
//! Foreign keys are checked at the end of each step and not within it: SQLite can change most of a table's definition
//! only by building a new table and dropping the old one, to which others refer.
//!
//! This is what the backends share; each has a `migration` of its own, which applies what is [`missing`].

use super::binding::Error;
use sha2::{Digest, Sha256};
use thiserror::Error as ThisError;
use wasmtime::component::{ComponentType, Lift, Lower};

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
        /// The names of the later ones, in their order.
        unknown: Vec<String>,
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
    #[error("migration {version} (`{name}`) failed at its statement {statement}: {}", .source_error.words())]
    Failed {
        /// Its version.
        version: u32,
        /// Its name.
        name: String,
        /// Which of its statements, counted from 1.
        statement: usize,
        /// What the database said.
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
    #[error("the record of migrations could not be read or written: {}", .0.words())]
    Record(Error),
    /// The database is closed, or has too much to do.
    #[error("the database takes no migrations now: {}", .0.words())]
    Refused(Error),
}

// === impl Migration ===

impl Migration {
    /// Its SQL, which SQLite and PostgreSQL alike would take to end at a NUL.
    pub(super) fn text(&self) -> Result<&str, MigrateError> {
        if self.sql.contains('\0') {
            return Err(self.failed(1, Error::Invalid("the SQL contains a NUL character".into())));
        }
        Ok(&self.sql)
    }

    /// One of its statements, counted from 1, failed like this.
    pub(super) fn failed(&self, statement: usize, source_error: Error) -> MigrateError {
        MigrateError::Failed { version: self.version, name: self.name.clone(), statement, source_error }
    }
}

/// Those migrations that a database with this record has not yet.
pub(super) fn missing(
    migrations: &[Migration],
    known: Vec<Recorded>,
    max_migration_bytes: usize,
) -> Result<&[Migration], MigrateError> {
    check_order(migrations, max_migration_bytes)?;
    let (database, component) = (count(known.len()), count(migrations.len()));
    // First whether they are the same at all: only then it means something that there are fewer or more of them.
    let unknown: Vec<_> = known.iter().skip(migrations.len()).map(|recorded| recorded.name.clone()).collect();
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
        return Err(MigrateError::Newer { database, component, unknown });
    }
    Ok(&migrations[database as usize..])
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
pub(super) struct Recorded {
    pub(super) name: String,
    /// The digest of its text.
    pub(super) sha256: String,
    /// When that was (UTC).
    pub(super) applied_at: String,
}

pub(super) fn digest(sql: &str) -> String {
    Sha256::digest(sql).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
