//! The folder that revisions are kept in.
//!
//! ```text
//! revisions/user.json           the record of a service
//! revisions/9f86d0….wasm        a component, by the hash of its content
//! ```
//!
//! Each file is written under another name, flushed, and renamed, and then the folder is flushed: whenever the host or the
//! machine dies, there is the old file or the new one, whole. A component is there before the record that names it, and
//! goes after the last one that did.

use super::{HistoryError, record::Record};
use crate::engine::CodeCache;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, DirBuilder, File},
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// The folder.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
}

// === impl Folder ===

impl Folder {
    /// Opens it, and makes it where it is missing.
    pub fn open(path: &Path) -> Result<Self, HistoryError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|source| HistoryError::Write { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned() })
    }

    /// All records in it.
    pub fn records(&self) -> Result<BTreeMap<String, Record>, HistoryError> {
        let unreadable = |path: &Path, why: String| HistoryError::Record { path: path.to_owned(), why };
        let mut records = BTreeMap::new();
        let entries = fs::read_dir(&self.path).map_err(|error| unreadable(&self.path, error.to_string()))?;
        for entry in entries {
            let path = entry.map_err(|error| unreadable(&self.path, error.to_string()))?.path();
            let (Some("json"), Some(service)) = (extension(&path), path.file_stem().and_then(|stem| stem.to_str()))
            else {
                continue;
            };
            let text = fs::read(&path).map_err(|error| unreadable(&path, error.to_string()))?;
            let record: Record = serde_json::from_slice(&text).map_err(|error| unreadable(&path, error.to_string()))?;
            if let Some(flaw) = record.flaw(service) {
                return Err(unreadable(&path, flaw));
            }
            records.insert(service.to_owned(), record);
        }
        Ok(records)
    }

    /// Writes a record.
    pub fn write(&self, record: &Record) -> Result<(), HistoryError> {
        let path = self.path.join(format!("{}.json", record.service));
        let text = serde_json::to_vec_pretty(record);
        let text = text.map_err(|error| HistoryError::Write { path: path.clone(), source: error.into() })?;
        self.put(&path, &text)
    }

    /// Keeps a component.
    pub fn keep(&self, hash: &str, wasm: &[u8]) -> Result<(), HistoryError> {
        let path = self.component(hash);
        // One that is there and has been damaged is mended.
        if fs::read(&path).is_ok_and(|there| there == wasm) {
            return Ok(());
        }
        self.put(&path, wasm)
    }

    /// Reads a component, which is what its name says or an error.
    pub fn read(&self, hash: &str) -> Result<Vec<u8>, HistoryError> {
        let path = self.component(hash);
        let unreadable = |why: String| HistoryError::Component { path: path.clone(), why };
        let wasm = fs::read(&path).map_err(|error| unreadable(error.to_string()))?;
        match CodeCache::content_hash(&wasm) {
            found if found == hash => Ok(wasm),
            found => Err(unreadable(format!("its content is another one, with the hash {found}"))),
        }
    }

    /// Removes what no record names, and what was being written when a host died.
    pub fn sweep(&self, named: &BTreeSet<String>) {
        let Ok(entries) = fs::read_dir(&self.path) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let is_left = match extension(&path) {
                Some("wasm") => !named.contains(stem),
                Some("tmp") => true,
                _ => false,
            };
            if is_left && let Err(error) = fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "a component that is not needed any more stays behind");
            }
        }
    }

    fn component(&self, hash: &str) -> PathBuf {
        self.path.join(format!("{hash}.wasm"))
    }

    fn put(&self, path: &Path, content: &[u8]) -> Result<(), HistoryError> {
        let temporary = self.path.join(format!(".{:016x}.tmp", fastrand::u64(..)));
        let write = || -> io::Result<()> {
            let mut file = File::create_new(&temporary)?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&temporary, path)?;
            // NB: the new name is on the disk only with its folder.
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|source| {
            let _ = fs::remove_file(&temporary);
            HistoryError::Write { path: path.to_owned(), source }
        })
    }
}

fn extension(path: &Path) -> Option<&str> {
    path.extension().and_then(|extension| extension.to_str())
}
