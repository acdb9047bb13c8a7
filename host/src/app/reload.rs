//! Another manifest for a running application, as far as that goes without a restart: policies and routes.
//!
//! An operator in trouble changes numbers, and a restart is the last thing that he wants then. So the manifest can be read
//! again while the host runs. What concerns the calls that come from now on takes effect at once: policies (the state of
//! breakers, budgets and counters carries on) and routes. Everything else is refused, with what it is, and then nothing
//! changes: a host that runs half of its manifest would be worse than one that runs the old one.

use super::{App, assemble};
use crate::{
    gateway::RouteError,
    manifest::{self, Manifest, ManifestErrors},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What came of reading the manifest again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The edges that have another policy now.
    pub edges: Vec<String>,
    /// Whether there are other routes now.
    pub routes: bool,
}

/// Why the manifest can't be taken over. Then all is as it was.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// It is wrong.
    #[error(transparent)]
    Manifest(#[from] ManifestErrors),
    /// It says something new that only a restart can bring about.
    #[error(
        "{} changed, and that takes a restart of the host; policies, routes and aggregates are what it takes over while it \
         runs",
        .0.join(", ")
    )]
    NeedsRestart(Vec<&'static str>),
    /// Its routes don't hold together.
    #[error(transparent)]
    Routes(#[from] RouteError),
}

impl App {
    /// Reads the manifest again and takes over what is new in policies and routes.
    ///
    /// # Errors
    ///
    /// When it is wrong, or says something new that takes a restart. Then nothing changes.
    pub fn reload(&self) -> Result<Reloaded, ReloadError> {
        let old = self.manifest();
        let new = Manifest::load(&old.path)?;
        let fixed = needing_restart(&old, &new);
        if !fixed.is_empty() {
            return Err(ReloadError::NeedsRestart(fixed));
        }
        let has_routes = old.gateway.routes != new.gateway.routes || old.gateway.aggregates != new.gateway.aggregates;
        // First what can fail.
        let routes = has_routes.then(|| assemble::routes(&new, &self.edges)).transpose()?;
        let mut reloaded = Reloaded { edges: Vec::new(), routes: has_routes };
        for (ends, edge) in &self.edges {
            let policy = new.edge_policy(&ends.caller, &ends.callee);
            if policy != old.edge_policy(&ends.caller, &ends.callee) {
                edge.set_policy(policy.clone());
                reloaded.edges.push(edge.name().to_string());
            }
        }
        if let Some(routes) = routes {
            self.routes.replace(routes);
        }
        self.manifest.store(Arc::new(new));
        if reloaded != Reloaded::default() {
            tracing::info!(edges = ?reloaded.edges, routes = reloaded.routes, "manifest reloaded");
        }
        Ok(reloaded)
    }
}

/// The sections that differ in what only a start brings about.
fn needing_restart(old: &Manifest, new: &Manifest) -> Vec<&'static str> {
    let gateway = manifest::Gateway {
        routes: old.gateway.routes.clone(),
        aggregates: old.gateway.aggregates.clone(),
        ..new.gateway.clone()
    };
    let differ = [
        ("app", old.app != new.app),
        ("gateway", old.gateway != gateway),
        ("admin", old.admin != new.admin),
        ("services", old.services != new.services || old.external != new.external),
        ("topics", old.topics != new.topics),
        ("events", old.bus != new.bus),
        ("store", old.store != new.store),
    ];
    let mut differ: Vec<_> = differ.into_iter().filter(|(_, differs)| *differs).map(|(section, _)| section).collect();
    // An edge is made when the host starts.
    if differ.is_empty() && old.edges() != new.edges() {
        differ.push("the services that routes and aggregates lead to");
    }
    differ
}
