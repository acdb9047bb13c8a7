//! Plain Redis `PUBLISH` and `SUBSCRIBE`, for programs that know nothing of Wharf.
//!
//! A topic is the channel of the same name and a message is the bare JSON payload: what others publish arrives as an
//! event whose envelope is made here, and what services publish is exactly their data. The price is the weaker promise
//! of the medium: an event reaches those who listen at that moment, at most once, and after it has arrived a try that
//! failed is repeated only as long as this process lives. Services of this host get their own host's events by way of
//! Redis too, so that there is one way and no event comes twice. Nothing is kept: there are no dead letters, no replay, and
//! no deliveries later or by a schedule, which are refused.

use super::{
    BusError, Prepared, RedisConfig, Stations, Transport, closed,
    redis::{RECONNECT, Redis, Repeat},
};
use crate::{
    events::{
        Connection, Event, InvalidEvent, PublishError, Subscription,
        archive::Archive,
        dispatcher::{Closing, Delivery, Dispatcher, InMemory},
        meter::Meter,
        room::{Place, Room},
    },
    policy::{Fault, FaultKind},
};
use ::redis::{Msg, RedisResult, aio, cmd};
use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture};
use jiff::Timestamp;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};
use tokio::{
    sync::mpsc,
    time::{Duration, Instant, MissedTickBehavior, interval, sleep, timeout},
};

/// How often to ask whether Redis is still there: a subscriber would not notice otherwise.
const PING: Duration = Duration::from_secs(5);

/// Carries bare JSON between this process and whoever else uses the channels.
pub(super) struct PubSub {
    redis: Arc<Redis>,
    publish_timeout: Duration,
    closed: AtomicBool,
    stations: Stations,
}

/// Receives the messages of all channels that have subscriptions, and hands them out.
struct Receiver {
    redis: Arc<Redis>,
    channels: HashMap<Arc<str>, Vec<Mailbox>>,
}

/// Where the events of one subscription are put.
struct Mailbox {
    room: Arc<Room>,
    meter: Arc<Meter>,
    inbox: mpsc::UnboundedSender<Delivery<Place>>,
}

// === impl PubSub ===

impl PubSub {
    /// Connects, starts a dispatcher for each subscription, and returns when Redis has confirmed every channel.
    pub(super) async fn start(
        config: &RedisConfig,
        subscriptions: Vec<Subscription>,
    ) -> Result<(Self, Vec<Arc<Meter>>), BusError> {
        for subscription in &subscriptions {
            subscription.policy.validate()?;
        }
        let redis = Redis::open(config).await?;
        let (stations, mut meters) = (Stations::new(), Vec::new());
        let mut channels: HashMap<Arc<str>, Vec<Mailbox>> = HashMap::new();
        for subscription in subscriptions {
            let room = Arc::new(Room::new(&subscription.policy));
            let meter = Arc::new(Meter::new(&subscription, Arc::clone(&room), None));
            let (inbox, outbox) = mpsc::unbounded_channel();
            let mailbox = Mailbox { room, meter: Arc::clone(&meter), inbox };
            channels.entry(Arc::clone(&subscription.topic)).or_default().push(mailbox);
            meters.push(Arc::clone(&meter));
            stations.spawn(Dispatcher::new(subscription, meter, Arc::new(InMemory), outbox, stations.closing()).run());
        }
        if !channels.is_empty() {
            let receiver = Receiver { redis: Arc::clone(&redis), channels };
            let subscribed = receiver.subscribe().await.map_err(|err| redis.unusable(&err))?;
            stations.spawn(receiver.run(subscribed, stations.closing()));
        }
        Ok((Self { redis, publish_timeout: config.publish_timeout, closed: AtomicBool::new(false), stations }, meters))
    }
}

impl Transport for PubSub {
    fn check(&self, event: &Event) -> Result<(), InvalidEvent> {
        event.check_bare()
    }

