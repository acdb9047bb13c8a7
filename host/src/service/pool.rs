//! The instances of one revision of a service: which are at rest, which are under way, and who waits for one.
//!
//! A call takes an instance at rest; else a new one, up to the service's `max`; else it joins one that is under way and
//! has room; else it waits in a bounded queue, in which callers take turns; else it is refused. Instances at rest are
//! taken last in, first out: the one that ran last is still in the processor's cache.
//!
//! Who can't wait as long as the queue will take is sent away at its entrance ([`HoldTime`]): at its turn its caller
//! would be gone, and the place is for one that has the time. The measure is how long those who waited of late did so for
//! each one before them. It needs no look at the clock while nobody waits, and knows nothing of how many instances share
//! the work and how; that is all in it.

use super::{
    call::Call,
    desk::Desk,
    driver::{Drive, alongside, spawn},
    exports::Exports,
    state::State,
    worker::{Worker, drive},
};
use crate::{
    engine::{CpuBudget, Engine, EpochClock},
    policy::{FairQueue, Fault, FaultKind, HoldTime, Pushed},
};
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{Instant, timeout, timeout_at},
};
use wasmtime::{
    PoolConcurrencyLimitError, Store,
    component::{Component, Instance, InstancePre},
};

/// How many bytes a guest may pass to the host in one call, bodies of streams not counted: the host keeps a copy.
///
/// NB: values on typed links have limits of their own, see `tape`.
const HOSTCALL_BYTES: usize = 32 << 20;

/// A component that takes longer than this to come up is given up: until then it holds a place.
const INSTANTIATE_LIMIT: Duration = Duration::from_secs(10);

/// How a service's instances are used.
#[derive(Clone, Copy, Debug)]
pub struct InstanceSettings {
    /// How many instances there may be.
    pub max: usize,
    /// How many calls one instance runs at a time. A trap ends all of them.
    pub concurrency: usize,
    /// After how many calls an instance is replaced by a new one.
    pub reuse: u64,
    /// How many calls may wait for an instance.
    pub queue: usize,
    /// The longest stretch that a guest may compute.
    pub cpu: Duration,
}

/// The instances of one revision.
pub(super) struct Pool {
    engine: Arc<Engine>,
    service: Arc<str>,
    settings: InstanceSettings,
    pre: InstancePre<State>,
    exports: Exports,
    new_state: Box<dyn Fn() -> State + Send + Sync>,
    inner: Mutex<Inner>,
    /// The length of the queue, to be seen without the lock.
    queued: AtomicUsize,
    /// How long the queue takes to move up by one.
    moves: HoldTime,
    /// Told when a pool that is closed has no instance any more.
    idle: Notify,
    runtime: Handle,
}

struct Inner {
    at_rest: Vec<(Worker, Arc<Desk>)>,
    under_way: Vec<Arc<Desk>>,
    /// Instances at rest and seats.
    instances: usize,
    queue: FairQueue<Waiting>,
    closed: bool,
    /// Why no more calls are taken.
    ended: Option<Fault>,
}

/// A call in the queue.
struct Waiting {
    call: Call,
    /// Since when it waits and behind how many others; `None` if it had left the queue before.
    came: Option<(Instant, usize)>,
}

/// The right to have one instance, and the place of its worker among those that are under way.
///
/// However it ends, the place is free again, and when calls wait a successor takes it.
pub(super) struct Seat {
    pool: Arc<Pool>,
    desk: Arc<Desk>,
    left: bool,
}

/// What becomes of a call that was handed in.
pub(super) enum Placed {
    /// The caller drives this worker.
    Drive(Drive),
    /// Somebody else does.
    Elsewhere,
}

/// A look at a pool.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct PoolSnapshot {
    /// Instances that wait for a call.
    pub at_rest: usize,
    /// Instances that run calls.
    pub under_way: usize,
    /// Calls that run or are about to, and those whose answer has begun and is still being sent.
    pub in_flight: usize,
    /// Calls that wait for an instance.
    pub queued: usize,
}

// === impl Pool ===

impl Pool {
    pub fn new(
        engine: Arc<Engine>,
        service: Arc<str>,
        settings: InstanceSettings,
        pre: InstancePre<State>,
        exports: Exports,
        new_state: Box<dyn Fn() -> State + Send + Sync>,
    ) -> Arc<Self> {
        Arc::new(Self {
            engine,
            service,
            settings,
            pre,
            exports,
            new_state,
            inner: Mutex::new(Inner {
                at_rest: Vec::new(),
                under_way: Vec::new(),
                instances: 0,
                queue: FairQueue::new(settings.queue),
                closed: false,
                ended: None,
            }),
            queued: AtomicUsize::new(0),
            moves: HoldTime::default(),
            idle: Notify::new(),
            runtime: Handle::current(),
        })
    }

