//! Redis Streams with consumer groups: one stream a topic, one group a subscribing service.
//!
//! Redis keeps account. An event that a group has read stays in the group's list of pending entries until it is
//! acknowledged, with the number of times that it was delivered; that number is the attempt that subscribers see, so
//! it goes on counting when another host takes over. A subscription has three tasks:
//!
//! - the **reader** waits for new entries on a connection of its own (a blocking read holds up whatever is behind it);
//! - the **dispatcher** hands them to the subscriber, and claims an entry again when its next try is due;
//! - the **sweeper** looks now and then for pending entries that nobody works on: what this host left when it ended,
//!   what a cut connection lost on its way here, and what another host has been silent about for too long.

mod entry;
mod reader;
mod sweeper;

use self::{entry::encode, reader::Reader, sweeper::Sweeper};
use super::{
    BusError, Prepared, RedisConfig, Stations, Transport, closed,
    redis::{RECONNECT, Redis, Repeat},
};
use crate::events::{
    Connection, Event, PublishError, Subscription,
    archive::{Archive, Burial},
    dispatcher::{Dispatcher, Ledger},
    meter::Meter,
    room::{Place, Room},
};
use ::redis::{Cmd, RedisError, RedisResult, Value, cmd};
use futures::future::BoxFuture;
use jiff::Timestamp;
use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};
use tokio::{
    sync::mpsc,
    time::{Duration, Instant, sleep},
};

/// Carries events over Redis Streams.
pub(super) struct Streams {
    redis: Arc<Redis>,
    app: String,
    publish_timeout: Duration,
    stream_length: usize,
    closed: AtomicBool,
    stations: Stations,
}

/// One service's consumer group on the stream of one topic, as this host takes part in it.
struct Group {
    redis: Arc<Redis>,
    topic: Arc<str>,
    service: Arc<str>,
    stream: String,
    consumer: String,
    room: Arc<Room>,
    meter: Arc<Meter>,
    entries: Mutex<Entries>,
}

/// The entries that this host has to do with, by their ids.
#[derive(Default)]
struct Entries {
    /// Being delivered, or waiting for it.
    held: HashSet<String>,
    /// Settled, and Redis does not know yet.
    settled: HashSet<String>,
}

/// One entry in the hands of this host.
struct Held {
    id: String,
    _place: Place,
}

/// Where a group that does not exist yet begins.
#[derive(Clone, Copy)]
enum From {
    /// With what is published from now on: who subscribes today does not ask for the past.
    Now,
    /// With all that there is: the group was lost, and what came since has not been read.
    Start,
}

// === impl Streams ===

impl Streams {
    /// Connects and creates the groups, so that what is published from now on reaches every subscription.
    pub(super) async fn start(
        app: &str,
        config: &RedisConfig,
        subscriptions: Vec<Subscription>,
    ) -> Result<(Self, Vec<Arc<Meter>>), BusError> {
        for subscription in &subscriptions {
            subscription.policy.validate()?;
        }
        let redis = Redis::open(config).await?;
        let (stations, mut meters) = (Stations::new(), Vec::new());
        for subscription in subscriptions {
            let room = Arc::new(Room::new(&subscription.policy));
            let meter = Arc::new(Meter::new(&subscription, Arc::clone(&room), None));
            let group = Arc::new(Group {
                redis: Arc::clone(&redis),
                topic: Arc::clone(&subscription.topic),
                service: Arc::clone(&subscription.service),
                stream: stream(app, &subscription.topic),
                consumer: config.consumer.clone(),
                room,
                meter: Arc::clone(&meter),
                entries: Mutex::default(),
            });
            group.create(From::Now).await.map_err(|err| redis.unusable(&err))?;
            let (inbox, outbox) = mpsc::unbounded_channel();
            stations.spawn(Reader::new(Arc::clone(&group), inbox.clone(), stations.closing()).run());
            stations.spawn(Sweeper::new(Arc::clone(&group), config, inbox, stations.closing()).run());
            stations.spawn(Dispatcher::new(subscription, Arc::clone(&meter), group, outbox, stations.closing()).run());
            meters.push(meter);
        }
        let streams = Self {
            redis,
            app: app.to_owned(),
            publish_timeout: config.publish_timeout,
            stream_length: config.stream_length,
            closed: AtomicBool::new(false),
            stations,
        };
        Ok((streams, meters))
    }
}

impl Transport for Streams {
    fn publish(&self, Prepared { event, .. }: Prepared) -> BoxFuture<'_, Result<(), PublishError>> {
        Box::pin(async move {
            if self.closed.load(Relaxed) {
                return Err(closed().into());
            }
            let mut add = cmd("XADD");
            add.arg(stream(&self.app, &event.topic)).arg("MAXLEN").arg("~").arg(self.stream_length).arg("*");
            encode(&event, &mut add);
            // Sent twice, it has the same event id twice, by which a handler can know it.
            Ok(self.redis.execute(&add, self.publish_timeout, Repeat::UntilConfirmed).await?)
        })
    }

    fn fire(&self, _: Timestamp, event: Arc<Event>) -> BoxFuture<'_, Result<bool, PublishError>> {
        Box::pin(async move { self.publish(Prepared { event, due: None }).await.map(|()| true) })
    }

    fn last_fired<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<Timestamp>, PublishError>> {
        Box::pin(async { Ok(None) })
    }

    fn archive(&self) -> Option<&dyn Archive> {
        None
    }

    fn connection(&self) -> Connection {
        self.redis.connection()
    }

    fn shutdown(&self, deadline: Instant) -> BoxFuture<'_, ()> {
        self.closed.store(true, Relaxed);
        Box::pin(self.stations.close(deadline))
    }
}

