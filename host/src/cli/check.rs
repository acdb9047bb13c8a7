//! `wharf check`.

use super::{build, interrupt::Signals, runtime, say};
use anyhow::bail;
use wharf::{manifest::Manifest, service::Misfit};

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
    let runtime = runtime()?;
    let checked = runtime.block_on(components_of(manifest));
    // What is being compiled when a signal comes is of no use to anybody.
    runtime.shutdown_background();
    let (count, found) = checked?;
    if !found.is_empty() {
        let lines: Vec<_> = found.iter().map(|it| format!("service `{}` {}", it.service, it.message)).collect();
        bail!("{}", lines.join("\n"));
    }
    say("Checked", format_args!("{count} components: they fit"));
    Ok(())
}

/// Builds and checks the components: how many there are, and what does not fit.
async fn components_of(manifest: &Manifest) -> anyhow::Result<(usize, Vec<Misfit>)> {
    let mut signals = Signals::new()?;
    let components = build::components(manifest, &mut signals).await?;
    tokio::select! {
        found = wharf::app::check(manifest, &components) => Ok((components.len(), found?)),
        signal = signals.next() => Err(signal.into()),
    }
}
