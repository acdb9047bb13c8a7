//! `wharf saga`.

use super::{
    client, print, runtime, say,
    status::Table,
    text::{short, visible},
};
use anyhow::Context;
use bytes::Bytes;
use wharf::{
    app::{NewSaga, SagaList, SagaOrder},
    manifest::Manifest,
    saga::{Status, StepView, Summary, View},
};

/// How a saga can stand.
const STATUSES: [&str; Status::ALL.len()] = {
    let [a, b, c, d] = Status::ALL;
    [a.as_str(), b.as_str(), c.as_str(), d.as_str()]
};

/// How a step can stand.
const STEPS: &str = "\
A step is one of these:
  pending        it is not its turn, or it never was
  waiting        it waits for an event or a time
  ready          its action is to be called: when that is due, or when there is room
  acting         its action is being called
  done           its action has succeeded
  failed         its action said that it failed: it has done nothing, and is not compensated
  unknown        its action was called, and nobody knows what came of it: it is compensated
  compensating   its compensation is being called, or tried again when that is due
  compensated    its compensation has succeeded
  skipped        an operator decided that it is not compensated";

#[derive(clap::Args)]
#[command(after_help = "\
A saga is work over several services that is done completely, or undone. One that is shown as stuck needs somebody, since a
compensation keeps failing; and one that is halted, since the revision that serves lacks a step of it.

Examples:
  wharf saga list --status compensating          what is being taken back
  wharf saga list --stuck                        what needs somebody
  wharf saga list --service checkout --limit 10
  wharf saga show 17                             one of them: each step with its times, tries and errors
  wharf saga start checkout checkout --id 18 --input '{\"user\": \"ada\"}'
  wharf saga retry 17                            make the next try now, and not when it is due
  wharf saga compensate 17                       take back what it has done
  wharf saga compensate 17 --skip refund         this compensation is not needed any more: it was done by hand")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Lists sagas, the newest first.
    List(ListArgs),
    /// Shows a saga with its steps.
    #[command(after_help = STEPS)]
    Show(OneArgs),
    /// Starts a saga.
    Start(StartArgs),
    /// Makes the next try of a saga now.
    Retry(OneArgs),
    /// Has a saga compensated, or settles a step whose compensation fails.
    Compensate(CompensateArgs),
}

