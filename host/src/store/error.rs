//! What can go wrong, and in whose words: a service hears WIT errors, an operator [`OpenError`] and
//! [`MigrateError`](super::MigrateError).

use super::binding::{Constraint, Error};
use rusqlite::{ErrorCode, ffi};
use std::path::PathBuf;
use thiserror::Error as ThisError;

/// A database could not be opened.
#[derive(Debug, ThisError)]
pub enum OpenError {
    /// The folder for the databases could not be made.
    #[error("cannot make the folder {folder} for databases: {source}")]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// SQLite could not open or prepare the file.
    #[error("cannot open the database {file}: {source}")]
    File {
        /// The file.
        file: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The file system doesn't offer what a write-ahead log needs.
    #[error(
        "cannot open the database {file}: it stays in journal mode `{mode}`, expected `wal`; the data folder must be \
         on a local file system that supports shared memory"
    )]
    Journal {
        /// The file.
        file: PathBuf,
        /// The mode that SQLite chose.
        mode: String,
    },
    /// No thread could be started for it.
    #[error("cannot start a thread for the database {file}: {source}")]
    Thread {
        /// The database's file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The name can't be a file's.
    #[error("`{0}` cannot name a database: expected lower-case letters, digits and `-`, beginning with a letter")]
    Name(String),
}

/// SQLite's error in the words of `wharf:store/sql`.
pub(super) fn translate(error: &rusqlite::Error) -> Error {
    match error {
        rusqlite::Error::SqlInputError { error, msg, offset, .. } => match error.code {
            ErrorCode::Unknown => Error::Invalid(format!("{msg} (at byte {offset})")),
            _ => by_code(*error, msg.clone()),
        },
        rusqlite::Error::SqliteFailure(error, message) => {
            by_code(*error, message.clone().unwrap_or_else(|| error.to_string()))
        }
        other => Error::Invalid(other.to_string()),
    }
}

fn by_code(error: ffi::Error, message: String) -> Error {
    match error.code {
        ErrorCode::ConstraintViolation => Error::Constraint((constraint(error.extended_code), message)),
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Error::Busy(message),
        ErrorCode::TooBig => Error::TooLarge(message),
        ErrorCode::Unknown
        | ErrorCode::TypeMismatch
        | ErrorCode::ParameterOutOfRange
        | ErrorCode::AuthorizationForStatementDenied
        | ErrorCode::ApiMisuse => Error::Invalid(message),
        _ => Error::Unavailable(message),
    }
}

fn constraint(extended_code: i32) -> Constraint {
    match extended_code {
        ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY | ffi::SQLITE_CONSTRAINT_ROWID => {
            Constraint::Unique
        }
        ffi::SQLITE_CONSTRAINT_FOREIGNKEY => Constraint::ForeignKey,
        ffi::SQLITE_CONSTRAINT_NOTNULL => Constraint::NotNull,
        ffi::SQLITE_CONSTRAINT_CHECK => Constraint::Check,
        _ => Constraint::Other,
    }
}
