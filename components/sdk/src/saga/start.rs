//! Starting sagas, and looking at how they stand.

use super::{Refused, Result, Snapshot, Status, host, millis};
use crate::json;
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;

/// The sagas of one service, to be started and looked at.
#[derive(Debug, Clone, Copy)]
pub struct At<'a>(Option<&'a str>);

/// Starts a saga of this service with its first state. When this returns, it is written: it will end. Where it was started
/// before with the same input, this says how it stands.
///
/// # Errors
/// Where there is no such saga, or one with this id that was started with another input, or it could not be written.
pub async fn start<S: Serialize + ?Sized>(saga: &str, id: &str, input: &S) -> Result<Snapshot, Refused> {
    At(None).start(saga, id, input).await
}

/// How a saga of this service stands.
///
/// # Errors
/// Where there is none, or it could not be read.
pub async fn get(saga: &str, id: &str) -> Result<Snapshot, Refused> {
    At(None).get(saga, id).await
}

/// How a saga of this service stands when it has ended, or when this time has passed; at most a minute.
///
/// # Errors
/// As [`get`].
pub async fn wait(saga: &str, id: &str, timeout: Duration) -> Result<Snapshot, Refused> {
    At(None).wait(saga, id, timeout).await
}

/// The sagas of another service, which the manifest lets this one call.
pub fn at(service: &str) -> At<'_> {
    At(Some(service))
}

// === impl At ===

impl At<'_> {
    /// As [`start`].
    ///
    /// # Errors
    /// As [`start`]; and where the manifest does not let this service call that one.
    pub async fn start<S: Serialize + ?Sized>(self, saga: &str, id: &str, input: &S) -> Result<Snapshot, Refused> {
        let input = json::to_vec(input).map_err(|error| Refused::Invalid(error.to_string()))?;
        host::start(self.reference(saga, id), input).await
    }

    /// As [`get`].
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn get(self, saga: &str, id: &str) -> Result<Snapshot, Refused> {
        host::get(self.reference(saga, id)).await
    }

    /// As [`wait`].
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn wait(self, saga: &str, id: &str, timeout: Duration) -> Result<Snapshot, Refused> {
        host::wait(self.reference(saga, id), millis(timeout)).await
    }

    fn reference(self, saga: &str, id: &str) -> host::Reference {
        host::Reference { service: self.0.map(str::to_owned), saga: saga.to_owned(), id: id.to_owned() }
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// The state, as the saga's own type.
    ///
    /// # Errors
    /// Where it is no such state.
    pub fn state<S: DeserializeOwned>(&self) -> serde_json::Result<S> {
        serde_json::from_slice(&self.state)
    }

    /// Whether it has ended, one way or the other.
    pub fn is_over(&self) -> bool {
        matches!(self.status, Status::Completed | Status::Compensated)
    }
}
