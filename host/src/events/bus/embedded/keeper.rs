//! What the log does of itself: it saves what subscriptions have come to, takes in what is due, and drops what is old.

use super::{log::Log, readers, row, writer::Page};
use crate::policy::{Backoff, Fault};
use jiff::Timestamp;
use rusqlite::OptionalExtension;
use std::sync::{Arc, atomic::Ordering::Relaxed};
use tokio::time::{Duration, sleep, timeout};

/// How long what was settled may wait for a commit.
const SAVE: Duration = Duration::from_millis(50);
/// How often to look for what is old, and how long to wait at least.
const SWEEP: Duration = Duration::from_secs(60);
const REST: Duration = Duration::from_millis(250);
/// How many events are looked at in one step of dropping, which publishers wait for.
const STEP: i64 = 100;
/// How many scheduled events are taken in at a time, and about how many bytes.
const DUE: usize = 256;
const DUE_BYTES: usize = 4 << 20;
/// The longest sleep until something is due: the clock may be set meanwhile.
const NAP: Duration = Duration::from_secs(60);
/// How long to wait after the log could not be written.
const TROUBLE: Backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(5), jitter: 0.5 };

/// Saves what cursors have come to, a moment after they have.
pub(super) async fn save(log: Arc<Log>) {
    loop {
        log.dirty.notified().await;
        sleep(SAVE).await;
        log.save();
    }
}

/// Takes what is due into the log when it is.
pub(super) async fn schedule(log: Arc<Log>) {
    let mut failed = 0;
    loop {
        let due = log.due.load(Relaxed);
        if due == i64::MAX {
            log.scheduled.notified().await;
            continue;
        }
        let wait = Duration::try_from(row::time(due).duration_since(Timestamp::now())).unwrap_or_default();
        if timeout(wait.min(NAP), log.scheduled.notified()).await.is_ok() || wait > NAP {
            // Something else may be due before it, or the clock may have been set.
            continue;
        }
        match take_due(&log, due).await {
            Ok(()) => failed = 0,
            Err(reason) => {
                failed += 1;
                tracing::error!(%reason, "scheduled events are due and can't be published; it will be tried again");
                sleep(TROUBLE.after(failed)).await;
            }
        }
    }
}

/// Moves what is due by then into the log, some at a time. By `due`, not by the clock: the sleep up to it is over.
async fn take_due(log: &Arc<Log>, due: i64) -> Result<(), Fault> {
    log.due.store(i64::MAX, Relaxed);
    let until = due.max(Timestamp::now().as_millisecond());
    let moving = log.write(move |page| move_due(page, until)).await;
    // Whatever came of it, what is left is due again.
    log.due.fetch_min(*moving.as_ref().unwrap_or(&due), Relaxed);
    moving.map(drop)
}

/// Returns when the next is due.
fn move_due(page: &mut Page<'_>, until: i64) -> rusqlite::Result<i64> {
    let columns = row::COLUMNS.replacen("e.id", "e.event", 1);
    let events: Vec<_> = {
        let mut statement = page.connection().prepare_cached(&format!(
            "SELECT e.id, t.name, {columns} FROM scheduled e JOIN sources s ON s.id = e.source \
             JOIN topics t ON t.id = e.topic WHERE e.due <= ?1 ORDER BY e.due, e.id LIMIT {DUE}"
        ))?;
        let mut rows = statement.query([until])?;
        let (mut events, mut bytes) = (Vec::new(), 0);
        while bytes < DUE_BYTES
            && let Some(row) = rows.next()?
        {
            let topic: String = row.get(1)?;
            let event = row::read(row, 2, &topic.into())?;
            bytes += event.data.len();
            events.push((row.get::<_, i64>(0)?, Arc::new(event)));
        }
        events
    };
    let now = Timestamp::now();
    for (id, event) in &events {
        page.append_now(event, now)?;
        page.connection().prepare_cached("DELETE FROM scheduled WHERE id = ?1")?.execute([id])?;
    }
    let next = "SELECT coalesce(min(due), 9223372036854775807) FROM scheduled";
    page.connection().prepare_cached(next)?.query_row([], |row| row.get(0))
}

