//! What customers are told.
//!
//! An event may be delivered more than once. A customer is told once, because what was sent is recorded under the
//! event's own identity.

use serde::{Deserialize, Serialize};
use wharf_sdk::{
    Error, Json, Query, Result, Router, db,
    events::{Event, Verdict},
    from_row, new_id, params, time,
};

wharf_sdk::service! {
    /// Sends e-mails for what happens in the shop.
    pub struct NotificationService {
        routes: routes,
        events: on_event,
        migrations: [("create notifications", include_str!("../migrations/1-create-notifications.sql"))],
    }
}

const LIST_MAX: u32 = 100;
const TEXT_MAX: usize = 254;
/// An address or two ids of that length, and what is said around them.
const MESSAGE_MAX: usize = 3 * TEXT_MAX;

fn routes() -> Router {
    Router::new().get("/notifications", list_notifications)
}

/// A notification, as clients see it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Notification {
    id: String,
    user_id: String,
    kind: String,
    recipient: Option<String>,
    message: String,
    sent_at: String,
}

from_row!(Notification { id, user_id, kind, recipient, message, sent_at });

/// The payload of `user.created`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct UserCreated {
    user_id: String,
    email: String,
}

/// The payload of `order.confirmed`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OrderConfirmed {
    order_id: String,
    user_id: String,
}

/// What is to be sent.
#[derive(Debug, PartialEq)]
struct Mail {
    user_id: String,
    kind: &'static str,
    recipient: Option<String>,
    message: String,
}

/// The query of `GET /notifications`: the newest of a user.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OfUser {
    user_id: String,
    limit: Option<u32>,
}

async fn on_event(event: Event) -> Verdict {
    let mut mail = match Mail::for_event(&event) {
        Ok(mail) => mail,
        Err(verdict) => return verdict,
    };
    match send_once(&event, &mut mail).await {
        Ok(()) => Verdict::Ack,
        Err(error) => {
            eprintln!("{} {}: {error}", event.topic, event.id);
            Verdict::Retry(None)
        }
    }
}

async fn send_once(event: &Event, mail: &mut Mail) -> db::Result<()> {
    if mail.recipient.is_none() {
        mail.recipient = address_of(&mail.user_id).await?;
    }
    let now = time::now();
    let recorded = db::execute(
        "INSERT INTO notifications (id, source, event_id, user_id, kind, recipient, message, sent_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (source, event_id) DO NOTHING",
        params![
            new_id(now),
            &event.source,
            &event.id,
            &mail.user_id,
            mail.kind,
            mail.recipient.clone(),
            &mail.message,
            now.to_string()
        ],
    )
    .await?;
    if recorded == 1 {
        println!("📧 Sending {}", mail.message);
    }
    Ok(())
}

/// The address that this user was welcomed at, where that has happened yet: events of different topics come in any
/// order.
async fn address_of(user_id: &str) -> db::Result<Option<String>> {
    let found: Option<(Option<String>,)> = db::query_optional(
        "SELECT recipient FROM notifications WHERE user_id = $1 AND kind = 'welcome' LIMIT 1",
        params![user_id],
    )
    .await?;
    Ok(found.and_then(|(recipient,)| recipient))
}

async fn list_notifications(Query(OfUser { user_id, limit }): Query<OfUser>) -> Result<Json<Vec<Notification>>> {
    let limit = limit.unwrap_or(LIST_MAX);
    if !(1..=LIST_MAX).contains(&limit) {
        return Err(Error::bad_request("Invalid limit, expected 1 to 100"));
    }
    let notifications = db::query(
        "SELECT id, user_id, kind, recipient, message, sent_at FROM notifications \
         WHERE user_id = $1 ORDER BY id DESC LIMIT $2",
        params![user_id, limit],
    )
    .await?;
    Ok(Json(notifications))
}

// === impl Mail ===

impl Mail {
    /// What is to be sent for an event, or the verdict on one that nothing can be sent for.
    fn for_event(event: &Event) -> Result<Self, Verdict> {
        let mail = match event.topic.as_str() {
            "user.created" => {
                let UserCreated { user_id, email } = event.payload()?;
                let message = format!("welcome email to {email}");
                Self { user_id, kind: "welcome", recipient: Some(email), message }
            }
            "order.confirmed" => {
                let OrderConfirmed { order_id, user_id } = event.payload()?;
                let message = format!("order confirmation for {order_id} to user {user_id}");
                Self { user_id, kind: "order-confirmation", recipient: None, message }
            }
            topic => return Err(Verdict::Reject(format!("nothing is sent for {topic}"))),
        };
        let is_plain = |text: &str, most: usize| text.len() <= most && !text.chars().any(char::is_control);
        if is_plain(&mail.message, MESSAGE_MAX) && is_plain(&mail.user_id, TEXT_MAX) {
            Ok(mail)
        } else {
            Err(Verdict::Reject(format!(
                "{} {}: an id or address is too long or not plain text",
                event.topic, event.id
            )))
        }
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

    #[test]
    fn new_users_are_welcomed_at_their_address() {
        let mail = Mail::for_event(&event("user.created", r#"{"userId":"u","email":"ada@example.com","name":"Ada"}"#));
        let mail = mail.map_err(|_| "rejected").unwrap();
        assert_eq!((mail.kind, mail.recipient.as_deref()), ("welcome", Some("ada@example.com")));
        assert_eq!(mail.message, "welcome email to ada@example.com");
    }

    #[test]
    fn the_longest_address_that_a_user_can_have_is_welcomed_too() {
        let longest = format!("{}@{}.com", "a".repeat(64), ["b".repeat(61), "c".repeat(61), "d".repeat(61)].join("."));
        assert_eq!(longest.len(), 254);
        let data = format!(r#"{{"userId":"u","email":"{longest}"}}"#);
        let mail = Mail::for_event(&event("user.created", &data)).map_err(|_| "rejected").unwrap();
        assert_eq!(mail.recipient, Some(longest));
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
