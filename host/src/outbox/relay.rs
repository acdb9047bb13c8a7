//! The relay: takes what was committed to the bus, in the order of the commits of each subject, as many events at a time as
//! the window holds.
//!
//! Of a database that no other host has, it is told what is committed (`alone`). Where other hosts have the same database,
//! it is told only that there is something, and reads all of it, while it is this host's turn (`turn`).

mod alone;
mod recent;
mod table;
mod tail;
mod turn;
mod window;

pub(super) use tail::{Outgoing, Shared};

use super::rows::{self, Key, Row};
use crate::{
    events::{Prepared, PublishError},
    policy::Backoff,
    store::Lease,
};
use recent::Recent;
use std::{collections::HashSet, sync::Arc};
use tokio::{
    sync::watch,
    time::{Duration, Instant, sleep_until},
};
use window::{Ended, Window};

/// How long to wait before an event is offered to the bus again, or the database is asked again.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(50), max: Duration::from_secs(5), jitter: 0.5 };

/// Publishes. There is one for each outbox.
pub(super) struct Relay {
    shared: Arc<Shared>,
    closing: watch::Receiver<bool>,
    window: Window,
    /// Rows whose events the bus has taken.
    taken: Vec<Key>,
    /// Events whose rows were read of late: the commit may tell of them still.
    read: Recent,
    /// When the first of them is to be deleted at the latest.
    delete_at: Option<Instant>,
    look_at: Instant,
    /// Where other hosts have the same database: whose turn it is.
    lease: Option<Lease>,
    /// What waits in the table is not what was counted last.
    miscounted: bool,
    /// Events that could not be published, not to be tried again before `look_at`.
    aside: HashSet<String>,
}

/// Why the relay stops in what it does.
enum Halt {
    /// The outbox is closing.
    Closing,
    /// It is another host's turn.
    Lost,
}

/// What the relay waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The bus has answered.
    Ended,
    /// Something was committed.
    Heard,
    /// It is time for something.
    Time,
}

// === impl Relay ===

impl Relay {
    pub fn new(shared: Arc<Shared>) -> Self {
        let (closing, look_at) = (shared.closing.subscribe(), Instant::now() + shared.settings.look_every);
        let lease = |database| Lease::new(database, rows::TURN, shared.settings.host.as_deref());
        let lease = shared.database.is_shared().then(|| lease(shared.database.clone()));
        Self {
            closing,
            window: Window::new(shared.bus.clone(), shared.settings.at_once),
            taken: Vec::new(),
            read: Recent::default(),
            delete_at: None,
            look_at,
            lease,
            miscounted: false,
            aside: HashSet::new(),
            shared,
        }
    }

    /// Runs until the outbox is closed.
    pub async fn run(mut self) {
        if self.lease.is_some() {
            while let Err(Halt::Lost) = self.relay_in_turn().await {
                self.settle().await;
            }
        } else {
            // Its turn never ends.
            let _ = self.relay_alone().await;
        }
        self.settle().await;
        // What the bus has taken need not be there at the next start; where this fails it is published once more then.
        if !self.taken.is_empty()
            && let Err(error) = rows::delete(&self.shared.database, &self.taken).await
        {
            tracing::warn!(service = %self.shared.service, ?error, "published events could not be deleted from the outbox");
        }
        if let Some(lease) = &mut self.lease
            && let Err(error) = lease.release().await
        {
            let service = &self.shared.service;
            tracing::warn!(%service, ?error, "the outbox could not be handed over; another host takes it in a few seconds");
        }
    }

    /// Waits until the bus has answered for what it was offered; nothing more is offered.
    async fn settle(&mut self) {
        while let Some(Ended { item, result }) = self.window.settle().await {
            if result.is_ok() {
                self.shared.published(item.bytes, None, false);
                self.taken.push(item.key);
            }
        }
    }

    /// Has the rows of a page published that are not among these.
    async fn admit_all(&mut self, page: Vec<Row>, except: &HashSet<String>) -> Result<(), Halt> {
        for Row { key, bytes, prepared } in page {
            match prepared {
                _ if except.contains(&key.id) || self.aside.contains(&key.id) => {}
                Some(prepared) => self.admit(key, prepared, bytes).await?,
                None => self.set_aside(&key.id, "its row is no event".into()),
            }
        }
        Ok(())
    }

