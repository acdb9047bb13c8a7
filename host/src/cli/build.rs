//! `wharf build`.

use super::{
    client::{self, Hold},
    interrupt::Signals,
    pull, runtime, say,
};
use anyhow::Context;
use std::{
    path::{Path, PathBuf},
    thread,
};
use tokio::sync::oneshot;
use wharf::{
    app::Components,
    build::{BuildError, BuildJob, BuiltComponent, Programs, Toolchain, build_components, user_cache_dir},
    manifest::{Component, Manifest, Placed, Service, Source},
};

/// Builds all components that have a source, and says where each is.
pub fn run(manifest: &Manifest) -> anyhow::Result<()> {
    let runtime = runtime()?;
    for (service, path) in runtime.block_on(async { components(manifest, &mut Signals::new()?).await })? {
        say("Built", format_args!("{service} ({})", path.display()));
    }
    Ok(())
}

/// As [`components`], without a running host deploying what is built, for as long as the hold is there.
pub async fn to_look_at(manifest: &Manifest, signals: &mut Signals) -> anyhow::Result<(Components, Option<Hold>)> {
    if jobs(manifest).is_empty() {
        return Ok((components(manifest, signals).await?, None));
    }
    let hold = tokio::select! {
        hold = client::hold(manifest) => hold?,
        signal = signals.next() => return Err(signal.into()),
    };
    Ok((components(manifest, signals).await?, hold))
}

/// The component of each service; those that have a source are brought up to date first, and those that are in a registry
/// pulled. A signal ends the build, with all that it has started.
pub async fn components(manifest: &Manifest, signals: &mut Signals) -> anyhow::Result<Components> {
    let mut components = Components::new();
    let mut in_registries = Vec::new();
    for (name, service) in &manifest.services {
        match &service.component {
            Component::File(path) => {
                components.insert(name.clone(), path.value.clone());
            }
            Component::Registry(reference) => in_registries.push((name.as_str(), reference)),
            Component::Source(_) => {}
        }
    }
    if !in_registries.is_empty() {
        components.extend(tokio::select! {
            pulled = pull::components(manifest, &in_registries) => pulled?,
            signal = signals.next() => return Err(signal.into()),
        });
    }
    let jobs = jobs(manifest);
    if jobs.is_empty() {
        return Ok(components);
    }
    let folder = folder(manifest);
    let programs = Programs::default();
    let (sender, building) = oneshot::channel();
    let of_build = programs.clone();
    thread::Builder::new()
        // The receiver is gone when a signal came.
        .spawn(move || drop(sender.send(build(folder, &of_build, &jobs))))
        .context("the operating system gives no thread for the build")?;
    let built = tokio::select! {
        built = building => built.context("the build panicked")?.map_err(|error| at_its_line(manifest, error))?,
        signal = signals.next() => {
            programs.end();
            return Err(signal.into());
        }
    };
    components.extend(built.into_iter().map(|built| (built.service, built.path)));
    Ok(components)
}

fn build(folder: PathBuf, programs: &Programs, jobs: &[BuildJob]) -> anyhow::Result<Vec<BuiltComponent>> {
    let toolchain = toolchain(&folder, programs)?;
    let names: Vec<_> = jobs.iter().map(|job| job.service.as_str()).collect();
    say("Building", format_args!("{}, where something changed", names.join(", ")));
    Ok(build_components(&toolchain, jobs)?)
}

/// What compiles the components of a manifest in `folder`.
pub fn toolchain(folder: &Path, programs: &Programs) -> anyhow::Result<Toolchain> {
    let progress = &mut |line: &str| say("Toolchain", line);
    Ok(Toolchain::discover(folder, &user_cache_dir()?, programs, progress)?)
}

/// The components that have a source.
pub fn jobs(manifest: &Manifest) -> Vec<BuildJob> {
    let job = |(name, service): (&String, &Service)| match &service.component {
        Component::Source(source) => Some(BuildJob {
            service: name.clone(),
            dir: source.folder.value.clone(),
            command: source.build.as_ref().map(|command| command.value.clone()),
            artifact: source.artifact.as_ref().map(|path| path.value.clone()),
        }),
        Component::File(_) | Component::Registry(_) => None,
    };
    manifest.services.iter().filter_map(job).collect()
}

/// The folder of a manifest.
pub fn folder(manifest: &Manifest) -> PathBuf {
    let folder = manifest.path.parent().map(PathBuf::from).filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or_else(|| PathBuf::from("."))
}

/// The error at the line of the manifest that it is about, where there is one.
pub fn at_its_line(manifest: &Manifest, error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref().and_then(|error| place(manifest, error)) {
        Some(place) => manifest.error_at(&place, error).into(),
        None => error,
    }
}

fn place(manifest: &Manifest, error: &BuildError) -> Option<Placed<()>> {
    let source = |service: &str| match &manifest.services.get(service)?.component {
        Component::Source(source) => Some(source),
        Component::File(_) | Component::Registry(_) => None,
    };
    let command = |source: &Source| source.build.as_ref().map(|command| command.with(()));
    match error {
        BuildError::NoSource { service, .. }
        | BuildError::NotACrate { service, .. }
        | BuildError::NoComponent { service, .. } => Some(source(service)?.folder.with(())),
        BuildError::NoArtifact { service, .. } => {
            let source = source(service)?;
            Some(source.artifact.as_ref().unwrap_or(&source.folder).with(()))
        }
        // What is wrong with a crate, cargo says at the line of its source.
        BuildError::Spawn { services, .. } | BuildError::Failed { services, .. } => {
            services.iter().find_map(|service| command(source(service)?))
        }
        BuildError::Answer { .. } => None,
    }
}
