//! The bus: what services publish to, whatever carries the events.

mod embedded;
mod pubsub;
mod redis;
#[cfg(test)]
mod shelved;
mod streams;
#[cfg(test)]
mod taking;

pub use embedded::LogError;
pub use redis::RedisConfig;

use super::{
    ArchiveError, BusSnapshot, Connection, DeadLetter, DeadLetterFilter, Event, InvalidEvent, InvalidPolicy,
    LogSnapshot, NewEvent, ReplayFrom, Schedule, Subscription,
    archive::Archive,
    dispatcher::Closing,
    meter::Meter,
    schedule::{Firing, Scheduler},
};
use crate::{
    policy::{Fault, FaultKind},
    telemetry::TraceContext,
};
use futures::future::BoxFuture;
use jiff::Timestamp;
use std::{
    collections::{HashMap, HashSet},
    fmt,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Duration, Instant, timeout_at},
};

/// How to start a bus.
#[derive(Clone, Debug)]
pub struct BusConfig {
    /// The application's name, which keeps its streams apart from those of others on the same Redis.
    pub app: String,
    /// What carries the events.
    pub kind: BusKind,
    /// Which topics each service may publish. What is not in here is denied.
    pub publishes: HashMap<String, Vec<String>>,
    /// How long events of the past are kept.
    pub retention: Retention,
}

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

/// Why a bus could not start.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The URL is none that Redis is found by. The URL itself is not shown: it may hold a password.
    #[error("the URL for Redis is not usable: {0}; expected redis://[user:password@]host[:port][/database]")]
    Url(String),
    /// Redis did not answer.
    #[error("Redis at {address} can't be used: {reason}; start it, or set `bus = \"embedded\"` under [events]")]
    Redis {
        /// Host and port.
        address: String,
        /// What happened.
        reason: String,
    },
    /// The embedded log can't be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The number of partitions is none, or not the one that the events in Redis are spread over.
    #[error("{}", partitions(*set, *found))]
    Partitions {
        /// What is set.
        set: u16,
        /// What Redis has noted.
        found: Option<u16>,
    },
    /// A subscription's delivery policy can't work.
    #[error(transparent)]
    Policy(#[from] InvalidPolicy),
    /// One service has two subscriptions to one topic, which would share a consumer group.
    #[error("service {service} is subscribed to {topic} twice")]
    Twice {
        /// The service.
        service: Arc<str>,
        /// The topic.
        topic: Arc<str>,
    },
}

/// Why an event was not published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The service may not publish the topic.
    #[error("service {service} may not publish {topic}: add it to `publishes` of the service in the manifest")]
    Denied {
        /// The service.
        service: String,
        /// The topic.
        topic: String,
    },
    /// The event is not one.
    #[error(transparent)]
    Invalid(#[from] InvalidEvent),
    /// The bus did not take it.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// A running bus. Clones are the same bus.
#[derive(Clone)]
pub struct Bus(Arc<Running>);

/// One service's right to publish. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Publisher {
    bus: Bus,
    service: Arc<str>,
    is_muted: bool,
}

struct Running {
    name: &'static str,
    transport: Box<dyn Transport>,
    grants: HashMap<String, Grant>,
    meters: Vec<Arc<Meter>>,
    published: AtomicU64,
    refused: AtomicU64,
    /// The task that fires schedules, if there are any.
    schedules: Mutex<JoinSet<()>>,
}

struct Grant {
    /// `/services/<name>`
    source: Arc<str>,
    topics: HashSet<Arc<str>>,
}

/// An event that may be published: who publishes it was found to have the right, and it has its id. Publishing it twice,
/// because nobody knows whether the first time was one, is to subscribers a redelivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The event.
    pub event: Arc<Event>,
    /// When it is to be delivered at the earliest.
    pub due: Option<Timestamp>,
}

/// What carries events.
trait Transport: Send + Sync {
    /// Refuses what it can't carry, though it is an event.
    fn check(&self, _: &Event) -> Result<(), InvalidEvent> {
        Ok(())
    }

