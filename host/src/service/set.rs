//! Futures that one task polls together.
//!
//! `FuturesUnordered` goes back to the scheduler when each of its futures was polled once, and wakes its task whenever
//! one of them is woken, be it by another one of the same set. For calls that end within a few polls, most of them each
//! other's doing, that is one trip to the scheduler after the other. Here
//!
//! - a future that another one wakes is polled in the same poll of the set, and nobody else is woken for it;
//! - a future that wakes itself while it is polled wants others to have a turn: it is polled again in the next one.
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
    shared: Arc<Shared>,
}

struct Member<F> {
    future: F,
    flag: Arc<Flag>,
    waker: Waker,
    yielded: bool,
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
        Self { members: Vec::new(), shared: Arc::default() }
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
        let flag = Arc::new(Flag { woken: AtomicBool::new(true), shared: self.shared.clone() });
        self.members.push(Member { future, waker: flag.clone().into(), flag, yielded: false });
    }

    /// Lets all that can go on go on. What comes out goes to `ended`; `more` is asked after each poll of a future for
    /// others that join. Ready when the set is empty.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut ended: impl FnMut(F::Output),
        mut more: impl FnMut() -> Option<F>,
    ) -> Poll<()> {
        self.shared.task.register(cx.waker());
        // NB: sequentially consistent, like the flags. Who wakes a member sets its flag and looks here afterwards, and
        // at the end of the poll it is the other way round: one of the two sees the other.
        self.shared.polled.store(true, Ordering::SeqCst);
        self.members.iter_mut().for_each(|member| member.yielded = false);
        let mut at = 0;
        // How many members in a row there was nothing to do for.
        let mut idle = 0;
        while idle < self.members.len() {
            at %= self.members.len();
            let member = &mut self.members[at];
            if member.yielded || !member.flag.woken.load(Ordering::Relaxed) {
                at += 1;
                idle += 1;
                continue;
            }
            member.flag.woken.swap(false, Ordering::SeqCst);
            idle = 0;
            // Out of the set while it is polled: should it panic, it is not polled again.
            let mut member = self.members.swap_remove(at);
            match Pin::new(&mut member.future).poll(&mut Context::from_waker(&member.waker)) {
                Poll::Ready(output) => ended(output),
                Poll::Pending => {
                    member.yielded = member.flag.woken.load(Ordering::Relaxed);
                    self.members.push(member);
                }
            }
            while let Some(future) = more() {
                self.push(future);
            }
        }
        self.shared.polled.store(false, Ordering::SeqCst);
        if self.members.is_empty() {
            return Poll::Ready(());
        }
        if self.members.iter().any(|member| member.flag.woken.load(Ordering::SeqCst)) {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
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
