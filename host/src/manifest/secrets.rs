//! `secrets` of a service: a table of references, folders, or both.

use std::collections::BTreeMap;

use super::{
    error::Placed,
    reader::{Document, Value, quoted},
    secret::{Secret, SecretError, SecretRef},
    secret_folder::SecretFolder,
    services::read_settings,
};

/// The secrets that a service gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Secrets {
    /// Each by its key.
    pub named: BTreeMap<String, Placed<SecretRef>>,
    /// Folders with more of them.
    pub folders: Vec<Placed<SecretFolder>>,
}

// === impl Secrets ===

impl Secrets {
    /// All of them, fetched from where they are kept. None may have a key that is `taken`.
    ///
    /// # Errors
    /// The first that can't be had, at its place in the manifest.
    pub fn resolve(&self, taken: impl Fn(&str) -> bool) -> Result<BTreeMap<String, Secret>, Placed<SecretError>> {
        let mut all = BTreeMap::new();
        for (key, secret) in &self.named {
            all.insert(key.clone(), secret.resolve().map_err(|error| secret.with(error))?);
        }
        self.resolve_folders(&mut all, taken).map(|()| all)
    }

    /// Adds what is in the folders to what there is.
    ///
    /// # Errors
    /// The first that can't be had, at its place in the manifest.
    pub fn resolve_folders(
        &self,
        all: &mut BTreeMap<String, Secret>,
        taken: impl Fn(&str) -> bool,
    ) -> Result<(), Placed<SecretError>> {
        for folder in &self.folders {
            for (key, secret) in folder.resolve().map_err(|error| folder.with(error))? {
                if taken(&key) || all.contains_key(&key) {
                    return Err(folder.with(SecretError::Twice { folder: folder.path().to_owned(), key }));
                }
                all.insert(key, secret);
            }
        }
        Ok(())
    }

    /// Reads them. What stands in the place of a reference is not shown: it may be a secret.
    pub(super) fn read(value: Option<Value<'_>>, doc: &Document<'_>) -> Self {
        let mut secrets = Self::default();
        match &value {
            Some(value) if value.is_array() => {
                for item in value.items("an array").into_iter().flatten() {
                    secrets.read_one(&item, doc);
                }
            }
            Some(value) => secrets.read_one(value, doc),
            None => {}
        }
        secrets
    }

    fn read_one(&mut self, value: &Value<'_>, doc: &Document<'_>) {
        let twice = |what: &str| format!("{what} is there twice");
        if value.is_table() {
            let Some(table) = value.table() else { return };
            for (key, secret) in read_settings(table, doc, |value| Some(value.placed(SecretRef::read(value)?))) {
                if self.named.contains_key(&key) {
                    doc.report_at(&secret, twice(&quoted(&key)));
                }
                self.named.insert(key, secret);
            }
            return;
        }
        match SecretFolder::read(value) {
            Some(folder) if self.folders.iter().any(|it| it.value == folder) => {
                value.report::<()>(twice("this folder"));
            }
            Some(folder) => self.folders.push(value.placed(folder)),
            None => {
                value.report::<()>(
                    "expected a table of references such as { api-key = \"env:API_KEY\" }, a folder such as \
                     \"folder:/run/secrets/order\", or an array of both; the secrets themselves are not kept here",
                );
            }
        }
    }
}
