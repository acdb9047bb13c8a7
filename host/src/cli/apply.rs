//! `wharf apply`.

use super::{build, client, interrupt::Signals, print, runtime, say};
use anyhow::{Context, bail};
use bytes::Bytes;
use std::io::{IsTerminal, Write};
use wharf::{
    app::{Components, Plan},
    manifest::Manifest,
};

#[derive(clap::Args)]
pub struct Args {
    /// Do it without asking.
    #[arg(short, long)]
    yes: bool,
    /// Show what it comes to, and do nothing.
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Do it only if it comes to this plan still: the `id` that `--dry-run --json` prints.
    #[arg(long, value_name = "ID", conflicts_with = "dry_run")]
    plan: Option<String>,
    /// Print the plan as JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(manifest: &Manifest, args: &Args) -> anyhow::Result<()> {
    let runtime = runtime()?;
    let (plan, order) = runtime.block_on(plan(manifest))?;
    if args.json && args.dry_run {
        return print(serde_json::to_string(&plan)?);
    }
    if plan.changes.is_empty() {
        if args.json {
            return print(serde_json::to_string(&plan)?);
        }
        tell("Unchanged", &plan);
        return Ok(());
    }
    if !args.json {
        tell("Plan", &plan);
    }
    if args.dry_run {
        return Ok(());
    }
    if !args.yes && args.plan.is_none() && !agreed()? {
        say("Left", "nothing was done");
        return Ok(());
    }
    let plan = args.plan.clone().unwrap_or(plan.id);
    let order = serde_json::json!({ "manifest": order.0, "components": order.1, "plan": plan });
    let applying = client::ask(manifest, "POST", "/v1/apply", None, order.to_string().into());
    let done: Plan = runtime.block_on(applying).context("nothing was applied, and what runs goes on as it was")?;
    if args.json {
        return print(serde_json::to_string(&done)?);
    }
    tell("Applied", &done);
    Ok(())
}

type Order = (std::path::PathBuf, Components);

/// Builds what is to be built, and asks the running host what the manifest comes to.
async fn plan(manifest: &Manifest) -> anyhow::Result<(Plan, Order)> {
    let mut components = build::components(manifest, &mut Signals::new()?).await?;
    for (service, path) in &mut components {
        // The host may run in another folder. One that is not there the host reports at its line.
        *path = std::path::absolute(&*path).with_context(|| format!("the component of {service} has no path"))?;
    }
    let path = std::path::absolute(&manifest.path).context("the manifest has no path")?;
    let order = serde_json::json!({ "manifest": path, "components": components });
    let plan = client::ask(manifest, "POST", "/v1/plan", None, Bytes::from(order.to_string())).await?;
    Ok((plan, (path, components)))
}

/// Asks whoever sits at the terminal.
fn agreed() -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("nobody is there to be asked: `--yes` does it without, `--dry-run` only shows it");
    }
    eprint!("     Do it? [y/N] ");
    std::io::stderr().flush().context("standard error can't be written to")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("standard input can't be read")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Says what changes, or changed.
pub fn tell(what: &str, plan: &Plan) {
    match plan.changes.as_slice() {
        [] => say(what, "the manifest is what runs already"),
        changes => changes.iter().for_each(|change| say(what, change)),
    }
}
