//! `wharf diff`.

use super::{client, print, runtime};
use anyhow::{Context, bail};
use std::path::PathBuf;
use wharf::{
    app::ServiceDiff,
    manifest::Manifest,
    service::{Difference, InterfaceChange, ShapeChanges},
};

#[derive(clap::Args)]
pub struct Args {
    /// The service.
    service: String,
    /// The component that might replace what runs, a .wasm file.
    file: PathBuf,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(manifest: &Manifest, args: &Args) -> anyhow::Result<()> {
    let Args { service, file, json } = args;
    let wasm = std::fs::read(file).with_context(|| format!("the component {} can't be read", file.display()))?;
    let path = format!("/v1/services/{service}/diff");
    let origin = file.display().to_string();
    let diff: ServiceDiff = runtime()?.block_on(client::ask(manifest, "POST", &path, Some(&origin), wasm.into()))?;
    if *json {
        print(serde_json::to_string(&diff)?)?;
    } else {
        let ServiceDiff { changes: ShapeChanges { exports, imports }, .. } = &diff;
        let mut text = String::new();
        for (side, changes) in [("exports", exports), ("imports", imports)] {
            if !changes.is_empty() {
                text += &format!("{side}\n{}", changes.iter().map(line).collect::<String>());
            }
        }
        print(if text.is_empty() { "no function is added, removed or changed" } else { text.trim_end() })?;
    }
    if diff.misfits.is_empty() {
        return Ok(());
    }
    bail!("{} does not fit, and would be refused:\n{}", file.display(), diff.misfits.join("\n"))
}

fn line(change: &InterfaceChange) -> String {
    match change {
        InterfaceChange::Added { interface, function, signature } => {
            format!("  + {interface} {function}: {signature}\n")
        }
        InterfaceChange::Removed { interface, function, signature } => {
            format!("  - {interface} {function}: {signature}\n")
        }
        InterfaceChange::Changed { interface, function, differences } => {
            let each: String = differences.iter().map(|it| format!("      {}\n", arrow(it))).collect();
            format!("  ~ {interface} {function}\n{each}")
        }
    }
}

fn arrow(difference: &Difference) -> String {
    let words = |side: &Option<String>| side.clone().unwrap_or_else(|| "(nothing)".into());
    format!("{}: {} -> {}", difference.place, words(&difference.old), words(&difference.new))
}
