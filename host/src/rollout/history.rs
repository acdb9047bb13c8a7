//! History: the last revisions of each service, kept on disk.
//!
//! What is kept decides what a host starts with: the revision that served when it ended, whether it came from the manifest,
//! by `wharf deploy` or by a rollback, unless the manifest's own component is another one since. So a record is written
//! before what it says is done, and what can't be recorded is not done.
//!
//! ```text
//! begin  ->  (migrate, warm)  ->  serve, and then the swap
//!                             ->  end, when it can't
//! ```
//!
//! A host that dies before `serve` starts with the old revision, one that dies after it with the new one.

mod folder;
mod record;

pub use record::{Kept, Standing};

use self::{folder::Folder, record::Record};
use crate::service::RevisionInfo;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::Mutex;

/// The revisions of all services.
pub struct History {
    /// `None`: they are kept for as long as this is there.
    folder: Option<Arc<Folder>>,
    /// How many of each service.
    keep: usize,
    /// Locked while a record is written, so that what is in memory is what is on the disk.
    records: Mutex<BTreeMap<String, Record>>,
}

/// The revisions of one service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Revisions {
    /// The service.
    pub service: String,
    /// The number of the one that serves.
    pub current: Option<u64>,
    /// The version of the schema that its database has, where it has one.
    pub schema: Option<u32>,
    /// Newest first.
    pub revisions: Vec<Kept>,
}

/// How a revision begins to serve.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Serving {
    /// How many migrations it knows.
    pub schema: u32,
    /// Whether the database has more of them.
    pub lags: bool,
    /// The hash of the manifest's component, where it was looked at.
    pub manifest: Option<String>,
}

/// Why a revision can't be kept or had.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// A record can't be used.
    #[error(
        "the record of revisions {} can't be read: {why}; put it back from a backup, or move it away: the service then \
         starts with the component of the manifest, and its numbers begin anew",
        path.display()
    )]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Something can't be written.
    #[error("the revision can't be kept: {} can't be written: {source}{}", path.display(), advice(source))]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A component that was kept can't be had.
    #[error(
        "the kept component {} can't be read: {why}; deploy it anew, or start the host by `wharf up --from-manifest` with \
         what the manifest names", path.display()
    )]
    Component {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// There is nothing to go back to.
    #[error("service `{0}` has no earlier revision to go back to; `wharf history {0}` shows what there is")]
    NoEarlier(String),
    /// That revision is not kept.
    #[error("service `{service}` has no revision {number} to go back to; {}", listed(kept))]
    NotKept {
        /// The service.
        service: String,
        /// The number that was given.
        number: u64,
        /// The numbers of those that are kept.
        kept: Vec<u64>,
    },
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; make room on the disk and deploy again",
        _ => "",
    }
}

fn listed(numbers: &[u64]) -> String {
    let numbers: Vec<_> = numbers.iter().map(ToString::to_string).collect();
    match numbers.as_slice() {
        [] => "none is kept".to_owned(),
        [one] => format!("only {one} is kept"),
        [others @ .., last] => format!("{} and {last} are kept", others.join(", ")),
    }
}

// === impl History ===

impl History {
    /// A history that is kept nowhere but in memory.
    pub fn new() -> Self {
        Self { folder: None, keep: usize::MAX, records: Mutex::default() }
    }

    /// The history in `folder`, of which the last `keep` of each service are kept. Takes its time: not for async threads
    /// that serve.
    ///
    /// # Errors
    ///
    /// When the folder can't be made, or a record in it can't be read.
    pub fn open(folder: &Path, keep: usize) -> Result<Self, HistoryError> {
        let folder = Folder::open(folder)?;
        let mut records = folder.records()?;
        for record in records.values_mut() {
            // On a full disk it is done anew at the next start.
            if record.recover()
                && let Err(error) = folder.write(record)
            {
                tracing::warn!(%error, service = record.service, "that a rollout was interrupted is not recorded");
            }
        }
        folder.sweep(&named(&records));
        Ok(Self { folder: Some(Arc::new(folder)), keep, records: Mutex::new(records) })
    }

