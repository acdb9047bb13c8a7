//! Rates of failures and of slow calls in a window.

use super::*;

#[tokio::test(start_paused = true)]
async fn opens_when_too_many_of_the_last_calls_failed() {
    let breaker = of(by_rate());
    for _ in 0..4 {
        fail(&breaker);
    }
    assert_eq!(state(&breaker), BreakerState::Closed, "four calls are no five");
    succeed(&breaker);
    assert_eq!(state(&breaker), BreakerState::Open, "the fifth makes it a rate, though it went well");
    let reason = TripReason::FailureRate { failed: 4, calls: 5, threshold: 50 };
    assert_eq!(breaker.snapshot().last_trip, Some(reason));
    assert_eq!(reason.to_string(), "4 of 5 calls failed, 50 % are too many");
}

#[tokio::test(start_paused = true)]
async fn every_second_call_is_enough_where_no_row_would_ever_be() {
    let breaker = of(BreakerParams { failures: Some(2), ..by_rate() });
    for _ in 0..3 {
        assert_eq!(state(&breaker), BreakerState::Closed);
        succeed(&breaker);
        fail(&breaker);
    }
    assert_eq!(breaker.snapshot().last_trip, Some(TripReason::FailureRate { failed: 3, calls: 6, threshold: 50 }));
}

#[tokio::test(start_paused = true)]
async fn calls_that_left_the_window_do_not_count() {
    let breaker = of(by_rate());
    for _ in 0..4 {
        fail(&breaker);
        succeed(&breaker);
        for _ in 0..9 {
            succeed(&breaker);
        }
        assert_eq!(state(&breaker), BreakerState::Closed);
    }
    assert_eq!(breaker.snapshot().window.unwrap(), WindowSums { calls: 10, failed: 0, slow: 0 });
}

#[tokio::test(start_paused = true)]
async fn slow_calls_open_it_though_they_are_answered() {
    let breaker = of(by_slowness());
    for _ in 0..3 {
        succeed(&breaker);
        slow(&breaker);
    }
    assert_eq!(state(&breaker), BreakerState::Open);
    let reason = TripReason::SlowRate { slow: 3, calls: 6, threshold: 50 };
    assert_eq!(breaker.snapshot().last_trip, Some(reason));
    assert_eq!(reason.to_string(), "3 of 6 calls were slow, 50 % are too many");
    advance_to_probation().await;
    slow(&breaker);
    assert_eq!(breaker.snapshot().last_trip.unwrap().to_string(), "the probe was slow");
}

/// The point of a window by time: the same share of failures, at whatever rate the calls come.
#[tokio::test(start_paused = true)]
async fn over_a_time_the_decision_does_not_depend_on_the_rate_of_calls() {
    for pause in [1, 10, 100, 400] {
        let params = BreakerParams { window: WindowSize::Time(10 * SECOND), minimum: Some(20), ..by_rate() };
        let breaker = of(params);
        for call in 0..1000 {
            if call % 5 < 2 {
                fail(&breaker)
            } else {
                succeed(&breaker)
            }
            advance(Duration::from_millis(pause)).await;
        }
        assert_eq!(state(&breaker), BreakerState::Closed, "40 % a call each {pause} ms");
        let mut calls = 0_u64;
        while state(&breaker) == BreakerState::Closed {
            if calls % 5 < 3 {
                fail(&breaker)
            } else {
                succeed(&breaker)
            }
            advance(Duration::from_millis(pause)).await;
            calls += 1;
            assert!(calls * pause <= 10_000.max(pause * 20), "60 % a call each {pause} ms");
        }
        assert_eq!(breaker.snapshot().last_trip.unwrap().as_str(), "failure-rate");
    }
}

#[tokio::test(start_paused = true)]
async fn failures_long_ago_do_not_count_in_a_window_of_time() {
    let breaker = of(BreakerParams { window: WindowSize::Time(10 * SECOND), ..by_rate() });
    for _ in 0..4 {
        fail(&breaker);
    }
    advance(10 * SECOND).await;
    for _ in 0..5 {
        succeed(&breaker);
    }
    assert_eq!(state(&breaker), BreakerState::Closed);
    assert_eq!(breaker.snapshot().window.unwrap(), WindowSums { calls: 5, failed: 0, slow: 0 });
}

#[tokio::test(start_paused = true)]
async fn one_that_closes_begins_with_an_empty_window() {
    let breaker = of(by_rate());
    trip(&breaker);
    advance_to_probation().await;
    succeed(&breaker);
    assert_eq!(state(&breaker), BreakerState::Closed);
    assert_eq!(breaker.snapshot().window.unwrap(), WindowSums::default());
    for _ in 0..4 {
        fail(&breaker);
    }
    assert_eq!(state(&breaker), BreakerState::Closed);
}
