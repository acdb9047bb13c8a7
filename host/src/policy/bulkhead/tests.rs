use super::*;
use by_hand::{Task, spawn};

/// Futures polled by hand, so that a test says exactly who came when.
mod by_hand {
    use std::{
        future::Future,
        pin::Pin,
        task::{Context, Poll, Waker},
    };

    pub struct Task<'a, T>(Pin<Box<dyn Future<Output = T> + 'a>>);

    pub fn spawn<'a, T>(future: impl Future<Output = T> + 'a) -> Task<'a, T> {
        Task(Box::pin(future))
    }

    impl<T> Task<'_, T> {
        pub fn poll(&mut self) -> Poll<T> {
            self.0.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        }
    }
}

fn bulkhead(concurrent: u32, queue: u32) -> Bulkhead {
    Bulkhead::new(BulkheadPolicy::try_new(concurrent, queue).unwrap())
}

fn in_a_second() -> Instant {
    Instant::now() + Duration::from_secs(1)
}

/// A call that stands in the queue.
fn wait(bulkhead: &Bulkhead) -> Task<'_, Result<Permit<'_>, Refused>> {
    let mut task = spawn(bulkhead.enter(Instant::now(), in_a_second()));
    assert!(task.poll().is_pending());
    task
}

#[tokio::test(start_paused = true)]
async fn lets_so_many_in_and_no_more() {
    let bulkhead = bulkhead(2, 0);
    let first = bulkhead.try_enter(Instant::now()).unwrap();
    let _second = bulkhead.try_enter(Instant::now()).unwrap();
    assert!(bulkhead.try_enter(Instant::now()).is_none());
    drop(first);
    assert!(bulkhead.try_enter(Instant::now()).is_some());
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_first_come_first_served_and_nobody_passes_it() {
    let bulkhead = bulkhead(1, 3);
    let mut inside = bulkhead.try_enter(Instant::now());
    let mut waiting: Vec<_> = (0..3).map(|_| wait(&bulkhead)).collect();
    while !waiting.is_empty() {
        drop(inside.take());
        assert!(bulkhead.try_enter(Instant::now()).is_none(), "who comes now does not pass those who wait");
        for late in &mut waiting[1..] {
            assert!(late.poll().is_pending());
        }
        match waiting.remove(0).poll() {
            std::task::Poll::Ready(Ok(permit)) => inside = Some(permit),
            other => panic!("the first in the queue got {other:?}"),
        }
        assert_eq!(bulkhead.queued() as usize, waiting.len());
    }
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_bounded() {
    let bulkhead = bulkhead(1, 2);
    let _inside = bulkhead.try_enter(Instant::now()).unwrap();
    let _waiting = [wait(&bulkhead), wait(&bulkhead)];
    assert_eq!(bulkhead.queued(), 2);
    assert_eq!(bulkhead.enter(Instant::now(), in_a_second()).await.unwrap_err(), Refused::Full);
    assert_eq!(bulkhead.queued(), 2);
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_leaves_the_queue() {
    let bulkhead = bulkhead(1, 2);
    let inside = bulkhead.try_enter(Instant::now()).unwrap();
    let (first, mut second) = (wait(&bulkhead), wait(&bulkhead));
    drop(first);
    assert_eq!(bulkhead.queued(), 1);
    let third = wait(&bulkhead);
    drop(inside);
    assert!(second.poll().is_ready());
    drop(third);
    assert_eq!(bulkhead.queued(), 0);
    assert!(bulkhead.try_enter(Instant::now()).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_permit_handed_to_one_who_gives_up_is_not_lost() {
    let bulkhead = bulkhead(1, 2);
    let inside = bulkhead.try_enter(Instant::now()).unwrap();
    let (first, mut second) = (wait(&bulkhead), wait(&bulkhead));
    // The permit is the first's now, which never looks at it.
    drop(inside);
    drop(first);
    assert!(second.poll().is_ready());
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_at_the_deadline() {
    let bulkhead = bulkhead(1, 1);
    let _inside = bulkhead.try_enter(Instant::now()).unwrap();
    let deadline = in_a_second();
    assert_eq!(bulkhead.enter(Instant::now(), deadline).await.unwrap_err(), Refused::Deadline);
    assert_eq!(Instant::now(), deadline);
    assert_eq!(bulkhead.queued(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_can_not_wait_so_long_is_sent_away_at_once() {
    let bulkhead = bulkhead(1, 10);
    let second = Duration::from_secs(1);
    let enter = |within| bulkhead.enter(Instant::now(), Instant::now() + within);
    // Nothing is known yet: whoever comes may wait.
    let inside = bulkhead.try_enter(Instant::now()).unwrap();
    let mut waiting = wait(&bulkhead);
    tokio::time::advance(second / 2).await;
    drop(inside);
    let std::task::Poll::Ready(Ok(_inside)) = waiting.poll() else { panic!("it is its turn") };
    // A place is held for half a second.
    let mut queue = vec![spawn(enter(second))];
    assert!(queue[0].poll().is_pending());
    assert_eq!(enter(second).await.unwrap_err(), Refused::Hopeless(second), "two before it");
    queue.push(spawn(enter(second * 2)));
    assert!(queue[1].poll().is_pending(), "with more time it may wait");
    assert_eq!(bulkhead.queued(), 2, "who is sent away leaves no place taken");
}

/// The measure is taken of those who wait. If nobody were let in because of it, it would stay what it is.
#[tokio::test(start_paused = true)]
async fn a_queue_that_was_slow_finds_out_that_it_no_longer_is() {
    let bulkhead = bulkhead(1, 10);
    let second = Duration::from_secs(1);
    for hold in std::iter::once(60 * second).chain(std::iter::repeat_n(Duration::from_millis(1), 60)) {
        let inside = bulkhead.try_enter(Instant::now()).unwrap();
        let mut waiting = spawn(bulkhead.enter(Instant::now(), Instant::now() + second * 100));
        assert!(waiting.poll().is_pending());
        tokio::time::advance(hold).await;
        drop(inside);
        assert!(waiting.poll().is_ready());
    }
    let _inside = bulkhead.try_enter(Instant::now()).unwrap();
    let _first = wait(&bulkhead);
    let _second = wait(&bulkhead);
}

#[test]
fn nonsense_is_refused() {
    let refused = |concurrent, queue| BulkheadPolicy::try_new(concurrent, queue).unwrap_err().to_string();
    assert_eq!(refused(0, 1), "`bulkhead.concurrent`: expected 1 to 1000000, found 0");
    assert_eq!(refused(1_000_001, 1), "`bulkhead.concurrent`: expected 1 to 1000000, found 1000001");
    assert_eq!(refused(1, 1_000_001), "`bulkhead.queue`: expected 0 to 1000000, found 1000001");
    assert!(BulkheadPolicy::try_new(1, 0).is_ok());
}
