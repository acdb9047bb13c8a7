//! The operator's word.

use super::*;

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
