//! `wharf status`.

use super::{client, print, rollout, runtime};
use bytes::Bytes;
use std::{fmt, time::Duration};
use wharf::{
    app::{SagasStatus, Status},
    gateway::RouteLimitSnapshot,
    manifest::Manifest,
    outbox::OutboxSnapshot,
    policy::{BreakerSnapshot, BreakerState, EndpointSnapshot, WindowSums},
};

#[derive(clap::Args)]
pub struct Args {
    /// Print everything that there is as JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(manifest: &Manifest, args: &Args) -> anyhow::Result<()> {
    let status: Status = runtime()?.block_on(client::ask(manifest, "GET", "/v1/status", None, Bytes::new()))?;
    if args.json {
        return print(serde_json::to_string(&status)?);
    }
    let mut services = Table::new(["SERVICE", "REVISION", "HASH", "HTTP", "IN FLIGHT", "INSTANCES", "QUEUED"]);
    for service in &status.services {
        let (number, hash) = match &service.revision {
            Some(revision) => (revision.number.to_string(), revision.hash.chars().take(12).collect()),
            None => ("-".into(), "-".into()),
        };
        services.row([
            service.name.clone(),
            number,
            hash,
            service.http.clone().unwrap_or_else(|| "-".into()),
            service.instances.in_flight.to_string(),
            (service.instances.at_rest + service.instances.under_way).to_string(),
            service.instances.queued.to_string(),
        ]);
    }
    let under_way = status.services.iter().filter_map(|service| {
        let rollout = service.rollout.as_ref().filter(|rollout| rollout.end.is_none())?;
        let (number, stage) = (rollout.revision.number, rollout::stage(rollout));
        Some(format!("ROLLOUT UNDER WAY: {}: revision {number}, {stage}\n", service.name))
    });
    let draining = status.services.iter().flat_map(|service| {
        service.draining.iter().map(|it| {
            format!("DRAINING: {}: revision {}, {} calls in flight\n", service.name, it.revision, it.in_flight)
        })
    });
    let under_way: String = under_way.chain(draining).collect();

    let mut endpoints = Table::new(["EXTERNAL SERVICE", "ENDPOINT", "STANDING", "CALLS", "FAILURES", "IN FLIGHT"]);
    for external in &status.external {
        for endpoint in &external.endpoints {
            endpoints.row([
                external.name.clone(),
                endpoint.endpoint.clone(),
                standing(endpoint),
                endpoint.calls.to_string(),
                endpoint.failures.to_string(),
                endpoint.in_flight.to_string(),
            ]);
        }
        if let Some(problem) = &external.problem {
            endpoints.row([
                external.name.clone(),
                format!("- ({problem})"),
                "-".into(),
                "-".into(),
                "-".into(),
                "-".into(),
            ]);
        }
    }
    // Most applications have none, and need no table of them.
    let endpoints = if status.external.is_empty() { String::new() } else { format!("{endpoints}\n") };

    let mut limits = Table::new(["LIMITED ROUTE", "LIMIT", "KEY", "GRANTED", "REFUSED", "KEYS HELD"]);
    for route in &status.rate_limits {
        limits.row([
            route.route.clone(),
            limit(route),
            route.limit.key.clone(),
            route.limit.granted.to_string(),
            route.limit.refused.to_string(),
            route.limit.keys.map_or_else(dash, |keys| format!("{} of {}", keys.held, keys.most)),
        ]);
    }
    let limits = if status.rate_limits.is_empty() { String::new() } else { format!("{limits}\n") };

    let mut edges = Table::new([
        "EDGE",
        "BREAKER",
        "SINCE",
        "WINDOW",
        "CALLS",
        "FAULTS",
        "RETRIES",
        "BUDGET",
        "REJECTED",
        "FALLBACKS",
        "IN FLIGHT",
    ]);
    for edge in &status.edges {
        let breaker = edge.breaker.as_ref();
        edges.row([
            edge.edge.clone(),
            breaker.map_or_else(|| "off".into(), state),
            breaker.map_or_else(dash, |breaker| since(breaker.state_for_ms)),
            breaker.and_then(|breaker| breaker.window.as_ref()).map_or_else(dash, window),
            edge.calls.to_string(),
            edge.faults.values().sum::<u64>().to_string(),
            edge.retries.to_string(),
            edge.budget.map_or_else(dash, |budget| format!("{} left", budget.left)),
            edge.rejected.to_string(),
            (edge.stale_answers + edge.fixed_answers).to_string(),
            match edge.queued {
                0 => edge.in_flight.to_string(),
                queued => format!("{} + {queued} queued", edge.in_flight),
            },
        ]);
    }
    let injected = status.edges.iter().filter_map(|edge| Some((&edge.edge, edge.inject.as_ref()?, edge.injected)));
    let injected: String = injected
        .map(|(edge, inject, count)| format!("FAULT INJECTION IS ON: {edge}: {inject}; {count} so far\n"))
        .collect();

