//! What an attempt is, and what is left of it.

use super::*;
use std::{future::poll_fn, task::Poll};

#[tokio::test(start_paused = true)]
async fn an_answer_passes_through() {
    let guard = guard(policy());
    succeed(&guard).await;
    let snapshot = guard.snapshot();
    assert_eq!((snapshot.calls, snapshot.in_flight, snapshot.retries, snapshot.rejected), (1, 0, 0, 0));
    assert!(snapshot.faults.is_empty());
}

#[tokio::test(start_paused = true)]
async fn nothing_of_an_attempt_outlives_it() {
    let guard = without_breaker(3);
    let held = Arc::new(());
    let call = guard.run(patient(), IfNothingBegun, |_| {
        assert_eq!(Arc::strong_count(&held), 1, "the attempt before is gone");
        let held = Arc::clone(&held);
        // Unlike an async block, it holds what it has until it is dropped.
        poll_fn(move |_| {
            let _held = &held;
            Poll::Ready(Err::<Answer<()>, _>(fault(FaultKind::Unreachable)))
        })
    });
    let watch = async {
        sleep(ms(25)).await;
        assert_eq!(Arc::strong_count(&held), 1, "gone before the pause, not after it");
    };
    tokio::join!(async { call.await.unwrap_err() }, watch);
}

#[tokio::test(start_paused = true)]
async fn a_call_keeps_its_attempt_only_once() {
    let guard = guard(policy());
    let call = guard.run(patient(), IfNothingBegun, |_| async {
        let room = [0_u8; 4096];
        yield_now().await;
        Ok(Answer::of(std::hint::black_box(&room)[0]))
    });
    assert!(size_of_val(&call) < 2 * 4096, "{} bytes", size_of_val(&call));
}
