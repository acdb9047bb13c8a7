//! `wharf:mail` for components.

use super::{Invalid, Mailbox, Mailer, Message, SendError, compose::check_count};
use crate::service::CallContext;
use std::sync::Arc;
use wasmtime::{
    AsContextMut, StoreContextMut,
    component::{Accessor, Linker},
};

#[allow(missing_docs, reason = "made from the WIT package, which is documented")]
mod bindings {
    wasmtime::component::bindgen!({
        inline: "
            package wharf:mail-host;
            world mail { import wharf:mail/mailer@0.1.0; }
        ",
        path: ["../wit/wharf/platform", "../wit/wharf/mail"],
        world: "wharf:mail-host/mail",
        imports: { default: async | store },
        with: { "wharf:platform/faults": crate::events::binding::faults },
    });
}

pub(super) use bindings::wharf::mail::mailer as wit;

/// The interface that a component which sends mail imports.
pub const MAILER: &str = "wharf:mail/mailer@0.1.0";

/// What a store says of its service: who it is, and its right to send, if it has it.
pub type Sender = (Arc<str>, Option<Mailer>);

/// Offers `wharf:mail/mailer` to components; `sender` gives the store's right to send, and `current` the call that is being
/// worked on.
///
/// The message is copied out of the component before its size is looked at: the store's `hostcall_fuel` bounds that.
///
/// # Errors
///
/// When the linker has the interface already.
pub fn add_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    sender: fn(&mut T) -> Sender,
    current: fn(StoreContextMut<'_, T>) -> CallContext,
) -> wasmtime::Result<()> {
    linker.instance(MAILER)?.func_wrap_concurrent("send", move |accessor: &Accessor<T>, (message,): (wit::Message,)| {
        Box::pin(async move {
            let ((service, mailer), call) = accessor.with(|mut access| {
                let call = current(access.as_context_mut());
                (sender(access.data_mut()), call)
            });
            let sent = match (mailer, Message::try_from(message)) {
                (None, _) => Err(SendError::Denied(service.to_string())),
                (Some(_), Err(invalid)) => Err(invalid.into()),
                (Some(mailer), Ok(message)) => mailer.send(&call, message).await,
            };
            Ok((sent.map_err(wit::SendError::from),))
        })
    })
}

impl TryFrom<wit::Message> for Message {
    type Error = Invalid;

    fn try_from(message: wit::Message) -> Result<Self, Invalid> {
        let wit::Message { key, to, cc, bcc, reply_to, subject, text, html } = message;
        // Before any of them is looked at.
        check_count(to.len() + cc.len() + bcc.len())?;
        let one = |wit::Mailbox { name, address }: wit::Mailbox| Mailbox::new(name, &address);
        let all = |mailboxes: Vec<wit::Mailbox>| mailboxes.into_iter().map(one).collect::<Result<Vec<_>, _>>();
        let reply_to = reply_to.map(one).transpose()?;
        Ok(Self { key, to: all(to)?, cc: all(cc)?, bcc: all(bcc)?, reply_to, subject, text, html })
    }
}

impl From<SendError> for wit::SendError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Denied(_) => Self::Denied(error.to_string()),
            SendError::Invalid(invalid) => Self::Invalid(invalid.to_string()),
            SendError::Refused(refused) => Self::Refused(refused.to_string()),
            SendError::Fault(fault) => Self::Fault((&fault).into()),
        }
    }
}