    /// Takes an event into the window, as soon as that has room.
    async fn admit(&mut self, key: Key, prepared: Prepared, bytes: usize) -> Result<(), Halt> {
        while !self.window.has_room() {
            self.step(None, false).await?;
        }
        self.window.push(key, prepared, bytes);
        self.shared.set_oldest(self.window.oldest());
        Ok(())
    }

    /// Offers to the bus what may be offered, and waits: until it answers, until this moment, and until something is
    /// committed, if it is to `hear` of that.
    async fn step(&mut self, until: Option<Instant>, hear: bool) -> Result<Step, Halt> {
        self.look_after_turn().await;
        if !self.is_its_turn() {
            return Err(Halt::Lost);
        }
        // NB: only here a try begins, with nothing waited for since it was seen whose turn it is.
        self.window.begin(Instant::now());
        let beat = self.lease.as_ref().map(Lease::next);
        let wake = [until, self.delete_at, beat, self.window.due()].into_iter().flatten().min();
        let wake = async {
            match wake {
                Some(wake) => sleep_until(wake).await,
                None => std::future::pending().await,
            }
        };
        let (step, ended) = tokio::select! {
            biased;
            _ = self.closing.wait_for(|closing| *closing) => return Err(Halt::Closing),
            ended = self.window.ended() => (Step::Ended, Some(ended)),
            () = self.shared.arrived.notified(), if hear => (Step::Heard, None),
            () = wake => (Step::Time, None),
        };
        // All that there are: a bus that takes what it is offered in groups is then offered a group.
        let mut next = ended;
        while let Some(ended) = next {
            self.ended(ended);
            next = self.window.ended_already();
        }
        // NB: by the clock too, while there is always more to publish: a host that dies again and again must not begin with
        // the same ones each time.
        let due = self.delete_at.is_some_and(|at| at <= Instant::now());
        if due || (self.taken.len() >= self.shared.settings.group && step == Step::Ended) {
            self.delete().await;
        }
        Ok(step)
    }

    /// The bus has taken an event, or not.
    fn ended(&mut self, Ended { item, result }: Ended) {
        match result {
            Ok(()) => {
                self.window.remove(&item);
                self.shared.published(item.bytes, self.window.oldest(), !self.window.has_failed());
                self.taken.push(item.key);
                self.miscounted = true;
                self.delete_at.get_or_insert_with(|| Instant::now() + self.shared.settings.delete_after);
            }
            Err(PublishError::Fault(fault)) => {
                self.trouble(fault.to_string(), item.failed == 0 && !self.window.has_failed());
                let least = fault.retry_after().unwrap_or_default().min(BACKOFF.max);
                let until = Instant::now() + BACKOFF.after(item.failed + 1).max(least);
                self.window.pause(item, until);
            }
            Err(error) => {
                self.window.remove(&item);
                self.shared.set_oldest(self.window.oldest());
                self.set_aside(&item.key.id, error.to_string());
            }
        }
    }

    /// An event that this bus can't carry, or a row that is none: it stays where it is, and holds up nobody. Whoever looks
    /// for it finds it in the table; it is tried once more whenever the table is read.
    fn set_aside(&mut self, id: &str, reason: String) {
        tracing::error!(service = %self.shared.service, id, reason, "an event stays in the outbox: it can't be published");
        self.shared.set_error(Some(format!("{id} can't be published: {reason}")));
        if self.lease.is_some() {
            self.aside.insert(id.to_owned());
        }
    }

    fn trouble(&self, reason: String, first: bool) {
        if first {
            tracing::warn!(service = %self.shared.service, reason, "the outbox waits; it is tried again until it succeeds");
        }
        self.shared.set_error(Some(reason));
    }

    /// Waits after so many failures; what is in the window goes on.
    async fn pause(&mut self, failed: u32) -> Result<(), Halt> {
        let until = Instant::now() + BACKOFF.after(failed);
        while Instant::now() < until {
            self.step(Some(until), false).await?;
        }
        Ok(())
    }
}
