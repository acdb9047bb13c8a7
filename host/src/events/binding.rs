//! `wharf:messaging` for components: the import that publishes and the export that handles.

use super::{Event, InvalidEvent, NewEvent, PublishError, Publisher, Verdict};
use crate::{
    policy::{Fault, FaultKind},
    service::CallContext,
};
use std::time::Duration;
use wasmtime::{
    AsContextMut, StoreContextMut,
    component::{Accessor, Linker},
};

#[allow(missing_docs, reason = "made from the WIT package, which is documented")]
pub(crate) mod bindings {
    wasmtime::component::bindgen!({
        inline: "
            package wharf:events-host;
            world messaging {
                import wharf:messaging/publisher@0.1.0;
                export wharf:messaging/handler@0.1.0;
            }
        ",
        path: ["../wit/wharf/platform", "../wit/wharf/messaging"],
        world: "wharf:events-host/messaging",
        imports: { default: async | store },
        exports: { default: async | store },
    });
}

pub(crate) use bindings::wharf::messaging::publisher as wit;
pub use bindings::wharf::platform::faults;

/// An event as a component's handler takes it.
pub type WitEvent = bindings::wharf::messaging::types::Event;
/// What a component's handler says of it.
pub type WitVerdict = bindings::wharf::messaging::types::Verdict;

/// The interface that a component with subscriptions exports.
pub const HANDLER: &str = "wharf:messaging/handler@0.1.0";
/// The function of [`HANDLER`], of type `TypedFunc<(WitEvent,), (WitVerdict,)>`.
pub const HANDLE: &str = "handle";
/// The interface that a component which publishes imports.
pub const PUBLISHER: &str = "wharf:messaging/publisher@0.1.0";

/// Offers `wharf:messaging/publisher` to components.
///
/// `publisher` gives the store's right to publish and `current` the call that is being worked on, whose trace the
/// event goes on with.
///
/// The event is copied out of the component before its size is looked at: the store's `hostcall_fuel` bounds that.
///
/// # Errors
///
/// When the linker has the interface already.
pub fn add_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    publisher: fn(&mut T) -> Publisher,
    current: fn(StoreContextMut<'_, T>) -> Option<CallContext>,
) -> wasmtime::Result<()> {
    linker.instance(PUBLISHER)?.func_wrap_concurrent(
        "publish",
        move |accessor: &Accessor<T>, (event,): (wit::NewEvent,)| {
            Box::pin(async move {
                let (publisher, call) = accessor.with(|mut access| {
                    let call = current(access.as_context_mut());
                    (publisher(access.data_mut()), call)
                });
                let published = match NewEvent::try_from(event) {
                    Ok(event) => publisher.publish(event, call.map(|call| call.trace)).await,
                    Err(invalid) => Err(invalid.into()),
                };
                Ok((published.map_err(wit::PublishError::from),))
            })
        },
    )
}

impl From<(&Event, u32)> for WitEvent {
    fn from((event, attempt): (&Event, u32)) -> Self {
        Self {
            topic: event.topic.as_ref().to_owned(),
            id: event.id.clone(),
            source: event.source.as_ref().to_owned(),
            subject: event.subject.clone(),
            time: event.rfc3339(),
            datacontenttype: event.datacontenttype.clone().into_owned(),
            traceparent: event.traceparent.as_ref().map(ToString::to_string),
            attempt,
            data: event.data.to_vec(),
        }
    }
}

impl From<WitVerdict> for Verdict {
    fn from(verdict: WitVerdict) -> Self {
        /// The longest reason that goes into logs, in characters.
        const MAX_REASON: usize = 1024;
        match verdict {
            WitVerdict::Ack => Self::Ack,
            WitVerdict::Retry(after) => Self::Retry(after.map(Duration::from_millis)),
            WitVerdict::Reject(reason) => Self::Reject(reason.chars().take(MAX_REASON).collect()),
        }
    }
}

impl TryFrom<wit::NewEvent> for NewEvent {
    type Error = InvalidEvent;

    fn try_from(event: wit::NewEvent) -> Result<Self, InvalidEvent> {
        let wit::NewEvent { topic, subject, datacontenttype, data, due } = event;
        let event = Self { topic, subject, datacontenttype, data: data.into(), due: None };
        match due {
            Some(due) => event.due_at(&due),
            None => Ok(event),
        }
    }
}

impl From<PublishError> for wit::PublishError {
    fn from(err: PublishError) -> Self {
        match err {
            PublishError::Denied { .. } => Self::Denied(err.to_string()),
            PublishError::Invalid(invalid) => Self::Invalid(invalid.to_string()),
            PublishError::Fault(fault) => Self::Fault((&fault).into()),
        }
    }
}

impl From<&Fault> for faults::Fault {
    fn from(fault: &Fault) -> Self {
        Self {
            kind: fault.kind().into(),
            message: fault.message().to_owned(),
            retry_after_ms: fault.retry_after().map(|it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

impl From<FaultKind> for faults::FaultKind {
    fn from(kind: FaultKind) -> Self {
        match kind {
            FaultKind::Unreachable => Self::Unreachable,
            FaultKind::CircuitOpen => Self::CircuitOpen,
            FaultKind::Overloaded => Self::Overloaded,
            FaultKind::DeadlineExceeded => Self::DeadlineExceeded,
            FaultKind::Trapped => Self::Trapped,
            FaultKind::Cancelled => Self::Cancelled,
            FaultKind::Denied => Self::Denied,
        }
    }
}

#[cfg(test)]
mod tests;
