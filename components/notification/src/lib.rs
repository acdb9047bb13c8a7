//! What customers are told, by mail.
//!
//! An event may be delivered more than once. A customer is told once, because what was sent is recorded under the event's
//! own identity. Only a host that dies between a mail and its record sends it again, with the same Message-ID.

mod mail;

use self::mail::{Mail, Recipient};
use serde::{Deserialize, Serialize};
use wharf_sdk::{
    Error, Json, Query, Result, Router, db,
    events::{Event, Verdict},
    from_row,
    mail::{self as post, SendError},
    new_id, params, time,
};

wharf_sdk::service! {
    /// Sends e-mails for what happens in the shop.
    pub struct NotificationService {
        routes: routes,
        events: on_event,
        migrations: [
            ("create notifications", include_str!("../migrations/1-create-notifications.sql")),
            ("what came of them", include_str!("../migrations/2-what-came-of-them.sql")),
        ],
    }
}

const LIST_MAX: u32 = 100;

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
    /// `sent`, or `failed` where it never will be.
    status: String,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

from_row!(Notification { id, user_id, kind, recipient, message, sent_at, status, error });

/// The query of `GET /notifications`: the newest of a user.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OfUser {
    user_id: String,
    limit: Option<u32>,
}

async fn on_event(event: Event) -> Verdict {
    let mail = match Mail::for_event(&event) {
        Ok(Some(mail)) => mail,
        Ok(None) => return Verdict::Ack,
        Err(verdict) => return verdict,
    };
    match send_once(&event, &mail).await {
        Ok(verdict) => verdict,
        Err(error) => {
            eprintln!("{} {}: {error}", event.topic, event.id);
            Verdict::Retry(None)
        }
    }
}

/// Sends, and records what came of it. The record is the first that is written here: before, nothing is held up by a slow
/// mail server.
async fn send_once(event: &Event, mail: &Mail) -> db::Result<Verdict> {
    let Known { is_recorded, welcomed } = known(event, &mail.user_id).await?;
    if is_recorded {
        return Ok(Verdict::Ack);
    }
    // Events of different topics come in any order: the user's own may still be on its way.
    let Some(recipient) = mail.recipient.clone().or(welcomed) else { return Ok(Verdict::Retry(None)) };
    let error = match post::send(mail.to(&recipient, event)).await {
        Ok(_) => None,
        Err(SendError::Fault(fault)) => {
            eprintln!("{} {}: {fault}", event.topic, event.id);
            return Ok(Verdict::Retry(fault.retry_after_ms));
        }
        // It would be the same another time.
        Err(error) => Some(error.reason().to_owned()),
    };
    record(event, mail, recipient, error.as_deref()).await?;
    match error {
        None => println!("📧 Sending {}", mail.message),
        Some(error) => eprintln!("{} {}: {} is not sent: {error}", event.topic, event.id, mail.message),
    }
    Ok(Verdict::Ack)
}

/// What is known before an event is dealt with.
#[derive(Default)]
struct Known {
    /// Whether that has happened already.
    is_recorded: bool,
    /// Where its user was welcomed, where that has happened yet.
    welcomed: Option<Recipient>,
}

async fn known(event: &Event, user_id: &str) -> db::Result<Known> {
    let rows: Vec<(bool, Option<String>, Option<String>)> = db::query(
        "SELECT 1, NULL, NULL FROM notifications WHERE source = $1 AND event_id = $2 \
         UNION ALL SELECT 0, recipient, recipient_name FROM \
         (SELECT recipient, recipient_name FROM notifications WHERE user_id = $3 AND kind = 'welcome' LIMIT 1) AS welcome",
        params![&event.source, &event.id, user_id],
    )
    .await?;
    let mut known = Known::default();
    for (is_record, address, name) in rows {
        known.is_recorded |= is_record;
        known.welcomed = known.welcomed.or(address.map(|address| Recipient { name, address }));
    }
    Ok(known)
}

async fn record(event: &Event, mail: &Mail, recipient: Recipient, error: Option<&str>) -> db::Result<()> {
    let now = time::now();
    let status = if error.is_none() { "sent" } else { "failed" };
    db::execute(
        "INSERT INTO notifications \
         (id, source, event_id, user_id, kind, recipient, recipient_name, message, sent_at, status, error) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (source, event_id) DO NOTHING",
        params![
            new_id(now),
            &event.source,
            &event.id,
            &mail.user_id,
            mail.kind,
            recipient.address,
            recipient.name,
            &mail.message,
            now.to_string(),
            status,
            error.map(str::to_owned)
        ],
    )
    .await?;
    Ok(())
}

async fn list_notifications(Query(OfUser { user_id, limit }): Query<OfUser>) -> Result<Json<Vec<Notification>>> {
    let limit = limit.unwrap_or(LIST_MAX);
    if !(1..=LIST_MAX).contains(&limit) {
        return Err(Error::bad_request("Invalid limit, expected 1 to 100"));
    }
    let notifications = db::query(
        "SELECT id, user_id, kind, recipient, message, sent_at, status, error FROM notifications \
         WHERE user_id = $1 ORDER BY id DESC LIMIT $2",
        params![user_id, limit],
    )
    .await?;
    Ok(Json(notifications))
}
