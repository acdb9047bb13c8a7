//! `wharf deploy`.

use super::{client, print, runtime, say};
use anyhow::{Context, anyhow};
use std::path::PathBuf;
use wharf::{
    manifest::Manifest,
    rollout::{Deployment, Outcome},
};

#[derive(clap::Args)]
pub struct Args {
    /// The service to replace.
    service: String,
    /// The new component, a .wasm file.
    file: PathBuf,
    /// Print the revision that runs as JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(manifest: &Manifest, args: &Args) -> anyhow::Result<()> {
    let Args { service, file, json } = args;
    let wasm = std::fs::read(file).with_context(|| format!("the component {} can't be read", file.display()))?;
    let path = format!("/v1/services/{service}/revisions");
    let origin = file.display().to_string();
    let deployment: Deployment = runtime()?
        .block_on(client::ask(manifest, "POST", &path, Some(&origin), wasm.into()))
        .map_err(|error| anyhow!("{origin} was not deployed, and what runs goes on as it was: {error}"))?;
    if *json {
        return print(serde_json::to_string(&deployment)?);
    }
    let Deployment { revision, outcome } = deployment;
    let hash: String = revision.hash.chars().take(12).collect();
    let revision = format!("revision {} ({hash})", revision.number);
    match outcome {
        Outcome::Deployed | Outcome::RolledBack => say("Deployed", format_args!("{service}: {revision} serves")),
        Outcome::Unchanged => {
            say("Unchanged", format_args!("{service}: {revision} is this very component; nothing was done"))
        }
    }
    Ok(())
}
