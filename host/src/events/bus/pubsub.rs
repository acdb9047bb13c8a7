//! Plain Redis `PUBLISH` and `SUBSCRIBE`, for programs that know nothing of Wharf.
//!
//! A topic is the channel of the same name and a message is the bare JSON payload: what others publish arrives as an
//! event whose envelope is made here, and what services publish is exactly their data. The price is the weaker promise
//! of the medium: an event reaches those who listen at that moment, at most once, and after it has arrived a try that
//! failed is repeated only as long as this process lives. Services of this host get their own host's events by way of
//! Redis too, so that there is one way and no event comes twice. Nothing is kept: there are no dead letters, no replay, and
//! no deliveries later or by a schedule, which are refused.

use super::{
    Before, BusError, Prepared, RedisConfig, Transport, closed,
    redis::{RECONNECT, Redis, Repeat},
    stations::Stations,
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
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Duration, Instant, MissedTickBehavior, interval, sleep, timeout},
};

/// How often to ask whether Redis is still there: a subscriber would not notice otherwise.
const PING: Duration = Duration::from_secs(5);

/// Carries bare JSON between this process and whoever else uses the channels.
pub(super) struct PubSub {
    redis: Arc<Redis>,
    channels: Arc<Channels>,
    /// What asks the receiver for another channel; `None` while there is no receiver.
    more: tokio::sync::Mutex<Option<mpsc::UnboundedSender<More>>>,
    publish_timeout: Duration,
    closed: AtomicBool,
    stations: Stations,
}

/// Receives the messages of all channels that have subscriptions, and hands them out.
struct Receiver {
    redis: Arc<Redis>,
    channels: Arc<Channels>,
    /// Channels to receive from besides.
    more: mpsc::UnboundedReceiver<More>,
}

/// A channel to receive from besides, and where to say that Redis has confirmed it.
type More = (Arc<str>, oneshot::Sender<()>);

/// The mailboxes of each channel. What a channel without any brings is dropped: a subscription to it is entered and has not
/// begun, or was the last and has ended.
#[derive(Default)]
struct Channels(Mutex<HashMap<Arc<str>, Vec<Mailbox>>>);

/// Where the events of one subscription are put.
struct Mailbox {
    service: Arc<str>,
    room: Arc<Room>,
    meter: Arc<Meter>,
    inbox: mpsc::UnboundedSender<Delivery<Place>>,
}

// === impl Channels ===

impl Channels {
    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Vec<Mailbox>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn names(&self) -> Vec<Arc<str>> {
        self.lock().keys().cloned().collect()
    }

    /// Puts a mailbox in place of that of the same service.
    fn put(&self, topic: &Arc<str>, mailbox: Mailbox) {
        let mut channels = self.lock();
        let mailboxes = channels.entry(Arc::clone(topic)).or_default();
        mailboxes.retain(|present| present.service != mailbox.service);
        mailboxes.push(mailbox);
    }

    fn remove(&self, topic: &str, service: &str) {
        let mut channels = self.lock();
        if let Some(mailboxes) = channels.get_mut(topic) {
            mailboxes.retain(|mailbox| *mailbox.service != *service);
        }
        // The last one stays: a connection that receives nothing can't be asked whether it is still good.
        if channels.len() > 1 && channels.get(topic).is_some_and(Vec::is_empty) {
            channels.remove(topic);
        }
    }
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
        let (channels, stations, mut meters) = (Arc::new(Channels::default()), Stations::new(), Vec::new());
        for subscription in subscriptions {
            meters.push(serve(subscription, &channels, &stations));
        }
        let pubsub = Self {
            redis,
            channels,
            more: tokio::sync::Mutex::default(),
            publish_timeout: config.publish_timeout,
            closed: AtomicBool::new(false),
            stations,
        };
        if !meters.is_empty() {
            let receiving = pubsub.receive().await;
            *pubsub.more.lock().await = Some(receiving.map_err(|err| pubsub.redis.unusable(&err))?);
        }
        Ok((pubsub, meters))
    }

    /// Begins to receive from all channels, and returns what asks for more of them.
    async fn receive(&self) -> RedisResult<mpsc::UnboundedSender<More>> {
        let (ask, more) = mpsc::unbounded_channel();
        let receiver = Receiver { redis: Arc::clone(&self.redis), channels: Arc::clone(&self.channels), more };
        let subscribed = receiver.subscribe().await?;
        self.stations.spawn(receiver.run(subscribed, self.stations.closing()));
        Ok(ask)
    }

    /// Sees to it that Redis sends what is published to a channel.
    async fn join(&self, topic: &Arc<str>) -> Result<(), BusError> {
        let mut more = self.more.lock().await;
        let confirmed = match &*more {
            None => {
                *more = Some(self.receive().await.map_err(|err| self.redis.unusable(&err))?);
                return Ok(());
            }
            Some(ask) => {
                let (confirm, confirmed) = oneshot::channel();
                // Where the receiver is gone the bus is closing, which the answer tells.
                let _ = ask.send((Arc::clone(topic), confirm));
                confirmed
            }
        };
        match timeout(PING, confirmed).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(BusError::Enter(format!("Redis did not confirm the channel {topic} in time"))),
        }
    }
}

