//! What SQLite says, in the words of `wharf:store/sql`.

use crate::store::{Constraint, Error};
use rusqlite::{ErrorCode, ffi};

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
