//! Turns: who may write, and who waits for it.
//!
//! There is one [`Writer`] for each database, and whoever has it, has the turn. Where nobody has it, it is taken at once,
//! and a short write is done right there, on the async thread that asks for it: that takes some ten microseconds, and
//! handing it to another thread and back as long again. Whoever comes meanwhile waits in order, in a bounded queue. When a
//! turn ends, the next is that of who waits first: a transaction gets the writer itself; writes are done on a blocking
//! thread, those that wait together in one commit.
//!
//! What may take long is never done on an async thread: statements that are not known to be short, the copying of the log,
//! and commits where they wait for the disk.

use super::{job::Job, writer::Writer};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};
use tokio::{runtime::Handle, sync::oneshot};

/// Why nothing more may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// As many wait as may.
    Full,
    /// The database is closed, or is about to be.
    Closed,
}

/// The turns of one database.
pub(super) struct Turns(Arc<Shared>);

/// The right to write, until it is dropped: then it is the next one's. A transaction that is open then is rolled back.
pub(super) struct Turn {
    /// Always there, but while it is dropped.
    writer: Option<Box<Writer>>,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    capacity: usize,
    runtime: Handle,
}

struct State {
    /// Where nobody has the turn; then nobody waits.
    writer: Option<Box<Writer>>,
    waiting: VecDeque<Waiting>,
    closed: bool,
}

enum Waiting {
    /// A write, for which no one needs the writer itself.
    Write(Box<dyn Job>),
    /// Whoever is to have the turn.
    Turn(oneshot::Sender<Turn>),
}

/// What is done for those who wait, on a thread that may block.
struct Service {
    writer: Option<Box<Writer>>,
    shared: Arc<Shared>,
}

// === impl Turns ===

impl Turns {
    /// Those of this writer's database, in which so many may wait.
    pub(super) fn new(writer: Writer, capacity: usize) -> Self {
        let state = State { writer: Some(Box::new(writer)), waiting: VecDeque::new(), closed: false };
        Self(Arc::new(Shared { state: Mutex::new(state), capacity, runtime: Handle::current() }))
    }

    /// Has a job done in a transaction of its own, as far as anyone can tell: at once if it can be, and else in its turn.
    pub(super) fn write(&self, job: Box<dyn Job>) -> Result<(), Refused> {
        let mut state = self.0.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        if let Some(writer) = state.writer.take() {
            drop(state);
            let mut turn = Turn { writer: Some(writer), shared: self.0.clone() };
            if let Some(job) = turn.writer().alone_if_short(job) {
                turn.shared.lock().waiting.push_front(Waiting::Write(job));
            }
            return Ok(());
        }
        self.0.wait(&mut state, Waiting::Write(job))
    }

    /// The turn, as soon as it is one's own.
    pub(super) async fn take(&self) -> Result<Turn, Refused> {
        let (handed, turn) = oneshot::channel();
        {
            let mut state = self.0.lock();
            if state.closed {
                return Err(Refused::Closed);
            }
            if let Some(writer) = state.writer.take() {
                return Ok(Turn { writer: Some(writer), shared: self.0.clone() });
            }
            self.0.wait(&mut state, Waiting::Turn(handed))?;
        }
        turn.await.map_err(|_| Refused::Closed)
    }

    /// Lets nobody else wait, and returns the writer when all who do have had their turn. `None` where it was so before.
    pub(super) async fn close(&self) -> Option<Box<Writer>> {
        let (handed, turn) = oneshot::channel();
        {
            let mut state = self.0.lock();
            if state.closed {
                return None;
            }
            state.closed = true;
            if let Some(writer) = state.writer.take() {
                return Some(writer);
            }
            state.waiting.push_back(Waiting::Turn(handed));
        }
        turn.await.ok()?.writer.take()
    }
}

// === impl Turn ===

impl Turn {
    /// The writer.
    pub(super) fn writer(&mut self) -> &mut Writer {
        // NB: it is taken out only by `drop` and by `Turns::close`, which both own the turn.
        self.writer.as_deref_mut().unwrap_or_else(|| unreachable!("a turn without its writer"))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(mut writer) = self.writer.take() else { return };
        if thread::panicking() {
            return self.shared.abandon();
        }
        writer.leave();
        self.shared.pass_on(writer);
    }
}

// === impl Shared ===

impl Shared {
    fn wait(&self, state: &mut State, waiting: Waiting) -> Result<(), Refused> {
        if state.waiting.len() >= self.capacity {
            return Err(Refused::Full);
        }
        state.waiting.push_back(waiting);
        Ok(())
    }

    /// A turn has ended, and the next is another's.
    fn pass_on(self: &Arc<Self>, mut writer: Box<Writer>) {
        while !writer.is_due_to_copy() {
            let mut state = self.lock();
            match state.waiting.pop_front() {
                None => {
                    state.writer = Some(writer);
                    return;
                }
                Some(Waiting::Turn(handed)) => {
                    drop(state);
                    match self.hand_over(writer, handed) {
                        Some(returned) => writer = returned,
                        None => return,
                    }
                }
                Some(Waiting::Write(job)) if job.is_abandoned() => {}
                Some(write) => {
                    state.waiting.push_front(write);
                    break;
                }
            }
        }
        let service = Service { writer: Some(writer), shared: self.clone() };
        drop(self.runtime.spawn_blocking(move || service.run()));
    }

    /// Gives somebody the turn; `None` when he has it.
    fn hand_over(self: &Arc<Self>, writer: Box<Writer>, handed: oneshot::Sender<Turn>) -> Option<Box<Writer>> {
        let turn = Turn { writer: Some(writer), shared: self.clone() };
        // NB: a turn that comes back must not be dropped here: it would be passed on from within.
        handed.send(turn).err().and_then(|mut turn| turn.writer.take())
    }

    /// The next write, if that is what waits first.
    fn next_write(&self) -> Option<Box<dyn Job>> {
        let mut state = self.lock();
        while let Some(Waiting::Write(job)) = state.waiting.pop_front_if(|it| matches!(it, Waiting::Write(_))) {
            if !job.is_abandoned() {
                return Some(job);
            }
        }
        None
    }

    /// The writer is lost: nobody gets a turn any more.
    fn abandon(&self) {
        let mut state = self.lock();
        state.closed = true;
        let waiting = std::mem::take(&mut state.waiting);
        // NB: who waits is woken by this, and may ask at once.
        drop(state);
        drop(waiting);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under this lock, so a poisoned one is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Service ===

impl Service {
    /// Serves who waits, until nobody does or somebody has the turn.
    fn run(mut self) {
        while let Some(writer) = &mut self.writer {
            writer.copy_if_due();
            let done = match self.shared.next_write() {
                Some(first) => writer.group(first, || self.shared.next_write()),
                None => Vec::new(),
            };
            // NB: before the answers. Whoever gets one may ask again at once, and is to find the writer free.
            self.give();
            done.into_iter().for_each(|job| job.answer());
        }
    }

    /// Lets the writer go, unless there is a write to be done with it.
    fn give(&mut self) {
        let mut state = self.shared.lock();
        match state.waiting.pop_front() {
            None => state.writer = self.writer.take(),
            Some(Waiting::Turn(handed)) => {
                drop(state);
                self.writer = self.writer.take().and_then(|writer| self.shared.hand_over(writer, handed));
            }
            Some(write) => state.waiting.push_front(write),
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It panicked, or the runtime has ended and never ran it.
        if self.writer.is_some() {
            self.shared.abandon();
        }
    }
}
