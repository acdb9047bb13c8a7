//! What customers are told by mail, and which events they are told of.

use serde::Deserialize;
use wharf_sdk::{
    events::{Event, Verdict},
    mail::{Mailbox, Message, escape_html},
};

/// The longest id, address or name, in characters.
const TEXT_MAX: usize = 254;
/// An address or two ids of that length, and what is said around them.
const MESSAGE_MAX: usize = 3 * TEXT_MAX;

/// The payload of `user.created`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct UserCreated {
    user_id: String,
    email: String,
    name: Option<String>,
}

/// The payload of `order.confirmed`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OrderConfirmed {
    order_id: String,
    user_id: String,
}

/// The payload of `order.cancelled`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OrderCancelled {
    order_id: String,
    user_id: String,
    /// Why, if it was not the customer who cancelled it.
    reason: Option<String>,
}

/// What is to be sent.
#[derive(Debug, PartialEq)]
pub struct Mail {
    /// Whom it is for.
    pub user_id: String,
    /// What kind of notification it is.
    pub kind: &'static str,
    /// Where it goes, where the event says so.
    pub recipient: Option<Recipient>,
    /// It in a few words, for the list of notifications.
    pub message: String,
    subject: String,
    paragraphs: Vec<String>,
}

/// A customer's address, and the name if it is known.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipient {
    /// The name.
    pub name: Option<String>,
    /// The address.
    pub address: String,
}

// === impl Mail ===

impl Mail {
    /// What is to be sent for an event, if anything is, or the verdict on one that can't be understood.
    pub fn for_event(event: &Event) -> Result<Option<Self>, Verdict> {
        let mail = match event.topic.as_str() {
            "user.created" => welcome(event.payload()?),
            "order.confirmed" => confirmation(event.payload()?),
            "order.cancelled" => {
                let OrderCancelled { order_id, user_id, reason } = event.payload()?;
                // Who cancelled an order knows that.
                let Some(reason) = reason else { return Ok(None) };
                cancellation(order_id, user_id, &reason)
            }
            topic => return Err(Verdict::Reject(format!("nothing is sent for {topic}"))),
        };
        let is_plain = |text: &str, most| text.chars().count() <= most && !text.chars().any(char::is_control);
        let name = mail.recipient.as_ref().and_then(|it| it.name.as_deref()).unwrap_or_default();
        if is_plain(&mail.message, MESSAGE_MAX) && is_plain(&mail.user_id, TEXT_MAX) && is_plain(name, TEXT_MAX) {
            Ok(Some(mail))
        } else {
            Err(Verdict::Reject(format!(
                "{} {}: an id, name or address is too long or not plain text",
                event.topic, event.id
            )))
        }
    }

    /// It as a message to its recipient. An event that comes twice makes the same of it twice.
    pub fn to(&self, recipient: &Recipient, event: &Event) -> Message {
        let Recipient { name, address } = recipient;
        let greeting = name.as_ref().map_or_else(|| "Hello,".to_owned(), |name| format!("Hello {name},"));
        let paragraphs = || std::iter::once(&greeting).chain(&self.paragraphs);
        let text: Vec<_> = paragraphs().map(String::as_str).collect();
        let html: String = paragraphs().map(|it| format!("<p>{}</p>\n", escape_html(it))).collect();
        let html = format!("<!DOCTYPE html>\n<html>\n<body>\n{html}</body>\n</html>\n");
        let to = Mailbox { name: name.clone(), address: address.clone() };
        Message::new(to, &self.subject, text.join("\n\n") + "\n").with_html(html).with_key(&event.id)
    }
}

fn welcome(UserCreated { user_id, email, name }: UserCreated) -> Mail {
    Mail {
        user_id,
        kind: "welcome",
        message: format!("welcome email to {email}"),
        recipient: Some(Recipient { name, address: email }),
        subject: "Welcome to The Shop".to_owned(),
        paragraphs: vec!["your account is ready. Good to have you here!".to_owned()],
    }
}

