//! Sending mail, in the name that the manifest gives this service: `mail = { from = "…" }`.
//!
//! ```ignore
//! let ada = Mailbox::named("Ada Lovelace", "ada@example.com");
//! let message = Message::new(ada, "Welcome", "Good to have you here.").with_key(&event.id);
//! mail::send(message).await?;
//! ```
//!
//! Whoever may send a message twice, since an event may come twice, gives it a key: then both have the same Message-ID.

use crate::bindings::wharf::mail::mailer;
pub use crate::bindings::wharf::mail::mailer::{Mailbox, Message, SendError};
use std::borrow::Cow;

/// Hands a message to the mail server, and returns its Message-ID.
///
/// # Errors
/// [`SendError::Fault`] where another try may succeed; with the others it will not.
pub async fn send(message: Message) -> Result<String, SendError> {
    mailer::send(message).await
}

/// Text as HTML that shows just that text, in an element or an attribute in quotes.
pub fn escape_html(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<', '>', '"', '\'']) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    Cow::Owned(escaped)
}

impl Mailbox {
    /// An address without a name.
    pub fn new(address: impl Into<String>) -> Self {
        Self { name: None, address: address.into() }
    }

    /// An address with the name of who it is.
    pub fn named(name: impl Into<String>, address: impl Into<String>) -> Self {
        Self { name: Some(name.into()), address: address.into() }
    }
}

impl Message {
    /// A message to one.
    pub fn new(to: Mailbox, subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            key: None,
            to: vec![to],
            cc: Vec::new(),
            bcc: Vec::new(),
            reply_to: None,
            subject: subject.into(),
            text: text.into(),
            html: None,
        }
    }

    /// The same in HTML too.
    #[must_use]
    pub fn with_html(self, html: impl Into<String>) -> Self {
        Self { html: Some(html.into()), ..self }
    }

    /// With what a repetition of it is recognised by.
    #[must_use]
    pub fn with_key(self, key: impl Into<String>) -> Self {
        Self { key: Some(key.into()), ..self }
    }
}

impl SendError {
    /// Why, for people.
    pub fn reason(&self) -> &str {
        match self {
            Self::Denied(reason) | Self::Invalid(reason) | Self::Refused(reason) => reason,
            Self::Fault(fault) => &fault.message,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_shows_the_text_and_nothing_else() {
        assert_eq!(escape_html("Ada & <b>'\"</b>"), "Ada &amp; &lt;b&gt;&#39;&quot;&lt;/b&gt;");
        assert!(matches!(escape_html("Ada"), Cow::Borrowed("Ada")));
    }
}
