//! What the log says of a circuit breaker. In a binary of its own: `tracing` settles once for a process whether a place
//! in the code is listened to, and among other tests it would be settled by one that does not listen.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::{Instant, advance};
use wharf::policy::{
    Answer, BreakerParams, BreakerPolicy, Deadline, Fault, FaultKind, Guard, Policy, PolicyParams, Repeat, RetryPolicy,
};

const OPEN: Duration = Duration::from_secs(60);

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A call that ends like this.
async fn call(guard: &Guard, end: Result<(), FaultKind>) {
    let deadline = Deadline { at: Instant::now() + Duration::from_secs(3600), of: "test".into() };
    let attempt = |_| async move { end.map(Answer::of).map_err(|kind| Fault::new(kind, "the callee's words")) };
    // What the caller gets is told elsewhere.
    let _ = guard.run(&deadline, Repeat::Never, attempt).await;
}

#[tokio::test(start_paused = true)]
async fn each_transition_is_logged_once() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).without_time().with_target(false);
    subscriber.with_writer(move || writer.clone()).init();

    let breaker = BreakerParams { failures: Some(2), open: OPEN, half_open: 2, ..BreakerParams::default() };
    let breaker = Some(BreakerPolicy::try_new(breaker).unwrap());
    let params = PolicyParams { retry: RetryPolicy::never(), breaker, ..PolicyParams::default() };
    let guard = Guard::new("order -> user", Policy::try_new(params).unwrap());
    for _ in 0..10 {
        call(&guard, Err(FaultKind::Unreachable)).await;
    }
    advance(OPEN).await;
    call(&guard, Err(FaultKind::Trapped)).await;
    advance(OPEN).await;
    for _ in 0..10 {
        call(&guard, Ok(())).await;
    }

    let expected = [
        "WARN circuit breaker opened edge=\"order -> user\" reason=2 failures in a row, the last: unreachable open_for=60s",
        "INFO circuit breaker half-open edge=\"order -> user\" reason=2 failures in a row, the last: unreachable probes=2",
        "WARN circuit breaker opened edge=\"order -> user\" reason=1 of 2 probes failed, the last: trapped open_for=60s",
        "INFO circuit breaker half-open edge=\"order -> user\" reason=1 of 2 probes failed, the last: trapped probes=2",
        "INFO circuit breaker closed edge=\"order -> user\" reason=1 of 2 probes failed, the last: trapped",
    ];
    let written = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert_eq!(written.lines().map(str::trim).collect::<Vec<_>>(), expected);
}
