//! Deploys a component when its file changes.
//!
//! A file that is being written changes many times; it is read once it has been quiet for a moment, and what is then no
//! whole component is refused like any other. Folders are watched and not files: a build replaces its output by
//! renaming, which a watch on the old file would not see.

use super::{App, Components};
use notify::{RecursiveMode, Watcher};
use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::{sync::mpsc, time::timeout};

/// A file is quiet once it has not changed for this long.
const QUIET: Duration = Duration::from_millis(50);

/// Watches until dropped.
pub(super) async fn watch(app: Arc<App>, components: Components) {
    let (sender, mut changed) = mpsc::unbounded_channel();
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if let Ok(event) = event
            && !event.kind.is_access()
        {
            for path in event.paths {
                // The receiver is gone only when the watch is over.
                let _ = sender.send(path);
            }
        }
    });
    let mut watcher = match watcher {
        Ok(watcher) => watcher,
        Err(error) => return tracing::warn!(%error, "component files can't be watched; use `wharf deploy`"),
    };
    let mut services: HashMap<PathBuf, String> = HashMap::new();
    let mut folders = BTreeSet::new();
    for (service, path) in components {
        let path = path.canonicalize().unwrap_or(path);
        folders.extend(path.parent().map(PathBuf::from));
        services.insert(path, service);
    }
    for folder in &folders {
        if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
            tracing::warn!(folder = %folder.display(), %error, "a folder of components can't be watched");
        }
    }
    let mut pending: BTreeSet<PathBuf> = BTreeSet::new();
    loop {
        let next = if pending.is_empty() {
            changed.recv().await.map(Some)
        } else {
            timeout(QUIET, changed.recv()).await.map_or(Some(None), |path| path.map(Some))
        };
        match next {
            None => return,
            Some(Some(path)) if services.contains_key(&path) => {
                pending.insert(path);
            }
            Some(Some(_)) => {}
            Some(None) => {
                for path in std::mem::take(&mut pending) {
                    deploy(&app, &services[&path], path).await;
                }
            }
        }
    }
}

async fn deploy(app: &App, service: &str, path: PathBuf) {
    let wasm = match tokio::fs::read(&path).await {
        Ok(wasm) => wasm,
        // Between the removal of the old file and the coming of the new one.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        Err(error) => return tracing::warn!(service, %error, "the changed component can't be read"),
    };
    if let Err(error) = app.rollout.deploy(service, wasm, path.display().to_string()).await {
        tracing::error!(service, %error, "the changed component was refused; the old revision goes on");
    }
}
