//! Tells whose sources have changed.
//!
//! Folders are watched one by one and not with all that is below, because the system has a watch for each of them anyway,
//! and those that builds write to have thousands.

use super::Sources;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher, event::ModifyKind};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    io::Read,
    path::{Path, PathBuf},
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, SystemTime},
};
use tokio::time::Instant;

/// Sources are quiet once none has changed for this long: who saves several files means all of them.
const QUIET: Duration = Duration::from_millis(50);
/// Who writes without a pause is not waited for longer than this.
const LONGEST: Duration = Duration::from_secs(2);
/// Of a larger file, this much tells it from another.
const LOOKED_AT: u64 = 16 << 20;

/// Watches the sources of services.
#[derive(Debug)]
pub struct SourceWatch {
    watcher: RecommendedWatcher,
    told: mpsc::Receiver<Told>,
    sender: mpsc::Sender<Told>,
    sources: Vec<Sources>,
    folders: BTreeSet<PathBuf>,
    /// What was in files when they had changed last.
    known: HashMap<PathBuf, Option<u64>>,
}

/// Calls the one back who waits for changes.
#[derive(Clone, Debug)]
pub struct Waker(mpsc::Sender<Told>);

/// What has changed, by the services whose sources it is.
pub type Changes = BTreeMap<String, BTreeSet<PathBuf>>;

/// What ends the wait for changes.
#[derive(Debug, PartialEq, Eq)]
pub enum Stirred {
    /// The sources of services have changed.
    Changed(Changes),
    /// [`Waker::wake`] was called.
    Woken,
    /// [`Waker::stop`] was called.
    Stopped,
}

