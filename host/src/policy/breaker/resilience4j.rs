//! Cases that resilience4j's documentation of its `CircuitBreaker` describes, worked out again for this breaker: 50 % of
//! failed or of slow calls, over the last five calls or five seconds, five calls at least, five seconds open, four probes.

use super::*;
use crate::policy::{Failure, FaultKind};
use tokio::time::advance;

const SECOND: Duration = Duration::from_secs(1);
const ERROR: Outcome = Outcome::failed(Failure::Fault(FaultKind::Trapped));
const SLOW_ERROR: Outcome = Outcome { slow: true, ..ERROR };
const SLOW: Outcome = Outcome { failure: None, slow: true };

fn params(window: WindowSize) -> BreakerParams {
    BreakerParams {
        failures: None,
        failure_rate: Some(50),
        slow_rate: Some(50),
        window,
        minimum: Some(5),
        open: 5 * SECOND,
        half_open: 4,
        ..BreakerParams::default()
    }
}

fn breaker(window: WindowSize) -> Breaker {
    Breaker::new("test".into(), BreakerPolicy::try_new(params(window)).unwrap())
}

fn windows() -> [WindowSize; 2] {
    [WindowSize::Calls(5), WindowSize::Time(5 * SECOND)]
}

fn call(breaker: &Breaker, outcome: Outcome) {
    breaker.admit().unwrap_or_else(|rejected| panic!("{rejected}")).end(outcome, Instant::now());
}

fn state(breaker: &Breaker) -> BreakerState {
    breaker.snapshot().state
}

/// Open, and its waiting time over.
async fn half_open(window: WindowSize) -> Breaker {
    let breaker = breaker(window);
    (0..5).for_each(|_| call(&breaker, ERROR));
    assert_eq!(state(&breaker), BreakerState::Open);
    advance(5 * SECOND).await;
    breaker
}

