//! Faults: what the platform says when a call could not be made or not be finished.
//!
//! Typed calls give them in the `fault` case of their error type. `?` turns one into a 503.

pub use crate::bindings::wharf::platform::faults::{Fault, FaultKind};
use crate::db;
use std::fmt;

impl FaultKind {
    /// The name that logs, metrics and WIT use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::CircuitOpen => "circuit-open",
            Self::Overloaded => "overloaded",
            Self::DeadlineExceeded => "deadline-exceeded",
            Self::Trapped => "trapped",
            Self::Cancelled => "cancelled",
            Self::Denied => "denied",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.as_str(), self.message)
    }
}

impl From<db::Error> for Fault {
    /// How a service tells a neighbour that its database failed it.
    fn from(error: db::Error) -> Self {
        let kind = if matches!(error, db::Error::Busy(_)) { FaultKind::Overloaded } else { FaultKind::Unreachable };
        eprintln!("database: {error}");
        Self { kind, message: "its database is not available".to_owned(), retry_after_ms: None }
    }
}