/// The operating system does not tell of changes.
#[derive(Debug, thiserror::Error)]
#[error("sources can't be watched: {0}; `wharf build` and the watch of component files do without")]
pub struct SourceWatchError(#[from] notify::Error);

#[derive(Debug)]
enum Told {
    Of { path: PathBuf, comes_or_goes: bool },
    Wake,
    Stop,
}

// === impl SourceWatch ===

impl SourceWatch {
    /// One that watches nothing yet.
    ///
    /// # Errors
    /// When the operating system has no more of what that takes.
    pub fn new() -> Result<Self, SourceWatchError> {
        let (sender, told) = mpsc::channel();
        let to = sender.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let Ok(event) = event else { return };
            let comes_or_goes = match event.kind {
                EventKind::Access(_) => return,
                EventKind::Create(_) | EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => true,
                _ => false,
            };
            for path in event.paths {
                // The receiver is gone only when the watch is over.
                let _ = to.send(Told::Of { path, comes_or_goes });
            }
        })?;
        let (sources, folders, known) = (Vec::new(), BTreeSet::new(), HashMap::new());
        Ok(Self { watcher, told, sender, sources, folders, known })
    }

    /// What others have to end the wait for changes.
    #[must_use]
    pub fn waker(&self) -> Waker {
        Waker(self.sender.clone())
    }

    /// Watches these sources, in place of those before.
    pub fn follow(&mut self, sources: Vec<Sources>) {
        self.sources = sources;
        let wanted: BTreeSet<_> = self.sources.iter().flat_map(Sources::folders).collect();
        for gone in self.folders.difference(&wanted) {
            // It may be gone from the disk.
            let _ = self.watcher.unwatch(gone);
        }
        self.folders.retain(|folder| wanted.contains(folder));
        for folder in wanted {
            if self.folders.contains(&folder) {
                continue;
            }
            match self.watcher.watch(&folder, RecursiveMode::NonRecursive) {
                Ok(()) => _ = self.folders.insert(folder),
                Err(error) => {
                    tracing::warn!(folder = %folder.display(), %error, "a folder of sources can't be watched")
                }
            }
        }
    }

    /// What was written after `time`, but for what cargo itself writes with the first build.
    #[must_use]
    pub fn changed_since(&self, time: SystemTime) -> Changes {
        let files = self.folders.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
        let later = files.filter(|file| {
            let Ok(about) = file.metadata() else { return false };
            about.is_file() && about.modified().is_ok_and(|modified| modified >= time)
        });
        let later = later.map(|file| file.path()).filter(|path| !path.ends_with("Cargo.lock"));
        self.having(&later.collect())
    }

    /// Waits until sources change, and then until they are quiet.
    pub fn wait(&mut self) -> Stirred {
        loop {
            let Ok(first) = self.told.recv() else { return Stirred::Stopped };
            let (mut paths, mut ended) = (BTreeSet::new(), None);
            self.take(first, &mut paths, &mut ended);
            if paths.is_empty() && ended.is_none() {
                continue;
            }
            self.collect(&mut paths, &mut ended);
            let changed = self.having(&paths);
            match ended {
                Some(Stirred::Woken) if !changed.is_empty() => _ = self.sender.send(Told::Wake),
                Some(ended) => return ended,
                None if changed.is_empty() => continue,
                None => {}
            }
            for path in paths {
                let content = content(&path);
                self.known.insert(path, content);
            }
            return Stirred::Changed(changed);
        }
    }

    /// What has changed since the last call of [`wait`](Self::wait), during a build. A build may itself write among its
    /// sources, and would be called for again for ever: so what has the content that it had counts for nothing.
    pub fn meanwhile(&mut self) -> Changes {
        let (mut paths, mut ended) = (BTreeSet::new(), None);
        self.collect(&mut paths, &mut ended);
        match ended {
            Some(Stirred::Stopped) => _ = self.sender.send(Told::Stop),
            Some(_) => _ = self.sender.send(Told::Wake),
            None => {}
        }
        let others = paths.into_iter().filter(|path| {
            let content = content(path);
            self.known.insert(path.clone(), content) != Some(content)
        });
        let others = others.collect();
        self.having(&others)
    }

    /// Takes what comes until nothing comes for a moment.
    fn collect(&mut self, paths: &mut BTreeSet<PathBuf>, ended: &mut Option<Stirred>) {
        let began = Instant::now();
        while began.elapsed() < LONGEST && *ended != Some(Stirred::Stopped) {
            match self.told.recv_timeout(QUIET) {
                Ok(told) => self.take(told, paths, ended),
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => *ended = Some(Stirred::Stopped),
            }
        }
    }

    fn take(&mut self, told: Told, paths: &mut BTreeSet<PathBuf>, ended: &mut Option<Stirred>) {
        match told {
            Told::Wake => *ended = Some(Stirred::Woken),
            Told::Stop => *ended = Some(Stirred::Stopped),
            Told::Of { path, comes_or_goes } => {
                if comes_or_goes && (self.folders.contains(&path) || path.is_dir()) {
                    paths.extend(self.look_again(path));
                } else if self.sources.iter().any(|sources| sources.have(&path)) {
                    paths.insert(path);
                }
            }
        }
    }

    /// A folder came, or went and perhaps came back: the watch of the one before is of no use. Gives the files in it, which
    /// may have come before it was watched.
    fn look_again(&mut self, folder: PathBuf) -> Vec<PathBuf> {
        let below: Vec<_> = self.folders.iter().filter(|it| it.starts_with(&folder)).cloned().collect();
        for old in below {
            let _ = self.watcher.unwatch(&old);
            self.folders.remove(&old);
        }
        let sources = std::mem::take(&mut self.sources);
        self.follow(sources);
        let watched = self.folders.iter().filter(|it| it.starts_with(&folder));
        let files = watched.flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
        let mut files: Vec<_> = files.map(|file| file.path()).filter(|path| path.is_file()).collect();
        files.retain(|path| self.sources.iter().any(|sources| sources.have(path)));
        files
    }

    fn having(&self, paths: &BTreeSet<PathBuf>) -> Changes {
        let having = |sources: &Sources| {
            let had: BTreeSet<_> = paths.iter().filter(|path| sources.have(path)).cloned().collect();
            (!had.is_empty()).then(|| (sources.service.clone(), had))
        };
        self.sources.iter().filter_map(having).collect()
    }
}

