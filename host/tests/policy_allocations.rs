//! A call through a closed edge allocates nothing. In a binary of its own, because it counts every allocation.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    time::Duration,
};
use tokio::time::Instant;
use wharf::policy::{
    Answer, BreakerParams, BreakerPolicy, Deadline, FailureParams, FailurePolicy, Guard, Policy, PolicyParams, Repeat,
    WindowSize,
};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: all work is the system allocator's; the counter is a thread's own, needs no allocation and no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps `alloc`'s contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract, and `pointer` came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How many allocations a hundred calls make, after the first.
async fn allocations(guard: &Guard, yields: bool) -> u64 {
    let deadline = Deadline { at: Instant::now() + Duration::from_secs(3600), of: "test".into() };
    let mut before = 0;
    for number in 0..101 {
        if number == 1 {
            before = ALLOCATIONS.get();
        }
        let answer = guard.run(&deadline, Repeat::Always, |attempt| async move {
            if yields {
                tokio::task::yield_now().await;
            }
            Ok(Answer::of(attempt.number))
        });
        assert_eq!(answer.await, Ok(1));
    }
    ALLOCATIONS.get() - before
}

/// A policy with all that there is.
fn whole(window: WindowSize) -> Policy {
    let breaker = BreakerParams { failure_rate: Some(50), slow_rate: Some(50), window, ..BreakerParams::default() };
    let failure = FailureParams { slow: Some(Duration::from_secs(1)), ..FailureParams::default() };
    Policy::try_new(PolicyParams {
        breaker: Some(BreakerPolicy::try_new(breaker).unwrap()),
        failure: FailurePolicy::try_new(failure).unwrap(),
        ..PolicyParams::default()
    })
    .unwrap()
}

#[tokio::test]
async fn a_call_through_a_closed_edge_allocates_nothing() {
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(Box::new(1)));
    assert!(ALLOCATIONS.get() > before, "the counter counts");

    for window in [WindowSize::Calls(100), WindowSize::Time(Duration::from_secs(1))] {
        for guard in [Guard::new("order -> user", Policy::default()), Guard::new("order -> user", whole(window))] {
            assert_eq!(allocations(&guard, false).await, 0);
            // With a timer, and a task that is woken.
            assert_eq!(allocations(&guard, true).await, 0);
        }
    }
}
