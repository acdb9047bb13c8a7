//! Another manifest for a running application, as far as that goes without a restart: policies, routes and services outside.
//!
//! An operator in trouble changes numbers, and a restart is the last thing that he wants then. So the manifest can be read
//! again while the host runs. What concerns the calls that come from now on takes effect at once: policies (the state of
//! breakers, budgets and counters carries on), routes, and where services outside are and how calls are spread over them
//! (what is known of endpoints that stay carries on). Everything else is refused, with what it is, and then nothing
//! changes: a host that runs half of its manifest would be worse than one that runs the old one. The same goes for a policy
//! that has results of functions written down which the component that runs would never give.

use super::{App, assemble};
use crate::{
    gateway::RouteError,
    manifest::{self, Manifest, ManifestErrors},
    outbound::{External, ExternalChange},
};
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What came of reading the manifest again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The edges that have another policy now.
    pub edges: Vec<String>,
    /// Whether there are other routes now.
    pub routes: bool,
    /// The external services whose endpoints, or what holds for them, are others now.
    #[serde(default)]
    pub external: Vec<String>,
}

/// Why the manifest can't be taken over. Then all is as it was.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// It is wrong.
    #[error(transparent)]
    Manifest(#[from] ManifestErrors),
    /// It says something new that only a restart can bring about.
    #[error(
        "{} changed, and that takes a restart of the host; policies, routes, aggregates and what is said of an external \
         service are what it takes over while it runs",
        .0.join(", ")
    )]
    NeedsRestart(Vec<String>),
    /// Its routes don't hold together.
    #[error(transparent)]
    Routes(#[from] RouteError),
}

impl App {
    /// Reads the manifest again and takes over what is new in policies, routes and external services.
    ///
    /// # Errors
    ///
    /// When it is wrong, says something new that takes a restart, or gives a service outside a name that can't be
    /// resolved. Then nothing changes.
    pub async fn reload(&self) -> Result<Reloaded, ReloadError> {
        let _one_at_a_time = self.reloading.lock().await;
        let old = self.manifest();
        let new = Manifest::load(&old.path)?;
        let fixed = needing_restart(&old, &new);
        if !fixed.is_empty() {
            return Err(ReloadError::NeedsRestart(fixed));
        }
        let has_routes = old.gateway.routes != new.gateway.routes || old.gateway.aggregates != new.gateway.aggregates;
        // First what can fail.
        let routes = has_routes.then(|| assemble::routes(&new, &self.edges, &self.rollout.marked())).transpose()?;
        let changes = self.prepare_external(&new).await?;
        // No component is replaced meanwhile, so what fits it now does so when it is put in place.
        let running = self.rollout.running();
        let (mut changed, mut misfits) = (Vec::new(), Vec::new());
        for (ends, edge) in &self.edges {
            let policy = new.edge_policy(&ends.caller, &ends.callee);
            if policy != old.edge_policy(&ends.caller, &ends.callee) {
                match running.fixed_results(&ends.caller, &ends.callee, &policy.params().fallback) {
                    Ok(results) => changed.push((edge, policy, results)),
                    Err(found) => misfits.extend(found),
                }
            }
        }
        if !misfits.is_empty() {
            return Err(assemble::misfits_at(&new, &misfits).into());
        }
        let mut reloaded = Reloaded { routes: has_routes, ..Reloaded::default() };
        for (edge, policy, results) in changed {
            edge.set_policy(policy.clone());
            edge.set_fixed_results(results);
            reloaded.edges.push(edge.name().to_string());
        }
        for (external, change) in changes {
            external.apply(change);
            reloaded.external.push(external.name().to_string());
        }
        if let Some(routes) = routes {
            self.routes.replace(routes);
        }
        self.manifest.store(Arc::new(new));
        if reloaded != Reloaded::default() {
            let Reloaded { edges, routes, external } = &reloaded;
            tracing::info!(?edges, routes, ?external, "manifest reloaded");
        }
        Ok(reloaded)
    }

    /// What is new for the services outside, with all that it needs from there.
    async fn prepare_external(&self, new: &Manifest) -> Result<Vec<(&Arc<External>, ExternalChange)>, ManifestErrors> {
        let prepare = async |external, service: &manifest::ExternalService| {
            let external: &Arc<External> = external;
            let change =
                external.prepare(assemble::external_settings(new, service)?).await.map_err(|problem| match service
                    .addresses
                    .place()
                {
                    Some(place) => new.error_at(place, problem),
                    None => new.error_at(&service.name, problem),
                })?;
            Ok::<_, ManifestErrors>(change.map(|change| (external, change)))
        };
        let both = new.external.values().filter_map(|service| Some((self.external.get(&service.name.value)?, service)));
        let prepared = try_join_all(both.map(|(external, service)| prepare(external, service))).await?;
        Ok(prepared.into_iter().flatten().collect())
    }
}

/// What differs and only a start brings about.
fn needing_restart(old: &Manifest, new: &Manifest) -> Vec<String> {
    let gateway = manifest::Gateway {
        routes: old.gateway.routes.clone(),
        aggregates: old.gateway.aggregates.clone(),
        ..new.gateway.clone()
    };
    let differ = [
        ("app", old.app != new.app),
        ("gateway", old.gateway != gateway),
        ("admin", old.admin != new.admin),
        ("services", old.services != new.services),
        ("topics", old.topics != new.topics),
        ("store", old.store != new.store),
        ("events", old.bus != new.bus || old.retention != new.retention),
        ("key-value", old.key_value != new.key_value),
    ];
    let differ = differ.into_iter().filter(|(_, differs)| *differs).map(|(section, _)| section.to_owned());
    let came = new.external.keys().filter(|name| !old.external.contains_key(*name));
    let went = old.external.keys().filter(|name| !new.external.contains_key(*name));
    let came = came.map(|name| format!("services.{name} (a new external service)"));
    let went = went.map(|name| format!("services.{name} (an external service no more)"));
    let mut differ: Vec<_> = differ.chain(came).chain(went).collect();
    // An edge is made when the host starts.
    if differ.is_empty() && old.edges() != new.edges() {
        differ.push("the services that routes and aggregates lead to".into());
    }
    differ
}
