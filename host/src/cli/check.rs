//! `wharf check`.

use super::{build, runtime, say};
use anyhow::bail;
use wharf::manifest::Manifest;

#[derive(clap::Args)]
pub struct Args {
    /// Check the manifest alone, without building or reading any component.
    #[arg(long)]
    manifest_only: bool,
}

pub fn run(manifest: &Manifest, args: &Args) -> anyhow::Result<()> {
    say("Checked", format_args!("{}: it holds together", manifest.path.display()));
    if args.manifest_only {
        return Ok(());
    }
    let components = build::components(manifest, true)?;
    let found = runtime()?.block_on(wharf::app::check(manifest, &components))?;
    if !found.is_empty() {
        let lines: Vec<_> = found.iter().map(|it| format!("service `{}` {}", it.service, it.message)).collect();
        bail!("{}", lines.join("\n"));
    }
    say("Checked", format_args!("{} components: they fit", components.len()));
    Ok(())
}