/// Drops what is old, now and then and when the log is larger than it should be.
pub(super) async fn sweep(log: Arc<Log>) {
    loop {
        if let Err(reason) = sweep_once(&log).await {
            tracing::warn!(%reason, "old events could not be dropped; it will be tried again");
        }
        // Where nothing can be dropped it is asked for with every commit.
        sleep(REST).await;
        let _ = timeout(SWEEP, log.sweep.notified()).await;
    }
}

/// Drops what every subscription has settled and is too old or too much. What is pending or dead stays.
pub(super) async fn sweep_once(log: &Arc<Log>) -> Result<u64, Fault> {
    let age = i64::try_from(log.retention.load().age.as_millis()).unwrap_or(i64::MAX);
    let before = Timestamp::now().as_millisecond().saturating_sub(age);
    let size = log.size();
    log.write(move |page| forget(page, before)).await?;
    let (mut from, mut dropped) = (0, 0);
    loop {
        let step = log.write(move |page| drop_some(page, from, before, size)).await?;
        let Some((next, count)) = step else { return Ok(dropped) };
        (from, dropped) = (next, dropped + count);
    }
}

/// Forgets subscriptions that no manifest has had for so long. Their dead letters stay.
fn forget(page: &mut Page<'_>, before: i64) -> rusqlite::Result<()> {
    const GONE: &str = "SELECT id FROM subscriptions WHERE removed < ?1";
    for sql in [
        format!("DELETE FROM pending WHERE cursor IN (SELECT id FROM cursors WHERE subscription IN ({GONE}))"),
        format!("DELETE FROM cursors WHERE subscription IN ({GONE})"),
        "DELETE FROM subscriptions WHERE removed < ?1 AND id NOT IN (SELECT subscription FROM dead)".into(),
    ] {
        page.connection().prepare_cached(&sql)?.execute([before])?;
    }
    Ok(())
}

/// Looks at some events from `from` on, and drops those that may go. Returns where to go on and how many it dropped;
/// `None` at the end.
fn drop_some(page: &mut Page<'_>, from: i64, before: i64, size: u64) -> rusqlite::Result<Option<(i64, u64)>> {
    let connection = page.connection();
    // The last one stays, for the numbers go on after it.
    let last = page.writer().end();
    let end = if page.writer().used()? > size {
        last
    } else {
        readers::first_at(connection, before)?.unwrap_or(last).min(last)
    };
    // For each topic what nobody needs any more: where nobody subscribes, all.
    let floors = "SELECT t.id, (SELECT min(c.position) FROM cursors c JOIN subscriptions s ON s.id = c.subscription \
         WHERE s.topic = t.id) FROM topics t";
    let mut first = connection.prepare_cached("SELECT min(seq) FROM events WHERE topic = ?1 AND seq >= ?2")?;
    let mut ranges = Vec::new();
    let mut statement = connection.prepare_cached(floors)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (topic, floor): (i64, Option<i64>) = (row.get(0)?, row.get(1)?);
        let bound = floor.map_or(end, |floor| end.min(floor + 1));
        let lowest: Option<i64> = first.query_row((topic, from), |row| row.get(0)).optional()?.flatten();
        if let Some(lowest) = lowest.filter(|lowest| *lowest < bound) {
            ranges.push((topic, lowest, bound));
        }
    }
    let Some(start) = ranges.iter().map(|(_, lowest, _)| *lowest).min() else { return Ok(None) };
    let mut dropped = 0;
    for (topic, _, bound) in ranges {
        let delete = "DELETE FROM events WHERE topic = ?1 AND seq >= ?2 AND seq < ?3 \
             AND NOT EXISTS (SELECT 1 FROM pending p WHERE p.seq = events.seq) \
             AND NOT EXISTS (SELECT 1 FROM dead d WHERE d.seq = events.seq)";
        dropped += connection.prepare_cached(delete)?.execute((topic, start, bound.min(start + STEP)))?;
    }
    Ok(Some((start + STEP, dropped as u64)))
}
