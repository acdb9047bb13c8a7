//! What a call meets at the breaker of its edge.

use super::*;
use crate::policy::{Failure, TripReason};

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
    assert_eq!(refused.trip(), Some(TripReason::ConsecutiveFailures { failures: 3, last }));
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
