//! Until when a call may take, and when that speaks against the callee.

use super::*;
use proptest::prelude::*;
use std::sync::Mutex;

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