/// What tells the content of a file from another; `None` where it can't be read.
fn content(path: &Path) -> Option<u64> {
    let mut bytes = Vec::new();
    let file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.take(LOOKED_AT).read_to_end(&mut bytes).ok()?;
    let mut hasher = DefaultHasher::new();
    (length, bytes).hash(&mut hasher);
    Some(hasher.finish())
}

// === impl Waker ===

impl Waker {
    /// Ends the wait for changes.
    pub fn wake(&self) {
        let _ = self.0.send(Told::Wake);
    }

    /// Ends it, and each after it.
    pub fn stop(&self) {
        let _ = self.0.send(Told::Stop);
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{BuildJob, testing::TempDir},
        *,
    };

    fn watched() -> (TempDir, SourceWatch) {
        let folder = TempDir::new();
        fs::create_dir(folder.path().join("src")).expect("a folder");
        fs::write(folder.path().join("src/lib.rs"), "1").expect("a file");
        let job = BuildJob { service: "hello".into(), dir: folder.path().into(), command: None, artifact: None };
        let mut watch = SourceWatch::new().expect("files can be watched");
        watch.follow(vec![Sources::of(&job, &folder.path().join("made.wasm"), &[], &folder.path().join("data"))]);
        (folder, watch)
    }

    /// Waits until a file with this name in `src` has changed.
    fn wait_for(watch: &mut SourceWatch, name: &str) {
        loop {
            match watch.wait() {
                Stirred::Changed(changed) if changed["hello"].iter().any(|path| path.ends_with(name)) => return,
                Stirred::Changed(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn files_in_new_folders_and_in_folders_that_come_back_are_seen() {
        let (folder, mut watch) = watched();
        let src = folder.path().join("src");
        fs::write(folder.path().join("made.wasm"), "no source").expect("a file");
        fs::write(src.join("lib.rs"), "2").expect("a file");
        wait_for(&mut watch, "src/lib.rs");
        fs::create_dir_all(src.join("deep/er")).expect("a folder");
        fs::write(src.join("deep/er/mod.rs"), "").expect("a file");
        wait_for(&mut watch, "src/deep/er/mod.rs");
        fs::rename(&src, folder.path().join("away")).expect("it is there");
        wait_for(&mut watch, "away/deep/er/mod.rs");
        fs::create_dir(&src).expect("a folder");
        fs::write(src.join("back.rs"), "").expect("a file");
        wait_for(&mut watch, "src/back.rs");
        fs::write(src.join("more.rs"), "").expect("a file");
        wait_for(&mut watch, "src/more.rs");
    }

    #[test]
    fn what_a_build_writes_as_it_was_is_no_change_and_what_a_person_writes_is() {
        let (folder, mut watch) = watched();
        let file = folder.path().join("src/made.rs");
        fs::write(&file, "made").expect("a file");
        wait_for(&mut watch, "made.rs");
        fs::write(&file, "made").expect("a file");
        assert_eq!(watch.meanwhile(), Changes::new());
        // Who saves what is there wants it built, when no build is under way.
        fs::write(&file, "made").expect("a file");
        wait_for(&mut watch, "made.rs");
        fs::write(&file, "other").expect("a file");
        // When the system tells of it is its own affair.
        while watch.meanwhile().is_empty() {}
    }

    #[test]
    fn the_wait_ends_when_it_is_told_to_and_loses_nothing() {
        let (folder, mut watch) = watched();
        let waker = watch.waker();
        fs::write(folder.path().join("src/lib.rs"), "2").expect("a file");
        waker.wake();
        let (mut changed, mut woken) = (false, false);
        while !(changed && woken) {
            match watch.wait() {
                Stirred::Changed(_) => changed = true,
                Stirred::Woken => woken = true,
                Stirred::Stopped => panic!("nobody said so"),
            }
        }
        waker.stop();
        assert_eq!(watch.meanwhile(), Changes::new());
        assert_eq!(watch.wait(), Stirred::Stopped);
    }
}
