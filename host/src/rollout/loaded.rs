//! A component, read, trusted and compiled.

use super::{DeployError, Kept};
use crate::{
    engine::{CacheError, CodeCache, Engine},
    service::{Metadata, Revision, RevisionInfo, Shape},
    trust::{Distrust, Trust},
};
use bytes::Bytes;
use std::sync::Arc;
use wasmtime::component::Component;

/// A component, read and compiled.
pub struct Loaded {
    pub(super) component: Component,
    pub(super) hash: String,
    pub(super) origin: String,
    pub(super) metadata: Metadata,
    /// Its bytes; none of a revision that is kept.
    pub(super) wasm: Bytes,
    /// The revision that it was and is to be again.
    pub(super) kept: Option<Kept>,
    /// The hash of the manifest's component, where it was looked at to load this.
    pub(super) manifest: Option<String>,
}

// === impl Loaded ===

impl Loaded {
    /// Compiles `wasm`, or finds it compiled, if it is to be trusted. Takes its time on a thread of its own.
    ///
    /// # Errors
    ///
    /// [`DeployError::Untrusted`] for what the right people did not sign, [`DeployError::Load`] for what is no component.
    pub async fn new(
        engine: &Arc<Engine>,
        trust: &Trust,
        wasm: impl Into<Bytes>,
        origin: String,
    ) -> Result<Self, DeployError> {
        let (aside, trust, wasm) = (engine.clone(), trust.clone(), wasm.into());
        let compiled = tokio::task::spawn_blocking(move || {
            // Before anything else: the compiler is large, and what is not trusted must not come near it.
            trust.check(&wasm)?;
            let hash = CodeCache::content_hash(&wasm);
            let component = aside.cache().load(aside.wasmtime(), &wasm, &hash);
            Ok::<_, Distrust>(component.map(|component| (component, hash, Metadata::read(&wasm), wasm)))
        });
        match compiled.await {
            Ok(Ok(Ok((component, hash, metadata, wasm)))) => {
                Ok(Self { component, hash, origin, metadata, wasm, kept: None, manifest: None })
            }
            Ok(Err(distrust)) => Err(DeployError::Untrusted(distrust)),
            Ok(Ok(Err(source))) => Err(DeployError::Load { origin, source }),
            Err(panic) => {
                let source = CacheError::Compile(format!("the compiler failed: {panic}"));
                Err(DeployError::Load { origin, source })
            }
        }
    }

    /// What a revision is of, as it is kept: to be linked otherwise.
    pub(super) fn again(revision: &Revision, kept: Kept) -> Self {
        let RevisionInfo { hash, origin, metadata, .. } = revision.info().clone();
        let (component, wasm) = (revision.component().clone(), Bytes::new());
        Self { component, hash, origin, metadata, wasm, kept: Some(kept), manifest: None }
    }

    /// It is what the manifest names.
    #[must_use]
    pub fn of_manifest(self) -> Self {
        Self { manifest: Some(self.hash.clone()), ..self }
    }

    /// Its shape.
    pub fn shape(&self) -> Shape {
        Shape::of(&self.component)
    }

    /// SHA-256 of the component.
    pub fn hash(&self) -> &str {
        &self.hash
    }
}
