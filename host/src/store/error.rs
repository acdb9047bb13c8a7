//! What can go wrong, and in whose words: a service hears WIT errors, an operator [`OpenError`] and
//! [`MigrateError`](super::MigrateError).

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
    /// The URL of a server can't be used.
    #[error("the URL of the database is wrong: {0}; expected one such as postgres://user:password@host:5432/database")]
    Url(String),
    /// The certificates to trust can't be used.
    #[error("the certificates in {file} can't be used: {reason}")]
    Certificates {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A server can't be reached, or does not let us in.
    #[error("the database can't be opened as the role `{role}`: {reason}")]
    Connect {
        /// The role that should log in.
        role: String,
        /// What happened.
        reason: String,
    },
    /// A service's schema could not be made, or is not safe from others.
    #[error("the database `{schema}` on PostgreSQL at {server} can't be used: {reason}")]
    Prepare {
        /// The schema.
        schema: String,
        /// The server.
        server: String,
        /// What is wrong.
        reason: String,
    },
    /// Two services have the same role.
    #[error(
        "two services have the role `{role}`, so each could open the other's database; give each a role of its own"
    )]
    Shared {
        /// The role.
        role: String,
    },
}
