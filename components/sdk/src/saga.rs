//! Sagas: work over several services that is done completely, or undone.
//!
//! What spans several services can't be one transaction. A saga does it step by step: each step calls one service, and has
//! a compensation that takes it back. The host writes down how far each saga has come. When a step fails for good, it calls
//! the compensations of the steps that were begun, the last one first. It goes on where it was after a crash, and also with
//! a new revision of the service.
//!
//! ```no_run
//! use serde::{Deserialize, Serialize};
//! use std::time::Duration;
//! use wharf_sdk::{Json, Path, Router, saga::{self, Saga, Step}};
//!
//! wharf_sdk::service! {
//!     struct Trips { routes: routes, sagas: [trip] }
//! }
//!
//! /// What the steps leave for each other. The first state is the input.
//! #[derive(Serialize, Deserialize)]
//! struct Trip { city: String, flight: Option<u32>, room: Option<u32> }
//!
//! fn trip() -> Saga<Trip> {
//!     Saga::new("trip")
//!         .timeout(Duration::from_secs(600))
//!         .step("flight", book_flight).undo(cancel_flight)
//!         .beside("hotel", book_room).undo(cancel_room)
//!         .step("pay", pay).wait_for_event("offer.accepted", Duration::from_secs(300))
//! }
//!
//! async fn book_flight(step: &Step, trip: &mut Trip) -> saga::Result {
//!     // `step.key` is the same on every try: whoever is called recognises a repetition by it.
//!     trip.flight = Some(flights::book(&step.key, &trip.city).await?);
//!     Ok(())
//! }
//!
//! async fn cancel_flight(step: &Step, _: &mut Trip) -> saga::Result {
//!     // By the key of the step: whether it had its effect, nobody may know.
//!     flights::cancel(&step.key_of_action()).await
//! }
//! # mod flights {
//! #     pub async fn book(_: &str, _: &str) -> wharf_sdk::saga::Result<u32> { Ok(1) }
//! #     pub async fn cancel(_: &str) -> wharf_sdk::saga::Result { Ok(()) }
//! # }
//! # async fn book_room(_: &Step, _: &mut Trip) -> saga::Result { Ok(()) }
//! # async fn cancel_room(_: &Step, _: &mut Trip) -> saga::Result { Ok(()) }
//! # async fn pay(_: &Step, _: &mut Trip) -> saga::Result { Ok(()) }
//!
//! fn routes() -> Router {
//!     Router::new().post("/trips/{id}", begin)
//! }
//!
//! async fn begin(Path(id): Path<String>, Json(trip): Json<Trip>) -> wharf_sdk::Result<Json<String>> {
//!     let begun = saga::start("trip", &id, &trip).await?;
//!     Ok(Json(begun.started_at))
//! }
//! ```
//!
//! What to keep in mind:
//!
//! - **An action may be called again** with the same key, where nobody knows what became of the last call. One that can't
//!   bear it is marked [`once`](Saga::once).
//! - **`?` does what is meant.** A [`Fault`](crate::fault::Fault) means that the step is tried again, and so does an [`Error`](crate::Error) of the
//!   5xx. Another `Error` is the answer "no": the step fails, and the saga is compensated. [`failed`] and [`retry`] say
//!   either.
//! - **Who says [`failed`] has done nothing** that must be undone: the step's own compensation is not called.
//! - **A compensation is called for what was begun**, whether it had an effect or not, until it says `Ok`.
//! - **Steps side by side** see the same state, and what they change of it is merged: they must not change the same fields.
//! - **The state is JSON**; a field that is `null` is one that is not there.

mod definition;
mod error;
mod start;
#[cfg(test)]
mod tests;

use crate::bindings::wharf::saga::{sagas as host, types};
pub use crate::events::Event;
pub use definition::{Action, Saga};
#[doc(hidden)]
pub use definition::{Erased, Sagas};
pub use error::{Error, failed, retry, retry_after};
pub use host::{Error as Refused, Snapshot};
pub use start::{At, at, get, start, wait};
use std::time::Duration;
pub use types::Status;
#[doc(hidden)]
pub use types::{Call, Definition, Outcome};

/// What actions and compensations return.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

/// What a step knows of the call that it is.
#[derive(Debug, Clone)]
pub struct Step {
    /// The saga's name.
    pub saga: String,
    /// The saga's own id.
    pub id: String,
    /// The step's name.
    pub name: String,
    /// Names this action or this compensation: the same on every try, and of no other.
    pub key: String,
    /// Which try it is, counted from 1.
    pub attempt: u32,
    /// When the saga was started, RFC 3339.
    pub started_at: String,
    /// The event that the step waited for.
    pub event: Option<Event>,
    /// In a compensation: why the saga is compensated.
    pub reason: Option<String>,
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

// === impl Step ===

impl Step {
    /// In a compensation: the key that the action had.
    pub fn key_of_action(&self) -> String {
        // A compensation always has a reason; its key is the action's with this behind it.
        let of_action = self.reason.as_ref().and_then(|_| self.key.strip_suffix("/compensate"));
        of_action.unwrap_or(&self.key).to_owned()
    }
}

impl From<Call> for Step {
    fn from(call: Call) -> Self {
        let Call { saga, id, step: name, key, attempt, started_at, state: _, event, reason } = call;
        Self { saga, id, name, key, attempt, started_at, event, reason }
    }
}
