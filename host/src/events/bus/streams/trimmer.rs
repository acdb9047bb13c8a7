//! Removes events of the past from the streams, by age and size, and what a subscription left that is no more.
//!
//! Every host with publishers or subscribers does this now and then; done twice it does no more. Nothing is removed that a
//! group has not read and acknowledged: of each stream Redis says in the same step how far each group is. A group that no
//! host has taken part in for the time that events are kept is dropped, or it would hold up the stream for good.

use super::{
    Retention, Subscription,
    group::millis,
    keys::{Keys, subscription},
    schedule::cutoff,
    scripts,
};
use crate::events::{bus::redis::Redis, dispatcher::Closing};
use ::redis::{Cmd, RedisResult, cmd};
use arc_swap::ArcSwap;
use jiff::Timestamp;
use std::{collections::HashMap, sync::Arc};
use tokio::{
    sync::Notify,
    time::{Duration, sleep},
};

/// How many entries to remove in one step for the sake of size.
const BATCH: u64 = 100;

pub(super) struct Trimmer {
    pub(super) redis: Arc<Redis>,
    pub(super) keys: Keys,
    pub(super) partitions: u16,
    pub(super) retention: Arc<ArcSwap<Retention>>,
    pub(super) every: Duration,
    /// How long a host may be silent.
    pub(super) lease: Duration,
    /// Redis has no memory left.
    pub(super) full: Arc<Notify>,
}

/// A stream after it was trimmed.
struct Trimmed {
    stream: String,
    entries: u64,
    bytes: u64,
}

// === impl Trimmer ===

impl Trimmer {
    pub(super) async fn run(self, mut closing: Closing) {
        let trim = async {
            loop {
                // Hosts that were started together need not trim together.
                let every = self.every.mul_f64(0.75 + fastrand::f64() / 2.0);
                tokio::select! {
                    () = sleep(every) => {}
                    () = self.full.notified() => {}
                }
                if let Err(err) = self.trim().await {
                    tracing::debug!(reason = %err, "streams were not trimmed");
                }
                // A full Redis says so with every event that it refuses.
                sleep(self.every.min(Duration::from_secs(1))).await;
            }
        };
        tokio::select! {
            _ = closing.changed() => {}
            () = trim => {}
        }
    }

    /// Trims everything once.
    pub(super) async fn trim(&self) -> RedisResult<()> {
        self.drop_forgotten().await?;
        let topics: Vec<String> = self.redis.query(cmd("SMEMBERS").arg(self.keys.topics())).await?;
        let mut trimmed = Vec::new();
        let cutoff = cutoff(self.retention.load().age);
        for topic in &topics {
            for partition in 0..self.partitions {
                let stream = self.keys.stream(topic, partition);
                let (_, entries, bytes) = self.remove(&stream, &cutoff, 0).await?;
                trimmed.push(Trimmed { stream, entries, bytes });
            }
        }
        let total: u64 = trimmed.iter().map(|it| it.bytes).sum();
        let Some(excess) = total.checked_sub(self.retention.load().size).filter(|excess| *excess > 0) else {
            return Ok(());
        };
        // Each stream gives its part.
        for Trimmed { stream, entries, bytes } in trimmed.iter().filter(|it| it.bytes > 0) {
            let part = u128::from(*bytes) * u128::from(excess) / u128::from(total);
            let mut left = u64::try_from(u128::from(*entries) * part / u128::from(*bytes)).unwrap_or(0);
            while left > 0 {
                let (removed, ..) = self.remove(stream, "0-0", left.min(BATCH)).await?;
                if removed == 0 {
                    break;
                }
                left = left.saturating_sub(removed);
            }
        }
        Ok(())
    }

    async fn remove(&self, stream: &str, before: &str, many: u64) -> RedisResult<(u64, u64, u64)> {
        self.redis.query(scripts::TRIM.on([stream]).arg(before).arg(many)).await
    }

    async fn drop_forgotten(&self) -> RedisResult<()> {
        let seen_key = self.keys.seen();
        let seen: HashMap<String, i64> = self.redis.query(cmd("HGETALL").arg(&seen_key)).await?;
        // The clocks of the hosts may differ by some leases.
        let age = self.retention.load().age.max(self.lease * 10);
        let limit = Timestamp::now().as_millisecond().saturating_sub(i64::try_from(millis(age)).unwrap_or(i64::MAX));
        for name in seen.iter().filter(|(_, at)| **at < limit).map(|(name, _)| name) {
            let Some((topic, service)) = name.split_once(' ') else { continue };
            let forget = forget(&self.keys, self.partitions, (topic, service), limit);
            if self.redis.query::<u8>(&forget).await? == 1 {
                tracing::warn!(
                    topic,
                    service,
                    "dropped the consumer group of a subscription that no host has had for long"
                );
            }
        }
        Ok(())
    }
}

/// What drops the group of a subscription that was seen last before this time.
fn forget(keys: &Keys, partitions: u16, (topic, service): (&str, &str), seen_before: i64) -> Cmd {
    let (seen, leases) = (keys.seen(), keys.leases(topic, service));
    let topics: Vec<_> = (0..partitions).map(|it| keys.stream(topic, it)).collect();
    let own: Vec<_> = (0..partitions).map(|it| keys.again(topic, service, it)).collect();
    let streams = topics.iter().chain(&own).map(String::as_str);
    let mut forget = scripts::DROP.on([&*seen, &*leases].into_iter().chain(streams));
    forget.arg(subscription(topic, service)).arg(service).arg(seen_before).arg(topics.len());
    forget
}

/// Drops the group of a subscription that no host has had since it was noted.
pub(super) async fn drop_group(
    redis: &Redis,
    keys: &Keys,
    partitions: u16,
    subscription: &Subscription,
    noted: i64,
) -> RedisResult<()> {
    let forget = forget(keys, partitions, (&subscription.topic, &subscription.service), noted + 1);
    redis.query::<u8>(&forget).await.map(drop)
}
