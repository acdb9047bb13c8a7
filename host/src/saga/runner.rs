//! The runner: moves the sagas of one service on.
//!
//! A saga under way is either in the hands of a task (`course`), of which there are as many with calls as may be, or a
//! number among those that sleep, queue or were halted (`places`). One more task wakes those whose time has come, holds the
//! lease where other hosts have the same database, and forgets what ended long ago (`watch`).

mod course;
mod ends;
mod places;
pub(super) mod saga;
mod watch;

pub(super) use self::{
    course::{Start, Started},
    ends::Waiter,
    places::Mail,
};

use super::{
    Error, Settings, Snapshot, Steps,
    known::Known,
    lacking::lacking,
    machine::{Millis, Tries, Word},
    rows,
    standing::{Counts, Standing},
};
use crate::{
    policy::{Fault, FaultKind},
    store::{self, Database},
};
use arc_swap::ArcSwap;
use ends::Ends;
use jiff::Timestamp;
use places::{Places, Waken};
use saga::Saga;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
};
use tokio::{
    sync::{oneshot, watch as channel},
    time::{Duration, Instant, timeout_at},
};

/// How many of a number's bits tell several of one millisecond apart.
const NUMBER_BITS: u32 = 20;

/// What the tasks of one service's sagas share.
pub(super) struct Shared {
    pub service: Arc<str>,
    pub database: Database,
    settings: ArcSwap<Settings>,
    pub steps: Arc<dyn Steps>,
    pub known: Known,
    places: Places,
    ends: Ends,
    /// How many are under way, as far as is known.
    under_way: AtomicI64,
    /// What was counted last, where another host runs them.
    counted: Mutex<Counts>,
    /// The last number that was given to a saga.
    number: AtomicI64,
    lead: Mutex<Lead>,
    phase: channel::Sender<Phase>,
}

/// Whether this host is the one that runs the sagas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lead {
    /// No other has the database.
    Always,
    /// Until then, unless the lease goes on.
    Until(Instant),
    Not,
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Open,
    /// No call is made any more.
    Closing,
    /// None is waited for.
    Killed,
    Closed,
}

// === impl Shared ===

impl Shared {
    pub fn new(service: Arc<str>, database: Database, settings: Settings, steps: Arc<dyn Steps>) -> Self {
        let lead = if database.is_shared() { Lead::Not } else { Lead::Always };
        Self {
            service,
            steps,
            known: Known::default(),
            places: Places::new(settings.concurrency),
            ends: Ends::new(settings.waiters),
            under_way: AtomicI64::new(0),
            counted: Mutex::default(),
            number: AtomicI64::new(0),
            lead: Mutex::new(lead),
            phase: channel::Sender::new(Phase::Open),
            database,
            settings: ArcSwap::from_pointee(settings),
        }
    }

    /// Takes up what an earlier run left, and watches from now on.
    pub async fn open(self: &Arc<Self>) -> Result<tokio::task::JoinHandle<()>, store::Error> {
        if self.database.is_shared() {
            self.recount().await?;
        } else {
            let found = self.take_up().await?;
            if found > 0 {
                tracing::info!(service = %self.service, sagas = found, "sagas of an earlier run go on");
            }
        }
        Ok(tokio::spawn(watch::run(self.clone())))
    }

    /// All sagas under way are this host's; how many there are.
    async fn take_up(&self) -> Result<usize, store::Error> {
        let (mut after, mut found) = (i64::MIN, 0);
        let before = self.under_way.load(Ordering::Relaxed);
        loop {
            let page = rows::unfinished(&self.database, after).await?;
            let Some((last, ..)) = page.last() else { break };
            (after, found) = (*last, found + page.len());
            // What is due by nothing is looked at once.
            let page = page.into_iter().map(|(number, due, standing)| (number, due.unwrap_or_default(), standing));
            self.places.add(page.collect());
        }
        self.count(i64::try_from(found).unwrap_or(i64::MAX) - before);
        Ok(found)
    }

    async fn recount(&self) -> Result<(), store::Error> {
        let before = self.under_way.load(Ordering::Relaxed);
        let counts = rows::count(&self.database).await?;
        // What is started meanwhile counts too.
        self.count(i64::try_from(counts.under_way()).unwrap_or(i64::MAX) - before);
        *self.counted.lock().unwrap_or_else(PoisonError::into_inner) = counts;
        Ok(())
    }

