//! The audit log: who changed what in a running host, and what came of it.
//!
//! One JSON object a line in `audit.log` of the data folder, on the disk before the one who asked is answered. A deploy and
//! a rollback have a line when they begin and one when they end: whatever the host dies of in between, that somebody tried
//! is there. The file is bounded; a full one becomes `audit.log.1`, and the one of that name before is gone.

use crate::rollout::{DeployError, Deployment, Outcome, RolloutEnd, RolloutSnapshot};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::broadcast;

/// The file in the data folder.
const FILE: &str = "audit.log";
/// The one before it.
const OLD: &str = "audit.log.1";
/// A file that would be larger is put aside.
const LARGEST: u64 = 16 << 20;
/// Longer texts are cut.
const LONGEST: usize = 2000;

/// The audit log of a host.
#[derive(Clone)]
pub struct Audit(Arc<Mutex<Open>>);

struct Open {
    folder: PathBuf,
    file: File,
    size: u64,
    largest: u64,
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// When, RFC 3339.
    pub time: String,
    /// Who did it.
    #[serde(flatten)]
    pub who: Who,
    /// What was done.
    #[serde(flatten)]
    pub deed: Deed,
    /// What came of it.
    pub outcome: Came,
}

/// Who did something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case")]
pub enum Who {
    /// Somebody at the admin socket, as the kernel knows them.
    Socket {
        /// The user.
        uid: u32,
        /// The process, where it is known.
        #[serde(skip_serializing_if = "Option::is_none")]
        pid: Option<i32>,
    },
    /// Somebody with the admin token.
    Token {
        /// The address that they came from.
        from: String,
    },
    /// The host, because a file had changed.
    Watch,
    /// The host, because it was sent a signal.
    Signal,
    /// The host, when it started.
    Start,
    /// The host, because a rollout did not hold.
    Rollout,
}

/// Something that was done or tried.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deed {
    /// In a word: `deploy`, `rollback`, `breaker`, `reload`, …
    pub what: String,
    /// To which service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Which revision serves by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// The hash of its component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// What was asked for, where that is not told by the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Why it came as it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Came {
    /// It has begun.
    Begun,
    /// It was done.
    Done,
    /// There was nothing to do.
    Unchanged,
    /// It was not done.
    Refused,
}

/// Why the log can't be written.
#[derive(Debug, thiserror::Error)]
#[error("the audit log {} can't be written: {source}", path.display())]
pub struct AuditError {
    path: PathBuf,
    source: io::Error,
}

/// Writes down how rollouts by stages end, which they do by themselves.
pub(super) async fn note_rollouts(audit: Audit, mut ended: broadcast::Receiver<RolloutSnapshot>) {
    loop {
        let snapshot = match ended.recv().await {
            Ok(snapshot) => snapshot,
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "ends of rollouts are not in the audit log");
                continue;
            }
            Err(broadcast::error::RecvError::Closed) => return,
        };
        let RolloutSnapshot { service, revision, end, .. } = snapshot;
        let deed =
            Deed { revision: Some(revision.number), hash: Some(revision.hash), ..Deed::new("rollout").to(service) };
        match end {
            Some(RolloutEnd::Undone { reason }) => {
                audit.note(&Who::Rollout, &deed.because(reason), Came::Refused).await;
            }
            _ => audit.note(&Who::Rollout, &deed, Came::Done).await,
        }
    }
}

// === impl Audit ===

impl Audit {
    /// Opens the log in the data folder.
    ///
    /// # Errors
    ///
    /// When it can't be written.
    pub fn open(folder: &Path) -> Result<Self, AuditError> {
        Self::open_up_to(folder, LARGEST)
    }

    fn open_up_to(folder: &Path, largest: u64) -> Result<Self, AuditError> {
        let open = || -> io::Result<Open> {
            let (mut file, mut size) = open(folder)?;
            if size > 0 {
                // A line that a dead host has not finished must not swallow the next one.
                let mut last = [0];
                file.seek(SeekFrom::End(-1))?;
                file.read_exact(&mut last)?;
                if last != [b'\n'] {
                    file.write_all(b"\n")?;
                    size += 1;
                }
            }
            Ok(Open { folder: folder.to_owned(), file, size, largest })
        };
        let open = open().map_err(|source| AuditError { path: folder.join(FILE), source })?;
        Ok(Self(Arc::new(Mutex::new(open))))
    }

