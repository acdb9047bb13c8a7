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
//! - **`?` does what is meant.** A [`Fault`] means that the step is tried again, and so does an [`Error`](crate::Error) of the
//!   5xx. Another `Error` is the answer "no": the step fails, and the saga is compensated. [`failed`] and [`retry`] say
//!   either.
//! - **Who says [`failed`] has done nothing** that must be undone: the step's own compensation is not called.
//! - **A compensation is called for what was begun**, whether it had an effect or not, until it says `Ok`.
//! - **Steps side by side** see the same state, and what they change of it is merged: they must not change the same fields.
//! - **The state is JSON**; a field that is `null` is one that is not there.

use crate::{
    Error as Answer, bindings::wharf::saga::sagas as host, bindings::wharf::saga::types, db, events, fault::Fault,
    http, json, kv,
};
pub use events::Event;
pub use host::{Error as Refused, Snapshot};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use std::{fmt, marker::PhantomData, pin::Pin, time::Duration};
pub use types::Status;
#[doc(hidden)]
pub use types::{Call, Definition, Outcome};

/// What actions and compensations return.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

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

/// A saga over a state, with its steps.
pub struct Saga<S> {
    inner: Erased,
    state: PhantomData<fn(S)>,
}

type Doing = Box<dyn Fn(Step, Vec<u8>) -> Pin<Box<dyn Future<Output = Outcome>>> + Send + Sync>;

/// A saga whose state is nobody's business any more.
#[doc(hidden)]
pub struct Erased {
    definition: Definition,
    actions: Vec<Doing>,
    compensations: Vec<Option<Doing>>,
}

/// The sagas of a service.
#[doc(hidden)]
pub struct Sagas(Vec<Erased>);

/// The sagas of one service, to be started and looked at.
#[derive(Debug, Clone, Copy)]
pub struct At<'a>(Option<&'a str>);

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

// === impl Saga ===

impl<S: Serialize + DeserializeOwned + 'static> Saga<S> {
    /// A saga without steps yet. Its name and those of its steps: a-z, 0-9 and `-`.
    pub fn new(name: &str) -> Self {
        let definition = Definition { name: name.to_owned(), steps: Vec::new(), timeout_ms: None };
        let inner = Erased { definition, actions: Vec::new(), compensations: Vec::new() };
        Self { inner, state: PhantomData }
    }

    /// How long after its start it is compensated if it is not complete; else what the manifest says.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.inner.definition.timeout_ms = Some(millis(timeout));
        self
    }

    /// A step that comes after those before it.
    #[must_use]
    pub fn step(self, name: &str, action: impl Action<S>) -> Self {
        self.with(name, false, action)
    }

    /// A step that runs side by side with the one before it.
    #[must_use]
    pub fn beside(self, name: &str, action: impl Action<S>) -> Self {
        self.with(name, true, action)
    }

    fn with(mut self, name: &str, beside: bool, action: impl Action<S>) -> Self {
        let step = types::Step { name: name.to_owned(), beside, compensates: false, repeatable: true, wait: None };
        self.inner.definition.steps.push(step);
        self.inner.actions.push(doing(action));
        self.inner.compensations.push(None);
        self
    }

    /// What takes the last step back.
    ///
    /// # Panics
    /// Where there is no step yet: a mistake in the service's code, as with the others below. The component is refused for
    /// it, and any test that builds the saga finds it.
    #[must_use]
    pub fn undo(mut self, compensation: impl Action<S>) -> Self {
        self.last().compensates = true;
        let at = self.inner.compensations.len() - 1;
        self.inner.compensations[at] = Some(doing(compensation));
        self
    }

    /// The last step's action must not be called again where nobody knows whether the last call had its effect: the step
    /// fails then, and is compensated.
    ///
    /// # Panics
    /// Where there is no step yet.
    #[must_use]
    pub fn once(mut self) -> Self {
        self.last().repeatable = false;
        self
    }

    /// The last step waits for an event of this topic whose subject is the saga's id, which is in [`Step::event`] then. When
    /// none has come after this time, the step fails; `None`: when the saga times out.
    ///
    /// # Panics
    /// Where there is no step yet.
    #[must_use]
    pub fn wait_for_event(mut self, topic: &str, timeout: impl Into<Option<Duration>>) -> Self {
        let until = types::Awaited::Event(topic.to_owned());
        self.last().wait = Some(types::Wait { until, timeout_ms: timeout.into().map(millis) });
        self
    }

    /// The last step waits for this long before its action is called.
    ///
    /// # Panics
    /// Where there is no step yet.
    #[must_use]
    pub fn wait(mut self, time: Duration) -> Self {
        self.last().wait = Some(types::Wait { until: types::Awaited::Time(millis(time)), timeout_ms: None });
        self
    }

    fn last(&mut self) -> &mut types::Step {
        let name = &self.inner.definition.name;
        let missing = format!("saga {name}: this is said of the step before it, and there is none");
        self.inner.definition.steps.last_mut().expect(&missing)
    }

    #[doc(hidden)]
    pub fn erase(self) -> Erased {
        self.inner
    }
}

