//! What the tests of several files need.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A folder that goes when the test ends.
pub(super) struct TempDir(PathBuf);

// === impl TempDir ===

impl TempDir {
    pub(super) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("wharf-build-{}", uuid::Uuid::new_v4()));
        fs::create_dir(&path).expect("a temporary folder");
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
