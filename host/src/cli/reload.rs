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
    say("Reloaded", told(&reloaded));
    Ok(())
}

/// What is new, in a sentence.
fn told(reloaded: &Reloaded) -> String {
    let routes = if reloaded.routes { "other routes" } else { "the same routes" };
    let mut told = match reloaded.edges.as_slice() {
        [] => format!("{routes}, and no edge has another policy"),
        edges => format!("{routes}, and another policy for {}", edges.join(", ")),
    };
    if !reloaded.external.is_empty() {
        told = format!("{told}; services outside that changed: {}", reloaded.external.join(", "));
    }
    told
}