fn confirmation(OrderConfirmed { order_id, user_id }: OrderConfirmed) -> Mail {
    Mail {
        kind: "order-confirmation",
        message: format!("order confirmation for {order_id} to user {user_id}"),
        recipient: None,
        subject: format!("Your order {order_id} is confirmed"),
        paragraphs: vec![format!("your order {order_id} is confirmed and on its way to you soon. Thank you!")],
        user_id,
    }
}

fn cancellation(order_id: String, user_id: String, reason: &str) -> Mail {
    Mail {
        kind: "order-cancelled",
        message: format!("order cancellation for {order_id} to user {user_id}"),
        recipient: None,
        subject: format!("Your order {order_id} could not be completed"),
        paragraphs: vec![
            format!("your order {order_id} could not be completed and is cancelled: {reason}"),
            "What was paid for it is paid back.".to_owned(),
        ],
        user_id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(topic: &str, data: &str) -> Event {
        Event {
            topic: topic.into(),
            id: "e-1".into(),
            source: "/services/test".into(),
            subject: None,
            time: "2026-11-22T21:35:15.123Z".into(),
            datacontenttype: "application/json".into(),
            traceparent: None,
            attempt: 1,
            data: data.into(),
        }
    }

    fn mail(topic: &str, data: &str) -> Option<Mail> {
        Mail::for_event(&event(topic, data)).map_err(|_| "rejected").unwrap()
    }

    #[test]
    fn new_users_are_welcomed_at_their_address() {
        let data = r#"{"userId":"u","email":"ada@example.com","name":"Ada <b>"}"#;
        let mail = mail("user.created", data).unwrap();
        assert_eq!((mail.kind, &*mail.message), ("welcome", "welcome email to ada@example.com"));
        let recipient = mail.recipient.clone().unwrap();
        let message = mail.to(&recipient, &event("user.created", data));
        assert_eq!(message.to, [Mailbox::named("Ada <b>", "ada@example.com")]);
        assert_eq!(message.key.as_deref(), Some("e-1"));
        assert!(message.text.starts_with("Hello Ada <b>,\n\n"), "{}", message.text);
        assert!(message.html.unwrap().contains("<p>Hello Ada &lt;b&gt;,</p>"));
    }

    #[test]
    fn the_longest_address_and_name_that_a_user_can_have_are_welcomed_too() {
        let longest = format!("{}@{}.com", "a".repeat(64), ["b".repeat(61), "c".repeat(61), "d".repeat(61)].join("."));
        assert_eq!(longest.len(), 254);
        let data = format!(r#"{{"userId":"u","email":"{longest}","name":"{}"}}"#, "ä".repeat(200));
        assert_eq!(mail("user.created", &data).unwrap().recipient.unwrap().address, longest);
    }

    #[test]
    fn of_a_cancelled_order_customers_are_told_if_they_did_not_cancel_it() {
        assert_eq!(mail("order.cancelled", r#"{"orderId":"o","userId":"u"}"#), None);
        let told = mail("order.cancelled", r#"{"orderId":"o","userId":"u","reason":"the card was declined"}"#);
        assert!(told.unwrap().paragraphs[0].ends_with(": the card was declined"));
    }

    #[test]
    fn what_cannot_be_understood_is_rejected_and_not_retried() {
        let long = format!(r#"{{"userId":"{}","orderId":"o"}}"#, "u".repeat(300));
        for (topic, data) in [
            ("user.created", "not json"),
            ("user.created", r#"{"userId":"u"}"#),
            ("user.created", r#"{"userId":"u","email":"a\nb"}"#),
            ("order.confirmed", &long),
            ("order.shipped", "{}"),
        ] {
            assert!(matches!(Mail::for_event(&event(topic, data)), Err(Verdict::Reject(_))), "{topic} {data}");
        }
    }
}
