//! Holds on the watch of component files.
//!
//! Whoever builds components to look at them, as `wharf check` and `wharf apply` do, writes the very files that the watch
//! deploys from. So they ask for a hold first. What changes as long as there is one was built to be looked at: it is not
//! deployed then, and not afterwards either, until it changes once more or somebody deploys or applies it.

use super::{App, watch::modified};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};
use tokio::sync::watch;

/// The holds of a host.
pub(super) struct Holds {
    inner: Mutex<Inner>,
    /// Changes whenever there is none any more.
    over: watch::Sender<()>,
}

#[derive(Default)]
struct Inner {
    count: usize,
    /// The file times at the beginning of the first of them.
    before: HashMap<PathBuf, Option<SystemTime>>,
    /// The file times of what has changed under a hold.
    built: HashMap<PathBuf, SystemTime>,
}

/// One of them. It ends when this is dropped.
pub(super) struct Hold(Arc<App>);

// === impl Holds ===

impl Holds {
    pub(super) fn new() -> Self {
        Self { inner: Mutex::default(), over: watch::Sender::new(()) }
    }

    /// Whether there is one.
    pub(super) fn are_there(&self) -> bool {
        self.lock().count > 0
    }

    /// Whether a file is as it became under a hold.
    pub(super) fn made(&self, path: &Path) -> bool {
        let time = self.lock().built.get(path).copied();
        time.is_some() && time == modified(path)
    }

    /// Changes whenever there is none any more.
    pub(super) fn over(&self) -> watch::Receiver<()> {
        self.over.subscribe()
    }

    // What is in it is whole between any two statements.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Hold ===

impl Hold {
    pub(super) fn new(app: &Arc<App>) -> Self {
        let mut inner = app.holds.lock();
        inner.count += 1;
        if inner.count == 1 {
            inner.before = built_files(app).map(|path| (path.clone(), modified(&path))).collect();
        }
        Self(app.clone())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let holds = &self.0.holds;
        let mut inner = holds.lock();
        inner.count -= 1;
        if inner.count > 0 {
            return;
        }
        let before = std::mem::take(&mut inner.before);
        for (path, before) in before {
            if let Some(now) = modified(&path).filter(|now| before != Some(*now)) {
                inner.built.insert(path, now);
            }
        }
        drop(inner);
        holds.over.send_replace(());
    }
}

/// The component files that are built from a source.
fn built_files(app: &App) -> impl Iterator<Item = PathBuf> {
    let parts = app.parts.load_full();
    let built = parts.components.iter().filter(|(service, _)| super::watch::has_source(&parts.manifest, service));
    let paths: Vec<_> = built.map(|(_, path)| path.canonicalize().unwrap_or_else(|_| path.clone())).collect();
    paths.into_iter()
}
