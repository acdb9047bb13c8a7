//! `wharf rollback`.

use super::{client, print, runtime, say};
use anyhow::anyhow;
use wharf::{
    manifest::Manifest,
    rollout::{Deployment, Outcome},
};

#[derive(clap::Args)]
#[command(after_help = "\
The revision keeps its number, and the host starts with it from now on, until something else is deployed or the manifest's
own component changes. What was migrated since is not undone: a revision that does not know all that the database has is
refused without --force.

  wharf rollback order           back to the revision of `order` that served before
  wharf rollback order 3         to revision 3; `wharf history order` shows what there is")]
pub struct Args {
    /// The service.
    service: String,
    /// The revision to go back to; without it, the one that served before the one that serves.
    revision: Option<u64>,
    /// Go back past migrations: the revision runs on a newer schema than it knows.
    #[arg(long)]
    force: bool,
    /// Print the revision that serves as JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(manifest: &Manifest, args: &Args) -> anyhow::Result<()> {
    let Args { service, revision, force, json } = args;
    let path = format!("/v1/services/{}/rollback", client::plain(service)?);
    let order = serde_json::json!({ "revision": revision, "force": force }).to_string();
    let came: Deployment = runtime()?
        .block_on(client::ask(manifest, "POST", &path, None, order.into()))
        .map_err(|error| anyhow!("{service} was not rolled back, and what runs goes on as it was: {error}"))?;
    if *json {
        return print(serde_json::to_string(&came)?);
    }
    let Deployment { revision, outcome } = came;
    let hash: String = revision.hash.chars().take(12).collect();
    let revision = format!("revision {} ({hash})", revision.number);
    match outcome {
        Outcome::Unchanged => say("Unchanged", format_args!("{service}: {revision} serves already")),
        Outcome::Deployed | Outcome::Begun | Outcome::RolledBack => {
            say("Rolled back", format_args!("{service}: {revision} serves"));
        }
    }
    Ok(())
}
