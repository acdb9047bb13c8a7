//! Those who wait for the end of a saga.

use super::super::Snapshot;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::oneshot;

/// By the saga's name and id.
type Waiting = HashMap<(Arc<str>, Arc<str>), Vec<oneshot::Sender<Snapshot>>>;

pub(super) struct Ends {
    waiting: Mutex<(Waiting, usize)>,
    most: usize,
}

/// One who waits.
pub(in super::super) struct Waiter<'a> {
    ends: &'a Ends,
    key: (Arc<str>, Arc<str>),
    /// How it ended.
    pub end: oneshot::Receiver<Snapshot>,
}

// === impl Ends ===

impl Ends {
    pub fn new(most: usize) -> Self {
        Self { waiting: Mutex::default(), most }
    }

    /// Waits for the end of a saga; `None` where too many wait.
    pub fn wait(&self, saga: &str, id: &str) -> Option<Waiter<'_>> {
        let (end, key) = (oneshot::channel(), (saga.into(), id.into()));
        let mut waiting = self.waiting();
        if waiting.1 >= self.most {
            return None;
        }
        waiting.1 += 1;
        waiting.0.entry(Clone::clone(&key)).or_default().push(end.0);
        drop(waiting);
        Some(Waiter { ends: self, key, end: end.1 })
    }

    /// A saga has ended.
    pub fn ended(&self, saga: &Arc<str>, id: &Arc<str>, snapshot: impl FnOnce() -> Snapshot) {
        let mut waiting = self.waiting();
        if waiting.0.is_empty() {
            return;
        }
        let Some(all) = waiting.0.remove(&(saga.clone(), id.clone())) else { return };
        drop(waiting);
        let snapshot = snapshot();
        for waiter in all {
            // Who is gone need not be told.
            let _ = waiter.send(snapshot.clone());
        }
    }

    fn waiting(&self) -> MutexGuard<'_, (Waiting, usize)> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.end.close();
        let mut waiting = self.ends.waiting();
        waiting.1 -= 1;
        if let Some(all) = waiting.0.get_mut(&self.key) {
            all.retain(|waiter| !waiter.is_closed());
            if all.is_empty() {
                waiting.0.remove(&self.key);
            }
        }
    }
}
