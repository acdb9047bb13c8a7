//! `wharf events`.

use super::{
    client, print, runtime, say,
    status::Table,
    text::{short, visible},
};
use anyhow::{Context, bail};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use std::io::{BufRead, IsTerminal};
use wharf::{
    app::{Handled, Letters, WholeLetter},
    events::DeadReason,
    manifest::Manifest,
};

/// Why an event can be dead.
const REASONS: [&str; DeadReason::ALL.len()] = {
    let [a, b, c, d] = DeadReason::ALL;
    [a.name(), b.name(), c.name(), d.name()]
};

#[derive(clap::Args)]
#[command(after_help = "\
A dead letter is an event that one subscription gave up on: its handler rejected it, or it was tried as often as
allowed. It stays until it is replayed or dropped.

Examples:
  wharf events list --service notification       the dead letters of one service
  wharf events show 17                           one of them: the reason, the last error, the event
  wharf events replay 17 18                      deliver two of them once more
  wharf events replay --all --topic order.created
  wharf events drop --all --service notification --yes
  wharf events replay-topic order.created --service notification --from 2h
                                                 all events of the last two hours once more, to this service alone
  wharf events stop-replay order.created --service notification
                                                 what is left of that is not delivered")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Lists dead letters, oldest first.
    List(ListArgs),
    /// Shows a dead letter and its event.
    Show(ShowArgs),
    /// Delivers dead letters to their subscription once more, with all tries before them.
    Replay(ReplayArgs),
    /// Forgets dead letters for good.
    Drop(DropArgs),
    /// Delivers the past of a topic to one subscription once more.
    ReplayTopic(ReplayTopicArgs),
    /// Ends replays of a topic: what they have not delivered yet stays undelivered. Events that are being delivered just now
    /// may still come, and dead letters that were replayed do.
    StopReplay(StopReplayArgs),
}

#[derive(clap::Args)]
struct ListArgs {
    /// Only those of this topic.
    #[arg(long)]
    topic: Option<String>,
    /// Only those of this service.
    #[arg(long)]
    service: Option<String>,
    /// Only those that were given up for this.
    #[arg(long, value_parser = REASONS)]
    reason: Option<String>,
    /// Only those after this letter: the last one of the page before.
    #[arg(long, value_name = "LETTER")]
    after: Option<String>,
    /// At most this many.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Print the letters as JSON, without the payloads.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct ShowArgs {
    /// The letter, as `wharf events list` names it.
    letter: String,
    /// Print the letter as JSON.
    #[arg(long)]
    json: bool,
}

/// Which dead letters.
#[derive(clap::Args)]
struct Selection {
    /// The letters, as `wharf events list` names them.
    #[arg(value_name = "LETTER", required_unless_present = "all", conflicts_with_all = ["all", "topic", "service", "reason"])]
    letters: Vec<String>,
    /// All letters, or all of a topic, a service or a reason.
    #[arg(long)]
    all: bool,
    /// With --all: only those of this topic.
    #[arg(long, requires = "all")]
    topic: Option<String>,
    /// With --all: only those of this service.
    #[arg(long, requires = "all")]
    service: Option<String>,
    /// With --all: only those that were given up for this.
    #[arg(long, requires = "all", value_parser = REASONS)]
    reason: Option<String>,
}

