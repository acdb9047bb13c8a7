//! Guests that trap, compute for too long, take too much; callers that leave.

use super::{
    components::{hasty, leaf, relay, stillborn},
    house::{House, plan, within},
};
use crate::policy::FaultKind;
use futures::future::join_all;
use std::time::Duration;

fn a_leaf() -> super::house::Plan {
    plan("leaf", leaf("t:leaf/work"), &[])
}

#[tokio::test(start_paused = true)]
async fn a_trap_ends_all_calls_in_its_instance_and_no_other() {
    let house = House::new(vec![a_leaf().with(|it| it.max = 2)]).await;
    let (first, second, third, trapped) = tokio::join!(
        house.call("leaf", "sleep", &[50]),
        house.call("leaf", "sleep", &[50]),
        house.call("leaf", "sleep", &[50]),
        async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            house.call("leaf", "trap", &[]).await
        },
    );
    let trapped = trapped.unwrap_err();
    assert_eq!(trapped.kind(), FaultKind::Trapped);
    assert_eq!(trapped.message(), "service `leaf` trapped: wasm trap: wasm `unreachable` instruction executed");
    // Which of the two instances the calls share is chance, but there is at least one in each.
    let (survived, fell): (Vec<_>, Vec<_>) = [first, second, third].into_iter().partition(Result::is_ok);
    assert!(!survived.is_empty() && !fell.is_empty(), "{survived:?} {fell:?}");
    assert!(fell.iter().all(|end| *end == Err(trapped.clone())), "{fell:?}");
    assert_eq!(house.call("leaf", "add", &[1, 1]).await, Ok(2));
    house.quiet().await;
}

#[tokio::test]
async fn a_guest_that_computes_for_too_long_traps() {
    let house = House::new(vec![a_leaf()]).await;
    let fault = house.call("leaf", "spin", &[]).await.unwrap_err();
    assert_eq!(fault.kind(), FaultKind::Trapped);
    assert_eq!(
        fault.message(),
        "service `leaf` trapped: cpu limit reached: it computed for 100ms without a pause (`limits.cpu`)"
    );
}

#[tokio::test]
async fn a_guest_that_computes_is_dropped_with_its_callers_deadline() {
    let house = House::new(vec![a_leaf().with(|it| it.cpu = Duration::from_secs(60))]).await;
    let begun = tokio::time::Instant::now();
    let fault = house.call_within(within(Duration::from_millis(50)), "leaf", "spin", &[]).await.unwrap_err();
    assert_eq!(fault.kind(), FaultKind::DeadlineExceeded);
    house.quiet().await;
    assert!(begun.elapsed() < Duration::from_secs(20), "it went on for {:?}", begun.elapsed());
    assert_eq!(house.instances("leaf").at_rest, 0);
    assert_eq!(house.call("leaf", "add", &[1, 1]).await, Ok(2));
}

#[tokio::test]
async fn a_busy_guest_lets_the_others_on_its_thread_go_on() {
    let house = House::new(vec![a_leaf().with(|it| it.cpu = Duration::from_secs(60))]).await;
    let busy = house.call_within(within(Duration::from_millis(300)), "leaf", "spin", &[]);
    let other = async {
        let mut done = 0;
        while done < 5 {
            assert!(house.call("leaf", "add", &[1, 1]).await.is_ok());
            tokio::task::yield_now().await;
            done += 1;
        }
    };
    // One thread for both.
    let (busy, ()) = tokio::join!(busy, other);
    assert_eq!(busy.unwrap_err().kind(), FaultKind::DeadlineExceeded);
}

