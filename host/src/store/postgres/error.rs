//! What PostgreSQL says, in the words of `wharf:store/sql`.

use super::values::Unfit;
use crate::store::{Constraint, Error};
use std::error::Error as StdError;
use tokio_postgres::error::{DbError, ErrorPosition, SqlState};

/// PostgreSQL's error in the words of `wharf:store/sql`.
pub(super) fn translate(error: &tokio_postgres::Error) -> Error {
    if let Some(said) = error.as_db_error() {
        return by_state(said);
    }
    match error.source() {
        Some(source) if source.is::<Unfit>() => Error::Invalid(source.to_string()),
        Some(source) => Error::Unavailable(format!("{error}: {source}")),
        None => Error::Unavailable(error.to_string()),
    }
}

/// Whether the statement lost against another that ran at the same time, so that it may succeed when tried again.
pub(super) fn lost_a_race(error: &tokio_postgres::Error) -> bool {
    matches!(error.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE | &SqlState::T_R_DEADLOCK_DETECTED))
}

/// Whether a prepared statement no longer fits the schema, so that it has to be prepared anew.
pub(super) fn is_stale(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        Some(&SqlState::FEATURE_NOT_SUPPORTED) => {
            error.as_db_error().is_some_and(|said| said.message().contains("cached plan"))
        }
        Some(code) => *code == SqlState::INVALID_SQL_STATEMENT_NAME,
        None => false,
    }
}

/// Whether a statement ran out of its time.
pub(super) fn is_timeout(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::QUERY_CANCELED)
}

fn by_state(said: &DbError) -> Error {
    let message = said.message().to_owned();
    let state = said.code();
    match state.code().as_bytes() {
        [b'2', b'3', ..] => Error::Constraint((constraint(state), named(said))),
        b"P0001" => Error::Constraint((Constraint::Other, message)),
        b"40001" | b"40P01" | b"55P03" | b"53300" => Error::Busy(message),
        b"57014" | b"54000" | b"53400" => Error::TooLarge(message),
        b"42501" => Error::Invalid(format!("{message}: a service may use nothing but its own schema")),
        [b'0', b'8', ..] | [b'5', b'3' | b'7' | b'8', ..] | [b'X', b'X', ..] | [b'2', b'8', ..] | b"25006" => {
            Error::Unavailable(message)
        }
        _ => Error::Invalid(match said.position() {
            Some(ErrorPosition::Original(at)) => format!("{message} (at character {at})"),
            _ => message,
        }),
    }
}

fn constraint(state: &SqlState) -> Constraint {
    match *state {
        SqlState::UNIQUE_VIOLATION | SqlState::EXCLUSION_VIOLATION => Constraint::Unique,
        SqlState::FOREIGN_KEY_VIOLATION | SqlState::RESTRICT_VIOLATION => Constraint::ForeignKey,
        SqlState::NOT_NULL_VIOLATION => Constraint::NotNull,
        SqlState::CHECK_VIOLATION => Constraint::Check,
        _ => Constraint::Other,
    }
}

/// The message, with the table and the column where it lacks them. Not PostgreSQL's detail, which shows the row.
fn named(said: &DbError) -> String {
    let message = said.message();
    match (said.table(), said.column()) {
        (Some(table), Some(column)) => format!("{message} ({table}.{column})"),
        (Some(table), None) if !message.contains(table) => format!("{message} ({table})"),
        _ => message.to_owned(),
    }
}