#[derive(clap::Args)]
struct ReplayArgs {
    #[command(flatten)]
    selection: Selection,
    /// Print how many there were as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct DropArgs {
    #[command(flatten)]
    selection: Selection,
    /// With --all: do not ask.
    #[arg(long)]
    yes: bool,
    /// Print how many there were as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("begin").required(true).args(["from", "offset"]))]
struct ReplayTopicArgs {
    /// The topic.
    topic: String,
    /// The service to deliver to, which subscribes to the topic.
    #[arg(long)]
    service: String,
    /// Begin with the first event that was published at this time or later: 2026-11-24T09:00:00Z, or how long ago, such as
    /// 30m, 2h or 7d.
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<Timestamp>,
    /// Begin at this offset: a number in the embedded log, an entry's id in Redis.
    #[arg(long)]
    offset: Option<String>,
    /// Print how many there were as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct StopReplayArgs {
    /// The topic.
    topic: String,
    /// The service that its past is delivered to.
    #[arg(long)]
    service: String,
    /// Print how many events are not delivered as JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(manifest: &Manifest, args: &Args) -> anyhow::Result<()> {
    let runtime = runtime()?;
    match &args.command {
        Command::List(args) => runtime.block_on(list(manifest, args)),
        Command::Show(args) => runtime.block_on(show(manifest, args)),
        Command::Replay(ReplayArgs { selection, json }) => {
            let handled = runtime.block_on(handle(manifest, "replay", selection))?;
            report(handled, *json, "Replayed", "dead letters are delivered once more")
        }
        Command::Drop(DropArgs { selection, yes, json }) => {
            if selection.all && !yes && !confirmed(&scope(selection))? {
                bail!("nothing was dropped");
            }
            let handled = runtime.block_on(handle(manifest, "drop", selection))?;
            report(handled, *json, "Dropped", "dead letters are gone")
        }
        Command::ReplayTopic(args) => {
            let handled = runtime.block_on(replay_topic(manifest, args))?;
            let what = format!("events of {} are delivered to {} once more", args.topic, args.service);
            report(handled, args.json, "Replayed", &what)
        }
        Command::StopReplay(args) => {
            let handled = runtime.block_on(stop_replay(manifest, args))?;
            let what = format!("events of {} are not delivered to {} once more", args.topic, args.service);
            report(handled, args.json, "Stopped", &what)
        }
    }
}

async fn list(manifest: &Manifest, args: &ListArgs) -> anyhow::Result<()> {
    let mut path = format!("/v1/events/dead-letters?limit={}", args.limit);
    let ListArgs { topic, service, reason, after, .. } = args;
    for (name, value) in [("topic", topic), ("service", service), ("reason", reason), ("after", after)] {
        if let Some(value) = value {
            path += &format!("&{name}={}", plain(value)?);
        }
    }
    let Letters { letters, more } = client::ask(manifest, "GET", &path, None, Bytes::new()).await?;
    if args.json {
        return print(serde_json::to_string(&Letters { letters, more })?);
    }
    if letters.is_empty() {
        say("None", "there are no such dead letters");
        return Ok(());
    }
    let mut table = Table::new(["LETTER", "AT", "TOPIC", "SERVICE", "SUBJECT", "REASON", "TRIES", "LAST ERROR"]);
    for letter in &letters {
        table.row([
            letter.letter.clone(),
            letter.at.clone(),
            letter.topic.clone(),
            letter.service.clone(),
            letter.subject.as_deref().map_or_else(|| "-".into(), short),
            letter.reason.name().to_owned(),
            letter.attempts.to_string(),
            short(&letter.error),
        ]);
    }
    print(table.to_string().trim_end())?;
    if let Some(last) = letters.last().filter(|_| more) {
        say("More", format_args!("there are more: --after {}", last.letter));
    }
    Ok(())
}

async fn show(manifest: &Manifest, args: &ShowArgs) -> anyhow::Result<()> {
    let path = format!("/v1/events/dead-letters/{}", plain(&args.letter)?);
    let WholeLetter { letter, event } = client::ask(manifest, "GET", &path, None, Bytes::new()).await?;
    if args.json {
        return print(serde_json::to_string(&WholeLetter { letter, event })?);
    }
    let mut lines = vec![
        ("letter", letter.letter.clone()),
        ("service", letter.service.clone()),
        ("reason", letter.reason.name().to_owned()),
        ("last error", visible(&letter.error)),
        ("tries", letter.attempts.to_string()),
        ("given up", letter.at.clone()),
    ];
    for name in ["type", "id", "source", "subject", "time", "datacontenttype", "traceparent"] {
        if let Some(value) = event[name].as_str() {
            lines.push((name, visible(value)));
        }
    }
    let head: String = lines.iter().map(|(name, value)| format!("{name:<16} {value}\n")).collect();
    let data = match (&event["data"], &event["data_base64"]) {
        (serde_json::Value::String(text), _) => text.lines().map(visible).collect::<Vec<_>>().join("\n"),
        (serde_json::Value::Null, serde_json::Value::String(base64)) => format!("(base64) {base64}"),
        (data, _) => serde_json::to_string_pretty(data)?,
    };
    print(format_args!("{head}\n{data}"))
}

async fn handle(manifest: &Manifest, deed: &str, selection: &Selection) -> anyhow::Result<Handled> {
    let Selection { letters, all, topic, service, reason } = selection;
    let order = if *all {
        serde_json::json!({ "all": true, "topic": topic, "service": service, "reason": reason })
    } else {
        serde_json::json!({ "letters": letters })
    };
    let path = format!("/v1/events/dead-letters/{deed}");
    client::ask(manifest, "POST", &path, None, order.to_string().into()).await
}

async fn replay_topic(manifest: &Manifest, args: &ReplayTopicArgs) -> anyhow::Result<Handled> {
    let ReplayTopicArgs { topic, service, from, offset, .. } = args;
    let mut order = serde_json::json!({ "topic": topic, "service": service });
    if let Some(from) = from {
        order["from"] = from.to_string().into();
    }
    if let Some(offset) = offset {
        order["offset"] = offset.as_str().into();
    }
    client::ask(manifest, "POST", "/v1/events/replay", None, order.to_string().into()).await
}

async fn stop_replay(manifest: &Manifest, args: &StopReplayArgs) -> anyhow::Result<Handled> {
    let order = serde_json::json!({ "topic": args.topic, "service": args.service });
    client::ask(manifest, "POST", "/v1/events/replay/stop", None, order.to_string().into()).await
}

/// Says what was done. What was named and is not there is an error, after the rest was done.
fn report(handled: Handled, json: bool, verb: &str, what: &str) -> anyhow::Result<()> {
    if json {
        print(serde_json::to_string(&handled)?)?;
    } else {
        say(verb, format_args!("{} {what}", handled.count));
    }
    match handled.missing {
        0 => Ok(()),
        missing => bail!("{missing} of the letters are not there: they may have been replayed or dropped before"),
    }
}

fn scope(selection: &Selection) -> String {
    let topic = selection.topic.iter().map(|topic| format!(" of topic {topic}"));
    let service = selection.service.iter().map(|service| format!(" of service {service}"));
    let reason = selection.reason.iter().map(|reason| format!(" that are {reason}"));
    format!("all dead letters{}", topic.chain(service).chain(reason).collect::<String>())
}

/// Asks a person, where there is one.
fn confirmed(scope: &str) -> anyhow::Result<bool> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        bail!("{scope} would be gone for good: say --yes if that is meant");
    }
    eprint!("Drop {scope} for good? [y/N] ");
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).context("no answer can be read")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// What goes into a path as it is. No letter, topic or service has other characters.
fn plain(text: &str) -> anyhow::Result<&str> {
    let is_plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~:".contains(&b));
    if is_plain && !text.is_empty() { Ok(text) } else { bail!("there is nothing named `{}`", text.escape_debug()) }
}

