//! Another manifest for a running application, whole or not at all.
//!
//! ```text
//! draft   read the manifest, load what is new, check all of it against each other      -> the plan
//! prepare open, link, migrate, warm, enter                                           -> nothing can fail any more
//! place   services, then edges and routes, then subscriptions, then schedules
//! retire  what is no more: when nobody is on the way to it, it ends, and its files are closed
//! ```
//!
//! Until the placing nothing of it is visible, and whatever goes wrong before leaves all as it was: a host that runs half
//! of its manifest would be worse than one that runs the old one. Migrations are the exception, as with a deploy: what
//! ran stays, and must suit the old revision anyway.
//!
//! What is the same keeps what is known on it: edges their breakers, budgets and counters, endpoints outside what was
//! found out about them, rate limits what was counted, subscriptions their place.
//!
//! `wharf reload`, SIGHUP and the watch do the same with one difference: nobody looks at a plan there. So they bring about
//! what changes numbers and routes, and leave what takes another component, or another set of services, to
//! [`Request::Apply`].

mod draft;
mod plan;
mod prepare;
mod retire;

pub use plan::{Kind, Plan, Planned};

use self::{draft::Draft, prepare::Prepared};
use super::{App, Components, Parts, Rotated, StartError, assemble};
use crate::{
    manifest::{MAIL, ManifestErrors},
    rollout::Past,
};
use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering::Relaxed},
};
use tokio::time::Instant;

/// What of the manifest is to be brought about.
#[derive(Clone, Debug)]
pub enum Request {
    /// What takes no other component and no other set of services.
    Reload,
    /// All of it.
    Apply {
        /// The component file of each service.
        components: Components,
        /// The plan that it must be; `None`: whatever it comes to.
        plan: Option<String>,
        /// What becomes of components that do not know all migrations of their databases.
        past: Past,
    },
    /// The manifest that runs, with other secrets for one of its services.
    Secrets(Rotated),
}

/// Why a manifest is not brought about. Then all is as it was.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It is wrong.
    #[error(transparent)]
    Manifest(#[from] ManifestErrors),
    /// It says something new that only a restart can bring about.
    #[error(
        "{} changed, and that takes a restart of the host; all else `wharf apply` brings about while it runs",
        .0.join(", ")
    )]
    NeedsRestart(Vec<String>),
    /// It says something new that somebody should look at first.
    #[error(
        "{}: `wharf apply` shows what that comes to, and brings it about while the host runs; a reload takes over what takes \
         no other component and no other set of services",
        .0.join(", ")
    )]
    Asks(Vec<String>),
    /// It is another manifest.
    #[error("this host runs {}, and not {}: a running host keeps its manifest's file", running.display(), given.display())]
    OtherFile {
        /// The one that it runs.
        running: PathBuf,
        /// The one that was meant.
        given: PathBuf,
    },
    /// There is no component for a service.
    #[error(
        "no component was given for service `{0}`, or for one that the manifest does not have: was it changed just now?"
    )]
    Components(String),
    /// The plan is none for what there is now.
    #[error(
        "the plan was made for another state of the system: the manifest, a component or what runs changed since. Nothing \
         was done; `wharf apply` makes a new plan"
    )]
    Stale,
    /// Something of it can't be had.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The host has an error of its own.
    #[error("bringing the manifest about failed: {0}")]
    Failed(String),
}

// === impl App ===

impl App {
    /// What bringing the manifest about would come to, with these component files. Changes nothing.
    ///
    /// # Errors
    ///
    /// Why it can't be brought about, as far as that can be said without beginning.
    pub async fn plan(&self, components: Components) -> Result<Plan, ApplyError> {
        let _one_at_a_time = self.applying.lock().await;
        let draft = Draft::new(self, &Request::Apply { components, plan: None, past: Past::Refused }).await?;
        Ok(draft.plan)
    }

    /// Brings about what the manifest says now, whole or not at all, and says what that was.
    ///
    /// # Errors
    ///
    /// Why it can't be brought about; then all is as it was.
    pub async fn apply(self: &Arc<Self>, request: Request) -> Result<Plan, ApplyError> {
        // NB: a task of its own, which comes to its end also when nobody waits for it any more.
        let app = self.clone();
        let applying = tokio::spawn(async move { app.bring_about(request).await });
        applying.await.unwrap_or_else(|error| Err(ApplyError::Failed(error.to_string())))
    }

    async fn bring_about(&self, request: Request) -> Result<Plan, ApplyError> {
        let _one_at_a_time = self.applying.lock().await;
        let mut draft = Draft::new(self, &request).await?;
        if let Request::Apply { plan: Some(plan), .. } = &request
            && *plan != draft.plan.id
        {
            return Err(ApplyError::Stale);
        }
        let plan = draft.plan.clone();
        if draft.changes_nothing() {
            // But where something stands, which errors tell.
            let Draft { before, manifest, components, .. } = draft;
            let parts = Parts { manifest, components, ..Parts::clone(&before) };
            self.parts.store(Arc::new(parts));
            self.other_files.send_replace(());
            return Ok(plan);
        }
        let prepared = Prepared::new(self, &mut draft).await?;
        self.applied.fetch_add(1, Relaxed);
        self.place(draft, prepared).await;
        // Of secrets those tell who found that they had changed.
        if !plan.changes.is_empty() && !matches!(request, Request::Secrets(_)) {
            let changes: Vec<_> = plan.changes.iter().map(ToString::to_string).collect();
            tracing::info!(?changes, "manifest applied");
        }
        Ok(plan)
    }

    /// Puts all in place. Nothing here can fail.
    async fn place(&self, draft: Draft<'_>, prepared: Prepared) {
        let Draft { changing, before, manifest, .. } = draft;
        let Prepared { parts, change, routes, external, mail, saga_settings, entered, ended } = prepared;
        let deadline = Instant::now() + manifest.gateway.shutdown_grace;
        // Revisions that are about to end may publish what they could, until nothing of theirs is under way any more.
        self.bus.allow_too(assemble::publishes(&manifest));
        for (external, change) in external {
            external.apply(change);
        }
        if let Some(way) = mail {
            self.grounds.post.replace(way);
            let edges = parts.edges.iter().filter(|(ends, _)| ends.callee == MAIL);
            edges.for_each(|(_, edge)| edge.callee_changed());
        }
        for (register, settings) in saga_settings {
            register.set_settings(settings);
        }
        let retiring = retire::Retiring::of(&before, &parts, &changing);
        changing.put_in_place(change).await;
        self.parts.store(Arc::new(parts));
        self.routes.replace(routes);
        if let Err(error) = self.terms.replace(assemble::gateway_config(&manifest)) {
            // The manifest's own check lets through what can work.
            tracing::error!(%error, "the gateway keeps its settings");
        }
        drop((changing, before));
        self.other_files.send_replace(());

        let begin = entered.into_iter().map(|entered| self.bus.begin(entered, deadline));
        futures::future::join_all(begin).await;
        let end = ended.iter().map(|(topic, service)| self.bus.end(topic, service, deadline));
        futures::future::join_all(end).await;
        self.bus.keep(&manifest.retention);
        self.bus.run_schedules(assemble::schedules(&manifest));

        retiring.retire(deadline).await;
        self.bus.allow_only(assemble::publishes(&manifest));
    }
}
