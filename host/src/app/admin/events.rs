//! The part of the admin API about events: dead letters, and the past of topics.
//!
//! Bounded like all of it: a list has at most [`MAX_LISTED`] letters and none of their payloads, and whatever concerns all
//! letters is done in pages. What dies while that goes on is left for the next time, or a replay of letters that die again
//! would have no end.

use super::{json, problem};
use crate::{
    events::{
        ArchiveError, Bus, DeadLetter, DeadLetterFilter, DeadReason, Event, MAX_LISTED, ReplayFrom,
        SubscriptionSnapshot,
    },
    manifest::did_you_mean,
    service::Body,
};
use hyper::{Method, Response, StatusCode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// How many letters are held at a time, with their payloads.
const PAGE: usize = 100;
/// How many letters a list has where nothing else is asked for.
const LISTED: usize = 100;

/// A dead letter without its payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// By what it is named.
    pub letter: String,
    /// When it was given up, RFC 3339.
    pub at: String,
    /// The topic of the event.
    pub topic: String,
    /// The subscribing service.
    pub service: String,
    /// Why it was given up.
    pub reason: DeadReason,
    /// The last error.
    pub error: String,
    /// How often it was tried.
    pub attempts: u32,
    /// The event's id.
    pub id: String,
    /// What it is about.
    pub subject: Option<String>,
    /// The bytes of its payload.
    pub bytes: usize,
}

/// Some dead letters, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letters {
    /// The letters.
    pub letters: Vec<Letter>,
    /// Whether there are more after the last of them.
    pub more: bool,
}

/// A dead letter with its event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WholeLetter {
    /// All but the event.
    #[serde(flatten)]
    pub letter: Letter,
    /// The event in the JSON format of CloudEvents 1.0.
    pub event: serde_json::Value,
}

/// What was done to how many events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handled {
    /// To so many it was done.
    pub count: u64,
    /// So many of those that were named are not there.
    pub missing: u64,
}

/// Which dead letters an operator means.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Selection {
    #[serde(default)]
    letters: Vec<String>,
    #[serde(default)]
    all: bool,
    topic: Option<String>,
    service: Option<String>,
    reason: Option<DeadReason>,
}

/// Which replays are to end.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Replays {
    topic: String,
    service: String,
}

/// The past of a topic, for one subscription.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Past {
    topic: String,
    service: String,
    from: Option<String>,
    offset: Option<String>,
}

/// What is done to dead letters.
#[derive(Clone, Copy)]
enum Deed {
    Replay,
    Drop,
}

/// Answers a request for a path below `/v1/events`.
pub(super) async fn answer(bus: &Bus, method: &Method, path: &[&str], query: &str, body: &[u8]) -> Response<Body> {
    let answered = match (method, path) {
        (&Method::GET, ["dead-letters"]) => list(bus, query).await.map(|letters| json(StatusCode::OK, &letters)),
        (&Method::POST, ["dead-letters", "replay"]) => handle(bus, Deed::Replay, body).await,
        (&Method::POST, ["dead-letters", "drop"]) => handle(bus, Deed::Drop, body).await,
        (&Method::GET, ["dead-letters", letter]) => show(bus, letter).await,
        (&Method::POST, ["replay"]) => replay(bus, body).await,
        (&Method::POST, ["replay", "stop"]) => stop_replays(bus, body).await,
        (_, ["dead-letters"] | ["dead-letters", _] | ["replay"] | ["replay", "stop"]) => {
            Err((StatusCode::METHOD_NOT_ALLOWED, "this path takes another method".into()))
        }
        _ => Err((StatusCode::NOT_FOUND, "the admin API has no such path".into())),
    };
    answered.unwrap_or_else(|(status, detail)| problem(status, &detail))
}

type Refused = (StatusCode, Cow<'static, str>);

async fn list(bus: &Bus, query: &str) -> Result<Letters, Refused> {
    let (mut filter, mut limit) = (DeadLetterFilter::default(), LISTED);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = (!value.is_empty()).then(|| value.to_owned());
        match name {
            "topic" => filter.topic = value,
            "service" => filter.service = value,
            "after" => filter.after = value,
            "reason" => {
                let reason = value.as_deref().and_then(DeadReason::named);
                filter.reason = Some(reason.ok_or_else(|| {
                    let names = DeadReason::ALL.map(DeadReason::name).join(", ");
                    bad(format!("reason must be one of {names}"))
                })?);
            }
            "limit" => {
                let number = value.and_then(|value| value.parse().ok());
                let number = number.filter(|number| (1..=MAX_LISTED).contains(number));
                limit = number.ok_or_else(|| bad(format!("limit must be a number from 1 to {MAX_LISTED}")))?;
            }
            _ => {
                let name = name.escape_debug();
                return Err(bad(format!(
                    "unknown parameter `{name}`; there are topic, service, reason, after and limit"
                )));
            }
        }
    }
    let mut letters: Vec<Letter> = Vec::new();
    // One more than is asked for tells whether there are more.
    while letters.len() <= limit {
        filter.limit = PAGE.min(limit + 1 - letters.len());
        let page = bus.dead_letters(filter.clone()).await.map_err(refused)?;
        letters.extend(page.iter().map(Letter::from));
        if page.len() < filter.limit {
            break;
        }
        filter.after = page.last().map(|last| last.letter.clone());
    }
    if letters.is_empty()
        && filter.after.is_none()
        && let Some(refused) = strange(bus, filter.topic.as_deref(), filter.service.as_deref())
    {
        return Err(refused);
    }
    let more = letters.len() > limit;
    letters.truncate(limit);
    Ok(Letters { letters, more })
}

