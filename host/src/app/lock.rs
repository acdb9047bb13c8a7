//! One host a data folder.
//!
//! Two hosts on the same databases would each believe that they are alone: two circuit breakers, two embedded buses, two
//! sets of migrations at a time. The lock belongs to the open file, so the kernel takes it back from a host that dies,
//! however it dies, and nothing that is left behind keeps the next one out.

use std::{
    fs::{File, TryLockError},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
};

/// The file in the data folder that is locked. What is in it, the number of the process, is for people.
const FILE: &str = "lock";
/// As much of the file as is read for a message.
const LONGEST_NUMBER: u64 = 20;

/// A data folder that no other host can have, for as long as this is there.
#[derive(Debug)]
pub struct DataLock {
    _file: File,
}

/// Why a data folder can't be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another host has it.
    #[error(
        "another host runs with the data folder {} ({holder}): stop it, or give this one a folder of its own",
        folder.display()
    )]
    Taken {
        /// The folder.
        folder: PathBuf,
        /// Which host, as far as it is known.
        holder: String,
    },
    /// The file can't be locked.
    #[error("{} can't be locked: {source}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

// === impl DataLock ===

impl DataLock {
    /// Takes `folder`, which exists.
    ///
    /// # Errors
    ///
    /// [`LockError`] with the process that has it.
    pub fn take(folder: &Path) -> Result<Self, LockError> {
        let path = folder.join(FILE);
        let unusable = |source| LockError::Unusable { path: path.clone(), source };
        // Not truncated: while another host has it, the number in it is that host's.
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = file.map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => {
                note(&mut file).map_err(unusable)?;
                Ok(Self { _file: file })
            }
            Err(TryLockError::WouldBlock) => Err(LockError::Taken { folder: folder.to_owned(), holder: holder(file) }),
            Err(TryLockError::Error(source)) => Err(unusable(source)),
        }
    }
}

fn note(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn holder(file: File) -> String {
    let mut text = String::new();
    // Another host may be writing it at this very moment.
    let read = file.take(LONGEST_NUMBER).read_to_string(&mut text).is_ok();
    match text.trim().parse::<u32>() {
        Ok(process) if read => format!("process {process}"),
        _ => "it does not say which process it is".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_host_at_a_time() {
        let folder = std::env::temp_dir().join(format!("wharf-lock-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&folder).expect("a temporary folder");
        // What an earlier host has left behind, of whatever length, is nobody's.
        std::fs::write(folder.join(FILE), "4294967295 and more").expect("it can be written to");
        let first = DataLock::take(&folder).expect("it is free");
        let error = DataLock::take(&folder).expect_err("it is taken").to_string();
        assert!(error.contains(&format!("(process {})", std::process::id())), "{error}");
        assert!(error.contains(&folder.display().to_string()), "{error}");
        drop(first);
        DataLock::take(&folder).expect("it is free again");
        std::fs::remove_dir_all(&folder).expect("it is ours");
    }
}
