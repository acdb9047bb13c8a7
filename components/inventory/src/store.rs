//! Why a transaction was not committed.

use wharf_sdk::{
    db,
    events::{OutboxError, PublishError},
};

/// What this service's transactions return.
pub type Result<T> = std::result::Result<T, Error>;

/// Why it was not committed.
#[derive(Debug)]
pub enum Error {
    /// Another came first: the same again may succeed at once.
    Lost,
    /// The database or the outbox did not do it.
    Failed(OutboxError),
}

// === impl Error ===

impl Error {
    /// Of an event that is none.
    pub fn unpublishable(error: PublishError) -> Self {
        Self::Failed(OutboxError::Publish(error))
    }
}

impl From<OutboxError> for Error {
    fn from(error: OutboxError) -> Self {
        match error {
            OutboxError::Store(error) => error.into(),
            error @ OutboxError::Publish(_) => Self::Failed(error),
        }
    }
}

impl From<db::Error> for Error {
    fn from(error: db::Error) -> Self {
        if db::is_duplicate(&error) || matches!(error, db::Error::Busy(_)) {
            Self::Lost
        } else {
            Self::Failed(OutboxError::Store(error))
        }
    }
}
