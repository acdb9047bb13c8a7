//! `wharf deploy`.

use super::{client, runtime, say};
use anyhow::Context;
use std::path::PathBuf;
use wharf::manifest::Manifest;

#[derive(clap::Args)]
pub struct Args {
    /// The service to replace.
    service: String,
    /// The new component, a .wasm file.
    file: PathBuf,
    /// Print the new revision as JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(manifest: &Manifest, args: &Args) -> anyhow::Result<()> {
    let Args { service, file, json } = args;
    let wasm = std::fs::read(file).with_context(|| format!("the component {} can't be read", file.display()))?;
    let path = format!("/v1/services/{service}/revisions");
    let origin = file.display().to_string();
    let revision: serde_json::Value =
        runtime()?.block_on(client::ask(manifest, "POST", &path, Some(&origin), wasm.into()))?;
    if *json {
        println!("{revision}");
        return Ok(());
    }
    let hash = revision["hash"].as_str().unwrap_or_default();
    let number = &revision["number"];
    say("Deployed", format_args!("{service}: revision {number} ({}) serves", &hash[..hash.len().min(12)]));
    Ok(())
}
