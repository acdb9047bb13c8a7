//! Where calls are handed to a running worker, and where their replies lie until they are answered.
//!
//! The replies are kept here, outside of the store: when a guest traps, wasmtime drops everything that ran in its
//! store, and each caller must still learn what happened.

use super::call::{Call, Reply};
use crate::policy::Fault;
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

/// One for each worker.
pub(super) struct Desk {
    inner: Mutex<Inner>,
    /// Its guest waits for something: a call that joins now does not wait for somebody else's computing.
    waits: AtomicBool,
    /// Bodies of responses that are still being written by the guest.
    streaming: AtomicUsize,
    /// How many frames were taken of such bodies.
    frames: AtomicUsize,
    /// It is to end with all its calls: see [`Desk::evict`].
    evicted: AtomicBool,
    /// The store is being run in this very moment.
    entered: AtomicBool,
    /// The store is gone, or about to be, and was not at an end.
    broken: AtomicBool,
    /// Who waits to learn which of the two is behind the end of a body.
    ends: Mutex<Vec<Waker>>,
    /// Whether anybody does.
    ends_wait: AtomicBool,
}

struct Inner {
    open: bool,
    waiting: VecDeque<Call>,
    replies: Vec<Option<Reply>>,
    under_way: usize,
    waker: Option<Waker>,
    /// Why it is to end.
    evicted: Option<Fault>,
}

/// Which reply on a desk.
#[derive(Clone, Copy)]
pub(super) struct Ticket(usize);

/// Held by a body that its guest still writes: keeps the worker going.
pub(super) struct Streaming(Arc<Desk>);

/// Held while a store is run from its first call to its end. Dropped before that was said, it spoils the bodies that are
/// still being written.
pub(super) struct Running<'a> {
    desk: &'a Desk,
    ended_well: bool,
}

/// What the callers of a worker are doing.
pub(super) enum Callers {
    /// Somebody waits.
    Wait,
    /// All calls are answered or given up, and somebody has yet to read a body.
    Read,
    /// Nobody waits any more, and at least one call was given up before it was answered.
    GaveUp,
    /// All calls are answered, and the guest goes on with something.
    Answered,
}

// === impl Desk ===

impl Desk {
    /// The desk of a new worker.
    pub fn new(first: Call) -> Arc<Self> {
        let desk = Self::closed();
        desk.reopen(first);
        desk
    }

