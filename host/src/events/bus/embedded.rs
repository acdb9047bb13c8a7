//! A log of events in this host's own data folder: one SQLite file, and no server.
//!
//! An event that was published is in the file before its publisher hears so, and every subscription has a position in it
//! that is saved behind what it has settled: what a crash interrupts is delivered again, and nothing is left out.
//!
//! - **One writes, many share a commit.** Whoever publishes while the writer commits is part of the next commit. A commit
//!   is what an acknowledgement promises: see [`Durability`](crate::events::Durability).
//! - **From memory, or from the log.** After its commit an event goes straight to the subscriptions that have read up to
//!   there and have room for it. One without room falls behind, fills no memory, slows nobody, and is read for from the
//!   file when it has room again. So publishing fails only when the file may not grow: at the retention's limit, on a full
//!   disk, or where more wait for the writer than can.
//! - **What was settled is saved with the next commit, or a moment later**: a crash before that means another delivery. A
//!   dead letter and the settling of its event are one transaction, and so is what is made of dead letters later.
//! - **Tries are counted when they have failed**, and so not those that the host died of. Only after it died are those
//!   counted before they begin, for a while and of what was in the log then: an event of which the host dies each time is
//!   in the end a dead letter.
//! - **A subscription begins at the end of the log**, and one that was there before goes on where it was. One that the
//!   manifest has no longer keeps its place, and the events after it, for the retention's age; after that it is forgotten,
//!   and begins at the end when it comes back. Its dead letters stay.
//! - **A replay is a second position of a subscription**, which ends where the first one is. Its events take their turn
//!   with the others: those of one subject go one after the other, in the order in which they are handed over, so that
//!   an old event comes after newer ones that were handed over before, and never beside one.
//! - **What is published for later** waits in a table of its own and comes to the end of the log when it is due.
//! - **What all have settled is dropped** when it is older than the retention's age or the log larger than its size, in
//!   small steps between commits. Pending, dead and scheduled events stay. The pages of what was dropped are used again;
//!   the file itself does not shrink (`VACUUM`, with the host stopped, makes it small).
//!
//! The file is for people too: `schema.sql` says what is in its tables, and the views `log`, `lag` and `dead_letters` show
//! it. Look with `sqlite3 -readonly`; a backup while it runs is `sqlite3 events.sqlite ".backup copy.sqlite"` or
//! `VACUUM INTO`.

mod accounts;
mod archive;
mod cursor;
mod feeder;
mod keeper;
mod log;
mod queue;
mod readers;
mod row;
mod schema;
mod writer;

pub use schema::LogError;

use self::{
    accounts::Accounts,
    cursor::{Cursor, Row, Seat},
    log::Log,
    writer::Writer,
};
use super::{BusError, EmbeddedConfig, Prepared, Retention, Stations, Transport, closed};
use crate::events::{
    Connection, DeliveryOrder, Event, LogSnapshot, PublishError, Subscription, archive::Archive,
    dispatcher::Dispatcher, meter::Meter, room::Room,
};
use futures::future::BoxFuture;
use jiff::Timestamp;
use rusqlite::OptionalExtension;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};
use tokio::{
    sync::{Notify, mpsc},
    task::spawn_blocking,
    time::Instant,
};

/// Carries events by way of a log.
pub(super) struct Embedded {
    log: Arc<Log>,
    closed: AtomicBool,
    stations: Stations,
}

/// A subscription as the log knows it.
struct Known {
    topic: i64,
    subscription: i64,
    dead: u64,
    /// The cursor that follows the log, then those of replays.
    cursors: Vec<Place>,
}

struct Place {
    id: i64,
    position: i64,
    until: Option<i64>,
    /// The last event of the topic, and how many there are up to it.
    tail: i64,
    unread: u64,
    pending: BTreeMap<i64, Row>,
}

// === impl Embedded ===

