//! The course of one saga: from one write to the next, as long as there is something to do for it at once.

use super::{
    Phase, Shared,
    places::{Leaves, Mail, Waken},
    saga::Saga,
};
use crate::{
    policy::Backoff,
    saga::{
        Error, Outcome, Snapshot,
        machine::{Begin, Millis, Side},
        rows,
    },
    store,
};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use std::sync::Arc;
use tokio::{
    sync::{Notify, oneshot},
    time::{Duration, sleep},
};

/// How long to wait before the database is asked again.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(20), max: Duration::from_secs(5), jitter: 0.5 };

/// The longest sleep: the wall clock may be set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// When a saga is looked at again that is not as it should be.
const LOOK_AGAIN: Millis = 1_000;

/// A saga that is to be begun, and who hears of it.
pub(in super::super) struct Start {
    pub saga: Saga,
    pub definition: Arc<str>,
    pub input: [u8; 32],
    pub reply: oneshot::Sender<Started>,
}

/// What came of a start.
pub(in super::super) enum Started {
    Now(Snapshot),
    /// There is one with this name and id, or with this number.
    Before,
    Fault(store::Error),
}

/// A saga's place in memory, which is given back in any case.
struct Seat {
    shared: Arc<Shared>,
    number: i64,
    has_room: bool,
    wake: Arc<Notify>,
    left: bool,
}

/// The course ends here, and the saga is to be found so.
struct Stop(Leaves);

type Call = BoxFuture<'static, (usize, Side, Result<Outcome, crate::policy::Fault>)>;

// === impl Seat ===