    let events = &status.events;
    let head = [
        "TOPIC",
        "SUBSCRIBER",
        "DELIVERED",
        "RETRIED",
        "REJECTED",
        "QUEUED",
        "IN FLIGHT",
        "WAITING",
        "LAG",
        "DEAD LETTERS",
    ];
    let mut subscriptions = Table::new(head);
    for subscription in &events.subscriptions {
        subscriptions.row([
            subscription.topic.clone(),
            subscription.service.clone(),
            subscription.delivered.to_string(),
            subscription.retried.to_string(),
            subscription.rejected.to_string(),
            subscription.queued.to_string(),
            subscription.in_flight.to_string(),
            subscription.waiting.to_string(),
            subscription.lag.map_or_else(dash, |lag| lag.to_string()),
            subscription.dead.map_or_else(dash, |dead| dead.to_string()),
        ]);
    }
    let log = events.log.as_ref().map(|log| format!("; {} of {} MiB of log in use", log.bytes >> 20, log.limit >> 20));

    let sagas: String = status.sagas.iter().map(sagas).collect();

    let outboxes: String = status.outboxes.iter().filter(|outbox| outbox.waiting > 0).map(waiting).collect();

    print(format_args!(
        "{} on {}, pid {}, up {} s\n\n{under_way}{injected}{services}\n{endpoints}{limits}{edges}\n\
         events: {} bus, {}; {} published, {} refused{}\n{outboxes}{sagas}\n{subscriptions}",
        status.app,
        status.gateway,
        status.pid,
        status.uptime_seconds,
        events.bus,
        events.connection,
        events.published,
        events.refused,
        log.unwrap_or_default(),
    ))
}

/// The sagas of a service that are under way, and how they stand.
fn sagas(sagas: &SagasStatus) -> String {
    let SagasStatus { service, under_way, counts } = sagas;
    let each: Vec<_> = counts
        .named()
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(word, count)| format!("{count} {word}"))
        .collect();
    let each = if each.is_empty() { String::new() } else { format!(": {}", each.join(", ")) };
    format!("sagas of {service}: {under_way} under way{each}\n")
}

/// What waits in an outbox, and why where that is known.
fn waiting(outbox: &OutboxSnapshot) -> String {
    let OutboxSnapshot { service, waiting, oldest_ms, error, .. } = outbox;
    let oldest = oldest_ms.map_or_else(String::new, |oldest| format!(", the oldest for {}", since(oldest)));
    let error = error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
    format!("outbox of {service}: {waiting} events wait for the bus{oldest}{error}\n")
}

fn dash() -> String {
    "-".into()
}

/// The state of a breaker, and why it is in it where that is not the ordinary one.
fn state(breaker: &BreakerSnapshot) -> String {
    match (breaker.state, &breaker.last_trip) {
        (BreakerState::Closed | BreakerState::Disabled, _) | (_, None) => breaker.state.to_string(),
        (state, Some(reason)) => format!("{state} ({reason})"),
    }
}

/// How long ago the state of a breaker changed.
fn since(ms: u64) -> String {
    match ms / 1000 {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7199 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

fn window(window: &WindowSums) -> String {
    format!("{} calls, {} % failed, {} % slow", window.calls, window.failure_rate(), window.slow_rate())
}

/// How many requests are granted, in the words of the manifest.
fn limit(route: &RouteLimitSnapshot) -> String {
    let limit = &route.limit;
    let per = Duration::from_millis(limit.per_ms);
    match limit.burst == limit.requests {
        true => format!("{} per {per:?}", limit.requests),
        false => format!("{} per {per:?}, {} at once", limit.requests, limit.burst),
    }
}

fn standing(endpoint: &EndpointSnapshot) -> String {
    match &endpoint.reason {
        Some(reason) => format!("{} ({reason})", endpoint.standing),
        None => endpoint.standing.to_string(),
    }
}

/// Columns as wide as what is in them.
pub(super) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

// === impl Table ===

impl<const N: usize> Table<N> {
    pub(super) fn new(head: [&str; N]) -> Self {
        Self { rows: vec![head.map(String::from)] }
    }

    pub(super) fn row(&mut self, row: [String; N]) {
        self.rows.push(row);
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut widths = [0; N];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        for row in &self.rows {
            let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            writeln!(f, "{}", cells.join("  ").trim_end())?;
        }
        Ok(())
    }
}
