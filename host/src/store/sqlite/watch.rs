//! How long a statement may run.
//!
//! SQLite asks a progress handler every [`STRIDE`] instructions of its virtual machine whether to go on. The answer
//! depends on a count of instructions, which is the same on every machine and every run, and on the clock, for what
//! instructions don't measure: a slow disk, a costly function.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};
use tokio::time::{Duration, Instant};

/// Instructions of SQLite's virtual machine between two looks: some ten microseconds.
pub(super) const STRIDE: i32 = 500;

/// The watch over one connection.
///
/// Its atomics are only there because SQLite's hook must be `Send`: hook and session are never on two threads at
/// once, so every access is relaxed.
#[derive(Clone)]
pub(super) struct Watch(Arc<State>);

struct State {
    began: Instant,
    /// Microseconds after `began`.
    until: AtomicU64,
    strides: AtomicU32,
    allowed: AtomicU32,
    stopped: AtomicBool,
}

// === impl Watch ===

impl Watch {
    pub(super) fn new() -> Self {
        Self(Arc::new(State {
            began: Instant::now(),
            until: AtomicU64::new(u64::MAX),
            strides: AtomicU32::new(0),
            allowed: AtomicU32::new(u32::MAX),
            stopped: AtomicBool::new(false),
        }))
    }

    /// Begins to watch a statement that may take `limit`, and that many strides.
    pub(super) fn start(&self, limit: Duration, strides: u32) {
        let until = (self.0.began.elapsed() + limit).as_micros();
        self.0.until.store(u64::try_from(until).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.0.strides.store(0, Ordering::Relaxed);
        self.0.allowed.store(strides, Ordering::Relaxed);
        self.0.stopped.store(false, Ordering::Relaxed);
    }

    /// Takes every limit away; for the host's own statements.
    pub(super) fn pause(&self) {
        self.0.until.store(u64::MAX, Ordering::Relaxed);
        self.0.allowed.store(u32::MAX, Ordering::Relaxed);
    }

    /// How many strides the statement has made since [`start`](Self::start).
    pub(super) fn strides(&self) -> u32 {
        self.0.strides.load(Ordering::Relaxed)
    }

    /// Whether the statement was stopped.
    pub(super) fn stopped(&self) -> bool {
        self.0.stopped.load(Ordering::Relaxed)
    }

    /// What SQLite asks: whether to stop.
    pub(super) fn look(&self) -> bool {
        let state = &*self.0;
        let strides = state.strides.load(Ordering::Relaxed).saturating_add(1);
        state.strides.store(strides, Ordering::Relaxed);
        let stop = strides > state.allowed.load(Ordering::Relaxed)
            || state.began.elapsed().as_micros() > u128::from(state.until.load(Ordering::Relaxed));
        if stop {
            state.stopped.store(true, Ordering::Relaxed);
        }
        stop
    }
}