fn stream(app: &str, topic: &str) -> String {
    format!("wharf:{app}:{topic}")
}

// === impl Group ===

impl Group {
    /// A command on the stream, begun up to the group's name.
    fn command(&self, name: &str, sub: Option<&str>) -> Cmd {
        let mut command = cmd(name);
        if let Some(sub) = sub {
            command.arg(sub);
        }
        command.arg(&self.stream).arg(&*self.service);
        command
    }

    /// Creates the group, and the stream, unless they are there.
    async fn create(&self, from: From) -> RedisResult<()> {
        let from = match from {
            From::Now => "$",
            From::Start => "0",
        };
        let created = self.redis.query(self.command("XGROUP", Some("CREATE")).arg(from).arg("MKSTREAM")).await;
        match created {
            Err(err) if err.code() == Some("BUSYGROUP") => Ok(()),
            other => other,
        }
    }

    /// After an error: waits, and puts the group back where it is gone, as after a Redis that kept nothing.
    async fn recover(&self, err: &RedisError, failed: u32) {
        if err.code() == Some("NOGROUP") {
            tracing::warn!(topic = %self.topic, service = %self.service, "the consumer group is gone from Redis; made anew");
            if self.create(From::Start).await.is_ok() {
                return;
            }
        } else {
            self.redis.trouble(err);
        }
        sleep(RECONNECT.after(failed)).await;
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that these entries are in the hands of this host, so that the sweeper does not take them for lost.
    fn hold<'a>(&self, ids: impl IntoIterator<Item = &'a String>) {
        self.entries().held.extend(ids.into_iter().cloned());
    }

    /// The event that an entry holds. `None` where it is not one, which settles it.
    async fn decode(&self, id: &str, fields: Option<Value>) -> Option<Arc<Event>> {
        match entry::decode(&self.topic, fields) {
            Ok(event) => Some(Arc::new(event)),
            Err(reason) => {
                self.meter.rejected();
                tracing::error!(topic = %self.topic, entry = id, service = %self.service, attempts = 0, %reason,
                    "event rejected: the entry of the Redis stream is not an event");
                self.acknowledge(id.to_owned()).await;
                None
            }
        }
    }

    /// Claims a pending entry for this consumer, which counts as a delivery. `None` where it is gone, or was
    /// delivered elsewhere in the meantime.
    async fn claim(&self, id: &str, idle: Duration) -> RedisResult<Option<Option<Value>>> {
        let idle = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
        let mut claim = self.command("XCLAIM", None);
        claim.arg(&self.consumer).arg(idle).arg(id);
        let claimed: Vec<Option<(String, Option<Value>)>> = self.redis.query(&claim).await?;
        Ok(claimed.into_iter().flatten().next().map(|(_, fields)| fields))
    }

    /// Tells Redis that an entry is settled. Where that fails the sweeper does it later.
    async fn acknowledge(&self, id: String) {
        {
            let mut entries = self.entries();
            entries.held.remove(&id);
            entries.settled.insert(id.clone());
        }
        if self.redis.query::<()>(self.command("XACK", None).arg(&id)).await.is_ok() {
            self.entries().settled.remove(&id);
        }
    }
}

impl Ledger for Group {
    type Receipt = Held;
    const DURABLE: bool = true;

    async fn again(&self, held: &Held, attempt: u32) -> Option<u32> {
        let mut failed = 0;
        loop {
            // Zero: nobody else may claim what this host holds, since the sweeper keeps it from looking abandoned.
            match self.claim(&held.id, Duration::ZERO).await {
                Ok(Some(Some(_))) => return Some(attempt + 1),
                Ok(_) => {
                    tracing::error!(topic = %self.topic, entry = held.id, service = %self.service, attempts = attempt,
                        "event lost: the Redis stream does not hold it any more");
                    return None;
                }
                Err(err) => {
                    failed += 1;
                    self.recover(&err, failed).await;
                }
            }
        }
    }

    async fn settle(&self, held: Held) {
        self.acknowledge(held.id).await;
    }

    async fn failed(&self, _: &Held, _: u32, _: Duration, _: &str) {
        // Redis counts the tries.
    }

    async fn bury(&self, held: Held, _: Burial) {
        self.acknowledge(held.id).await;
    }

    fn leave(&self, held: Held) {
        self.entries().held.remove(&held.id);
    }
}

#[cfg(test)]
mod tests;
