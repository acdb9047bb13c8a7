//! The outbox: events that leave together with what was written, by `wharf:outbox`.
//!
//! State in a service's database and the event that tells of it can't be written at the same time, and a crash may come
//! between. So the event is first a row of the database, in the transaction that writes the state, and one *relay* for each
//! service takes it from there to the bus:
//!
//! ```text
//! transaction { state + row }  ──commit──►  relay  ──publish──►  bus  ──taken──►  row deleted, later, with others
//! ```
//!
//! - **It leaves only if the transaction commits**, because the relay hears of it by the commit and by nothing else.
//! - **It leaves surely if it does**, also after a crash between: the row is there until the bus has taken the event. It may
//!   then be published twice, which to subscribers is a redelivery: the event has its id since it was a row.
//! - **In the order of the commits**, as far as anybody can rely on it: of those of one subject, one leaves after the other.
//!   Of different subjects, several are on their way at a time. One that the bus refuses holds up its own subject and,
//!   until there are too many like it, no other.
//! - **Off the way of the request.** The row shares the commit of the state; the relay gets the event itself from the
//!   commit and reads nothing; rows are deleted in groups. Only what is more than fits into its hands it reads, when it has
//!   come so far, and what an earlier process left.
//! - **Bounded.** Where as many events wait as may, publishing is refused, and with it the transaction.
//!
//! **Several hosts with one database**, as they may be where it is on a server: one of them relays what all of them wrote,
//! in the order of its rows, and another takes over when it ends or falls silent (a lease). The relay takes everything from
//! the table then, as what its own commits tell of may not overtake what others wrote. Where transactions overlap, the
//! order is that of those that write the same; of others, which had nothing to do with each other, either may be first.

mod binding;
mod relay;
mod rows;

pub use binding::{OutboxView, add_to_linker};

use crate::{
    events::{Bus, NewEvent, PublishError},
    policy::{Fault, FaultKind},
    store::{Access, Committed, Database, Error, Held, Statement, Then},
    telemetry::TraceContext,
};
use relay::{Outgoing, Relay, Shared};
use rows::Key;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{
    task::JoinHandle,
    time::{Duration, Instant, timeout_at},
};

/// What an outbox may hold, and how it is emptied.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The most events that may wait for the bus.
    pub max_events: usize,
    /// The most bytes of payload that they may have together.
    pub max_bytes: usize,
    /// How many of them the relay holds in memory; it reads the others when it has come so far.
    pub held_events: usize,
    /// How many bytes of payload these may have together.
    pub held_bytes: usize,
    /// How many events are offered to the bus at the same time.
    pub at_once: usize,
    /// How many rows are deleted together.
    pub group: usize,
    /// How long a row may stay whose event the bus has taken.
    pub delete_after: Duration,
    /// How often the relay looks for rows that nobody told it of, in a database that no other host has.
    pub look_every: Duration,
    /// How often the one that relays looks for rows of other hosts with the same database.
    pub look_every_shared: Duration,
    /// The name of this host among those with the same database: no other's, and the same when it is started again. So it
    /// need not wait then until it is sure that it was killed.
    pub host: Option<String>,
}

/// The outbox of one service. Clones are the same outbox.
#[derive(Clone)]
pub struct Outbox(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    relay: Mutex<Option<JoinHandle<()>>>,
}

/// An outbox could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("the outbox of service `{service}` can't be read from its database: {reason}")]
pub struct OpenError {
    /// The service.
    pub service: Arc<str>,
    /// What the database said.
    pub reason: String,
}

/// Why nothing was written, and no event will leave.
#[derive(Clone, Debug, PartialEq)]
pub enum Refused {
    /// The database did not do it.
    Store(Error),
    /// The event can't be published.
    Publish(PublishError),
}

/// An outbox at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxSnapshot {
    /// The service.
    pub service: String,
    /// How many events wait for the bus.
    pub waiting: usize,
    /// The bytes of payload that they have together.
    pub bytes: usize,
    /// For how long the one that is to go next has waited, in milliseconds, where one waits.
    pub oldest_ms: Option<u64>,
    /// Why the bus did not take it, while it does not.
    pub error: Option<String>,
}

/// A place in an outbox, given back unless it is kept.
struct Place {
    shared: Arc<Shared>,
    bytes: usize,
    kept: bool,
}

/// An event that is about to become a row.
struct Enclosed {
    id: String,
    insert: Statement,
    then: Then,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_events: 100_000,
            max_bytes: 256 << 20,
            held_events: 1_024,
            held_bytes: 4 << 20,
            at_once: 64,
            group: 256,
            delete_after: Duration::from_millis(200),
            look_every: Duration::from_secs(30),
            look_every_shared: Duration::from_millis(250),
            host: None,
        }
    }
}

// === impl Outbox ===

