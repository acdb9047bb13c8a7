//! `wharf:saga` for components: the export with the steps, and the import that starts sagas.

use super::{Access, Again, Awaited, Definition, Error, MAX_WAIT, Outcome, Snapshot, Status, Step, StepCall, Wait};
use crate::service::CallContext;
use std::time::Duration;
use wasmtime::{
    AsContextMut, StoreContextMut,
    component::{Accessor, Instance, Linker},
};

#[allow(missing_docs, reason = "made from the WIT package, which is documented")]
mod bindings {
    wasmtime::component::bindgen!({
        inline: "
            package wharf:saga-host;
            world saga {
                import wharf:saga/sagas@0.1.0;
                export wharf:saga/steps@0.1.0;
            }
        ",
        path: ["../wit/wharf/platform", "../wit/wharf/messaging", "../wit/wharf/saga"],
        world: "wharf:saga-host/saga",
        with: {
            "wharf:platform/faults@0.1.0": crate::events::binding::bindings::wharf::platform::faults,
            "wharf:messaging/types@0.1.0": crate::events::binding::bindings::wharf::messaging::types,
        },
        imports: { default: async | store },
        exports: { default: async | store },
    });
}

/// A step's call, as a component takes it.
pub type WitCall = bindings::wharf::saga::types::Call;
/// What a component says of a step.
pub type WitOutcome = bindings::wharf::saga::types::Outcome;
use bindings::wharf::saga::{sagas as wit, types};

/// The interface that a component with sagas exports.
pub const STEPS: &str = "wharf:saga/steps@0.1.0";
/// The interface that a component imports which starts some.
const SAGAS: &str = "wharf:saga/sagas@0.1.0";

/// The longest reason that a component gives, in characters.
const MAX_REASON: usize = 1024;

/// What is done of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Doing {
    /// It is done.
    Action,
    /// It is taken back.
    Compensation,
}

/// The sagas that an instance says it has, unchecked; none where it does not export [`STEPS`].
///
/// # Errors
///
/// When the export has another type, or the guest traps.
pub async fn read_definitions(
    mut store: impl AsContextMut<Data: Send>,
    instance: &Instance,
) -> wasmtime::Result<Vec<Definition>> {
    let interface = instance.get_export_index(&mut store, None, STEPS);
    let Some(function) = interface.and_then(|it| instance.get_export_index(&mut store, Some(&it), "definitions"))
    else {
        return Ok(Vec::new());
    };
    let function = instance.get_typed_func::<(), (Vec<types::Definition>,)>(&mut store, &function)?;
    let (definitions,) = function.call_async(&mut store, ()).await?;
    Ok(definitions.into_iter().map(Definition::from).collect())
}

/// Offers `wharf:saga/sagas` to components; `access` gives what a store's service may start, and `current` the call that is
/// being worked on, whose deadline a wait keeps to and whose trace a start goes on with.
///
/// # Errors
///
/// When the linker has the interface already.
pub fn add_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    access: fn(&mut T) -> Access,
    current: fn(StoreContextMut<'_, T>) -> CallContext,
) -> wasmtime::Result<()> {
    let mut instance = linker.instance(SAGAS)?;
    instance.func_wrap_concurrent("start", move |accessor: &Accessor<T>, (of, input): (wit::Reference, Vec<u8>)| {
        Box::pin(async move {
            let (access, trace) = accessor.with(|mut it| {
                let trace = current(it.as_context_mut()).trace;
                (access(it.data_mut()), trace)
            });
            Ok((answer(access.start(trace, of.service.as_deref(), &of.saga, &of.id, input).await),))
        })
    })?;
    instance.func_wrap_concurrent("get", move |accessor: &Accessor<T>, (of,): (wit::Reference,)| {
        Box::pin(async move {
            let access = accessor.with(|mut it| access(it.data_mut()));
            Ok((answer(access.get(of.service.as_deref(), &of.saga, &of.id).await),))
        })
    })?;
    instance.func_wrap_concurrent("wait", move |accessor: &Accessor<T>, (of, ms): (wit::Reference, u64)| {
        Box::pin(async move {
            let (access, left) = accessor.with(|mut it| {
                let left = current(it.as_context_mut()).remaining();
                (access(it.data_mut()), left)
            });
            let time = Duration::from_millis(ms).min(MAX_WAIT).min(left);
            Ok((answer(access.wait(of.service.as_deref(), &of.saga, &of.id, time).await),))
        })
    })
}

