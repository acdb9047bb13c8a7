//! The event itself: CloudEvents 1.0 attributes around a payload that nobody in here looks into.

use crate::telemetry::TraceContext;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use std::{borrow::Cow, sync::Arc};
use uuid::Uuid;

/// The largest payload, in bytes. An event tells that something happened; what is larger belongs into a store, with
/// its address in the event.
pub const MAX_DATA: usize = 256 * 1024;
/// The longest topic, in bytes.
pub const MAX_TOPIC: usize = 200;
/// The longest subject, in bytes.
pub const MAX_SUBJECT: usize = 1024;
/// The longest media type, in bytes.
pub const MAX_CONTENT_TYPE: usize = 255;
/// The longest id and source that are taken from other publishers, in bytes.
pub(super) const MAX_ID: usize = 256;
/// How far ahead an event can be published for a later time.
pub const MAX_DELAY: SignedDuration = SignedDuration::from_hours(366 * 24);

const JSON: &str = "application/json";

/// An event that was published. Made once and shared by all its subscribers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The topic it was published to, which is the CloudEvents `type` as well.
    pub topic: Arc<str>,
    /// Unique for the source; the same on every redelivery.
    pub id: String,
    /// Who published it: `/services/<name>`, or `redis:<channel>` for what came from outside without an envelope.
    pub source: Arc<str>,
    /// What it is about, for example an order's id.
    pub subject: Option<String>,
    /// When it was published.
    pub time: Timestamp,
    /// The media type of `data`.
    pub datacontenttype: Cow<'static, str>,
    /// The trace that the publisher was in.
    pub traceparent: Option<TraceContext>,
    /// The payload.
    pub data: Bytes,
}

/// An event before the bus has given it its id, source and time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewEvent {
    /// The topic to publish to.
    pub topic: String,
    /// What it is about, for example an order's id.
    pub subject: Option<String>,
    /// The media type of `data`; `application/json` where it is `None`.
    pub datacontenttype: Option<String>,
    /// The payload, at most [`MAX_DATA`] bytes.
    pub data: Bytes,
    /// When it is to be delivered at the earliest; at once where it is `None`. Its `time` stays that of publishing.
    pub due: Option<Timestamp>,
}

/// What is wrong with an event that was to be published, or that arrived from outside.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEvent {
    /// The payload is larger than [`MAX_DATA`].
    #[error(
        "the data has {0} bytes, at most {MAX_DATA} (256 KiB) are allowed; put what is larger into a store, and where it \
         is into the event"
    )]
    DataTooLarge(usize),
    /// The subject is empty, too long or has control characters in it.
    #[error("the subject must have 1 to {MAX_SUBJECT} bytes and no control characters")]
    Subject,
    /// The media type is none.
    #[error("the datacontenttype must be a media type such as application/json, of at most {MAX_CONTENT_TYPE} bytes")]
    ContentType,
    /// What is to say when it is due is no time.
    #[error("due must be a time as RFC 3339 has it, such as 2027-01-31T09:00:00Z, not `{}`", .0.escape_debug())]
    DueTime(String),
    /// It is due later than [`MAX_DELAY`] from now.
    #[error("due must be at most a year (366 days) ahead, not at {0}")]
    DueTooLate(Timestamp),
    /// The bus carries JSON only.
    #[error("this bus carries bare JSON, and the data is none: {0}")]
    NotJson(String),
    /// An attribute that every event must have is missing or is not what CloudEvents says.
    #[error("the attribute {0} is missing, too long or malformed")]
    Attribute(&'static str),
}

// === impl Event ===

impl Event {
    /// The event that `new` becomes when `source` publishes it now. `new` must have been validated.
    pub(super) fn publish(new: NewEvent, topic: Arc<str>, source: Arc<str>, traceparent: Option<TraceContext>) -> Self {
        let time = Timestamp::now();
        Self {
            topic,
            id: new_id(time),
            source,
            subject: new.subject,
            time,
            datacontenttype: new.datacontenttype.map_or(Cow::Borrowed(JSON), Cow::Owned),
            traceparent,
            data: new.data,
        }
    }

    /// The event that bare JSON becomes on its arrival from a Redis channel.
    pub(super) fn from_channel(topic: Arc<str>, data: Bytes) -> Result<Self, InvalidEvent> {
        check_data(&data)?;
        check_json(&data)?;
        let source = format!("redis:{topic}").into();
        Ok(Self::publish(NewEvent { data, ..NewEvent::default() }, topic, source, None))
    }

