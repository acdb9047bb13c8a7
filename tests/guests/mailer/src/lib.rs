//! Sends the mail that it is told to send.
//!
//! `GET /send?to=…&cc=…&bcc=…&name=…&reply-to=…&subject=…&text=…&html=…&key=…`, each percent-encoded, is answered with 200
//! and the Message-ID, 403 `denied`, 422 `invalid`, 409 `refused` or 424 `fault`, with the reason; of
//! these statuses the gateway tries none again. Of `to`, `cc` and `bcc`
//! there can be several, apart by `|`; `name` is that of the first `to`. `size=…` is a text of that many bytes.

use wasip3::http::types::{ErrorCode, Request, Response};

mod wit {
    wit_bindgen::generate!({
        path: ["../../../wit/wharf/platform", "../../../wit/wharf/mail"],
        inline: "
            package probe:mailer;
            world mailer { import wharf:mail/mailer@0.1.0; }
        ",
        world: "probe:mailer/mailer",
        generate_all,
    });
}
use wit::wharf::mail::mailer::{self, Mailbox, Message, SendError};

wasip3::http::service::export!(Mailer);
struct Mailer;

impl wasip3::exports::http::handler::Guest for Mailer {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let (_, query) = reply::target(&request);
        let given = |name| Some(decoded(reply::param(&query, name))).filter(|value| !value.is_empty());
        let all = |name| {
            let list = given(name).unwrap_or_default();
            let each = list.split('|').filter(|address| !address.is_empty());
            each.map(|address| Mailbox { name: None, address: address.to_owned() }).collect::<Vec<_>>()
        };
        let mut to = all("to");
        if let (Some(first), name @ Some(_)) = (to.first_mut(), given("name")) {
            first.name = name;
        }
        let size = given("size").and_then(|size| size.parse().ok());
        let text = size.map_or_else(|| given("text").unwrap_or_default(), |size| "x".repeat(size));
        let sent = mailer::send(Message {
            key: given("key"),
            to,
            cc: all("cc"),
            bcc: all("bcc"),
            reply_to: given("reply-to").map(|address| Mailbox { name: None, address }),
            subject: given("subject").unwrap_or_default(),
            text,
            html: given("html"),
        });
        match sent.await {
            Ok(id) => reply::text(200, id),
            Err(SendError::Denied(reason)) => reply::text(403, format!("denied: {reason}")),
            Err(SendError::Invalid(reason)) => reply::text(422, format!("invalid: {reason}")),
            Err(SendError::Refused(reason)) => reply::text(409, format!("refused: {reason}")),
            Err(SendError::Fault(fault)) => {
                reply::text(424, format!("fault: {:?} {:?}: {}", fault.kind, fault.retry_after_ms, fault.message))
            }
        }
    }
}

/// Percent-decoded, with `?` for what is no text.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(b) = rest.next() {
        let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16)).unwrap_or_default();
        match b {
            b'%' => bytes.push((digit(rest.next()) * 16 + digit(rest.next())) as u8),
            b => bytes.push(b),
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| "?".to_owned())
}