fn answer(found: Result<Snapshot, Error>) -> Result<wit::Snapshot, wit::Error> {
    found.map(wit::Snapshot::from).map_err(wit::Error::from)
}

fn bounded(reason: &str) -> String {
    reason.chars().take(MAX_REASON).collect()
}

impl From<types::Definition> for Definition {
    fn from(definition: types::Definition) -> Self {
        let types::Definition { name, steps, timeout_ms } = definition;
        Self { name, steps: steps.into_iter().map(Step::from).collect(), timeout_ms }
    }
}

impl From<types::Step> for Step {
    fn from(step: types::Step) -> Self {
        let types::Step { name, beside, compensates, repeatable, wait } = step;
        let wait = wait.map(|types::Wait { until, timeout_ms }| {
            let until = match until {
                types::Awaited::Event(topic) => Awaited::Event(topic),
                types::Awaited::Time(ms) => Awaited::Time(ms),
            };
            Wait { until, timeout_ms }
        });
        Self { name, beside, compensates, repeatable, wait }
    }
}

impl From<StepCall> for WitCall {
    fn from(call: StepCall) -> Self {
        let StepCall { saga, id, step, key, attempt, started_at, state, event, reason, trace: _ } = call;
        Self {
            saga: saga.to_string(),
            id: id.to_string(),
            step,
            key,
            attempt,
            started_at: started_at.to_string(),
            state: state.into(),
            event: event.map(|event| (&*event, 1).into()),
            reason: reason.map(|reason| reason.to_string()),
        }
    }
}

impl From<WitOutcome> for Outcome {
    fn from(outcome: WitOutcome) -> Self {
        match outcome {
            WitOutcome::Done(patch) => Self::Done(patch.into()),
            WitOutcome::Failed(reason) => Self::Failed(bounded(&reason)),
            WitOutcome::Retry(types::Again { reason, after_ms }) => {
                Self::Retry(Again { reason: bounded(&reason), after: after_ms.map(Duration::from_millis) })
            }
        }
    }
}

impl From<Snapshot> for wit::Snapshot {
    fn from(snapshot: Snapshot) -> Self {
        let Snapshot { status, state, reason, started_at, ended_at } = snapshot;
        let status = match status {
            Status::Running => types::Status::Running,
            Status::Compensating => types::Status::Compensating,
            Status::Completed => types::Status::Completed,
            Status::Compensated => types::Status::Compensated,
        };
        let (started_at, ended_at) = (started_at.to_string(), ended_at.map(|at| at.to_string()));
        Self { status, state: state.into(), reason, started_at, ended_at }
    }
}

impl From<Error> for wit::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::NotFound(message) => Self::NotFound(message),
            Error::Conflict => Self::Conflict,
            Error::Invalid(message) => Self::Invalid(message),
            Error::Refused(message) => Self::Denied(message),
            Error::Fault(fault) => Self::Fault((&fault).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_component_says_is_bounded() {
        let long = "x".repeat(10_000);
        let Outcome::Failed(reason) = WitOutcome::Failed(long.clone()).into() else { panic!("it failed") };
        assert_eq!(reason.len(), MAX_REASON);
        let again = types::Again { reason: long, after_ms: Some(7) };
        let Outcome::Retry(again) = WitOutcome::Retry(again).into() else { panic!("it is tried again") };
        assert_eq!((again.reason.len(), again.after), (MAX_REASON, Some(Duration::from_millis(7))));
    }
}
