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
    cursor::{Cursor, Held, Row, Seat},
    log::Log,
    writer::Writer,
};
use super::{
    Before, BusError, EmbeddedConfig, Name, Prepared, Retention, Transport, closed,
    stations::{Crew, Stations, ended},
};
use crate::{
    events::{
        Connection, DeliveryOrder, Event, LogSnapshot, PublishError, Subscription,
        archive::Archive,
        dispatcher::{Closing, Delivery, Dispatcher},
        meter::Meter,
        room::Room,
    },
    policy::Backoff,
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
    time::{Duration, Instant, sleep},
};

/// How long to wait before a subscription that could not be taken up is taken up again.
const TROUBLE: Backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(5), jitter: 0.5 };

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

/// Where the events of one subscription go, and who takes them there.
struct Desk {
    subscription: Subscription,
    tray: Tray,
    outbox: mpsc::UnboundedReceiver<Delivery<Held>>,
}

/// What every cursor of a subscription puts events into.
#[derive(Clone)]
struct Tray {
    name: Name,
    room: Arc<Room>,
    meter: Arc<Meter>,
    inbox: mpsc::UnboundedSender<Delivery<Held>>,
    share: Option<usize>,
    dirty: Arc<Notify>,
}

// === impl Tray ===

impl Tray {
    /// What goes on from what the log knows.
    fn cursors(&self, known: Known) -> Vec<Arc<Cursor>> {
        self.meter.set_dead(Some(known.dead));
        let seat = Seat {
            topic: Arc::clone(&self.name.0),
            topic_id: known.topic,
            service: Arc::clone(&self.name.1),
            subscription: known.subscription,
            room: Arc::clone(&self.room),
            meter: Arc::clone(&self.meter),
            inbox: self.inbox.clone(),
            share: self.share,
            dirty: Arc::clone(&self.dirty),
        };
        let cursor =
            |it: Place| Cursor::new(it.id, seat.clone(), it.until, it.position, it.tail, it.unread, it.pending);
        known.cursors.into_iter().map(|place| Arc::new(cursor(place))).collect()
    }
}

// === impl Desk ===

impl Desk {
    fn new(subscription: Subscription, dirty: &Arc<Notify>) -> Self {
        let Subscription { topic, service, policy, .. } = &subscription;
        let room = Arc::new(Room::new(policy));
        let meter = Arc::new(Meter::new(&subscription, Arc::clone(&room), Some(0)));
        let (inbox, outbox) = mpsc::unbounded_channel();
        let name = (Arc::clone(topic), Arc::clone(service));
        let share = (policy.order == DeliveryOrder::Subject).then(|| cursor::share(policy.capacity));
        let tray = Tray { name, room, meter, inbox, share, dirty: Arc::clone(dirty) };
        Self { subscription, tray, outbox }
    }

    /// Delivers until it is told to close.
    async fn serve(self, cursors: Vec<Arc<Cursor>>, log: Arc<Log>, closing: Closing) {
        let Self { subscription, tray: Tray { meter, .. }, outbox } = self;
        let accounts = Arc::new(Accounts { log: Arc::clone(&log) });
        let mut crew = Crew::new();
        crew.spawn(Dispatcher::new(subscription, meter, accounts, outbox, closing.clone()).run());
        for cursor in cursors {
            crew.spawn(feeder::run(cursor, Arc::clone(&log), closing.clone()));
        }
        ended(crew).await;
    }

    /// Takes its place among those that follow the log, and delivers until it is told to close.
    async fn join(self, log: Arc<Log>, mut closing: Closing) {
        let (topic, service) = self.tray.name.clone();
        let mut failed = 0;
        let cursors = loop {
            let (tray, followed) = (self.tray.clone(), Arc::clone(&log));
            // NB: by the writer itself. What is committed before is found in the log, and of what is committed after it the
            // cursors hear; there is nothing in between.
            let joined = log.write(move |page| {
                let known = enter_these(page.writer_mut(), std::slice::from_ref(&tray.name))?;
                let cursors: Vec<_> = known.into_iter().flat_map(|known| tray.cursors(known)).collect();
                followed.unfollow(&tray.name.0, &tray.name.1);
                followed.follow(&cursors);
                Ok(cursors)
            });
            let reason = match joined.await {
                Ok(cursors) => break cursors,
                Err(reason) => reason,
            };
            log.unfollow(&topic, &service);
            failed += 1;
            tracing::error!(%topic, %service, %reason, "a subscription can't be taken up; it will be tried again");
            tokio::select! {
                _ = closing.changed() => return,
                () = sleep(TROUBLE.after(failed)) => {}
            }
        };
        self.serve(cursors, log, closing).await;
    }
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

        let dirty = Arc::new(Notify::new());
        let (mut desks, mut cursors, mut meters) = (Vec::new(), Vec::new(), Vec::new());
        for (subscription, known) in subscriptions.into_iter().zip(known) {
            let desk = Desk::new(subscription, &dirty);
            let its = desk.tray.cursors(known);
            cursors.extend(its.iter().cloned());
            meters.push(Arc::clone(&desk.tray.meter));
            desks.push((desk, its));
        }
        if died {
            // An event that the host dies of must not be the end of it over and over.
            cursors.iter().for_each(|cursor: &Arc<Cursor>| cursor.suspect(writer.end()));
        }
        let log = Log::new(config.file.clone(), durability, retention.clone(), writer, cursors, dirty)?;
        let stations = Stations::new();
        for (desk, cursors) in desks {
            stations.man(desk.tray.name.clone(), |closing| desk.serve(cursors, Arc::clone(&log), closing));
        }
        stations.spawn_until_closed(keeper::save(Arc::clone(&log)));
        stations.spawn_until_closed(keeper::schedule(Arc::clone(&log)));
        stations.spawn_until_closed(keeper::sweep(Arc::clone(&log)));
        Ok((Self { log, closed: AtomicBool::new(false), stations }, meters))
    }
}

