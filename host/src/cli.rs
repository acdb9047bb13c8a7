//! The commands. Nothing else prints to the terminal: what people read goes to standard error, what programs read (JSON,
//! the access log) to standard output.

mod apply;
mod audit;
mod breaker;
mod build;
mod check;
mod client;
mod deploy;
mod diff;
mod events;
mod history;
mod interrupt;
mod keygen;
mod pull;
mod push;
mod rebuild;
mod reload;
mod rollback;
mod rollout;
mod saga;
mod sign;
mod status;
mod text;
mod up;
mod verify;

use anyhow::Context;
use clap::{Parser, Subcommand};
use interrupt::Interrupted;
use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};
use tracing_subscriber::EnvFilter;
use wharf::{
    engine::{compile_with, serve_compiler},
    manifest::Manifest,
};

/// Runs microservices as WebAssembly components inside one process.
///
/// An application is described by its manifest, wharf.toml: services, routes, topics, policies. Start with `wharf up` in
/// a folder that has one.
#[derive(Parser)]
#[command(
    version,
    max_term_width = 100,
    after_help = "\
Exit codes:
  0  it worked
  1  it did not; the message says why and where
  2  the command line is wrong
  130, 143  Ctrl-C or SIGTERM came while it built or checked

Environment:
  WHARF_LOG   what to log, for example `info`, `warn,wharf=debug` (default `info`)
  NO_COLOR    no colours, also on a terminal"
)]
struct Cli {
    /// The manifest.
    #[arg(short, long, global = true, default_value = "wharf.toml", value_name = "FILE")]
    manifest: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Builds what is out of date and runs the application until Ctrl-C or SIGTERM.
    Up(up::Args),
    /// Builds the components of all services that have a source.
    Build,
    /// Checks the manifest, and the components against it and against each other, without running anything.
    Check(check::Args),
    /// Shows how the running application stands: services, revisions, endpoints outside, rate limits, edges and
    /// their circuit breakers, events.
    Status(status::Args),
    /// Forces the circuit breaker of an edge or of an endpoint outside open, switches it off, or resets it, in the running application.
    Breaker(breaker::Args),
    /// Brings the running application to its changed manifest, whole or not at all: services that come, change and go,
    /// routes, policies, subscriptions. Shows what that comes to first, and asks.
    Apply(apply::Args),
    /// Lets the running application read its manifest again, and brings about at once what takes no other component and no
    /// other set of services; breakers keep their state.
    Reload(reload::Args),
    /// Lists, shows, replays and drops dead letters, and replays topics, in the running application.
    Events(events::Args),
    /// Lists, shows and starts sagas, and has them tried again or compensated, in the running application.
    Saga(saga::Args),
    /// Replaces a service of the running application by another component, while requests run: at once or by stages, as the
    /// manifest or the command says.
    Deploy(deploy::Args),
    /// Shows what a component would change in a service of the running application, and whether it fits.
    Diff(diff::Args),
    /// Shows the staged rollout of a service, brings it to its end, or undoes it.
    Rollout(rollout::Args),
    /// Shows the last revisions of a service: when each was loaded, from where, and what became of it.
    History(history::Args),
    /// Puts an earlier revision of a service back in its place, while requests run.
    Rollback(rollback::Args),
    /// Shows who changed what in the running application, and what came of it.
    Audit(audit::Args),
    /// Makes a key that signs components, and prints the public key that belongs to it.
    Keygen(keygen::Args),
    /// Adds a signature to a component.
    Sign(sign::Args),
    /// Pushes a component to a registry.
    Push(push::Args),
    /// Says who has signed a component, and whether it is still what they signed.
    Verify(verify::Args),
    /// Compiles a component from standard input to standard output, for a host.
    #[command(hide = true)]
    Compile,
}

pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mark = if colours() { "\x1b[1;31merror:\x1b[0m" } else { "error:" };
            eprintln!("{mark} {}", explained(&error));
            error.downcast_ref().map_or(ExitCode::FAILURE, |by: &Interrupted| by.exit_code().into())
        }
    }
}

/// The error with those of its causes that it does not tell itself.
fn explained(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    compile_aside();
    match &cli.command {
        Command::Up(args) => up::run(load(&cli.manifest)?, args),
        Command::Build => build::run(&load(&cli.manifest)?),
        Command::Check(args) => check::run(&load(&cli.manifest)?, args),
        Command::Status(args) => status::run(&load(&cli.manifest)?, args),
        Command::Breaker(args) => breaker::run(&load(&cli.manifest)?, args),
        Command::Apply(args) => apply::run(&load(&cli.manifest)?, args),
        Command::Reload(args) => reload::run(&load(&cli.manifest)?, args),
        Command::Events(args) => events::run(&load(&cli.manifest)?, args),
        Command::Saga(args) => saga::run(&load(&cli.manifest)?, args),
        Command::Deploy(args) => deploy::run(&load(&cli.manifest)?, args),
        Command::Diff(args) => diff::run(&load(&cli.manifest)?, args),
        Command::Rollout(args) => rollout::run(&load(&cli.manifest)?, args),
        Command::History(args) => history::run(&load(&cli.manifest)?, args),
        Command::Rollback(args) => rollback::run(&load(&cli.manifest)?, args),
        Command::Audit(args) => audit::run(&load(&cli.manifest)?, args),
        Command::Keygen(args) => keygen::run(args),
        Command::Sign(args) => sign::run(args),
        Command::Push(args) => push::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Compile => serve_compiler().map_err(anyhow::Error::msg),
    }
}

/// Whatever has components compiled has it done by this very program.
fn compile_aside() {
    // The file may be another by the time that there is something to compile: an upgrade. Linux finds the one that runs.
    let program = if cfg!(target_os = "linux") { Ok("/proc/self/exe".into()) } else { std::env::current_exe() };
    if let Ok(program) = program {
        compile_with(program, ["compile".into()]);
    }
}

fn load(path: &Path) -> anyhow::Result<Manifest> {
    Ok(Manifest::load(path)?)
}

/// Whether people look at standard error.
fn colours() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// A line of progress.
fn say(what: &str, detail: impl std::fmt::Display) {
    if colours() {
        eprintln!("\x1b[1;36m{what:>12}\x1b[0m {detail}");
    } else {
        eprintln!("{what:>12} {detail}");
    }
}

/// Prints to standard output. Whoever reads there may stop when they have enough, as `wharf status | head` does.
fn print(text: impl std::fmt::Display) -> anyhow::Result<()> {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("standard output can't be written to"),
    }
}

/// How log lines look.
#[derive(Clone, Copy, clap::ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

fn log(format: LogFormat) {
    let filter = EnvFilter::try_from_env("WHARF_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(colours()).init(),
        LogFormat::Json => builder.json().init(),
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    // NB: a thread that always has a task to run looks for sockets that are ready only after this many. A guest that
    // computes is a task that runs for a whole tick of the epoch clock, so with tokio's own 61 the neighbours of a few
    // busy guests would wait for a tenth of a second each time.
    tokio::runtime::Builder::new_multi_thread()
        .event_interval(8)
        .enable_all()
        .build()
        .context("the operating system gives no threads")
}
