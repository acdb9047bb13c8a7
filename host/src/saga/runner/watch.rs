//! Wakes sagas whose time has come, holds the lease, hears what other hosts were told, and forgets what ended long ago.

use super::{Lead, Phase, Shared, places::Mail};
use crate::{
    policy::Backoff,
    saga::{Error, machine::Millis, rows, standing::Standing},
    store::{self, Lease},
};
use futures::future::join_all;
use std::sync::Arc;
use tokio::{
    sync::oneshot,
    time::{Duration, Instant, sleep_until},
};

/// The longest sleep. The wall clock may be set while the task sleeps by another clock, so it is looked at now and then.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// How often the database is looked through for sagas that nobody told of, where other hosts have it.
const LOOK_THROUGH: Duration = Duration::from_secs(30);

/// How long to wait before the database is asked again.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(50), max: Duration::from_secs(5), jitter: 0.5 };

struct Watch {
    shared: Arc<Shared>,
    lease: Option<Lease>,
    /// What was left by the holders before is taken up.
    is_taken_up: bool,
    /// When to look for what other hosts were told.
    look_at: Instant,
    look_through_at: Instant,
    forget_at: Instant,
    /// How long those that ended are kept, as far as is known here.
    keep: Duration,
    /// How often in a row the database failed.
    failed: u32,
}

/// Runs until the sagas are closed.
pub(super) async fn run(shared: Arc<Shared>) {
    let now = Instant::now();
    let settings = shared.settings();
    let lease = |database| Lease::new(database, rows::TURN, settings.host.as_deref());
    let lease = shared.database.is_shared().then(|| lease(shared.database.clone()));
    let mut watch = Watch {
        is_taken_up: lease.is_none(),
        lease,
        look_at: now,
        look_through_at: now + LOOK_THROUGH,
        // Not at once: there is enough to do at a start.
        forget_at: now + settings.forget_every.min(Duration::from_secs(60)),
        keep: settings.keep,
        failed: 0,
        shared: shared.clone(),
    };
    let mut phase = shared.phase.subscribe();
    loop {
        watch.look().await;
        let wake = watch.next();
        tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase == Phase::Closed) => break,
            () = shared.places.sooner.notified() => {}
            () = sleep_until(wake) => {}
        }
    }
    if let Some(lease) = &mut watch.lease
        && let Err(error) = lease.release().await
    {
        let service = &shared.service;
        tracing::warn!(%service, ?error, "the sagas could not be handed over; another host takes them in a few seconds");
    }
}

// === impl Watch ===

impl Watch {
    /// Does what is due.
    async fn look(&mut self) {
        let shared = self.shared.clone();
        self.hold().await;
        if !shared.leads() || !self.is_taken_up {
            // Those that another host ends are not counted here.
            if self.look_through_at <= Instant::now() {
                self.look_through_at = Instant::now() + LOOK_THROUGH;
                let counted = shared.recount().await;
                self.is_well(counted);
            }
            return;
        }
        for waken in shared.places.wake_due(shared.now()) {
            shared.spawn(waken);
        }
        if !shared.is_open() {
            return;
        }
        if self.lease.is_some() && self.look_at <= Instant::now() {
            self.look_at = Instant::now() + shared.settings().look_every_shared;
            let heard = self.hear().await;
            self.is_well(heard);
        }
        if self.lease.is_some() && self.look_through_at <= Instant::now() {
            self.look_through_at = Instant::now() + LOOK_THROUGH;
            let found = shared.take_up().await;
            self.is_well(found.map(drop));
        }
        let keep = shared.settings().keep;
        if self.keep != keep || self.forget_at <= Instant::now() {
            self.keep = keep;
            self.forget().await;
        }
    }