    // Nothing panics while the lock is held, and if it did, what it guards would still be consistent.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn clock(&self) -> &EpochClock {
        self.engine.clock()
    }

    pub fn service(&self) -> &Arc<str> {
        &self.service
    }

    pub fn settings(&self) -> &InstanceSettings {
        &self.settings
    }

    pub fn component(&self) -> &Component {
        self.pre.component()
    }

    pub fn exports(&self) -> &Exports {
        &self.exports
    }

    /// Finds a place for `call`.
    pub fn place(self: &Arc<Self>, mut call: Call) -> Result<Placed, Fault> {
        let mut inner = self.lock();
        if let Some(fault) = inner.not_begun() {
            // It was chosen long before.
            return Err(fault);
        }
        match self.take_instance(&mut inner, call) {
            Ok(drive) => return Ok(Placed::Drive(drive)),
            Err(back) => call = back,
        }
        // Nobody overtakes those who wait already.
        if inner.queue.is_empty() {
            for desk in &inner.under_way {
                match desk.join(call, self.settings.concurrency) {
                    Ok(()) => return Ok(Placed::Elsewhere),
                    Err(back) => call = back,
                }
            }
        }
        let now = Instant::now();
        let mut hopeless = self.hopeless(&inner, &call, now);
        if hopeless.is_some() || inner.queue.is_full() {
            // Those whose callers gave up make room.
            inner.queue.remove(Waiting::is_abandoned);
            self.queued.store(inner.queue.len(), Ordering::SeqCst);
            hopeless = self.hopeless(&inner, &call, now);
        }
        if let Some(fault) = hopeless {
            return Err(fault);
        }
        if inner.queue.is_full() {
            // A worker that computes in this very moment may have room all the same.
            for desk in &inner.under_way {
                match desk.join_anyway(call, self.settings.concurrency) {
                    Ok(()) => return Ok(Placed::Elsewhere),
                    Err(back) => call = back,
                }
            }
        }
        let caller = call.context.caller.clone();
        let ahead = inner.queue.ahead_of(&caller);
        let pushed = inner.queue.push(&caller, Waiting { call, came: Some((now, ahead)) });
        self.queued.store(inner.queue.len(), Ordering::SeqCst);
        // A worker that computed just now may have begun to wait in this moment, see `Desk::set_waits`.
        if let Some(desk) = inner.under_way.iter().find(|desk| desk.waits()) {
            desk.wake();
        }
        drop(inner);
        match pushed {
            Pushed::Waits => Ok(Placed::Elsewhere),
            Pushed::InPlaceOf(displaced) => {
                displaced.call.reply.send(Err(self.displaced(&caller)));
                Ok(Placed::Elsewhere)
            }
            Pushed::Refused(_) => Err(self.full()),
        }
    }

    /// What a call gets that can't wait as long as the queue will take.
    fn hopeless(&self, inner: &Inner, call: &Call, now: Instant) -> Option<Fault> {
        let ahead = inner.queue.ahead_of(&call.context.caller);
        // NB: who would be the first waits in any case. Else a queue that was slow once and is empty would never find out
        // that it no longer is.
        let wait = if ahead > 0 { self.moves.expected_wait(ahead, 1)? } else { return None };
        let left = call.context.deadline.at.saturating_duration_since(now);
        if wait < left {
            return None;
        }
        let message = format!(
            "service `{}` is busy: {ahead} calls wait before it for an instance, which takes about {wait:.1?}, and the \
             call has {left:.1?} left",
            self.service
        );
        Some(Fault::new(FaultKind::Overloaded, message).with_retry_after(wait))
    }

    #[cold]
    fn full(&self) -> Fault {
        let message = format!(
            "service `{}` is busy: all {} instances have all they can take, and {} calls wait",
            self.service, self.settings.max, self.settings.queue
        );
        Fault::new(FaultKind::Overloaded, message).with_retry_after(Duration::from_secs(1))
    }

    #[cold]
    fn displaced(&self, by: &str) -> Fault {
        let message = format!(
            "service `{}` is busy: {} calls wait, and the place of this one went to `{by}`, which had fewer than its share",
            self.service, self.settings.queue
        );
        Fault::new(FaultKind::Overloaded, message).with_retry_after(Duration::from_secs(1))
    }

    /// Gives `call` an instance of its own: one at rest, else a new one.
    #[expect(clippy::result_large_err, reason = "the call itself comes back, and is moved on")]
    fn take_instance(self: &Arc<Self>, inner: &mut Inner, call: Call) -> Result<Drive, Call> {
        if let Some((worker, desk)) = inner.at_rest.pop() {
            desk.reopen(call);
            let seat = self.seat(inner, desk);
            return Ok(Box::pin(drive(seat, Some(worker))));
        }
        if inner.instances >= self.settings.max {
            return Err(call);
        }
        inner.instances += 1;
        let seat = self.seat(inner, Desk::new(call));
        Ok(Box::pin(drive(seat, None)))
    }

    fn seat(self: &Arc<Self>, inner: &mut Inner, desk: Arc<Desk>) -> Seat {
        inner.under_way.push(desk.clone());
        Seat { pool: self.clone(), desk, left: false }
    }

    fn pop_queued(&self, inner: &mut Inner) -> Option<Call> {
        if inner.queue.is_empty() {
            return None;
        }
        let next = inner.queue.pop(Waiting::is_abandoned);
        self.queued.store(inner.queue.len(), Ordering::SeqCst);
        let Waiting { call, came } = next?;
        if let Some((since, ahead)) = came {
            self.moves.record(since.elapsed() / u32::try_from(ahead + 1).unwrap_or(u32::MAX));
        }
        Some(call)
    }

    /// Whether calls wait in the queue.
    pub fn has_queued(&self) -> bool {
        self.queued.load(Ordering::SeqCst) > 0
    }

    /// A fresh instance.
    pub async fn instantiate(&self) -> Result<Worker, Fault> {
        let budget = CpuBudget::default();
        let (mut store, instance) = self.bare_instance_within(&budget).await?;
        match self.exports.of_instance(&mut store, &instance) {
            Ok(exports) => Ok(Worker { store, exports, budget, served: 0 }),
            Err(error) => Err(self.not_instantiated(&error)),
        }
    }

    /// A fresh instance for the host's own questions, outside of the pool. To be used within [`alongside`].
    pub async fn bare_instance(&self) -> Result<(Store<State>, Instance), Fault> {
        self.bare_instance_within(&CpuBudget::default()).await
    }

    async fn bare_instance_within(&self, budget: &CpuBudget) -> Result<(Store<State>, Instance), Fault> {
        let mut store = Store::new(self.engine.wasmtime(), (self.new_state)());
        store.limiter(|state| &mut state.limits);
        budget.install(&mut store, self.settings.cpu);
        store.set_hostcall_fuel(HOSTCALL_BYTES);
        self.clock().guest_entered();
        match timeout(INSTANTIATE_LIMIT, self.pre.instantiate_async(&mut store)).await {
            Ok(Ok(instance)) => Ok((store, instance)),
            Ok(Err(error)) => Err(self.not_instantiated(&error)),
            Err(_) => {
                Err(self.not_instantiated(&wasmtime::format_err!("it was not ready within {INSTANTIATE_LIMIT:?}")))
            }
        }
    }

    fn not_instantiated(&self, error: &wasmtime::Error) -> Fault {
        let cause = error.root_cause();
        let kind = if error.is::<PoolConcurrencyLimitError>() { FaultKind::Overloaded } else { FaultKind::Trapped };
        Fault::new(kind, format!("service `{}` could not be instantiated: {cause}", self.service))
    }

    /// A worker made aside, for the first call to find: shows at the same time that the component can be instantiated.
    pub async fn warm(&self) -> Result<(), Fault> {
        let worker = alongside(self.instantiate()).await?;
        let mut inner = self.lock();
        inner.instances += 1;
        inner.at_rest.push((worker, Desk::closed()));
        Ok(())
    }

    /// Lets instances end with their calls. Calls that still come in are served, each by an instance of its own time.
    pub fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        inner.instances -= inner.at_rest.len();
        let at_rest = std::mem::take(&mut inner.at_rest);
        drop(inner);
        drop(at_rest);
    }

    /// Closes it, waits until what is under way has ended, and ends what is left at `deadline` with `fault`. Says how many
    /// calls that were.
    pub async fn drain(&self, deadline: Instant, fault: impl FnOnce() -> Fault) -> usize {
        self.close();
        let is_idle = async {
            loop {
                let notified = self.idle.notified();
                if self.lock().instances == 0 {
                    return;
                }
                notified.await;
            }
        };
        if timeout_at(deadline, is_idle).await.is_ok() {
            return 0;
        }
        self.end(&fault())
    }

    fn end(&self, fault: &Fault) -> usize {
        let mut inner = self.lock();
        inner.ended = Some(fault.clone());
        let mut ended = 0;
        while let Some(Waiting { call, .. }) = inner.queue.pop(Waiting::is_abandoned) {
            inner.put_back(call);
            ended += 1;
        }
        self.queued.store(0, Ordering::SeqCst);
        for desk in inner.under_way.clone() {
            ended += desk.in_hand();
            desk.evict(fault.clone());
            // Its worker may be long in coming: an instance that is being made can't be interrupted.
            desk.take_waiting().into_iter().for_each(|call| inner.put_back(call));
        }
        ended
    }

    /// An instance is gone.
    fn left(&self, inner: &mut Inner) {
        inner.instances -= 1;
        if inner.closed && inner.instances == 0 {
            self.idle.notify_waiters();
        }
    }

    /// How many instances it counts, at rest and under way.
    #[cfg(test)]
    pub fn counted(&self) -> usize {
        self.lock().instances
    }

    pub fn snapshot(&self) -> PoolSnapshot {
        let inner = self.lock();
        PoolSnapshot {
            at_rest: inner.at_rest.len(),
            under_way: inner.under_way.len(),
            in_flight: inner.under_way.iter().map(|desk| desk.in_hand()).sum(),
            queued: inner.queue.len(),
        }
    }
}

