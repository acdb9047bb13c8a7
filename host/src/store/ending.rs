//! What the owner of a transaction is told when it takes no more, of whichever backend it is.

use super::Error;
use std::sync::{Arc, OnceLock};

/// Commands that may wait in one transaction.
pub(super) const COMMANDS: usize = 16;

/// How a transaction ended, once it has.
#[derive(Clone, Debug, Default)]
pub(super) struct Ending(Arc<OnceLock<String>>);

// === impl Ending ===

impl Ending {
    pub(super) fn set(&self, reason: String) {
        let _ = self.0.set(reason);
    }

    /// It has ended.
    pub(super) fn closed(&self) -> Error {
        let reason = self.0.get().map_or("the database was closed", String::as_str);
        Error::Closed(format!("the transaction has ended: {reason}"))
    }
}

/// [`COMMANDS`] wait.
pub(super) fn full() -> Error {
    Error::Busy(format!("{COMMANDS} statements of this transaction are waiting already"))
}
