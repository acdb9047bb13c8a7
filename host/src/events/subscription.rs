//! Subscriptions: who wants the events of a topic, how many at a time, and what happens when it does not go well.

use super::Event;
use crate::policy::{Backoff, Fault};
use futures::future::BoxFuture;
use std::{fmt, sync::Arc, time::Duration};

/// What a subscriber says of an event that it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Done: it is not delivered to this subscription again.
    Ack,
    /// Not now: deliver it again after this time, or after the subscription's backoff where there is none.
    Retry(Option<Duration>),
    /// Never: this event can't be handled, for the reason given.
    Reject(String),
}

/// Takes the events of a subscription.
pub trait Subscriber: Send + Sync + 'static {
    /// Delivers one event; `attempt` counts from 1. A fault is what the platform says when the handler could not be
    /// asked, or did not come to a verdict: the event is delivered again.
    ///
    /// The bus sets no time limit of its own: the edge that the delivery goes through has a deadline.
    fn deliver(&self, event: Arc<Event>, attempt: u32) -> BoxFuture<'_, Result<Verdict, Fault>>;
}

/// How the events of one subscription are delivered.
#[derive(Clone, Debug, PartialEq)]
pub struct DeliveryPolicy {
    /// How many events are handled at a time. With 1, events are first tried in the order of publishing, except those
    /// that wait for another of their subject.
    pub concurrency: usize,
    /// How many events may be in memory unsettled: waiting, being handled, or between two tries. Where the bus keeps
    /// events, others wait in its log; else they are dropped.
    pub capacity: usize,
    /// How many bytes of payload the unsettled events in memory may have together.
    pub capacity_bytes: usize,
    /// How many times an event is tried before it is rejected.
    pub max_attempts: u32,
    /// How long to wait before the next try where the subscriber does not say.
    pub backoff: Backoff,
    /// Which events wait for each other.
    pub order: DeliveryOrder,
    /// Whether an event that took effect already is recognised by its source and id, in the service's own database.
    pub deduplicate: bool,
}

/// Which events of a subscription wait for each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeliveryOrder {
    /// Those of one subject come one after the other, as they were published: the next is not tried before the one before
    /// it is settled. One that is tried again and again holds up its own subject and no other. Events without a subject
    /// wait for nobody.
    #[default]
    Subject,
    /// None: an event that is tried again is overtaken by those after it.
    None,
}

/// One service's subscription to one topic.
#[derive(Clone)]
pub struct Subscription {
    /// The topic.
    pub topic: Arc<str>,
    /// The subscribing service.
    pub service: Arc<str>,
    /// Who takes the events.
    pub subscriber: Arc<dyn Subscriber>,
    /// How they are delivered.
    pub policy: DeliveryPolicy,
}

/// A delivery policy that can't work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPolicy {
    /// `concurrency` is 0 or larger than `capacity`.
    #[error("concurrency must be at least 1 and not more than the capacity")]
    Concurrency,
    /// `capacity` is beyond what can be counted.
    #[error(
        "capacity must be at most {}, and capacity_bytes from {} to {}",
        MAX_CAPACITY,
        super::event::MAX_DATA,
        u32::MAX
    )]
    Capacity,
    /// `max_attempts` is 0.
    #[error("max_attempts must be at least 1")]
    Attempts,
    /// The backoff shrinks, or its jitter is no ratio.
    #[error("the backoff's max must not be less than its first, and its jitter must be from 0 to 1")]
    Backoff,
}

const MAX_CAPACITY: usize = 1 << 20;

// === impl DeliveryPolicy ===

impl DeliveryPolicy {
    /// Refuses what can't work.
    ///
    /// # Errors
    ///
    /// Says which value is wrong and what it must be.
    pub fn validate(&self) -> Result<(), InvalidPolicy> {
        if self.concurrency == 0 || self.concurrency > self.capacity {
            return Err(InvalidPolicy::Concurrency);
        }
        let bytes = super::event::MAX_DATA..=u32::MAX as usize;
        if self.capacity > MAX_CAPACITY || !bytes.contains(&self.capacity_bytes) {
            return Err(InvalidPolicy::Capacity);
        }
        if self.max_attempts == 0 {
            return Err(InvalidPolicy::Attempts);
        }
        let Backoff { first, max, jitter } = self.backoff;
        if first > max || !(0.0..=1.0).contains(&jitter) {
            return Err(InvalidPolicy::Backoff);
        }
        Ok(())
    }
}

impl Default for DeliveryPolicy {
    fn default() -> Self {
        Self {
            concurrency: 16,
            capacity: 10_000,
            capacity_bytes: 32 << 20,
            max_attempts: 5,
            backoff: Backoff::default(),
            order: DeliveryOrder::default(),
            deduplicate: false,
        }
    }
}

// === impl Subscription ===

impl Subscription {
    /// A subscription with the default policy.
    pub fn new(topic: impl Into<Arc<str>>, service: impl Into<Arc<str>>, subscriber: Arc<dyn Subscriber>) -> Self {
        Self { topic: topic.into(), service: service.into(), subscriber, policy: DeliveryPolicy::default() }
    }

    /// The same subscription with another policy.
    #[must_use]
    pub fn with_policy(mut self, policy: DeliveryPolicy) -> Self {
        self.policy = policy;
        self
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("topic", &self.topic)
            .field("service", &self.service)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_that_cannot_work_is_refused() {
        let good = DeliveryPolicy::default();
        assert_eq!(good.validate(), Ok(()));
        let refused = |policy: DeliveryPolicy| policy.validate().unwrap_err();
        assert_eq!(refused(DeliveryPolicy { concurrency: 0, ..good.clone() }), InvalidPolicy::Concurrency);
        assert_eq!(refused(DeliveryPolicy { capacity: 15, ..good.clone() }), InvalidPolicy::Concurrency);
        assert_eq!(refused(DeliveryPolicy { capacity_bytes: 1, ..good.clone() }), InvalidPolicy::Capacity);
        assert_eq!(refused(DeliveryPolicy { max_attempts: 0, ..good.clone() }), InvalidPolicy::Attempts);
        let backoff = Backoff { first: Duration::from_secs(2), max: Duration::from_secs(1), jitter: 0.0 };
        assert_eq!(refused(DeliveryPolicy { backoff, ..good.clone() }), InvalidPolicy::Backoff);
        let backoff = Backoff { jitter: f64::NAN, ..good.backoff };
        assert_eq!(refused(DeliveryPolicy { backoff, ..good }), InvalidPolicy::Backoff);
    }
}