/// Delivers to a subscription what is put into its mailbox.
fn serve(subscription: Subscription, channels: &Channels, stations: &Stations) -> Arc<Meter> {
    let (topic, service) = (Arc::clone(&subscription.topic), Arc::clone(&subscription.service));
    let room = Arc::new(Room::new(&subscription.policy));
    let meter = Arc::new(Meter::new(&subscription, Arc::clone(&room), None));
    let (inbox, outbox) = mpsc::unbounded_channel();
    let mailbox = Mailbox { service: Arc::clone(&service), room, meter: Arc::clone(&meter), inbox };
    channels.put(&topic, mailbox);
    let its = Arc::clone(&meter);
    stations
        .man((topic, service), |closing| Dispatcher::new(subscription, its, Arc::new(InMemory), outbox, closing).run());
    meter
}

impl Transport for PubSub {
    fn log_in_by(&self, url: &str) -> bool {
        self.redis.log_in_by(url)
    }

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

    fn enter<'a>(&'a self, subscription: &'a Subscription) -> BoxFuture<'a, Result<Before, BusError>> {
        Box::pin(async move {
            let topic = &subscription.topic;
            let is_new = {
                let mut channels = self.channels.lock();
                let is_new = !channels.contains_key(topic);
                channels.entry(Arc::clone(topic)).or_default();
                is_new
            };
            if is_new && let Err(error) = self.join(topic).await {
                self.channels.lock().remove(topic);
                return Err(error);
            }
            Ok(Before::Left)
        })
    }

    fn strike<'a>(&'a self, subscription: &'a Subscription, _: Before) -> BoxFuture<'a, ()> {
        // What the channel brings is dropped, and the next connection is made without it.
        Box::pin(async move { self.channels.remove(&subscription.topic, "") })
    }

    fn begin(&self, subscription: Subscription, deadline: Instant) -> BoxFuture<'_, Arc<Meter>> {
        Box::pin(async move {
            let (topic, service) = (Arc::clone(&subscription.topic), Arc::clone(&subscription.service));
            // The new mailbox takes what comes from now on, and what is in the old one is delivered as it would be at the end
            // of the bus.
            let present = self.stations.take(&topic, &service);
            let meter = serve(subscription, &self.channels, &self.stations);
            if let Some(present) = present {
                present.close(deadline).await;
            }
            meter
        })
    }

    fn end<'a>(&'a self, topic: &'a str, service: &'a str, deadline: Instant) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.channels.remove(topic, service);
            self.stations.leave(topic, service, deadline).await;
        })
    }

    fn shutdown(&self, deadline: Instant) -> BoxFuture<'_, ()> {
        self.closed.store(true, Relaxed);
        // Nothing more is put into a mailbox, so those who empty them come to an end.
        self.channels.lock().clear();
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
        let channels = self.channels.names();
        let channels: Vec<&str> = channels.iter().map(|it| &**it).collect();
        connection.subscribe(channels).await?;
        self.redis.recovered();
        Ok(connection)
    }

    /// Receives until the bus closes, over as many connections as it takes.
    async fn run(mut self, mut connection: aio::PubSub, mut closing: Closing) {
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
    async fn receive(&mut self, connection: aio::PubSub) {
        let (mut sink, mut messages) = connection.split();
        let mut ping = interval(PING);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = messages.next() => match message {
                    Some(message) => self.hand_out(&message),
                    None => return,
                },
                Some((topic, confirm)) = self.more.recv() => match timeout(PING, sink.subscribe(&*topic)).await {
                    Ok(Ok(())) => _ = confirm.send(()),
                    // The next connection has it, if it is still wanted then.
                    _ => return,
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
        let channels = self.channels.lock();
        let Some((topic, mailboxes)) = channels.get_key_value(message.get_channel_name()) else { return };
        if mailboxes.is_empty() {
            return;
        }
        let data = Bytes::copy_from_slice(message.get_payload_bytes());
        let event = match Event::from_channel(Arc::clone(topic), data) {
            Ok(event) => Arc::new(event),
            Err(reason) => {
                tracing::warn!(%topic, %reason, "dropped a message of a Redis channel");
                mailboxes.iter().for_each(|mailbox| mailbox.meter.dropped());
                return;
            }
        };
        for Mailbox { room, meter, inbox, .. } in mailboxes {
            match room.try_enter(&event.data) {
                Some(place) => {
                    // Where the dispatcher has ended the bus is closing.
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
