//! Faults on purpose.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_injected_fault_is_to_all_policies_as_one_of_the_callee() {
    let inject = Some(InjectPolicy::try_new(100, Some(ms(10)), Some(FaultKind::Unreachable)).unwrap());
    let guard = guard(of(PolicyParams { inject, ..params() }));
    let (result, attempts) = run(&guard, patient(), IfNothingBegun, &[Ok(7)]).await;
    let expected = "unreachable: order -> user: injected by the policy of the edge";
    assert_eq!((result.unwrap_err().to_string().as_str(), attempts.len()), (expected, 0));
    assert_eq!(state(&guard), BreakerState::Open, "three attempts were hit");
    let snapshot = guard.snapshot();
    assert_eq!((snapshot.retries, snapshot.injected), (2, 3));
    assert_eq!(snapshot.inject.unwrap(), "100 % of the attempts delayed by 10ms end with `unreachable`");
    let healed = guard.with_policy(policy());
    advance(OPEN).await;
    succeed(&healed).await;
}

#[tokio::test(start_paused = true)]
async fn an_injected_delay_counts_against_the_deadline() {
    let inject = |delay| Some(InjectPolicy::try_new(100, Some(delay), None).unwrap());
    let delayed = guard(of(PolicyParams { inject: inject(ms(300)), ..params() }));
    let began = Instant::now();
    succeed(&delayed).await;
    assert_eq!(began.elapsed(), ms(300));
    let stalled = guard(of(PolicyParams { inject: inject(2 * SECOND), ..params() }));
    let began = Instant::now();
    assert_eq!(fail(&stalled, FaultKind::Trapped).await.kind(), FaultKind::DeadlineExceeded);
    assert_eq!(began.elapsed(), SECOND);
}