#[tokio::test]
async fn the_memory_limit_is_named() {
    let house = House::new(vec![a_leaf()]).await;
    let fault = house.call("leaf", "grow", &[100]).await.unwrap_err();
    assert_eq!(
        fault.message(),
        "service `leaf` trapped: memory limit reached: it wanted 6619136 bytes, and `limits.memory` allows 4194304"
    );
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_takes_its_instance_along() {
    let house = House::new(vec![a_leaf()]).await;
    let fault = house.call_within(within(Duration::from_millis(20)), "leaf", "sleep", &[4000]).await.unwrap_err();
    assert_eq!(fault.kind(), FaultKind::DeadlineExceeded);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let after = house.instances("leaf");
    assert_eq!((after.at_rest, after.under_way), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_takes_nobody_else_along() {
    let house = House::new(vec![a_leaf().with(|it| it.max = 1)]).await;
    // The one that leaves is also the one whose task runs the worker.
    let (left, stayed, late) = tokio::join!(
        house.call_within(within(Duration::from_millis(20)), "leaf", "sleep", &[4000]),
        house.call("leaf", "sleep", &[100]),
        async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            house.call("leaf", "count", &[]).await
        }
    );
    assert_eq!(left.unwrap_err().kind(), FaultKind::DeadlineExceeded);
    assert_eq!(stayed, Ok(2));
    assert_eq!(late, Ok(1), "an instance that was given up takes no more calls");
    house.quiet().await;
    assert_eq!(house.instances("leaf").at_rest, 1);
}

#[tokio::test(start_paused = true)]
async fn a_callee_is_given_up_with_its_caller() {
    let house = House::new(vec![plan("relay", relay("t:relay/work", "t:leaf/work"), &["leaf"]), a_leaf()]).await;
    let fault = house.call_within(within(Duration::from_millis(20)), "relay", "sleep", &[4000]).await.unwrap_err();
    assert_eq!(fault.kind(), FaultKind::DeadlineExceeded);
    tokio::time::sleep(Duration::from_millis(20)).await;
    for service in ["relay", "leaf"] {
        let after = house.instances(service);
        assert_eq!((after.at_rest, after.under_way), (0, 0), "{service}");
    }
}

#[tokio::test(start_paused = true)]
async fn callers_of_a_held_store_can_leave_before_they_are_begun() {
    let house = House::new(vec![a_leaf().with(|it| it.max = 1)]).await;
    let calls = (0..3).map(|at| house.call_within(within(Duration::from_millis(20 + at)), "leaf", "hold", &[60_000]));
    for answer in join_all(calls).await {
        assert_eq!(answer.unwrap_err().kind(), FaultKind::DeadlineExceeded);
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let after = house.instances("leaf");
    assert_eq!((after.at_rest, after.under_way, after.queued), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn every_call_that_waits_learns_that_no_instance_can_be_made() {
    let house = House::new(vec![plan("dead", stillborn("t:dead/work"), &[]).with(|it| it.max = 1)]).await;
    for answer in join_all((0..4).map(|_| house.call("dead", "run", &[]))).await {
        let fault = answer.unwrap_err();
        assert_eq!(fault.kind(), FaultKind::Trapped);
        assert!(fault.message().starts_with("service `dead` could not be instantiated: "), "{fault}");
    }
    house.quiet().await;
    assert_eq!(house.instances("dead").at_rest, 0);
}

#[tokio::test]
async fn an_instance_may_call_others_while_it_is_made() {
    let plans = [plan("hasty", hasty("t:hasty/work", "t:leaf/work"), &["leaf"]), a_leaf()];
    let house = House::unstarted(&plans).await;
    house.services["leaf"].swap(Some(house.revision(&plans[1]).unwrap().into()));
    let revision = house.revision(&plans[0]).unwrap();
    revision.warm().await.unwrap();
    house.services["hasty"].swap(Some(revision.into()));
    assert_eq!(house.call("hasty", "sum", &[]).await, Ok(3));
}

#[tokio::test(start_paused = true)]
async fn what_a_revision_has_not_begun_when_its_drain_ends_it_never_begins() {
    let house = House::new(vec![a_leaf().with(|it| (it.max, it.concurrency) = (1, 1))]).await;
    let revision = house.services["leaf"].revision().unwrap();
    let begun = house.call("leaf", "sleep", &[4000]);
    let waiting = join_all((0..3).map(|_| house.call("leaf", "count", &[])));
    let drain = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        revision.drain(Duration::from_millis(10)).await
    };
    let (begun, waiting, ended) = tokio::join!(begun, waiting, drain);
    assert_eq!(ended, 4);
    assert_eq!(begun.unwrap_err().kind(), FaultKind::Cancelled);
    assert!(
        waiting.iter().all(|it| it.as_ref().is_err_and(|fault| fault.kind() == FaultKind::Unreachable)),
        "{waiting:?}"
    );
    house.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_instance_is_made_too_late_is_not_begun_in_it() {
    let plans = [
        plan("hasty", hasty("t:hasty/work", "t:leaf/work"), &["leaf"]),
        a_leaf().with(|it| (it.max, it.concurrency) = (1, 1)),
    ];
    let house = House::new(plans.into()).await;
    let revision = house.services["hasty"].revision().unwrap();
    // The leaf has no instance free for as long as this takes, and without its answer there is none of `hasty`.
    let slow = house.call("leaf", "sleep", &[1000]);
    let late = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let late = house.call("hasty", "sum", &[]).await;
        (late, tokio::time::Instant::now())
    };
    let begun = tokio::time::Instant::now();
    let drain = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        revision.drain(Duration::from_millis(10)).await
    };
    let (slow, (late, at), ended) = tokio::join!(slow, late, drain);
    assert_eq!((slow, ended), (Ok(1), 1));
    assert_eq!(late.unwrap_err().kind(), FaultKind::Unreachable);
    assert!(at - begun < Duration::from_millis(100), "it waited for the instance");
    house.quiet().await;
    assert_eq!(house.instances("hasty").at_rest, 0);
}
