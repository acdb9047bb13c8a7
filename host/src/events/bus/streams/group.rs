//! One subscription as this host takes part in it.

use super::{
    holdings::{Holdings, Source},
    keys::{self, Keys},
    ledger::Letter,
    scripts,
};
use crate::events::{
    bus::redis::{RECONNECT, Redis, may_pass},
    meter::Meter,
    room::Room,
};
use ::redis::{RedisError, RedisResult, cmd};
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};
use tokio::{
    sync::Notify,
    time::{Duration, Instant, sleep},
};

/// One service's consumer group on the streams of one topic.
pub(super) struct Group {
    pub(super) redis: Arc<Redis>,
    pub(super) keys: Keys,
    pub(super) topic: Arc<str>,
    pub(super) service: Arc<str>,
    /// The name of this host.
    pub(super) host: String,
    pub(super) room: Arc<Room>,
    pub(super) meter: Arc<Meter>,
    /// Whether every try is counted before it begins. Where many are allowed, it is enough to take what was read by a
    /// host that died for tried once, which saves the way to Redis.
    pub(super) exact: bool,
    /// Something is to be read that was not before.
    pub(super) changed: Notify,
    /// A partition can be given back.
    pub(super) drained: Notify,
    pub(super) partitions: u16,
    pub(super) lease: Duration,
    /// Each source's stream, by its index.
    streams: Vec<String>,
    leases: String,
    /// Changes whenever this host can't know what became of its last read: Redis then refuses those before.
    fence: AtomicU64,
    holdings: Mutex<Holdings>,
    /// One heartbeat at a time.
    beating: tokio::sync::Mutex<()>,
}

/// Where a group that does not exist yet begins.
#[derive(Clone, Copy)]
pub(super) enum From {
    /// With what is published from now on: who subscribes today does not ask for the past.
    Now,
    /// With all that there is: the group was lost, and what came since has not been read.
    Start,
}

// === impl Group ===

impl Group {
    /// With a room and a meter of its own.
    pub(super) fn of(
        redis: &Arc<Redis>,
        keys: &Keys,
        config: &super::RedisConfig,
        subscription: &crate::events::Subscription,
    ) -> Arc<Self> {
        let room = Arc::new(Room::new(&subscription.policy));
        let meter = Arc::new(Meter::new(subscription, Arc::clone(&room), None));
        Arc::new(Self::new(redis, keys, config, subscription, room, meter))
    }

