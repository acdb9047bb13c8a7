//! Back to a revision that served before, and on with the one that served last when the host starts.
//!
//! Both are quick: the compiled code of what is kept is in the cache, and the component itself is read only where it is
//! not, or where somebody must have signed it.

use super::{DeployError, Deployment, History, HistoryError, Kept, Loaded, Newer, Outcome, Revisions, Rollout};
use crate::{
    engine::{CodeCache, Engine},
    service::Metadata,
    trust::Trust,
};
use bytes::Bytes;
use std::sync::Arc;

/// Whether a component is put in place that does not know all migrations of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Past {
    /// A revision that does not know what was migrated since is refused.
    Refused,
    /// It runs on the newer schema: whoever says so knows that it can.
    Forced,
}

/// Which component a service starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartWith {
    /// What served last, unless the manifest's component is another one since.
    LastServing,
    /// The manifest's component.
    Manifest,
}

// === impl Past ===

impl Past {
    /// By whether somebody said `--force`.
    pub fn by(force: bool) -> Self {
        if force { Self::Forced } else { Self::Refused }
    }
}

impl From<Past> for Newer {
    fn from(past: Past) -> Self {
        match past {
            Past::Refused => Self::Unforced,
            Past::Forced => Self::Allowed,
        }
    }
}

// === impl Rollout ===

impl Rollout {
    /// Puts a kept revision back in its place, while requests run: `number`, or the one that served before what serves
    /// now. It keeps its number.
    ///
    /// # Errors
    ///
    /// Why it was refused; then what serves goes on.
    pub async fn rollback(&self, service: &str, number: Option<u64>, past: Past) -> Result<Deployment, DeployError> {
        let member = self.member(service)?;
        let _deploying = self.deploying.lock().await;
        if let Some(staged) = member.under_way() {
            return Err(DeployError::UnderWay { service: service.to_owned(), revision: staged.revision.number });
        }
        let wrong = |source| DeployError::History { service: service.to_owned(), source };
        let kept = self.history.target(service, number).await.map_err(wrong)?;
        let serves = member.service.revision().map(|revision| revision.info().clone());
        if let Some(serves) = serves
            && serves.number == kept.revision.number
        {
            return Ok(Deployment { revision: serves, outcome: Outcome::Unchanged });
        }
        let loaded = Loaded::kept(&self.engine, &member.terms.trust, &self.history, service, kept).await?;
        let info = self.replace(&member, loaded, past.into(), member.terms.policy.params().drain).await?;
        tracing::info!(service, revision = info.number, hash = &info.hash[..12], "rolled back");
        Ok(Deployment { revision: info, outcome: Outcome::RolledBack })
    }

    /// The last revisions of a service.
    ///
    /// # Errors
    ///
    /// When there is no such service.
    pub async fn revisions(&self, service: &str) -> Result<Revisions, DeployError> {
        let member = self.member(service)?;
        let none = || Revisions { service: service.to_owned(), current: None, schema: None, revisions: Vec::new() };
        let mut revisions = self.history.of(service).await.unwrap_or_else(none);
        if member.terms.scope.database.is_some() {
            // What can't be asked now is not shown.
            revisions.schema = member.applied().await.ok().and_then(|names| u32::try_from(names.len()).ok());
        }
        Ok(revisions)
    }
}

// === impl Loaded ===

impl Loaded {
    /// What a service starts with, where `wasm` is the manifest's component.
    ///
    /// # Errors
    ///
    /// [`DeployError::Load`] for what is no component, [`DeployError::History`] when a kept one can't be read.
    pub async fn at_start(
        engine: &Arc<Engine>,
        trust: &Trust,
        history: &History,
        service: &str,
        (wasm, origin): (Vec<u8>, String),
        with: StartWith,
    ) -> Result<Self, DeployError> {
        let wasm = Bytes::from(wasm);
        let bytes = wasm.clone();
        // Large ones take a moment. A hash that could not be made fits nothing, and the component is loaded as a new one.
        let hash = tokio::task::spawn_blocking(move || CodeCache::content_hash(&bytes)).await.unwrap_or_default();
        let kept = history.at_start(service, &hash).await;
        let mut loaded = match kept {
            Some(kept) if kept.revision.hash == hash => {
                Self { kept: Some(kept), ..Self::new(engine, trust, wasm, origin).await? }
            }
            Some(kept) if with == StartWith::LastServing => Self::kept(engine, trust, history, service, kept).await?,
            _ => Self::new(engine, trust, wasm, origin).await?,
        };
        loaded.manifest = Some(hash);
        Ok(loaded)
    }

    /// A revision that is kept.
    async fn kept(
        engine: &Arc<Engine>,
        trust: &Trust,
        history: &History,
        service: &str,
        kept: Kept,
    ) -> Result<Self, DeployError> {
        let (aside, hash) = (engine.clone(), kept.revision.hash.clone());
        let compiled = tokio::task::spawn_blocking(move || aside.cache().find(aside.wasmtime(), &hash)).await;
        if trust.is_for_everybody()
            && let Ok(Some(component)) = compiled
        {
            let (hash, origin) = (kept.revision.hash.clone(), kept.revision.origin.clone());
            let (metadata, wasm) = (Metadata::default(), Bytes::new());
            return Ok(Self { component, hash, origin, metadata, wasm, kept: Some(kept), manifest: None });
        }
        let wrong = |source: HistoryError| DeployError::History { service: service.to_owned(), source };
        let wasm = history.component(&kept.revision.hash).await.map_err(wrong)?;
        Ok(Self { kept: Some(kept.clone()), ..Self::new(engine, trust, wasm, kept.revision.origin).await? })
    }

    /// Whether it is to become a new revision.
    pub fn is_new(&self) -> bool {
        self.kept.is_none()
    }

    /// The number of the revision that it is again, where it is not the manifest's component.
    pub fn is_not_the_manifests(&self) -> Option<u64> {
        let kept = self.kept.as_ref()?;
        (self.manifest.as_ref() != Some(&kept.revision.hash)).then_some(kept.revision.number)
    }
}
