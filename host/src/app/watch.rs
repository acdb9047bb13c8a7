//! Deploys a component when its file changes, and reloads the manifest when it does.
//!
//! A file that is being written changes many times; it is read once it has been quiet for a moment, and what is then no
//! whole component is refused like any other. Folders are watched and not files: a build replaces its output by
//! renaming, which a watch on the old file would not see.
//!
//! A component is deployed when it is another one than the manifest's was when that was last looked at, not when it is
//! another one than what runs: what was deployed or rolled back by hand stays.
//!
//! What changes between its loading and the beginning of the watch would be missed, so then each file is compared once
//! with what was loaded from it, and the manifest read once more.

use super::{
    App, ApplyError, Request,
    assemble::refusal,
    audit::{Came, Deed, Who},
};
use crate::engine::CodeCache;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::mpsc, time::sleep};

/// A file is quiet once it has not changed for this long.
const QUIET: Duration = Duration::from_millis(50);

/// The services of each component file: several may have the same.
type Files = HashMap<PathBuf, Vec<String>>;

/// Watches until dropped.
pub(super) async fn watch(app: Arc<App>) {
    let mut loaded = HashMap::new();
    for service in app.rollout.members().keys() {
        if let Some(hash) = app.rollout.history().manifest(service).await {
            loaded.insert(service.clone(), hash);
        }
    }
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
    let manifest = app.manifest().path.clone();
    let manifest = manifest.canonicalize().unwrap_or(manifest);
    let mut folders = BTreeSet::new();
    look_at(manifest.parent(), &mut folders, &mut watcher);
    let mut files = Arc::new(files(&app));
    files.keys().for_each(|file| look_at(file.parent(), &mut folders, &mut watcher));
    let mut pending = changed_since(files.clone(), loaded).await;
    pending.insert(manifest.clone());
    loop {
        let quiet = async { if pending.is_empty() { std::future::pending().await } else { sleep(QUIET).await } };
        tokio::select! {
            biased;
            path = changed.recv() => match path {
                None => return,
                Some(path) if files.contains_key(&path) || path == manifest => _ = pending.insert(path),
                Some(_) => {}
            },
            () = app.other_files.notified() => {
                files = Arc::new(self::files(&app));
                files.keys().for_each(|file| look_at(file.parent(), &mut folders, &mut watcher));
            }
            () = quiet => {
                for path in std::mem::take(&mut pending) {
                    if path == manifest {
                        reload(&app).await;
                    }
                    for service in files.get(&path).into_iter().flatten() {
                        deploy(&app, service, &path).await;
                    }
                }
            }
        }
    }
}

/// The component files as they are now.
fn files(app: &App) -> Files {
    let mut files = Files::new();
    for (service, path) in &app.parts.load().components {
        let path = path.canonicalize().unwrap_or_else(|_| path.clone());
        files.entry(path).or_default().push(service.clone());
    }
    files
}

/// Watches a folder, unless it is watched.
fn look_at(folder: Option<&Path>, folders: &mut BTreeSet<PathBuf>, watcher: &mut RecommendedWatcher) {
    let Some(folder) = folder else { return };
    if folders.insert(folder.to_owned())
        && let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive)
    {
        tracing::warn!(folder = %folder.display(), %error, "a folder of components can't be watched");
    }
}

/// The files that are no longer what was loaded from them. They can be large: they are read and hashed on a thread of
/// their own.
async fn changed_since(files: Arc<Files>, loaded: HashMap<String, String>) -> BTreeSet<PathBuf> {
    let compare = move || {
        let changed = files.iter().filter(|(path, services)| {
            // One that can't be read now will change again, or stays out.
            let Ok(wasm) = std::fs::read(path) else { return false };
            let hash = CodeCache::content_hash(&wasm);
            services.iter().any(|service| loaded.get(service) != Some(&hash))
        });
        changed.map(|(path, _)| path.clone()).collect()
    };
    tokio::task::spawn_blocking(compare).await.unwrap_or_default()
}

async fn reload(app: &Arc<App>) {
    let deed = Deed::new("reload");
    match app.apply(Request::Reload).await {
        Ok(plan) if plan.changes.is_empty() => {}
        Ok(_) => app.audit.note(&Who::Watch, &deed, Came::Done).await,
        Err(error @ ApplyError::Asks(_)) => tracing::warn!("the changed manifest waits: {error}"),
        Err(error) => {
            tracing::error!(%error, "the changed manifest was refused; what runs goes on");
            app.audit.note(&Who::Watch, &deed.because(error.to_string()), Came::Refused).await;
        }
    }
}

async fn deploy(app: &App, service: &str, path: &Path) {
    let wasm = match tokio::fs::read(path).await {
        Ok(wasm) => wasm,
        // Between the removal of the old file and the coming of the new one.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        Err(error) => return tracing::warn!(service, %error, "the changed component can't be read"),
    };
    let hash = CodeCache::content_hash(&wasm);
    if app.rollout.history().manifest(service).await.as_ref() == Some(&hash) {
        // It was touched, or put back as it was.
        return;
    }
    let came = app.rollout.deploy(service, wasm, path.display().to_string(), None).await;
    match &came {
        Ok(_) => {
            if let Err(error) = app.rollout.history().seen(service, hash).await {
                tracing::warn!(service, %error, "that the manifest's component was deployed is not recorded");
            }
        }
        Err(error) => {
            let error = refusal(&app.manifest(), error);
            tracing::error!(service, error, "the changed component was refused; the old revision goes on");
        }
    }
    app.audit.note_deploy(&Who::Watch, Deed::new("deploy").to(service), &came).await;
}
