//! What waits for the writer: bounded in number and bytes, and taken in groups.
//!
//! The writer is no thread of its own but a job on the runtime's threads for blocking work, begun by whoever adds to an
//! empty queue and ended when it finds the queue empty. So nothing waits and nothing has to be joined.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Why something was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// As much waits as may.
    Full,
    /// The log is closed.
    Closed,
}

/// Whether the writer has to be started for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It runs, and will see it.
    Seen,
    /// It does not run: start it.
    Start,
}

pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    items: usize,
    bytes: usize,
}

struct State<T> {
    waiting: VecDeque<(usize, T)>,
    bytes: usize,
    writing: bool,
    closed: bool,
}

// === impl Queue ===

impl<T> Queue<T> {
    pub(super) fn new(items: usize, bytes: usize) -> Self {
        let state = State { waiting: VecDeque::new(), bytes: 0, writing: false, closed: false };
        Self { state: Mutex::new(state), items, bytes }
    }

    /// Adds what a publisher wants, if there is room.
    pub(super) fn push(&self, bytes: usize, item: T) -> Result<Taken, Refused> {
        let mut state = self.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        if state.waiting.len() >= self.items || state.bytes + bytes > self.bytes {
            return Err(Refused::Full);
        }
        Ok(state.add(bytes, item))
    }

    /// Adds what the log itself needs: there is always room for that, and it is bounded by its nature.
    pub(super) fn push_own(&self, item: T) -> Result<Taken, Refused> {
        let mut state = self.lock();
        if state.closed { Err(Refused::Closed) } else { Ok(state.add(0, item)) }
    }

    /// Takes what waits, up to so many and so many bytes. Where that is nothing, the writer must end.
    pub(super) fn take(&self, items: usize, bytes: usize) -> Vec<T> {
        let mut state = self.lock();
        let mut group = Vec::with_capacity(items.min(state.waiting.len()));
        let mut size = 0;
        while group.len() < items
            && let Some((next, _)) = state.waiting.front()
            && (group.is_empty() || size + next <= bytes)
            && let Some((next, item)) = state.waiting.pop_front()
        {
            size += next;
            state.bytes -= next;
            group.push(item);
        }
        if group.is_empty() {
            state.writing = false;
        }
        group
    }

    /// Notes that the writer has ended, however it did. Says whether something waits for another.
    pub(super) fn ended(&self) -> bool {
        let mut state = self.lock();
        state.writing = false;
        let waits = !state.waiting.is_empty();
        state.writing = waits;
        waits
    }

    /// Nothing is taken from now on; what waits is still written.
    pub(super) fn close(&self) {
        self.lock().closed = true;
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // No code that can panic runs under this lock, so a poisoned one is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl<T> State<T> {
    fn add(&mut self, bytes: usize, item: T) -> Taken {
        self.waiting.push_back((bytes, item));
        self.bytes += bytes;
        if std::mem::replace(&mut self.writing, true) { Taken::Seen } else { Taken::Start }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_in_number_and_bytes_and_taken_in_groups() {
        let queue = Queue::new(3, 100);
        assert_eq!(queue.push(60, 1), Ok(Taken::Start));
        assert_eq!(queue.push(60, 2), Err(Refused::Full));
        assert_eq!(queue.push(40, 2), Ok(Taken::Seen));
        assert_eq!(queue.push(0, 3), Ok(Taken::Seen));
        assert_eq!(queue.push(0, 4), Err(Refused::Full));
        assert_eq!(queue.push_own(4), Ok(Taken::Seen));
        // One that is larger than a group may be is a group of its own.
        assert_eq!(queue.take(9, 50), [1]);
        assert_eq!(queue.take(2, 50), [2, 3]);
        queue.close();
        assert_eq!((queue.push(0, 5), queue.push_own(5)), (Err(Refused::Closed), Err(Refused::Closed)));
        assert_eq!(queue.take(9, 50), [4]);
        assert_eq!(queue.take(9, 50), [] as [i32; 0]);
    }

    #[test]
    fn a_writer_is_started_whenever_none_runs() {
        let queue = Queue::new(9, 9);
        assert_eq!(queue.push(0, 1), Ok(Taken::Start));
        assert_eq!(queue.take(9, 9), [1]);
        assert_eq!(queue.push(0, 2), Ok(Taken::Seen));
        assert_eq!(queue.take(9, 9), [2]);
        assert!(queue.take(9, 9).is_empty());
        assert_eq!(queue.push(0, 3), Ok(Taken::Start));
        // This one dies of it, and the next finds what it left.
        assert!(queue.ended());
        assert_eq!(queue.take(9, 9), [3]);
        assert!(queue.take(9, 9).is_empty());
        assert!(!queue.ended());
    }
}
