//! The writer's queue: bounded, many producers, one consumer on a thread of its own.
//!
//! A mutex and a condition variable, because they cost the least here: a producer makes a system call only when the
//! consumer really sleeps, and a consumer that is awake takes the next item without any. Channels that spin before
//! they park burn a core that the guests could use.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

/// Why an item was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// As many items wait as may.
    Full,
    /// The consumer has ended, or is about to.
    Closed,
}

pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    arrived: Condvar,
    capacity: usize,
}

struct State<T> {
    items: VecDeque<T>,
    /// The consumer waits on `arrived`; only then does a producer need to wake it.
    asleep: bool,
    closed: bool,
}

// === impl Queue ===

impl<T> Queue<T> {
    pub(super) fn new(capacity: usize) -> Self {
        let state = State { items: VecDeque::new(), asleep: false, closed: false };
        Self { state: Mutex::new(state), arrived: Condvar::new(), capacity }
    }

    /// Adds an item at the end.
    pub(super) fn push(&self, item: T) -> Result<(), Refused> {
        let mut state = self.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        if state.items.len() >= self.capacity {
            return Err(Refused::Full);
        }
        state.items.push_back(item);
        let wake = std::mem::take(&mut state.asleep);
        drop(state);
        if wake {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Waits for the next item; `None` once the queue is closed and empty.
    pub(super) fn pop(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some(item) = state.items.pop_front() {
                return Some(item);
            }
            if state.closed {
                return None;
            }
            state.asleep = true;
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.asleep = false;
        }
    }

    /// Takes the next item if there is one and `wanted` says so.
    pub(super) fn pop_if(&self, wanted: impl FnOnce(&T) -> bool) -> Option<T> {
        let mut state = self.lock();
        if wanted(state.items.front()?) { state.items.pop_front() } else { None }
    }

    /// No item is taken from now on; those that wait are still served.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_one();
    }

    /// As [`close`](Self::close), and returns those that wait.
    pub(super) fn abandon(&self) -> VecDeque<T> {
        let mut state = self.lock();
        state.closed = true;
        std::mem::take(&mut state.items)
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // No code that can panic runs under this lock, so a poisoned one is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{sync::Arc, thread};

    #[test]
    fn a_full_queue_refuses_and_a_closed_one_serves_what_waits() {
        let queue = Queue::new(2);
        assert_eq!(queue.push(1), Ok(()));
        assert_eq!(queue.push(2), Ok(()));
        assert_eq!(queue.push(3), Err(Refused::Full));
        queue.close();
        assert_eq!(queue.push(3), Err(Refused::Closed));
        assert_eq!((queue.pop(), queue.pop(), queue.pop()), (Some(1), Some(2), None));
    }

    #[test]
    fn every_item_of_many_producers_arrives_once() {
        let queue = Arc::new(Queue::new(10_000));
        let producers: Vec<_> = (0..4)
            .map(|producer| {
                let queue = queue.clone();
                thread::spawn(move || (0..1_000).for_each(|n| queue.push(producer * 1_000 + n).unwrap()))
            })
            .collect();
        let mut seen: Vec<i32> = (0..4_000).map(|_| queue.pop().unwrap()).collect();
        producers.into_iter().for_each(|producer| producer.join().unwrap());
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..4_000));
    }
}