// === impl Inner ===

impl Inner {
    /// What a call gets that comes too late to be begun here: another try of it goes elsewhere.
    fn not_begun(&self) -> Option<Fault> {
        let ended = self.ended.as_ref()?;
        Some(Fault::new(FaultKind::Unreachable, ended.message().to_owned()))
    }

    /// Puts a call that was on a worker's desk, and was not begun, before all that wait.
    fn put_back(&mut self, call: Call) {
        // NB: none may be begun here any more, or its caller would be answered by what was replaced long ago.
        if let Some(fault) = self.not_begun() {
            call.reply.send(Err(fault));
            return;
        }
        let caller = call.context.caller.clone();
        self.queue.push_front(&caller, Waiting { call, came: None });
    }
}

// === impl Waiting ===

impl Waiting {
    fn is_abandoned(&self) -> bool {
        self.call.reply.is_abandoned()
    }
}

// === impl Seat ===

impl Seat {
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    pub fn desk(&self) -> &Arc<Desk> {
        &self.desk
    }

    /// Takes a call from the pool's queue onto the desk, if one waits.
    pub fn take_queued(&self) {
        let mut inner = self.pool.lock();
        if let Some(call) = self.pool.pop_queued(&mut inner) {
            drop(inner);
            self.desk.put(call);
        }
    }