    /// Checks what a bus without envelopes needs: that the data alone says all, to programs that expect JSON.
    pub(super) fn check_bare(&self) -> Result<(), InvalidEvent> {
        if !self.is_json() {
            return Err(InvalidEvent::NotJson(format!("its datacontenttype is {}", self.datacontenttype)));
        }
        check_json(&self.data)
    }

    /// Whether its media type says that the data is JSON.
    pub fn is_json(&self) -> bool {
        is_json(&self.datacontenttype)
    }

    /// `time` as RFC 3339 in UTC, to the millisecond.
    pub fn rfc3339(&self) -> String {
        format!("{:.3}", self.time)
    }
}

// === impl NewEvent ===

impl NewEvent {
    /// An event with a JSON payload.
    pub fn json(topic: impl Into<String>, data: impl Into<Bytes>) -> Self {
        Self { topic: topic.into(), data: data.into(), ..Self::default() }
    }

    /// The same event, delivered at the earliest at a time that RFC 3339 tells.
    ///
    /// # Errors
    ///
    /// When the text tells none.
    pub fn due_at(mut self, time: &str) -> Result<Self, InvalidEvent> {
        // A text of a guest's may be of any length, and is shown to people.
        let malformed = || InvalidEvent::DueTime(time.chars().take(64).collect());
        self.due = Some(time.parse().map_err(|_| malformed())?);
        Ok(self)
    }

    /// Checks everything that does not depend on who publishes.
    pub(super) fn validate(&self, now: Timestamp) -> Result<(), InvalidEvent> {
        check_data(&self.data)?;
        check_subject(self.subject.as_deref())?;
        if let Some(due) = self.due.filter(|due| due.duration_since(now) > MAX_DELAY) {
            return Err(InvalidEvent::DueTooLate(due));
        }
        self.datacontenttype.as_deref().map_or(Ok(()), check_content_type)
    }
}

/// A UUIDv7. Ids need not be secret, so a generator serves that asks the system for randomness once a thread and not
/// once an event, which would cost more than the rest of publishing.
pub(super) fn new_id(time: Timestamp) -> String {
    let random = fastrand::u128(..).to_le_bytes();
    let random = random.first_chunk().unwrap_or(&[0; 10]);
    let millis = u64::try_from(time.as_millisecond()).unwrap_or_default();
    let id = uuid::Builder::from_unix_timestamp_millis(millis, random).into_uuid();
    id.hyphenated().encode_lower(&mut Uuid::encode_buffer()).to_owned()
}

pub(super) fn check_data(data: &[u8]) -> Result<(), InvalidEvent> {
    if data.len() > MAX_DATA { Err(InvalidEvent::DataTooLarge(data.len())) } else { Ok(()) }
}

pub(super) fn check_subject(subject: Option<&str>) -> Result<(), InvalidEvent> {
    let ok = subject.is_none_or(|it| (1..=MAX_SUBJECT).contains(&it.len()) && !it.chars().any(char::is_control));
    if ok { Ok(()) } else { Err(InvalidEvent::Subject) }
}

/// Accepts `type/subtype`, with parameters whose syntax is left to whoever reads them (RFC 9110, section 8.3.1).
pub(super) fn check_content_type(text: &str) -> Result<(), InvalidEvent> {
    let token = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
    };
    let (essence, _parameters) = text.split_once(';').unwrap_or((text, ""));
    let is_media_type = essence.trim_end().split_once('/').is_some_and(|(kind, sub)| token(kind) && token(sub));
    let ok = is_media_type && text.len() <= MAX_CONTENT_TYPE && text.bytes().all(|b| (0x20..0x7f).contains(&b));
    if ok { Ok(()) } else { Err(InvalidEvent::ContentType) }
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case(JSON) || essence.to_ascii_lowercase().ends_with("+json")
}

