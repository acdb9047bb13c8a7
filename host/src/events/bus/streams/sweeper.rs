//! Looks for pending entries that nobody works on.

use super::{Group, Held, RedisConfig};
use crate::events::dispatcher::{Closing, Delivery};
use ::redis::{RedisResult, Value};
use std::{collections::HashMap, sync::Arc};
use tokio::{
    sync::mpsc,
    time::{Duration, MissedTickBehavior, interval},
};

/// How many pending entries to look at in one go.
const PAGE: usize = 128;
/// How long an entry may be on its way from Redis to the reader before it counts as lost.
const ON_ITS_WAY: Duration = Duration::from_secs(1);

/// Takes up what was left behind, and keeps what is being worked on from looking left behind.
pub(super) struct Sweeper {
    group: Arc<Group>,
    inbox: mpsc::UnboundedSender<Delivery<Held>>,
    closing: Closing,
    every: Duration,
    abandoned_after: Duration,
}

/// A pending entry: its id, whose it is, since how many milliseconds, and how often it was delivered.
type Pending = (String, String, u64, u32);

// === impl Sweeper ===

impl Sweeper {
    pub(super) fn new(
        group: Arc<Group>,
        config: &RedisConfig,
        inbox: mpsc::UnboundedSender<Delivery<Held>>,
        closing: Closing,
    ) -> Self {
        Self { group, inbox, closing, every: config.sweep, abandoned_after: config.abandoned_after }
    }

    pub(super) async fn run(self) {
        let mut closing = self.closing.clone();
        let mut turns = interval(self.every.max(Duration::from_millis(10)));
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let sweep = async {
            loop {
                turns.tick().await;
                if let Err(err) = self.sweep().await {
                    self.group.recover(&err, 1).await;
                }
            }
        };
        tokio::select! {
            _ = closing.changed() => {}
            () = sweep => {}
        }
    }

    async fn sweep(&self) -> RedisResult<()> {
        self.acknowledge_settled().await?;
        let mut from = String::from("-");
        loop {
            let mut query = self.group.command("XPENDING", None);
            let idle = ON_ITS_WAY.min(self.abandoned_after).as_millis() as u64;
            query.arg("IDLE").arg(idle).arg(&from).arg("+").arg(PAGE);
            let page: Vec<Pending> = self.group.redis.query(&query).await?;
            let Some((last, ..)) = page.last() else {
                break;
            };
            from = format!("({last}");
            let complete = page.len() < PAGE;
            self.take_up(page).await?;
            if complete {
                break;
            }
        }
        self.group.meter.set_behind(self.unread().await?);
        Ok(())
    }

    /// Tells Redis what it could not be told when it happened.
    async fn acknowledge_settled(&self) -> RedisResult<()> {
        let settled: Vec<String> = self.group.entries().settled.iter().cloned().collect();
        if !settled.is_empty() {
            self.group.redis.query::<()>(self.group.command("XACK", None).arg(&settled)).await?;
            let mut entries = self.group.entries();
            for id in &settled {
                entries.settled.remove(id);
            }
        }
        Ok(())
    }

    async fn take_up(&self, page: Vec<Pending>) -> RedisResult<()> {
        let group = &self.group;
        let mut alive = Vec::new();
        for (id, consumer, idle, deliveries) in page {
            let idle = Duration::from_millis(idle);
            let (held, settled) = {
                let entries = group.entries();
                (entries.held.contains(&id), entries.settled.contains(&id))
            };
            let mine = consumer == group.consumer;
            if settled || (!held && !mine && idle < self.abandoned_after) {
                continue;
            }
            if held {
                if idle > self.abandoned_after / 3 {
                    alive.push(id);
                }
                continue;
            }
            let Some(slot) = group.room.slots(1).await.pop() else {
                continue;
            };
            let limit = if mine { ON_ITS_WAY.min(self.abandoned_after) } else { self.abandoned_after };
            if let Some(fields) = group.claim(&id, limit).await? {
                tracing::info!(topic = %group.topic, entry = id, service = %group.service, from = consumer,
                    "took up an event that was left behind");
                let attempt = deliveries.saturating_add(1);
                if let Some(delivery) = group.accept(slot, id, fields, attempt).await {
                    // Fails only when the bus closes, and then the entry stays pending.
                    let _ = self.inbox.send(delivery);
                }
            }
        }
        if !alive.is_empty() {
            // JUSTID: the entry is as if just delivered, and the number of deliveries stays.
            let mut claim = group.command("XCLAIM", None);
            claim.arg(&group.consumer).arg(0).arg(&alive).arg("JUSTID");
            group.redis.query::<()>(&claim).await?;
        }
        Ok(())
    }

    /// How many entries the group has not read; Redis does not always know.
    async fn unread(&self) -> RedisResult<Option<u64>> {
        let mut info = ::redis::cmd("XINFO");
        info.arg("GROUPS").arg(&self.group.stream);
        let groups: Vec<HashMap<String, Value>> = self.group.redis.query(&info).await?;
        let text = |group: &HashMap<String, Value>| match group.get("name") {
            Some(Value::BulkString(name)) => name == self.group.service.as_bytes(),
            _ => false,
        };
        let lag = groups.iter().find(|group| text(group)).and_then(|group| group.get("lag"));
        Ok(lag.and_then(|lag| if let Value::Int(lag) = lag { u64::try_from(*lag).ok() } else { None }))
    }
}
