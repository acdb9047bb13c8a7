//! `wharf deploy`.

use super::{
    client, print, pull,
    rollout::{self, StageArg},
    runtime, say,
};
use anyhow::{anyhow, bail};
use std::{path::PathBuf, time::Duration};
use wharf::{
    app::{ROLLOUT, RolloutOrder},
    manifest::Manifest,
    rollout::{Deployment, Outcome, RolloutEnd},
};

#[derive(clap::Args)]
#[command(after_help = "\
What fails before the new revision gets its first call is refused, and what runs goes on.

  wharf deploy order order.wasm                               at once, or by the stages of the manifest
  wharf deploy order oci://ghcr.io/shop/order:1.3             from a registry
  wharf deploy order order.wasm --stage percent=5,for=2m --stage percent=50,for=10m
  wharf deploy order order.wasm --stage 'header=x-preview: yes,for=1h' --detach
  wharf deploy order order.wasm --at-once --drain 2m          calls under way may take two minutes more

See also `wharf diff`, which says beforehand what would change, and `wharf rollback`.")]
pub struct Args {
    /// The service to replace.
    service: String,
    /// The new component, a .wasm file, or one in a registry such as oci://registry/name:tag.
    file: PathBuf,
    /// A stage of its rollout, in place of those of the manifest; given several times, one after the other. `percent=5`,
    /// `header=x-preview: yes`, `cookie=preview=yes` or `shadow`, and how long it lasts at least: `percent=5,for=30s`.
    #[arg(long, value_name = "SPLIT,for=TIME", value_parser = StageArg::parse, conflicts_with = "at_once")]
    stage: Vec<StageArg>,
    /// Let the new revision have all calls at once, whatever the manifest says.
    #[arg(long)]
    at_once: bool,
    /// How long calls may stay under way on the old revision, for example `10s`; then they are ended.
    #[arg(long, value_name = "TIME", value_parser = rollout::duration)]
    drain: Option<Duration>,
    /// Deploy it past migrations that it does not know: it runs on a newer schema than it knows.
    #[arg(long)]
    force: bool,
    /// Do not wait for the end of the stages.
    #[arg(long)]
    detach: bool,
    /// Print the revision, and with stages how their rollout ended, as JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(manifest: &Manifest, args: &Args) -> anyhow::Result<()> {
    let Args { service, file, json, .. } = args;
    let runtime = runtime()?;
    let wasm = runtime.block_on(pull::component(manifest, file))?;
    let path = format!("/v1/services/{service}/revisions");
    let origin = file.display().to_string();
    let order = serde_json::to_string(&order(args))?;
    let headers = [("x-origin", origin.as_str()), (ROLLOUT, order.as_str())];
    let deployment: Deployment = runtime
        .block_on(client::ask_with(manifest, "POST", &path, &headers, wasm.into()))
        .map_err(|error| anyhow!("{origin} was not deployed, and what runs goes on as it was: {error}"))?;
    let Deployment { revision, outcome } = &deployment;
    let hash: String = revision.hash.chars().take(12).collect();
    let words = format!("revision {} ({hash})", revision.number);
    if *outcome == Outcome::Begun && !args.detach {
        if !json {
            say("Begun", format_args!("{service}: the rollout of {words}"));
        }
        let ended = runtime.block_on(rollout::follow(manifest, service, revision.number, !json))?;
        if *json {
            print(serde_json::to_string(&ended)?)?;
        }
        return match ended.end {
            Some(RolloutEnd::Undone { reason }) => {
                bail!("{words} of service `{service}` was sent away, and the old one serves: {reason}")
            }
            _ if *json => Ok(()),
            _ => {
                say("Deployed", format_args!("{service}: {words} serves"));
                Ok(())
            }
        };
    }
    if *json {
        return print(serde_json::to_string(&deployment)?);
    }
    match outcome {
        Outcome::Deployed | Outcome::RolledBack => say("Deployed", format_args!("{service}: {words} serves")),
        Outcome::Begun => {
            say("Begun", format_args!("{service}: the rollout of {words}; `wharf rollout {service}` shows it"))
        }
        Outcome::Unchanged => {
            say("Unchanged", format_args!("{service}: {words} is this very component; nothing was done"))
        }
    }
    Ok(())
}

fn order(args: &Args) -> RolloutOrder {
    let stages = if args.at_once {
        Some(Vec::new())
    } else {
        (!args.stage.is_empty()).then(|| args.stage.iter().map(|stage| stage.0.clone()).collect())
    };
    let drain_ms = args.drain.map(|drain| u64::try_from(drain.as_millis()).unwrap_or(u64::MAX));
    RolloutOrder { stages, drain_ms, force: args.force }
}
