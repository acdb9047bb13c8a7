//! `wharf diff`.

use super::{client, print, pull, runtime};
use anyhow::bail;
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
    /// The component that might replace what runs, a .wasm file, or one in a registry such as oci://registry/name:tag.
    file: PathBuf,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(manifest: &Manifest, args: &Args) -> anyhow::Result<()> {
    let Args { service, file, json } = args;
    let runtime = runtime()?;
    let wasm = runtime.block_on(pull::component(manifest, file))?;
    let path = format!("/v1/services/{service}/diff");
    let origin = file.display().to_string();
    let diff: ServiceDiff = runtime.block_on(client::ask(manifest, "POST", &path, Some(&origin), wasm.into()))?;
    if *json {
        print(serde_json::to_string(&diff)?)?;
    } else {
        let ServiceDiff { old, new, changes: ShapeChanges { exports, imports }, misfits } = &diff;
        let short = |hash: &str| hash.chars().take(12).collect::<String>();
        let old = old.as_deref().map_or_else(|| "nothing".into(), short);
        let mut text = format!("component {old} -> {}\n", short(new));
        for (side, changes) in [("exports", exports), ("imports", imports)] {
            if !changes.is_empty() {
                text += &format!("{side}\n{}", changes.iter().map(line).collect::<String>());
            }
        }
        if exports.is_empty() && imports.is_empty() {
            text += "no function is added, removed or changed\n";
        }
        if misfits.is_empty() {
            text += "it fits; migrations and the first instance are looked at by the deploy\n";
        }
        print(text.trim_end())?;
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
