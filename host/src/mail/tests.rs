//! What mail promises: that nothing becomes a header that is not meant to, that a letter is in its folder whole, and what a
//! server's words come to. Real servers are in `tests/tests/mail.rs`.

mod folder;
mod headers;
mod smtp;

use super::*;

fn mailbox(text: &str) -> Mailbox {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

fn shop() -> Mailbox {
    mailbox("The Shop <shop@example.com>")
}

fn message(subject: &str) -> Message {
    let to = vec![mailbox("Ada <ada@example.com>")];
    Message { to, subject: subject.into(), text: "Hello".into(), ..Message::default() }
}

fn letter(message: &Message) -> Result<Letter, Invalid> {
    let id = compose::message_id("shop/notification", &shop(), message.key.as_deref());
    Letter::compose(&shop(), id, message)
}
