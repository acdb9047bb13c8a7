//! `wharf up`.

use super::{LogFormat, build, interrupt::Signals, log, pull, rebuild::Rebuild, runtime, say};
use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{path::PathBuf, sync::Arc, time::SystemTime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use wharf::{
    app::{App, Builds, Came, Deed, Request, Status, Watch, Who},
    manifest::Manifest,
    rollout::StartWith,
    telemetry::{AccessFormat, AccessLog},
};

#[derive(clap::Args)]
pub struct Args {
    /// Where the access log goes: `-` is standard output, `off` is nowhere.
    #[arg(long, default_value = "-", value_name = "FILE")]
    access_log: String,
    /// How log lines look.
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
    /// Watch the sources of services too: build a component when they change, and deploy it at once, whatever stages the
    /// manifest has. A build that fails is shown, and what runs goes on.
    #[arg(long, conflicts_with = "no_watch")]
    watch: bool,
    /// Do not deploy a component when its file changes, nor reload the manifest when it does.
    #[arg(long)]
    no_watch: bool,
    /// Start with the components that the manifest names. Without this, a service starts with the revision that served
    /// last, also where that was deployed or gone back to, unless its component in the manifest is another one since.
    #[arg(long)]
    from_manifest: bool,
    /// Let the system write a core dump when the host crashes, as its limit says. It holds the secrets of all services.
    #[arg(long)]
    core_dumps: bool,
}

pub fn run(manifest: Manifest, args: &Args) -> anyhow::Result<()> {
    runtime()?.block_on(serve(manifest, args))
}

async fn serve(manifest: Manifest, args: &Args) -> anyhow::Result<()> {
    if !args.core_dumps {
        no_core_dumps()?;
    }
    let mut signals = Signals::new()?;
    let rebuild = args.watch.then(Rebuild::new).transpose()?;
    let began = SystemTime::now();
    let components = build::components(&manifest, &mut signals).await?;
    log(args.log_format);
    let with = if args.from_manifest { StartWith::Manifest } else { StartWith::LastServing };
    let pulled = manifest.pulled();
    let ready = App::start(manifest, components, with, access_log(args)?).await?;
    announce(ready.app());
    // What the manifest names was wanted just now.
    tokio::spawn(pull::tidy(pulled));
    let reloading = tokio::spawn(reload_on_hangup(ready.app().clone(), signal(SignalKind::hangup())?));
    let (rebuilding, watch) = match rebuild {
        Some(rebuild) => {
            let (builds, watch) = Builds::new();
            (Some(rebuild.start(ready.app().clone(), builds, began)?), watch)
        }
        None => (None, if args.no_watch { Watch::Nothing } else { Watch::Files }),
    };
    let shutdown = async move {
        signals.next().await;
        say("Stopping", "what is in flight finishes first");
        // At the same time: neither has to wait for the other.
        rebuilding.map(|rebuilding| tokio::task::spawn_blocking(move || rebuilding.end()));
    };
    let ended = ready.serve(shutdown, watch).await;
    reloading.abort();
    match ended.cut {
        0 => say("Stopped", "every request was answered"),
        cut => {
            say("Stopped", format_args!("{cut} requests took longer than `gateway.shutdown-grace` and were cut off"))
        }
    }
    Ok(())
}

/// A core dump would hold the secrets of all services, and lie around.
///
/// NB: the limit is one byte and not none, which the kernel would not look at where core dumps go to a program. Debuggers
/// can attach all the same, as they could not with `PR_SET_DUMPABLE`.
fn no_core_dumps() -> anyhow::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Core);
    let current = Some(maximum.map_or(1, |most| most.min(1)));
    setrlimit(Resource::Core, Rlimit { current, maximum })
        .context("core dumps can't be switched off; `--core-dumps` leaves them as they are")
}

/// SIGHUP is what tells servers to read their settings again.
async fn reload_on_hangup(app: Arc<App>, mut hangup: Signal) {
    while hangup.recv().await.is_some() {
        let deed = Deed::new("reload");
        match app.apply(Request::Reload).await {
            Ok(_) => app.audit().note(&Who::Signal, &deed, Came::Done).await,
            Err(error) => {
                tracing::error!(%error, "the manifest was refused; what runs goes on");
                app.audit().note(&Who::Signal, &deed.because(error.to_string()), Came::Refused).await;
            }
        }
    }
}

fn access_log(args: &Args) -> anyhow::Result<AccessLog> {
    let format = match args.log_format {
        LogFormat::Text => AccessFormat::Logfmt,
        LogFormat::Json => AccessFormat::Json,
    };
    let log = match args.access_log.as_str() {
        "-" => AccessLog::new(format, std::io::stdout()),
        "off" => AccessLog::new(format, std::io::sink()),
        path => {
            let path = PathBuf::from(path);
            let file = std::fs::File::options().create(true).append(true).open(&path);
            AccessLog::new(format, file.with_context(|| format!("the access log {} can't be written", path.display()))?)
        }
    };
    log.context("the operating system gives no thread for the access log")
}

/// The few lines that say what runs where.
fn announce(app: &App) {
    let status: Status = app.status();
    for service in &status.services {
        let Some(revision) = &service.revision else { continue };
        let hash = &revision.hash[..12];
        let http = service.http.as_ref().map_or(String::from("no HTTP"), |version| format!("wasi:http {version}"));
        say("Service", format_args!("{:<14} revision {} ({hash}), {http}", service.name, revision.number));
    }
    let subscriptions = status.events.subscriptions.len();
    say("Events", format_args!("{} bus, {subscriptions} subscriptions", status.events.bus));
    say("Ready", format_args!("{} on {}", status.app, status.gateway));
}
