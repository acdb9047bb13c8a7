use super::*;
use crate::policy::{Failure, FaultKind};
use tokio::time::advance;

const OPEN: Duration = Duration::from_secs(60);

const SECOND: Duration = Duration::from_secs(1);
const UNREACHABLE: Failure = Failure::Fault(FaultKind::Unreachable);
const TRAPPED: Failure = Failure::Fault(FaultKind::Trapped);

fn policy(failures: u32, open: Duration, half_open: u32) -> BreakerPolicy {
    let params = BreakerParams { failures: Some(failures), open, half_open, ..BreakerParams::default() };
    BreakerPolicy::try_new(params).unwrap()
}

fn breaker(failures: u32, half_open: u32) -> Breaker {
    of(*policy(failures, OPEN, half_open).params())
}

fn of(params: BreakerParams) -> Breaker {
    Breaker::new("order -> user".into(), BreakerPolicy::try_new(params).unwrap())
}

/// One that goes by the rate of failures alone: 50 % of the last ten calls, five at least.
fn by_rate() -> BreakerParams {
    BreakerParams {
        failures: None,
        failure_rate: Some(50),
        window: WindowSize::Calls(10),
        minimum: Some(5),
        ..BreakerParams::default()
    }
}

/// One that goes by the rate of slow calls alone.
fn by_slowness() -> BreakerParams {
    BreakerParams { failure_rate: None, slow_rate: Some(50), ..by_rate() }
}

fn end(admission: Admission<'_>, outcome: Outcome) {
    admission.end(outcome, Instant::now());
}

fn slow(breaker: &Breaker) {
    end(admit(breaker), Outcome { failure: None, slow: true });
}

fn admit(breaker: &Breaker) -> Admission<'_> {
    breaker.admit().unwrap_or_else(|rejected| panic!("not admitted: {rejected}"))
}

fn succeed(breaker: &Breaker) {
    end(admit(breaker), Outcome::GOOD);
}

fn fail(breaker: &Breaker) {
    end(admit(breaker), Outcome::failed(UNREACHABLE));
}

fn trip(breaker: &Breaker) {
    while state(breaker) == BreakerState::Closed {
        fail(breaker);
    }
}

/// To where the next call can be a probe.
async fn advance_to_probation() {
    advance(OPEN).await;
}

fn state(breaker: &Breaker) -> BreakerState {
    breaker.snapshot().state
}

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

// --- rates

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

// --- open time

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

// --- the operator

#[tokio::test(start_paused = true)]
async fn forced_open_stays_open_until_it_is_reset() {
    let breaker = breaker(5, 1);
    breaker.command(BreakerCommand::ForceOpen);
    advance(OPEN * 1000).await;
    let rejected = breaker.admit().unwrap_err();
    let expected = Rejected { state: BreakerState::ForcedOpen, reason: Some(TripReason::Operator), retry_after: None };
    assert_eq!(rejected, expected);
    assert_eq!(rejected.to_string(), "the circuit breaker is forced-open (an operator opened it)");
    assert_eq!(breaker.rejection_at(Instant::now() + OPEN), Some(expected));
    breaker.command(BreakerCommand::Reset);
    assert_eq!(state(&breaker), BreakerState::Closed);
    assert_eq!(breaker.snapshot().last_trip, None);
}

