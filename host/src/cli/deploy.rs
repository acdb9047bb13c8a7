//! `wharf deploy`.

use super::{client, print, pull, runtime, say};
use anyhow::{Context, anyhow};
use std::path::PathBuf;
use wharf::{
    manifest::Manifest,
    oci::Reference,
    rollout::{Deployment, Outcome},
};

#[derive(clap::Args)]
pub struct Args {
    /// The service to replace.
    service: String,
    /// The new component, a .wasm file, or one in a registry such as oci://registry/name:tag.
    file: PathBuf,
    /// Print the revision that runs as JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(manifest: &Manifest, args: &Args) -> anyhow::Result<()> {
    let Args { service, file, json } = args;
    let runtime = runtime()?;
    let pulled = match file.to_str().filter(|text| Reference::is_meant(text)) {
        Some(text) => Some(runtime.block_on(pull::one(manifest, &text.parse()?))?),
        None => None,
    };
    let wasm = std::fs::read(pulled.as_ref().unwrap_or(file));
    let wasm = wasm.with_context(|| format!("the component {} can't be read", file.display()))?;
    let path = format!("/v1/services/{service}/revisions");
    let origin = file.display().to_string();
    let deployment: Deployment = runtime
        .block_on(client::ask(manifest, "POST", &path, Some(&origin), wasm.into()))
        .map_err(|error| anyhow!("{origin} was not deployed, and what runs goes on as it was: {error}"))?;
    if *json {
        return print(serde_json::to_string(&deployment)?);
    }
    let Deployment { revision, outcome } = deployment;
    let hash: String = revision.hash.chars().take(12).collect();
    let revision = format!("revision {} ({hash})", revision.number);
    match outcome {
        Outcome::Deployed => say("Deployed", format_args!("{service}: {revision} serves")),
        Outcome::Unchanged => {
            say("Unchanged", format_args!("{service}: {revision} is this very component; nothing was done"))
        }
    }
    Ok(())
}
