//! What a component would change, before it is deployed.

use super::{DeployError, Loaded, Member, Rollout, Shapes, steps::migrations_of};
use crate::service::{Misfit, RevisionInfo, ShapeChanges};
use std::sync::Arc;

/// What a component would change.
pub struct Diff {
    /// SHA-256 of the component that runs, if one does.
    pub old: Option<String>,
    /// SHA-256 of the other.
    pub new: String,
    /// In what the service offers and needs.
    pub changes: ShapeChanges,
    /// What would not fit; empty: it can be deployed, as far as that can be seen before it runs.
    pub misfits: Vec<Misfit>,
    /// In the schema; `None` where the service has no database, or the component does not fit.
    pub schema: Option<SchemaDiff>,
}

/// What a component would change in the schema of its service.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SchemaDiff {
    /// The names of the migrations that it would run, in their order.
    pub runs: Vec<String>,
    /// The names of those that the database has and it does not know. With such it is refused, unless it is forced.
    pub unknown: Vec<String>,
    /// Those of its own in whose place the database has others, by name. With such it is refused.
    pub other: Vec<String>,
}

// === impl Rollout ===

impl Rollout {
    /// What would be different with `wasm` in place of what runs, and what would not fit.
    ///
    /// # Errors
    ///
    /// When there is no such service, or it is no component, or one that is not to be trusted, or does not say what its
    /// schema is.
    pub async fn diff(&self, service: &str, wasm: Vec<u8>, origin: String) -> Result<Diff, DeployError> {
        let member = self.member(service)?;
        let loaded = Loaded::new(&self.engine, &member.terms.trust, wasm, origin).await?;
        let shape = Arc::new(loaded.shape());
        let mut after = self.running().0.clone();
        let before = after.insert(service.to_string(), shape.clone());
        let changes = before.map(|before| ShapeChanges::between(&before, &shape)).unwrap_or_default();
        let misfits = match self.check(&after) {
            Err(DeployError::Misfit(found)) => found,
            _ => self.unfit_sagas(&member, &loaded, &after).await?,
        };
        let old = member.service.revision().map(|revision| revision.info().hash.clone());
        let schema = if misfits.is_empty() { self.schema_diff(&member, &loaded, &after).await? } else { None };
        Ok(Diff { old, new: loaded.hash, changes, misfits, schema })
    }

    /// What a component would change in the schema. It is asked what its own is, and can do nothing besides.
    async fn schema_diff(
        &self,
        member: &Member,
        loaded: &Loaded,
        after: &Shapes,
    ) -> Result<Option<SchemaDiff>, DeployError> {
        if member.terms.scope.database.is_none() {
            return Ok(None);
        }
        let scope = Arc::new(member.terms.scope.without_effects());
        let revision = self.link(member, loaded, RevisionInfo::default(), &scope, after)?;
        let own = migrations_of(member, &revision).await?;
        let service = || member.service.name().to_string();
        let applied = member.applied().await.map_err(|source| DeployError::Migrate { service: service(), source })?;
        let both = own.iter().zip(&applied);
        Ok(Some(SchemaDiff {
            runs: own.iter().skip(applied.len()).map(|it| it.name.clone()).collect(),
            unknown: applied.iter().skip(own.len()).cloned().collect(),
            other: both.filter(|(own, applied)| own.name != **applied).map(|(own, _)| own.name.clone()).collect(),
        }))
    }
}
