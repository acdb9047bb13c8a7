//! Feeds a cursor that is not at the end of the log, as far as its subscription has room.

use super::{
    cursor::{Cursor, Offered, Want},
    log::Log,
    readers,
};
use crate::{
    events::{dispatcher::Closing, room::Slot},
    policy::Backoff,
};
use std::sync::Arc;
use tokio::time::{Duration, sleep};

/// How many events are read at once, and about how many bytes.
const BATCH: usize = 64;
const BATCH_BYTES: usize = 1 << 20;

/// How long to wait after the log could not be read.
const TROUBLE: Backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(5), jitter: 0.5 };

/// Feeds until the bus closes, or a replay is through.
pub(super) async fn run(cursor: Arc<Cursor>, log: Arc<Log>, mut closing: Closing) {
    tokio::select! {
        _ = closing.changed() => {}
        () = feed(&cursor, &log) => {}
    }
}

async fn feed(cursor: &Arc<Cursor>, log: &Log) {
    let mut failed = 0;
    loop {
        match cursor.want(1) {
            Want::Through => return,
            Want::Nothing => {
                cursor.wake.notified().await;
                continue;
            }
            Want::These(_) | Want::After(..) => {}
        }
        // First the room, then the reading: what is read is never more than there is room for.
        let slots = cursor.seat.room.slots(BATCH).await;
        match step(cursor, log, slots).await {
            Ok(()) => failed = 0,
            Err(reason) => {
                failed += 1;
                tracing::error!(topic = %cursor.seat.topic, service = %cursor.seat.service, %reason,
                    "a subscription can't be read on; it will be tried again");
                sleep(TROUBLE.after(failed)).await;
            }
        }
    }
}

async fn step(cursor: &Arc<Cursor>, log: &Log, slots: Vec<Slot>) -> Result<(), String> {
    let topic = Arc::clone(&cursor.seat.topic);
    let mut slots = slots.into_iter();
    match cursor.want(slots.len()) {
        Want::Nothing | Want::Through => {}
        Want::These(list) => {
            let read = move |connection: &_| readers::these(connection, &topic, &list, BATCH_BYTES);
            for (seq, event) in log.readers.read(read).await? {
                let Some(slot) = slots.next() else { break };
                cursor.take_again(seq, event, slot).await;
            }
        }
        Want::After(seq, tail) => {
            let (id, most) = (cursor.seat.topic_id, slots.len());
            let until = cursor.until.unwrap_or(i64::MAX);
            let read = move |connection: &_| readers::after(connection, (id, &topic), seq, until, most, BATCH_BYTES);
            let batch = log.readers.read(read).await?;
            for (seq, event) in batch.events {
                let event = Arc::new(event);
                if let Offered::NeedsPlace = cursor.offer(seq, &event)
                    && let Some(slot) = slots.next()
                    && let Some(place) = cursor.seat.room.enter(slot, &event.data).await
                {
                    cursor.take(seq, event, place);
                }
            }
            if batch.last {
                cursor.reached(tail);
            }
        }
    }
    Ok(())
}
