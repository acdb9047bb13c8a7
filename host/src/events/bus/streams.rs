//! Redis Streams with consumer groups.
//!
//! **Partitions.** The events of a topic are spread over so many streams, `wharf:{app}:{topic}:{partition}`, by a hash of
//! their subject, so that those of one subject lie in one stream in their order. Each subscribing service has a group on
//! each of them, and beside it a stream of its own for what only this service gets once more (`…:again:{service}:…`).
//!
//! **Leases.** A partition of a subscription is read by one host at a time, which holds a lease of it and renews that with
//! a heartbeat. Hosts that come get their share of the partitions, those of hosts that go are free at once, and those of
//! hosts that died when the lease is over. Whoever takes a partition over takes first what is pending in it, in its order.
//! So subjects keep their order whatever hosts do; only what a host has begun to try when it loses a lease can't be
//! called back.
//!
//! **Account.** An event that a group has read stays in the group's list of pending entries until it is acknowledged, with
//! the number of tries. A subscription has three tasks:
//!
//! - the **keeper** beats, and tells Redis what it could not be told when it happened;
//! - the **reader** takes over what is pending, reads what is new and waits for it, on a connection of its own;
//! - the **dispatcher** hands events to the subscriber.
//!
//! Tries are counted in Redis before they begin, with one exception that saves a way to Redis for most events: reading
//! counts as the first try where the subscription allows three or more. What a host had read and not tried when it died is
//! then taken for tried once, and no more than once.
//!
//! **What Redis promises** is what this can: with `appendonly yes` and `appendfsync always` an acknowledged event survives
//! the machine. With `everysec` it survives the end of Redis itself unless the disk is behind, and with the machine the
//! last second or two may be lost. Without persistence the events are gone with Redis, and the groups are made anew from
//! the beginning of the streams. Asynchronous replicas may miss the last events when one of them takes over. Redis Cluster
//! is not supported: one script uses keys of different slots.

mod dead;
mod entry;
mod group;
mod holdings;
mod keeper;
mod keys;
mod ledger;
mod reader;
mod schedule;
mod scripts;
mod trimmer;

use self::{
    entry::encode,
    group::{From, Group},
    keeper::Keeper,
    keys::{Keys, partition},
    reader::Reader,
    schedule::Scheduler,
    trimmer::Trimmer,
};
use super::{
    Before, BusError, Prepared, RedisConfig, Retention, Transport, closed,
    redis::{Redis, Repeat},
    stations::{Crew, Stations, ended},
};
use crate::{
    events::{
        Connection, Event, PublishError, Subscription,
        archive::Archive,
        dispatcher::{Closing, Dispatcher},
        meter::Meter,
    },
    policy::{Fault, FaultKind},
};
use ::redis::{Cmd, FromRedisValue, RedisResult, cmd};
use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use jiff::Timestamp;
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};
use tokio::{
    sync::{Notify, mpsc},
    time::{Duration, Instant},
};

/// The oldest Redis whose scripts can say that they may run when memory is full.
const REDIS: u32 = 7;

/// Carries events over Redis Streams.
pub(super) struct Streams {
    redis: Arc<Redis>,
    config: RedisConfig,
    retention: Arc<ArcSwap<Retention>>,
    keys: Keys,
    partitions: u16,
    publish_timeout: Duration,
    closed: AtomicBool,
    /// An event was scheduled.
    scheduled: Arc<Notify>,
    /// Redis has no memory left.
    full: Arc<Notify>,
    stations: Stations,
}

// === impl Streams ===

