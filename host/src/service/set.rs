//! Futures that one task polls together.
//!
//! `FuturesUnordered` goes back to the scheduler when each of its futures was polled once, and wakes its task whenever
//! one of them is woken, be it by another one of the same set. For calls that end within a few polls, most of them each
//! other's doing, that is one trip to the scheduler after the other. Here
//!
//! - a future that another one wakes is polled in the same poll of the set, and nobody else is woken for it;
//! - a future that wakes itself while it is polled wants others to have a turn: it is polled again in the next one.
//!
//! A set within a set needs none of that while it has one future only, as nearly always: see [`Set::poll_within`].
//!
//! That a poll of the set ends at all is the futures' business: guests are interrupted by the epoch clock, and wake
//! themselves then.

use futures::task::AtomicWaker;
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

/// Futures that are polled together, in no particular order.
pub(super) struct Set<F> {
    members: Vec<Member<F>>,
    shared: Option<Arc<Shared>>,
}

struct Member<F> {
    future: F,
    /// Made when the member is first polled by it.
    bell: Option<Bell>,
    yielded: bool,
}

/// How a member is woken.
struct Bell {
    flag: Arc<Flag>,
    waker: Waker,
}

#[derive(Default)]
struct Shared {
    task: AtomicWaker,
    /// The set is being polled, and looks at the flags itself before it is done.
    polled: AtomicBool,
}

struct Flag {
    woken: AtomicBool,
    shared: Arc<Shared>,
}

// === impl Set ===

impl<F> Default for Set<F> {
    fn default() -> Self {
        Self { members: Vec::new(), shared: None }
    }
}

impl<F: Future + Unpin> Set<F> {
    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Adds a future. It is polled with the next poll of the set, for which nobody is woken.
    pub fn push(&mut self, future: F) {
        self.members.push(Member { future, bell: None, yielded: false });
    }

    /// Lets every member be polled with the next poll of the set, woken or not.
    pub fn wake_all(&mut self) {
        self.members.iter_mut().for_each(|member| member.bell = None);
    }

    /// As [`Set::poll`], for a set that is polled by a member of another set, so that it is no matter how often its task
    /// is woken: a lone future is polled with the task's own waker, whether it was woken or not.
    pub fn poll_within(&mut self, cx: &mut Context<'_>, mut ended: impl FnMut(F::Output)) -> Poll<()> {
        let [member] = &mut *self.members else { return self.poll(cx, ended, || None) };
        // Should another one join, its own waker is not known to anything yet.
        member.bell = None;
        if let Poll::Ready(output) = Pin::new(&mut member.future).poll(cx) {
            self.members.clear();
            ended(output);
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Lets all that can go on go on. What comes out goes to `ended`; `more` is asked after each poll of a future for
    /// others that join. Ready when the set is empty.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut ended: impl FnMut(F::Output),
        mut more: impl FnMut() -> Option<F>,
    ) -> Poll<()> {
        let shared = self.shared.get_or_insert_default();
        shared.task.register(cx.waker());
        // NB: sequentially consistent, like the flags. Who wakes a member sets its flag and looks here afterwards, and
        // at the end of the poll it is the other way round: one of the two sees the other.
        shared.polled.store(true, Ordering::SeqCst);
        self.members.iter_mut().for_each(|member| member.yielded = false);
        let mut at = 0;
        // How many members in a row there was nothing to do for.
        let mut idle = 0;
        while idle < self.members.len() {
            at %= self.members.len();
            let member = &mut self.members[at];
            let woken = member.bell.as_ref().is_none_or(|bell| bell.flag.woken.load(Ordering::Relaxed));
            if member.yielded || !woken {
                at += 1;
                idle += 1;
                continue;
            }
            idle = 0;
            // Out of the set while it is polled: should it panic, it is not polled again.
            let mut member = self.members.swap_remove(at);
            let bell = member.bell.get_or_insert_with(|| Bell::new(shared));
            bell.flag.woken.swap(false, Ordering::SeqCst);
            match Pin::new(&mut member.future).poll(&mut Context::from_waker(&bell.waker)) {
                Poll::Ready(output) => ended(output),
                Poll::Pending => {
                    member.yielded = bell.flag.woken.load(Ordering::Relaxed);
                    self.members.push(member);
                }
            }
            while let Some(future) = more() {
                self.members.push(Member { future, bell: None, yielded: false });
            }
        }
        shared.polled.store(false, Ordering::SeqCst);
        if self.members.is_empty() {
            return Poll::Ready(());
        }
        let mut bells = self.members.iter().filter_map(|member| member.bell.as_ref());
        if bells.any(|bell| bell.flag.woken.load(Ordering::SeqCst)) {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

// === impl Bell ===

impl Bell {
    fn new(shared: &Arc<Shared>) -> Self {
        let flag = Arc::new(Flag { woken: AtomicBool::new(true), shared: shared.clone() });
        Self { waker: flag.clone().into(), flag }
    }
}

// === impl Flag ===

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let before = self.woken.swap(true, Ordering::SeqCst);
        if !before && !self.shared.polled.load(Ordering::SeqCst) {
            self.shared.task.wake();
        }
    }
}

#[cfg(test)]
mod tests;
