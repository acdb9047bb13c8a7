//! Events for later: kept in Redis until they are due, and moved to their streams then, once by whichever host comes first.

use super::{entry::encode, group::millis, keys::Keys, scripts};
use crate::events::{
    Event,
    bus::redis::{RECONNECT, Redis},
    dispatcher::Closing,
};
use ::redis::Cmd;
use jiff::Timestamp;
use std::sync::Arc;
use tokio::{
    sync::Notify,
    time::{Duration, sleep},
};

/// How many events to move in one step of Redis.
const BATCH: usize = 64;
/// How long to wait at most before looking again: another host may have scheduled an event.
const PAUSE: Duration = Duration::from_secs(1);

/// Moves what is due.
pub(super) struct Scheduler {
    pub(super) redis: Arc<Redis>,
    pub(super) keys: Keys,
    /// This host has scheduled an event.
    pub(super) scheduled: Arc<Notify>,
}

/// The command that keeps an event until it is due.
pub(super) fn schedule(keys: &Keys, stream: &str, due: Timestamp, event: &Event) -> Cmd {
    let (times, events) = (keys.due(), keys.scheduled());
    let mut schedule = scripts::SCHEDULE.on([&*times, &events]);
    schedule.arg(&event.id).arg(due.as_millisecond()).arg(stream);
    encode(event, &mut schedule);
    schedule
}

/// The command that publishes an event of a schedule, unless that was done.
pub(super) fn fire(keys: &Keys, stream: &str, at: Timestamp, event: &Event) -> Cmd {
    let fired = keys.fired();
    let mut fire = scripts::FIRE.on([&*fired, stream]);
    fire.arg(&*event.topic).arg(at.as_millisecond()).arg(&event.id);
    encode(event, &mut fire);
    fire
}

/// The time that `fire` noted.
pub(super) fn fired(noted: Option<&str>) -> Option<Timestamp> {
    let (at, _) = noted?.split_once(' ')?;
    Timestamp::from_millisecond(at.parse().ok()?).ok()
}

// === impl Scheduler ===

impl Scheduler {
    pub(super) async fn run(self, mut closing: Closing) {
        tokio::select! {
            _ = closing.changed() => {}
            () = self.move_on() => {}
        }
    }

    async fn move_on(&self) {
        let (times, events) = (self.keys.due(), self.keys.scheduled());
        let mut failed = 0;
        loop {
            let moved = self.redis.query::<(usize, i64)>(scripts::DUE.on([&*times, &events]).arg(BATCH)).await;
            let pause = match moved {
                Ok((moved, next)) => {
                    failed = 0;
                    if moved == BATCH {
                        continue;
                    }
                    u64::try_from(next).map_or(PAUSE, Duration::from_millis).min(PAUSE)
                }
                Err(err) => {
                    failed += 1;
                    if err.code() == Some("OOM") && failed == 1 {
                        tracing::warn!(reason = %err, "Redis has no memory for scheduled events that are due; they wait");
                    }
                    RECONNECT.after(failed)
                }
            };
            tokio::select! {
                () = sleep(pause.max(Duration::from_millis(1))) => {}
                () = self.scheduled.notified() => {}
            }
        }
    }
}

/// The arguments of an id that is before every entry of this time or later.
pub(super) fn first_of(time: Timestamp) -> String {
    format!("{}-0", time.as_millisecond().max(0))
}

/// The id before which entries are too old.
pub(super) fn cutoff(age: Duration) -> String {
    let age = i64::try_from(millis(age)).unwrap_or(i64::MAX);
    format!("{}-0", Timestamp::now().as_millisecond().saturating_sub(age).max(0))
}
