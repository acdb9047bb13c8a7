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
    App, Components, Reloaded,
    assemble::refusal,
    audit::{Came, Deed, Who},
};
use crate::engine::CodeCache;
use notify::{RecursiveMode, Watcher};
use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::mpsc, time::timeout};

/// A file is quiet once it has not changed for this long.
const QUIET: Duration = Duration::from_millis(50);

/// The services of each component file: several may have the same.
type Files = HashMap<PathBuf, Vec<String>>;

/// Watches until dropped.
pub(super) async fn watch(app: Arc<App>, components: Components) {
    let mut loaded = HashMap::new();
    for service in components.keys() {
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
    let mut files = Files::new();
    let mut folders = BTreeSet::new();
    for (service, path) in components {
        let path = path.canonicalize().unwrap_or(path);
        folders.extend(path.parent().map(PathBuf::from));
        files.entry(path).or_default().push(service);
    }
    let manifest = app.manifest().path.clone();
    let manifest = manifest.canonicalize().unwrap_or(manifest);
    folders.extend(manifest.parent().map(PathBuf::from));
    for folder in &folders {
        if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
            tracing::warn!(folder = %folder.display(), %error, "a folder of components can't be watched");
        }
    }
    let files = Arc::new(files);
    let mut pending = changed_since(files.clone(), loaded).await;
    pending.insert(manifest.clone());
    loop {
        let next = if pending.is_empty() {
            changed.recv().await.map(Some)
        } else {
            timeout(QUIET, changed.recv()).await.map_or(Some(None), |path| path.map(Some))
        };
        match next {
            None => return,
            Some(Some(path)) if files.contains_key(&path) || path == manifest => {
                pending.insert(path);
            }
            Some(Some(_)) => {}
            Some(None) => {
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

async fn reload(app: &App) {
    let deed = Deed::new("reload");
    match app.reload().await {
        Ok(reloaded) if reloaded == Reloaded::default() => {}
        Ok(_) => app.audit.note(&Who::Watch, &deed, Came::Done).await,
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