    /// The revisions of a service, without the version of its schema; `None` where it never had any.
    pub async fn of(&self, service: &str) -> Option<Revisions> {
        let records = self.records.lock().await;
        let record = records.get(service)?;
        let current = record.current().map(|kept| kept.revision.number);
        let revisions = record.revisions.iter().rev().cloned().collect();
        Some(Revisions { service: service.to_owned(), current, schema: None, revisions })
    }

    /// What a service starts with when this is the hash of the manifest's component: the revision that served last, unless
    /// the manifest's component is another one since. `None`: with the manifest's, as a new revision.
    pub async fn at_start(&self, service: &str, manifest: &str) -> Option<Kept> {
        let records = self.records.lock().await;
        let record = records.get(service)?;
        let current = record.current()?;
        let is_decided = record.manifest.as_deref() == Some(manifest) || current.revision.hash == manifest;
        is_decided.then(|| current.clone())
    }

    /// The revision that serves, as it is recorded.
    pub async fn current(&self, service: &str) -> Option<Kept> {
        self.records.lock().await.get(service)?.current().cloned()
    }

    /// The hash of the manifest's component when that was last looked at.
    pub async fn manifest(&self, service: &str) -> Option<String> {
        self.records.lock().await.get(service)?.manifest.clone()
    }

    /// The revision that `number` means: the one that served before the current one, where it is not given.
    ///
    /// # Errors
    ///
    /// When it is not kept.
    pub async fn target(&self, service: &str, number: Option<u64>) -> Result<Kept, HistoryError> {
        let records = self.records.lock().await;
        let record = records.get(service);
        match number {
            None => {
                record.and_then(Record::before_current).cloned().ok_or_else(|| HistoryError::NoEarlier(service.into()))
            }
            Some(number) => {
                let found = record.and_then(|record| record.find(number)).filter(|kept| kept.can_serve());
                found.cloned().ok_or_else(|| {
                    let all = record.iter().flat_map(|record| &record.revisions).filter(|kept| kept.can_serve());
                    let kept = all.map(|kept| kept.revision.number).collect();
                    HistoryError::NotKept { service: service.into(), number, kept }
                })
            }
        }
    }

    /// The hashes of the components of all revisions that can serve.
    pub async fn components(&self) -> BTreeSet<String> {
        named(&*self.records.lock().await)
    }

    /// The component of a revision.
    ///
    /// # Errors
    ///
    /// When it is not there any more, or is another one.
    pub async fn component(&self, hash: &str) -> Result<Vec<u8>, HistoryError> {
        let Some(folder) = self.folder.clone() else {
            return Err(HistoryError::Component { path: hash.into(), why: "this host keeps none".into() });
        };
        let hash = hash.to_owned();
        aside(move || folder.read(&hash)).await
    }

    /// A revision is coming: its component and its record are on the disk when this returns, and it has its number.
    ///
    /// # Errors
    ///
    /// When they can't be written; then there is no such revision.
    pub async fn begin(
        &self,
        service: &str,
        wasm: impl AsRef<[u8]> + Send + 'static,
        revision: RevisionInfo,
    ) -> Result<RevisionInfo, HistoryError> {
        let hash = revision.hash.clone();
        let keep = move |folder: &Folder| folder.keep(&hash, wasm.as_ref());
        self.change(service, keep, |record| record.begin(revision)).await
    }

    /// This revision serves from now on.
    ///
    /// # Errors
    ///
    /// When that can't be written; then the one before it is still the one that serves.
    pub async fn serve(&self, service: &str, number: u64, serving: Serving) -> Result<Reversal, HistoryError> {
        let mut before = None;
        let Serving { schema, lags, manifest } = serving;
        let change = |record: &mut Record| {
            before = Some(record.clone());
            record.serve(number, schema, lags);
            record.manifest = manifest.or_else(|| record.manifest.take());
        };
        self.change(service, |_| Ok(()), change).await?;
        Ok(Reversal { number, before })
    }

