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

use super::set::Set;
use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll},
};
use tokio::runtime::Handle;

/// A worker under way: runs calls until there are none, then puts its instance back where it came from.
pub(super) type Drive = Pin<Box<dyn Future<Output = ()> + Send>>;

thread_local! {
    /// Drives handed out by what is being polled on this thread; `None` while no set of drives is being polled.
    static HANDED_OUT: RefCell<Option<Vec<Drive>>> = const { RefCell::new(None) };
    /// What is being polled on this thread is polled by a task of its own.
    static DETACHED: Cell<bool> = const { Cell::new(false) };
}

/// Drives that one task polls.
#[derive(Default)]
pub(super) struct Drives {
    running: Set<Drive>,
    /// Kept for its capacity: empty outside of `poll`.
    handed_out: Vec<Drive>,
}

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

/// Whether the drive that is being polled goes on in a task of its own. Else somebody polls it who waits for an answer,
/// and not for ever: there no drive needs a timer against being forgotten.
pub(super) fn is_detached() -> bool {
    DETACHED.get()
}

fn take_handed_out() -> Option<Drive> {
    HANDED_OUT.with_borrow_mut(|handed_out| handed_out.as_mut()?.pop())
}

// === impl Drives ===

impl Drives {
    pub fn push(&mut self, drive: Drive) {
        self.running.push(drive);
    }

    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Lets all that can go on go on. Ready when no drive is left.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let _scope = Scope::enter(&mut self.handed_out);
        self.running.poll(cx, |()| {}, take_handed_out)
    }

    /// Goes on in a task of its own with what is not finished.
    pub fn detach(mut self) {
        if self.is_empty() {
            return;
        }
        // Each is to see that it is detached now.
        self.running.wake_all();
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
        drives.handed_out.drain(..).for_each(|drive| drives.running.push(drive));
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
        struct Reset;
        impl Drop for Reset {
            fn drop(&mut self) {
                DETACHED.set(false);
            }
        }
        DETACHED.set(true);
        let _reset = Reset;
        self.0.poll(cx)
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