    /// Finds other places for the calls that were handed to this worker and can't be begun now.
    pub fn give_back(&self) {
        let pool = &self.pool;
        let mut drives = Vec::new();
        let mut inner = pool.lock();
        for call in self.desk.take_waiting().into_iter().rev() {
            if call.reply.is_abandoned() {
                continue;
            }
            if inner.ended.is_some() {
                inner.put_back(call);
                continue;
            }
            match pool.take_instance(&mut inner, call) {
                Ok(drive) => drives.push(drive),
                Err(call) => inner.put_back(call),
            }
        }
        pool.queued.store(inner.queue.len(), Ordering::SeqCst);
        drop(inner);
        drives.into_iter().for_each(|drive| spawn(&pool.runtime, drive));
    }

    /// Puts the instance to rest. Comes back with it where a call waits for just that.
    pub fn rest(mut self, worker: Worker) -> Option<(Self, Worker)> {
        let pool = self.pool.clone();
        let mut inner = pool.lock();
        let waiting = self.desk.take_waiting();
        if let Some(call) = pool.pop_queued(&mut inner) {
            self.leave(&mut inner);
            self.desk.reopen(call);
            let seat = pool.seat(&mut inner, self.desk.clone());
            return Some((seat, worker));
        }
        debug_assert!(waiting.is_empty(), "a closed desk takes no calls");
        self.leave(&mut inner);
        if inner.closed {
            pool.left(&mut inner);
            drop(inner);
            drop(worker);
        } else {
            inner.at_rest.push((worker, self.desk.clone()));
        }
        None
    }

    fn leave(&mut self, inner: &mut Inner) {
        self.left = true;
        if let Some(at) = inner.under_way.iter().position(|desk| Arc::ptr_eq(desk, &self.desk)) {
            inner.under_way.swap_remove(at);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.left {
            return;
        }
        let pool = self.pool.clone();
        let mut inner = pool.lock();
        self.leave(&mut inner);
        // Calls that joined and were not begun have had no effect: they go to the front of the queue.
        self.desk.take_waiting().into_iter().rev().for_each(|call| inner.put_back(call));
        match pool.pop_queued(&mut inner) {
            Some(call) => {
                let seat = pool.seat(&mut inner, Desk::new(call));
                drop(inner);
                spawn(&pool.runtime, Box::pin(drive(seat, None)));
            }
            None => pool.left(&mut inner),
        }
    }
}
