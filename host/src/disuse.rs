//! Files that can be had again, and are kept for as long as somebody uses them: compiled code, and what was pulled.
//!
//! Several programs may use one folder, a host and `wharf check` for example, and none knows what the others need. So who uses
//! a file says so in its time of modification, and one that nobody has used for days may go. Who wants it at that very moment
//! does not find it any more, and makes it anew; who has it open keeps it.

use std::{
    fs::{self, File},
    io,
    path::Path,
    time::{Duration, SystemTime},
};

/// How many files are looked at, at most. What is beyond them has its turn when some of these are gone.
const MOST: usize = 10_000;

/// This file is in use.
pub(crate) fn touch(file: &File) {
    if let Err(error) = file.set_modified(SystemTime::now()) {
        // Then it goes too early, and is made anew.
        tracing::debug!(%error, "that a file is in use can't be noted");
    }
}

/// Removes the files of a folder that can go, by their names, and that nobody has used for so long. Takes its time: not for
/// async threads. Returns how many they were.
pub(crate) fn remove(folder: &Path, unused_for: Duration, can_go: impl Fn(&str) -> bool) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(folder)?.take(MOST) {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(&can_go) {
            continue;
        }
        let Ok(file) = entry.metadata() else { continue };
        // Of a time that is still to come nothing is known.
        let age = file.modified()?.elapsed().unwrap_or_default();
        if file.is_file() && age >= unused_for {
            match fs::remove_file(entry.path()) {
                Ok(()) => removed += 1,
                // Somebody else was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(removed)
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// As if nobody had used it for so long.
    pub(crate) fn forget(path: &Path, time: Duration) {
        let file = File::options().write(true).open(path).expect("it is there");
        file.set_modified(SystemTime::now() - time).expect("it is ours");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_has_used_for_long_goes_and_nothing_else() {
        let folder = std::env::temp_dir().join(format!("wharf-disuse-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(folder.join("old-folder")).expect("a temporary folder");
        for name in ["old", "old-used-again", "old-and-needed", "new"] {
            fs::write(folder.join(name), name).expect("it can be written");
        }
        let day = Duration::from_secs(24 * 60 * 60);
        for name in ["old", "old-used-again", "old-and-needed"] {
            testing::forget(&folder.join(name), 2 * day);
        }
        let used = File::open(folder.join("old-used-again")).expect("it is there");
        touch(&used);
        assert_eq!(remove(&folder, day, |name| name != "old-and-needed").expect("it is there"), 1);
        let left = fs::read_dir(&folder).expect("it is there").map(|it| it.expect("it is there").file_name());
        let mut left: Vec<_> = left.collect();
        left.sort();
        assert_eq!(left, ["new", "old-and-needed", "old-folder", "old-used-again"]);
        fs::remove_dir_all(&folder).expect("it is ours");
        assert!(remove(&folder, day, |_| true).is_err());
    }
}