impl Streams {
    /// Connects and creates the groups, so that what is published from now on reaches every subscription.
    pub(super) async fn start(
        app: &str,
        config: &RedisConfig,
        retention: &Retention,
        topics: BTreeSet<&str>,
        subscriptions: Vec<Subscription>,
    ) -> Result<(Self, Vec<Arc<Meter>>), BusError> {
        for subscription in &subscriptions {
            subscription.policy.validate()?;
        }
        if config.partitions == 0 || config.partitions > RedisConfig::MAX_PARTITIONS {
            return Err(BusError::Partitions { set: config.partitions, found: None });
        }
        let redis = Redis::open(config).await?;
        redis.check_version(REDIS).await?;
        let keys = Keys::new(app);
        for topic in topics {
            declare(&redis, &keys, config, topic).await?;
        }
        let (stations, mut meters) = (Stations::new(), Vec::new());
        for subscription in subscriptions {
            let group = Group::of(&redis, &keys, config, &subscription);
            prepared(&redis, config, group.create(From::Now).await)?;
            group.beat().await.map_err(|err| redis.unusable(&err))?;
            meters.push(Arc::clone(&group.meter));
            let name = (Arc::clone(&subscription.topic), Arc::clone(&subscription.service));
            stations.man(name, |closing| serve(subscription, group, closing));
        }
        let (scheduled, full) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let scheduler = Scheduler { redis: Arc::clone(&redis), keys: keys.clone(), scheduled: Arc::clone(&scheduled) };
        stations.spawn(scheduler.run(stations.closing()));
        let retention = Arc::new(ArcSwap::from_pointee(retention.clone()));
        let trimmer = Trimmer {
            redis: Arc::clone(&redis),
            keys: keys.clone(),
            partitions: config.partitions,
            retention: Arc::clone(&retention),
            every: config.trim,
            lease: config.lease,
            full: Arc::clone(&full),
        };
        stations.spawn(trimmer.run(stations.closing()));
        let streams = Self {
            redis,
            config: config.clone(),
            retention,
            keys,
            partitions: config.partitions,
            publish_timeout: config.publish_timeout,
            closed: AtomicBool::new(false),
            scheduled,
            full,
            stations,
        };
        Ok((streams, meters))
    }

    fn stream(&self, event: &Event) -> String {
        self.keys.stream(&event.topic, partition(event, self.partitions))
    }

    /// Has Redis take an event. Sent twice, it has the same event id twice, by which a handler can know it.
    async fn send<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Fault> {
        if self.closed.load(Relaxed) {
            return Err(closed());
        }
        let sent = self.redis.execute(command, self.publish_timeout, Repeat::UntilConfirmed).await;
        if sent.as_ref().is_err_and(|fault| fault.kind() == FaultKind::Overloaded) {
            self.full.notify_one();
        }
        sent
    }
}

/// Notes a topic that is about to be published.
async fn declare(redis: &Redis, keys: &Keys, config: &RedisConfig, topic: &str) -> Result<(), BusError> {
    let partitions = keys.partitions();
    let mut prepare = scripts::PREPARE.on([&*partitions, &keys.topics()]);
    prepare.arg(config.partitions).arg(topic);
    prepared(redis, config, redis.query(&prepare).await)
}

/// Reads for one subscription and delivers until it is told to close.
async fn serve(subscription: Subscription, group: Arc<Group>, closing: Closing) {
    let (inbox, outbox) = mpsc::unbounded_channel();
    let (work, working) = mpsc::channel::<()>(1);
    let reader = Reader::new(Arc::clone(&group), inbox, closing.clone());
    let meter = Arc::clone(&group.meter);
    let dispatcher = Dispatcher::new(subscription, meter, Arc::clone(&group), outbox, closing.clone());
    let mut crew = Crew::new();
    let reading = work.clone();
    crew.spawn(async move {
        reader.run().await;
        drop(reading);
    });
    crew.spawn(async move {
        dispatcher.run().await;
        drop(work);
    });
    crew.spawn(Keeper::new(group, closing, working).run());
    ended(crew).await;
}

/// Whether the streams are as this host expects them.
fn prepared(redis: &Redis, config: &RedisConfig, found: RedisResult<u16>) -> Result<(), BusError> {
    match found {
        Ok(found) if found == config.partitions => Ok(()),
        Ok(found) => Err(BusError::Partitions { set: config.partitions, found: Some(found) }),
        Err(err) => Err(redis.unusable(&err)),
    }
}

impl Transport for Streams {
    fn log_in_by(&self, url: &str) -> bool {
        self.redis.log_in_by(url)
    }

