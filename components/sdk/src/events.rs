//! Events: telling that something has happened, and hearing of it.
//!
//! What happens in the service's own database is told by it: [`db::batch_and_publish`](crate::db::batch_and_publish) and
//! [`db::Transaction::publish`](crate::db::Transaction::publish) save the state and its event together or not at all.
//! [`publish`] here is for events without such a state; one that it refuses is lost unless the caller tries again.

pub use crate::bindings::wharf::{
    messaging::{
        publisher::{NewEvent, PublishError},
        types::{Event, Verdict},
    },
    outbox::outbox::OutboxError,
};
use crate::{bindings::wharf::messaging::publisher, json, time::Timestamp};
use serde::{Serialize, de::DeserializeOwned};

/// Publishes a payload as JSON and returns the event's id.
///
/// # Errors
/// Where the manifest does not let this service publish the topic, or the bus did not take the event.
pub async fn publish<T: Serialize + ?Sized>(topic: &str, payload: &T) -> Result<String, PublishError> {
    publisher::publish(NewEvent::new(topic, payload)?).await
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
    publisher::publish(NewEvent::about(topic, subject, payload)?).await
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
    publisher::publish(NewEvent::about(topic, subject, payload)?.at(due)).await
}

impl NewEvent {
    /// An event with a payload, as JSON.
    ///
    /// # Errors
    /// [`PublishError::Invalid`] where the payload can't be JSON.
    pub fn new<T: Serialize + ?Sized>(topic: &str, payload: &T) -> Result<Self, PublishError> {
        let data = json::to_vec(payload).map_err(|error| PublishError::Invalid(error.to_string()))?;
        Ok(Self { topic: topic.to_owned(), subject: None, datacontenttype: None, data, due: None })
    }

    /// As [`new`](Self::new), and says what the event is about: an order's id, for example.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn about<T: Serialize + ?Sized>(topic: &str, subject: &str, payload: &T) -> Result<Self, PublishError> {
        Ok(Self { subject: Some(subject.to_owned()), ..Self::new(topic, payload)? })
    }

    /// The same event, to be delivered when it is due and not before, at most a year ahead.
    #[must_use]
    pub fn at(self, due: Timestamp) -> Self {
        Self { due: Some(due.to_string()), ..self }
    }
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