impl Embedded {
    /// Opens the log and goes on with every subscription where it was.
    pub(super) async fn start(
        config: &EmbeddedConfig,
        retention: &Retention,
        subscriptions: Vec<Subscription>,
    ) -> Result<(Self, Vec<Arc<Meter>>), BusError> {
        for subscription in &subscriptions {
            subscription.policy.validate()?;
        }
        let (file, durability) = (config.file.clone(), config.durability);
        let names: Vec<_> = subscriptions.iter().map(|it| (Arc::clone(&it.topic), Arc::clone(&it.service))).collect();
        let opening = spawn_blocking(move || {
            let died = schema::was_left_open(&file);
            let mut writer = schema::open(&file, durability)
                .and_then(|connection| Writer::new(connection).map_err(|source| schema::failed(&file, source)))?;
            let known = enter(&mut writer, &names).map_err(|source| schema::failed(&file, source))?;
            Ok::<_, LogError>((writer, known, died))
        });
        let (writer, known, died) = match opening.await {
            Ok(opened) => opened?,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };

        let (stations, mut meters) = (Stations::new(), Vec::new());
        let dirty = Arc::new(Notify::new());
        let (mut cursors, mut outboxes) = (Vec::new(), Vec::new());
        for (subscription, known) in subscriptions.into_iter().zip(known) {
            let room = Arc::new(Room::new(&subscription.policy));
            let meter = Arc::new(Meter::new(&subscription, Arc::clone(&room), Some(0)));
            meter.set_dead(Some(known.dead));
            let (inbox, outbox) = mpsc::unbounded_channel();
            let by_subject = subscription.policy.order == DeliveryOrder::Subject;
            let seat = Seat {
                topic: Arc::clone(&subscription.topic),
                topic_id: known.topic,
                service: Arc::clone(&subscription.service),
                subscription: known.subscription,
                room,
                meter: Arc::clone(&meter),
                inbox,
                share: by_subject.then(|| cursor::share(subscription.policy.capacity)),
                dirty: Arc::clone(&dirty),
            };
            cursors.extend(known.cursors.into_iter().map(|it| {
                Arc::new(Cursor::new(it.id, seat.clone(), it.until, it.position, it.tail, it.unread, it.pending))
            }));
            meters.push(Arc::clone(&meter));
            outboxes.push((subscription, meter, outbox));
        }
        if died {
            // An event that the host dies of must not be the end of it over and over.
            cursors.iter().for_each(|cursor: &Arc<Cursor>| cursor.suspect(writer.end()));
        }
        let log = Log::new(config.file.clone(), durability, retention.clone(), writer, cursors.clone(), dirty)?;
        for (subscription, meter, outbox) in outboxes {
            let accounts = Arc::new(Accounts { log: Arc::clone(&log) });
            stations.spawn(Dispatcher::new(subscription, meter, accounts, outbox, stations.closing()).run());
        }
        for cursor in cursors {
            stations.spawn(feeder::run(cursor, Arc::clone(&log), stations.closing()));
        }
        stations.spawn_until_closed(keeper::save(Arc::clone(&log)));
        stations.spawn_until_closed(keeper::schedule(Arc::clone(&log)));
        stations.spawn_until_closed(keeper::sweep(Arc::clone(&log)));
        Ok((Self { log, closed: AtomicBool::new(false), stations }, meters))
    }
}

