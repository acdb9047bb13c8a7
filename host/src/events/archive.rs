//! What a bus keeps beyond the deliveries under way: events that a subscription gave up on, and those of the past.
//!
//! A *dead letter* is an event that a subscription can't take: its handler rejected it, or it was tried as often as
//! allowed. It belongs to that subscription alone; others have had the same event. It is kept, with the reason, until a
//! person has it delivered once more or drops it. Nothing drops it by itself.
//!
//! A *replay* hands the events of a topic's past to one subscription once more, as far back as the bus still has them. It
//! outlives the host like any delivery, and goes on until it is through or stopped.

#[cfg(test)]
mod shelf;

#[cfg(test)]
pub(crate) use shelf::Shelf;

use super::Event;
use futures::future::BoxFuture;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The longest text of an error that is kept with a dead letter, in characters.
pub const MAX_ERROR: usize = 1024;
/// The most dead letters that one answer lists.
pub const MAX_LISTED: usize = 1000;

/// Why a subscription gave an event up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeadReason {
    /// The handler said that it never will.
    Rejected,
    /// It was tried as often as the subscription allows.
    AttemptsExhausted,
    /// The platform does not let the subscriber have it.
    Denied,
    /// What lies on the bus is no event.
    Malformed,
}

// === impl DeadReason ===

impl DeadReason {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Rejected, Self::AttemptsExhausted, Self::Denied, Self::Malformed];

    /// The one name that it has everywhere: on each bus, in JSON and for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::AttemptsExhausted => "attempts-exhausted",
            Self::Denied => "denied",
            Self::Malformed => "malformed",
        }
    }

    /// The reason of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }
}

/// What the dispatcher says when it gives an event up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Burial {
    pub reason: DeadReason,
    /// The last error, at most [`MAX_ERROR`] characters.
    pub error: String,
    /// How often it was tried.
    pub attempts: u32,
}

/// An event that a subscription gave up on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// By what it is named here: of the bus's own making, and ordered as the letters came.
    pub letter: String,
    /// The subscribing service.
    pub service: Arc<str>,
    /// Why.
    pub reason: DeadReason,
    /// The last error, in words.
    pub error: String,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was given up.
    pub at: Timestamp,
    /// The event.
    pub event: Arc<Event>,
}

/// Which dead letters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// Only those of this topic.
    pub topic: Option<String>,
    /// Only those of this service.
    pub service: Option<String>,
    /// Only those that were given up for this.
    pub reason: Option<DeadReason>,
    /// Only these letters.
    pub letters: Option<Vec<String>>,
    /// Only what comes after this letter.
    pub after: Option<String>,
    /// At most so many, the oldest of them; 0: as many as [`MAX_LISTED`], which is the most at all.
    pub limit: usize,
}

// === impl DeadLetterFilter ===

impl DeadLetterFilter {
    /// How many letters it lets through at most.
    pub(super) fn most(&self) -> usize {
        if self.limit == 0 { MAX_LISTED } else { self.limit.min(MAX_LISTED) }
    }
}

/// Where a replay begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplayFrom {
    /// With the first event that was published at this time or later.
    Time(Timestamp),
    /// With the event at this offset: a number in the embedded log, an entry's id in Redis.
    Offset(String),
}

/// Why an archive could not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// There is no such subscription.
    #[error("service {service} has no subscription to {topic}")]
    NoSubscription {
        /// The topic.
        topic: String,
        /// The service.
        service: String,
    },
    /// The offset is none.
    #[error("`{0}` is no offset of this bus; expected {1}")]
    Offset(String, &'static str),
    /// The bus can't be read or written now.
    #[error("the bus can't be read or written: {0}")]
    Unavailable(String),
    /// The bus keeps nothing.
    #[error(
        "the bus {0} keeps no events: it delivers at most once and has neither dead letters nor a past; \
         set `bus = \"embedded\"` or \"redis-streams\" under [events]"
    )]
    KeepsNothing(&'static str),
}

/// A bus that keeps events.
pub(super) trait Archive: Send + Sync {
    /// The dead letters that the filter lets through, oldest first.
    fn dead_letters(&self, filter: DeadLetterFilter) -> BoxFuture<'_, Result<Vec<DeadLetter>, ArchiveError>>;

    /// Delivers them to their subscription once more, with the first try to come, and forgets that they were dead, both
    /// or neither. Returns how many there were.
    fn revive(&self, filter: DeadLetterFilter) -> BoxFuture<'_, Result<u64, ArchiveError>>;

    /// Forgets them. Returns how many there were.
    fn discard(&self, filter: DeadLetterFilter) -> BoxFuture<'_, Result<u64, ArchiveError>>;

    /// Delivers the events of a topic from there on to one subscription once more, beside what comes anew. Returns how
    /// many there are.
    fn replay(&self, topic: &str, service: &str, from: ReplayFrom) -> BoxFuture<'_, Result<u64, ArchiveError>>;

    /// Ends all replays of the topic into this subscription. What is in the hands of a host may still be delivered. Returns
    /// how many events are not.
    fn stop_replays(&self, topic: &str, service: &str) -> BoxFuture<'_, Result<u64, ArchiveError>>;
}
