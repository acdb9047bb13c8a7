//! `wharf check`.

use super::{build, interrupt::Signals, runtime, say};
use wharf::manifest::Manifest;

#[derive(clap::Args)]
#[command(after_help = "\
What is out of date is built for it. A host that runs does not deploy that: `wharf apply` does, or a restart.")]
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
    say("Checked", format_args!("{} components: they fit", checked?));
    Ok(())
}

/// Builds and checks the components; how many there are.
async fn components_of(manifest: &Manifest) -> anyhow::Result<usize> {
    let mut signals = Signals::new()?;
    let (components, _hold) = build::to_look_at(manifest, &mut signals).await?;
    tokio::select! {
        fit = wharf::app::check(manifest, &components) => Ok(fit.map(|()| components.len())?),
        signal = signals.next() => Err(signal.into()),
    }
}
