//! What is tried again, when, and what the caller gets in the end.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_safe_fault_is_retried_with_doubling_pauses_until_an_answer() {
    let guard = without_breaker(10);
    let ends = [Err(FaultKind::Unreachable), Err(FaultKind::Overloaded), Err(FaultKind::Unreachable), Ok(7)];
    let (result, attempts) = run(&guard, patient(), IfNothingBegun, &ends).await;
    assert_eq!(result, Ok(7));
    assert_eq!(attempts, [ms(0), ms(50), ms(150), ms(350)]);
    assert_eq!(guard.snapshot().retries, 3);
    assert!(guard.snapshot().faults.is_empty(), "the caller saw none");
}

#[tokio::test(start_paused = true)]
async fn attempts_end_at_the_number_of_the_policy() {
    let (result, attempts) = run(&without_breaker(3), patient(), IfNothingBegun, &[Err(FaultKind::Unreachable)]).await;
    assert_eq!(result, Err(fault(FaultKind::Unreachable)));
    assert_eq!(attempts.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_may_have_had_its_effect_is_retried_only_if_idempotent() {
    for kind in [FaultKind::Trapped, FaultKind::DeadlineExceeded] {
        let guard = without_breaker(3);
        let (result, attempts) = run(&guard, patient(), IfNothingBegun, &[Err(kind), Ok(7)]).await;
        assert_eq!((result, attempts.len()), (Err(fault(kind)), 1));
        let (result, attempts) = run(&guard, patient(), Always, &[Err(kind), Ok(7)]).await;
        assert_eq!((result, attempts.len()), (Ok(7), 2));
    }
}

#[tokio::test(start_paused = true)]
async fn what_another_try_cannot_mend_is_not_retried() {
    for kind in [FaultKind::CircuitOpen, FaultKind::Denied, FaultKind::Cancelled] {
        let (result, attempts) = run(&without_breaker(3), patient(), Always, &[Err(kind)]).await;
        assert_eq!((result, attempts.len()), (Err(fault(kind)), 1));
    }
}

#[tokio::test(start_paused = true)]
async fn what_can_be_made_just_once_is_not_retried_whatever_it_ends_with() {
    for kind in FaultKind::ALL {
        let mut attempts = 0;
        let guard = without_breaker(3);
        let result = guard.run(patient(), Never, |_| {
            attempts += 1;
            async move { Err::<Answer<()>, _>(fault(kind)) }
        });
        assert_eq!((result.await, attempts), (Err(fault(kind)), 1));
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_may_get_better_is_asked_for_again_if_that_is_safe() {
    let guard = without_breaker(3);
    for status in [502, 503, 504] {
        assert_eq!(answered(&guard, Always, &[(status, None), (200, None)]).await, (Ok(200), 2));
        assert_eq!(answered(&guard, IfNothingBegun, &[(status, None)]).await, (Ok(status), 1));
        assert_eq!(answered(&guard, Never, &[(status, None)]).await, (Ok(status), 1));
    }
    assert_eq!(answered(&guard, Always, &[(503, None)]).await, (Ok(503), 3), "the last answer is the caller's");
    assert_eq!(answered(&guard, Always, &[(500, None)]).await, (Ok(500), 1));
}

#[tokio::test(start_paused = true)]
async fn the_callee_says_when_to_come_again() {
    let guard = without_breaker(2);
    let began = Instant::now();
    let busy = || fault(FaultKind::Overloaded).with_retry_after(ms(300));
    let result = guard.run(patient(), IfNothingBegun, |_| async { Err::<Answer<()>, _>(busy()) }).await;
    assert_eq!(began.elapsed(), ms(350));
    assert_eq!(result, Err(busy()));
    // Later than the deadline allows: no use in waiting.
    let began = Instant::now();
    guard.run(within(ms(349)), IfNothingBegun, |_| async { Err::<Answer<()>, _>(busy()) }).await.unwrap_err();
    assert_eq!(began.elapsed(), ms(0));
}

#[tokio::test(start_paused = true)]
async fn an_answer_says_when_to_ask_again() {
    let guard = without_breaker(2);
    let began = Instant::now();
    assert_eq!(answered(&guard, Always, &[(503, Some(ms(300))), (200, None)]).await, (Ok(200), 2));
    assert_eq!(began.elapsed(), ms(350));
    let began = Instant::now();
    assert_eq!(answered(&guard, Always, &[(503, Some(SECOND)), (200, None)]).await, (Ok(503), 1), "too late");
    assert_eq!(began.elapsed(), ms(0));
}

#[tokio::test(start_paused = true)]
async fn no_fault_claims_that_nothing_was_begun_when_an_earlier_attempt_was() {
    let guard = without_breaker(3);
    let ends = [Err(FaultKind::Trapped), Err(FaultKind::Unreachable)];
    let (result, attempts) = run(&guard, patient(), Always, &ends).await;
    assert_eq!((result, attempts.len()), (Err(fault(FaultKind::Trapped)), 3));
}

#[tokio::test(start_paused = true)]
async fn the_last_thing_that_happened_is_what_the_caller_gets() {
    let guard = without_breaker(2);
    let mut attempts = 0;
    let result = guard.run(patient(), Always, |_| {
        attempts += 1;
        async move {
            match attempts {
                1 => Ok(Answer { value: 503, status: Some(503), retry_after: None }),
                _ => Err(fault(FaultKind::Unreachable)),
            }
        }
    });
    assert_eq!(result.await, Err(fault(FaultKind::Unreachable)));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_what_the_breaker_will_refuse() {
    let guard = guard(policy());
    let began = Instant::now();
    let (result, attempts) = run(&guard, patient(), IfNothingBegun, &[Err(FaultKind::Unreachable)]).await;
    assert_eq!(began.elapsed(), ms(150));
    assert_eq!(result, Err(fault(FaultKind::Unreachable)), "the fault that tripped it, not its consequence");
    assert_eq!(attempts, [ms(0), ms(50), ms(150)], "the third tripped it; a fourth was allowed");
    assert_eq!(state(&guard), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_breaker_opened_by_others_during_the_pause_ends_the_call_with_its_own_fault() {
    let guard = guard(policy());
    let calls = async {
        let (result, attempts) = run(&guard, patient(), IfNothingBegun, &[Err(FaultKind::Unreachable)]).await;
        assert_eq!((result, attempts.len()), (Err(fault(FaultKind::Unreachable)), 1));
    };
    let others = async {
        sleep(ms(20)).await;
        trip(&guard).await;
    };
    tokio::join!(calls, others);
    assert_eq!(guard.snapshot().rejected, 0, "it was attempted");
}
