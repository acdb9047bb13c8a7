//! `wharf reload`.

use super::{apply, client, print, runtime};
use bytes::Bytes;
use wharf::{app::Plan, manifest::Manifest};

#[derive(clap::Args)]
pub struct Args {
    /// Print what changed as JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(manifest: &Manifest, args: &Args) -> anyhow::Result<()> {
    let plan: Plan = runtime()?.block_on(client::ask(manifest, "POST", "/v1/reload", None, Bytes::new()))?;
    if args.json {
        return print(serde_json::to_string(&plan)?);
    }
    apply::tell("Reloaded", &plan);
    Ok(())
}
