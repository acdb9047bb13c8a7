//! The definitions that are known: those of the revision that serves, and those that sagas under way began with.

use super::{Definition, rows};
use crate::store::{Database, Error};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

/// A definition and its digest.
pub(super) type Digested = (Arc<str>, Arc<Definition>);

#[derive(Default)]
pub(super) struct Known {
    /// By the name of the saga.
    current: RwLock<Arc<HashMap<String, Digested>>>,
    /// Whether a revision serves: where none does yet, sagas wait for it, and lack nothing.
    serves: AtomicBool,
    /// By the digest. As many as there were revisions with other sagas since the start.
    stored: Mutex<HashMap<Arc<str>, Arc<Definition>>>,
}

// === impl Known ===

impl Known {
    /// Whether a revision serves, whose definitions these are.
    pub fn serves(&self) -> bool {
        self.serves.load(Ordering::Acquire)
    }

    /// A revision serves from now on.
    pub fn serve(&self) {
        self.serves.store(true, Ordering::Release);
    }

    /// The definitions of the revision that serves from now on.
    pub async fn set(&self, database: &Database, all: Vec<Definition>) -> Result<(), Error> {
        let all = all.into_iter().map(|definition| (digest(&definition), Arc::new(definition))).collect::<Vec<_>>();
        rows::define(database, &all).await?;
        let mut current = HashMap::new();
        for (digest, definition) in all {
            let digest = Arc::<str>::from(digest);
            self.stored().insert(digest.clone(), definition.clone());
            current.insert(definition.name.clone(), (digest, definition));
        }
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(current);
        Ok(())
    }

    /// The definitions of the revision that serves.
    pub fn current(&self) -> Arc<HashMap<String, Digested>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The definition of this digest.
    pub async fn get(&self, database: &Database, digest: &str) -> Result<Arc<Definition>, Error> {
        if let Some(definition) = self.stored().get(digest) {
            return Ok(definition.clone());
        }
        let Some(definition) = rows::definition(database, digest).await? else {
            return Err(Error::Invalid(format!("the definition {digest} is not in `_wharf_saga_definitions`")));
        };
        let definition = Arc::new(definition);
        self.stored().insert(digest.into(), definition.clone());
        Ok(definition)
    }

    fn stored(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, Arc<Definition>>> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a definition is known by: the same for the same definition, and no other's.
fn digest(definition: &Definition) -> String {
    let json = serde_json::to_vec(definition).unwrap_or_default();
    hex(&Sha256::digest(json))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
