//! `wharf apply`.

use super::{
    build,
    client::{self, Hold},
    interrupt::Signals,
    print, runtime, say,
};
use anyhow::{Context, bail};
use bytes::Bytes;
use std::io::{IsTerminal, Write};
use wharf::{
    app::{Components, Plan},
    manifest::Manifest,
};

#[derive(clap::Args)]
#[command(after_help = "\
All of it happens or nothing. As long as it builds and asks, a host that watches its files deploys nothing of what is built.

  wharf apply                              shows the plan, asks, and does it
  wharf apply --dry-run                    only shows it
  id=$(wharf apply --dry-run --json | jq -r .id); wharf apply --plan $id
                                           does just what was shown, or nothing")]
pub struct Args {
    /// Do it without asking.
    #[arg(short, long)]
    yes: bool,
    /// Show what it comes to, and do nothing. What has a source is built for that, and not deployed.
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Do it only if it comes to this plan still: the `id` that `--dry-run --json` prints.
    #[arg(long, value_name = "ID", conflicts_with = "dry_run")]
    plan: Option<String>,
    /// Put components in place past migrations that they do not know: they run on a newer schema than they know.
    #[arg(long, conflicts_with = "dry_run")]
    force: bool,
    /// Print the plan as JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(manifest: &Manifest, args: &Args) -> anyhow::Result<()> {
    let runtime = runtime()?;
    let applied = runtime.block_on(async {
        let mut signals = Signals::new()?;
        apply(manifest, args, &mut signals).await
    });
    // Whoever ended it may sit at a question that nobody answers any more.
    runtime.shutdown_background();
    applied
}

async fn apply(manifest: &Manifest, args: &Args, signals: &mut Signals) -> anyhow::Result<()> {
    let (plan, (path, components), _hold) = plan(manifest, signals).await?;
    if args.json && (args.dry_run || plan.changes.is_empty()) {
        return print(serde_json::to_string(&plan)?);
    }
    if plan.changes.is_empty() {
        tell("Unchanged", &plan);
        return Ok(());
    }
    if !args.json {
        tell("Plan", &plan);
    }
    if args.dry_run {
        return Ok(());
    }
    if !args.yes && args.plan.is_none() && !agreed(signals).await? {
        say("Left", "nothing was done");
        return Ok(());
    }
    let plan = args.plan.clone().unwrap_or(plan.id);
    let order = serde_json::json!({ "manifest": path, "components": components, "plan": plan, "force": args.force })
        .to_string();
    let applying = client::ask(manifest, "POST", "/v1/apply", None, order.into());
    let done: Plan = tokio::select! {
        done = applying => done.context("nothing was applied, and what runs goes on as it was")?,
        signal = signals.next() => {
            say("Left", "the host goes on with it");
            return Err(signal.into());
        }
    };
    if args.json {
        return print(serde_json::to_string(&done)?);
    }
    tell("Applied", &done);
    Ok(())
}

type Order = (std::path::PathBuf, Components);

/// Builds what is to be built, and asks the running host what the manifest comes to.
async fn plan(manifest: &Manifest, signals: &mut Signals) -> anyhow::Result<(Plan, Order, Option<Hold>)> {
    let (mut components, hold) = build::to_look_at(manifest, signals).await?;
    for (service, path) in &mut components {
        // The host may run in another folder. One that is not there the host reports at its line.
        *path = std::path::absolute(&*path).with_context(|| format!("the component of {service} has no path"))?;
    }
    let path = std::path::absolute(&manifest.path).context("the manifest has no path")?;
    let order = serde_json::json!({ "manifest": path, "components": components });
    let asking = client::ask(manifest, "POST", "/v1/plan", None, Bytes::from(order.to_string()));
    let plan = tokio::select! {
        plan = asking => plan?,
        signal = signals.next() => return Err(signal.into()),
    };
    Ok((plan, (path, components), hold))
}

/// Asks whoever sits at the terminal.
async fn agreed(signals: &mut Signals) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("nobody is there to be asked: `--yes` does it without, `--dry-run` only shows it");
    }
    eprint!("     Do it? [y/N] ");
    std::io::stderr().flush().context("standard error can't be written to")?;
    let reading = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).map(|_| answer)
    });
    let answer = tokio::select! {
        answer = reading => answer?.context("standard input can't be read")?,
        signal = signals.next() => {
            eprintln!();
            return Err(signal.into());
        }
    };
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Says what changes, or changed.
pub fn tell(what: &str, plan: &Plan) {
    match plan.changes.as_slice() {
        [] => say(what, "the manifest is what runs already"),
        changes => changes.iter().for_each(|change| say(what, change)),
    }
}
