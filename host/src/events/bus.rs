//! The bus: what services publish to, whatever carries the events.

mod config;
mod embedded;
mod error;
mod pubsub;
mod redis;
#[cfg(test)]
mod shelved;
mod stations;
mod streams;
#[cfg(test)]
mod taking;
mod transport;

pub use config::{BusConfig, BusKind, Durability, EmbeddedConfig, Publishes, Retention};
pub use embedded::LogError;
pub use error::{BusError, PublishError};
pub use redis::RedisConfig;
pub use transport::Prepared;

use self::transport::{Before, Transport};
use super::{
    ArchiveError, BusSnapshot, DeadLetter, DeadLetterFilter, Event, NewEvent, ReplayFrom, Schedule, Subscription,
    archive::Archive,
    meter::Meter,
    schedule::{Firing, Scheduler},
};
use crate::{
    policy::{Fault, FaultKind},
    telemetry::TraceContext,
};
use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use jiff::Timestamp;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::{
    task::{AbortHandle, JoinSet},
    time::{Duration, Instant},
};

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
    grants: ArcSwap<HashMap<String, Grant>>,
    /// Those of the subscriptions, by topic and service.
    meters: Mutex<BTreeMap<Name, Arc<Meter>>>,
    published: AtomicU64,
    refused: AtomicU64,
    schedules: Mutex<Schedules>,
}

/// A subscription's topic and service.
type Name = (Arc<str>, Arc<str>);

/// The tasks that fire schedules.
#[derive(Default)]
struct Schedules {
    tasks: JoinSet<()>,
    running: Vec<(Schedule, AbortHandle)>,
}

#[derive(Clone)]
struct Grant {
    /// `/services/<name>`
    source: Arc<str>,
    topics: HashSet<Arc<str>>,
}

/// A subscription that is entered and gets nothing yet: what is published from now on waits for it, as far as the bus keeps
/// anything. Either it [begins](Bus::begin), or it is to be [struck out](Bus::strike).
#[must_use = "it has to begin, or to be struck out"]
#[derive(Debug)]
pub struct Entered {
    subscription: Subscription,
    before: Before,
}

// === impl Bus ===

impl Bus {
    /// Reaches its server by the user and the password of this URL, with the connections that are made from now on.
    /// `false`, and nothing is done, where the URL is of another place, or there is no server.
    pub fn log_in_by(&self, url: &str) -> bool {
        self.0.transport.log_in_by(url)
    }

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
        let meters = meters.into_iter().map(|meter| (meter.name(), meter)).collect();
        Ok(Self(Arc::new(Running {
            name: config.kind.name(),
            transport,
            grants: ArcSwap::from_pointee(grants(config.publishes)),
            meters: Mutex::new(meters),
            published: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            schedules: Mutex::default(),
        })))
    }

    /// Fires these schedules from now on and no others, until the bus shuts down. One that was there before goes on.
    pub fn run_schedules(&self, schedules: Vec<Schedule>) {
        let mut present = self.0.schedules.lock().unwrap_or_else(PoisonError::into_inner);
        let Schedules { tasks, running } = &mut *present;
        running.retain(|(schedule, task)| {
            let stays = schedules.contains(schedule);
            if !stays {
                task.abort();
            }
            stays
        });
        for schedule in schedules {
            if !running.iter().any(|(present, _)| *present == schedule) {
                let scheduler = Scheduler::new(vec![schedule.clone()], Arc::downgrade(&self.0), Timestamp::now);
                running.push((schedule, tasks.spawn(scheduler.run())));
            }
        }
        // Those that were aborted before.
        while tasks.try_join_next().is_some() {}
    }

    /// Keeps events of the past for so long from now on, where it keeps any.
    pub fn keep(&self, retention: &Retention) {
        self.0.transport.keep(retention);
    }

    /// Makes ready for the topics that services are about to be allowed to publish.
    ///
    /// # Errors
    ///
    /// When Redis does not do its part.
    pub async fn declare(&self, publishes: &Publishes) -> Result<(), BusError> {
        let present = self.0.grants.load_full();
        let known: HashSet<&str> = present.values().flat_map(|grant| &grant.topics).map(|topic| &**topic).collect();
        let new: BTreeSet<String> =
            publishes.values().flatten().filter(|topic| !known.contains(topic.as_str())).cloned().collect();
        if new.is_empty() { Ok(()) } else { self.0.transport.declare(new).await }
    }

    /// Lets services publish these topics, besides those that they may publish already.
    pub fn allow_too(&self, publishes: Publishes) {
        let mut all = HashMap::clone(&self.0.grants.load());
        for (service, grant) in grants(publishes) {
            all.entry(service)
                .or_insert_with(|| Grant { topics: HashSet::new(), ..grant.clone() })
                .topics
                .extend(grant.topics);
        }
        self.0.grants.store(Arc::new(all));
    }

    /// Lets services publish these topics and no others.
    pub fn allow_only(&self, publishes: Publishes) {
        self.0.grants.store(Arc::new(grants(publishes)));
    }

    /// Enters a subscription of a service that is about to come up, or has one more, or wants its events otherwise.
    ///
    /// # Errors
    ///
    /// When it is none, or the bus does not do its part; then nothing is entered.
    pub async fn enter(&self, subscription: Subscription) -> Result<Entered, BusError> {
        subscription.policy.validate()?;
        let before = self.0.transport.enter(&subscription).await?;
        Ok(Entered { subscription, before })
    }

    /// Takes back what was entered, as far as it was not there before.
    pub async fn strike(&self, entered: Entered) {
        if entered.before != Before::Present {
            self.0.transport.strike(&entered.subscription, entered.before).await;
        }
    }

    /// Begins to deliver to a subscription that was entered. One of the same topic and service ends by the deadline, and
    /// the new one goes on where it was.
    pub async fn begin(&self, entered: Entered, deadline: Instant) {
        let meter = self.0.transport.begin(entered.subscription, deadline).await;
        self.meters().insert(meter.name(), meter);
    }

    /// Ends a subscription that is no more. Deliveries under way end by the deadline.
    pub async fn end(&self, topic: &str, service: &str, deadline: Instant) {
        self.0.transport.end(topic, service, deadline).await;
        self.meters().remove(&(Arc::from(topic), Arc::from(service)));
    }

    fn meters(&self) -> MutexGuard<'_, BTreeMap<Name, Arc<Meter>>> {
        self.0.meters.lock().unwrap_or_else(PoisonError::into_inner)
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
        let grants = self.0.grants.load();
        let grant = grants.get(service);
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
            subscriptions: self.meters().values().map(|meter| meter.snapshot()).collect(),
            log: self.0.transport.log(),
        }
    }

    /// Takes no more events and returns when what was taken is delivered, or kept by the server, or `grace` is over.
    pub async fn shutdown(&self, grace: Duration) {
        let mut schedules = std::mem::take(&mut *self.0.schedules.lock().unwrap_or_else(PoisonError::into_inner));
        schedules.tasks.shutdown().await;
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

fn grants(publishes: Publishes) -> HashMap<String, Grant> {
    let grants = publishes.into_iter().map(|(service, topics)| {
        let source = format!("/services/{service}").into();
        (service, Grant { source, topics: topics.into_iter().map(Arc::from).collect() })
    });
    grants.collect()
}

fn closed() -> Fault {
    Fault::new(FaultKind::Unreachable, "the event bus is shutting down and takes no more events")
}
