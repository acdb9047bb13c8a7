//! How long it is open, and what it says meanwhile.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_open_one_rejects_until_its_time_is_over_and_says_when() {
    let breaker = breaker(1, 1);
    trip(&breaker);
    let reason = TripReason::ConsecutiveFailures { failures: 1, last: UNREACHABLE };
    for left in [60, 59, 58] {
        let rejected = breaker.admit().unwrap_err();
        let retry_after = Some(Duration::from_secs(left));
        assert_eq!(rejected, Rejected { state: BreakerState::Open, reason: Some(reason), retry_after });
        assert_eq!(breaker.snapshot().retry_after_ms, Some(left * 1000));
        advance(Duration::from_secs(1)).await;
    }
    advance(Duration::from_secs(57) - Duration::from_millis(1)).await;
    assert_eq!(breaker.admit().unwrap_err().retry_after, Some(Duration::from_millis(1)));
    advance(Duration::from_millis(1)).await;
    assert_eq!(state(&breaker), BreakerState::Open, "it takes a call to find out more");
    let _probe = admit(&breaker);
    assert_eq!(state(&breaker), BreakerState::HalfOpen);
}

#[tokio::test(start_paused = true)]
async fn tells_what_a_later_call_would_be_told() {
    let breaker = breaker(1, 1);
    let now = Instant::now();
    assert_eq!(breaker.rejection_at(now), None);
    trip(&breaker);
    assert_eq!(breaker.rejection_at(now).unwrap().retry_after, Some(OPEN));
    assert_eq!(breaker.rejection_at(now + OPEN / 4).unwrap().retry_after, Some(OPEN * 3 / 4));
    assert_eq!(breaker.rejection_at(now + OPEN), None);
    assert_eq!(state(&breaker), BreakerState::Open, "asking is no probe");
}

#[tokio::test(start_paused = true)]
async fn each_opening_hard_upon_another_doubles_the_open_time_up_to_the_maximum() {
    let breaker = of(BreakerParams {
        failures: Some(1),
        open: 10 * SECOND,
        max_open: Some(60 * SECOND),
        ..BreakerParams::default()
    });
    fail(&breaker);
    for (openings, open) in [(1, 10), (2, 20), (3, 40), (4, 60), (5, 60)] {
        let rejected = breaker.admit().unwrap_err();
        assert_eq!(rejected.retry_after, Some(open * SECOND));
        assert_eq!(breaker.snapshot().openings, openings);
        advance(open * SECOND).await;
        fail(&breaker);
    }
    // It closes, and opens again before it was well for as long as it had been open.
    advance(60 * SECOND).await;
    succeed(&breaker);
    assert_eq!(state(&breaker), BreakerState::Closed);
    advance(59 * SECOND).await;
    fail(&breaker);
    assert_eq!(breaker.admit().unwrap_err().retry_after, Some(60 * SECOND), "it flaps");
    // This time it is well for long enough.
    advance(60 * SECOND).await;
    succeed(&breaker);
    advance(60 * SECOND).await;
    fail(&breaker);
    assert_eq!(breaker.admit().unwrap_err().retry_after, Some(10 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn another_callee_is_probed_at_once_and_what_an_operator_said_stays() {
    let breaker = breaker(1, 1);
    // A closed one has nothing to forget.
    breaker.callee_changed();
    assert_eq!(breaker.snapshot().state, BreakerState::Closed);
    trip(&breaker);
    assert_eq!(breaker.snapshot().state, BreakerState::Open);
    breaker.callee_changed();
    assert_eq!(breaker.snapshot().state, BreakerState::HalfOpen);
    let probe = admit(&breaker);
    breaker.callee_changed();
    assert!(breaker.admit().is_err(), "the probe under way is one of this time");
    end(probe, Outcome { failure: None, slow: false });
    assert_eq!(breaker.snapshot().state, BreakerState::Closed);
    breaker.command(BreakerCommand::ForceOpen);
    breaker.callee_changed();
    assert_eq!(breaker.snapshot().state, BreakerState::ForcedOpen);
}
