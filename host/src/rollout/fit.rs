//! Whether components fit each other, what is granted to them, and what policies say of them.

use super::{
    DeployError, Loaded, Member, Rollout, Shapes, lock,
    staged::Staged,
    steps::{in_time, sagas_go_on, wrong},
};
use crate::{
    policy::FallbackPolicy,
    saga,
    service::{Concern, Edge, FixedResults, Grants, Misfit, RevisionInfo, misfits},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, MutexGuard},
};

/// The components that run, and no other is put in their place as long as this is there.
pub struct Running<'a>(pub(super) MutexGuard<'a, Shapes>);

/// The fixed results that an edge has by this policy; none where it ends outside.
pub(super) fn fixed_results(
    shapes: &Shapes,
    (caller, callee): (&str, &str),
    policy: &FallbackPolicy,
) -> Result<FixedResults, Vec<Misfit>> {
    let shape = shapes.get(callee);
    shape.map_or_else(|| Ok(FixedResults::default()), |shape| FixedResults::new(caller, callee, policy, shape))
}

// === impl Running ===

impl Running<'_> {
    /// The fixed results that the edge between these two has by this policy.
    ///
    /// # Errors
    ///
    /// Each that does not fit the component.
    pub fn fixed_results(
        &self,
        caller: &str,
        callee: &str,
        policy: &FallbackPolicy,
    ) -> Result<FixedResults, Vec<Misfit>> {
        fixed_results(&self.0, (caller, callee), policy)
    }
}

// === impl Rollout ===

impl Rollout {
    /// Holds what runs as it is, for as long as policies are put in place.
    pub fn running(&self) -> Running<'_> {
        // What is in it is replaced as a whole.
        Running(lock(&self.shapes))
    }

    /// Whether components of these shapes fit each other and what is granted and declared.
    pub(super) fn check(&self, shapes: &Shapes) -> Result<(), DeployError> {
        let found = self.beside_trials(shapes, |shapes| self.misfits(shapes));
        if found.is_empty() { Ok(()) } else { Err(DeployError::Misfit(found)) }
    }

    /// The misfits of components of these shapes, each also beside those that are on trial.
    pub(super) fn beside_trials(&self, shapes: &Shapes, misfits: impl Fn(&Shapes) -> Vec<Misfit>) -> Vec<Misfit> {
        let mut found = misfits(shapes);
        let trials: Vec<_> =
            self.members().values().filter_map(|member| Some((member.clone(), member.under_way()?))).collect();
        let with = |trials: &[(Arc<Member>, Arc<Staged>)]| {
            let mut shapes = shapes.clone();
            for (member, staged) in trials {
                shapes.insert(member.service.name().to_string(), staged.shape.clone());
            }
            misfits(&shapes)
        };
        let sets = trials.chunks(1).chain((trials.len() > 1).then_some(&trials[..]));
        for misfit in sets.flat_map(with) {
            if !found.contains(&misfit) {
                found.push(misfit);
            }
        }
        found
    }

    fn grants(&self) -> BTreeMap<String, Grants> {
        self.members().iter().map(|(name, member)| (name.clone(), member.terms.grants.clone())).collect()
    }

    fn misfits(&self, shapes: &Shapes) -> Vec<Misfit> {
        let mut found = misfits(shapes, &self.grants());
        found.extend(self.fixed_results(shapes).err().into_iter().flatten());
        found
    }

    /// The fixed results of all edges, for components of these shapes.
    pub(super) fn fixed_results(&self, shapes: &Shapes) -> Result<Vec<(Arc<Edge>, FixedResults)>, Vec<Misfit>> {
        let (mut results, mut found) = (Vec::new(), Vec::new());
        for (caller, member) in &*self.members() {
            let edges: BTreeMap<_, _> = member.terms.scope.edges.iter().collect();
            for (callee, edge) in edges {
                match fixed_results(shapes, (caller, callee), &edge.fallback()) {
                    Ok(of_edge) => results.push((edge.clone(), of_edge)),
                    Err(more) => found.extend(more),
                }
            }
        }
        if found.is_empty() { Ok(results) } else { Err(found) }
    }

    /// What sagas under way would miss, which only the component can say: it is asked, and can do nothing.
    pub(super) async fn unfit_sagas(
        &self,
        member: &Member,
        loaded: &Loaded,
        after: &Shapes,
    ) -> Result<Vec<Misfit>, DeployError> {
        if member.terms.sagas.is_none() {
            return Ok(Vec::new());
        }
        let info = RevisionInfo { hash: loaded.hash.clone(), ..RevisionInfo::default() };
        let scope = Arc::new(member.terms.scope.without_effects());
        let revision = self.link(member, loaded, info, &scope, after)?;
        let read = in_time(revision.read_sagas()).await.map_err(|source| wrong(member, source))?;
        let message = match saga::check(member.service.name(), read, &member.terms.grants.awaits) {
            Err(message) => Some(format!("has sagas that can't be: {message}")),
            Ok(()) => match sagas_go_on(member, &revision).await {
                Err(error) => Some(format!("has sagas under way that could not go on: {error}")),
                Ok(()) => None,
            },
        };
        let service = member.service.name().to_string();
        Ok(message
            .into_iter()
            .map(|message| Misfit { service: service.clone(), concern: Concern::Component, message })
            .collect())
    }
}