    /// Takes one event, to be delivered to all subscriptions to its topic once it is due. Ends within a bounded time.
    /// When this returns, the event is kept as well as the bus promises.
    fn publish(&self, prepared: Prepared) -> BoxFuture<'_, Result<(), PublishError>>;

    /// Publishes an event of a schedule for this time, unless one of the same topic was published for it or for a later
    /// time already, by whichever host; says whether it was.
    fn fire(&self, at: Timestamp, event: Arc<Event>) -> BoxFuture<'_, Result<bool, PublishError>>;

    /// For which time an event of this topic's schedule was published last, where that is known.
    fn last_fired<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<Option<Timestamp>, PublishError>>;

    /// What it keeps, if it keeps anything.
    fn archive(&self) -> Option<&dyn Archive>;

    /// Whether it can be reached now.
    fn connection(&self) -> Connection;

    /// What its log takes here, if it has one here.
    fn log(&self) -> Option<LogSnapshot> {
        None
    }

    /// Takes no more events, and delivers until the deadline those that would be lost otherwise.
    fn shutdown(&self, deadline: Instant) -> BoxFuture<'_, ()>;
}

/// The tasks of a transport. They end with it.
struct Stations {
    closing: watch::Sender<Option<Instant>>,
    tasks: Mutex<JoinSet<()>>,
}

// === impl Bus ===

impl Bus {
    /// Starts a bus with its subscriptions. Where a server is needed, it must answer now; later it may go and come.
    ///
    /// # Errors
    ///
    /// When Redis can't be reached, or a subscription is not one.
    pub async fn start(config: BusConfig, mut subscriptions: Vec<Subscription>) -> Result<Self, BusError> {
        subscriptions.sort_by(|a, b| (&a.topic, &a.service).cmp(&(&b.topic, &b.service)));
        for pair in subscriptions.windows(2) {
            if (&pair[0].topic, &pair[0].service) == (&pair[1].topic, &pair[1].service) {
                return Err(BusError::Twice { service: pair[0].service.clone(), topic: pair[0].topic.clone() });
            }
        }
        let (transport, meters): (Box<dyn Transport>, _) = match &config.kind {
            BusKind::Embedded(embedded) => {
                let (embedded, meters) = embedded::Embedded::start(embedded, &config.retention, subscriptions).await?;
                (Box::new(embedded), meters)
            }
            BusKind::RedisStreams(redis) => {
                let topics = config.publishes.values().flatten().map(String::as_str).collect();
                let start = streams::Streams::start(&config.app, redis, &config.retention, topics, subscriptions);
                let (streams, meters) = start.await?;
                (Box::new(streams), meters)
            }
            BusKind::RedisPubSub(redis) => {
                let (pubsub, meters) = pubsub::PubSub::start(redis, subscriptions).await?;
                (Box::new(pubsub), meters)
            }
        };
        let grants = config.publishes.into_iter().map(|(service, topics)| {
            let source = format!("/services/{service}").into();
            (service, Grant { source, topics: topics.into_iter().map(Arc::from).collect() })
        });
        Ok(Self(Arc::new(Running {
            name: config.kind.name(),
            transport,
            grants: grants.collect(),
            meters,
            published: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            schedules: Mutex::default(),
        })))
    }

    /// Fires these schedules from now on, until the bus shuts down.
    pub fn run_schedules(&self, schedules: Vec<Schedule>) {
        if !schedules.is_empty() {
            let scheduler = Scheduler::new(schedules, Arc::downgrade(&self.0), Timestamp::now);
            self.0.schedules.lock().unwrap_or_else(PoisonError::into_inner).spawn(scheduler.run());
        }
    }

