//! How calls find instances.

use super::{
    components::{leaf, relay},
    house::{House, plan, within},
};
use crate::policy::FaultKind;
use futures::future::join_all;
use std::time::Duration;

fn a_leaf() -> super::house::Plan {
    plan("leaf", leaf("t:leaf/work"), &[])
}

#[tokio::test]
async fn an_instance_is_used_again() {
    let house = House::new(vec![a_leaf()]).await;
    assert_eq!(house.call("leaf", "add", &[2, 3]).await, Ok(5));
    for expected in 1..=5 {
        assert_eq!(house.call("leaf", "count", &[]).await, Ok(expected));
    }
    let at_rest = house.instances("leaf");
    assert_eq!((at_rest.at_rest, at_rest.under_way, at_rest.in_flight, at_rest.queued), (1, 0, 0, 0));
}

#[tokio::test]
async fn an_instance_is_replaced_after_its_calls() {
    let house = House::new(vec![a_leaf().with(|it| it.reuse = 3)]).await;
    let mut counts = Vec::new();
    for _ in 0..7 {
        counts.push(house.call("leaf", "count", &[]).await.unwrap());
    }
    assert_eq!(counts, [1, 2, 3, 1, 2, 3, 1]);
}

#[tokio::test(start_paused = true)]
async fn calls_share_an_instance_up_to_its_concurrency_and_then_wait() {
    let house = House::new(vec![a_leaf().with(|it| (it.max, it.concurrency) = (1, 3))]).await;
    let begun = tokio::time::Instant::now();
    let counts = join_all((0..6).map(|_| house.call("leaf", "sleep", &[100]))).await;
    assert_eq!(counts.into_iter().map(Result::unwrap).max(), Some(6), "all in one instance");
    let took = begun.elapsed();
    assert!((200..300).contains(&took.as_millis()), "three at a time: {took:?}");
    house.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_into_the_queue_is_refused() {
    let house = House::new(vec![a_leaf().with(|it| (it.max, it.concurrency, it.queue) = (2, 1, 3))]).await;
    let answers = join_all((0..7).map(|_| house.call("leaf", "sleep", &[50]))).await;
    let (answered, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((answered.len(), refused.len()), (5, 2));
    for fault in refused {
        let fault = fault.unwrap_err();
        assert_eq!(fault.kind(), FaultKind::Overloaded);
        assert_eq!(fault.message(), "service `leaf` is busy: all 2 instances have all they can take, and 3 calls wait");
    }
    house.quiet().await;
    assert_eq!(house.instances("leaf").at_rest, 2);
}

#[tokio::test(start_paused = true)]
async fn there_are_never_more_instances_than_allowed() {
    let house = House::new(vec![a_leaf().with(|it| (it.max, it.concurrency) = (2, 1))]).await;
    let calls = join_all((0..10).map(|_| house.call("leaf", "sleep", &[10])));
    let watch = async {
        let mut most = 0;
        for _ in 0..60 {
            let now = house.instances("leaf");
            most = most.max(now.at_rest + now.under_way);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        most
    };
    let (answers, most) = tokio::join!(calls, watch);
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(most, 2);
}

/// The paused clock goes on only while every task waits: a worker that wakes itself all the time stops it.
#[tokio::test(start_paused = true)]
async fn a_retiring_instance_does_not_spin_while_calls_wait() {
    let house = House::new(vec![a_leaf().with(|it| (it.max, it.reuse) = (1, 1))]).await;
    let both = async { tokio::join!(house.call("leaf", "sleep", &[50]), house.call("leaf", "sleep", &[50])) };
    let (first, second) = limited(both).await;
    assert_eq!((first, second), (Ok(1), Ok(1)), "each had an instance of its own");
}

/// Like the one before, with a store that a synchronous import holds.
#[tokio::test(start_paused = true)]
async fn a_held_store_does_not_spin_and_its_calls_go_elsewhere() {
    let house = House::new(vec![a_leaf().with(|it| (it.max, it.concurrency) = (2, 4))]).await;
    let held = async { tokio::join!(house.call("leaf", "hold", &[3000]), house.call("leaf", "hold", &[20])) };
    let calls = async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let begun = tokio::time::Instant::now();
        let calls = (0..3).map(|_| house.call_within(within(Duration::from_secs(1)), "leaf", "count", &[]));
        (join_all(calls).await, begun.elapsed())
    };
    let (_, (answers, took)) = limited(async { tokio::join!(held, calls) }).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert!(took < Duration::from_millis(50), "they waited for {took:?} behind a held store");
    house.quiet().await;
}

/// A worker that begins by itself, because calls wait in the queue, lets its guest call others all the same.
#[tokio::test(start_paused = true)]
async fn a_call_from_the_queue_can_make_calls() {
    let house = House::new(vec![
        plan("relay", relay("t:relay/work", "t:leaf/work"), &["leaf"]).with(|it| (it.max, it.reuse) = (1, 1)),
        a_leaf(),
    ])
    .await;
    let answers = join_all((0..3).map(|_| house.call("relay", "sleep", &[10]))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
}

/// Ends where a future is polled without end, which would hang the test on a paused clock.
async fn limited<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut polls = 0;
    std::future::poll_fn(|cx| {
        polls += 1;
        assert!(polls < 10_000, "some worker spins");
        future.as_mut().poll(cx)
    })
    .await
}
