//! Events: telling that something has happened, and hearing of it.

pub use crate::bindings::wharf::messaging::{
    publisher::PublishError,
    types::{Event, Verdict},
};
use crate::{
    bindings::wharf::messaging::publisher::{self, NewEvent},
    json,
    time::Timestamp,
};
use serde::{Serialize, de::DeserializeOwned};

/// Publishes a payload as JSON and returns the event's id.
///
/// # Errors
/// Where the manifest does not let this service publish the topic, or the bus did not take the event.
pub async fn publish<T: Serialize + ?Sized>(topic: &str, payload: &T) -> Result<String, PublishError> {
    publish_event(topic, None, None, payload).await
}

/// As [`publish`], and says what the event is about: an order's id, for example.
///
/// # Errors
/// As [`publish`].
pub async fn publish_about<T: Serialize + ?Sized>(
    topic: &str,
    subject: &str,
    payload: &T,
) -> Result<String, PublishError> {
    publish_event(topic, Some(subject.to_owned()), None, payload).await
}

/// As [`publish_about`], for later: the event is kept until it is due, at most a year ahead, and then delivered.
///
/// ```ignore
/// events::publish_at("order.reminder", &order.id, time::now() + Duration::from_secs(3600), &order).await?;
/// ```
///
/// # Errors
/// As [`publish`].
pub async fn publish_at<T: Serialize + ?Sized>(
    topic: &str,
    subject: &str,
    due: Timestamp,
    payload: &T,
) -> Result<String, PublishError> {
    publish_event(topic, Some(subject.to_owned()), Some(due), payload).await
}

/// As [`publish_about`], for what has happened already and is not undone by an event that gets lost: a failure is
/// written to stderr, and the caller goes on.
pub async fn announce<T: Serialize + ?Sized>(topic: &str, subject: &str, payload: &T) {
    if let Err(error) = publish_about(topic, subject, payload).await {
        eprintln!("event {topic} about {subject} was not published: {error:?}");
    }
}

async fn publish_event<T: Serialize + ?Sized>(
    topic: &str,
    subject: Option<String>,
    due: Option<Timestamp>,
    payload: &T,
) -> Result<String, PublishError> {
    let due = due.map(|due| due.to_string());
    let data = json::to_vec(payload).map_err(|error| PublishError::Invalid(error.to_string()))?;
    publisher::publish(NewEvent { topic: topic.to_owned(), subject, datacontenttype: None, data, due }).await
}

impl Event {
    /// The payload as a `T`, or the verdict that rejects the event: what does not parse now never will.
    ///
    /// # Errors
    /// [`Verdict::Reject`] where the payload is not the JSON of a `T`.
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T, Verdict> {
        serde_json::from_slice(&self.data)
            .map_err(|error| Verdict::Reject(format!("{} {}: {error}", self.topic, self.id)))
    }
}