/// A moment, or how long ago it was.
fn time(text: &str) -> Result<Timestamp, String> {
    let expected = "expected a time such as 2026-11-24T09:00:00Z, or how long ago, such as 30m, 2h or 7d";
    let ago = || {
        let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 24 * 3600,
            _ => return None,
        };
        let number: u32 = number.bytes().all(|b| b.is_ascii_digit()).then(|| number.parse().ok())??;
        Timestamp::now().checked_sub(SignedDuration::from_secs(i64::from(number) * seconds)).ok()
    };
    text.parse().ok().or_else(ago).ok_or_else(|| expected.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{super::text::WIDTH, *};
    use clap::{CommandFactory, Parser};

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Command, clap::error::ErrorKind> {
        let words = ["events"].into_iter().chain(line.split_ascii_whitespace());
        Cli::try_parse_from(words).map(|cli| cli.args.command).map_err(|error| error.kind())
    }

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn letters_are_named_or_all_are_meant() {
        for good in [
            "list",
            "list --topic a --service b --after 3 --limit 1000 --json",
            "list --reason attempts-exhausted",
            "show 17",
            "replay 17 18",
            "replay --all --topic a --service b --reason rejected",
            "drop 17",
            "drop --all --yes",
            "replay-topic a --service b --from 2h",
            "replay-topic a --service b --from 2026-11-24T09:00:00+01:00",
            "replay-topic a --service b --offset 17-0",
            "stop-replay a --service b --json",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "list --limit 0",
            "list --limit 1001",
            "list --reason old",
            "replay 17 --reason rejected",
            "stop-replay a",
            "show",
            "replay",
            "replay 17 --all",
            "replay 17 --topic a",
            "drop --topic a",
            "replay-topic a --service b",
            "replay-topic a --from 2h",
            "replay-topic a --service b --from 2h --offset 1",
            "replay-topic a --service b --from yesterday",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_time_is_a_moment_or_how_long_ago_it_was() {
        assert_eq!(time("2026-11-24T09:00:00Z").map(|at| at.to_string()).as_deref(), Ok("2026-11-24T09:00:00Z"));
        let ago = Timestamp::now().duration_since(time("2h").expect("a time"));
        assert!((7190..7210).contains(&ago.as_secs()), "{ago}");
        for bad in ["", "h", "2", "-2h", "2w", "1.5h", "é", "99999999999d"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_services_say_does_not_reach_the_terminal_as_it_is() {
        assert_eq!(short("a\u{1b}[31mb\n"), "a [31mb ");
        assert_eq!(short(&"x".repeat(100)).chars().count(), WIDTH);
        assert!(plain("17-0").is_ok() && plain("order.created").is_ok());
        for odd in ["", "a b", "a/b", "a?b", "ä"] {
            assert!(plain(odd).is_err(), "{odd}");
        }
    }
}