impl Outbox {
    /// Opens the outbox in the database of `service` and begins to relay what is in it to `bus`.
    ///
    /// # Errors
    ///
    /// When the database can't be read or written.
    pub async fn open(
        service: impl Into<Arc<str>>,
        database: Database,
        bus: Bus,
        settings: Settings,
    ) -> Result<Self, OpenError> {
        let service = service.into();
        let wrong = |error: Error| OpenError { service: service.clone(), reason: error.words().to_owned() };
        let found = rows::prepare(&database).await.map_err(wrong)?;
        if found.events > 0 {
            tracing::info!(%service, events = found.events, "the outbox has events of an earlier run; they are published now");
        }
        let shared = Arc::new(Shared::new(service, database, bus, settings, found));
        let relay = tokio::spawn(Relay::new(shared.clone()).run());
        Ok(Self(Arc::new(Inner { shared, relay: Mutex::new(Some(relay)) })))
    }

    /// Runs statements in one transaction, all or none, whose commit sends the events. Returns how many rows each statement
    /// changed, and the ids of the events.
    ///
    /// # Errors
    ///
    /// When a statement fails or an event can't be published; then nothing was written and none leaves.
    pub async fn batch(
        &self,
        database: &Database,
        statements: Vec<Statement>,
        events: Vec<NewEvent>,
        trace: Option<TraceContext>,
    ) -> Result<(Vec<u64>, Vec<String>), Refused> {
        self.batch_by(&Access::Database(database.clone()), statements, events, trace).await
    }

    async fn batch_by(
        &self,
        access: &Access,
        statements: Vec<Statement>,
        events: Vec<NewEvent>,
        trace: Option<TraceContext>,
    ) -> Result<(Vec<u64>, Vec<String>), Refused> {
        let (mut ids, mut inserts, mut then) = (Vec::new(), Vec::new(), Vec::new());
        for event in events {
            let enclosed = self.enclose(event, trace)?;
            ids.push(enclosed.id);
            inserts.push(enclosed.insert);
            then.push(enclosed.then);
        }
        let changed = access.batch_then(statements, inserts, then.into_iter().collect()).await;
        Ok((changed.map_err(Refused::Store)?, ids))
    }

    /// Makes an event part of a transaction, and returns its id.
    async fn publish(&self, held: &Held, event: NewEvent, trace: Option<TraceContext>) -> Result<String, Refused> {
        let Enclosed { id, insert, then } = self.enclose(event, trace)?;
        held.host_execute_then(insert, Committed::from_iter([then])).await.map_err(Refused::Store)?;
        Ok(id)
    }

    fn enclose(&self, event: NewEvent, trace: Option<TraceContext>) -> Result<Enclosed, PublishError> {
        let shared = &self.0.shared;
        let prepared = shared.bus.prepare(&shared.service, event, trace)?;
        let place = Place::take(shared, prepared.event.data.len())?;
        let key = Key { at_least: shared.position(), id: prepared.event.id.clone() };
        let (id, insert) = (key.id.clone(), rows::insert(&shared.database, &key, &prepared));
        let then = Box::new(move || place.keep().committed(Outgoing { key, prepared }));
        Ok(Enclosed { id, insert, then })
    }

    /// What can be seen of it now.
    pub fn snapshot(&self) -> OutboxSnapshot {
        self.0.shared.snapshot()
    }

    /// Waits until no event waits, or the deadline is over.
    pub async fn drain(&self, deadline: Instant) {
        let _ = timeout_at(deadline, self.0.shared.emptied()).await;
    }

    /// Ends the relay. What waits is there at the next start.
    pub async fn close(&self) {
        self.0.shared.close();
        let relay = self.0.relay.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(relay) = relay
            && relay.await.is_err()
        {
            tracing::error!(service = %self.0.shared.service, "the relay of an outbox ended by a panic");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Outbox").field(&self.0.shared.service).finish()
    }
}

// === impl Refused ===

impl From<PublishError> for Refused {
    fn from(error: PublishError) -> Self {
        Self::Publish(error)
    }
}

// === impl Place ===

impl Place {
    fn take(shared: &Arc<Shared>, bytes: usize) -> Result<Self, PublishError> {
        if shared.enter(bytes) {
            return Ok(Self { shared: shared.clone(), bytes, kept: false });
        }
        let OutboxSnapshot { service, waiting, error, .. } = shared.snapshot();
        let reason = error.map_or_else(String::new, |error| format!(", which says: {error}"));
        let words = format!("the outbox of service `{service}` is full: {waiting} events wait for the bus{reason}");
        Err(Fault::new(FaultKind::Overloaded, words).into())
    }

    /// The place is its event's from now on.
    fn keep(mut self) -> Arc<Shared> {
        self.kept = true;
        self.shared.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.kept {
            self.shared.leave(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests;