fn check_json(data: &[u8]) -> Result<(), InvalidEvent> {
    serde_json::from_slice::<serde::de::IgnoredAny>(data)
        .map(drop)
        .map_err(|err| InvalidEvent::NotJson(err.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_event_is_refused() {
        let ok = NewEvent::json("order.created", "{}");
        let now = Timestamp::now();
        assert_eq!(ok.validate(now), Ok(()));
        let large = NewEvent { data: vec![b' '; MAX_DATA + 1].into(), ..ok.clone() };
        assert_eq!(large.validate(now), Err(InvalidEvent::DataTooLarge(MAX_DATA + 1)));
        for subject in ["", "a\nb", &"x".repeat(MAX_SUBJECT + 1)] {
            let event = NewEvent { subject: Some(subject.into()), ..ok.clone() };
            assert_eq!(event.validate(now), Err(InvalidEvent::Subject), "{subject:?}");
        }
        for content_type in ["", "json", "/json", "application/", "application/json\r\nx: y", "a b/c", "é/x"] {
            let event = NewEvent { datacontenttype: Some(content_type.into()), ..ok.clone() };
            assert_eq!(event.validate(now), Err(InvalidEvent::ContentType), "{content_type:?}");
        }
    }

    #[test]
    fn what_is_due_too_late_or_at_no_time_is_refused() {
        let (now, ok) = (Timestamp::now(), NewEvent::json("order.created", "{}"));
        let due = |due: Timestamp| NewEvent { due: Some(due), ..ok.clone() }.validate(now);
        // What is past is due at once.
        assert_eq!(due(Timestamp::UNIX_EPOCH), Ok(()));
        assert_eq!(due(now + MAX_DELAY), Ok(()));
        let late = now + MAX_DELAY + SignedDuration::from_secs(1);
        assert_eq!(due(late), Err(InvalidEvent::DueTooLate(late)));
        let at = ok.clone().due_at("2027-01-31T09:00:00+01:00").unwrap().due;
        assert_eq!(at, Some("2027-01-31T08:00:00Z".parse().unwrap()));
        for text in ["", "tomorrow", "2027-01-31", "2027-01-31T09:00:00", "2027-02-30T09:00:00Z", "1769850000"] {
            assert_eq!(ok.clone().due_at(text), Err(InvalidEvent::DueTime(text.into())), "{text:?}");
        }
    }

    #[test]
    fn an_event_that_is_too_large_is_told_the_limit() {
        let said = InvalidEvent::DataTooLarge(300_000).to_string();
        assert!(said.starts_with("the data has 300000 bytes, at most 262144 (256 KiB) are allowed"), "{said}");
    }

    #[test]
    fn the_usual_media_types_pass() {
        for text in ["application/json", "text/plain; charset=utf-8", "application/vnd.shop+json", "image/png"] {
            assert_eq!(check_content_type(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn only_json_travels_without_an_envelope() {
        let event = |content_type: Option<&str>, data: &'static str| {
            let datacontenttype = content_type.map(str::to_owned);
            Event::publish(
                NewEvent { datacontenttype, ..NewEvent::json("a", data) },
                "a".into(),
                "/services/a".into(),
                None,
            )
        };
        assert_eq!(event(None, r#"{"userId":"1"}"#).check_bare(), Ok(()));
        assert_eq!(event(Some("application/merge-patch+json; x=y"), "{}").check_bare(), Ok(()));
        assert!(event(None, r#"{"userId":"#).check_bare().is_err());
        assert!(event(Some("image/png"), "{}").check_bare().is_err());
    }

    #[test]
    fn ids_are_uuids_of_version_7_and_tell_the_time() {
        let time = Timestamp::from_millisecond(1_753_000_000_007).unwrap();
        let ids: Vec<Uuid> = (0..1000).map(|_| new_id(time).parse().unwrap()).collect();
        assert!(ids.iter().all(|id| id.get_version_num() == 7 && id.get_variant() == uuid::Variant::RFC4122));
        assert_eq!(ids[0].get_timestamp().unwrap().to_unix(), (1_753_000_000, 7_000_000));
        assert_eq!(ids.iter().collect::<std::collections::HashSet<_>>().len(), ids.len());
    }

    #[test]
    fn time_is_rfc_3339_in_utc() {
        let mut event = Event::from_channel("a".into(), "1".into()).unwrap();
        event.time = Timestamp::from_millisecond(1_753_000_000_007).unwrap();
        assert_eq!(event.rfc3339(), "2025-07-20T08:26:40.007Z");
    }

    proptest! {
        #[test]
        fn no_content_type_breaks_the_check(text in "\\PC*") {
            let _ = check_content_type(&text);
        }
    }
}
