//! Where a server is that keeps something for the host.

use super::{
    reader::Value,
    secret::{Secret, SecretError, SecretRef},
};

/// A server's URL. It may hold a password, so it is treated as a secret wherever it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerUrl {
    /// Written in the manifest.
    Written(Secret),
    /// Kept elsewhere.
    Kept(SecretRef),
}

// === impl ServerUrl ===

impl ServerUrl {
    /// The URL, fetched from where it is kept.
    ///
    /// # Errors
    /// When it is kept as a secret that cannot be had; see [`SecretRef::resolve`].
    pub fn resolve(&self) -> Result<Secret, SecretError> {
        match self {
            Self::Written(url) => Ok(url.clone()),
            Self::Kept(reference) => reference.resolve(),
        }
    }

    /// Reads a URL that begins with one of these. What stands in its place is not shown: it may hold a password.
    pub(super) fn read(value: &Value<'_>, schemes: [&str; 2], example: &str) -> Option<Self> {
        let text = value.as_str().unwrap_or_default();
        if schemes.iter().any(|scheme| text.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty())) {
            return Some(Self::Written(Secret::new(text)));
        }
        if text.starts_with("env:") || text.starts_with("file:") {
            return SecretRef::read(value).map(Self::Kept);
        }
        value.report(format!("expected a URL such as \"{example}\", or a reference to a secret that holds one"))
    }
}
