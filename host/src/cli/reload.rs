//! `wharf reload`.

use super::{client, print, runtime, say};
use bytes::Bytes;
use wharf::{app::Reloaded, manifest::Manifest};

#[derive(clap::Args)]
pub struct Args {
    /// Print what changed as JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(manifest: &Manifest, args: &Args) -> anyhow::Result<()> {
    let reloaded: Reloaded = runtime()?.block_on(client::ask(manifest, "POST", "/v1/reload", None, Bytes::new()))?;
    if args.json {
        return print(serde_json::to_string(&reloaded)?);
    }
    let routes = if reloaded.routes { "other routes" } else { "the same routes" };
    match reloaded.edges.as_slice() {
        [] => say("Reloaded", format_args!("{routes}, and no edge has another policy")),
        edges => say("Reloaded", format_args!("{routes}, and another policy for {}", edges.join(", "))),
    }
    Ok(())
}