    /// Publishes an event of `service` and returns its id: then it is kept as well as the bus promises. Never waits for a
    /// subscriber, and for a server only a bounded time.
    ///
    /// # Errors
    ///
    /// Says whether the service may not, the event is none, or the bus did not take it; nothing is delivered then,
    /// except that after the fault `deadline-exceeded` it may be.
    pub async fn publish(
        &self,
        service: &str,
        event: NewEvent,
        trace: Option<TraceContext>,
    ) -> Result<String, PublishError> {
        let published = self.try_publish(service, event, trace).await;
        if published.is_err() {
            self.0.refused.fetch_add(1, Relaxed);
        }
        published
    }

    async fn try_publish(
        &self,
        service: &str,
        event: NewEvent,
        trace: Option<TraceContext>,
    ) -> Result<String, PublishError> {
        let prepared = self.prepare(service, event, trace)?;
        let id = prepared.event.id.clone();
        self.publish_prepared(prepared).await?;
        Ok(id)
    }

    /// Makes an event of `service`, which has its id, source and time from now on, and is not published yet.
    ///
    /// # Errors
    ///
    /// When the service may not publish it, or it is no event.
    pub fn prepare(
        &self,
        service: &str,
        event: NewEvent,
        trace: Option<TraceContext>,
    ) -> Result<Prepared, PublishError> {
        let grant = self.0.grants.get(service);
        let Some((grant, topic)) = grant.and_then(|it| Some((it, it.topics.get(event.topic.as_str())?))) else {
            // The topic comes from the guest and may be of any length.
            let topic = event.topic.chars().take(super::event::MAX_TOPIC).collect();
            return Err(PublishError::Denied { service: service.into(), topic });
        };
        event.validate(Timestamp::now())?;
        let due = event.due;
        let event = Event::publish(event, Arc::clone(topic), Arc::clone(&grant.source), trace);
        self.0.transport.check(&event)?;
        Ok(Prepared { event: Arc::new(event), due })
    }

    /// Publishes what was prepared, now or by an earlier process.
    ///
    /// # Errors
    ///
    /// When the bus did not take it; after the fault `deadline-exceeded` it may have.
    pub async fn publish_prepared(&self, prepared: Prepared) -> Result<(), PublishError> {
        self.0.transport.publish(prepared).await?;
        self.0.published.fetch_add(1, Relaxed);
        Ok(())
    }

    /// What the bus keeps.
    fn archive(&self) -> Result<&dyn Archive, ArchiveError> {
        self.0.transport.archive().ok_or(ArchiveError::KeepsNothing(self.0.name))
    }

    /// The dead letters that the filter lets through, oldest first.
    ///
    /// # Errors
    ///
    /// When the bus keeps none, or can't be read.
    pub async fn dead_letters(&self, filter: DeadLetterFilter) -> Result<Vec<DeadLetter>, ArchiveError> {
        self.archive()?.dead_letters(filter).await
    }

    /// Has dead letters delivered to their subscription once more, and returns how many.
    ///
    /// # Errors
    ///
    /// When the bus keeps none, or can't be written; then all are where they were.
    pub async fn revive(&self, filter: DeadLetterFilter) -> Result<u64, ArchiveError> {
        self.archive()?.revive(filter).await
    }

    /// Drops dead letters, and returns how many.
    ///
    /// # Errors
    ///
    /// When the bus keeps none, or can't be written; then all are where they were.
    pub async fn discard(&self, filter: DeadLetterFilter) -> Result<u64, ArchiveError> {
        self.archive()?.discard(filter).await
    }

    /// Has the events of a topic, from there on, delivered to one subscription once more, and returns how many.
    ///
    /// # Errors
    ///
    /// When there is no such subscription or offset, or the bus can't be written.
    pub async fn replay(&self, topic: &str, service: &str, from: ReplayFrom) -> Result<u64, ArchiveError> {
        self.archive()?.replay(topic, service, from).await
    }

    /// Ends all replays of a topic into one subscription, and returns how many events are not delivered for it. Those that a
    /// host has in hand may still be.
    ///
    /// # Errors
    ///
    /// When there is no such subscription, or the bus can't be written.
    pub async fn stop_replays(&self, topic: &str, service: &str) -> Result<u64, ArchiveError> {
        self.archive()?.stop_replays(topic, service).await
    }