impl Seat {
    /// Whether it is left; not where the saga was told something.
    fn leave(&mut self, leaves: Leaves) -> bool {
        match self.shared.places.leave(self.number, leaves, self.has_room) {
            Some(next) => {
                self.left = true;
                if let Some(next) = next {
                    self.shared.spawn(next);
                }
                true
            }
            None => false,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if !self.left {
            // Its task panicked, or the runtime ends. What it was told is lost with it.
            drop(self.shared.places.mail(self.number));
            self.leave(Leaves::Asleep(self.shared.now() + LOOK_AGAIN));
        }
    }
}

/// Begins a saga and moves it on.
pub(super) async fn begin(shared: Arc<Shared>, waken: Waken, start: Start) {
    let mut seat = Seat::new(shared, waken);
    let Start { mut saga, definition, input, reply } = start;
    let now = saga.started;
    let leads = seat.shared.leads();
    let begin = saga.machine.advance(now, seat.has_room && leads);
    saga.machine.take_changed();
    let new = rows::New {
        number: saga.number,
        saga: &saga.saga,
        id: &saga.id,
        definition: &definition,
        input: &input,
        started: saga.started,
        status: saga.machine.word(),
        progress: saga.machine.progress(),
        due: saga.due(),
        state: saga.state(),
    };
    let started = match rows::insert(&seat.shared.database, new, !leads).await {
        Ok(true) => {
            let _ = reply.send(Started::Now(saga.snapshot()));
            seat.shared.places.stands(seat.number, saga.machine.standing());
            if leads {
                return go_on(seat, saga, begin).await;
            }
            // Whoever runs the sagas was told.
            seat.leave(Leaves::Gone);
            return;
        }
        Ok(false) => {
            seat.leave(Leaves::Gone);
            Started::Before
        }
        // It may be written all the same, and is looked for.
        Err(error) => {
            seat.leave(if leads { Leaves::Asleep(seat.shared.now() + LOOK_AGAIN) } else { Leaves::Gone });
            Started::Fault(error)
        }
    };
    seat.shared.count(-1);
    let _ = reply.send(started);
}

/// Moves a saga on that was written.
pub(super) async fn run(shared: Arc<Shared>, waken: Waken) {
    let mut seat = Seat::new(shared, waken);
    let shared = seat.shared.clone();
    let mut failed = 0;
    let mut saga = loop {
        match shared.read(seat.number).await {
            Ok(Some(saga)) => break saga,
            // It was to be begun, and was not.
            Ok(None) => {
                seat.leave(Leaves::Gone);
                return;
            }
            Err(error) => {
                failed += 1;
                if failed == 1 {
                    tracing::warn!(service = %shared.service, %error, "a saga can't be read; it is tried again");
                }
                tokio::select! {
                    () = shared.killed() => { seat.leave(Leaves::Gone); return; },
                    () = sleep(BACKOFF.after(failed)) => {}
                }
            }
        }
    };
    if saga.machine.status().has_ended() {
        let over = || Error::Refused(format!("it has ended already: it is {}", saga.machine.status()));
        for reply in shared.places.mail(seat.number).into_iter().filter_map(|mail| mail.reply) {
            let _ = reply.send(Err(over()));
        }
        seat.leave(Leaves::Gone);
        return;
    }
    saga.machine.recover(shared.now());
    // One without a trace has one from now on.
    saga.machine.trace();
    shared.places.stands(seat.number, saga.machine.standing());
    go_on(seat, saga, Vec::new()).await;
}

/// Moves a saga on: `begin` are the calls that are written as begun.
async fn go_on(mut seat: Seat, mut saga: Saga, mut begin: Vec<Begin>) {
    let shared = seat.shared.clone();
    let mut calls = FuturesUnordered::<Call>::new();
    loop {
        // NB: a call is made only after the write that says so, and while this host is surely the one that may.
        if !begin.is_empty() && !shared.leads() {
            seat.leave(Leaves::Gone);
            return;
        }
        calls.extend(begin.drain(..).map(|begin| call(&shared, &saga, begin)));
        if let Err(Stop(leaves)) = wait(&mut seat, &mut saga, &mut calls).await
            && seat.leave(leaves)
        {
            return;
        }
        begin = match step(&seat, &mut saga).await {
            Ok(begin) => begin,
            Err(Stop(leaves)) => {
                drop(shared.places.mail(seat.number));
                seat.leave(leaves);
                return;
            }
        };
        if saga.machine.status().has_ended() {
            shared.count(-1);
            // Whoever still tells it something finds it ended.
            drop(shared.places.mail(seat.number));
            seat.leave(Leaves::Gone);
            shared.ends.ended(&saga.saga, &saga.id, || saga.snapshot());
            return;
        }
    }
}

/// Waits until there is something to do for the saga.
async fn wait(seat: &mut Seat, saga: &mut Saga, calls: &mut FuturesUnordered<Call>) -> Result<(), Stop> {
    let shared = seat.shared.clone();
    let (now, due) = (shared.now(), saga.machine.due());
    if calls.is_empty() {
        if !shared.places.is_open() || !shared.leads() {
            return Err(Stop(Leaves::Gone));
        }
        if shared.lacks(saga).is_some() {
            tracing::debug!(service = %shared.service, saga = %saga.saga, id = %saga.id, "a saga is halted");
            // What it can do without a call it does once it may go on.
            return Err(Stop(Leaves::Halted));
        }
        let due = match due {
            Some(due) if due <= now => due,
            Some(due) => return Err(Stop(Leaves::Asleep(due))),
            // Only a call or its end leads on from here, and there is none: what is written is wrong.
            None if saga.machine.is_calling() => return Err(Stop(Leaves::Asleep(now + LOOK_AGAIN))),
            None => now,
        };
        if !seat.has_room {
            seat.has_room = shared.places.take_room();
        }
        tracing::trace!(due, "a saga goes on");
        return if seat.has_room { Ok(()) } else { Err(Stop(Leaves::Queued)) };
    }
    let nap = due.map_or(LONGEST_SLEEP, |due| shared.until(due).min(LONGEST_SLEEP));
    let ended = tokio::select! {
        biased;
        () = shared.killed() => return Err(Stop(Leaves::Gone)),
        ended = calls.next() => ended,
        () = seat.wake.notified() => None,
        () = sleep(nap) => None,
    };
    let mut next = ended;
    while let Some((step, side, result)) = next {
        take(&shared, saga, step, side, result);
        // All that have ended share the write.
        next = calls.next().now_or_never().flatten();
    }
    Ok(())
}

/// Hears what the saga is told, moves it on and writes it. The calls are to be made.
async fn step(seat: &Seat, saga: &mut Saga) -> Result<Vec<Begin>, Stop> {
    let shared = &seat.shared;
    let now = shared.now();
    let mut replies = Vec::new();
    for Mail { word, reply } in shared.places.mail(seat.number) {
        match (saga.machine.told(word, now), reply) {
            (Ok(()), reply) => replies.extend(reply),
            (Err(reason), Some(reply)) => drop(reply.send(Err(Error::Refused(reason)))),
            (Err(reason), None) => tracing::debug!(reason, "a saga was told in vain"),
        }
    }
    let may_begin = seat.has_room && shared.places.is_open() && shared.leads() && shared.lacks(saga).is_none();
    let was = saga.machine.status();
    let begin = saga.machine.advance(now, may_begin);
    let changed = saga.machine.take_changed();
    if changed.progress || changed.heard {
        write(shared, saga, changed.heard).await?;
        shared.places.stands(seat.number, saga.machine.standing());
    }
    let status = saga.machine.status();
    if was != status {
        tracing::debug!(service = %shared.service, saga = %saga.saga, id = %saga.id, %status, "a saga");
    }
    for reply in replies {
        let _ = reply.send(Ok(()));
    }
    Ok(begin)
}

/// Writes how far the saga is, however often that takes.
async fn write(shared: &Shared, saga: &mut Saga, heard: bool) -> Result<(), Stop> {
    let mut failed = 0;
    loop {
        match rows::update(&shared.database, saga.written(heard)).await {
            Ok(true) => {
                saga.version += 1;
                return Ok(());
            }
            // Where it failed before, it may be written all the same. Else another host wrote. What there is now is read.
            Ok(false) => {
                tracing::warn!(service = %shared.service, saga = %saga.saga, id = %saga.id, "a saga was written by another");
                let again = Leaves::Asleep(shared.now() + LOOK_AGAIN);
                return Err(Stop(if shared.leads() { again } else { Leaves::Gone }));
            }
            Err(error) => {
                failed += 1;
                if failed == 1 {
                    let error = error.words();
                    tracing::warn!(service = %shared.service, error, "a saga can't be written; it is tried again");
                }
                tokio::select! {
                    () = shared.killed() => return Err(Stop(Leaves::Gone)),
                    () = sleep(BACKOFF.after(failed)) => {}
                }
            }
        }
    }
}

fn call(shared: &Arc<Shared>, saga: &Saga, begin: Begin) -> Call {
    let (call, steps) = (saga.call(&shared.service, begin), shared.steps.clone());
    Box::pin(async move {
        let result = match begin.side {
            Side::Act => steps.act(call).await,
            Side::Compensate => steps.compensate(call).await,
        };
        (begin.step, begin.side, result)
    })
}

/// A call has ended.
fn take(shared: &Shared, saga: &mut Saga, step: usize, side: Side, result: Result<Outcome, crate::policy::Fault>) {
    let before = saga.machine.status();
    // They may be others since the call was begun.
    saga.machine.set_tries(shared.tries());
    saga.ended(step, side, result, shared.now());
    let Shared { service, .. } = shared;
    let (name, id, progress) = (&saga.saga, &saga.id, saga.machine.progress());
    let reason = progress.reason.as_deref();
    if before != saga.machine.status() {
        tracing::warn!(%service, saga = %name, %id, reason, "a saga is to be compensated");
    }
    if saga.machine.gets_stuck(step) {
        let error = progress.steps.get(step).and_then(|step| step.error.as_deref());
        let step = saga.machine.definition().steps.get(step).map(|step| &*step.name);
        tracing::error!(
            %service, saga = %name, %id, step, error,
            "a compensation keeps failing; it is tried on, until it succeeds or an operator skips it"
        );
    }
}

// === impl Seat ===

impl Seat {
    fn new(shared: Arc<Shared>, waken: Waken) -> Self {
        let Waken { number, has_room, wake } = waken;
        Self { shared, number, has_room, wake, left: false }
    }
}

// === impl Phase ===

impl Phase {
    /// Whether calls under way are given up.
    pub(super) fn is_killed(self) -> bool {
        self >= Self::Killed
    }
}