    /// How the sagas are run now.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// From now on the sagas are run so, those under way too. What was found to be stuck counts as that until its next try,
    /// and when a saga times out is settled at its start.
    pub fn set_settings(&self, settings: Settings) {
        let concurrency = settings.concurrency;
        self.settings.store(Arc::new(settings));
        self.places.set_concurrency(concurrency);
    }

    /// Begins a saga; what came of it is told when that is written.
    pub fn start(self: &Arc<Self>, start: Start) {
        self.count(1);
        let waken = self.places.begin(start.saga.number);
        // A task of its own: whoever starts a saga may be gone before it is written.
        tokio::spawn(course::begin(self.clone(), waken, start));
    }

    /// Tells a saga something; returns when that is written, or left for the host that runs the sagas.
    pub async fn tell(self: &Arc<Self>, number: i64, word: Word) -> Result<(), Error> {
        if !self.leads() {
            return rows::tell(&self.database, number, &word).await.map_err(|error| self.fault(&error).into());
        }
        let (reply, replied) = oneshot::channel();
        self.post(number, Mail { word, reply: Some(reply) });
        let gone = "the saga was not told: it has just ended, or the host is about to; try again";
        replied.await.unwrap_or_else(|_| Err(Fault::new(FaultKind::Unreachable, gone).into()))
    }

    fn post(self: &Arc<Self>, number: i64, mail: Mail) {
        if let Some(waken) = self.places.post(number, mail) {
            self.spawn(waken);
        }
    }

    fn spawn(self: &Arc<Self>, waken: Waken) {
        tokio::spawn(course::run(self.clone(), waken));
    }