    fn publish(&self, Prepared { event, due }: Prepared) -> BoxFuture<'_, Result<(), PublishError>> {
        Box::pin(async move {
            if due.is_some_and(|due| due > Timestamp::now()) {
                return Err(keeps_nothing().into());
            }
            if self.closed.load(Relaxed) {
                return Err(closed().into());
            }
            event.check_bare()?;
            let mut publish = cmd("PUBLISH");
            publish.arg(&*event.topic).arg(&*event.data);
            Ok(self.redis.execute::<()>(&publish, self.publish_timeout, Repeat::Never).await?)
        })
    }

    fn fire(&self, _: Timestamp, _: Arc<Event>) -> BoxFuture<'_, Result<bool, PublishError>> {
        Box::pin(async { Err(keeps_nothing().into()) })
    }

    fn last_fired<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<Timestamp>, PublishError>> {
        Box::pin(async { Err(keeps_nothing().into()) })
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

/// Channels know only now.
fn keeps_nothing() -> Fault {
    Fault::new(
        FaultKind::Denied,
        "the bus redis-pubsub keeps nothing, so it can't deliver events later or by a schedule; \
         set `bus = \"embedded\"` or \"redis-streams\" under [events]",
    )
}

// === impl Receiver ===

impl Receiver {
    async fn subscribe(&self) -> RedisResult<aio::PubSub> {
        let mut connection = self.redis.pubsub().await?;
        let channels: Vec<&str> = self.channels.keys().map(|it| &**it).collect();
        connection.subscribe(channels).await?;
        self.redis.recovered();
        Ok(connection)
    }

    /// Receives until the bus closes, over as many connections as it takes.
    async fn run(self, mut connection: aio::PubSub, mut closing: Closing) {
        let mut failed = 0;
        loop {
            tokio::select! {
                _ = closing.changed() => return,
                () = self.receive(connection) => {}
            }
            connection = loop {
                tokio::select! {
                    _ = closing.changed() => return,
                    subscribed = self.subscribe() => match subscribed {
                        Ok(connection) => break connection,
                        Err(err) => self.redis.trouble(&err),
                    }
                }
                failed += 1;
                sleep(RECONNECT.after(failed)).await;
            };
            failed = 0;
            tracing::info!("subscribed to Redis again; what was published in between did not arrive");
        }
    }

    /// Hands out messages until the connection ends or no longer answers.
    async fn receive(&self, connection: aio::PubSub) {
        let (mut sink, mut messages) = connection.split();
        let mut ping = interval(PING);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = messages.next() => match message {
                    Some(message) => self.hand_out(&message),
                    None => return,
                },
                _ = ping.tick() => {
                    // NB: the answer comes over the stream's own task, so messages are not held up by waiting for it.
                    if !matches!(timeout(PING, sink.ping::<()>()).await, Ok(Ok(()))) {
                        return;
                    }
                }
            }
        }
    }

    fn hand_out(&self, message: &Msg) {
        let Some((topic, mailboxes)) = self.channels.get_key_value(message.get_channel_name()) else {
            return;
        };
        let data = Bytes::copy_from_slice(message.get_payload_bytes());
        let event = match Event::from_channel(Arc::clone(topic), data) {
            Ok(event) => Arc::new(event),
            Err(reason) => {
                tracing::warn!(%topic, %reason, "dropped a message of a Redis channel");
                mailboxes.iter().for_each(|mailbox| mailbox.meter.dropped());
                return;
            }
        };
        for Mailbox { room, meter, inbox } in mailboxes {
            match room.try_enter(&event.data) {
                Some(place) => {
                    // The dispatcher ends only after this task, which holds its inbox.
                    let _ = inbox.send(Delivery { event: Arc::clone(&event), attempt: 1, receipt: place });
                }
                None => {
                    meter.dropped();
                    tracing::warn!(%topic, "dropped a message of a Redis channel: the subscription has no room");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