    /// The desk of a worker at rest.
    pub fn closed() -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner {
                open: false,
                waiting: VecDeque::new(),
                replies: Vec::new(),
                under_way: 0,
                waker: None,
                evicted: None,
            }),
            waits: AtomicBool::new(false),
            streaming: AtomicUsize::new(0),
            frames: AtomicUsize::new(0),
            evicted: AtomicBool::new(false),
            entered: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            ends: Mutex::default(),
            ends_wait: AtomicBool::new(false),
        })
    }

    /// The worker is about to get under way again.
    pub fn reopen(&self, first: Call) {
        self.set_waits(false);
        let mut inner = self.lock();
        inner.open = true;
        inner.waiting.push_back(first);
    }

    // Nothing panics while the lock is held, and if it did, a queue of calls is still a queue of calls.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands in a call, unless the worker has enough to do, computes, or takes no more: then it comes back.
    #[expect(clippy::result_large_err, reason = "the call itself comes back, and is moved on")]
    pub fn join(&self, call: Call, concurrency: usize) -> Result<(), Call> {
        if self.waits() { self.join_anyway(call, concurrency) } else { Err(call) }
    }

    /// As [`Desk::join`], also while the worker computes: the call is begun when it waits, or given back.
    #[expect(clippy::result_large_err, reason = "the call itself comes back, and is moved on")]
    pub fn join_anyway(&self, call: Call, concurrency: usize) -> Result<(), Call> {
        let mut inner = self.lock();
        if !inner.open || inner.under_way + inner.waiting.len() >= concurrency {
            return Err(call);
        }
        inner.waiting.push_back(call);
        if let Some(waker) = inner.waker.take() {
            drop(inner);
            waker.wake();
        }
        Ok(())
    }

    /// Hands in a call from the worker's own side.
    pub fn put(&self, call: Call) {
        self.lock().waiting.push_back(call);
    }

    /// Whether calls were handed in that are not begun.
    pub fn has_waiting(&self) -> bool {
        !self.lock().waiting.is_empty()
    }

    /// How many calls are under way or wait here.
    pub fn load(&self) -> usize {
        let inner = self.lock();
        inner.under_way + inner.waiting.len()
    }

    /// How many calls end with the worker: those of [`Desk::load`], and those whose answer it still writes.
    pub fn in_hand(&self) -> usize {
        self.load() + self.streaming.load(Ordering::Acquire)
    }

    /// Whether one more call would be taken, as far as it is the desk's to say.
    pub fn has_room(&self, concurrency: usize) -> bool {
        let inner = self.lock();
        inner.open && inner.under_way + inner.waiting.len() < concurrency
    }

    /// The next call to begin. Where there is none, the worker is woken by the next one.
    pub fn poll_take(&self, cx: &mut Context<'_>) -> Option<Call> {
        let mut inner = self.lock();
        loop {
            match inner.waiting.pop_front() {
                Some(call) if call.reply.is_abandoned() => {}
                Some(call) => return Some(call),
                None => break,
            }
        }
        inner.register(cx);
        None
    }

    /// Keeps the reply of a call that begins.
    pub fn begin(&self, reply: Reply) -> Ticket {
        let mut inner = self.lock();
        inner.under_way += 1;
        let free = inner.replies.iter().position(Option::is_none);
        let at = free.unwrap_or_else(|| {
            inner.replies.push(None);
            inner.replies.len() - 1
        });
        inner.replies[at] = Some(reply);
        Ticket(at)
    }

    /// The reply of a call that ended.
    pub fn end(&self, ticket: Ticket) -> Option<Reply> {
        let mut inner = self.lock();
        inner.under_way -= 1;
        inner.replies.get_mut(ticket.0)?.take()
    }

    /// Takes no more calls from outside, whatever comes.
    pub fn close(&self) {
        self.lock().open = false;
    }

    /// Takes no more calls from outside if there are none now, and no body of a response is unread; says whether that is
    /// so. A body may need the store also after the guest's last task has ended: what the guest only hands on from
    /// somewhere else, the store's own event loop moves.
    pub fn close_if_empty(&self) -> bool {
        let mut inner = self.lock();
        let empty = inner.waiting.is_empty() && inner.under_way == 0 && self.streaming.load(Ordering::Acquire) == 0;
        inner.open &= !empty;
        empty
    }

    /// What was handed in and not begun.
    pub fn take_waiting(&self) -> VecDeque<Call> {
        std::mem::take(&mut self.lock().waiting)
    }

    /// Says to everybody whose call is under way that it ended by `fault`.
    pub fn fail(&self, fault: &Fault) {
        let mut inner = self.lock();
        inner.open = false;
        inner.under_way = 0;
        let replies = std::mem::take(&mut inner.replies);
        drop(inner);
        for reply in replies.into_iter().flatten() {
            reply.send(Err(fault.clone()));
        }
    }

    /// Ends the worker with all its calls, which get this fault, as soon as its guest can be interrupted.
    pub fn evict(&self, fault: Fault) {
        let mut inner = self.lock();
        inner.open = false;
        inner.evicted = Some(fault);
        self.evicted.store(true, Ordering::Release);
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Why the worker is to end, if it is.
    pub fn evicted(&self) -> Option<Fault> {
        if self.evicted.load(Ordering::Acquire) { self.lock().evicted.clone() } else { None }
    }

    /// Whether the guest waits for something, or computes.
    ///
    /// NB: sequentially consistent, like the length of the pool's queue. Who queues a call looks here afterwards, and
    /// the worker looks at the queue after it has said here that it waits, so one of the two sees the other.
    pub fn set_waits(&self, waits: bool) {
        self.waits.store(waits, Ordering::SeqCst);
    }

    /// See [`Desk::set_waits`].
    pub fn waits(&self) -> bool {
        self.waits.load(Ordering::SeqCst)
    }

    /// Lets the worker look around for calls.
    pub fn wake(&self) {
        let waker = self.lock().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// What the callers are doing; where they wait, the worker is woken when one of them gives up.
    pub fn poll_callers(&self, cx: &mut Context<'_>) -> Callers {
        let mut inner = self.lock();
        // While the guest holds its store nobody polls the inner loop, which registers the waker else.
        inner.register(cx);
        let (mut waits, mut gave_up) = (false, false);
        for reply in inner.replies.iter_mut().flatten() {
            match reply.poll_abandoned(cx) {
                Poll::Ready(()) => gave_up = true,
                Poll::Pending => waits = true,
            }
        }
        // A guest task can't be cancelled, so this store is on its way out.
        inner.open &= !gave_up;
        // What was handed in and not begun does not count: it finds another place when this store goes.
        if waits {
            Callers::Wait
        } else if self.streaming.load(Ordering::Acquire) > 0 {
            Callers::Read
        } else if gave_up {
            Callers::GaveUp
        } else {
            Callers::Answered
        }
    }

    /// A run of the store begins.
    pub fn run(&self) -> Running<'_> {
        Running { desk: self, ended_well: false }
    }

    /// The store is entered.
    pub fn enter(&self) {
        self.entered.store(true, Ordering::SeqCst);
    }

    /// The store is left, and if it is about to go, that has been said.
    pub fn leave(&self) {
        self.entered.store(false, Ordering::SeqCst);
        if self.ends_wait.swap(false, Ordering::SeqCst) {
            let ends = std::mem::take(&mut *self.ends.lock().unwrap_or_else(PoisonError::into_inner));
            ends.into_iter().for_each(Waker::wake);
        }
    }

    /// How many frames of bodies were taken so far.
    pub fn frames(&self) -> usize {
        self.frames.load(Ordering::Relaxed)
    }

    /// A body of this worker begins to stream.
    pub fn stream(self: &Arc<Self>) -> Streaming {
        self.streaming.fetch_add(1, Ordering::AcqRel);
        Streaming(self.clone())
    }
}