/// Enters the subscriptions of this start, new ones at the end of the log, and notes which others are no longer there.
fn enter(writer: &mut Writer, names: &[(Arc<str>, Arc<str>)]) -> rusqlite::Result<Vec<Known>> {
    writer.connection().execute_batch("BEGIN IMMEDIATE")?;
    let entered = enter_all(writer, names);
    writer.connection().execute_batch(if entered.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
    entered
}

fn enter_all(writer: &mut Writer, names: &[(Arc<str>, Arc<str>)]) -> rusqlite::Result<Vec<Known>> {
    let now = Timestamp::now().as_millisecond();
    writer.connection().execute("UPDATE subscriptions SET removed = ?1 WHERE removed IS NULL", [now])?;
    let dead = archive::dead(writer.connection())?;
    let mut all = Vec::new();
    for (topic, service) in names {
        let topic = writer.topic(topic)?;
        let (connection, end) = (writer.connection(), writer.end());
        let subscription: i64 = connection.query_row(
            "INSERT INTO subscriptions (topic, service) VALUES (?1, ?2) \
             ON CONFLICT (topic, service) DO UPDATE SET removed = NULL RETURNING id",
            (topic, &**service),
            |row| row.get(0),
        )?;
        let follows = "SELECT 1 FROM cursors WHERE subscription = ?1 AND until IS NULL";
        if connection.query_row(follows, [subscription], |_| Ok(())).optional()?.is_none() {
            let begin = "INSERT INTO cursors (subscription, position) VALUES (?1, ?2)";
            connection.execute(begin, (subscription, end))?;
        }
        let places = "SELECT id, position, until FROM cursors WHERE subscription = ?1 ORDER BY until IS NOT NULL, id";
        let mut places = connection.prepare(places)?;
        let places = places.query_map([subscription], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let places: Vec<(i64, i64, Option<i64>)> = places.collect::<rusqlite::Result<_>>()?;
        let mut cursors = Vec::new();
        for (id, position, until) in places {
            let mut pending = connection.prepare("SELECT seq, attempts, due, error FROM pending WHERE cursor = ?1")?;
            let pending = pending.query_map([id], |row| {
                Ok((row.get(0)?, Row { attempts: row.get(1)?, due: row.get(2)?, error: row.get(3)? }))
            })?;
            let pending = pending.collect::<rusqlite::Result<_>>()?;
            let unread =
                "SELECT coalesce(max(seq), 0), count(*) FROM events WHERE topic = ?1 AND seq > ?2 AND seq <= ?3";
            let last = until.unwrap_or(i64::MAX);
            let (tail, unread) = connection
                .query_row(unread, (topic, position, last), |row| Ok((row.get(0)?, row.get::<_, i64>(1)?)))?;
            let unread = u64::try_from(unread).unwrap_or(0);
            cursors.push(Place { id, position, until, tail, unread, pending });
        }
        all.push(Known { topic, subscription, dead: dead.get(&subscription).copied().unwrap_or(0), cursors });
    }
    Ok(all)
}

impl Transport for Embedded {
    fn publish(&self, prepared: Prepared) -> BoxFuture<'_, Result<(), PublishError>> {
        Box::pin(async move {
            if self.closed.load(Relaxed) {
                return Err(closed().into());
            }
            Ok(self.log.publish(prepared).await?)
        })
    }

    fn fire(&self, at: Timestamp, event: Arc<Event>) -> BoxFuture<'_, Result<bool, PublishError>> {
        Box::pin(async move {
            if self.closed.load(Relaxed) {
                return Err(closed().into());
            }
            let firing = self.log.write(move |page| {
                let topic = page.topic(&event.topic)?;
                let update = "UPDATE topics SET fired = ?2 WHERE id = ?1 AND (fired IS NULL OR fired < ?2)";
                let fires = page.connection().prepare_cached(update)?.execute((topic, at.as_millisecond()))? > 0;
                if fires {
                    page.append_now(&event, Timestamp::now())?;
                }
                Ok(fires)
            });
            Ok(firing.await?)
        })
    }

    fn last_fired<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<Option<Timestamp>, PublishError>> {
        let topic = topic.to_owned();
        Box::pin(async move {
            let read = self.log.write(move |page| {
                let mut select = page.connection().prepare_cached("SELECT fired FROM topics WHERE name = ?1")?;
                Ok(select.query_row([&topic], |row| row.get::<_, Option<i64>>(0)).optional()?.flatten())
            });
            Ok(read.await?.map(row::time))
        })
    }

    fn archive(&self) -> Option<&dyn Archive> {
        Some(self)
    }

    fn connection(&self) -> Connection {
        Connection::InProcess
    }

    fn log(&self) -> Option<LogSnapshot> {
        Some(self.log.snapshot())
    }

    fn shutdown(&self, deadline: Instant) -> BoxFuture<'_, ()> {
        self.closed.store(true, Relaxed);
        Box::pin(async move {
            self.stations.close(deadline).await;
            self.log.close().await;
        })
    }
}

#[cfg(test)]
mod tests;