    fn publish(&self, Prepared { event, due }: Prepared) -> BoxFuture<'_, Result<(), PublishError>> {
        Box::pin(async move {
            let stream = self.stream(&event);
            if let Some(due) = due.filter(|due| *due > Timestamp::now()) {
                self.send::<()>(&schedule::schedule(&self.keys, &stream, due, &event)).await?;
                self.scheduled.notify_one();
                return Ok(());
            }
            let mut add = cmd("XADD");
            add.arg(stream).arg("*");
            encode(&event, &mut add);
            Ok(self.send::<()>(&add).await?)
        })
    }

    fn fire(&self, at: Timestamp, event: Arc<Event>) -> BoxFuture<'_, Result<bool, PublishError>> {
        Box::pin(async move {
            let stream = self.stream(&event);
            Ok(self.send::<bool>(&schedule::fire(&self.keys, &stream, at, &event)).await?)
        })
    }

    fn last_fired<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<Option<Timestamp>, PublishError>> {
        Box::pin(async move {
            let mut get = cmd("HGET");
            let noted: Option<String> = self.send(get.arg(self.keys.fired()).arg(topic)).await?;
            Ok(schedule::fired(noted.as_deref()))
        })
    }

    fn archive(&self) -> Option<&dyn Archive> {
        Some(self)
    }

    fn connection(&self) -> Connection {
        self.redis.connection()
    }

    fn keep(&self, retention: &Retention) {
        self.retention.store(Arc::new(retention.clone()));
    }

    fn declare(&self, topics: BTreeSet<String>) -> BoxFuture<'_, Result<(), BusError>> {
        Box::pin(async move {
            for topic in topics {
                declare(&self.redis, &self.keys, &self.config, &topic).await?;
            }
            Ok(())
        })
    }

    fn enter<'a>(&'a self, subscription: &'a Subscription) -> BoxFuture<'a, Result<Before, BusError>> {
        Box::pin(async move {
            let Subscription { topic, service, .. } = subscription;
            let wrong = |err| self.redis.unusable(&err);
            // By the clock that heartbeats go by.
            let (seconds, micros): (i64, i64) = self.redis.query(&cmd("TIME")).await.map_err(wrong)?;
            let now = seconds * 1000 + micros / 1000;
            let mut note = cmd("HSETNX");
            note.arg(self.keys.seen()).arg(keys::subscription(topic, service)).arg(now);
            let is_new: bool = self.redis.query(&note).await.map_err(wrong)?;
            let group = Group::of(&self.redis, &self.keys, &self.config, subscription);
            prepared(&self.redis, &self.config, group.create(From::Now).await)?;
            Ok(if is_new { Before::Unknown(now) } else { Before::Left })
        })
    }

    fn strike<'a>(&'a self, subscription: &'a Subscription, before: Before) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            // One whose place was kept is dropped when no host has had it for long, and one that another host has begun
            // meanwhile is that host's.
            if let Before::Unknown(noted) = before
                && let Err(err) =
                    trimmer::drop_group(&self.redis, &self.keys, self.partitions, subscription, noted).await
            {
                self.redis.trouble(&err);
            }
        })
    }

    fn begin(&self, subscription: Subscription, deadline: Instant) -> BoxFuture<'_, Arc<Meter>> {
        Box::pin(async move {
            self.stations.leave(&subscription.topic, &subscription.service, deadline).await;
            let group = Group::of(&self.redis, &self.keys, &self.config, &subscription);
            let meter = Arc::clone(&group.meter);
            let name = (Arc::clone(&subscription.topic), Arc::clone(&subscription.service));
            self.stations.man(name, |closing| serve(subscription, group, closing));
            meter
        })
    }

    fn end<'a>(&'a self, topic: &'a str, service: &'a str, deadline: Instant) -> BoxFuture<'a, ()> {
        // The group stays where it is, for as long as any that no host has.
        Box::pin(async move { _ = self.stations.leave(topic, service, deadline).await })
    }

    fn shutdown(&self, deadline: Instant) -> BoxFuture<'_, ()> {
        self.closed.store(true, Relaxed);
        Box::pin(self.stations.close(deadline))
    }
}

#[cfg(test)]
mod tests;
