//! Why a step is not done, and what `?` makes of the errors of others.

use super::{Outcome, Refused, millis, types};
use crate::{Error as Answer, db, events, fault::Fault, http, kv};
use std::{fmt, time::Duration};

/// Why a step is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// It never will be, and nothing of it is. See [`failed`].
    Failed(String),
    /// It is not, or nobody knows: it is to be tried again. See [`retry`].
    Retry {
        /// Why, for people.
        reason: String,
        /// When, if that is known.
        after: Option<Duration>,
    },
}

/// The step is never done, for this reason, and nothing of it is.
pub fn failed(reason: impl fmt::Display) -> Error {
    Error::Failed(reason.to_string())
}

/// The step is to be tried again, for this reason.
pub fn retry(reason: impl fmt::Display) -> Error {
    Error::Retry { reason: reason.to_string(), after: None }
}

/// The step is to be tried again after this time, for this reason.
pub fn retry_after(after: Duration, reason: impl fmt::Display) -> Error {
    Error::Retry { reason: reason.to_string(), after: Some(after) }
}

// === impl Error ===

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(reason) | Self::Retry { reason, .. } => f.write_str(reason),
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for Outcome {
    fn from(error: Error) -> Self {
        match error {
            Error::Failed(reason) => Self::Failed(reason),
            Error::Retry { reason, after } => Self::Retry(types::Again { reason, after_ms: after.map(millis) }),
        }
    }
}

impl From<Fault> for Error {
    /// The neighbour could not be asked, or nobody knows what it did: again.
    fn from(fault: Fault) -> Self {
        Self::Retry { reason: fault.to_string(), after: fault.retry_after_ms.map(Duration::from_millis) }
    }
}

impl From<Answer> for Error {
    /// 4xx is an answer, and the same the next time; else again. Of the 4xx, 408, 425 and 429 say themselves that it may be
    /// another one later.
    fn from(error: Answer) -> Self {
        match error.status() {
            408 | 425 | 429 => retry(&error),
            400..=499 => failed(&error),
            _ => retry(&error),
        }
    }
}

macro_rules! again {
    ($($error:ty),* $(,)?) => {$(
        impl From<$error> for Error {
            fn from(error: $error) -> Self {
                retry(&error)
            }
        }
    )*};
}

again!(db::Error, kv::Error, http::SendError);

impl From<events::PublishError> for Error {
    fn from(error: events::PublishError) -> Self {
        match error {
            events::PublishError::Fault(fault) => fault.into(),
            other => retry(format_args!("publish: {other:?}")),
        }
    }
}

impl From<events::OutboxError> for Error {
    fn from(error: events::OutboxError) -> Self {
        match error {
            events::OutboxError::Store(error) => error.into(),
            events::OutboxError::Publish(error) => error.into(),
        }
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Fault(fault) => fault.into(),
            other => failed(other),
        }
    }
}

impl From<Refused> for Answer {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NotFound(message) => Self::not_found(message),
            Refused::Conflict => Self::conflict("There is one with this id already, begun with something else"),
            Refused::Invalid(message) => Self::bad_request(message),
            Refused::Denied(message) => Self::internal(message),
            Refused::Fault(fault) => fault.into(),
        }
    }
}