#[tokio::test(start_paused = true)]
async fn disabled_lets_all_pass_and_counts_none() {
    let breaker = of(BreakerParams { failures: Some(2), ..by_rate() });
    fail(&breaker);
    breaker.command(BreakerCommand::Disable);
    for _ in 0..100 {
        fail(&breaker);
    }
    let snapshot = breaker.snapshot();
    assert_eq!((snapshot.state, snapshot.consecutive_failures), (BreakerState::Disabled, 0));
    assert_eq!(snapshot.window.unwrap(), WindowSums::default());
    breaker.command(BreakerCommand::Reset);
    fail(&breaker);
    assert_eq!(state(&breaker), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn metrics_only_counts_and_never_opens() {
    for breaker in [of(by_rate()), of(BreakerParams { mode: BreakerMode::MetricsOnly, ..by_rate() })] {
        breaker.command(BreakerCommand::MetricsOnly);
        for _ in 0..7 {
            fail(&breaker);
        }
        let snapshot = breaker.snapshot();
        assert_eq!((snapshot.state, snapshot.consecutive_failures), (BreakerState::MetricsOnly, 7));
        assert_eq!(snapshot.window.unwrap(), WindowSums { calls: 7, failed: 7, slow: 0 });
        let reason = TripReason::FailureRate { failed: 7, calls: 7, threshold: 50 };
        assert_eq!(snapshot.last_trip, Some(reason), "it says what it would have opened for");
    }
    let by_policy = of(BreakerParams { mode: BreakerMode::MetricsOnly, ..by_rate() });
    by_policy.command(BreakerCommand::Reset);
    assert_eq!(state(&by_policy), BreakerState::MetricsOnly, "a reset goes back to what the policy says");
}

#[tokio::test(start_paused = true)]
async fn what_began_before_an_operators_word_counts_no_more() {
    let breaker = breaker(1, 1);
    trip(&breaker);
    advance_to_probation().await;
    let probe = admit(&breaker);
    breaker.command(BreakerCommand::Reset);
    end(probe, Outcome::failed(TRAPPED));
    assert_eq!(state(&breaker), BreakerState::Closed);
    let call = admit(&breaker);
    breaker.command(BreakerCommand::MetricsOnly);
    end(call, Outcome::failed(TRAPPED));
    assert_eq!(breaker.snapshot().consecutive_failures, 0);
}

#[tokio::test(start_paused = true)]
async fn an_operators_word_outlives_another_policy() {
    let of = |mode| BreakerPolicy::try_new(BreakerParams { mode, ..BreakerParams::default() }).unwrap();
    let (enforce, metrics) = (of(BreakerMode::Enforce), of(BreakerMode::MetricsOnly));
    for (command, state) in
        [(BreakerCommand::ForceOpen, BreakerState::ForcedOpen), (BreakerCommand::Disable, BreakerState::Disabled)]
    {
        let breaker = Breaker::new("order -> user".into(), enforce);
        breaker.command(command);
        assert_eq!(breaker.with_policy(metrics).snapshot().state, state);
    }
    let breaker = Breaker::new("order -> user".into(), enforce);
    let counting = breaker.with_policy(metrics);
    assert_eq!(state(&counting), BreakerState::MetricsOnly);
    assert_eq!(state(&counting.with_policy(enforce)), BreakerState::Closed);
    breaker.command(BreakerCommand::MetricsOnly);
    assert_eq!(state(&breaker.with_policy(policy(7, OPEN, 1))), BreakerState::MetricsOnly, "the mode is as it was");
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

#[tokio::test(start_paused = true)]
async fn another_policy_keeps_the_state() {
    let old = breaker(3, 2);
    fail(&old);
    fail(&old);
    let new = old.with_policy(policy(3, OPEN / 2, 1));
    fail(&new);
    assert_eq!(state(&new), BreakerState::Open, "the third in a row");
    assert_eq!(state(&old), BreakerState::Closed, "the old one is another breaker");

    // A lower limit than what has been counted: the next failure opens it.
    let strict = old.with_policy(policy(1, OPEN, 1));
    assert_eq!(state(&strict), BreakerState::Closed);
    fail(&strict);
    assert_eq!(state(&strict), BreakerState::Open);

    // The open time that is under way is measured anew.
    advance(OPEN / 2).await;
    let patient = new.with_policy(policy(3, OPEN, 2));
    assert_eq!(patient.admit().unwrap_err().retry_after, Some(OPEN / 2));
    drop(admit(&new));
}

#[tokio::test(start_paused = true)]
async fn another_policy_during_half_open_begins_the_probes_afresh() {
    let old = breaker(1, 4);
    trip(&old);
    advance_to_probation().await;
    succeed(&old);
    succeed(&old);
    let under_way = admit(&old);
    // More successes than the new policy asks for, and a place taken, must not keep it half-open for ever.
    let new = old.with_policy(policy(1, OPEN, 1));
    assert_eq!(state(&new), BreakerState::HalfOpen);
    succeed(&new);
    assert_eq!(state(&new), BreakerState::Closed);
    end(under_way, Outcome::failed(Failure::Fault(FaultKind::Trapped)));
    assert_eq!(state(&new), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn another_policy_keeps_the_window_of_the_same_size() {
    let old = of(by_rate());
    for _ in 0..4 {
        fail(&old);
    }
    let same = old.with_policy(BreakerPolicy::try_new(BreakerParams { failure_rate: Some(80), ..by_rate() }).unwrap());
    assert_eq!(same.snapshot().window.unwrap().failed, 4);
    fail(&same);
    assert_eq!(state(&same), BreakerState::Open);
    let params = BreakerParams { window: WindowSize::Calls(20), ..by_rate() };
    let larger = old.with_policy(BreakerPolicy::try_new(params).unwrap());
    assert_eq!(larger.snapshot().window.unwrap(), WindowSums::default());
}

#[test]
fn nonsense_is_refused() {
    let good = BreakerParams::default();
    let calls = |calls| WindowSize::Calls(calls);
    let time = WindowSize::Time;
    for (params, expected) in [
        (
            BreakerParams { failures: None, ..good },
            "`breaker`: expected `failures`, `failure-rate` or `slow-rate`, so that something opens it, found none of them",
        ),
        (BreakerParams { failures: Some(0), ..good }, "`breaker.failures`: expected 1 to 1000000, found 0"),
        (
            BreakerParams { failures: Some(1_000_001), ..good },
            "`breaker.failures`: expected 1 to 1000000, found 1000001",
        ),
        (BreakerParams { failure_rate: Some(0), ..good }, "`breaker.failure-rate`: expected 1 to 100, found 0"),
        (BreakerParams { failure_rate: Some(101), ..good }, "`breaker.failure-rate`: expected 1 to 100, found 101"),
        (BreakerParams { slow_rate: Some(0), ..good }, "`breaker.slow-rate`: expected 1 to 100, found 0"),
        (BreakerParams { slow_rate: Some(101), ..good }, "`breaker.slow-rate`: expected 1 to 100, found 101"),
        (BreakerParams { window: calls(0), ..good }, "`breaker.window`: expected 1 to 10000, found 0"),
        (BreakerParams { window: calls(10_001), ..good }, "`breaker.window`: expected 1 to 10000, found 10001"),
        (
            BreakerParams { window: time(Duration::ZERO), ..good },
            "`breaker.window`: expected more than zero and at most 24h, found 0ns",
        ),
        (
            BreakerParams { window: time(Duration::from_millis(9)), ..good },
            "`breaker.window`: expected at least 10ms, found 9ms",
        ),
        (BreakerParams { minimum: Some(0), ..good }, "`breaker.minimum`: expected 1 to 1000000, found 0"),
        (
            BreakerParams { minimum: Some(101), ..good },
            "`breaker.minimum`: expected at most `breaker.window` (100 calls), found 101",
        ),
        (
            BreakerParams { open: Duration::ZERO, ..good },
            "`breaker.open`: expected more than zero and at most 24h, found 0ns",
        ),
        (
            BreakerParams { max_open: Some(OPEN / 2), ..good },
            "`breaker.max-open`: expected at least `breaker.open` (60s), found 30s",
        ),
        (
            BreakerParams { max_open: Some(Duration::MAX), ..good },
            "`breaker.max-open`: expected more than zero and at most 24h, found 18446744073709551615.999999999s",
        ),
        (BreakerParams { half_open: 0, ..good }, "`breaker.half-open`: expected 1 to 1000, found 0"),
        (BreakerParams { half_open: 1_001, ..good }, "`breaker.half-open`: expected 1 to 1000, found 1001"),
    ] {
        assert_eq!(BreakerPolicy::try_new(params).unwrap_err().to_string(), expected);
    }
    assert_eq!(BreakerPolicy::try_new(good), Ok(BreakerPolicy::default()));
}

#[tokio::test(start_paused = true)]
async fn status_reads_it_as_json() {
    let breaker = of(BreakerParams { failures: Some(1), ..by_rate() });
    trip(&breaker);
    advance(Duration::from_millis(1500)).await;
    let json = serde_json::to_value(breaker.snapshot()).unwrap();
    let expected = serde_json::json!({
        "state": "open", "state_for_ms": 1500,
        "last_trip": { "kind": "consecutive-failures", "failures": 1, "last": "unreachable" },
        "consecutive_failures": 0, "window": { "calls": 1, "failed": 1, "slow": 0 },
        "retry_after_ms": 58_500, "probes": 0, "openings": 1,
    });
    assert_eq!(json, expected);
    assert_eq!(serde_json::from_value::<BreakerSnapshot>(json).unwrap(), breaker.snapshot());
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