    /// Writes what was done; it is on the disk when this returns.
    ///
    /// # Errors
    ///
    /// When it can't be written.
    pub async fn write(&self, who: &Who, deed: &Deed, outcome: Came) -> Result<(), AuditError> {
        let time = format!("{:.3}", Timestamp::now());
        let mut deed = deed.clone();
        for text in [&mut deed.detail, &mut deed.reason].into_iter().flatten() {
            if text.chars().count() > LONGEST {
                *text = text.chars().take(LONGEST).chain(['…']).collect();
            }
        }
        let entry = AuditEntry { time, who: who.clone(), deed, outcome };
        let open = self.0.clone();
        let written = tokio::task::spawn_blocking(move || {
            let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
            let path = open.folder.join(FILE);
            open.append(&entry).map_err(|source| AuditError { path, source })
        });
        let lost = |panic: tokio::task::JoinError| AuditError { path: FILE.into(), source: io::Error::other(panic) };
        written.await.unwrap_or_else(|panic| Err(lost(panic)))
    }

    /// Writes what was done already; that it could not be written is logged.
    pub async fn note(&self, who: &Who, deed: &Deed, outcome: Came) {
        if let Err(error) = self.write(who, deed, outcome).await {
            tracing::error!(%error, what = deed.what, service = deed.service, "something is missing in the audit log");
        }
    }

    /// Writes what came of a deploy or a rollback.
    pub async fn note_deploy(&self, who: &Who, deed: Deed, came: &Result<Deployment, DeployError>) {
        let (deed, outcome) = deed.came(came);
        self.note(who, &deed, outcome).await;
    }
}

/// The last lines of the log in a data folder, oldest first: at most so many. What is no line of it is left out.
///
/// # Errors
///
/// When the files can't be read; that there is none is no error.
pub fn last_entries(folder: &Path, most: usize) -> io::Result<Vec<AuditEntry>> {
    let mut entries = std::collections::VecDeque::new();
    for name in [OLD, FILE] {
        let file = match File::open(folder.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        for line in BufReader::new(file).split(b'\n') {
            if let Ok(entry) = serde_json::from_slice(&line?) {
                entries.push_back(entry);
                if entries.len() > most {
                    entries.pop_front();
                }
            }
        }
    }
    Ok(entries.into())
}

fn open(folder: &Path) -> io::Result<(File, u64)> {
    let mut options = File::options();
    let file = options.read(true).append(true).create(true).mode(0o600).open(folder.join(FILE))?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

// === impl Open ===

impl Open {
    fn append(&mut self, entry: &AuditEntry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        let length = line.len() as u64;
        if self.size > 0 && self.size + length > self.largest {
            fs::rename(self.folder.join(FILE), self.folder.join(OLD))?;
            (self.file, self.size) = open(&self.folder)?;
            File::open(&self.folder)?.sync_all()?;
        }
        let written = self.file.write_all(&line).and_then(|()| self.file.sync_data());
        if written.is_err() {
            // Half a line would be taken for the beginning of the next one.
            let _ = self.file.set_len(self.size);
            return written;
        }
        self.size += length;
        Ok(())
    }
}

// === impl Deed ===

impl Deed {
    /// Something done, in a word.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), ..Self::default() }
    }

    /// To this service.
    #[must_use]
    pub fn to(self, service: impl Into<String>) -> Self {
        Self { service: Some(service.into()), ..self }
    }

    /// With this detail.
    #[must_use]
    pub fn detailed(self, detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..self }
    }

    /// For this reason.
    #[must_use]
    pub fn because(self, reason: impl Into<String>) -> Self {
        Self { reason: Some(reason.into()), ..self }
    }

    /// With what came of a deploy or a rollback.
    fn came(self, came: &Result<Deployment, DeployError>) -> (Self, Came) {
        match came {
            Ok(Deployment { revision, outcome }) => {
                let hash = Some(revision.hash.clone());
                (Self { revision: Some(revision.number), hash, ..self }, Came::from(*outcome))
            }
            Err(error) => (self.because(error.to_string()), Came::Refused),
        }
    }
}

