//! What a handler answers when it cannot do what was asked.

use crate::{Response, db, events, fault::Fault, http, json, kv};
use serde::Serialize;
use std::{borrow::Cow, fmt};

/// What handlers return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An answer that is an error: a status and `{"error": "<message>"}`.
///
/// The message is for the client. What only the operator should know is written to stderr where it happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    status: u16,
    message: Cow<'static, str>,
    retry_after_seconds: Option<u64>,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
}

// === impl Error ===

impl Error {
    fn new(status: u16, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, message: message.into(), retry_after_seconds: None }
    }

    /// 400: the request makes no sense or breaks a rule of the business.
    pub fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, message)
    }

    /// 404: there is no such thing.
    pub fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(404, message)
    }

    /// 409: it contradicts the state that the thing is in.
    pub fn conflict(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(409, message)
    }

    /// 413: the body is larger than `limit` bytes.
    pub fn too_large(limit: usize) -> Self {
        Self::new(413, format!("Request body too large, at most {limit} bytes are taken"))
    }

    /// 500: the service is at fault. `detail` goes to stderr, the client learns only that it happened.
    pub fn internal(detail: impl fmt::Display) -> Self {
        eprintln!("internal error: {detail}");
        Self::new(500, "Internal error")
    }

    /// 503: not now; the same request may succeed later.
    pub fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(503, message)
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The message for the client.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<Error> for Response {
    fn from(error: Error) -> Self {
        let response = match json::to_vec(&ErrorBody { error: &error.message }) {
            Ok(body) => Response::json_bytes(error.status, body),
            Err(_) => Response::empty(error.status),
        };
        match error.retry_after_seconds {
            Some(seconds) => response.with_header("retry-after", seconds.to_string()),
            None => response,
        }
    }
}

impl From<Fault> for Error {
    /// A neighbour could not be asked: 503, with the platform's own words, and when to try again where it knows.
    fn from(fault: Fault) -> Self {
        let mut error = Self::unavailable(format!("A service this depends on is not available ({fault})"));
        error.retry_after_seconds = fault.retry_after_ms.map(|ms| ms.div_ceil(1000));
        error
    }
}

impl From<db::Error> for Error {
    fn from(error: db::Error) -> Self {
        match error {
            db::Error::Busy(_) => Self::unavailable("The database has too much to do, try again"),
            db::Error::Unavailable(detail) => {
                eprintln!("database: {detail}");
                Self::unavailable("The database is not available")
            }
            other => Self::internal(format_args!("database: {other}")),
        }
    }
}

impl From<events::PublishError> for Error {
    fn from(error: events::PublishError) -> Self {
        match error {
            events::PublishError::Fault(fault) => fault.into(),
            other => Self::internal(format_args!("publish: {other:?}")),
        }
    }
}

impl From<kv::Error> for Error {
    fn from(error: kv::Error) -> Self {
        Self::internal(format_args!("key-value: {error}"))
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

impl From<http::SendError> for Error {
    fn from(error: http::SendError) -> Self {
        Self::unavailable(format!("A service this depends on could not be asked ({error})"))
    }
}
