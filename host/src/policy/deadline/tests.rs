use super::*;
use std::{
    future::{pending, ready},
    sync::atomic::{AtomicU32, Ordering},
};

const SECOND: Duration = Duration::from_secs(1);

fn until_at(at: Instant) -> Deadline {
    Deadline { at, of: "gateway -> order".into() }
}

fn allowance(now: Instant, callers: Duration) -> Allowance {
    Allowance::new(now, (SECOND, &"order -> user".into()), &until_at(now + callers))
}

#[tokio::test(start_paused = true)]
async fn the_nearer_deadline_holds_and_keeps_its_name() {
    let now = Instant::now();
    let edges = allowance(now, 2 * SECOND);
    assert_eq!((edges.at(), &*edges.until.of, edges.is_callers()), (now + SECOND, "order -> user", false));
    let callers = allowance(now, SECOND / 2);
    assert_eq!((callers.at(), &*callers.until.of, callers.is_callers()), (now + SECOND / 2, "gateway -> order", true));

    let (mine, deadline) = ("the route /x".into(), until_at(now + SECOND));
    assert_eq!(deadline.or_in(2 * SECOND, &mine), deadline);
    assert_eq!(deadline.or_in(SECOND / 2, &mine), Deadline { at: now + SECOND / 2, of: mine });
    assert_eq!(deadline.remaining(), SECOND);
    tokio::time::advance(2 * SECOND).await;
    assert_eq!(deadline.remaining(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn half_the_time_of_the_edge_is_a_fair_chance() {
    let now = Instant::now();
    let fair = |given| allowance(now, given).was_fair(now);
    assert!(fair(2 * SECOND));
    assert!(fair(SECOND - Duration::from_nanos(1)), "the caller's deadline is nearly always a little nearer");
    assert!(fair(SECOND / 2));
    assert!(!fair(SECOND / 2 - Duration::from_nanos(1)));
    // What counts is what the attempt had, not the call.
    let patient = allowance(now, 2 * SECOND);
    assert!(!patient.was_fair(now + SECOND * 3 / 4));
    assert!(!patient.was_fair(now + 2 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn what_is_ready_passes_and_what_is_not_is_cut_off() {
    let deadline = Instant::now() + SECOND;
    assert_eq!(until(deadline, pin!(ready(1))).await, Ok(1));
    assert_eq!(until(deadline, pin!(tokio::time::sleep(SECOND / 2))).await, Ok(()));
    assert_eq!(until(deadline, pin!(pending::<()>())).await, Err(Elapsed));
    assert_eq!(Instant::now(), deadline);
    // Also when the deadline is past: an answer that is there is an answer.
    assert_eq!(until(deadline, pin!(ready(2))).await, Ok(2));
    assert_eq!(until(deadline, pin!(pending::<()>())).await, Err(Elapsed));
}

#[tokio::test]
async fn a_future_that_uses_up_its_budget_is_cut_off_all_the_same() {
    let polls = AtomicU32::new(0);
    let greedy = async {
        loop {
            polls.fetch_add(1, Ordering::Relaxed);
            tokio::task::consume_budget().await;
        }
    };
    assert_eq!(until(Instant::now() + Duration::from_millis(20), pin!(greedy)).await, Err::<(), _>(Elapsed));
    assert!(polls.into_inner() > 0);
}
