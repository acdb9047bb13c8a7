//! `wharf diff`.

use super::{client, print, pull, runtime};
use anyhow::bail;
use std::path::PathBuf;
use wharf::{
    app::ServiceDiff,
    manifest::Manifest,
    rollout::SchemaDiff,
    service::{Difference, InterfaceChange, ShapeChanges},
};

#[derive(clap::Args)]
#[command(after_help = "\
Changes nothing. The exit code is 1 where the component does not fit.

  wharf diff order order.wasm                     function by function, and the migrations that it would run
  wharf diff order oci://ghcr.io/shop/order:1.3   of one in a registry
  wharf diff order order.wasm --json              for scripts")]
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
        let ServiceDiff { old, new, changes: ShapeChanges { exports, imports }, misfits, schema } = &diff;
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
        text += &schema.iter().map(words).collect::<String>();
        if misfits.is_empty() {
            text += "it fits; the first instance is looked at by the deploy\n";
        }
        print(text.trim_end())?;
    }
    if diff.misfits.is_empty() {
        return Ok(());
    }
    bail!("{} does not fit, and would be refused:\n{}", file.display(), diff.misfits.join("\n"))
}

/// What becomes of the schema.
fn words(SchemaDiff { runs, unknown, other }: &SchemaDiff) -> String {
    let list = |names: &[String]| names.iter().map(|it| format!("`{it}`")).collect::<Vec<_>>().join(", ");
    let mut text = String::new();
    if !runs.is_empty() {
        text += &format!("it would migrate: {}\n", list(runs));
    }
    if !unknown.is_empty() {
        let unknown = list(unknown);
        text += &format!("it does not know what the database has: {unknown}; it would be refused without `--force`\n");
    }
    if !other.is_empty() {
        let other = list(other);
        text += &format!("the database has other migrations in place of {other}; it would be refused\n");
    }
    if text.is_empty() {
        text += "no migration\n";
    }
    text
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
