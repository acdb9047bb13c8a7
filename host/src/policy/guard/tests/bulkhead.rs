//! Who gets in, who waits, and who is sent away.

use super::*;
use crate::policy::Failure;

#[tokio::test(start_paused = true)]
async fn a_full_bulkhead_refuses() {
    let guard = with_bulkhead(2, 1);
    let _calls = [begin(&guard).await, begin(&guard).await, begin(&guard).await];
    let snapshot = guard.snapshot();
    assert_eq!((snapshot.in_flight, snapshot.queued), (2, 1));
    let (result, attempts) = run(&guard, patient(), Always, &[Ok(7)]).await;
    let refused = result.unwrap_err();
    assert_eq!((refused.kind(), attempts.len()), (FaultKind::Overloaded, 0));
    let expected = "order -> user: the bulkhead is full (2 calls may be under way and 1 wait, and as many do)";
    assert_eq!(refused.message(), expected);
    assert_eq!(guard.snapshot().breaker.unwrap().consecutive_failures, 0, "it says nothing of the callee");
}

#[tokio::test(start_paused = true)]
async fn a_call_may_wait_until_its_deadline() {
    let guard = with_bulkhead(1, 1);
    let _first = begin(&guard).await;
    let began = Instant::now();
    let late = hang(&guard, within(ms(100))).await;
    assert_eq!((late.kind(), began.elapsed()), (FaultKind::DeadlineExceeded, ms(100)));
    let snapshot = guard.snapshot();
    assert_eq!((snapshot.in_flight, snapshot.queued, snapshot.rejected), (1, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_place_that_comes_with_the_deadline_comes_too_late() {
    let guard = with_bulkhead(1, 1);
    let deadline = within(ms(100));
    let calls = async { hang(&guard, deadline).await };
    let waits = async { run(&guard, deadline, IfNothingBegun, &[Ok(7)]).await };
    // In this order, so that the place is free when the other is woken by its deadline.
    let (_, (result, attempts)) = tokio::join!(biased; calls, waits);
    assert_eq!((result.unwrap_err().kind(), attempts.len()), (FaultKind::DeadlineExceeded, 0));
    assert_eq!(guard.snapshot().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_given_up_makes_room() {
    let guard = with_bulkhead(1, 1);
    let (first, second) = (begin(&guard).await, begin(&guard).await);
    first.abort();
    yield_now().await;
    let snapshot = guard.snapshot();
    assert_eq!((snapshot.in_flight, snapshot.queued), (1, 0));
    second.abort();
    yield_now().await;
    succeed(&guard).await;
    let snapshot = guard.snapshot();
    assert_eq!((snapshot.in_flight, snapshot.calls, snapshot.faults["cancelled"]), (0, 3, 2));
    assert_eq!(snapshot.breaker.unwrap().consecutive_failures, 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_keeps_its_place_while_it_pauses() {
    let guard = with_bulkhead(1, 0);
    let calls = run(&guard, patient(), IfNothingBegun, &[Err(FaultKind::Unreachable), Ok(7)]);
    let others = async {
        sleep(ms(25)).await;
        run(&guard, patient(), IfNothingBegun, &[Ok(7)]).await.0.unwrap_err().kind()
    };
    let ((result, _), other) = tokio::join!(calls, others);
    assert_eq!((result, other), (Ok(7), FaultKind::Overloaded));
}

#[tokio::test(start_paused = true)]
async fn nobody_queues_before_an_open_breaker() {
    let guard = with_bulkhead(3, 10);
    let _calls = [begin(&guard).await, begin(&guard).await, begin(&guard).await];
    // Three hang; three that were quicker told that the callee is dead.
    let breaker = guard.breaker.as_ref().unwrap();
    (0..3).for_each(|_| {
        breaker.admit().unwrap().end(Outcome::failed(Failure::Fault(FaultKind::Trapped)), Instant::now())
    });
    let began = Instant::now();
    let refused = hang(&guard, patient()).await;
    assert_eq!((refused.kind(), began.elapsed()), (FaultKind::CircuitOpen, ms(0)));
}

#[tokio::test(start_paused = true)]
async fn who_can_not_wait_so_long_is_sent_away_with_the_time_that_it_takes() {
    let guard = with_bulkhead(1, 10);
    let hold = |_| async {
        sleep(ms(300)).await;
        Ok(Answer::of(7))
    };
    let deadline = patient();
    let [first, second, third] = std::array::from_fn(|_| guard.run(deadline, IfNothingBegun, hold));
    let hasty = async {
        // By now one has held the place for 300 ms while others waited, of whom one has it and one waits still.
        sleep(ms(301)).await;
        let refused = hang(&guard, within(ms(500))).await;
        assert_eq!((refused.kind(), refused.retry_after()), (FaultKind::Overloaded, Some(ms(600))));
        let expected = "order -> user: 1 calls wait before the bulkhead, which takes about 600.0ms, and the call has \
                        500.0ms left";
        assert_eq!(refused.message(), expected);
    };
    let (first, second, third, ()) = tokio::join!(first, second, third, hasty);
    assert_eq!((first, second, third), (Ok(7), Ok(7), Ok(7)));
}
