//! Another policy while calls are under way.

use super::*;

#[tokio::test(start_paused = true)]
async fn another_policy_keeps_the_breakers_state_and_the_counters() {
    let old = guard(policy());
    trip(&old).await;
    let stricter = of(PolicyParams {
        deadline: SECOND / 2,
        retry: RetryPolicy::never(),
        breaker: Some(breaker(1, 1)),
        ..params()
    });
    let new = old.with_policy(stricter.clone());
    assert_eq!(new.policy(), &stricter);
    assert_eq!(state(&new), BreakerState::Open);
    assert_eq!(new.snapshot().calls, 3);
    advance(OPEN).await;
    succeed(&new).await;
    assert_eq!(state(&new), BreakerState::Closed);

    // With the breaker's policy unchanged, it is the same breaker: what is under way counts.
    let patient = of(PolicyParams { deadline: 2 * SECOND, ..stricter.params().clone() });
    let newer = new.with_policy(patient.clone());
    fail(&new, FaultKind::Trapped).await;
    assert_eq!(state(&newer), BreakerState::Open);

    let without = of(PolicyParams { retry: RetryPolicy::never(), breaker: None, ..params() });
    let without = newer.with_policy(without);
    succeed(&without).await;
    assert_eq!(without.snapshot().breaker, None);
    assert_eq!(state(&without.with_policy(patient)), BreakerState::Closed, "a new one");
}

#[tokio::test(start_paused = true)]
async fn an_unchanged_bulkhead_still_sees_the_calls_under_way() {
    let old = with_bulkhead(1, 0);
    let first = begin(&old).await;
    let same = old.with_policy(of(PolicyParams {
        deadline: 2 * SECOND,
        retry: RetryPolicy::never(),
        breaker: None,
        ..old.policy().params().clone()
    }));
    assert_eq!(hang(&same, patient()).await.kind(), FaultKind::Overloaded);
    first.abort();
    yield_now().await;
    succeed(&same).await;
}