    /// Waits for the end of a saga.
    pub fn wait(&self, saga: &str, id: &str) -> Option<Waiter<'_>> {
        self.ends.wait(saga, id)
    }

    /// The saga of this number.
    async fn read(&self, number: i64) -> Result<Option<Saga>, String> {
        let row = rows::numbered(&self.database, number).await.map_err(|error| error.words().to_owned())?;
        let Some(row) = row else { return Ok(None) };
        self.saga(row).await.map(Some)
    }

    /// A saga from what is written of it.
    pub async fn saga(&self, row: rows::Row) -> Result<Saga, String> {
        let definition = self.known.get(&self.database, &row.definition).await;
        let definition = definition.map_err(|error| error.words().to_owned())?;
        let (name, id) = (row.saga.clone(), row.id.clone());
        Saga::read(row, definition, self.tries()).ok_or_else(|| format!("the row of saga `{name}` `{id}` is none"))
    }

    pub fn tries(&self) -> Tries {
        let settings = self.settings();
        Tries { attempts: settings.attempts.max(1), backoff: settings.backoff }
    }

    /// The step that the revision that serves lacks for this saga.
    pub fn lacks(&self, saga: &Saga) -> Option<(usize, bool)> {
        let current = self.known.current();
        let definition = current.get(&*saga.saga).map(|(_, definition)| definition);
        if definition.is_some_and(|definition| Arc::ptr_eq(definition, saga.machine.definition())) {
            return None;
        }
        saga.machine.lacks(definition.map(|definition| &**definition))
    }

    /// The revision that serves is another: those that could not go on with the one before are looked at, and those that
    /// can't go on with this one.
    pub async fn revised(&self) {
        self.places.wake_halted(self.now());
        if self.leads()
            && let Err(error) = self.halt().await
        {
            // Each is found by itself when there is something to do for it.
            tracing::warn!(service = %self.service, error = error.words(), "sagas could not be looked through");
        }
    }

    /// Has those looked at that can't go on with the revision that serves, so that they are known to be halted before there
    /// is something to do for them.
    async fn halt(&self) -> Result<(), store::Error> {
        let current = self.known.current();
        let (mut found, mut lacks) = (Vec::new(), BTreeMap::<(String, String), usize>::new());
        let named = |name: &str| current.get(name).map(|(_, definition)| &**definition);
        lacking(self, named, |it| {
            found.push(it.number);
            let key = (it.definition.name.clone(), it.definition.steps[it.step].name.clone());
            *lacks.entry(key).or_default() += 1;
        })
        .await?;
        for ((saga, step), sagas) in lacks {
            let service = &self.service;
            tracing::error!(%service, saga, step, sagas, "sagas are halted: the revision that serves lacks a step of theirs");
        }
        self.places.wake(&found, self.now());
        Ok(())
    }

    /// Whether this host is the one that runs the sagas.
    pub fn leads(&self) -> bool {
        match *self.lead.lock().unwrap_or_else(PoisonError::into_inner) {
            Lead::Always => true,
            Lead::Until(until) => Instant::now() < until,
            Lead::Not => false,
        }
    }

    fn set_lead(&self, lead: Lead) {
        *self.lead.lock().unwrap_or_else(PoisonError::into_inner) = lead;
    }

    /// By the wall clock.
    pub fn now(&self) -> Millis {
        Timestamp::now().as_millisecond()
    }

    /// How long it is until then.
    fn until(&self, due: Millis) -> Duration {
        Duration::from_millis(u64::try_from(due.saturating_sub(self.now())).unwrap_or_default())
    }

    /// A number for a saga: larger than those before, also than those of other hosts, but for those of the same millisecond.
    pub fn next_number(&self, now: Millis) -> i64 {
        let least = (now << NUMBER_BITS) | i64::from(fastrand::u32(..1 << NUMBER_BITS));
        let next = |last: i64| Some(least.max(last.saturating_add(1)));
        let last = self.number.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).unwrap_or_default();
        least.max(last.saturating_add(1))
    }

    fn count(&self, by: i64) {
        self.under_way.fetch_add(by, Ordering::Relaxed);
    }

    /// How many are under way, as far as is known.
    pub fn under_way(&self) -> usize {
        usize::try_from(self.under_way.load(Ordering::Relaxed)).unwrap_or_default()
    }

    /// How many are under way and how they stand, as far as this host knows.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        if self.leads() {
            let (going, halted) = self.places.tally();
            for standing in Standing::ALL {
                counts.add(standing, going[standing as usize]);
                // Where no revision serves yet, they wait for it and lack nothing.
                if self.known.serves() {
                    counts.halted += halted[standing as usize];
                } else {
                    counts.add(standing, halted[standing as usize]);
                }
            }
            return counts;
        }
        counts = *self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        // What was started since is not known any better.
        let others = counts.under_way() - counts.running;
        Counts { running: self.under_way().saturating_sub(others), ..counts }
    }

    pub fn is_open(&self) -> bool {
        *self.phase.borrow() == Phase::Open
    }

    /// Returns when nothing more is waited for.
    async fn killed(&self) {
        if self.phase.borrow().is_killed() {
            return;
        }
        let _ = self.phase.subscribe().wait_for(|phase| phase.is_killed()).await;
    }

    /// Makes no call any more, and waits for those under way until then.
    pub async fn close(&self, deadline: Instant) {
        self.reach(Phase::Closing);
        self.places.shut();
        let _ = timeout_at(deadline, self.idle()).await;
        self.reach(Phase::Killed);
        self.idle().await;
        self.reach(Phase::Closed);
    }

    /// Gives up all that is under way: it is found at the next start.
    pub fn kill(&self) {
        self.places.shut();
        self.reach(Phase::Closed);
    }

    fn reach(&self, phase: Phase) {
        self.phase.send_if_modified(|reached| {
            let is_later = phase > *reached;
            *reached = phase.max(*reached);
            is_later
        });
    }

    async fn idle(&self) {
        loop {
            let idle = self.places.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            if self.places.is_idle() {
                return;
            }
            idle.await;
        }
    }

    /// What whoever asked hears of an error of the database.
    pub fn fault(&self, error: &store::Error) -> Fault {
        let kind = match error {
            store::Error::Busy(_) => FaultKind::Overloaded,
            store::Error::Unavailable(_) => FaultKind::Unreachable,
            _ => FaultKind::Trapped,
        };
        Fault::new(kind, format!("the database of service `{}` did not do its part: {}", self.service, error.words()))
    }

    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.places.held()
    }

    #[cfg(test)]
    pub fn active(&self) -> usize {
        self.places.active()
    }
}

/// How a saga stands, as it is written.
pub(super) fn snapshot(row: &rows::Row) -> Snapshot {
    Snapshot {
        status: row.progress.status,
        state: row.state.clone(),
        reason: row.progress.reason.clone(),
        started_at: saga::timestamp(row.started),
        ended_at: row.progress.ended.map(saga::timestamp),
    }
}