    /// The right of `service` to publish.
    pub fn publisher(&self, service: impl Into<Arc<str>>) -> Publisher {
        Publisher { bus: self.clone(), service: service.into(), is_muted: false }
    }

    /// What can be seen of it now.
    pub fn snapshot(&self) -> BusSnapshot {
        BusSnapshot {
            bus: self.0.name.to_string(),
            connection: self.0.transport.connection(),
            published: self.0.published.load(Relaxed),
            refused: self.0.refused.load(Relaxed),
            subscriptions: self.0.meters.iter().map(|meter| meter.snapshot()).collect(),
            log: self.0.transport.log(),
        }
    }

    /// Takes no more events and returns when what was taken is delivered, or kept by the server, or `grace` is over.
    pub async fn shutdown(&self, grace: Duration) {
        let mut schedules = std::mem::take(&mut *self.0.schedules.lock().unwrap_or_else(PoisonError::into_inner));
        schedules.shutdown().await;
        self.0.transport.shutdown(Instant::now() + grace).await;
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bus").field(&self.0.name).finish()
    }
}

/// A schedule does not keep its bus alive, whose task it is.
impl Firing for Weak<Running> {
    fn fire(&self, at: Timestamp, event: Arc<Event>) -> BoxFuture<'_, Result<bool, PublishError>> {
        Box::pin(async move {
            let bus = self.upgrade().ok_or_else(closed)?;
            let fired = bus.transport.fire(at, event).await;
            let count = match &fired {
                Ok(true) => &bus.published,
                Ok(false) => return fired,
                Err(_) => &bus.refused,
            };
            count.fetch_add(1, Relaxed);
            fired
        })
    }

    fn last_fired<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<Option<Timestamp>, PublishError>> {
        Box::pin(async move { self.upgrade().ok_or_else(closed)?.transport.last_fired(topic).await })
    }
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

// === impl Publisher ===

impl Publisher {
    /// Publishes an event of this service; see [`Bus::publish`].
    ///
    /// # Errors
    ///
    /// As [`Bus::publish`].
    pub async fn publish(&self, event: NewEvent, trace: Option<TraceContext>) -> Result<String, PublishError> {
        if self.is_muted {
            return Err(PublishError::Denied { service: self.service.to_string(), topic: event.topic });
        }
        self.bus.publish(&self.service, event, trace).await
    }

    /// The same without the right to publish anything.
    pub fn muted(&self) -> Self {
        Self { is_muted: true, ..self.clone() }
    }
}

// === impl Stations ===

impl Stations {
    fn new() -> Self {
        Self { closing: watch::Sender::new(None), tasks: Mutex::default() }
    }

    fn closing(&self) -> Closing {
        self.closing.subscribe()
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
    }

    /// Runs a task that has nothing to finish when the bus closes.
    fn spawn_until_closed(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut closing = self.closing();
        self.spawn(async move {
            tokio::select! {
                _ = closing.changed() => {}
                () = task => {}
            }
        });
    }

    /// Tells all tasks to close, and ends those that have not by the deadline.
    async fn close(&self, deadline: Instant) {
        self.closing.send_replace(Some(deadline));
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        let all = async { while tasks.join_next().await.is_some() {} };
        if timeout_at(deadline, all).await.is_err() {
            tracing::warn!(subscriptions = tasks.len(), "event deliveries were cut off at the end of the grace period");
            tasks.shutdown().await;
        }
    }
}

fn partitions(set: u16, found: Option<u16>) -> String {
    match found {
        None => format!("the number of partitions is {set}; expected 1 to {}", RedisConfig::MAX_PARTITIONS),
        Some(found) => format!(
            "the number of partitions is {set}, and the application's events in Redis are spread over {found}: hosts that \
             differ would break the order of events; set `partitions = {found}` under [events]"
        ),
    }
}

fn closed() -> Fault {
    Fault::new(FaultKind::Unreachable, "the event bus is shutting down and takes no more events")
}
