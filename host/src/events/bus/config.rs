//! What a bus is to be.

use super::RedisConfig;
use std::{collections::HashMap, path::PathBuf};
use tokio::time::Duration;

/// How to start a bus.
#[derive(Clone, Debug)]
pub struct BusConfig {
    /// The application's name, which keeps its streams apart from those of others on the same Redis.
    pub app: String,
    /// What carries the events.
    pub kind: BusKind,
    /// Which topics each service may publish. What is not in here is denied.
    pub publishes: Publishes,
    /// How long events of the past are kept.
    pub retention: Retention,
}

/// Which topics each service may publish.
pub type Publishes = HashMap<String, Vec<String>>;

/// How long events are kept that every subscription has settled: for replay. What a subscription has not settled is kept
/// whatever this says, and so are dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// No longer than this.
    pub age: Duration,
    /// No more bytes than this, of all topics together.
    pub size: u64,
    /// How many bytes the log may take at all. Where unsettled events fill it, publishing is refused.
    pub limit: u64,
}

/// What an acknowledged publish survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The end of this process, also by `kill -9`. The operating system writes to the disk when it sees fit, so the last
    /// seconds may be lost when it dies itself or the power fails; what is left is whole.
    #[default]
    Os,
    /// A power failure too, as far as the disk keeps what it says that it has written. Costs a flush of the disk for each
    /// group of publishes.
    Fsync,
}

/// What carries the events. The promises differ.
#[derive(Clone, Debug)]
pub enum BusKind {
    /// A log in this host's own data folder: no server needed. Events that were published reach every subscription at
    /// least once, also after a crash.
    Embedded(EmbeddedConfig),
    /// Redis Streams with consumer groups: events that were published reach every subscription at least once, also
    /// when hosts come and go; of several hosts that run a service, one gets the event.
    RedisStreams(RedisConfig),
    /// Plain Redis `PUBLISH` and `SUBSCRIBE` of bare JSON, so that programs that know nothing of Wharf can take part.
    /// Events reach a subscription at most once: what is published while nobody listens, or while the connection is
    /// down, is gone. Every host that runs a service gets the event.
    RedisPubSub(RedisConfig),
}

/// Where the embedded log is, and how sure it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddedConfig {
    /// Its file: `<data>/events.sqlite`.
    pub file: PathBuf,
    /// What an acknowledged publish survives.
    pub durability: Durability,
}

// === impl EmbeddedConfig ===

#[cfg(test)]
impl EmbeddedConfig {
    /// A log of its own in the system's folder for temporary files.
    pub(crate) fn scratch() -> Self {
        let file = std::env::temp_dir().join(format!("wharf-events-{}.sqlite", uuid::Uuid::new_v4()));
        Self { file, durability: Durability::Os }
    }
}

// === impl Retention ===

impl Default for Retention {
    /// A week, 1 GiB, and 4 GiB at all.
    fn default() -> Self {
        Self { age: Duration::from_secs(7 * 24 * 3600), size: 1 << 30, limit: 4 << 30 }
    }
}

// === impl BusKind ===

impl BusKind {
    /// The name that the manifest uses.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Embedded(_) => "embedded",
            Self::RedisStreams(_) => "redis-streams",
            Self::RedisPubSub(_) => "redis-pubsub",
        }
    }
}
