//! What counts against the callee, and what is no failure of its own.

use super::*;
use crate::policy::{FailureParams, FailurePolicy, StatusSet};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

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
    let guard = guard(policy());
    let nowhere = async || {
        let mut attempts = 0;
        let result = guard.run(patient(), Always, |_| {
            attempts += 1;
            async { Err::<Answer<()>, _>(Fault::nowhere("all are out")) }
        });
        assert_eq!((result.await, attempts), (Err(Fault::nowhere("all are out")), 1));
    };
    fail(&guard, FaultKind::Trapped).await;
    fail(&guard, FaultKind::Trapped).await;
    for _ in 0..10 {
        nowhere().await;
    }
    let breaker = guard.snapshot().breaker.unwrap();
    assert_eq!((breaker.state, breaker.consecutive_failures), (BreakerState::Closed, 2), "as before");
    fail(&guard, FaultKind::Trapped).await;
    advance(OPEN).await;
    nowhere().await;
    assert_eq!(state(&guard), BreakerState::HalfOpen, "a probe that went nowhere decides nothing");
    succeed(&guard).await;
    assert_eq!(state(&guard), BreakerState::Closed);
    assert_eq!(guard.snapshot().faults["unreachable"], 11);
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
