//! Who runs a worker: the caller itself, while it waits.
//!
//! A worker could be a task of its own that takes calls from a channel. Then each call would cost two hops between
//! tasks, and mostly between threads: several microseconds, more than the call itself. Here a worker at rest is only a
//! store in a pool, and whoever needs it polls it in place, as part of its own task:
//!
//! ```text
//! task of the request:   Driving { order's worker, user's worker, … }
//! ```
//!
//! A call that a guest makes starts inside the poll of its own worker, where wasmtime allows no other store to be
//! entered ("Recursive `run_concurrent`"). So it is only handed out there, by a thread-local, and polled next to its
//! caller by the same task, right after. What is still under way when the task has its answer (a body that streams, or
//! other callers' calls in the same instance) goes on in a task of its own.

use futures::{
    stream::{FuturesUnordered, Stream},
    task::AtomicWaker,
};
use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{
            AtomicU8,
            Ordering::{AcqRel, Acquire, Release},
        },
    },
    task::{Context, Poll, Wake, Waker},
};
use tokio::runtime::Handle;

/// A worker under way: runs calls until there are none, then puts its instance back where it came from.
pub(super) type Drive = Pin<Box<dyn Future<Output = ()> + Send>>;

thread_local! {
    /// Drives handed out by what is being polled on this thread; `None` while no set of drives is being polled.
    static HANDED_OUT: RefCell<Option<Vec<Drive>>> = const { RefCell::new(None) };
    /// A guest was interrupted in what is being polled on this thread: others come first.
    static INTERRUPTED: Cell<bool> = const { Cell::new(false) };
}

/// Drives that one task polls.
#[derive(Default)]
pub(super) struct Drives {
    running: FuturesUnordered<Drive>,
    /// Kept for its capacity: empty outside of `poll`.
    handed_out: Vec<Drive>,
    waker: Option<Arc<InPlace>>,
}

/// A waker for what one task polls, that keeps to itself what happens within the poll.
///
/// Caller and callee, answer and question wake each other all the time, in the same task. Each of these wakes would
/// have tokio queue the task once more, and another thread steal it from there: several times the cost of the call.
struct InPlace {
    state: AtomicU8,
    task: AtomicWaker,
}

/// Nobody polls: a wake goes to the task.
const IDLE: u8 = 0;
/// The task polls, and will see by itself what is ready.
const POLLING: u8 = 1;
/// Something woke while the task polls: it must look once more.
const WOKEN: u8 = 2;

/// How often a poll looks once more before it lets other tasks have their turn.
const ROUNDS: usize = 64;

/// Gives `drive` to the set that is being polled on this thread.
///
/// Gives it back where there is none: then the caller is no guest, and polls it itself.
pub(super) fn hand_out(drive: Drive) -> Result<(), Drive> {
    HANDED_OUT.with_borrow_mut(|handed_out| match handed_out {
        Some(drives) => {
            drives.push(drive);
            Ok(())
        }
        None => Err(drive),
    })
}

/// Says that a guest that is being polled on this thread was interrupted, and would go on computing at once.
pub(super) fn interrupted() {
    INTERRUPTED.set(true);
}

// === impl InPlace ===

impl Wake for InPlace {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // NB: acquire and release, so that who looks once more sees what was done before the wake. And if the poll
        // ends in between, its exchange of POLLING for IDLE comes first, and this one finds IDLE.
        match self.state.compare_exchange(POLLING, WOKEN, AcqRel, Acquire) {
            Ok(_) | Err(WOKEN) => {}
            Err(_) => self.task.wake(),
        }
    }
}

// === impl Drives ===

impl Drives {
    pub fn push(&mut self, drive: Drive) {
        self.running.push(drive);
    }

    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Polls by `step`, again and again until nothing in it can go on: what wakes meanwhile is this task's own business.
    pub fn poll_in_place<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut step: impl FnMut(&mut Self, &mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        if self.is_empty() {
            return step(self, cx);
        }
        let in_place = self
            .waker
            .get_or_insert_with(|| Arc::new(InPlace { state: AtomicU8::new(IDLE), task: AtomicWaker::new() }));
        let in_place = in_place.clone();
        in_place.task.register(cx.waker());
        let waker = Waker::from(in_place.clone());
        INTERRUPTED.set(false);
        for _ in 0..ROUNDS {
            in_place.state.store(POLLING, Release);
            let polled = step(self, &mut Context::from_waker(&waker));
            if polled.is_ready() {
                in_place.state.store(IDLE, Release);
                return polled;
            }
            match in_place.state.compare_exchange(POLLING, IDLE, AcqRel, Acquire) {
                Ok(_) => return Poll::Pending,
                Err(_) if INTERRUPTED.get() => break,
                Err(_) => {}
            }
        }
        in_place.state.store(IDLE, Release);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Lets all that can go on go on. Ready when no drive is left.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let polled = {
                let _scope = Scope::enter(&mut self.handed_out);
                Pin::new(&mut self.running).poll_next(cx)
            };
            let news = !self.handed_out.is_empty();
            self.running.extend(self.handed_out.drain(..));
            match polled {
                Poll::Ready(Some(())) => {}
                Poll::Ready(None) if !news => return Poll::Ready(()),
                Poll::Pending if !news => return Poll::Pending,
                Poll::Ready(None) | Poll::Pending => {}
            }
        }
    }

    /// Goes on in a task of its own with what is not finished.
    pub fn detach(self) {
        if self.is_empty() {
            return;
        }
        // Outside of a runtime, at the very end of the process, there is nobody left to go on for.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(Detached(self));
        }
    }
}

/// Polls `drive` in a task of its own.
///
/// NB: never spawn a drive bare. Its guest may call other services, and what it hands out needs a set to go to.
pub(super) fn spawn(runtime: &Handle, drive: Drive) {
    let mut drives = Drives::default();
    drives.push(drive);
    runtime.spawn(Detached(drives));
}

/// Runs guest code that is no call, such as the making of an instance. What it calls is polled next to it.
pub(super) async fn alongside<F: Future>(future: F) -> F::Output {
    let mut beside = Beside(Drives::default());
    let mut future = pin!(future);
    let output = poll_fn(|cx| {
        let drives = &mut beside.0;
        let polled = {
            let _scope = Scope::enter(&mut drives.handed_out);
            future.as_mut().poll(cx)
        };
        drives.running.extend(drives.handed_out.drain(..));
        if polled.is_pending() {
            let _ = drives.poll(cx);
        }
        polled
    });
    output.await
}

/// Drives whose task may be dropped: others may have joined them with calls of their own.
struct Beside(Drives);

impl Drop for Beside {
    fn drop(&mut self) {
        std::mem::take(&mut self.0).detach();
    }
}

struct Detached(Drives);

impl Future for Detached {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_in_place(cx, Drives::poll)
    }
}

/// While it lives, drives that are handed out on this thread come into `into`.
struct Scope<'a> {
    into: &'a mut Vec<Drive>,
}

impl<'a> Scope<'a> {
    fn enter(into: &'a mut Vec<Drive>) -> Self {
        let drives = std::mem::take(into);
        let before = HANDED_OUT.replace(Some(drives));
        debug_assert!(before.is_none(), "sets of drives are never polled inside each other");
        Self { into }
    }
}

impl Drop for Scope<'_> {
    fn drop(&mut self) {
        *self.into = HANDED_OUT.take().unwrap_or_default();
    }
}
