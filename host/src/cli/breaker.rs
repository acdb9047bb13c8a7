//! `wharf breaker`.

use super::{client, print, runtime, say};
use wharf::{
    manifest::Manifest,
    policy::{BreakerCommand, EndpointSnapshot, GuardSnapshot},
};

#[derive(clap::Args)]
pub struct Args {
    /// What to do.
    #[arg(value_enum)]
    command: Command,
    /// The edge, as `wharf status` shows it: "order -> user"; or an endpoint of an external service: "payment at
    /// http://10.0.0.1:8080".
    #[arg(value_name = "EDGE or ENDPOINT")]
    of: String,
    /// Print the edge or the endpoint as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Command {
    /// Let no call pass until it is reset; an endpoint gets none, however many are out.
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
    let is_endpoint = args.of.contains(" at ");
    let kind = if is_endpoint { "endpoint" } else { "edge" };
    let order = serde_json::json!({ kind: args.of, "command": command }).to_string();
    let done: serde_json::Value =
        runtime()?.block_on(client::ask(manifest, "POST", "/v1/breakers", None, order.into()))?;
    if args.json {
        return print(done);
    }
    if is_endpoint {
        let endpoint: EndpointSnapshot = serde_json::from_value(done)?;
        let state = endpoint.breaker.map_or_else(|| "off".into(), |breaker| breaker.state.to_string());
        say("Breaker", format_args!("{}: {state}, {}", args.of, endpoint.standing));
    } else {
        let edge: GuardSnapshot = serde_json::from_value(done)?;
        let state = edge.breaker.map_or_else(|| "off".into(), |breaker| breaker.state.to_string());
        say("Breaker", format_args!("{}: {state}", edge.edge));
    }
    Ok(())
}
