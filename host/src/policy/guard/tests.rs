use super::*;
use crate::policy::{
    BreakerParams, BreakerPolicy, BreakerState, BudgetPolicy, BulkheadPolicy, Failure, FailureParams, FailurePolicy,
    PolicyParams, RetryParams, RetryPolicy, StatusSet,
};
use proptest::prelude::*;
use std::{
    future::{pending, poll_fn},
    io,
    sync::{Mutex, atomic::AtomicU32, atomic::Ordering::Relaxed},
    task::Poll,
    time::Duration,
};
use tokio::{
    task::{JoinHandle, yield_now},
    time::{advance, sleep},
};

const SECOND: Duration = Duration::from_secs(1);
use Repeat::{Always, IfNothingBegun, Never};

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

fn state(guard: &Guard) -> BreakerState {
    guard.snapshot().breaker.unwrap().state
}

async fn trip(guard: &Guard) {
    while state(guard) != BreakerState::Open {
        fail(guard, FaultKind::Trapped).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_passes_through() {
    let guard = guard(policy());
    succeed(&guard).await;
    let snapshot = guard.snapshot();
    assert_eq!((snapshot.calls, snapshot.in_flight, snapshot.retries, snapshot.rejected), (1, 0, 0, 0));
    assert!(snapshot.faults.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_domain_error_is_an_answer_it_is_not_retried_and_never_trips() {
    let guard = guard(policy());
    let attempts = AtomicU32::new(0);
    for _ in 0..100 {
        let answer = guard.run(patient(), Always, |_| async {
            attempts.fetch_add(1, Relaxed);
            Ok(Answer::of(Err::<(), _>("user not found")))
        });
        assert_eq!(answer.await, Ok(Err("user not found")));
    }
    assert_eq!(attempts.into_inner(), 100);
    assert_eq!(state(&guard), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn faults_of_the_callers_own_side_never_trip() {
    for kind in [FaultKind::CircuitOpen, FaultKind::Denied, FaultKind::Cancelled] {
        let guard = without_retry(Some(breaker(1, 1)));
        for _ in 0..10 {
            assert_eq!(fail(&guard, kind).await.kind(), kind);
        }
        assert_eq!(state(&guard), BreakerState::Closed, "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn nor_do_they_end_a_row_of_failures() {
    let guard = without_retry(Some(breaker(3, 1)));
    for kind in [FaultKind::Trapped, FaultKind::Trapped, FaultKind::Denied, FaultKind::Cancelled] {
        fail(&guard, kind).await;
    }
    assert_eq!(guard.snapshot().breaker.unwrap().consecutive_failures, 2);
    fail(&guard, FaultKind::Trapped).await;
    assert_eq!(state(&guard), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_found_nobody_to_ask_is_neither_failure_nor_success_and_not_retried() {
    let guard = guard(of(PolicyParams { breaker: Some(breaker(3, 1)), ..params() }));
    let nowhere = async || {
        let mut attempts = 0;
        let result = guard.run(patient(), Always, |_| {
            attempts += 1;
            async { Err::<Answer<()>, _>(Fault::nowhere("all are out")) }
        });
        assert_eq!((result.await, attempts), (Err(Fault::nowhere("all are out")), 1));
    };
    let trap = async || run(&guard, patient(), IfNothingBegun, &[Err(FaultKind::Trapped)]).await;
    trap().await;
    trap().await;
    for _ in 0..10 {
        nowhere().await;
    }
    let breaker = guard.snapshot().breaker.unwrap();
    assert_eq!((breaker.state, breaker.consecutive_failures), (BreakerState::Closed, 2), "as before");
    trap().await;
    advance(OPEN).await;
    nowhere().await;
    assert_eq!(state(&guard), BreakerState::HalfOpen, "a probe that went nowhere decides nothing");
    succeed(&guard).await;
    assert_eq!(state(&guard), BreakerState::Closed);
    assert_eq!(guard.snapshot().faults["unreachable"], 11);
}

// --- retry

#[tokio::test(start_paused = true)]
async fn a_safe_fault_is_retried_with_doubling_pauses_until_an_answer() {
    let guard = without_breaker(10);
    let ends = [Err(FaultKind::Unreachable), Err(FaultKind::Overloaded), Err(FaultKind::Unreachable), Ok(7)];
    let (result, attempts) = run(&guard, patient(), IfNothingBegun, &ends).await;
    assert_eq!(result, Ok(7));
    assert_eq!(attempts, [ms(0), ms(50), ms(150), ms(350)]);
    assert_eq!(guard.snapshot().retries, 3);
    assert!(guard.snapshot().faults.is_empty(), "the caller saw none");
}

#[tokio::test(start_paused = true)]
async fn attempts_end_at_the_number_of_the_policy() {
    let (result, attempts) = run(&without_breaker(3), patient(), IfNothingBegun, &[Err(FaultKind::Unreachable)]).await;
    assert_eq!(result, Err(fault(FaultKind::Unreachable)));
    assert_eq!(attempts.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_may_have_had_its_effect_is_retried_only_if_idempotent() {
    for kind in [FaultKind::Trapped, FaultKind::DeadlineExceeded] {
        let guard = without_breaker(3);
        let (result, attempts) = run(&guard, patient(), IfNothingBegun, &[Err(kind), Ok(7)]).await;
        assert_eq!((result, attempts.len()), (Err(fault(kind)), 1));
        let (result, attempts) = run(&guard, patient(), Always, &[Err(kind), Ok(7)]).await;
        assert_eq!((result, attempts.len()), (Ok(7), 2));
    }
}

#[tokio::test(start_paused = true)]
async fn what_another_try_cannot_mend_is_not_retried() {
    for kind in [FaultKind::CircuitOpen, FaultKind::Denied, FaultKind::Cancelled] {
        let (result, attempts) = run(&without_breaker(3), patient(), Always, &[Err(kind)]).await;
        assert_eq!((result, attempts.len()), (Err(fault(kind)), 1));
    }
}

#[tokio::test(start_paused = true)]
async fn what_can_be_made_just_once_is_not_retried_whatever_it_ends_with() {
    for kind in FaultKind::ALL {
        let mut attempts = 0;
        let guard = without_breaker(3);
        let result = guard.run(patient(), Never, |_| {
            attempts += 1;
            async move { Err::<Answer<()>, _>(fault(kind)) }
        });
        assert_eq!((result.await, attempts), (Err(fault(kind)), 1));
    }
}

#[tokio::test(start_paused = true)]
async fn the_callee_says_when_to_come_again() {
    let guard = without_breaker(2);
    let began = Instant::now();
    let busy = || fault(FaultKind::Overloaded).with_retry_after(ms(300));
    let result = guard.run(patient(), IfNothingBegun, |_| async { Err::<Answer<()>, _>(busy()) }).await;
    assert_eq!(began.elapsed(), ms(350));
    assert_eq!(result, Err(busy()));
    // Later than the deadline allows: no use in waiting.
    let began = Instant::now();
    guard.run(within(ms(349)), IfNothingBegun, |_| async { Err::<Answer<()>, _>(busy()) }).await.unwrap_err();
    assert_eq!(began.elapsed(), ms(0));
}

#[tokio::test(start_paused = true)]
async fn no_fault_claims_that_nothing_was_begun_when_an_earlier_attempt_was() {
    let guard = without_breaker(3);
    let ends = [Err(FaultKind::Trapped), Err(FaultKind::Unreachable)];
    let (result, attempts) = run(&guard, patient(), Always, &ends).await;
    assert_eq!((result, attempts.len()), (Err(fault(FaultKind::Trapped)), 3));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_what_the_breaker_will_refuse() {
    let guard = guard(policy());
    let began = Instant::now();
    let (result, attempts) = run(&guard, patient(), IfNothingBegun, &[Err(FaultKind::Unreachable)]).await;
    assert_eq!(began.elapsed(), ms(150));
    assert_eq!(result, Err(fault(FaultKind::Unreachable)), "the fault that tripped it, not its consequence");
    assert_eq!(attempts, [ms(0), ms(50), ms(150)], "the third tripped it; a fourth was allowed");
    assert_eq!(state(&guard), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_breaker_opened_by_others_during_the_pause_ends_the_call_with_its_own_fault() {
    let guard = guard(policy());
    let calls = async {
        let (result, attempts) = run(&guard, patient(), IfNothingBegun, &[Err(FaultKind::Unreachable)]).await;
        assert_eq!((result, attempts.len()), (Err(fault(FaultKind::Unreachable)), 1));
    };
    let others = async {
        sleep(ms(20)).await;
        trip(&guard).await;
    };
    tokio::join!(calls, others);
    assert_eq!(guard.snapshot().rejected, 0, "it was attempted");
}

// --- deadline

#[tokio::test(start_paused = true)]
async fn an_attempt_is_dropped_at_the_deadline_and_the_fault_says_whose() {
    let guard = without_retry(None);
    let began = Instant::now();
    let late = hang(&guard, patient()).await;
    assert_eq!(began.elapsed(), SECOND);
    assert_eq!(late.to_string(), "deadline-exceeded: order -> user: no answer within 1s, the deadline of the edge");

    let began = Instant::now();
    let late = hang(&guard, within(ms(40))).await;
    assert_eq!(began.elapsed(), ms(40));
    assert_eq!(
        late.to_string(),
        "deadline-exceeded: order -> user: no answer within 40ms, what was left of the deadline of `gateway -> order`"
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_comes_too_late_is_not_begun() {
    let guard = guard(policy());
    let (result, attempts) = run(&guard, within(ms(0)), Always, &[Ok(7)]).await;
    let expected =
        "deadline-exceeded: order -> user: the deadline of `gateway -> order` had passed before the call came";
    assert_eq!((result.unwrap_err().to_string().as_str(), attempts.len()), (expected, 0));
    assert_eq!(guard.snapshot().rejected, 1);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_knows_the_deadline_of_the_call() {
    let guard = without_breaker(2);
    let deadline = Deadline { at: Instant::now() + SECOND, of: "order -> user".into() };
    let seen = Mutex::new(Vec::new());
    let call = guard.run(patient(), IfNothingBegun, |attempt| {
        seen.lock().unwrap().push(attempt);
        async { Err::<Answer<()>, _>(fault(FaultKind::Unreachable)) }
    });
    call.await.unwrap_err();
    assert_eq!(seen.into_inner().unwrap(), [1, 2].map(|number| Attempt { number, deadline: deadline.clone() }));
}

#[tokio::test(start_paused = true)]
async fn callers_in_haste_do_not_trip_the_breaker() {
    let guard = without_retry(Some(breaker(1, 1)));
    for _ in 0..10 {
        hang(&guard, within(ms(499))).await;
    }
    assert_eq!(state(&guard), BreakerState::Closed);
    assert_eq!(guard.snapshot().faults["deadline-exceeded"], 10);
}

#[tokio::test(start_paused = true)]
async fn a_hanging_callee_is_found_out_though_the_callers_deadline_is_a_little_nearer() {
    let guard = without_retry(Some(breaker(3, 1)));
    for _ in 0..3 {
        hang(&guard, within(ms(990))).await;
    }
    assert_eq!(state(&guard), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_late_retry_that_runs_out_of_time_says_nothing_of_the_callee() {
    let guard = guard(policy());
    let call = guard.run(patient(), Always, |attempt| async move {
        if attempt.number == 1 {
            sleep(ms(600)).await;
            return Err::<Answer<()>, _>(fault(FaultKind::Trapped));
        }
        pending().await
    });
    assert_eq!(call.await.unwrap_err().kind(), FaultKind::DeadlineExceeded);
    let snapshot = guard.snapshot();
    assert_eq!((snapshot.retries, snapshot.breaker.unwrap().consecutive_failures), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_hasty_probe_decides_nothing() {
    let guard = without_retry(Some(breaker(1, 1)));
    trip(&guard).await;
    advance(OPEN).await;
    hang(&guard, within(ms(10))).await;
    assert_eq!(state(&guard), BreakerState::HalfOpen);
    succeed(&guard).await;
    assert_eq!(state(&guard), BreakerState::Closed);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever the callee does: no attempt begins at or after the deadline, and the call ends by it, to the
    /// millisecond that tokio's timers tell apart.
    #[test]
    fn nothing_happens_past_the_deadline(
        callers in 0..1_500_000_u64,
        attempts in 1..=10_u32,
        took in proptest::collection::vec((0..400_000_u64, proptest::option::of(0..300_000_u64)), 10),
        seed in any::<u64>(),
    ) {
        let micros = Duration::from_micros;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            fastrand::seed(seed);
            let guard = without_breaker(attempts).with_jitter(Jitter::FULL);
            let began = Instant::now();
            let deadline = began + micros(callers).min(SECOND);
            let call = guard.run(until_at(began + micros(callers)), Always, |attempt| {
                assert!(Instant::now() < deadline);
                assert_eq!(attempt.deadline.at, deadline);
                let (took, retry_after) = took[attempt.number as usize - 1];
                async move {
                    sleep(micros(took)).await;
                    let fault = fault(FaultKind::Trapped);
                    Err::<Answer<()>, _>(match retry_after {
                        Some(after) => fault.with_retry_after(micros(after)),
                        None => fault,
                    })
                }
            });
            assert!(call.await.is_err());
            assert!(Instant::now() <= deadline + ms(1));
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_the_timer_stretches_past_the_deadline_ends_the_call() {
    let guard = without_breaker(2);
    // The timer's next tick after 50.1 ms is at 51.
    advance(Duration::from_micros(100)).await;
    let deadline = within(Duration::from_micros(50_500));
    let (result, attempts) = run(&guard, deadline, IfNothingBegun, &[Err(FaultKind::Unreachable), Ok(7)]).await;
    assert_eq!((result, attempts.len()), (Err(fault(FaultKind::Unreachable)), 1));
}

#[tokio::test(start_paused = true)]
async fn nothing_of_an_attempt_outlives_it() {
    let guard = without_breaker(3);
    let held = Arc::new(());
    let call = guard.run(patient(), IfNothingBegun, |_| {
        assert_eq!(Arc::strong_count(&held), 1, "the attempt before is gone");
        let held = Arc::clone(&held);
        // Unlike an async block, it holds what it has until it is dropped.
        poll_fn(move |_| {
            let _held = &held;
            Poll::Ready(Err::<Answer<()>, _>(fault(FaultKind::Unreachable)))
        })
    });
    let watch = async {
        sleep(ms(25)).await;
        assert_eq!(Arc::strong_count(&held), 1, "gone before the pause, not after it");
    };
    tokio::join!(async { call.await.unwrap_err() }, watch);
}

#[tokio::test(start_paused = true)]
async fn a_call_keeps_its_attempt_only_once() {
    let guard = guard(policy());
    let call = guard.run(patient(), IfNothingBegun, |_| async {
        let room = [0_u8; 4096];
        yield_now().await;
        Ok(Answer::of(std::hint::black_box(&room)[0]))
    });
    assert!(size_of_val(&call) < 2 * 4096, "{} bytes", size_of_val(&call));
}

// --- breaker

#[tokio::test(start_paused = true)]
async fn an_open_breaker_answers_at_once_and_says_when_to_come_again() {
    let guard = guard(policy());
    trip(&guard).await;
    advance(SECOND).await;
    let (result, attempts) = run(&guard, patient(), Always, &[Ok(7)]).await;
    let refused = result.unwrap_err();
    assert_eq!((refused.kind(), attempts.len()), (FaultKind::CircuitOpen, 0));
    assert_eq!(refused.retry_after(), Some(OPEN - SECOND));
    let expected = "order -> user: the circuit breaker is open (3 failures in a row, the last: trapped)";
    assert_eq!(refused.message(), expected);
    let last = Failure::Fault(FaultKind::Trapped);
    assert_eq!(refused.trip(), Some(crate::policy::TripReason::ConsecutiveFailures { failures: 3, last }));
    let snapshot = guard.snapshot();
    assert_eq!((snapshot.calls, snapshot.rejected, snapshot.faults["circuit-open"]), (4, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_half_open_breaker_lets_its_probes_through_and_no_more() {
    let guard = Arc::new(without_retry(Some(breaker(1, 2))));
    trip(&guard).await;
    advance(OPEN).await;
    let probes = [begin(&guard).await, begin(&guard).await];
    let refused = guard.run(patient(), Always, |_| async { Ok(Answer::of(7)) }).await.unwrap_err();
    assert_eq!(refused.kind(), FaultKind::CircuitOpen);
    assert_eq!(refused.retry_after(), Some(SECOND), "by then the probes have ended");
    // One is given up: its place is free, and it counts for nothing.
    probes[0].abort();
    yield_now().await;
    assert_eq!(guard.snapshot().breaker.unwrap().probes, 1);
    succeed(&guard).await;
    assert_eq!(state(&guard), BreakerState::HalfOpen);
    // The other runs into the deadline: one of two that failed is half of them.
    advance(SECOND).await;
    yield_now().await;
    assert_eq!(
        guard.snapshot().breaker.unwrap().last_trip.unwrap().to_string(),
        "1 of 2 probes failed, the last: deadline-exceeded"
    );
}

// --- bulkhead

#[tokio::test(start_paused = true)]
async fn a_full_bulkhead_refuses() {
    let guard = with_bulkhead(2, 1);
    let _calls = [begin(&guard).await, begin(&guard).await, begin(&guard).await];
    let snapshot = guard.snapshot();
    assert_eq!((snapshot.in_flight, snapshot.queued), (2, 1));
    let (result, attempts) = run(&guard, patient(), Always, &[Ok(7)]).await;
    let refused = result.unwrap_err();
    assert_eq!((refused.kind(), attempts.len()), (FaultKind::Overloaded, 0));
    let expected = "order -> user: the bulkhead is full (2 calls may be under way and 1 wait, and as many do)";
    assert_eq!(refused.message(), expected);
    assert_eq!(guard.snapshot().breaker.unwrap().consecutive_failures, 0, "it says nothing of the callee");
}

#[tokio::test(start_paused = true)]
async fn a_call_may_wait_until_its_deadline() {
    let guard = with_bulkhead(1, 1);
    let _first = begin(&guard).await;
    let began = Instant::now();
    let late = hang(&guard, within(ms(100))).await;
    assert_eq!((late.kind(), began.elapsed()), (FaultKind::DeadlineExceeded, ms(100)));
    let snapshot = guard.snapshot();
    assert_eq!((snapshot.in_flight, snapshot.queued, snapshot.rejected), (1, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_place_that_comes_with_the_deadline_comes_too_late() {
    let guard = with_bulkhead(1, 1);
    let deadline = within(ms(100));
    let calls = async { hang(&guard, deadline).await };
    let waits = async { run(&guard, deadline, IfNothingBegun, &[Ok(7)]).await };
    // In this order, so that the place is free when the other is woken by its deadline.
    let (_, (result, attempts)) = tokio::join!(biased; calls, waits);
    assert_eq!((result.unwrap_err().kind(), attempts.len()), (FaultKind::DeadlineExceeded, 0));
    assert_eq!(guard.snapshot().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_given_up_makes_room() {
    let guard = with_bulkhead(1, 1);
    let (first, second) = (begin(&guard).await, begin(&guard).await);
    first.abort();
    yield_now().await;
    let snapshot = guard.snapshot();
    assert_eq!((snapshot.in_flight, snapshot.queued), (1, 0));
    second.abort();
    yield_now().await;
    succeed(&guard).await;
    let snapshot = guard.snapshot();
    assert_eq!((snapshot.in_flight, snapshot.calls, snapshot.faults["cancelled"]), (0, 3, 2));
    assert_eq!(snapshot.breaker.unwrap().consecutive_failures, 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_keeps_its_place_while_it_pauses() {
    let guard = with_bulkhead(1, 0);
    let calls = run(&guard, patient(), IfNothingBegun, &[Err(FaultKind::Unreachable), Ok(7)]);
    let others = async {
        sleep(ms(25)).await;
        run(&guard, patient(), IfNothingBegun, &[Ok(7)]).await.0.unwrap_err().kind()
    };
    let ((result, _), other) = tokio::join!(calls, others);
    assert_eq!((result, other), (Ok(7), FaultKind::Overloaded));
}

#[tokio::test(start_paused = true)]
async fn nobody_queues_before_an_open_breaker() {
    let guard = with_bulkhead(3, 10);
    let _calls = [begin(&guard).await, begin(&guard).await, begin(&guard).await];
    // Three hang; three that were quicker told that the callee is dead.
    let breaker = guard.breaker.as_ref().unwrap();
    (0..3).for_each(|_| {
        breaker.admit().unwrap().end(Outcome::failed(Failure::Fault(FaultKind::Trapped)), Instant::now())
    });
    let began = Instant::now();
    let refused = hang(&guard, patient()).await;
    assert_eq!((refused.kind(), began.elapsed()), (FaultKind::CircuitOpen, ms(0)));
}

#[tokio::test(start_paused = true)]
async fn who_can_not_wait_so_long_is_sent_away_with_the_time_that_it_takes() {
    let guard = with_bulkhead(1, 10);
    let hold = |_| async {
        sleep(ms(300)).await;
        Ok(Answer::of(7))
    };
    let deadline = patient();
    let [first, second, third] = std::array::from_fn(|_| guard.run(deadline, IfNothingBegun, hold));
    let hasty = async {
        // By now one has held the place for 300 ms while others waited, of whom one has it and one waits still.
        sleep(ms(301)).await;
        let refused = hang(&guard, within(ms(500))).await;
        assert_eq!((refused.kind(), refused.retry_after()), (FaultKind::Overloaded, Some(ms(600))));
        let expected = "order -> user: 1 calls wait before the bulkhead, which takes about 600.0ms, and the call has \
                        500.0ms left";
        assert_eq!(refused.message(), expected);
    };
    let (first, second, third, ()) = tokio::join!(first, second, third, hasty);
    assert_eq!((first, second, third), (Ok(7), Ok(7), Ok(7)));
}

// --- what counts

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

#[tokio::test(start_paused = true)]
async fn an_answer_with_a_status_of_failure_counts_and_is_an_answer() {
    let guard = without_retry(Some(breaker(3, 1)));
    for _ in 0..3 {
        assert_eq!(answered(&guard, Always, &[(500, None)]).await, (Ok(500), 1));
    }
    let snapshot = guard.snapshot();
    assert_eq!(snapshot.failed_answers, 3);
    assert_eq!(snapshot.breaker.unwrap().last_trip.unwrap().to_string(), "3 failures in a row, the last: status 500");
    assert!(snapshot.faults.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_4xx_is_no_failure_unless_it_is_said() {
    let guard = without_retry(Some(breaker(1, 1)));
    for status in [400, 404, 409, 429, 499] {
        answered(&guard, Always, &[(status, None)]).await.0.unwrap();
    }
    assert_eq!(state(&guard), BreakerState::Closed);
    let failure = FailureParams { status: StatusSet::try_new(["429"]).unwrap(), ..FailureParams::default() };
    let failure = FailurePolicy::try_new(failure).unwrap();
    let guard = guard.with_policy(of(PolicyParams { failure, ..guard.policy().params().clone() }));
    answered(&guard, Always, &[(500, None)]).await.0.unwrap();
    assert_eq!(state(&guard), BreakerState::Closed, "and now 500 is none");
    answered(&guard, Always, &[(429, None)]).await.0.unwrap();
    assert_eq!(state(&guard), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_fault_that_does_not_count_is_no_success_either() {
    let failure = FailureParams { faults: vec![FaultKind::Unreachable], ..FailureParams::default() };
    let failure = FailurePolicy::try_new(failure).unwrap();
    let guard = guard(of(PolicyParams { failure, retry: RetryPolicy::never(), ..params() }));
    fail(&guard, FaultKind::Unreachable).await;
    fail(&guard, FaultKind::Unreachable).await;
    fail(&guard, FaultKind::Trapped).await;
    assert_eq!(guard.snapshot().breaker.unwrap().consecutive_failures, 2);
    fail(&guard, FaultKind::Unreachable).await;
    assert_eq!(state(&guard), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn slow_answers_trip_it_by_their_duration() {
    let breaker = BreakerParams { failures: None, slow_rate: Some(50), minimum: Some(4), ..BreakerParams::default() };
    let breaker = Some(BreakerPolicy::try_new(breaker).unwrap());
    let failure = FailurePolicy::try_new(FailureParams { slow: Some(ms(100)), ..FailureParams::default() }).unwrap();
    let guard = guard(of(PolicyParams { failure, breaker, ..params() }));
    for took in [99, 100, 0, 500] {
        assert_eq!(state(&guard), BreakerState::Closed);
        let answer = guard.run(patient(), Never, |_| async move {
            sleep(ms(took)).await;
            Ok(Answer::of(7))
        });
        assert_eq!(answer.await, Ok(7));
    }
    let trip = guard.snapshot().breaker.unwrap().last_trip.unwrap();
    assert_eq!(trip.to_string(), "2 of 4 calls were slow, 50 % are too many");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_may_get_better_is_asked_for_again_if_that_is_safe() {
    let guard = without_breaker(3);
    for status in [502, 503, 504] {
        assert_eq!(answered(&guard, Always, &[(status, None), (200, None)]).await, (Ok(200), 2));
        assert_eq!(answered(&guard, IfNothingBegun, &[(status, None)]).await, (Ok(status), 1));
        assert_eq!(answered(&guard, Never, &[(status, None)]).await, (Ok(status), 1));
    }
    assert_eq!(answered(&guard, Always, &[(503, None)]).await, (Ok(503), 3), "the last answer is the caller's");
    assert_eq!(answered(&guard, Always, &[(500, None)]).await, (Ok(500), 1));
}

#[tokio::test(start_paused = true)]
async fn an_answer_says_when_to_ask_again() {
    let guard = without_breaker(2);
    let began = Instant::now();
    assert_eq!(answered(&guard, Always, &[(503, Some(ms(300))), (200, None)]).await, (Ok(200), 2));
    assert_eq!(began.elapsed(), ms(350));
    let began = Instant::now();
    assert_eq!(answered(&guard, Always, &[(503, Some(SECOND)), (200, None)]).await, (Ok(503), 1), "too late");
    assert_eq!(began.elapsed(), ms(0));
}

#[tokio::test(start_paused = true)]
async fn the_last_thing_that_happened_is_what_the_caller_gets() {
    let guard = without_breaker(2);
    let mut attempts = 0;
    let result = guard.run(patient(), Always, |_| {
        attempts += 1;
        async move {
            match attempts {
                1 => Ok(Answer { value: 503, status: Some(503), retry_after: None }),
                _ => Err(fault(FaultKind::Unreachable)),
            }
        }
    });
    assert_eq!(result.await, Err(fault(FaultKind::Unreachable)));
}

// --- budget

fn with_budget(percent: u32, min_per_second: u32) -> Guard {
    let budget = Some(BudgetPolicy::try_new(percent, min_per_second).unwrap());
    let retry = RetryPolicy::try_new(RetryParams { attempts: 3, budget, ..RetryParams::default() }).unwrap();
    guard(of(PolicyParams { retry, breaker: None, ..params() }))
}

#[tokio::test(start_paused = true)]
async fn retries_are_bounded_by_the_budget_of_the_edge() {
    let guard = with_budget(20, 0);
    let mut attempts = 0;
    for _ in 0..100 {
        attempts += run(&guard, patient(), IfNothingBegun, &[Err(FaultKind::Unreachable)]).await.1.len();
    }
    assert_eq!(attempts, 120, "a hundred calls and a fifth more, where three times as many were allowed");
    let snapshot = guard.snapshot();
    assert_eq!((snapshot.retries, snapshot.budget.unwrap().left), (20, 0));
    assert!(snapshot.refused_retries > 0);
}

#[tokio::test(start_paused = true)]
async fn another_policy_keeps_the_budget_that_it_does_not_change() {
    let guard = with_budget(0, 1);
    for _ in 0..10 {
        let _failed = run(&guard, patient(), IfNothingBegun, &[Err(FaultKind::Unreachable)]).await;
    }
    let same = guard.with_policy(of(PolicyParams { deadline: 2 * SECOND, ..guard.policy().params().clone() }));
    assert_eq!(same.snapshot().budget.unwrap().left, 0);
    assert_eq!(guard.with_policy(with_budget(0, 2).policy().clone()).snapshot().budget.unwrap().left, 20);
    assert_eq!(without_retry(None).snapshot().budget, None, "no retry, no budget");
}

// --- injection

#[tokio::test(start_paused = true)]
async fn an_injected_fault_is_to_all_policies_as_one_of_the_callee() {
    let inject = Some(InjectPolicy::try_new(100, Some(ms(10)), Some(FaultKind::Unreachable)).unwrap());
    let guard = guard(of(PolicyParams { inject, ..params() }));
    let (result, attempts) = run(&guard, patient(), IfNothingBegun, &[Ok(7)]).await;
    let expected = "unreachable: order -> user: injected by the policy of the edge";
    assert_eq!((result.unwrap_err().to_string().as_str(), attempts.len()), (expected, 0));
    assert_eq!(state(&guard), BreakerState::Open, "three attempts were hit");
    let snapshot = guard.snapshot();
    assert_eq!((snapshot.retries, snapshot.injected), (2, 3));
    assert_eq!(snapshot.inject.unwrap(), "100 % of the attempts delayed by 10ms end with `unreachable`");
    let healed = guard.with_policy(policy());
    advance(OPEN).await;
    succeed(&healed).await;
}

#[tokio::test(start_paused = true)]
async fn an_injected_delay_counts_against_the_deadline() {
    let inject = |delay| Some(InjectPolicy::try_new(100, Some(delay), None).unwrap());
    let delayed = guard(of(PolicyParams { inject: inject(ms(300)), ..params() }));
    let began = Instant::now();
    succeed(&delayed).await;
    assert_eq!(began.elapsed(), ms(300));
    let stalled = guard(of(PolicyParams { inject: inject(2 * SECOND), ..params() }));
    let began = Instant::now();
    assert_eq!(fail(&stalled, FaultKind::Trapped).await.kind(), FaultKind::DeadlineExceeded);
    assert_eq!(began.elapsed(), SECOND);
}

// --- another policy

#[tokio::test(start_paused = true)]
async fn another_policy_keeps_the_breakers_state_and_the_counters() {
    let old = guard(policy());
    trip(&old).await;
    let stricter = of(PolicyParams {
        deadline: SECOND / 2,
        retry: RetryPolicy::never(),
        breaker: Some(breaker(1, 1)),
        ..params()
    });
    let new = old.with_policy(stricter.clone());
    assert_eq!(new.policy(), &stricter);
    assert_eq!(state(&new), BreakerState::Open);
    assert_eq!(new.snapshot().calls, 3);
    advance(OPEN).await;
    succeed(&new).await;
    assert_eq!(state(&new), BreakerState::Closed);

    // With the breaker's policy unchanged, it is the same breaker: what is under way counts.
    let patient = of(PolicyParams { deadline: 2 * SECOND, ..stricter.params().clone() });
    let newer = new.with_policy(patient.clone());
    fail(&new, FaultKind::Trapped).await;
    assert_eq!(state(&newer), BreakerState::Open);

    let without = of(PolicyParams { retry: RetryPolicy::never(), breaker: None, ..params() });
    let without = newer.with_policy(without);
    succeed(&without).await;
    assert_eq!(without.snapshot().breaker, None);
    assert_eq!(state(&without.with_policy(patient)), BreakerState::Closed, "a new one");
}

#[tokio::test(start_paused = true)]
async fn an_unchanged_bulkhead_still_sees_the_calls_under_way() {
    let old = with_bulkhead(1, 0);
    let first = begin(&old).await;
    let same = old.with_policy(of(PolicyParams {
        deadline: 2 * SECOND,
        retry: RetryPolicy::never(),
        breaker: None,
        ..old.policy().params().clone()
    }));
    assert_eq!(hang(&same, patient()).await.kind(), FaultKind::Overloaded);
    first.abort();
    yield_now().await;
    succeed(&same).await;
}

// --- what people see

#[tokio::test(start_paused = true)]
async fn status_reads_it_as_json() {
    let guard = with_bulkhead(2, 1);
    trip(&guard).await;
    let _refused = hang(&guard, patient()).await;
    let json = serde_json::to_value(guard.snapshot()).unwrap();
    let expected = serde_json::json!({
        "edge": "order -> user",
        "breaker": {
            "state": "open", "state_for_ms": 0,
            "last_trip": { "kind": "consecutive-failures", "failures": 3, "last": "trapped" },
            "consecutive_failures": 0, "window": null, "retry_after_ms": 60_000, "probes": 0, "openings": 1,
        },
        "in_flight": 0, "queued": 0, "calls": 4,
        "faults": { "trapped": 3, "circuit-open": 1 },
        "failed_answers": 0, "retries": 0, "budget": { "calls": 4, "retries": 0, "left": 100 }, "refused_retries": 0,
        "rejected": 1, "stale_answers": 0, "fixed_answers": 0, "inject": null, "injected": 0,
    });
    assert_eq!(json, expected);
    assert_eq!(serde_json::from_value::<GuardSnapshot>(json).unwrap(), guard.snapshot());
}

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

#[tokio::test(start_paused = true)]
async fn each_transition_is_logged_once() {
    async fn transitions() {
        let guard = without_retry(Some(breaker(2, 2)));
        for _ in 0..10 {
            fail(&guard, FaultKind::Unreachable).await;
        }
        advance(OPEN).await;
        fail(&guard, FaultKind::Trapped).await;
        advance(OPEN).await;
        for _ in 0..10 {
            succeed(&guard).await;
        }
    }
    // Once unseen: tracing settles at a place's first event whether anybody listens, and in other threads nobody does.
    transitions().await;
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).without_time().with_target(false);
    let subscriber = subscriber.with_writer(move || writer.clone()).finish();
    let _installed = tracing::subscriber::set_default(subscriber);
    tracing::callsite::rebuild_interest_cache();
    transitions().await;
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