impl Embedded {
    /// Ends the deliveries to a subscription, and saves how far it has come.
    async fn stand_down(&self, topic: &str, service: &str, deadline: Instant) {
        if !self.stations.leave(topic, service, deadline).await {
            return;
        }
        let saved = self.log.write(|page| {
            page.save_too();
            Ok(())
        });
        if let Err(reason) = saved.await {
            tracing::warn!(topic, service, %reason, "what was settled last could not be saved; it will be delivered again");
        }
        self.log.unfollow(topic, service);
    }

    /// Notes that a subscription is no more. It keeps its place, like one that is missing at a start.
    async fn remove(&self, topic: &str, service: &str) {
        let (name, of) = (topic.to_owned(), service.to_owned());
        let removing = self.log.write(move |page| {
            let update = "UPDATE subscriptions SET removed = ?3 WHERE service = ?2 AND removed IS NULL \
                 AND topic = (SELECT id FROM topics WHERE name = ?1)";
            page.connection().execute(update, (&name, &of, Timestamp::now().as_millisecond()))
        });
        if let Err(reason) = removing.await {
            // The next start notes it.
            tracing::warn!(topic, service, %reason, "the log could not note that a subscription is no more");
        }
    }
}

impl Embedded {
    /// Forgets a subscription that is no more and never got anything.
    async fn forget(&self, topic: &str, service: &str) {
        let (name, of) = (topic.to_owned(), service.to_owned());
        let forgetting = self.log.write(move |page| {
            const GONE: &str = "SELECT id FROM subscriptions WHERE service = ?2 AND removed IS NOT NULL \
                 AND topic = (SELECT id FROM topics WHERE name = ?1)";
            for sql in [
                format!("DELETE FROM cursors WHERE subscription IN ({GONE})"),
                format!("DELETE FROM subscriptions WHERE id IN ({GONE})"),
            ] {
                page.connection().execute(&sql, (&name, &of))?;
            }
            Ok(())
        });
        if let Err(reason) = forgetting.await {
            tracing::warn!(topic, service, %reason, "a subscription that did not begin is kept as one that is no more");
        }
    }
}

/// Enters the subscriptions of this start, new ones at the end of the log, and notes which others are no longer there.
fn enter(writer: &mut Writer, names: &[Name]) -> rusqlite::Result<Vec<Known>> {
    writer.connection().execute_batch("BEGIN IMMEDIATE")?;
    let entered = enter_all(writer, names);
    writer.connection().execute_batch(if entered.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
    entered
}

fn enter_all(writer: &mut Writer, names: &[Name]) -> rusqlite::Result<Vec<Known>> {
    let now = Timestamp::now().as_millisecond();
    writer.connection().execute("UPDATE subscriptions SET removed = ?1 WHERE removed IS NULL", [now])?;
    enter_these(writer, names)
}

/// Enters subscriptions, new ones at the end of the log.
fn enter_these(writer: &mut Writer, names: &[Name]) -> rusqlite::Result<Vec<Known>> {
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

    fn keep(&self, retention: &Retention) {
        self.log.retention.store(Arc::new(retention.clone()));
        self.log.sweep.notify_one();
    }

    fn enter<'a>(&'a self, subscription: &'a Subscription) -> BoxFuture<'a, Result<Before, BusError>> {
        Box::pin(async move {
            let name = (Arc::clone(&subscription.topic), Arc::clone(&subscription.service));
            let entering = self.log.write(move |page| {
                let known = "SELECT s.removed IS NULL FROM subscriptions s JOIN topics t ON t.id = s.topic \
                     WHERE t.name = ?1 AND s.service = ?2";
                let known = page.connection().query_row(known, (&*name.0, &*name.1), |row| row.get(0)).optional()?;
                enter_these(page.writer_mut(), std::slice::from_ref(&name))?;
                Ok(match known {
                    Some(true) => Before::Present,
                    Some(false) => Before::Left,
                    None => Before::Unknown(Timestamp::now().as_millisecond()),
                })
            });
            entering.await.map_err(|fault| BusError::Enter(fault.message().to_owned()))
        })
    }

    fn strike<'a>(&'a self, subscription: &'a Subscription, before: Before) -> BoxFuture<'a, ()> {
        let Subscription { topic, service, .. } = subscription;
        Box::pin(async move {
            self.remove(topic, service).await;
            if let Before::Unknown(_) = before {
                self.forget(topic, service).await;
            }
        })
    }

    fn begin(&self, subscription: Subscription, deadline: Instant) -> BoxFuture<'_, Arc<Meter>> {
        Box::pin(async move {
            self.stand_down(&subscription.topic, &subscription.service, deadline).await;
            let desk = Desk::new(subscription, &self.log.dirty);
            let meter = Arc::clone(&desk.tray.meter);
            self.stations.man(desk.tray.name.clone(), |closing| desk.join(Arc::clone(&self.log), closing));
            meter
        })
    }

    fn end<'a>(&'a self, topic: &'a str, service: &'a str, deadline: Instant) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.stand_down(topic, service, deadline).await;
            self.remove(topic, service).await;
        })
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
