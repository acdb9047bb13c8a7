//! `wharf:mail`: sending mail.
//!
//! A service may send if its manifest names a sender. Its messages take the way of every call: over the edge
//! `SERVICE -> mail`, with its deadline, retries, circuit breaker and bulkhead, to the application's one [`Post`]. That puts
//! them into a folder, or hands them to an SMTP server:
//!
//! ```text
//! binding -> Mailer (may it, is it one, room) -> edge (policy) -> Post -> folder | SMTP server
//! ```
//!
//! What a server says for good (5xx) is an answer, which is never tried again and never counts against the breaker. What it
//! says for now (4xx), and that it says nothing, are faults. Where it may have taken the message and nobody knows, the fault
//! is one that is not tried again here: two messages are not as good as one.
//!
//! That no header can be made of what a guest says is a matter of construction: addresses are of a few characters, other
//! text is plain words or RFC 2047's base64, and nothing else is ever written into a header.

mod binding;
mod compose;
mod folder;
mod header;
mod mailbox;
mod smtp;
#[cfg(test)]
mod tests;

pub use self::{
    binding::add_to_linker,
    compose::{Letter, Message},
    mailbox::Mailbox,
    smtp::{Login, SmtpSettings, Tls},
};

use self::{folder::Folder, smtp::Smtp};
use crate::{
    policy::{Fault, FaultKind},
    service::{CallContext, Edge},
};
use arc_swap::ArcSwap;
use std::{io, path::PathBuf, sync::Arc};
use tokio::sync::Semaphore;

/// The most recipients of a message.
pub const MAX_RECIPIENTS: usize = 50;
/// The longest subject, in bytes.
pub const MAX_SUBJECT: usize = 998;
/// The longest text or HTML, in bytes each.
pub const MAX_BODY: usize = 1 << 20;
/// The longest key, in bytes.
pub const MAX_KEY: usize = 256;
/// The longest name of a mailbox, in bytes.
pub const MAX_NAME: usize = 256;

/// What the messages of one service that are under way may come to, in KiB. Encoded they are up to four times that.
const ROOM: u32 = 16 << 10;

/// Up to this, in bytes, a message is encoded where it is sent: that takes less than to hand it to another thread and back.
const SHORT: usize = 16 << 10;

/// Where the mail of an application goes.
#[derive(Clone, Debug)]
pub enum MailSettings {
    /// Into files of this folder.
    Folder(PathBuf),
    /// To a server.
    Smtp(SmtpSettings),
}

/// What delivers the mail of an application, however its settings change.
#[derive(Debug)]
pub struct Post(ArcSwap<Way>);

/// Where mail goes, ready to take it.
#[derive(Debug)]
pub struct Way(Backend);

#[derive(Debug)]
enum Backend {
    Folder(Folder),
    Smtp(Smtp),
}

/// The right of one service to send mail. Clones are the same.
#[derive(Clone)]
pub struct Mailer {
    /// `<app>/<service>`, which keeps keys apart.
    owner: Arc<str>,
    from: Mailbox,
    edge: Arc<Edge>,
    room: Arc<Semaphore>,
}

/// What is no mail.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(String);

/// A server's word that it will never take a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(String);

/// What came of a message that was handed over: the server has it, or will not have it.
pub type Handed = Result<(), Refused>;

/// Why a message was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The service may not send.
    #[error(
        "the manifest does not let service {0} send mail; it would say mail = {{ from = \"…\" }} in [services.{0}]"
    )]
    Denied(String),
    /// It is no message.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The server refused it for good.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It could not be handed over, or nobody knows whether it was.
    #[error("{}: {}", .0.kind(), .0.message())]
    Fault(Fault),
}

// === impl Way ===

impl Way {
    /// Makes ready to deliver. A server is not asked for anything before there is mail for it: it may come and go.
    ///
    /// # Errors
    ///
    /// When the folder can't be made.
    pub fn open(settings: MailSettings) -> io::Result<Self> {
        Ok(Self(match settings {
            MailSettings::Folder(path) => Backend::Folder(Folder::open(path)?),
            MailSettings::Smtp(settings) => Backend::Smtp(Smtp::new(settings)),
        }))
    }
}

// === impl Post ===

impl Post {
    /// Mail goes this way.
    pub fn new(way: Way) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(way)))
    }

    /// From now on it goes another way. What is under way arrives by the old one.
    pub fn replace(&self, way: Way) {
        self.0.store(Arc::new(way));
    }

    /// Hands over a letter, once.
    ///
    /// # Errors
    ///
    /// When it could not be handed over, or nobody knows whether it was; the kind of the fault says which.
    pub async fn deliver(&self, letter: &Arc<Letter>) -> Result<Handed, Fault> {
        let way = self.0.load_full();
        match &way.0 {
            Backend::Folder(folder) => folder.deliver(letter).await.map(Ok),
            Backend::Smtp(smtp) => smtp.deliver(letter).await,
        }
    }
}

// === impl Mailer ===

impl Mailer {
    /// The right of `service` to send over this edge, which leads to the application's post.
    pub fn new(app: &str, service: &str, from: Mailbox, edge: Arc<Edge>) -> Self {
        let room = Arc::new(Semaphore::new(ROOM as usize));
        Self { owner: format!("{app}/{service}").into(), from, edge, room }
    }

    /// Sends a message on behalf of a call, and returns its Message-ID.
    ///
    /// # Errors
    ///
    /// Why it was not sent, or may not have been.
    pub async fn send(&self, context: &CallContext, message: Message) -> Result<String, SendError> {
        let size = message.size();
        let room = u32::try_from(size.div_ceil(1 << 10)).unwrap_or(u32::MAX);
        let Ok(_room) = self.room.try_acquire_many(room) else {
            let why = format!(
                "{}: as much mail of this service is under way as may be ({} MiB)",
                self.edge.name(),
                ROOM >> 10
            );
            return Err(SendError::Fault(Fault::new(FaultKind::Overloaded, why)));
        };
        let id = compose::message_id(&self.owner, &self.from, message.key.as_deref());
        let letter = if size <= SHORT {
            Letter::compose(&self.from, id, &message)?
        } else {
            let from = self.from.clone();
            // Encoding a megabyte takes milliseconds, for which no neighbour shall wait.
            let composing = tokio::task::spawn_blocking(move || Letter::compose(&from, id, &message));
            match composing.await {
                Ok(letter) => letter?,
                Err(error) => return Err(SendError::Fault(Fault::new(FaultKind::Cancelled, error.to_string()))),
            }
        };
        let letter = Arc::new(letter);
        self.edge.mail(context, &letter).await.map_err(SendError::Fault)??;
        tracing::debug!(edge = &**self.edge.name(), id = letter.id(), "mail was handed over");
        Ok(letter.id().to_owned())
    }
}