/// What is wrong with these names, where nothing was found by them: no service that subscribes is called so, or no topic
/// that one subscribes to.
fn strange(bus: &Bus, topic: Option<&str>, service: Option<&str>) -> Option<Refused> {
    let all = bus.snapshot().subscriptions;
    let shown = |name: &str| name.chars().take(64).flat_map(char::escape_debug).collect::<String>();
    let named = |name: &str, known: &dyn Fn(&SubscriptionSnapshot) -> String| {
        let known: Vec<_> = all.iter().map(known).collect();
        let is_strange = known.iter().all(|it| it != name);
        is_strange.then(|| did_you_mean(name, known.iter().map(String::as_str)))
    };
    let service = service.and_then(|service| {
        let meant = named(service, &|it| it.service.clone())?;
        Some(format!("there is no service `{}` with a subscription{meant}", shown(service)))
    });
    let topic = topic.and_then(|topic| {
        let meant = named(topic, &|it| it.topic.clone())?;
        Some(format!("there is no topic `{}` with a subscription{meant}", shown(topic)))
    });
    service.or(topic).map(|why| (StatusCode::NOT_FOUND, why.into()))
}

async fn show(bus: &Bus, letter: &str) -> Result<Response<Body>, Refused> {
    let filter = DeadLetterFilter { letters: Some(vec![letter.to_owned()]), limit: 1, ..DeadLetterFilter::default() };
    match bus.dead_letters(filter).await.map_err(refused)?.first() {
        Some(found) => {
            let event = cloud_event(&found.event);
            Ok(json(StatusCode::OK, &WholeLetter { letter: found.into(), event }))
        }
        None => Err((
            StatusCode::NOT_FOUND,
            format!(
                "there is no dead letter `{}`: it may have been replayed or dropped; `wharf events list` shows all",
                letter.escape_debug()
            )
            .into(),
        )),
    }
}

async fn handle(bus: &Bus, deed: Deed, body: &[u8]) -> Result<Response<Body>, Refused> {
    let expected = r#"expected {"letters": ["17"]}, or {"all": true} and perhaps "topic", "service" and "reason""#;
    let selection: Selection = serde_json::from_slice(body).map_err(|error| bad(format!("{expected}: {error}")))?;
    let Selection { letters, all, topic, service, reason } = selection;
    let filtered = topic.is_some() || service.is_some() || reason.is_some();
    if all != letters.is_empty() || (filtered && !all) {
        return Err(bad(expected));
    }
    if letters.len() > MAX_LISTED {
        return Err(bad(format!("at most {MAX_LISTED} letters can be named at a time")));
    }
    let handled = if all {
        let (topic_too, service_too) = (topic.clone(), service.clone());
        let filter = DeadLetterFilter { topic, service, reason, ..DeadLetterFilter::default() };
        let handled = handle_all(bus, deed, filter, Timestamp::now()).await;
        if handled.as_ref().is_ok_and(|handled| handled.count == 0)
            && let Some(refused) = strange(bus, topic_too.as_deref(), service_too.as_deref())
        {
            return Err(refused);
        }
        handled
    } else {
        handle_named(bus, deed, letters).await
    };
    Ok(json(StatusCode::OK, &handled.map_err(refused)?))
}

async fn handle_named(bus: &Bus, deed: Deed, mut letters: Vec<String>) -> Result<Handled, ArchiveError> {
    letters.sort();
    letters.dedup();
    let named = letters.len();
    let filter = DeadLetterFilter { letters: Some(letters), limit: named, ..DeadLetterFilter::default() };
    let count = match deed {
        Deed::Replay => bus.revive(filter).await?,
        Deed::Drop => bus.discard(filter).await?,
    };
    Ok(Handled { count, missing: (named as u64).saturating_sub(count) })
}

