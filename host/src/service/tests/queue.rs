//! Calls that wait for an instance: whose turn it is, and who need not wait at all.

use super::{
    components::{leaf, relay},
    house::{House, plan, within},
};
use crate::policy::{Fault, FaultKind};
use futures::future::join_all;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A leaf that runs one call at a time, and a neighbour that calls it too.
async fn one_at_a_time(queue: usize) -> House {
    House::new(vec![
        plan("relay", relay("t:relay/work", "t:leaf/work"), &["leaf"]),
        plan("leaf", leaf("t:leaf/work"), &[]).with(|it| (it.max, it.concurrency, it.queue) = (1, 1, queue)),
    ])
    .await
}

/// Calls of `test`, all at once, each of a tenth of a second.
async fn burst(house: &House, calls: usize) -> Vec<Result<u32, Fault>> {
    join_all((0..calls).map(|_| house.call("leaf", "sleep", &[100]))).await
}

/// A call of `relay`, when the burst is there. How it ended, and after what time.
async fn neighbour(house: &House, function: &str, params: &[u32]) -> (Result<u32, Fault>, Duration) {
    sleep(ms(1)).await;
    let begun = Instant::now();
    let answer = house.call("relay", function, params).await;
    (answer, begun.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_callers_burst_does_not_make_the_others_wait_for_all_of_it() {
    let house = one_at_a_time(16).await;
    let (answers, (answer, took)) = tokio::join!(burst(&house, 10), neighbour(&house, "sleep", &[100]));
    assert!(answer.is_ok(), "{answer:?}");
    // For the one under way and one more; its own takes the third tenth of a second.
    assert!((ms(250)..ms(350)).contains(&took), "{took:?}");
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    house.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_callers_burst_does_not_keep_the_others_out() {
    let house = one_at_a_time(4).await;
    let (answers, (answer, _)) = tokio::join!(burst(&house, 7), neighbour(&house, "sleep", &[1]));
    assert!(answer.is_ok(), "{answer:?}");
    let faults: Vec<_> = answers.into_iter().filter_map(Result::err).collect();
    assert!(faults.iter().all(|fault| fault.kind() == FaultKind::Overloaded && fault.retry_after().is_some()));
    let mut messages: Vec<_> = faults.iter().map(Fault::message).collect();
    messages.sort_unstable();
    assert_eq!(
        messages,
        [
            "service `leaf` is busy: 4 calls wait, and the place of this one went to `relay`, which had fewer than its \
             share",
            "service `leaf` is busy: all 1 instances have all they can take, and 4 calls wait",
            "service `leaf` is busy: all 1 instances have all they can take, and 4 calls wait",
        ]
    );
    house.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn who_can_not_wait_so_long_is_sent_away_at_once() {
    let house = one_at_a_time(16).await;
    // Nothing is known of the queue before somebody has waited in it.
    assert!(burst(&house, 3).await.iter().all(Result::is_ok));
    let ask = async |limit| house.call_within(within(limit), "leaf", "sleep", &[1]).await;
    let asks = async {
        sleep(ms(1)).await;
        let begun = Instant::now();
        let hasty = ask(ms(350)).await;
        (hasty, begun.elapsed(), ask(ms(450)).await)
    };
    // One under way, and three that wait.
    let (answers, (hasty, took, patient)) = tokio::join!(burst(&house, 4), asks);
    let fault = hasty.unwrap_err();
    assert_eq!(
        (fault.kind(), fault.message()),
        (
            FaultKind::Overloaded,
            "service `leaf` is busy: 3 calls wait before it for an instance, which takes about 400.0ms, and the call has \
             350.0ms left"
        )
    );
    assert_eq!((fault.retry_after(), took), (Some(ms(400)), Duration::ZERO));
    assert!(patient.is_ok(), "{patient:?}");
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    house.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_neighbour_is_told_of_its_own_turn_and_not_of_the_whole_queue() {
    let house = one_at_a_time(16).await;
    assert!(burst(&house, 3).await.iter().all(Result::is_ok));
    let neighbour = async {
        sleep(ms(1)).await;
        house.call_within(within(ms(350)), "relay", "sleep", &[1]).await
    };
    let (_, answer) = tokio::join!(burst(&house, 10), neighbour);
    assert!(answer.is_ok(), "{answer:?}");
    house.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn the_first_in_the_queue_waits_whatever_was_before() {
    let house = one_at_a_time(16).await;
    let slow = join_all((0..2).map(|_| house.call("leaf", "sleep", &[20_000])));
    assert!(slow.await.iter().all(Result::is_ok));
    // A second later the leaf is quick again.
    for _ in 0..80 {
        let both = join_all((0..2).map(|_| house.call_within(within(ms(500)), "leaf", "sleep", &[1])));
        assert!(both.await.iter().all(Result::is_ok));
    }
    let many = join_all((0..8).map(|_| house.call_within(within(ms(500)), "leaf", "sleep", &[1])));
    assert!(many.await.iter().all(Result::is_ok), "and it is known");
    house.quiet().await;
}

/// Those whose callers gave up are no reason to send anybody away.
#[tokio::test(start_paused = true)]
async fn nobody_waits_for_those_who_left() {
    let house = one_at_a_time(16).await;
    assert!(burst(&house, 3).await.iter().all(Result::is_ok));
    let gives_up = async {
        sleep(ms(1)).await;
        tokio::time::timeout(ms(10), burst(&house, 8)).await.unwrap_err();
        house.call_within(within(ms(250)), "leaf", "sleep", &[1]).await
    };
    let (answers, answer) = tokio::join!(burst(&house, 2), gives_up);
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert!(answer.is_ok(), "{answer:?}");
    house.quiet().await;
}
