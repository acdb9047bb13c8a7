//! Deploys a component when its file changes, and reloads the manifest when it does, or the OpenAPI document.
//!
//! A file that is being written changes many times; it is read once it has been quiet for a moment, and what is then no
//! whole component is refused like any other. Folders are watched and not files: a build replaces its output by
//! renaming, which a watch on the old file would not see.
//!
//! Where this host builds components itself, it is told of each build ([`Builds`]): what a build is about to write is left
//! alone until it has ended, and what it has made is then deployed without waiting, once.
//!
//! Who builds components to look at them holds the watch meanwhile: see [`hold`](super::hold).
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
use crate::{
    engine::CodeCache,
    manifest::{Component, Manifest},
    rollout::{DeployError, Deployment, Past},
};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{sync::mpsc, time::sleep};

/// A file is quiet once it has not changed for this long.
const QUIET: Duration = Duration::from_millis(50);

/// What a host does when files change.
pub enum Watch {
    /// Nothing.
    Nothing,
    /// A component is deployed when its file changes, and the manifest reloaded when it does.
    Files,
    /// The same, and what is built from a source is deployed at once, whatever stages the manifest has.
    Built(BuildNews),
}

/// Where whoever builds components says so to the watch of their files.
pub struct Builds(mpsc::UnboundedSender<News>);

/// What is heard of [`Builds`].
pub struct BuildNews(mpsc::UnboundedReceiver<News>);

enum News {
    /// The components of these services may be written from now on.
    Begun(BTreeSet<String>),
    /// All are written that will be: these.
    Ended(BTreeSet<String>),
}

/// The services of each component file: several may have the same.
type Files = HashMap<PathBuf, Vec<String>>;

/// What this host builds.
#[derive(Default)]
struct Building {
    /// Services whose component is being built.
    under_way: BTreeSet<String>,
    /// The file times of what was dealt with when its build ended. That it has changed, the system tells a moment later.
    dealt_with: HashMap<PathBuf, SystemTime>,
    /// Services whose new component was refused. It may fit when others are deployed.
    refused: BTreeSet<String>,
}

// === impl Builds ===

impl Builds {
    /// For one host, with what that host is to serve with.
    pub fn new() -> (Self, Watch) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), Watch::Built(BuildNews(receiver)))
    }

    /// The components of these services are about to be built.
    pub fn begin(&self, services: &BTreeSet<String>) {
        // The receiver is gone only when the host is about to end.
        let _ = self.0.send(News::Begun(services.clone()));
    }

    /// The build that was begun last has ended, and has made the components of these services.
    pub fn end(&self, built: BTreeSet<String>) {
        let _ = self.0.send(News::Ended(built));
    }
}

// === impl BuildNews ===

impl BuildNews {
    /// The next one; pending when there is nobody who would send any.
    async fn next(news: &mut Option<Self>) -> News {
        if let Some(Self(receiver)) = news
            && let Some(next) = receiver.recv().await
        {
            return next;
        }
        *news = None;
        std::future::pending().await
    }
}

// === impl Building ===

impl Building {
    /// Whether a file that has changed is the business of a build.
    fn has(&self, service: &str, path: &Path) -> bool {
        let dealt_with = || self.dealt_with.get(path).is_some_and(|time| modified(path).as_ref() == Some(time));
        self.under_way.contains(service) || dealt_with()
    }
}

pub(super) fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|file| file.modified()).ok()
}