// === impl Who ===

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket { uid, pid: Some(pid) } => write!(f, "uid {uid}, pid {pid}"),
            Self::Socket { uid, pid: None } => write!(f, "uid {uid}"),
            Self::Token { from } => write!(f, "token, from {from}"),
            Self::Watch => f.write_str("watch"),
            Self::Signal => f.write_str("signal"),
            Self::Start => f.write_str("start"),
            Self::Rollout => f.write_str("rollout"),
        }
    }
}

// === impl Came ===

impl From<Outcome> for Came {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Deployed | Outcome::RolledBack => Self::Done,
            Outcome::Begun => Self::Begun,
            Outcome::Unchanged => Self::Unchanged,
        }
    }
}

impl fmt::Display for Came {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Begun => "begun",
            Self::Done => "done",
            Self::Unchanged => "unchanged",
            Self::Refused => "refused",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("wharf-audit-{}", uuid::Uuid::new_v4()));
            fs::create_dir(&path).expect("a temporary folder");
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn somebody() -> Who {
        Who::Socket { uid: 1000, pid: Some(17) }
    }

    #[tokio::test]
    async fn a_line_says_who_did_what_and_what_came_of_it() {
        let folder = Folder::new();
        let audit = Audit::open(&folder.0).expect("it can be written");
        let deed = Deed::new("deploy").to("user").because("it does not fit");
        audit.write(&somebody(), &deed, Came::Refused).await.expect("it is written");
        let text = fs::read_to_string(folder.0.join(FILE)).expect("it is there");
        let line: serde_json::Value = serde_json::from_str(&text).expect("it is one line of JSON");
        for (key, value) in [("by", "socket"), ("what", "deploy"), ("service", "user"), ("outcome", "refused")] {
            assert_eq!(line[key], value, "{line}");
        }
        assert_eq!(
            (&line["uid"], &line["pid"], &line["reason"]),
            (&1000.into(), &17.into(), &"it does not fit".into())
        );
        assert_eq!(last_entries(&folder.0, 10).expect("it can be read")[0].deed, deed);
    }

    #[tokio::test]
    async fn it_is_bounded_and_the_last_lines_are_there() {
        let folder = Folder::new();
        let audit = Audit::open_up_to(&folder.0, 4000).expect("it can be written");
        for n in 0..100 {
            let deed = Deed::new("reload").detailed(format!("{n}"));
            audit.write(&Who::Watch, &deed, Came::Done).await.expect("it is written");
        }
        for name in [FILE, OLD] {
            let size = fs::metadata(folder.0.join(name)).expect("it is there").len();
            assert!((1..=4000).contains(&size), "{name}: {size}");
        }
        let last = last_entries(&folder.0, 30).expect("it can be read");
        let last: Vec<_> = last.iter().filter_map(|entry| entry.deed.detail.clone()).collect();
        assert_eq!(last, (70..100).map(|n| n.to_string()).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn half_a_line_of_a_host_that_died_costs_no_other() {
        let folder = Folder::new();
        fs::write(folder.0.join(FILE), "{\"time\": \"2026").expect("it can be written");
        let audit = Audit::open(&folder.0).expect("it can be written");
        audit.write(&Who::Start, &Deed::new("start"), Came::Done).await.expect("it is written");
        assert_eq!(last_entries(&folder.0, 10).expect("it can be read").len(), 1);
    }

    #[tokio::test]
    async fn what_is_long_is_cut() {
        let folder = Folder::new();
        let audit = Audit::open(&folder.0).expect("it can be written");
        let deed = Deed::new("deploy").because("x".repeat(1 << 20));
        audit.write(&Who::Watch, &deed, Came::Refused).await.expect("it is written");
        assert!(fs::metadata(folder.0.join(FILE)).expect("it is there").len() < 3000);
    }
}
