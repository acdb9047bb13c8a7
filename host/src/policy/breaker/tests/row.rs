//! Failures in a row.

use super::*;

#[tokio::test(start_paused = true)]
async fn opens_after_so_many_failures_in_a_row() {
    let breaker = breaker(5, 1);
    for failures in 0..4 {
        assert_eq!(breaker.snapshot().consecutive_failures, failures);
        fail(&breaker);
        assert_eq!(state(&breaker), BreakerState::Closed);
    }
    fail(&breaker);
    assert_eq!(state(&breaker), BreakerState::Open);
    assert_eq!(breaker.snapshot().last_trip.unwrap().to_string(), "5 failures in a row, the last: unreachable");
}

#[tokio::test(start_paused = true)]
async fn a_success_ends_the_row() {
    let breaker = breaker(3, 1);
    for _ in 0..10 {
        fail(&breaker);
        fail(&breaker);
        succeed(&breaker);
        assert_eq!(breaker.snapshot().consecutive_failures, 0);
    }
    assert_eq!(state(&breaker), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_untold_counts_for_nothing() {
    let breaker = breaker(2, 1);
    fail(&breaker);
    for _ in 0..10 {
        drop(admit(&breaker));
    }
    assert_eq!(breaker.snapshot().consecutive_failures, 1);
    fail(&breaker);
    assert_eq!(state(&breaker), BreakerState::Open);
}

/// The same under real threads: no failure in a row is lost, and one and only one trip is seen.
#[test]
fn threads_that_fail_together_open_it_once() {
    for _ in 0..200 {
        let breaker = breaker(8, 1);
        let begun: Vec<_> = (0..8).map(|_| admit(&breaker)).collect();
        std::thread::scope(|scope| {
            for admission in begun {
                scope.spawn(|| end(admission, Outcome::failed(UNREACHABLE)));
            }
        });
        assert_eq!(state(&breaker), BreakerState::Open);
        assert_eq!(breaker.word().generation(), 1);
    }
}
