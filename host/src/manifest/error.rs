//! Where something stands in the manifest, and what is wrong there.

use std::{
    fmt,
    ops::Deref,
    path::{Path, PathBuf},
};

/// A place in the manifest. Both count from 1; columns count characters, not bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column of the first character.
    pub column: usize,
}

/// A value that remembers where it was written, so that what goes wrong with it later (a missing file, a port in use)
/// can be reported like what is wrong with the manifest itself: see [`Manifest::error_at`](super::Manifest::error_at).
///
/// Two are equal if their values are: where something stands does not change what it says.
#[derive(Clone, Debug)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    /// The dotted key, e.g. `services.order.component`.
    pub key: String,
    /// Where the value stands; `None` for a built-in default that nobody wrote.
    pub place: Option<Place>,
}

/// One thing that is wrong with the manifest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ManifestError {
    /// Where; `None` if it concerns the whole file, or a value that nobody wrote.
    pub place: Option<Place>,
    /// The dotted key; empty if it concerns the file or its syntax.
    pub key: String,
    /// What was expected, what was found and, where that can be told, what was meant.
    pub message: String,
}

/// Everything that is wrong with a manifest, in the order of its lines. Never empty.
///
/// Displayed as one line each, like a compiler's: `wharf.toml:23: services.order.calls: there is no service …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestErrors {
    path: PathBuf,
    errors: Vec<ManifestError>,
}

// === impl Placed ===

impl<T: PartialEq> PartialEq for Placed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for Placed<T> {}

impl<T> Placed<T> {
    /// The same place and key with another value.
    pub fn with<U>(&self, value: U) -> Placed<U> {
        Placed { value, key: self.key.clone(), place: self.place }
    }
}

impl<T> Deref for Placed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

// === impl ManifestErrors ===

impl ManifestErrors {
    pub(super) fn new(path: &Path, mut errors: Vec<ManifestError>) -> Self {
        errors.sort();
        errors.dedup();
        Self { path: path.to_owned(), errors }
    }

    /// One error about the file as a whole.
    pub(super) fn whole(path: &Path, message: String) -> Self {
        Self::new(path, vec![ManifestError { place: None, key: String::new(), message }])
    }

    /// The file, as it was named to [`Manifest::load`](super::Manifest::load).
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The errors in the order of their lines.
    pub fn errors(&self) -> &[ManifestError] {
        &self.errors
    }
}

impl fmt::Display for ManifestErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.errors.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:", self.path.display())?;
            if let Some(place) = error.place {
                write!(f, "{}:", place.line)?;
            }
            if !error.key.is_empty() {
                write!(f, " {}:", error.key)?;
            }
            write!(f, " {}", error.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for ManifestErrors {}
