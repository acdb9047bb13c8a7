//! Mail as files, for who develops: each message an `.eml` that any mail program opens.
//!
//! The newest [`MAX_FILES`] are kept, up to [`MAX_BYTES`]; the oldest go, because a folder that fills the disk would end
//! more than mail. A file is there whole or not at all to who looks into the folder, also after the end of the process at any
//! point. Names begin with the time, so they sort by it. What else lies in the folder is left alone.
//!
//! Nothing is flushed: that would be most of what a mail costs, six times the rest, and nobody's mail is here. So in a
//! power failure those of the last seconds may be missing, or be there without their content: the name of a new file may reach the
//! disk before what is in it does (ext4 waits for the content only where a rename replaces a file), and a long one may end
//! early. What has no content is removed by the next run.

use super::Letter;
use crate::policy::{Fault, FaultKind};
use jiff::Timestamp;
use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// The most files that are kept.
pub(super) const MAX_FILES: usize = 10_000;
/// The most bytes that they have together.
pub(super) const MAX_BYTES: u64 = 256 << 20;

const SUFFIX: &str = ".eml";
const UNFINISHED: &str = ".eml.part";

/// A folder of messages. Of one host at a time, as the whole data folder is.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    kept: Arc<Mutex<Option<Kept>>>,
    bounds: (usize, u64),
}

/// What is in it, the oldest first.
#[derive(Debug, Default)]
struct Kept {
    files: VecDeque<(String, u64)>,
    bytes: u64,
    /// The time of the newest, in microseconds: no two have the same.
    last: i64,
}

// === impl Folder ===

impl Folder {
    pub fn open(path: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&path)?;
        Ok(Self { path, kept: Arc::default(), bounds: (MAX_FILES, MAX_BYTES) })
    }

    #[cfg(test)]
    pub fn with_bounds(self, files: usize, bytes: u64) -> Self {
        Self { bounds: (files, bytes), ..self }
    }

    /// Writes a letter into a file of its own.
    pub async fn deliver(&self, letter: &Arc<Letter>) -> Result<(), Fault> {
        let (path, kept, bounds, letter) = (self.path.clone(), self.kept.clone(), self.bounds, letter.clone());
        let writing = tokio::task::spawn_blocking(move || write(&path, &kept, bounds, &letter));
        let written = writing.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        written.map_err(|error| {
            let why = format!("the folder {} for mail can't be written to: {error}", self.path.display());
            Fault::new(FaultKind::Unreachable, why)
        })
    }
}

fn write(folder: &Path, kept: &Mutex<Option<Kept>>, bounds: (usize, u64), letter: &Letter) -> io::Result<()> {
    // A part of the id, which is made of letters and digits, tells repetitions by their names.
    let id: String = letter.id().chars().filter(char::is_ascii_alphanumeric).take(12).collect();
    let unfinished = folder.join(format!("{}-{id}{UNFINISHED}", uuid::Uuid::now_v7().simple()));
    let written = written(&unfinished, letter);
    let placed = written.and_then(|size| {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = match &mut *kept {
            Some(kept) => kept,
            none => none.insert(Kept::find(folder, &unfinished)?),
        };
        let now = Timestamp::now().as_microsecond().max(kept.last + 1);
        let at = Timestamp::from_microsecond(now).map_err(io::Error::other)?;
        let name = format!("{}-{id}{SUFFIX}", at.strftime("%Y%m%dT%H%M%S.%6fZ"));
        fs::rename(&unfinished, folder.join(&name))?;
        kept.last = now;
        kept.add(name, size);
        kept.keep_within(folder, bounds);
        Ok(())
    });
    if placed.is_err() {
        // It may never have been there.
        let _ = fs::remove_file(&unfinished);
    }
    placed
}

fn written(path: &Path, letter: &Letter) -> io::Result<u64> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(letter.bcc().as_bytes())?;
    file.write_all(letter.content())?;
    Ok((letter.bcc().len() + letter.content().len()) as u64)
}

// === impl Kept ===

impl Kept {
    /// What an earlier run has left, and neither what it left unfinished nor what a power failure has left empty.
    fn find(folder: &Path, own: &Path) -> io::Result<Self> {
        let mut kept = Self::default();
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if is_ours(&name) {
                match entry.metadata()?.len() {
                    0 => fs::remove_file(entry.path())?,
                    size => found.push((name, size)),
                }
            } else if name.ends_with(UNFINISHED) && is_stale(&entry.path(), own) {
                fs::remove_file(entry.path())?;
            }
        }
        found.sort();
        found.into_iter().for_each(|(name, size)| kept.add(name, size));
        Ok(kept)
    }

    fn add(&mut self, name: String, size: u64) {
        self.bytes += size;
        self.files.push_back((name, size));
    }

    /// Lets the oldest go. The newest stays, however large it is.
    fn keep_within(&mut self, folder: &Path, (files, bytes): (usize, u64)) {
        while self.files.len() > 1 && (self.files.len() > files || self.bytes > bytes) {
            let Some((name, size)) = self.files.pop_front() else { return };
            self.bytes -= size;
            if let Err(error) = fs::remove_file(folder.join(&name))
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(name, %error, "old mail can't be removed");
            }
        }
    }
}

/// Whether a file has a name such as `20261124T153000.123456Z-0f3a….eml`.
fn is_ours(name: &str) -> bool {
    let Some((time, id)) = name.strip_suffix(SUFFIX).and_then(|name| name.split_once('-')) else { return false };
    let digits = time.bytes().filter(u8::is_ascii_digit).count();
    time.len() == 23 && digits == 20 && time.ends_with('Z') && id.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// Whether nobody is about to finish a file: another letter may be written at this moment.
fn is_stale(path: &Path, own: &Path) -> bool {
    let modified = fs::metadata(path).and_then(|file| file.modified());
    let age = modified.ok().and_then(|at| at.elapsed().ok()).unwrap_or_default();
    path != own && age.as_secs() > 600
}
