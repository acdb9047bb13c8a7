//! `wharf:outbox` for components.
//!
//! Its types are those of `wharf:store` and `wharf:messaging`, which it only brings together.

use super::{Outbox, Refused};
use crate::{
    events::{NewEvent, PublishError, binding::wit},
    service::CallContext,
    store::{Access, Error, Held, SqlView, Statement, binding::HeldTransaction},
    telemetry::TraceContext,
};
use wasmtime::{
    AsContextMut, StoreContextMut,
    component::{Accessor, ComponentType, Linker, Lower, Resource},
};

/// The interface.
const OUTBOX: &str = "wharf:outbox/outbox@0.1.0";

/// Access to what a wasmtime store keeps for `wharf:outbox`.
pub struct OutboxView<'a> {
    /// The service's outbox, where it has one.
    pub outbox: Option<&'a Outbox>,
    /// The service's database, and the transactions that its guest holds.
    pub sql: SqlView<'a>,
}

#[derive(ComponentType, Lower)]
#[component(variant)]
enum OutboxError {
    #[component(name = "store")]
    Store(Error),
    #[component(name = "publish")]
    Publish(wit::PublishError),
}

type Batch = (Vec<Statement>, Vec<wit::NewEvent>);

/// Offers `wharf:outbox/outbox` to components; `get` finds the state in a store's data, and `current` the call that is being
/// worked on, with whose trace the events go on.
///
/// # Errors
///
/// When the linker has the interface already.
pub fn add_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    get: fn(&mut T) -> OutboxView<'_>,
    current: fn(StoreContextMut<'_, T>) -> CallContext,
) -> wasmtime::Result<()> {
    let mut instance = linker.instance(OUTBOX)?;
    instance.func_wrap_concurrent(
        "publish",
        move |accessor: &Accessor<T>, (held, event): (Resource<HeldTransaction>, wit::NewEvent)| {
            Box::pin(async move {
                let found = accessor.with(|mut access| {
                    let trace = current(access.as_context_mut()).trace;
                    let view = get(access.data_mut());
                    Ok::<_, wasmtime::Error>((view.outbox.cloned(), view.sql.held(&held)?, trace))
                });
                let (outbox, held, trace) = found?;
                Ok((publish(outbox, &held, event, trace).await.map_err(OutboxError::from),))
            })
        },
    )?;
    instance.func_wrap_concurrent("batch", move |accessor: &Accessor<T>, (statements, events): Batch| {
        Box::pin(async move {
            let (outbox, access, trace) = accessor.with(|mut access| {
                let call = current(access.as_context_mut());
                let view = get(access.data_mut());
                (view.outbox.cloned(), view.sql.ctx.access(call.unit), call.trace)
            });
            Ok((batch(outbox, access, statements, events, trace).await.map_err(OutboxError::from),))
        })
    })
}

async fn publish(
    outbox: Option<Outbox>,
    held: &Held,
    event: wit::NewEvent,
    trace: TraceContext,
) -> Result<String, Refused> {
    let event = NewEvent::try_from(event).map_err(PublishError::from)?;
    outbox.ok_or_else(|| none(&event))?.publish(held, event, Some(trace)).await
}

async fn batch(
    outbox: Option<Outbox>,
    access: Result<Access, Error>,
    statements: Vec<Statement>,
    events: Vec<wit::NewEvent>,
    trace: TraceContext,
) -> Result<(Vec<u64>, Vec<String>), Refused> {
    let access = access.map_err(Refused::Store)?;
    let events =
        events.into_iter().map(NewEvent::try_from).collect::<Result<Vec<_>, _>>().map_err(PublishError::from)?;
    match (outbox, events.first()) {
        (Some(outbox), _) => outbox.batch_by(&access, statements, events, Some(trace)).await,
        (None, Some(event)) => Err(none(event)),
        // A service without the right to publish that publishes nothing.
        (None, None) => Ok((access.batch(statements).await.map_err(Refused::Store)?, Vec::new())),
    }
}

/// A service with a database has an outbox as soon as it may publish anything.
fn none(event: &NewEvent) -> Refused {
    let topic = event.topic.chars().take(crate::events::MAX_TOPIC).collect();
    PublishError::Denied { service: "this".into(), topic }.into()
}

impl From<Refused> for OutboxError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Store(error) => Self::Store(error),
            Refused::Publish(error) => Self::Publish(error.into()),
        }
    }
}
