//! Waits for new entries of a stream.

use super::{Group, Held};
use crate::events::dispatcher::{Closing, Delivery};
use ::redis::{RedisResult, Value, aio};
use std::sync::Arc;
use tokio::{sync::mpsc, time::Duration};

/// How many entries to read at once.
const BATCH: usize = 32;
/// How long Redis waits for an entry before it answers that there is none.
const BLOCK: Duration = Duration::from_secs(5);

/// Reads what is new into the dispatcher's inbox, no more than there is room for.
pub(super) struct Reader {
    group: Arc<Group>,
    inbox: mpsc::UnboundedSender<Delivery<Held>>,
    closing: Closing,
    connection: Option<aio::MultiplexedConnection>,
}

type Entry = (String, Option<Value>);

// === impl Reader ===

impl Reader {
    pub(super) fn new(group: Arc<Group>, inbox: mpsc::UnboundedSender<Delivery<Held>>, closing: Closing) -> Self {
        Self { group, inbox, closing, connection: None }
    }

    pub(super) async fn run(mut self) {
        let mut closing = self.closing.clone();
        // What Redis has handed out when this is cut off stays pending, and the next sweep finds it.
        tokio::select! {
            _ = closing.changed() => {}
            () = self.read_on() => {}
        }
    }

    async fn read_on(&mut self) {
        let mut failed = 0;
        loop {
            let group = Arc::clone(&self.group);
            let slots = group.room.slots(BATCH).await;
            match self.read(slots.len()).await {
                Ok(entries) => {
                    failed = 0;
                    for ((id, fields), slot) in entries.into_iter().zip(slots) {
                        if let Some(delivery) = group.accept(slot, id, fields, 1).await
                            && self.inbox.send(delivery).is_err()
                        {
                            return;
                        }
                    }
                }
                Err(err) => {
                    failed += 1;
                    if err.code() != Some("NOGROUP") {
                        self.connection = None;
                    }
                    drop(slots);
                    group.recover(&err, failed).await;
                }
            }
        }
    }

    async fn read(&mut self, count: usize) -> RedisResult<Vec<Entry>> {
        let group = &self.group;
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(group.redis.reader(BLOCK).await?),
        };
        let mut read = ::redis::cmd("XREADGROUP");
        read.arg("GROUP").arg(&*group.service).arg(&group.consumer).arg("COUNT").arg(count);
        read.arg("BLOCK").arg(BLOCK.as_millis() as u64).arg("STREAMS").arg(&group.stream).arg(">");
        let streams: Option<Vec<(Value, Vec<Entry>)>> = read.query_async(connection).await?;
        Ok(streams.into_iter().flatten().flat_map(|(_, entries)| entries).collect())
    }
}
