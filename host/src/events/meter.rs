//! What can be seen of a bus while it runs.

use super::{Subscription, room::Room};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

/// The counters of one subscription.
#[derive(Debug)]
pub(super) struct Meter {
    topic: Arc<str>,
    service: Arc<str>,
    room: Arc<Room>,
    delivered: AtomicU64,
    retried: AtomicU64,
    rejected: AtomicU64,
    dropped: AtomicU64,
    in_flight: AtomicUsize,
    waiting: AtomicUsize,
    /// What lies in the stream unread; negative while unknown.
    behind: AtomicI64,
    /// Dead letters; negative while unknown.
    dead: AtomicI64,
    /// When the oldest event was published that is in hand and not settled, in milliseconds; negative where there is none.
    oldest: AtomicI64,
}

/// A bus at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusSnapshot {
    /// Which bus it is, by the name that the manifest uses.
    pub bus: String,
    /// Whether it can be reached.
    pub connection: Connection,
    /// Events published since the start, also those that nobody subscribes to.
    pub published: u64,
    /// Events that the bus did not take since the start.
    pub refused: u64,
    /// Every subscription, by topic and service.
    pub subscriptions: Vec<SubscriptionSnapshot>,
    /// What the log takes, where this host has one.
    #[serde(default)]
    pub log: Option<LogSnapshot>,
}

/// A host's own log at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSnapshot {
    /// How many bytes of its file are in use.
    pub bytes: u64,
    /// How many may be, before publishing is refused.
    pub limit: u64,
}

/// Whether a bus can be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Connection {
    /// It is in this process.
    InProcess,
    /// Its server answers.
    Connected,
    /// Its server does not answer, for this reason; it is tried again.
    Disconnected {
        /// The last error.
        reason: String,
    },
}

/// One subscription at one moment. Counts are since the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriptionSnapshot {
    /// The topic.
    pub topic: String,
    /// The subscribing service.
    pub service: String,
    /// Events that were acknowledged.
    pub delivered: u64,
    /// Tries that ended in another try.
    pub retried: u64,
    /// Events given up: rejected by the subscriber, or tried as often as allowed.
    pub rejected: u64,
    /// Events that came when there was no room for them. Only a bus without acknowledgement drops.
    pub dropped: u64,
    /// Events that wait for their first try.
    pub queued: usize,
    /// Events being handled.
    pub in_flight: usize,
    /// Events between two tries.
    pub waiting: usize,
    /// How many published events are not settled yet, where that is known: the unread ones are counted now and then.
    pub lag: Option<u64>,
    /// How many dead letters it has, where the bus keeps them.
    #[serde(default)]
    pub dead: Option<u64>,
    /// How old the oldest event is that it has in hand and has not settled, in milliseconds.
    #[serde(default)]
    pub oldest_unsettled_ms: Option<u64>,
}

// === impl Connection ===

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InProcess => f.write_str("in this process"),
            Self::Connected => f.write_str("connected"),
            Self::Disconnected { reason } => write!(f, "disconnected: {reason}"),
        }
    }
}

// === impl Meter ===

impl Meter {
    pub(super) fn new(subscription: &Subscription, room: Arc<Room>, behind: Option<u64>) -> Self {
        let meter = Self {
            topic: Arc::clone(&subscription.topic),
            service: Arc::clone(&subscription.service),
            room,
            delivered: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            behind: AtomicI64::new(-1),
            dead: AtomicI64::new(-1),
            oldest: AtomicI64::new(-1),
        };
        meter.set_behind(behind);
        meter
    }

    /// The topic and the service.
    pub(super) fn name(&self) -> (Arc<str>, Arc<str>) {
        (Arc::clone(&self.topic), Arc::clone(&self.service))
    }

    pub(super) fn delivered(&self) {
        self.delivered.fetch_add(1, Relaxed);
    }

    pub(super) fn retried(&self) {
        self.retried.fetch_add(1, Relaxed);
    }

    pub(super) fn rejected(&self) {
        self.rejected.fetch_add(1, Relaxed);
    }

    pub(super) fn dropped(&self) {
        self.dropped.fetch_add(1, Relaxed);
    }

    pub(super) fn set_load(&self, in_flight: usize, waiting: usize) {
        self.in_flight.store(in_flight, Relaxed);
        self.waiting.store(waiting, Relaxed);
    }

    pub(super) fn set_behind(&self, unread: Option<u64>) {
        self.behind.store(unread.and_then(|it| i64::try_from(it).ok()).unwrap_or(-1), Relaxed);
    }

    pub(super) fn set_dead(&self, letters: Option<u64>) {
        self.dead.store(letters.and_then(|it| i64::try_from(it).ok()).unwrap_or(-1), Relaxed);
    }

    /// There is one dead letter more.
    pub(super) fn add_dead(&self) {
        self.dead.fetch_add(1, Relaxed);
    }

    /// In milliseconds since 1970.
    pub(super) fn set_oldest(&self, published: Option<i64>) {
        self.oldest.store(published.unwrap_or(-1), Relaxed);
    }

    pub(super) fn snapshot(&self) -> SubscriptionSnapshot {
        let (in_flight, waiting) = (self.in_flight.load(Relaxed), self.waiting.load(Relaxed));
        let taken = self.room.taken();
        let behind = u64::try_from(self.behind.load(Relaxed)).ok();
        let (now, oldest) = (Timestamp::now(), Some(self.oldest.load(Relaxed)).filter(|it| *it >= 0));
        SubscriptionSnapshot {
            topic: self.topic.to_string(),
            service: self.service.to_string(),
            delivered: self.delivered.load(Relaxed),
            retried: self.retried.load(Relaxed),
            rejected: self.rejected.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            queued: taken.saturating_sub(in_flight + waiting),
            in_flight,
            waiting,
            lag: behind.map(|behind| behind + taken as u64),
            dead: u64::try_from(self.dead.load(Relaxed)).ok(),
            oldest_unsettled_ms: oldest.and_then(|it| u64::try_from(now.as_millisecond().saturating_sub(it)).ok()),
        }
    }
}