    /// When there is something to do again.
    fn next(&self) -> Instant {
        let shared = &self.shared;
        let now = Instant::now();
        let mut next = now + LONGEST_SLEEP;
        let leads = shared.leads() && self.is_taken_up;
        if leads {
            next = next.min(self.forget_at);
            if let Some(due) = shared.places.next_due() {
                next = next.min(now + shared.until(due));
            }
        }
        if let Some(lease) = &self.lease {
            next = next.min(lease.next());
            if leads && shared.is_open() {
                next = next.min(self.look_at);
            }
        }
        // Never at once: a clock that is set back just now must not make this a busy loop.
        next.max(now + Duration::from_millis(1))
    }

    /// Sees to it that this host knows whether it runs the sagas.
    async fn hold(&mut self) {
        let Some(lease) = &mut self.lease else { return };
        if lease.next() <= Instant::now() {
            let beat = lease.beat().await;
            self.is_well(beat);
        }
        let (shared, lease) = (self.shared.clone(), self.lease.as_ref());
        let until = lease.filter(|lease| lease.is_held()).and_then(Lease::held_until);
        match until {
            Some(until) if self.is_taken_up => shared.set_lead(Lead::Until(until)),
            // NB: it leads once it has taken up what there is. What it is told meanwhile it leaves for itself.
            Some(until) if shared.is_open() => {
                shared.places.open();
                match shared.take_up().await {
                    Ok(sagas) => {
                        tracing::info!(service = %shared.service, sagas, "this host runs the sagas from now on");
                        self.is_taken_up = true;
                        shared.set_lead(Lead::Until(until));
                        if shared.known.serves() {
                            let halted = shared.halt().await;
                            self.is_well(halted);
                        }
                    }
                    Err(error) => self.is_well(Err(error)),
                }
            }
            Some(_) => {}
            None => {
                shared.set_lead(Lead::Not);
                if self.is_taken_up {
                    let service = &shared.service;
                    tracing::warn!(%service, "another host runs the sagas from now on, or will in a few seconds");
                    shared.places.shut();
                    self.is_taken_up = false;
                }
            }
        }
    }

    /// Tells sagas what other hosts were told for them.
    async fn hear(&self) -> Result<(), store::Error> {
        let shared = &self.shared;
        loop {
            let words = rows::words(&shared.database).await?;
            if words.is_empty() {
                return Ok(());
            }
            let all = words.into_iter().map(async |told| {
                let Some(word) = told.word else {
                    // One that was started. It is due: what there is to do is seen when it is read.
                    shared.places.add(vec![(told.number, Millis::MIN, Standing::Running)]);
                    return Some(told.position);
                };
                let (reply, replied) = oneshot::channel();
                shared.post(told.number, Mail { word, reply: Some(reply) });
                match replied.await {
                    Ok(Err(Error::Fault(_))) => None,
                    Ok(_) => Some(told.position),
                    // Its task ended: it has ended, or is found again.
                    Err(_) => None,
                }
            });
            let heeded = join_all(all).await.into_iter().flatten().collect::<Vec<_>>();
            if heeded.is_empty() {
                return Ok(());
            }
            rows::heeded(&shared.database, heeded).await?;
            shared.places.sooner.notify_one();
        }
    }

    /// Deletes what ended long ago, some at a time: the service's own writers come in between.
    async fn forget(&mut self) {
        let shared = self.shared.clone();
        self.forget_at = Instant::now() + shared.settings().forget_every;
        let keep = Millis::try_from(self.keep.as_millis()).unwrap_or(Millis::MAX);
        match rows::forget(&shared.database, shared.now().saturating_sub(keep)).await {
            Ok(true) => self.forget_at = Instant::now() + Duration::from_millis(50),
            Ok(false) => {}
            Err(error) => {
                let service = &shared.service;
                tracing::warn!(%service, ?error, "sagas that ended could not be deleted; it is tried again");
            }
        }
    }

    fn is_well(&mut self, result: Result<(), store::Error>) {
        match result {
            Ok(()) => self.failed = 0,
            Err(error) => {
                self.failed += 1;
                if self.failed == 1 {
                    let service = &self.shared.service;
                    tracing::warn!(%service, ?error, "the sagas can't be read from the database; it is tried again");
                }
                self.look_at = self.look_at.max(Instant::now() + BACKOFF.after(self.failed));
            }
        }
    }
}
