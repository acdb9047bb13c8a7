//! `wharf up --watch`: builds components when their sources change.
//!
//! One build at a time, on a thread of its own. What changes during a build leads to another one after it.

use super::{build, say};
use anyhow::Context;
use std::{collections::BTreeSet, sync::Arc, thread, time::SystemTime};
use tokio::time::Instant;
use wharf::{
    app::{App, Builds},
    build::{BuildJob, Builder, Changes, Programs, SourceWatch, Sources, Stirred, Waker},
};

/// What is needed to build what changes.
pub struct Rebuild(SourceWatch);

/// Builds what changes, until it is ended.
pub struct Rebuilding {
    programs: Programs,
    waker: Waker,
}

/// The thread's.
struct Work {
    app: Arc<App>,
    builds: Builds,
    builder: Builder,
    watch: SourceWatch,
    programs: Programs,
    /// The services whose last build failed.
    failed: BTreeSet<String>,
}

// === impl Rebuild ===

impl Rebuild {
    /// Watches nothing yet.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self(SourceWatch::new()?))
    }

    /// Begins to watch what was built at `began`.
    pub fn start(self, app: Arc<App>, builds: Builds, began: SystemTime) -> anyhow::Result<Rebuilding> {
        let Self(watch) = self;
        let (programs, waker) = (Programs::default(), watch.waker());
        let jobs = build::jobs(&app.manifest());
        match list(&jobs.into_iter().map(|job| job.service).collect()).as_str() {
            "" => say("Watching", "component files only: no service has a `source`"),
            services => say("Watching", format_args!("the sources of {services}")),
        }
        let mut other_files = app.other_files();
        let on_change = waker.clone();
        tokio::spawn(async move {
            while other_files.changed().await.is_ok() {
                on_change.wake();
            }
        });
        let of_work = programs.clone();
        let work = move || match build::toolchain(&build::folder(&app.manifest()), &of_work) {
            Ok(toolchain) => {
                let builder = Builder::new(toolchain);
                Work { app, builds, builder, watch, programs: of_work, failed: BTreeSet::new() }.run(began);
            }
            Err(error) if !of_work.are_ended() => tracing::error!("sources are not watched: {error:#}"),
            Err(_) => {}
        };
        thread::Builder::new().spawn(work).context("the operating system gives no thread for builds")?;
        Ok(Rebuilding { programs, waker })
    }
}

// === impl Rebuilding ===

impl Rebuilding {
    /// Ends it, and a build that is under way with all that it has started. Blocks until that is gone.
    pub fn end(&self) {
        self.waker.stop();
        self.programs.end();
    }
}

// === impl Work ===

impl Work {
    fn run(mut self, began: SystemTime) {
        self.follow();
        let mut changes = self.watch.changed_since(began);
        loop {
            while changes.is_empty() {
                match self.watch.wait() {
                    Stirred::Changed(changed) => changes = changed,
                    Stirred::Woken => self.follow(),
                    Stirred::Stopped => return,
                }
            }
            self.build(&changes);
            if self.programs.are_ended() {
                return;
            }
            changes = self.watch.meanwhile();
            self.follow();
        }
    }

    /// Watches what there is now.
    fn follow(&mut self) {
        let (manifest, components) = (self.app.manifest(), self.app.components());
        let jobs = build::jobs(&manifest);
        let workspaces = self.builder.workspaces(&jobs);
        let sources = jobs.iter().filter_map(|job| {
            let sources = Sources::of(job, components.get(&job.service)?, &workspaces, &manifest.app.data.value);
            let failed = self.failed.contains(&job.service);
            Some(if failed { sources.and_all_crates(&workspaces) } else { sources })
        });
        self.watch.follow(sources.collect());
    }

    fn build(&mut self, changes: &Changes) {
        if changes.values().flatten().any(|path| path.ends_with("Cargo.toml")) {
            self.builder.forget();
        }
        let manifest = self.app.manifest();
        let jobs: Vec<BuildJob> =
            build::jobs(&manifest).into_iter().filter(|job| changes.contains_key(&job.service)).collect();
        let services: BTreeSet<_> = jobs.iter().map(|job| job.service.clone()).collect();
        let because = changes.values().flatten().next().map(|path| path.display().to_string());
        tracing::info!(services = list(&services), changed = because, "building");
        self.builds.begin(&services);
        let began = Instant::now();
        let outcome = self.builder.build(&jobs);
        let took = began.elapsed();
        let built: BTreeSet<_> = outcome.built.into_iter().map(|built| built.service).collect();
        if !built.is_empty() {
            tracing::info!(services = list(&built), ?took, "built");
        }
        self.builds.end(built.clone());
        if self.programs.are_ended() {
            return;
        }
        for error in outcome.errors {
            let failed: BTreeSet<_> = error.services().into_iter().map(str::to_owned).collect();
            let error = build::at_its_line(&manifest, error.into());
            tracing::error!(services = list(&failed), "the build failed; the old revision goes on: {error:#}");
        }
        self.failed = &(&self.failed | &services) - &built;
    }
}

fn list(services: &BTreeSet<String>) -> String {
    services.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}