    /// What [`serve`](Self::serve) recorded did not come about.
    ///
    /// # Errors
    ///
    /// When that can't be written; what is in memory is right all the same, and the next record that is written too.
    pub async fn put_back(&self, service: &str, reversal: Reversal, why: String) -> Result<(), HistoryError> {
        let Reversal { number, before: Some(before) } = reversal else { return Ok(()) };
        self.change_surely(service, |record| record.put_back(number, &before, why)).await
    }

    /// A revision that was coming will not serve.
    ///
    /// # Errors
    ///
    /// As [`put_back`](Self::put_back).
    pub async fn end(&self, service: &str, number: u64, standing: Standing, why: String) -> Result<(), HistoryError> {
        self.change_surely(service, |record| record.end(number, standing, why)).await
    }

    /// A revision that was coming, and that nobody has seen.
    ///
    /// # Errors
    ///
    /// As [`put_back`](Self::put_back).
    pub async fn forget(&self, service: &str, number: u64) -> Result<(), HistoryError> {
        self.change_surely(service, |record| record.forget(number)).await
    }

    /// The revision that serves runs on a newer schema than it knows, because of this.
    ///
    /// # Errors
    ///
    /// As [`put_back`](Self::put_back).
    pub async fn lag(&self, service: &str, why: String) -> Result<(), HistoryError> {
        self.change_surely(service, |record| record.lag(why)).await
    }

    /// The manifest's component has this hash now, and that has been dealt with.
    ///
    /// # Errors
    ///
    /// When it can't be written.
    pub async fn seen(&self, service: &str, manifest: String) -> Result<(), HistoryError> {
        self.change(service, |_| Ok(()), |record| record.manifest = Some(manifest)).await
    }

    /// Changes a record on the disk and then in memory, or in neither. `first` comes before the record.
    async fn change<T>(
        &self,
        service: &str,
        first: impl FnOnce(&Folder) -> Result<(), HistoryError> + Send + 'static,
        change: impl FnOnce(&mut Record) -> T,
    ) -> Result<T, HistoryError> {
        let mut records = self.records.lock().await;
        let old = records.get(service);
        let mut new = old.cloned().unwrap_or_else(|| Record::new(service));
        let done = change(&mut new);
        new.prune(self.keep);
        if old == Some(&new) {
            return Ok(done);
        }
        let drops = old.is_some_and(|old| old.components().any(|hash| new.components().all(|other| other != hash)));
        let mut after = records.clone();
        after.insert(service.to_owned(), new.clone());
        if let Some(folder) = self.folder.clone() {
            let named = named(&after);
            let write = move || {
                let written = first(&folder).and_then(|()| folder.write(&new));
                if drops && written.is_ok() {
                    folder.sweep(&named);
                }
                written
            };
            aside(write).await?;
        }
        *records = after;
        Ok(done)
    }

    /// Changes a record in memory, and on the disk if that can be.
    async fn change_surely(&self, service: &str, change: impl FnOnce(&mut Record)) -> Result<(), HistoryError> {
        let mut records = self.records.lock().await;
        let record = records.entry(service.to_owned()).or_insert_with(|| Record::new(service));
        change(record);
        record.prune(self.keep);
        let Some(folder) = self.folder.clone() else { return Ok(()) };
        let (record, named) = (record.clone(), named(&records));
        aside(move || folder.write(&record).map(|()| folder.sweep(&named))).await
    }
}

impl Default for History {
    fn default() -> Self {
        Self::new()
    }
}

/// How the record was before a revision began to serve.
#[derive(Debug)]
pub struct Reversal {
    number: u64,
    before: Option<Record>,
}

fn named(records: &BTreeMap<String, Record>) -> BTreeSet<String> {
    records.values().flat_map(Record::components).map(str::to_owned).collect()
}

/// Files are no business of async threads. What is begun is ended, also when nobody waits for it any more.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HistoryError> + Send + 'static,
) -> Result<T, HistoryError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| {
        Err(HistoryError::Write { path: "revisions".into(), source: io::Error::other(panic.to_string()) })
    })
}

#[cfg(test)]
mod tests;
