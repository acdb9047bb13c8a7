//! `wharf build`.

use super::say;
use std::path::PathBuf;
use wharf::{
    app::Components,
    build::{BuildJob, Toolchain, build_components, user_cache_dir},
    manifest::{Component, Manifest},
};

/// Builds all components that have a source, and says where each is.
pub fn run(manifest: &Manifest) -> anyhow::Result<()> {
    for (service, path) in components(manifest, true)? {
        say("Built", format_args!("{service} ({})", path.display()));
    }
    Ok(())
}

/// The component of each service. With `build`, those that have a source are brought up to date first.
pub fn components(manifest: &Manifest, build: bool) -> anyhow::Result<Components> {
    let mut components = Components::new();
    let mut jobs = Vec::new();
    for (name, service) in &manifest.services {
        match &service.component {
            Component::File(path) => {
                components.insert(name.clone(), path.value.clone());
            }
            Component::Source(source) => jobs.push(BuildJob {
                service: name.clone(),
                dir: source.folder.value.clone(),
                command: source.build.as_ref().map(|command| command.value.clone()),
                artifact: source.artifact.as_ref().map(|path| path.value.clone()),
            }),
        }
    }
    if jobs.is_empty() {
        return Ok(components);
    }
    let folder = manifest.path.parent().map(PathBuf::from).filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or_else(|| PathBuf::from("."));
    let toolchain = Toolchain::discover(&folder, &user_cache_dir()?, &mut |line| say("Toolchain", line))?;
    if build {
        let names: Vec<_> = jobs.iter().map(|job| job.service.as_str()).collect();
        say("Building", format_args!("{}, where something changed", names.join(", ")));
    }
    let built = if build { build_components(&toolchain, &jobs)? } else { Vec::new() };
    components.extend(built.into_iter().map(|built| (built.service, built.path)));
    Ok(components)
}