/// Watches until dropped.
pub(super) async fn watch(app: Arc<App>, watch: Watch) {
    let mut news = match watch {
        Watch::Nothing => return,
        Watch::Files => None,
        Watch::Built(news) => Some(news),
    };
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
    let mut other_files = app.other_files();
    let mut files = Arc::new(files(&app));
    files.keys().for_each(|file| look_at(file.parent(), &mut folders, &mut watcher));
    let mut document = document(&app);
    look_at(document.as_deref().and_then(Path::parent), &mut folders, &mut watcher);
    let mut pending = changed_since(files.clone(), loaded).await;
    pending.insert(manifest.clone());
    let mut building = Building::default();
    let mut holds_over = app.holds.over();
    // What changed while somebody holds the watch.
    let mut put_off = BTreeSet::new();
    loop {
        let quiet = async { if pending.is_empty() { std::future::pending().await } else { sleep(QUIET).await } };
        tokio::select! {
            biased;
            next = BuildNews::next(&mut news) => match next {
                News::Begun(services) => building.under_way.extend(services),
                News::Ended(built) => built_ones(&app, &mut building, built).await,
            },
            path = changed.recv() => match path {
                None => return,
                Some(path) if document.as_ref() == Some(&path) => _ = pending.insert(manifest.clone()),
                Some(path) if files.contains_key(&path) || path == manifest => _ = pending.insert(path),
                Some(_) => {}
            },
            Ok(()) = other_files.changed() => {
                files = Arc::new(self::files(&app));
                files.keys().for_each(|file| look_at(file.parent(), &mut folders, &mut watcher));
                document = self::document(&app);
                look_at(document.as_deref().and_then(Path::parent), &mut folders, &mut watcher);
            }
            Ok(()) = holds_over.changed() => pending.append(&mut put_off),
            () = quiet => {
                for path in std::mem::take(&mut pending) {
                    if path == manifest {
                        reload(&app).await;
                    }
                    for service in files.get(&path).into_iter().flatten().filter(|it| !building.has(it, &path)) {
                        let has_source = has_source(&app.manifest(), service);
                        if has_source && app.holds.are_there() {
                            put_off.insert(path.clone());
                            continue;
                        }
                        if has_source && app.holds.made(&path) {
                            tracing::info!(service, "built, and not deployed: `wharf apply` brings it about");
                            continue;
                        }
                        // Also what somebody else has built.
                        let at_once = news.is_some() && has_source;
                        if let Some(came) = deploy(&app, service, &path, at_once).await {
                            note(&app, service, &came).await;
                        }
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

/// The file of the gateway's document.
fn document(app: &App) -> Option<PathBuf> {
    let file = app.manifest().gateway.document.as_ref()?.file.value.clone();
    Some(file.canonicalize().unwrap_or(file))
}

pub(super) fn has_source(manifest: &Manifest, service: &str) -> bool {
    manifest.services.get(service).is_some_and(|service| matches!(service.component, Component::Source(_)))
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

/// Deploys what a build has made. One that does not fit is tried again when another one is in its place: a caller may
/// need what its neighbour offers only now.
async fn built_ones(app: &App, building: &mut Building, built: BTreeSet<String>) {
    let components = app.components();
    // Also of those that were not built: what a failed build has left is nothing to deploy.
    for path in std::mem::take(&mut building.under_way).iter().filter_map(|service| components.get(service)) {
        let path = path.canonicalize().unwrap_or_else(|_| path.clone());
        if let Some(time) = modified(&path) {
            building.dealt_with.insert(path, time);
        }
    }
    if built.is_empty() {
        return;
    }
    let mut waiting = &std::mem::take(&mut building.refused) | &built;
    loop {
        let mut refused = Vec::new();
        let mut deployed = false;
        for service in std::mem::take(&mut waiting) {
            let Some(path) = components.get(&service) else { continue };
            match deploy(app, &service, path, true).await {
                None => {}
                Some(Err(error)) => refused.push((service, error)),
                came @ Some(Ok(_)) => {
                    deployed = true;
                    for came in came.iter() {
                        note(app, &service, came).await;
                    }
                }
            }
        }
        waiting = refused.iter().map(|(service, _)| service.clone()).collect();
        if !deployed || refused.is_empty() {
            for (service, error) in refused {
                note(app, &service, &Err(error)).await;
            }
            building.refused = waiting;
            return;
        }
    }
}

/// Deploys the component in a file; `None` where there is nothing to do.
async fn deploy(app: &App, service: &str, path: &Path, at_once: bool) -> Option<Result<Deployment, DeployError>> {
    let wasm = match tokio::fs::read(path).await {
        Ok(wasm) => wasm,
        // Between the removal of the old file and the coming of the new one.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(service, %error, "the changed component can't be read");
            return None;
        }
    };
    if app.rollout.history().manifest(service).await.as_ref() == Some(&CodeCache::content_hash(&wasm)) {
        // It was touched, or put back as it was.
        return None;
    }
    let policy = app.rollout.members().get(service).filter(|_| at_once).map(|member| member.terms.policy.at_once());
    Some(app.rollout.deploy(service, wasm, path.display().to_string(), policy, Past::Refused).await)
}

/// Records and tells what came of a deploy.
async fn note(app: &App, service: &str, came: &Result<Deployment, DeployError>) {
    match came {
        Ok(deployment) => {
            if let Err(error) = app.rollout.history().seen(service, deployment.revision.hash.clone()).await {
                tracing::warn!(service, %error, "that the manifest's component was deployed is not recorded");
            }
        }
        Err(error) => {
            let error = refusal(&app.manifest(), error);
            tracing::error!(service, error, "the changed component was refused; the old revision goes on");
        }
    }
    app.audit.note_deploy(&Who::Watch, Deed::new("deploy").to(service), came).await;
}
