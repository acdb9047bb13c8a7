//! What an edge does with its calls. Time stands still unless a test moves it.

mod attempts;
mod breaker;
mod budget;
mod bulkhead;
mod counts;
mod deadlines;
mod injection;
mod live_changes;
mod retries;
mod status;

use super::*;
use crate::policy::{
    BreakerParams, BreakerPolicy, BreakerState, BulkheadPolicy, PolicyParams, RetryParams, RetryPolicy,
};
use Repeat::{Always, IfNothingBegun, Never};
use std::future::pending;
use tokio::{
    task::{JoinHandle, yield_now},
    time::advance,
};

const SECOND: Duration = Duration::from_secs(1);
const OPEN: Duration = Duration::from_secs(60);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// An edge: one second, four attempts with pauses of 50, 100 and 200 ms, a breaker of three failures and one probe.
fn params() -> PolicyParams {
    PolicyParams {
        deadline: SECOND,
        retry: retry(4),
        breaker: Some(breaker(3, 1)),
        bulkhead: None,
        ..PolicyParams::default()
    }
}

fn of(params: PolicyParams) -> Policy {
    Policy::try_new(params).unwrap()
}

fn policy() -> Policy {
    of(params())
}

fn retry(attempts: u32) -> RetryPolicy {
    RetryPolicy::try_new(RetryParams { attempts, ..RetryParams::default() }).unwrap()
}

fn breaker(failures: u32, half_open: u32) -> BreakerPolicy {
    let params = BreakerParams { failures: Some(failures), open: OPEN, half_open, ..BreakerParams::default() };
    BreakerPolicy::try_new(params).unwrap()
}

fn without_retry(breaker: Option<BreakerPolicy>) -> Guard {
    guard(of(PolicyParams { retry: RetryPolicy::never(), breaker, ..params() }))
}

fn without_breaker(attempts: u32) -> Guard {
    guard(of(PolicyParams { retry: retry(attempts), breaker: None, ..params() }))
}

fn with_bulkhead(concurrent: u32, queue: u32) -> Arc<Guard> {
    let bulkhead = Some(BulkheadPolicy::try_new(concurrent, queue).unwrap());
    Arc::new(guard(of(PolicyParams { bulkhead, ..params() })))
}

/// A guard whose pauses are the longest that they may be.
fn guard(policy: Policy) -> Guard {
    Guard::new("order -> user", policy).with_jitter(Jitter::with(|ceiling| ceiling))
}

/// A caller's deadline. Leaked, so that a call can be made with it in one expression.
fn until_at(at: Instant) -> &'static Deadline {
    Box::leak(Box::new(Deadline { at, of: "gateway -> order".into() }))
}

fn within(limit: Duration) -> &'static Deadline {
    until_at(Instant::now() + limit)
}

/// A caller with all the time in the world.
fn patient() -> &'static Deadline {
    within(Duration::from_secs(3600))
}

fn fault(kind: FaultKind) -> Fault {
    Fault::new(kind, "the callee's words")
}

async fn succeed(guard: &Guard) {
    assert_eq!(guard.run(patient(), IfNothingBegun, |_| async { Ok(Answer::of(7)) }).await, Ok(7));
}

async fn fail(guard: &Guard, kind: FaultKind) -> Fault {
    guard.run(patient(), IfNothingBegun, |_| async move { Err::<Answer<()>, _>(fault(kind)) }).await.unwrap_err()
}

/// A call that isn't answered.
async fn hang(guard: &Guard, deadline: &Deadline) -> Fault {
    guard.run(deadline, IfNothingBegun, |_| pending::<Result<Answer<()>>>()).await.unwrap_err()
}

/// A call under way that isn't answered.
async fn begin(guard: &Arc<Guard>) -> JoinHandle<Fault> {
    let guard = Arc::clone(guard);
    let task = tokio::spawn(async move { hang(&guard, patient()).await });
    yield_now().await;
    task
}

/// Runs a call whose attempts end as told; the last of them again and again. Gives the times of the attempts too.
async fn run(
    guard: &Guard,
    deadline: &Deadline,
    repeat: Repeat,
    ends: &[std::result::Result<u32, FaultKind>],
) -> (Result<u32>, Vec<Duration>) {
    let (began, mut attempts) = (Instant::now(), Vec::new());
    let result = guard
        .run(deadline, repeat, |attempt| {
            attempts.push(began.elapsed());
            assert_eq!(attempt.number as usize, attempts.len());
            let end = *ends.get(attempts.len() - 1).or(ends.last()).unwrap();
            async move { end.map(Answer::of).map_err(fault) }
        })
        .await;
    (result, attempts)
}

/// Runs a call whose attempts are answered with these statuses.
async fn answered(guard: &Guard, repeat: Repeat, statuses: &[(u16, Option<Duration>)]) -> (Result<u16>, u32) {
    let mut attempts = 0;
    let result = guard.run(patient(), repeat, |_| {
        let (status, retry_after) = statuses[attempts.min(statuses.len() - 1)];
        attempts += 1;
        async move { Ok(Answer { value: status, status: Some(status), retry_after }) }
    });
    (result.await, attempts as u32)
}

fn state(guard: &Guard) -> BreakerState {
    guard.snapshot().breaker.unwrap().state
}

async fn trip(guard: &Guard) {
    while state(guard) != BreakerState::Open {
        fail(guard, FaultKind::Trapped).await;
    }
}
