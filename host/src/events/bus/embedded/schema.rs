//! The file: what is in it, and whether it is one of ours.

use crate::events::Durability;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::path::{Path, PathBuf};
use tokio::time::Duration;

/// Says in a file's header that it is an event log: `WhEv`.
const APPLICATION: i32 = 0x5768_4576;
/// The version of the schema. A later one comes with the steps that lead to it.
const VERSION: i32 = 1;

/// How long to wait for a lock that someone else holds, who looks at the file or copies it.
pub(super) const LOCK_WAIT: Duration = Duration::from_secs(5);
/// Pages that the writing connection keeps in memory, in KiB.
const CACHE: i64 = 8 << 10;
/// What the write-ahead log's file is cut down to when it starts over.
const JOURNAL_SIZE: i64 = 64 << 20;

/// Why the embedded event log can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The folder can't be made.
    #[error("cannot make the folder {folder} for the event log: {source}")]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// SQLite can't open, read or write it.
    #[error("cannot use the event log {file}: {source}")]
    File {
        /// The file.
        file: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// It is damaged, or no database at all.
    #[error(
        "the event log {file} is damaged or no database: {source}; put a backup in its place, or save what can be saved \
         by `sqlite3 {file} .recover | sqlite3 recovered.sqlite`, or move it away with its -wal and -shm to begin anew \
         without the events in it"
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// It is a database of something else.
    #[error("{0} is a database, but not an event log; move it away, or have `data` under [app] name another folder")]
    Foreign(PathBuf),
    /// A later version of Wharf wrote it.
    #[error(
        "the event log {file} has version {found}, and this Wharf knows versions up to {VERSION}; start the Wharf that \
         wrote it, or a later one"
    )]
    Version {
        /// The file.
        file: PathBuf,
        /// Its version.
        found: i32,
    },
    /// The file system doesn't offer what a write-ahead log needs.
    #[error(
        "cannot use the event log {file}: it stays in journal mode `{mode}`, expected `wal`; the data folder must be on \
         a local file system that supports shared memory"
    )]
    Journal {
        /// The file.
        file: PathBuf,
        /// The mode that SQLite chose.
        mode: String,
    },
}

/// Opens the log for writing, and makes it where there is none.
pub(super) fn open(file: &Path, durability: Durability) -> Result<Connection, LogError> {
    if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        let made = std::fs::create_dir_all(folder);
        made.map_err(|source| LogError::Folder { folder: folder.to_owned(), source })?;
    }
    let failed = |source| failed(file, source);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(file, flags).map_err(failed)?;
    connection.busy_timeout(LOCK_WAIT).map_err(failed)?;
    // Before anything is changed in it.
    check(file, &connection)?;
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0)).map_err(failed)?;
    if mode != "wal" {
        return Err(LogError::Journal { file: file.to_owned(), mode });
    }
    let synchronous = match durability {
        Durability::Os => "normal",
        Durability::Fsync => "full",
    };
    connection.pragma_update(None, "synchronous", synchronous).map_err(failed)?;
    connection.pragma_update(None, "cache_size", -CACHE).map_err(failed)?;
    connection.pragma_update_and_check(None, "journal_size_limit", JOURNAL_SIZE, |_| Ok(())).map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(64);
    if version(&connection).map_err(failed)? == 0 {
        let making = connection.transaction().and_then(|transaction| {
            transaction.execute_batch(include_str!("schema.sql"))?;
            transaction.pragma_update(None, "application_id", APPLICATION)?;
            transaction.pragma_update(None, "user_version", VERSION)?;
            transaction.commit()
        });
        making.map_err(failed)?;
    }
    Ok(connection)
}

/// Whether whoever had the log open last did not close it: then there is something in its write-ahead log.
pub(super) fn was_left_open(file: &Path) -> bool {
    let mut journal = file.as_os_str().to_owned();
    journal.push("-wal");
    std::fs::metadata(journal).is_ok_and(|journal| journal.len() > 0)
}

/// Opens the log for reading.
pub(super) fn open_to_read(file: &Path) -> rusqlite::Result<Connection> {
    let connection =
        Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(LOCK_WAIT)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// Opens the log to copy its write-ahead log into it.
pub(super) fn open_to_checkpoint(file: &Path, durability: Durability) -> rusqlite::Result<Connection> {
    let connection =
        Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    let synchronous = match durability {
        Durability::Os => "normal",
        Durability::Fsync => "full",
    };
    connection.pragma_update(None, "synchronous", synchronous)?;
    Ok(connection)
}

fn check(file: &Path, connection: &Connection) -> Result<(), LogError> {
    let failed = |source| failed(file, source);
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(failed)?;
    match version(connection).map_err(failed)? {
        0 if tables == 0 && application == 0 => Ok(()),
        _ if application != APPLICATION => Err(LogError::Foreign(file.to_owned())),
        found if found > VERSION => Err(LogError::Version { file: file.to_owned(), found }),
        VERSION => Ok(()),
        _ => Err(LogError::Foreign(file.to_owned())),
    }
}

fn version(connection: &Connection) -> rusqlite::Result<i32> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

pub(super) fn failed(file: &Path, source: rusqlite::Error) -> LogError {
    let file = file.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => LogError::Damaged { file, source },
        _ => LogError::File { file, source },
    }
}
