//! Another policy for a breaker that has seen something.

use super::*;

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
