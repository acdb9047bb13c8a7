use super::*;
use futures::{FutureExt, future::BoxFuture, task::noop_waker};
use std::{cell::RefCell, future::poll_fn, sync::atomic::AtomicUsize};
use tokio::sync::oneshot;

type Task = BoxFuture<'static, u32>;

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll(set: &mut Set<Task>, waker: &Waker) -> (Poll<()>, Vec<u32>) {
    let mut ended = Vec::new();
    let polled = set.poll(&mut Context::from_waker(waker), |output| ended.push(output), || None);
    (polled, ended)
}

#[test]
fn members_that_wake_each_other_need_one_poll_and_no_waking() {
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    let mut set = Set::default();
    let (there, arrived) = oneshot::channel();
    let (back, returned) = oneshot::channel();
    set.push(async move { there.send(1).map_or(0, |()| 0u32) + returned.await.unwrap() }.boxed());
    set.push(async move { back.send(arrived.await.unwrap() + 1).map_or(0, |()| 10u32) }.boxed());
    let (polled, mut ended) = poll(&mut set, &waker);
    ended.sort_unstable();
    assert_eq!((polled, ended), (Poll::Ready(()), vec![2, 10]));
    assert_eq!(wakes.0.load(Ordering::SeqCst), 0);
}

#[test]
fn a_member_that_yields_gets_its_next_turn_with_the_next_poll() {
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    let polls = Arc::new(AtomicUsize::new(0));
    let mut set: Set<Task> = Set::default();
    let counted = polls.clone();
    let yields = poll_fn(move |cx| {
        counted.fetch_add(1, Ordering::SeqCst);
        cx.waker().wake_by_ref();
        Poll::<u32>::Pending
    });
    set.push(yields.boxed());
    for expected in 1..4 {
        assert_eq!(poll(&mut set, &waker).0, Poll::Pending);
        assert_eq!(polls.load(Ordering::SeqCst), expected);
        assert_eq!(wakes.0.load(Ordering::SeqCst), expected, "its task is woken for it");
    }
}

#[test]
fn a_member_that_nobody_woke_is_left_alone() {
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    let polls = Arc::new(AtomicUsize::new(0));
    let mut set: Set<Task> = Set::default();
    let counted = polls.clone();
    set.push(
        poll_fn(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            Poll::Pending
        })
        .boxed(),
    );
    let (done, wait) = oneshot::channel::<u32>();
    set.push(async move { wait.await.unwrap() }.boxed());
    assert!(poll(&mut set, &waker).0.is_pending());
    assert!(poll(&mut set, &waker).0.is_pending());
    assert_eq!((polls.load(Ordering::SeqCst), wakes.0.load(Ordering::SeqCst)), (1, 0));
    done.send(7).unwrap();
    assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
    assert_eq!(poll(&mut set, &waker).1, [7]);
    assert_eq!(polls.load(Ordering::SeqCst), 1);
}

#[test]
fn who_joins_meanwhile_is_polled_at_once() {
    let joining = RefCell::new(vec![async { 2 }.boxed(), async { 3 }.boxed()]);
    let mut set: Set<Task> = Set::default();
    set.push(async { 1 }.boxed());
    let mut ended = Vec::new();
    let mut cx = Context::from_waker(Waker::noop());
    let polled = set.poll(&mut cx, |output| ended.push(output), || joining.borrow_mut().pop());
    ended.sort_unstable();
    assert_eq!((polled, ended), (Poll::Ready(()), vec![1, 2, 3]));
}

#[test]
fn a_member_that_panics_is_gone_and_the_others_go_on() {
    let mut set: Set<Task> = Set::default();
    set.push(async { panic!("on purpose") }.boxed());
    set.push(async { 5 }.boxed());
    let waker = noop_waker();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| poll(&mut set, &waker)));
    assert!(panicked.is_err());
    assert_eq!(poll(&mut set, &waker), (Poll::Ready(()), vec![5]));
}

/// Members are woken from other threads at any moment of a poll: no wake-up is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_wake_up_is_lost() {
    for _ in 0..500 {
        let mut set: Set<Task> = Set::default();
        for value in 0..4 {
            let (first, wait_first) = oneshot::channel();
            let (second, wait_second) = oneshot::channel();
            tokio::spawn(async move {
                first.send(()).unwrap();
                tokio::task::yield_now().await;
                second.send(value).unwrap();
            });
            set.push(
                async move {
                    wait_first.await.unwrap();
                    wait_second.await.unwrap()
                }
                .boxed(),
            );
        }
        let mut sum = 0;
        let all = poll_fn(|cx| set.poll(cx, |value| sum += value, || None));
        tokio::time::timeout(std::time::Duration::from_secs(20), all).await.unwrap();
        assert_eq!(sum, 6);
    }
}

#[test]
fn within_another_set_a_lone_member_wakes_the_task_itself_and_more_of_them_as_ever() {
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    let woken = || wakes.0.load(Ordering::SeqCst);
    let mut cx = Context::from_waker(&waker);
    let mut ended = Vec::new();
    let mut set: Set<Task> = Set::default();
    let (first, wait_first) = oneshot::channel();
    let (second, wait_second) = oneshot::channel();
    set.push(async { wait_first.await.unwrap() }.boxed());
    assert!(set.poll_within(&mut cx, |output| ended.push(output)).is_pending());
    set.push(async { wait_second.await.unwrap() }.boxed());
    assert!(set.poll_within(&mut cx, |output| ended.push(output)).is_pending());
    assert_eq!(woken(), 0);
    // The first was polled before there was another one, and is woken all the same.
    first.send(1).unwrap();
    assert_eq!(woken(), 1);
    assert!(set.poll_within(&mut cx, |output| ended.push(output)).is_pending());
    // Alone again.
    assert!(set.poll_within(&mut cx, |output| ended.push(output)).is_pending());
    second.send(2).unwrap();
    assert_eq!(woken(), 2);
    assert!(set.poll_within(&mut cx, |output| ended.push(output)).is_ready());
    assert_eq!(ended, [1, 2]);
    assert!(set.is_empty());
}

#[test]
fn who_wakes_all_has_all_polled() {
    let polls = Arc::new(AtomicUsize::new(0));
    let mut set: Set<Task> = Set::default();
    for _ in 0..2 {
        let counted = polls.clone();
        set.push(
            poll_fn(move |_| {
                counted.fetch_add(1, Ordering::SeqCst);
                Poll::Pending
            })
            .boxed(),
        );
    }
    assert!(poll(&mut set, Waker::noop()).0.is_pending());
    set.wake_all();
    assert!(poll(&mut set, Waker::noop()).0.is_pending());
    assert_eq!(polls.load(Ordering::SeqCst), 4);
}
