//! A saga as a service declares it, and the calls of its steps.

use super::{Call, Definition, Outcome, Result, Step, failed, millis, retry, types};
use crate::json;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use std::{fmt, marker::PhantomData, pin::Pin, time::Duration};

/// A saga over a state, with its steps.
pub struct Saga<S> {
    inner: Erased,
    state: PhantomData<fn(S)>,
}

type Doing = Box<dyn Fn(Step, Vec<u8>) -> Pin<Box<dyn Future<Output = Outcome>>> + Send + Sync>;

/// A saga whose state is nobody's business any more.
#[doc(hidden)]
pub struct Erased {
    pub(super) definition: Definition,
    actions: Vec<Doing>,
    compensations: Vec<Option<Doing>>,
}

/// The sagas of a service.
#[doc(hidden)]
pub struct Sagas(Vec<Erased>);

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
pub(super) fn difference(before: &Map<String, Value>, after: Map<String, Value>) -> Map<String, Value> {
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
