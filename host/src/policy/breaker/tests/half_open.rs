//! Probes, and what they decide.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_half_open_one_lets_exactly_so_many_through_at_a_time() {
    for half_open in 1..=4 {
        let breaker = breaker(1, half_open);
        trip(&breaker);
        advance_to_probation().await;
        let probes: Vec<_> = (0..half_open).map(|_| admit(&breaker)).collect();
        let rejected = breaker.admit().unwrap_err();
        assert_eq!((rejected.state, rejected.retry_after), (BreakerState::HalfOpen, None));
        assert_eq!(breaker.snapshot().probes, half_open);
        // A place that is given back is one place.
        drop(probes.into_iter().next());
        let replacement = admit(&breaker);
        drop(replacement);
    }
}

#[tokio::test(start_paused = true)]
async fn closes_when_all_probes_succeed() {
    // One failure of a hundred is too much: all of them must succeed.
    let breaker = of(BreakerParams { failures: Some(1), failure_rate: Some(1), half_open: 3, ..by_rate() });
    trip(&breaker);
    advance_to_probation().await;
    let (first, second, third) = (admit(&breaker), admit(&breaker), admit(&breaker));
    end(second, Outcome::GOOD);
    assert!(breaker.admit().is_err(), "two under way and one success make three");
    end(first, Outcome::GOOD);
    assert_eq!(state(&breaker), BreakerState::HalfOpen);
    end(third, Outcome::GOOD);
    assert_eq!(state(&breaker), BreakerState::Closed);
    assert_eq!(
        breaker.snapshot().last_trip.unwrap().to_string(),
        "a failure: unreachable",
        "people still see why it was open"
    );
    succeed(&breaker);
}

#[tokio::test(start_paused = true)]
async fn failed_probes_open_it_again_for_the_whole_time() {
    let breaker = breaker(1, 3);
    trip(&breaker);
    advance_to_probation().await;
    end(admit(&breaker), Outcome::failed(TRAPPED));
    assert_eq!(state(&breaker), BreakerState::HalfOpen, "two more can make it a third");
    end(admit(&breaker), Outcome::failed(TRAPPED));
    assert_eq!(state(&breaker), BreakerState::Open, "two of three are more than half, whatever the third does");
    let rejected = breaker.admit().unwrap_err();
    assert_eq!(rejected.reason, Some(TripReason::ProbesFailed { failed: 2, of: 3, last: TRAPPED }));
    assert_eq!(rejected.retry_after, Some(OPEN));
    // Earlier successes are no credit.
    advance_to_probation().await;
    succeed(&breaker);
    assert_eq!(state(&breaker), BreakerState::HalfOpen);
}

#[tokio::test(start_paused = true)]
async fn probes_that_disagree_come_to_one_decision() {
    // Of four probes, with these rates: how many may fail, and how many may be slow.
    for (failure_rate, slow_rate, failed, slow, closes) in [
        (Some(50), None, 1, 0, true),
        (Some(50), None, 2, 0, false),
        (Some(75), None, 2, 0, true),
        (Some(75), None, 3, 0, false),
        (Some(100), None, 3, 0, true),
        (Some(1), None, 0, 0, true),
        (Some(1), None, 1, 0, false),
        (None, Some(50), 0, 1, true),
        (None, Some(50), 0, 2, false),
        // Without a rate of failures, half of them are too many.
        (None, Some(100), 1, 0, true),
        (None, Some(100), 2, 0, false),
    ] {
        let breaker = of(BreakerParams { failures: Some(1), failure_rate, slow_rate, half_open: 4, ..by_rate() });
        trip(&breaker);
        advance_to_probation().await;
        let probes: Vec<_> = (0..4).map(|_| admit(&breaker)).collect();
        for (at, probe) in (0..).zip(probes) {
            let failure = (at < failed).then_some(TRAPPED);
            end(probe, Outcome { failure, slow: at < slow });
        }
        let expected = if closes { BreakerState::Closed } else { BreakerState::Open };
        assert_eq!(state(&breaker), expected, "{failure_rate:?} {slow_rate:?} {failed} {slow}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_decision_falls_as_soon_as_nothing_can_change_it() {
    let breaker = of(BreakerParams { failures: Some(1), half_open: 4, ..by_rate() });
    trip(&breaker);
    advance_to_probation().await;
    let late = admit(&breaker);
    succeed(&breaker);
    succeed(&breaker);
    assert_eq!(state(&breaker), BreakerState::HalfOpen, "the two others can still be half");
    succeed(&breaker);
    assert_eq!(state(&breaker), BreakerState::Closed);
    end(late, Outcome::failed(TRAPPED));
    assert_eq!(breaker.snapshot().window.unwrap(), WindowSums::default(), "nor does the last one count afterwards");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_probe_gives_its_place_back_and_counts_for_nothing() {
    let breaker = breaker(1, 1);
    trip(&breaker);
    advance_to_probation().await;
    for _ in 0..5 {
        let probe = admit(&breaker);
        assert!(breaker.admit().is_err());
        drop(probe);
        assert_eq!(state(&breaker), BreakerState::HalfOpen);
        assert_eq!(breaker.snapshot().probes, 0);
    }
    succeed(&breaker);
    assert_eq!(state(&breaker), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn outcomes_from_before_a_transition_are_old_news() {
    let breaker = breaker(1, 1);
    let (slow, slower, slowest) = (admit(&breaker), admit(&breaker), admit(&breaker));
    trip(&breaker);
    end(slow, Outcome::failed(Failure::Fault(FaultKind::DeadlineExceeded)));
    assert_eq!(breaker.snapshot().last_trip.unwrap().to_string(), "a failure: unreachable");
    advance_to_probation().await;
    let probe = admit(&breaker);
    end(slower, Outcome::failed(Failure::Fault(FaultKind::DeadlineExceeded)));
    assert_eq!(state(&breaker), BreakerState::HalfOpen);
    end(probe, Outcome::GOOD);
    end(slowest, Outcome::failed(Failure::Fault(FaultKind::DeadlineExceeded)));
    assert_eq!(state(&breaker), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_probe_of_an_earlier_half_open_time_does_not_count_in_this_one() {
    let breaker = breaker(1, 2);
    trip(&breaker);
    advance_to_probation().await;
    let (late, failing) = (admit(&breaker), admit(&breaker));
    end(failing, Outcome::failed(Failure::Fault(FaultKind::Trapped)));
    advance_to_probation().await;
    let probes = [admit(&breaker), admit(&breaker)];
    end(late, Outcome::GOOD);
    assert_eq!(breaker.snapshot().probes, 2);
    assert!(breaker.admit().is_err());
    for probe in probes {
        end(probe, Outcome::GOOD);
    }
    assert_eq!(state(&breaker), BreakerState::Closed);
}