#[tokio::test(start_paused = true)]
async fn the_failure_rate_counts_once_there_are_enough_calls() {
    for window in windows() {
        let breaker = breaker(window);
        for outcome in [ERROR, ERROR, ERROR, Outcome::GOOD] {
            call(&breaker, outcome);
            assert_eq!(state(&breaker), BreakerState::Closed, "no rate before the fifth call");
        }
        call(&breaker, Outcome::GOOD);
        assert_eq!(state(&breaker), BreakerState::Open);
        assert_eq!(breaker.snapshot().last_trip, Some(TripReason::FailureRate { failed: 3, calls: 5, threshold: 50 }));
        let sums = breaker.snapshot().window.unwrap();
        assert_eq!((sums.calls, sums.failed, sums.failure_rate()), (5, 3, 60));
        assert!(breaker.admit().is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_call_counts_as_slow_whether_it_failed_or_not() {
    for window in windows() {
        let breaker = breaker(window);
        for outcome in [SLOW_ERROR, SLOW, ERROR, Outcome::GOOD] {
            call(&breaker, outcome);
            assert_eq!(state(&breaker), BreakerState::Closed);
        }
        call(&breaker, SLOW);
        assert_eq!(state(&breaker), BreakerState::Open);
        assert_eq!(breaker.snapshot().last_trip, Some(TripReason::SlowRate { slow: 3, calls: 5, threshold: 50 }));
    }
}

#[tokio::test(start_paused = true)]
async fn the_threshold_itself_is_too_much() {
    let params = BreakerParams { minimum: Some(4), ..params(WindowSize::Calls(4)) };
    let breaker = Breaker::new("test".into(), BreakerPolicy::try_new(params).unwrap());
    for outcome in [ERROR, Outcome::GOOD, Outcome::GOOD] {
        call(&breaker, outcome);
    }
    call(&breaker, ERROR);
    assert_eq!(state(&breaker), BreakerState::Open, "50 % is greater than or equal to 50 %");
}

#[tokio::test(start_paused = true)]
async fn it_becomes_half_open_by_a_call_after_the_wait() {
    for window in windows() {
        let breaker = breaker(window);
        (0..5).for_each(|_| call(&breaker, ERROR));
        advance(3 * SECOND).await;
        assert!(breaker.admit().is_err());
        advance(3 * SECOND).await;
        assert_eq!(state(&breaker), BreakerState::Open, "no clock of its own");
        let _probe = breaker.admit().unwrap();
        assert_eq!(state(&breaker), BreakerState::HalfOpen);
    }
}

#[tokio::test(start_paused = true)]
async fn half_open_permits_four_calls_and_a_released_permission_is_another() {
    let breaker = half_open(WindowSize::Calls(5)).await;
    let mut probes: Vec<_> = (0..4).map(|_| breaker.admit().unwrap()).collect();
    assert!(breaker.admit().is_err());
    assert!(breaker.admit().is_err());
    drop(probes.pop());
    probes.push(breaker.admit().unwrap());
    assert!(breaker.admit().is_err());
}

#[tokio::test(start_paused = true)]
async fn half_open_goes_back_to_open_when_the_rate_of_its_calls_is_too_high() {
    for (outcomes, reason) in
        [([ERROR, ERROR, Outcome::GOOD, ERROR], "probes-failed"), ([SLOW, Outcome::GOOD, SLOW, SLOW], "probes-slow")]
    {
        let breaker = half_open(WindowSize::Calls(5)).await;
        let probes: Vec<_> = outcomes.iter().map(|_| breaker.admit().unwrap()).collect();
        probes.into_iter().zip(outcomes).for_each(|(probe, outcome)| probe.end(outcome, Instant::now()));
        assert_eq!(state(&breaker), BreakerState::Open);
        assert_eq!(breaker.snapshot().last_trip.unwrap().as_str(), reason);
    }
}

#[tokio::test(start_paused = true)]
async fn half_open_closes_when_the_rate_of_its_calls_is_below_the_threshold() {
    for window in windows() {
        let breaker = half_open(window).await;
        for outcome in [ERROR, Outcome::GOOD, Outcome::GOOD] {
            call(&breaker, outcome);
            assert_eq!(state(&breaker), BreakerState::HalfOpen);
        }
        call(&breaker, Outcome::GOOD);
        assert_eq!(state(&breaker), BreakerState::Closed);
        assert_eq!(breaker.snapshot().window.unwrap(), WindowSums::default(), "the metrics are reset");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_recorded_late_does_not_count_in_another_state() {
    let breaker = breaker(WindowSize::Calls(5));
    let late = breaker.admit().unwrap();
    (0..5).for_each(|_| call(&breaker, ERROR));
    late.end(Outcome::GOOD, Instant::now());
    assert_eq!(state(&breaker), BreakerState::Open);
    assert_eq!(breaker.snapshot().window.unwrap().calls, 5);
}

#[tokio::test(start_paused = true)]
async fn the_window_of_time_forgets_second_by_second() {
    let breaker = breaker(WindowSize::Time(5 * SECOND));
    // Four errors in the first second, then one good call a second: never five calls with half of them failed at once.
    (0..4).for_each(|_| call(&breaker, ERROR));
    advance(5 * SECOND).await;
    for _ in 0..20 {
        call(&breaker, Outcome::GOOD);
        advance(SECOND).await;
        assert_eq!(state(&breaker), BreakerState::Closed);
    }
}

#[tokio::test(start_paused = true)]
async fn the_special_states_are_left_only_by_a_word() {
    let breaker = breaker(WindowSize::Calls(5));
    breaker.command(BreakerCommand::Disable);
    (0..50).for_each(|_| call(&breaker, ERROR));
    assert_eq!((state(&breaker), breaker.snapshot().window.unwrap().calls), (BreakerState::Disabled, 0));
    breaker.command(BreakerCommand::MetricsOnly);
    (0..50).for_each(|_| call(&breaker, ERROR));
    assert_eq!((state(&breaker), breaker.snapshot().window.unwrap().calls), (BreakerState::MetricsOnly, 5));
    breaker.command(BreakerCommand::ForceOpen);
    advance(1000 * SECOND).await;
    assert!(breaker.admit().is_err());
    breaker.command(BreakerCommand::Reset);
    call(&breaker, Outcome::GOOD);
    assert_eq!(state(&breaker), BreakerState::Closed);
}