// === impl Inner ===

impl Inner {
    fn register(&mut self, cx: &Context<'_>) {
        if self.waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }
}

// === impl Streaming ===

impl Streaming {
    /// A frame of the body was taken.
    pub fn frame(&self) {
        self.0.frames.fetch_add(1, Ordering::Relaxed);
    }

    /// The body has come to an end: whether that is where its guest ended it.
    ///
    /// NB: a store that goes ends the bodies that its guest writes as if the guest had done so, and when it traps that is
    /// before anybody is told. So nothing can be said while the store is being run.
    pub fn poll_is_whole(&self, cx: &Context<'_>) -> Poll<bool> {
        if self.0.entered.load(Ordering::SeqCst) {
            self.0.ends.lock().unwrap_or_else(PoisonError::into_inner).push(cx.waker().clone());
            self.0.ends_wait.store(true, Ordering::SeqCst);
        }
        // The order of these two is that of `Desk::leave` the other way round.
        if self.0.entered.load(Ordering::SeqCst) { Poll::Pending } else { Poll::Ready(!self.is_broken()) }
    }

    /// Whether that can be said at once, and is so.
    pub fn is_whole(&self) -> bool {
        !self.0.entered.load(Ordering::SeqCst) && !self.is_broken()
    }

    fn is_broken(&self) -> bool {
        self.0.broken.load(Ordering::SeqCst)
    }
}

// === impl Running ===

impl Running<'_> {
    /// The guest has nothing more to do, and whatever it wrote it wrote to the end.
    pub fn end_well(mut self) {
        self.ended_well = true;
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.ended_well {
            self.desk.broken.store(true, Ordering::SeqCst);
        }
        self.desk.leave();
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.0.streaming.fetch_sub(1, Ordering::AcqRel);
        // The guest may be at an end, or may have nobody left to write for.
        self.0.wake();
    }
}
