//! Watching connections for clients that take without giving.
//!
//! Timers of its own for each connection, armed and disarmed by every request, are the dearest part of a small request.
//! Here a connection only counts: a handful of relaxed atomics that nearly always stay in the cache of the thread that
//! runs it. One sweep over all connections, a few times in the shortest timeout, looks at the counts and decides. A
//! client is cut off at the earliest after the timeout, at the latest a quarter later.

use super::GatewayConfig;
use futures::task::AtomicWaker;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::*},
    },
    task::Context,
};
use tokio::time::{Duration, Instant};

/// What a connection counts, and where it is told to end.
///
/// The counts are relaxed: each stands for itself, and the sweep acts only on what has not changed for a long time.
#[derive(Debug)]
pub(super) struct Activity {
    /// Requests whose answer has not ended.
    open: AtomicU32,
    /// Those of them that wait for the house, not for the client.
    working: AtomicU32,
    /// Goes up whenever a request begins or ends, or bytes are written.
    events: AtomicU32,
    /// Bytes have come that belong to no request yet.
    head: AtomicBool,
    /// The last write found the client's window closed.
    blocked: AtomicBool,
    /// HTTP/2, where bytes between requests say nothing of a request's head.
    multiplexed: AtomicBool,
    command: AtomicU8,
    waker: AtomicWaker,
}

/// What a connection is told, in the order of urgency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Command {
    Run,
    /// Take no new requests; end when those in flight have ended.
    Drain,
    /// End now.
    Cut,
}

/// What a connection is doing, as far as time limits go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The house has the word; the call's deadline limits it.
    Working,
    /// An answer waits to be read by the client.
    Sending,
    /// A request's head is coming in.
    Head,
    /// Nothing is going on.
    Idle,
}

/// All connections of a gateway.
#[derive(Debug, Default)]
pub(super) struct Registry {
    connections: Mutex<HashMap<u64, Watched>>,
    next: AtomicU64,
}

#[derive(Debug)]
struct Watched {
    activity: Arc<Activity>,
    phase: Phase,
    events: u32,
    since: Instant,
}

/// A connection's place in the registry, given back when dropped.
pub(super) struct Membership {
    registry: Arc<Registry>,
    id: u64,
}

// === impl Activity ===

impl Activity {
    fn new() -> Self {
        Self {
            open: AtomicU32::new(0),
            working: AtomicU32::new(0),
            events: AtomicU32::new(0),
            // A new connection owes its first request.
            head: AtomicBool::new(true),
            blocked: AtomicBool::new(false),
            multiplexed: AtomicBool::new(false),
            command: AtomicU8::new(Command::Run as u8),
            waker: AtomicWaker::new(),
        }
    }

    /// A request's head is complete. The request waits for the house.
    pub(super) fn begin(&self, multiplexed: bool) {
        self.open.fetch_add(1, Relaxed);
        self.working.fetch_add(1, Relaxed);
        self.events.fetch_add(1, Relaxed);
        self.head.store(false, Relaxed);
        if multiplexed {
            self.multiplexed.store(true, Relaxed);
        }
    }

    /// A request's answer has ended, or was given up.
    pub(super) fn end(&self) {
        self.open.fetch_sub(1, Relaxed);
        self.events.fetch_add(1, Relaxed);
        self.head.store(false, Relaxed);
    }

    /// A request begins to wait for the house.
    pub(super) fn wait(&self) {
        self.working.fetch_add(1, Relaxed);
    }

    /// A request waits for the house no longer.
    pub(super) fn proceed(&self) {
        self.working.fetch_sub(1, Relaxed);
        self.events.fetch_add(1, Relaxed);
    }

    pub(super) fn bytes_read(&self) {
        self.head.store(true, Relaxed);
    }

    pub(super) fn bytes_written(&self) {
        self.events.fetch_add(1, Relaxed);
        self.blocked.store(false, Relaxed);
    }

    pub(super) fn write_blocked(&self) {
        self.blocked.store(true, Relaxed);
    }

    /// How many requests would be lost if the connection ended now.
    pub(super) fn in_flight(&self) -> u32 {
        // An answer that hyper has taken but the socket has not is in flight too.
        self.open.load(Relaxed).max(u32::from(self.blocked.load(Relaxed)))
    }

    /// What the connection is told; it is woken when that changes.
    pub(super) fn command(&self, cx: &Context<'_>) -> Command {
        // Register first: a command given in between would otherwise wake nobody.
        self.waker.register(cx.waker());
        match self.command.load(Acquire) {
            0 => Command::Run,
            1 => Command::Drain,
            _ => Command::Cut,
        }
    }

    fn tell(&self, command: Command) {
        if self.command.fetch_max(command as u8, AcqRel) < command as u8 {
            self.waker.wake();
        }
    }

    fn phase(&self) -> Phase {
        let blocked = self.blocked.load(Relaxed);
        let open = self.open.load(Relaxed) > 0;
        if open && !blocked && self.working.load(Relaxed) > 0 {
            Phase::Working
        } else if open || blocked {
            Phase::Sending
        } else if self.head.load(Relaxed) && !self.multiplexed.load(Relaxed) {
            Phase::Head
        } else {
            Phase::Idle
        }
    }
}

// === impl Registry ===

impl Registry {
    /// Takes in a connection.
    pub(super) fn join(self: &Arc<Self>) -> (Arc<Activity>, Membership) {
        let activity = Arc::new(Activity::new());
        let id = self.next.fetch_add(1, Relaxed);
        let watched = Watched { activity: activity.clone(), phase: Phase::Head, events: 0, since: Instant::now() };
        self.lock().insert(id, watched);
        (activity, Membership { registry: self.clone(), id })
    }

