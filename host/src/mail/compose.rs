//! From what a service says to a message as it is sent (RFC 5322, MIME).

use super::{Invalid, MAX_BODY, MAX_KEY, MAX_RECIPIENTS, MAX_SUBJECT, Mailbox, header};
use lettre::{
    address::Envelope,
    message::{MultiPart, SinglePart},
};
use sha2::{Digest, Sha256};

/// What a service wants to send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// What it is known by.
    pub key: Option<String>,
    /// Who is addressed.
    pub to: Vec<Mailbox>,
    /// Who gets a copy.
    pub cc: Vec<Mailbox>,
    /// Who gets a copy that nobody sees.
    pub bcc: Vec<Mailbox>,
    /// Where answers go.
    pub reply_to: Option<Mailbox>,
    /// The subject.
    pub subject: String,
    /// The text.
    pub text: String,
    /// The same as HTML.
    pub html: Option<String>,
}

/// A message, ready to be handed over.
#[derive(Clone, Debug)]
pub struct Letter {
    id: String,
    envelope: Envelope,
    bcc: String,
    content: Vec<u8>,
}

/// The Message-ID for a key: the same for the same owner, key and domain. None of what it is made of can be read in it.
pub(super) fn message_id(owner: &str, from: &Mailbox, key: Option<&str>) -> String {
    let left = match key {
        Some(key) => {
            // The length keeps what is the owner apart from what is the key.
            let hash = format!("{:x}", Sha256::digest(format!("{} {owner} {key}", owner.len())));
            hash.chars().take(40).collect()
        }
        None => uuid::Uuid::now_v7().simple().to_string(),
    };
    format!("<{left}@{}>", from.domain())
}

// === impl Message ===

impl Message {
    /// Roughly the bytes that it takes.
    pub(super) fn size(&self) -> usize {
        let addressed = self.to.len() + self.cc.len() + self.bcc.len();
        self.text.len() + self.html.as_ref().map_or(0, String::len) + (addressed + 4) * 1024
    }

    fn check(&self) -> Result<(), Invalid> {
        check_count(self.to.len() + self.cc.len() + self.bcc.len())?;
        if let Some(key) = self.key.as_ref().filter(|key| key.len() > MAX_KEY || key.is_empty()) {
            return Err(Invalid(format!("a key has 1 to {MAX_KEY} bytes, and this one {}", key.len())));
        }
        header::check("the subject", &self.subject, MAX_SUBJECT)?;
        for (what, body) in [("text", Some(&self.text)), ("html", self.html.as_ref())] {
            let Some(body) = body else { continue };
            if body.len() > MAX_BODY {
                return Err(Invalid(format!("`{what}` has {} bytes, and may have {MAX_BODY}", body.len())));
            }
            if body.contains('\0') {
                return Err(Invalid(format!("`{what}` has the character NUL, which mail can't carry")));
            }
        }
        Ok(())
    }
}

/// Whether so many may be addressed.
pub(super) fn check_count(recipients: usize) -> Result<(), Invalid> {
    match recipients {
        1..=MAX_RECIPIENTS => Ok(()),
        count => Err(Invalid(format!("expected 1 to {MAX_RECIPIENTS} recipients, found {count}"))),
    }
}

// === impl Letter ===

impl Letter {
    /// Writes a message of this sender, as of now.
    pub(super) fn compose(from: &Mailbox, id: String, message: &Message) -> Result<Self, Invalid> {
        message.check()?;
        let Message { to, cc, bcc, reply_to, subject, .. } = message;
        let date = jiff::fmt::rfc2822::to_string(&jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC));
        let mut head = String::new();
        let mut line = |name: &str, value: &str| {
            head.push_str(name);
            head.push_str(": ");
            head.push_str(value);
            head.push_str("\r\n");
        };
        line("Date", &date.map_err(|error| Invalid(format!("the host's clock is of no use: {error}")))?);
        line("Message-ID", &id);
        line("From", &header::mailboxes([from]));
        if let Some(reply_to) = reply_to {
            line("Reply-To", &header::mailboxes([reply_to]));
        }
        match (to.is_empty(), cc.is_empty()) {
            (false, _) => line("To", &header::mailboxes(to)),
            // One of them must be there (RFC 5322, 3.6.3, until recently).
            (true, true) => line("To", "undisclosed-recipients:;"),
            (true, false) => {}
        }
        if !cc.is_empty() {
            line("Cc", &header::mailboxes(cc));
        }
        if !subject.is_empty() {
            line("Subject", &header::unstructured(subject));
        }
        line("Auto-Submitted", "auto-generated");
        line("MIME-Version", "1.0");
        let mut content = head.into_bytes();
        let text = with_ends(&message.text);
        content.extend(match &message.html {
            None => {
                let mut part = SinglePart::plain(text).formatted();
                // The end of the last line is SMTP's to add.
                part.truncate(part.strip_suffix(b"\r\n").map_or(part.len(), <[u8]>::len));
                part
            }
            Some(html) => MultiPart::alternative_plain_html(text, with_ends(html)).formatted(),
        });
        let all = to.iter().chain(cc).chain(bcc).map(Mailbox::to_lettre).collect();
        let envelope = Envelope::new(Some(from.to_lettre()), all).map_err(|error| Invalid(error.to_string()))?;
        let bcc = if bcc.is_empty() { String::new() } else { format!("Bcc: {}\r\n", header::mailboxes(bcc)) };
        Ok(Self { id, envelope, bcc, content })
    }

    /// Its Message-ID.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Who sends it and who gets it.
    pub(super) fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// What is sent.
    pub(super) fn content(&self) -> &[u8] {
        &self.content
    }

    /// The header that only its writer sees, or nothing.
    pub(super) fn bcc(&self) -> &str {
        &self.bcc
    }
}

/// With the one line end that mail knows, whichever was meant: a lone CR or LF is where mail servers disagree on where a
/// message ends.
fn with_ends(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n").replace('\n', "\r\n")
}
