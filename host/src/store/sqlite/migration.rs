//! How SQLite applies migrations.

use super::session::Session;
use crate::store::{
    Settings,
    migration::{Applied, MigrateError, Migration, Recorded, count, digest, missing},
};
use rusqlite::{Connection, OptionalExtension};

/// Where the applied migrations are recorded.
pub(super) const TABLE: &str = "CREATE TABLE IF NOT EXISTS _wharf_migrations (
    version INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    applied_at TEXT NOT NULL
) STRICT";

/// Applies those migrations that the database has not yet.
pub(super) fn apply(session: &Session, migrations: &[Migration], settings: &Settings) -> Result<Applied, MigrateError> {
    let recorded = |error: rusqlite::Error| MigrateError::Record(session.explain(&error));
    let known = session.as_host(read_record).map_err(recorded)?;
    let new = missing(migrations, known, settings.max_migration_bytes)?;
    if !new.is_empty() {
        // NB: SQLite ignores this within a transaction, so it is around all of them.
        session.as_host(|connection| connection.pragma_update(None, "foreign_keys", false)).map_err(recorded)?;
        let applied = new.iter().try_for_each(|migration| apply_one(session, migration, settings));
        session.as_host(|connection| connection.pragma_update(None, "foreign_keys", true)).map_err(recorded)?;
        applied?;
    }
    let to = count(migrations.len());
    Ok(Applied { from: to - count(new.len()), to })
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

fn read_record(connection: &Connection) -> rusqlite::Result<Vec<Recorded>> {
    connection
        .prepare("SELECT name, sha256, applied_at FROM _wharf_migrations ORDER BY version")?
        .query_map([], |row| Ok(Recorded { name: row.get(0)?, sha256: row.get(1)?, applied_at: row.get(2)? }))?
        .collect()
}

fn run(session: &Session, migration: &Migration, settings: &Settings) -> Result<(), MigrateError> {
    let Migration { version, name, sql } = migration;
    let migrated = session.migrate(migration.text()?, settings.migration_time);
    migrated.map_err(|(statement, error)| migration.failed(statement, error))?;
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