impl<S> fmt::Debug for Saga<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Saga").field(&self.inner.definition).finish()
    }
}

/// An async function that does a step or takes it back: `async fn(&Step, &mut State) -> saga::Result`.
pub trait Action<S>: AsyncFn(&Step, &mut S) -> Result + Clone + Send + Sync + 'static {}

impl<S, F: AsyncFn(&Step, &mut S) -> Result + Clone + Send + Sync + 'static> Action<S> for F {}

fn doing<S: Serialize + DeserializeOwned + 'static>(action: impl Action<S>) -> Doing {
    Box::new(move |step, state| {
        let action = action.clone();
        Box::pin(async move { run(&step, &state, &action).await.map_or_else(Outcome::from, Outcome::Done) })
    })
}

/// Runs an action over a state, and returns what it has changed.
async fn run<S: Serialize + DeserializeOwned>(step: &Step, state: &[u8], action: &impl Action<S>) -> Result<Vec<u8>> {
    let wrong = |error: serde_json::Error| failed(format_args!("the state is not that of the saga: {error}"));
    let mut state: S = serde_json::from_slice(state).map_err(wrong)?;
    // Both as the type has them: fields that it does not know are not its to remove.
    let before = serde_json::to_value(&state).map_err(wrong)?;
    action(step, &mut state).await?;
    match (before, serde_json::to_value(&state).map_err(wrong)?) {
        (Value::Object(before), Value::Object(after)) => json::to_vec(&difference(&before, after)).map_err(wrong),
        _ => Err(failed("the state is no JSON object: expected a struct with named fields, or a map")),
    }
}

/// The merge patch (RFC 7396) that makes the one of the other. What is null is as if it were not there.
fn difference(before: &Map<String, Value>, after: Map<String, Value>) -> Map<String, Value> {
    let gone = before.iter().filter(|(key, value)| !value.is_null() && after.get(*key).is_none_or(Value::is_null));
    let mut patch: Map<_, _> = gone.map(|(key, _)| (key.clone(), Value::Null)).collect();
    for (key, value) in after {
        match (before.get(&key), value) {
            (_, Value::Null) => {}
            (Some(Value::Object(before)), Value::Object(after)) => {
                let inner = difference(before, after);
                if !inner.is_empty() {
                    patch.insert(key, Value::Object(inner));
                }
            }
            (Some(before), value) if *before == value => {}
            (_, value) => _ = patch.insert(key, value),
        }
    }
    patch
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

// === impl Sagas ===

impl Sagas {
    pub fn new(sagas: impl IntoIterator<Item = Erased>) -> Self {
        Self(sagas.into_iter().collect())
    }

    pub fn definitions(&self) -> Vec<Definition> {
        self.0.iter().map(|saga| saga.definition.clone()).collect()
    }

    pub async fn act(&self, call: Call) -> Outcome {
        let found = self.find(&call).map(|(saga, at)| &saga.actions[at]);
        do_it(found, call).await
    }

    pub async fn compensate(&self, call: Call) -> Outcome {
        let found = self.find(&call).and_then(|(saga, at)| saga.compensations[at].as_ref());
        do_it(found, call).await
    }

    fn find(&self, call: &Call) -> Option<(&Erased, usize)> {
        let saga = self.0.iter().find(|saga| saga.definition.name == call.saga)?;
        Some((saga, saga.definition.steps.iter().position(|step| step.name == call.step)?))
    }
}

impl fmt::Debug for Sagas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|saga| &saga.definition)).finish()
    }
}

async fn do_it(found: Option<&Doing>, mut call: Call) -> Outcome {
    let Some(doing) = found else {
        // Another revision may know it.
        return retry(format_args!("this revision has no step `{}` of saga `{}`", call.step, call.saga)).into();
    };
    let state = std::mem::take(&mut call.state);
    doing(call.into(), state).await
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

#[cfg(test)]
mod tests;
