//! The clock behind epoch interruption.
//!
//! It runs on an OS thread of its own, so that it ticks also while every async thread is held by a busy guest, which is
//! just when it is needed. While no guest is entered it sleeps: an idle host wakes up for nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, Thread},
    time::Duration,
};

/// How long a guest computes before it is asked to let others run.
pub const TICK: Duration = Duration::from_millis(2);

/// After how many ticks without a guest being entered the clock goes to sleep.
const IDLE_TICKS: u32 = 500;

/// Ticks while guests are entered.
pub struct EpochClock {
    shared: Arc<Shared>,
    ticker: Option<JoinHandle<()>>,
    thread: Thread,
}

struct Shared {
    /// A guest was entered since the last tick.
    entered: AtomicBool,
    asleep: AtomicBool,
    stop: AtomicBool,
}

// === impl EpochClock ===

impl EpochClock {
    /// Starts the clock of `engine`. It holds the engine weakly: the clock does not keep it alive.
    pub(super) fn start(engine: &wasmtime::Engine) -> Self {
        let shared = Arc::new(Shared {
            entered: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let engine = engine.weak();
        let seen = shared.clone();
        let ticker = thread::Builder::new()
            .name("epoch".into())
            .stack_size(64 << 10)
            .spawn(move || tick(&seen, &engine))
            .expect("the operating system gives one more thread at the start");
        Self { thread: ticker.thread().clone(), ticker: Some(ticker), shared }
    }

    /// To be called whenever a guest is about to be entered: wakes the clock where it sleeps.
    ///
    /// NB: `entered` is stored before `asleep` is read, and the ticker does it the other way round, both sequentially
    /// consistent: either the ticker sees that a guest was entered, or this sees that the ticker sleeps.
    #[inline]
    pub fn guest_entered(&self) {
        if !self.shared.entered.load(Ordering::Relaxed) {
            self.shared.entered.store(true, Ordering::SeqCst);
            if self.shared.asleep.load(Ordering::SeqCst) {
                self.thread.unpark();
            }
        }
    }
}

impl Drop for EpochClock {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.thread.unpark();
        if let Some(ticker) = self.ticker.take() {
            // The ticker can't panic; and if it did, there is nothing left to do about it here.
            let _ = ticker.join();
        }
    }
}

fn tick(shared: &Shared, engine: &wasmtime::EngineWeak) {
    let mut idle = 0;
    while !shared.stop.load(Ordering::SeqCst) {
        if idle < IDLE_TICKS {
            thread::park_timeout(TICK);
        } else {
            shared.asleep.store(true, Ordering::SeqCst);
            if !shared.entered.load(Ordering::SeqCst) && !shared.stop.load(Ordering::SeqCst) {
                thread::park();
            }
            shared.asleep.store(false, Ordering::SeqCst);
        }
        idle = if shared.entered.swap(false, Ordering::SeqCst) { 0 } else { idle.saturating_add(1) };
        match engine.upgrade() {
            Some(engine) => engine.increment_epoch(),
            None => return,
        }
    }
}