#[derive(clap::Args)]
struct ListArgs {
    /// Only those of this service.
    #[arg(long)]
    service: Option<String>,
    /// Only those of this name.
    #[arg(long)]
    saga: Option<String>,
    /// Only those that stand so.
    #[arg(long, value_parser = STATUSES)]
    status: Option<String>,
    /// Only those that need somebody, of the newest.
    #[arg(long)]
    stuck: bool,
    /// Only those after this place: where the page before ended.
    #[arg(long, value_name = "PLACE")]
    after: Option<i64>,
    /// At most this many.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Print them as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct OneArgs {
    /// The saga's id.
    id: String,
    /// Its service, where several have one of this id.
    #[arg(long)]
    service: Option<String>,
    /// Its name, where there are several of this id.
    #[arg(long)]
    saga: Option<String>,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct StartArgs {
    /// The service.
    service: String,
    /// The saga's name.
    saga: String,
    /// Its id: there is one saga of this name with it, however often it is started.
    #[arg(long)]
    id: String,
    /// Its first state, a JSON object.
    #[arg(long, default_value = "{}", value_name = "JSON")]
    input: String,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct CompensateArgs {
    #[command(flatten)]
    one: OneArgs,
    /// A step that is left as it is.
    #[arg(long, value_name = "STEP")]
    skip: Option<String>,
}

pub fn run(manifest: &Manifest, args: &Args) -> anyhow::Result<()> {
    let runtime = runtime()?;
    let order = |one: &OneArgs, skip: Option<&String>| SagaOrder {
        service: one.service.clone(),
        saga: one.saga.clone(),
        id: one.id.clone(),
        skip: skip.cloned(),
    };
    let (what, order, json) = match &args.command {
        Command::List(args) => return runtime.block_on(list(manifest, args)),
        Command::Show(one) => ("show", serde_json::to_string(&order(one, None))?, one.json),
        Command::Retry(one) => ("retry", serde_json::to_string(&order(one, None))?, one.json),
        Command::Compensate(CompensateArgs { one, skip }) => {
            ("compensate", serde_json::to_string(&order(one, skip.as_ref()))?, one.json)
        }
        Command::Start(StartArgs { service, saga, id, input, json }) => {
            let expected = r#"--input must be a JSON object such as '{"user": "ada"}'"#;
            let input = serde_json::from_str(input).context(expected)?;
            let new = NewSaga { service: service.clone(), saga: saga.clone(), id: id.clone(), input };
            ("start", serde_json::to_string(&new)?, *json)
        }
    };
    let path = format!("/v1/sagas/{what}");
    let view: View = runtime.block_on(client::ask(manifest, "POST", &path, None, order.into()))?;
    if json { print(serde_json::to_string(&view)?) } else { print(shown(&view)?) }
}

async fn list(manifest: &Manifest, args: &ListArgs) -> anyhow::Result<()> {
    let ListArgs { service, saga, status, stuck, after, limit, json } = args;
    let mut path = format!("/v1/sagas?limit={limit}");
    for (name, value) in [("service", service), ("saga", saga), ("status", status)] {
        if let Some(value) = value {
            path += &format!("&{name}={}", client::plain(value)?);
        }
    }
    if let Some(after) = after {
        path += &format!("&after={after}");
    }
    let mut list: SagaList = client::ask(manifest, "GET", &path, None, Bytes::new()).await?;
    list.sagas.retain(|it| it.stuck || !stuck);
    if *json {
        return print(serde_json::to_string(&list)?);
    }
    if list.sagas.is_empty() {
        say("None", "there are no such sagas");
        return Ok(());
    }
    let mut table = Table::new(["ID", "SERVICE", "SAGA", "STATUS", "AT", "STARTED", "REASON OR ERROR"]);
    for it in &list.sagas {
        let at = if it.at.is_empty() { "-".to_owned() } else { it.at.join(", ") };
        let why = it.error.as_ref().or(it.reason.as_ref()).map_or_else(|| "-".into(), |why| short(why));
        table.row([it.id.clone(), it.service.clone(), it.saga.clone(), stands(it), at, it.started_at.clone(), why]);
    }
    print(table.to_string().trim_end())?;
    if let Some(next) = list.next {
        say("More", format_args!("there may be more: --after {next}"));
    }
    Ok(())
}

fn stands(summary: &Summary) -> String {
    let why = match (summary.halted, summary.stuck) {
        (true, _) => " (halted)",
        (false, true) => " (stuck)",
        (false, false) => "",
    };
    format!("{}{why}", summary.status)
}

fn shown(view: &View) -> anyhow::Result<String> {
    let View { summary, trace, times_out_at, next_at, state, steps } = view;
    let mut lines = vec![
        ("saga", format!("{} of {}", summary.saga, summary.service)),
        ("id", summary.id.clone()),
        ("status", stands(summary)),
        ("started", summary.started_at.clone()),
    ];
    let more = [
        ("ended", &summary.ended_at),
        ("times out", times_out_at),
        ("next try", next_at),
        ("trace", trace),
        ("reason", &summary.reason),
        ("error", &summary.error),
    ];
    lines.extend(more.into_iter().filter_map(|(name, value)| Some((name, visible(value.as_ref()?)))));
    let head: String = lines.iter().map(|(name, value)| format!("{name:<10} {value}\n")).collect();
    let mut table = Table::new(["STEP", "STATUS", "TRIES", "UNDONE", "BEGUN", "ENDED", "ERROR OR WAIT"]);
    for step in steps {
        let StepView { step: name, status, waits_for, attempts, compensations, error, .. } = step;
        let ended = step.compensated_at.as_ref().or(step.ended_at.as_ref());
        let dash = |value: Option<&String>| value.cloned().unwrap_or_else(|| "-".into());
        let waits = waits_for.as_ref().map(|what| format!("waits for {what}"));
        table.row([
            name.clone(),
            status.clone(),
            attempts.to_string(),
            compensations.to_string(),
            dash(step.begun_at.as_ref()),
            dash(ended),
            dash(error.as_ref().map(|error| visible(error)).or(waits).as_ref()),
        ]);
    }
    Ok(format!("{head}\n{}\n\n{}", table.to_string().trim_end(), serde_json::to_string_pretty(state)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        _args: Args,
    }

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
        for (line, good) in [
            ("list", true),
            ("list --service a --saga b --status running --after 3 --limit 10 --json", true),
            ("list --status stuck", false),
            ("list --after 3", true),
            ("show 17", true),
            ("show", false),
            ("start a b", false),
            ("start a b --id 1 --input {}", true),
            ("retry 17 --service a --saga b --json", true),
            ("compensate 17 --skip pay", true),
            ("retry 17 --skip pay", false),
        ] {
            let words = ["saga"].into_iter().chain(line.split_ascii_whitespace());
            assert_eq!(Cli::try_parse_from(words).is_ok(), good, "{line}");
        }
    }
}