    /// Tells every connection.
    pub(super) fn tell_all(&self, command: Command) {
        for watched in self.lock().values() {
            watched.activity.tell(command);
        }
    }

    /// How many requests are in flight on all connections.
    pub(super) fn in_flight(&self) -> usize {
        self.lock().values().map(|watched| watched.activity.in_flight() as usize).sum()
    }

    /// Ends the connections whose client has had its time.
    pub(super) fn sweep(&self, config: &GatewayConfig) {
        let now = Instant::now();
        for watched in self.lock().values_mut() {
            watched.look(now, config);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Watched>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often to sweep: often enough that a timeout is kept within a quarter.
pub(super) fn sweep_interval(config: &GatewayConfig) -> Duration {
    let shortest = config.header_timeout.min(config.body_timeout).min(config.idle_timeout);
    (shortest / 4).clamp(Duration::from_millis(5), Duration::from_secs(5))
}

// === impl Watched ===

impl Watched {
    fn look(&mut self, now: Instant, config: &GatewayConfig) {
        let phase = self.activity.phase();
        let events = self.activity.events.load(Relaxed);
        if (phase, events) != (self.phase, self.events) {
            (self.phase, self.events, self.since) = (phase, events, now);
            return;
        }
        let quiet = now - self.since;
        match phase {
            Phase::Working => {}
            Phase::Sending if quiet >= config.body_timeout => self.activity.tell(Command::Cut),
            Phase::Head if quiet >= config.header_timeout => self.activity.tell(Command::Cut),
            // Whoever does not even take the goodbye is cut off.
            Phase::Idle if quiet >= config.idle_timeout * 2 => self.activity.tell(Command::Cut),
            Phase::Idle if quiet >= config.idle_timeout => self.activity.tell(Command::Drain),
            Phase::Sending | Phase::Head | Phase::Idle => {}
        }
    }
}

// === impl Membership ===

impl Drop for Membership {
    fn drop(&mut self) {
        self.registry.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;
    use tokio::time::advance;

    struct Bench {
        registry: Arc<Registry>,
        activity: Arc<Activity>,
        _membership: Membership,
        config: GatewayConfig,
    }

    impl Bench {
        fn new() -> Self {
            let registry = Arc::new(Registry::default());
            let (activity, _membership) = registry.join();
            Self { registry, activity, _membership, config: GatewayConfig::default() }
        }

        /// Lets `time` pass, with the sweeps that fall into it.
        async fn pass(&self, time: Duration) {
            let until = Instant::now() + time;
            let step = sweep_interval(&self.config);
            while Instant::now() < until {
                advance(step.min(until - Instant::now())).await;
                self.registry.sweep(&self.config);
            }
        }

        fn command(&self) -> Command {
            self.activity.command(&Context::from_waker(Waker::noop()))
        }
    }

    const MARGIN: f32 = 1.6;

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_request_is_cut_after_the_header_timeout() {
        let bench = Bench::new();
        bench.pass(bench.config.header_timeout - Duration::from_millis(1)).await;
        assert_eq!(bench.command(), Command::Run);
        bench.pass(bench.config.header_timeout).await;
        assert_eq!(bench.command(), Command::Cut);
    }

    #[tokio::test(start_paused = true)]
    async fn drops_of_a_head_buy_no_time() {
        let bench = Bench::new();
        let until = Instant::now() + bench.config.header_timeout.mul_f32(MARGIN);
        while Instant::now() < until {
            bench.activity.bytes_read();
            bench.pass(Duration::from_millis(500)).await;
        }
        assert_eq!(bench.command(), Command::Cut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_takes_long_is_left_alone() {
        let bench = Bench::new();
        bench.activity.begin(false);
        bench.pass(Duration::from_secs(3600)).await;
        assert_eq!(bench.command(), Command::Run);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_drained_and_a_request_makes_it_young_again() {
        let bench = Bench::new();
        for _ in 0..3 {
            bench.activity.bytes_read();
            bench.activity.begin(false);
            bench.activity.proceed();
            bench.activity.end();
            bench.pass(bench.config.idle_timeout - Duration::from_secs(1)).await;
            assert_eq!(bench.command(), Command::Run);
        }
        bench.pass(bench.config.idle_timeout.mul_f32(MARGIN - 1.0)).await;
        assert_eq!(bench.command(), Command::Drain);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_his_answer_is_cut_and_who_reads_slowly_is_not() {
        let bench = Bench::new();
        bench.activity.begin(false);
        bench.activity.proceed();
        for _ in 0..10 {
            bench.activity.bytes_written();
            bench.activity.write_blocked();
            bench.pass(bench.config.body_timeout - Duration::from_secs(1)).await;
            assert_eq!(bench.command(), Command::Run);
        }
        bench.pass(bench.config.body_timeout).await;
        assert_eq!(bench.command(), Command::Cut);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_hyper_holds_but_the_client_does_not_take_counts_as_sending() {
        let bench = Bench::new();
        bench.activity.begin(false);
        bench.activity.proceed();
        bench.activity.end();
        bench.activity.write_blocked();
        bench.pass(bench.config.body_timeout.mul_f32(MARGIN)).await;
        assert_eq!(bench.command(), Command::Cut);
        assert_eq!(bench.registry.in_flight(), 1);
    }
}
