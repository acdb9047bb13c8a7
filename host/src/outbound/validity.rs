//! Whether what a task finds out still counts.
//!
//! Endpoints are looked up and probed by tasks that wait most of the time. When the settings behind them change, they are
//! aborted; but one that is just about to tell what it found would tell it after its successor has begun. So it tells it
//! under a lock, and only as long as it is in office.

use std::sync::{Arc, Mutex, PoisonError};

/// Shared by the tasks of one set of settings, and by the one who may end them.
#[derive(Clone, Debug, Default)]
pub(super) struct Validity(Arc<Mutex<bool>>);

// === impl Validity ===

impl Validity {
    /// Does it, unless the end has come; that waits until it is done.
    pub(super) fn while_valid(&self, tell: impl FnOnce()) {
        let is_over = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !*is_over {
            tell();
        }
    }

    /// From now on nothing is told.
    pub(super) fn end(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_told_after_the_end() {
        let (validity, mut told) = (Validity::default(), 0);
        validity.while_valid(|| told += 1);
        validity.clone().end();
        validity.while_valid(|| told += 1);
        assert_eq!(told, 1);
    }
}
