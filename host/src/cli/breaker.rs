//! `wharf breaker`.

use super::{client, print, runtime, say};
use wharf::{
    manifest::Manifest,
    policy::{BreakerCommand, GuardSnapshot},
};

#[derive(clap::Args)]
pub struct Args {
    /// What to do.
    #[arg(value_enum)]
    command: Command,
    /// The edge, as `wharf status` shows it: "order -> user".
    edge: String,
    /// Print the edge as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Command {
    /// Let no call pass until it is reset.
    ForceOpen,
    /// Let all calls pass and count none until it is reset.
    Disable,
    /// Let all calls pass, count them and log when it would have opened, until it is reset.
    MetricsOnly,
    /// Forget all that was and begin afresh, as the policy says.
    Reset,
}

pub fn run(manifest: &Manifest, args: &Args) -> anyhow::Result<()> {
    let command = match args.command {
        Command::ForceOpen => BreakerCommand::ForceOpen,
        Command::Disable => BreakerCommand::Disable,
        Command::MetricsOnly => BreakerCommand::MetricsOnly,
        Command::Reset => BreakerCommand::Reset,
    };
    let order = serde_json::json!({ "edge": args.edge, "command": command }).to_string();
    let edge: GuardSnapshot = runtime()?.block_on(client::ask(manifest, "POST", "/v1/breakers", None, order.into()))?;
    if args.json {
        return print(serde_json::to_string(&edge)?);
    }
    let state = edge.breaker.map_or_else(|| "off".into(), |breaker| breaker.state.to_string());
    say("Breaker", format_args!("{}: {state}", edge.edge));
    Ok(())
}
