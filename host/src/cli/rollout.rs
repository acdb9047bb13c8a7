//! `wharf rollout`.

use super::{client, print, runtime, say};
use anyhow::anyhow;
use bytes::Bytes;
use std::time::Duration;
use wharf::{
    app::{RolloutCommand, StageOrder},
    manifest::{Manifest, parse_duration},
    policy::Account,
    rollout::{RolloutEnd, RolloutSnapshot},
};

/// How often one that is under way is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[derive(clap::Args)]
pub struct Args {
    /// The service.
    service: String,
    /// What to do with the rollout that is under way; nothing: show it, or the last one.
    #[arg(value_enum)]
    command: Option<Command>,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Command {
    /// The new revision gets all calls now.
    Promote,
    /// The old revision gets all calls again.
    Undo,
}

/// A stage as it is given on the command line.
#[derive(Clone)]
pub struct StageArg(pub StageOrder);

pub fn run(manifest: &Manifest, args: &Args) -> anyhow::Result<()> {
    let path = format!("/v1/services/{}/rollout", args.service);
    let order = args.command.map(|command| match command {
        Command::Promote => RolloutCommand::Promote,
        Command::Undo => RolloutCommand::Undo,
    });
    let (method, body) = match order {
        Some(command) => ("POST", serde_json::json!({ "command": command }).to_string().into()),
        None => ("GET", Bytes::new()),
    };
    let runtime = runtime()?;
    let mut shown: RolloutSnapshot = runtime.block_on(client::ask(manifest, method, &path, None, body))?;
    if args.command.is_some() {
        // It is done in a moment.
        shown = runtime.block_on(follow(manifest, &args.service, shown.revision.number, false))?;
    }
    if args.json {
        return print(serde_json::to_string(&shown)?);
    }
    let RolloutSnapshot { service, revision, .. } = &shown;
    let state = match &shown.end {
        Some(RolloutEnd::Completed) => "completed: it gets all calls".to_owned(),
        Some(RolloutEnd::Undone { reason }) => format!("undone: {reason}"),
        None => {
            let waits = shown.waits.as_ref().map(|waits| format!(", waits for {waits}")).unwrap_or_default();
            format!("{}{waits}", stage(&shown))
        }
    };
    let differing = if shown.differing > 0 { format!("\n{} answers differed", shown.differing) } else { String::new() };
    print(format_args!(
        "{service}: revision {}, {state}\n  old revision: {}\n  new revision: {}{differing}",
        revision.number,
        account(&shown.old),
        account(&shown.new),
    ))
}

/// Which stage one is in, in words.
pub fn stage(shown: &RolloutSnapshot) -> String {
    let time = |millis: u64| format!("{:.1} s", millis as f64 / 1000.0);
    let RolloutSnapshot { stage, stages, split, lasted_ms, time_ms, .. } = shown;
    format!("stage {stage} of {stages}: {split}, for {} of {}", time(*lasted_ms), time(*time_ms))
}

fn account(of: &Account) -> String {
    let p99 = Duration::from_micros(of.p99_us);
    format!("{} calls, {} failed, {} trapped, p99 {p99:?}", of.calls, of.failures, of.traps)
}

/// Waits for the end of a staged rollout, and says each stage if that is wanted.
pub async fn follow(
    manifest: &Manifest,
    service: &str,
    revision: u64,
    is_told: bool,
) -> anyhow::Result<RolloutSnapshot> {
    let path = format!("/v1/services/{service}/rollout");
    let (mut before, mut waiting, mut differing) = (0, 0, 0);
    loop {
        let now: RolloutSnapshot = client::ask(manifest, "GET", &path, None, Bytes::new()).await?;
        if now.revision.number != revision {
            return Err(anyhow!("the rollout of revision {revision} is over, and another one was begun"));
        }
        if now.stage != before && is_told {
            let time = Duration::from_millis(now.time_ms);
            say("Stage", format_args!("{} of {}: {}, for {time:?}", now.stage, now.stages, now.split));
        }
        if is_told
            && let Some(waits) = now.waits.as_ref().filter(|_| now.lasted_ms > now.time_ms && waiting != now.stage)
        {
            waiting = now.stage;
            let ways = format!("`wharf rollout {service} promote` or `undo` brings it to an end");
            say("Waiting", format_args!("for {waits}, though the time is over; {ways}"));
        }
        if is_told && (now.stage != before || now.end.is_some()) && differing > 0 {
            say("Shadow", format_args!("{differing} answers to copies were not those that callers got"));
        }
        (before, differing) = (now.stage, now.differing);
        if now.end.is_some() {
            return Ok(now);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A duration as the manifest writes it.
pub fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "expected a duration such as `250ms` or `5s`".to_owned())
}

// === impl StageArg ===

impl StageArg {
    /// Reads `percent=5,for=30s`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected = "expected a stage such as `percent=5,for=30s`, `header=x-preview: yes,for=10m`, \
                        `cookie=preview=yes,for=10m` or `shadow,for=1m`";
        let (split, time) = text.rsplit_once(",for=").ok_or(expected)?;
        let for_ms = u64::try_from(duration(time)?.as_millis()).map_err(|error| error.to_string())?;
        let order = StageOrder { for_ms, ..StageOrder::default() };
        Ok(Self(match split.split_once('=') {
            Some(("percent", percent)) => {
                StageOrder { percent: Some(percent.parse().map_err(|_| "expected a percentage")?), ..order }
            }
            Some(("header", header)) => StageOrder { header: Some(header.to_owned()), ..order },
            Some(("cookie", cookie)) => StageOrder { cookie: Some(cookie.to_owned()), ..order },
            None if split == "shadow" => StageOrder { shadow: true, ..order },
            _ => return Err(expected.to_owned()),
        }))
    }
}
