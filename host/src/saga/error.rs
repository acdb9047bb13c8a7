//! What can go wrong with a service's sagas.

use super::InvalidDefinition;
use crate::policy::Fault;
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no such saga.
    #[error("{0}")]
    NotFound(String),
    /// There is one with this id already, which was started with another input.
    #[error("a saga with this id was started with another input; give each its own id")]
    Conflict,
    /// The id or the input is not one.
    #[error("{0}")]
    Invalid(String),
    /// It can't be done to the saga as it stands.
    #[error("{0}")]
    Refused(String),
    /// It could not be written or read.
    #[error("{0}")]
    Fault(Fault),
}

/// A service's sagas could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The database did not do its part.
    #[error("the sagas of service `{service}` can't be read from its database: {reason}")]
    Database {
        /// The service.
        service: Arc<str>,
        /// What the database said.
        reason: String,
    },
    /// The component's definitions can't be.
    #[error("the sagas of service `{service}` can't be: {reason}")]
    Definition {
        /// The service.
        service: Arc<str>,
        /// What is wrong.
        reason: InvalidDefinition,
    },
}

/// A step that sagas under way need, and that the definitions in question do not have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unmet {
    /// The saga.
    pub saga: String,
    /// The step.
    pub step: String,
    /// Whether it is the step's compensation that is missing, not the step.
    pub compensation: bool,
    /// How many sagas under way need it.
    pub sagas: usize,
    /// The id of one of them.
    pub id: String,
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { saga, step, sagas, id, .. } = self;
        let what = if self.compensation { "the compensation of step" } else { "step" };
        write!(f, "{what} `{step}` of saga `{saga}` is gone, which {sagas} under way may need, among them `{id}`")
    }
}

// === impl Error ===

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}