    pub(super) fn new(
        redis: &Arc<Redis>,
        keys: &Keys,
        config: &super::RedisConfig,
        subscription: &crate::events::Subscription,
        room: Arc<Room>,
        meter: Arc<Meter>,
    ) -> Self {
        let (topic, service) = (&subscription.topic, &subscription.service);
        let both = |it| [keys.stream(topic, it), keys.again(topic, service, it)];
        Self {
            redis: Arc::clone(redis),
            keys: keys.clone(),
            topic: Arc::clone(topic),
            service: Arc::clone(service),
            host: config.consumer.clone(),
            room,
            meter,
            exact: subscription.policy.max_attempts < 3,
            changed: Notify::new(),
            drained: Notify::new(),
            partitions: config.partitions,
            lease: config.lease,
            streams: (0..config.partitions).flat_map(both).collect(),
            leases: keys.leases(topic, service),
            fence: AtomicU64::new(fastrand::u64(..)),
            holdings: Mutex::new(Holdings::new(config.partitions)),
            beating: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn stream(&self, source: Source) -> &str {
        self.streams.get(source.index()).map_or("", String::as_str)
    }

    pub(super) fn sources(&self) -> impl Iterator<Item = Source> {
        (0..self.partitions).flat_map(|it| [Source::topic(it), Source::again(it)])
    }

    pub(super) fn leases(&self) -> &str {
        &self.leases
    }

    pub(super) fn fence(&self) -> String {
        self.fence.load(Relaxed).to_string()
    }

    pub(super) fn holdings(&self) -> MutexGuard<'_, Holdings> {
        self.holdings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates the group on the streams of its topic, unless it is there.
    pub(super) async fn create(&self, from: From) -> RedisResult<u16> {
        let from = match from {
            From::Now => "$",
            From::Start => "0",
        };
        let (partitions, topics) = (self.keys.partitions(), self.keys.topics());
        let streams = self.streams.iter().step_by(2).map(String::as_str);
        let mut prepare = scripts::PREPARE.on([&*partitions, &topics].into_iter().chain(streams));
        prepare.arg(self.partitions).arg(&*self.topic).arg(&*self.service).arg(from);
        self.redis.query(&prepare).await
    }

    /// After an error: waits, and puts the group back where it is gone, as after a Redis that kept nothing.
    pub(super) async fn recover(&self, err: &RedisError, failed: u32) {
        if err.code() == Some("NOGROUP") {
            self.restore().await;
        } else {
            self.redis.trouble(err);
        }
        sleep(RECONNECT.after(failed)).await;
    }

    pub(super) async fn restore(&self) {
        tracing::warn!(topic = %self.topic, service = %self.service, "the consumer group is gone from Redis; made anew");
        if let Err(err) = self.create(From::Start).await {
            self.redis.trouble(&err);
        }
        self.holdings().look_again();
    }

    /// Puts up a new fence: reads that were sent before have no effect when Redis comes to them.
    pub(super) async fn fence_off(&self) -> RedisResult<()> {
        self.fence.fetch_add(1, Relaxed);
        self.beat().await
    }

    /// Tells Redis that this host lives, gives back what is beyond its share, and learns what is its.
    pub(super) async fn beat(&self) -> RedisResult<()> {
        let _alone = self.beating.lock().await;
        let sent = Instant::now();
        let given = {
            let mut holdings = self.holdings();
            holdings.lapse(sent);
            holdings.give_back()
        };
        let seen = self.keys.seen();
        let mut beat = scripts::BEAT.on([self.leases(), &seen]);
        beat.arg(&self.host).arg(self.fence()).arg(millis(self.lease)).arg(self.partitions);
        beat.arg(keys::subscription(&self.topic, &self.service)).arg(given);
        let answer: Vec<u64> = self.redis.query(&beat).await?;
        let (share, mine) = answer.split_first().map_or((0, &[][..]), |(share, mine)| (*share, mine));
        let mine = mine.chunks_exact(2).map(|pair| (u16::try_from(pair[0]).unwrap_or(u16::MAX), pair[1]));
        let mine: Vec<_> = mine.collect();
        // Redis counts from when it came to the heartbeat, which is later.
        let mut holdings = self.holdings();
        let changed = holdings.beaten(sent + self.lease, usize::try_from(share).unwrap_or(usize::MAX), &mine);
        let drained = holdings.has_drained();
        drop(holdings);
        if changed {
            self.changed.notify_one();
        }
        if drained {
            self.drained.notify_one();
        }
        Ok(())
    }

    /// Lets other hosts have everything at once.
    pub(super) async fn release(&self) {
        let _alone = self.beating.lock().await;
        let mut release = scripts::RELEASE.on([self.leases()]);
        release.arg(&self.host).arg(self.fence()).arg(self.partitions);
        if let Err(err) = self.redis.query::<()>(&release).await {
            self.redis.trouble(&err);
        }
    }

    /// Tells Redis that an entry is settled. Where that fails, the keeper does it later.
    pub(super) async fn finish(&self, source: Source, id: &str, letter: Option<Letter>) {
        self.holdings().finish(source, id, letter.clone());
        if let Err(err) = self.tell(source, id, letter.as_ref()).await {
            self.redis.trouble(&err);
        }
    }

    /// Tells Redis what it could not be told when it happened.
    pub(super) async fn tell_all(&self) -> RedisResult<()> {
        let untold = self.holdings().untold();
        for (source, id, letter) in untold {
            self.tell(source, &id, letter.as_ref()).await?;
        }
        Ok(())
    }

    async fn tell(&self, source: Source, id: &str, letter: Option<&Letter>) -> RedisResult<()> {
        let stream = self.stream(source);
        let told = match letter {
            Some(letter) => {
                let dead = self.keys.dead();
                let mut bury = scripts::BURY.on([stream, &dead]);
                bury.arg(&*self.service).arg(id).arg(u8::from(source.is_again()));
                letter.encode(&self.topic, &self.service, &mut bury);
                self.redis.query::<()>(&bury).await
            }
            None if source.is_again() => {
                let mut both = ::redis::pipe();
                both.atomic().cmd("XACK").arg(stream).arg(&*self.service).arg(id).ignore();
                both.cmd("XDEL").arg(stream).arg(id).ignore();
                self.redis.pipeline(&both).await
            }
            None => self.redis.query::<()>(cmd("XACK").arg(stream).arg(&*self.service).arg(id)).await,
        };
        // What Redis refuses for good is not asked for again: the entry stays pending, and is found there.
        if !told.as_ref().is_err_and(may_pass) {
            self.holdings().told(source, id);
        }
        told
    }
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
