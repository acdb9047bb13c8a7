//! How many retries an edge may make.

use super::*;
use crate::policy::BudgetPolicy;

fn with_budget(percent: u32, min_per_second: u32) -> Guard {
    let budget = Some(BudgetPolicy::try_new(percent, min_per_second).unwrap());
    let retry = RetryPolicy::try_new(RetryParams { attempts: 3, budget, ..RetryParams::default() }).unwrap();
    guard(of(PolicyParams { retry, breaker: None, ..params() }))
}

#[tokio::test(start_paused = true)]
async fn retries_are_bounded_by_the_budget_of_the_edge() {
    let guard = with_budget(20, 0);
    let mut attempts = 0;
    for _ in 0..100 {
        attempts += run(&guard, patient(), IfNothingBegun, &[Err(FaultKind::Unreachable)]).await.1.len();
    }
    assert_eq!(attempts, 120, "a hundred calls and a fifth more, where three times as many were allowed");
    let snapshot = guard.snapshot();
    assert_eq!((snapshot.retries, snapshot.budget.unwrap().left), (20, 0));
    assert!(snapshot.refused_retries > 0);
}

#[tokio::test(start_paused = true)]
async fn another_policy_keeps_the_budget_that_it_does_not_change() {
    let guard = with_budget(0, 1);
    for _ in 0..10 {
        let _failed = run(&guard, patient(), IfNothingBegun, &[Err(FaultKind::Unreachable)]).await;
    }
    let same = guard.with_policy(of(PolicyParams { deadline: 2 * SECOND, ..guard.policy().params().clone() }));
    assert_eq!(same.snapshot().budget.unwrap().left, 0);
    assert_eq!(guard.with_policy(with_budget(0, 2).policy().clone()).snapshot().budget.unwrap().left, 20);
    assert_eq!(without_retry(None).snapshot().budget, None, "no retry, no budget");
}
