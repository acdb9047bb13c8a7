//! What is done once a transaction is committed, and never if it is not.

use std::{
    fmt, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Something to do after a commit.
///
/// NB: it runs where the commit does, between the commit and the answer to whoever asked for it, in the order of the
/// commits: it must be short, and must not panic. Whoever asked may be gone by then; it is run all the same.
pub(crate) type Then = Box<dyn FnOnce() + Send>;

/// What there is to do after one commit, in order. Clones are the same list; dropped without a commit, none of it is done.
#[derive(Clone, Default)]
pub(crate) struct Committed(Arc<Mutex<Vec<Then>>>);

// === impl Committed ===

impl Committed {
    /// Does what is in the other list too; that one is empty then.
    pub(crate) fn append(&self, other: &Self) {
        let mut other = mem::take(&mut *other.list());
        self.list().append(&mut other);
    }

    /// How many there are: the mark to [`truncate`](Self::truncate) to.
    pub(crate) fn len(&self) -> usize {
        self.list().len()
    }

    /// Forgets those that came after the first `len`: what they were about is undone.
    pub(crate) fn truncate(&self, len: usize) {
        self.list().truncate(len);
    }

    /// The transaction is committed.
    pub(super) fn run(&self) {
        let all = mem::take(&mut *self.list());
        all.into_iter().for_each(|then| then());
    }

    fn list(&self) -> MutexGuard<'_, Vec<Then>> {
        // Nothing that can panic runs under this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FromIterator<Then> for Committed {
    fn from_iter<I: IntoIterator<Item = Then>>(all: I) -> Self {
        Self(Arc::new(Mutex::new(all.into_iter().collect())))
    }
}

impl fmt::Debug for Committed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Committed").field(&self.len()).finish()
    }
}