/// Handles all letters that there were at a time, page by page.
async fn handle_all(
    bus: &Bus,
    deed: Deed,
    mut filter: DeadLetterFilter,
    until: Timestamp,
) -> Result<Handled, ArchiveError> {
    let mut count = 0;
    filter.limit = PAGE;
    loop {
        let page = bus.dead_letters(filter.clone()).await?;
        let Some(last) = page.last() else { break };
        filter.after = Some(last.letter.clone());
        let then: Vec<String> = page.iter().filter(|it| it.at <= until).map(|it| it.letter.clone()).collect();
        // Those of later are all at the end.
        let is_last = page.len() < PAGE || then.is_empty();
        if !then.is_empty() {
            count += handle_named(bus, deed, then).await?.count;
        }
        if is_last {
            break;
        }
    }
    Ok(Handled { count, missing: 0 })
}

async fn replay(bus: &Bus, body: &[u8]) -> Result<Response<Body>, Refused> {
    let expected =
        r#"expected {"topic": "…", "service": "…", "from": "2026-11-24T00:00:00Z"}, or "offset" in place of "from""#;
    let past: Past = serde_json::from_slice(body).map_err(|error| bad(format!("{expected}: {error}")))?;
    let from = match (past.from, past.offset) {
        (Some(time), None) => ReplayFrom::Time(time.parse().map_err(|_| {
            bad(format!("expected a time such as 2026-11-24T00:00:00Z, found `{}`", time.escape_debug()))
        })?),
        (None, Some(offset)) => ReplayFrom::Offset(offset),
        _ => return Err(bad(expected)),
    };
    let replayed = bus.replay(&past.topic, &past.service, from).await;
    let count = replayed.map_err(|error| unsubscribed(bus, error))?;
    Ok(json(StatusCode::OK, &Handled { count, missing: 0 }))
}

async fn stop_replays(bus: &Bus, body: &[u8]) -> Result<Response<Body>, Refused> {
    let expected = r#"expected {"topic": "…", "service": "…"}"#;
    let Replays { topic, service } =
        serde_json::from_slice(body).map_err(|error| bad(format!("{expected}: {error}")))?;
    let stopped = bus.stop_replays(&topic, &service).await;
    let count = stopped.map_err(|error| unsubscribed(bus, error))?;
    Ok(json(StatusCode::OK, &Handled { count, missing: 0 }))
}

fn bad(detail: impl Into<Cow<'static, str>>) -> Refused {
    (StatusCode::BAD_REQUEST, detail.into())
}

/// As [`refused`], with what was meant where a name is none.
fn unsubscribed(bus: &Bus, error: ArchiveError) -> Refused {
    let strange = match &error {
        ArchiveError::NoSubscription { topic, service } => strange(bus, Some(topic), Some(service)),
        _ => None,
    };
    strange.unwrap_or_else(|| refused(error))
}

fn refused(error: ArchiveError) -> Refused {
    let status = match error {
        ArchiveError::NoSubscription { .. } => StatusCode::NOT_FOUND,
        ArchiveError::Offset(..) => StatusCode::UNPROCESSABLE_ENTITY,
        ArchiveError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        ArchiveError::KeepsNothing(_) => StatusCode::CONFLICT,
    };
    (status, error.to_string().into())
}

/// The event in the JSON format of CloudEvents 1.0: JSON as it is, other text as a string, the rest in base64.
fn cloud_event(event: &Event) -> serde_json::Value {
    let mut json = serde_json::json!({
        "specversion": "1.0",
        "id": event.id,
        "source": &*event.source,
        "type": &*event.topic,
        "time": event.rfc3339(),
        "datacontenttype": &*event.datacontenttype,
    });
    if let Some(subject) = &event.subject {
        json["subject"] = subject.as_str().into();
    }
    if let Some(trace) = &event.traceparent {
        json["traceparent"] = trace.to_string().into();
    }
    match (serde_json::from_slice(&event.data), std::str::from_utf8(&event.data)) {
        (Ok(data), _) if event.is_json() => json["data"] = data,
        // A string under a JSON media type would be read as JSON.
        (_, Ok(text)) if !event.is_json() => json["data"] = text.into(),
        _ => json["data_base64"] = base64(&event.data).into(),
    }
    json
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0_usize, |bits, at| bits << 8 | usize::from(chunk.get(at).copied().unwrap_or(0)));
        for digit in 0..4 {
            let is_there = digit <= chunk.len();
            text.push(if is_there { char::from(DIGITS[bits >> (18 - 6 * digit) & 63]) } else { '=' });
        }
    }
    text
}

// === impl Letter ===

impl From<&DeadLetter> for Letter {
    fn from(dead: &DeadLetter) -> Self {
        Self {
            letter: dead.letter.clone(),
            at: format!("{:.3}", dead.at),
            topic: dead.event.topic.to_string(),
            service: dead.service.to_string(),
            reason: dead.reason,
            error: dead.error.clone(),
            attempts: dead.attempts,
            id: dead.event.id.clone(),
            subject: dead.event.subject.clone(),
            bytes: dead.event.data.len(),
        }
    }
}

#[cfg(test)]
mod tests;
