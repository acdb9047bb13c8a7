use super::*;
use tokio::time::advance;

const OPEN: Duration = Duration::from_secs(60);

fn breaker(failures: u32, half_open: u32) -> Breaker {
    Breaker::new("order -> user".into(), BreakerPolicy::try_new(failures, OPEN, half_open).unwrap())
}

fn admit(breaker: &Breaker) -> Admission<'_> {
    breaker.admit().unwrap_or_else(|rejected| panic!("not admitted: {rejected}"))
}

fn succeed(breaker: &Breaker) {
    admit(breaker).succeed();
}

fn fail(breaker: &Breaker) {
    admit(breaker).fail(FaultKind::Unreachable);
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
    assert_eq!(breaker.snapshot().last_trip.unwrap(), "5 failures in a row, the last: unreachable");
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
    let reason = TripReason::ConsecutiveFailures { failures: 1, last: FaultKind::Unreachable };
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
    let breaker = breaker(1, 3);
    trip(&breaker);
    advance_to_probation().await;
    let (first, second, third) = (admit(&breaker), admit(&breaker), admit(&breaker));
    second.succeed();
    assert!(breaker.admit().is_err(), "two under way and one success make three");
    first.succeed();
    assert_eq!(state(&breaker), BreakerState::HalfOpen);
    third.succeed();
    assert_eq!(state(&breaker), BreakerState::Closed);
    assert_eq!(breaker.snapshot().last_trip.unwrap(), "a failure: unreachable", "people still see why it was open");
    succeed(&breaker);
}

#[tokio::test(start_paused = true)]
async fn any_failed_probe_opens_it_again_for_the_whole_time() {
    let breaker = breaker(1, 3);
    trip(&breaker);
    advance_to_probation().await;
    succeed(&breaker);
    succeed(&breaker);
    admit(&breaker).fail(FaultKind::Trapped);
    assert_eq!(state(&breaker), BreakerState::Open);
    let rejected = breaker.admit().unwrap_err();
    assert_eq!(rejected.reason, Some(TripReason::ProbeFailed { fault: FaultKind::Trapped }));
    assert_eq!(rejected.retry_after, Some(OPEN));
    // Earlier successes are no credit.
    advance_to_probation().await;
    succeed(&breaker);
    assert_eq!(state(&breaker), BreakerState::HalfOpen);
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
    slow.fail(FaultKind::DeadlineExceeded);
    assert_eq!(breaker.snapshot().last_trip.unwrap(), "a failure: unreachable");
    advance_to_probation().await;
    let probe = admit(&breaker);
    slower.fail(FaultKind::DeadlineExceeded);
    assert_eq!(state(&breaker), BreakerState::HalfOpen);
    probe.succeed();
    slowest.fail(FaultKind::DeadlineExceeded);
    assert_eq!(state(&breaker), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_probe_of_an_earlier_half_open_time_does_not_count_in_this_one() {
    let breaker = breaker(1, 2);
    trip(&breaker);
    advance_to_probation().await;
    let (late, failing) = (admit(&breaker), admit(&breaker));
    failing.fail(FaultKind::Trapped);
    advance_to_probation().await;
    let probes = [admit(&breaker), admit(&breaker)];
    late.succeed();
    assert_eq!(breaker.snapshot().probes, 2);
    assert!(breaker.admit().is_err());
    for probe in probes {
        probe.succeed();
    }
    assert_eq!(state(&breaker), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn another_policy_keeps_the_state() {
    let old = breaker(3, 2);
    fail(&old);
    fail(&old);
    let new = old.with_policy(BreakerPolicy::try_new(3, OPEN / 2, 1).unwrap());
    fail(&new);
    assert_eq!(state(&new), BreakerState::Open, "the third in a row");
    assert_eq!(state(&old), BreakerState::Closed, "the old one is another breaker");

    // A lower limit than what has been counted: the next failure opens it.
    let strict = old.with_policy(BreakerPolicy::try_new(1, OPEN, 1).unwrap());
    assert_eq!(state(&strict), BreakerState::Closed);
    fail(&strict);
    assert_eq!(state(&strict), BreakerState::Open);

    // The open time that is under way is measured anew.
    advance(OPEN / 2).await;
    let patient = new.with_policy(BreakerPolicy::try_new(3, OPEN, 2).unwrap());
    assert_eq!(patient.admit().unwrap_err().retry_after, Some(OPEN / 2));
    drop(admit(&new));
}

#[tokio::test(start_paused = true)]
async fn another_policy_during_half_open_begins_the_probes_afresh() {
    let old = breaker(1, 3);
    trip(&old);
    advance_to_probation().await;
    succeed(&old);
    succeed(&old);
    let under_way = admit(&old);
    // More successes than the new policy asks for, and a place taken, must not keep it half-open for ever.
    let new = old.with_policy(BreakerPolicy::try_new(1, OPEN, 1).unwrap());
    assert_eq!(state(&new), BreakerState::HalfOpen);
    succeed(&new);
    assert_eq!(state(&new), BreakerState::Closed);
    under_way.fail(FaultKind::Trapped);
    assert_eq!(state(&new), BreakerState::Closed);
}

#[test]
fn nonsense_is_refused() {
    let refused = |failures, open, half_open| BreakerPolicy::try_new(failures, open, half_open).unwrap_err();
    assert_eq!(refused(0, OPEN, 1).to_string(), "`breaker.failures`: expected 1 to 1000000, found 0");
    assert_eq!(refused(1_000_001, OPEN, 1).field(), "breaker.failures");
    assert_eq!(
        refused(1, Duration::ZERO, 1).to_string(),
        "`breaker.open`: expected more than zero and at most 24h, found 0ns"
    );
    assert_eq!(refused(1, OPEN, 0).to_string(), "`breaker.half-open`: expected 1 to 1000, found 0");
    assert_eq!(refused(1, OPEN, 1_001).found(), "1001");
}

#[tokio::test(start_paused = true)]
async fn status_reads_it_as_json() {
    let breaker = breaker(1, 1);
    trip(&breaker);
    advance(Duration::from_millis(1500)).await;
    let json = serde_json::to_value(breaker.snapshot()).unwrap();
    let expected = serde_json::json!({
        "state": "open", "state_for_ms": 1500, "last_trip": "a failure: unreachable",
        "consecutive_failures": 0, "retry_after_ms": 58_500, "probes": 0,
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
                scope.spawn(|| admission.fail(FaultKind::Unreachable));
            }
        });
        assert_eq!(state(&breaker), BreakerState::Open);
        assert_eq!(breaker.word().generation(), 1);
    }
}
