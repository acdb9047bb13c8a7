//! `wharf status`.

use super::{client, runtime};
use bytes::Bytes;
use serde_json::Value;
use wharf::manifest::Manifest;

#[derive(clap::Args)]
pub struct Args {
    /// Print everything that there is as JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(manifest: &Manifest, args: &Args) -> anyhow::Result<()> {
    let status: Value = runtime()?.block_on(client::ask(manifest, "GET", "/v1/status", None, Bytes::new()))?;
    if args.json {
        println!("{status}");
        return Ok(());
    }
    let up = status["uptime_seconds"].as_u64().unwrap_or_default();
    println!("{} on {}, pid {}, up {up} s\n", text(&status["app"]), text(&status["gateway"]), status["pid"]);

    let mut services = Table::new(["SERVICE", "REVISION", "HASH", "HTTP", "IN FLIGHT", "INSTANCES", "QUEUED"]);
    for service in list(&status["services"]) {
        let revision = &service["revision"];
        let instances = &service["instances"];
        let all = number(&instances["at_rest"]) + number(&instances["under_way"]);
        services.row([
            text(&service["name"]),
            revision["number"].to_string(),
            text(&revision["hash"]).chars().take(12).collect(),
            text(&service["http"]),
            instances["in_flight"].to_string(),
            all.to_string(),
            instances["queued"].to_string(),
        ]);
    }
    services.print();

    let mut edges = Table::new(["EDGE", "BREAKER", "CALLS", "FAILURES", "RETRIES", "REJECTED", "IN FLIGHT"]);
    for edge in list(&status["edges"]) {
        edges.row([
            text(&edge["edge"]),
            breaker(&edge["breaker"]),
            edge["calls"].to_string(),
            total(&edge["failures"]).to_string(),
            edge["retries"].to_string(),
            total(&edge["rejected"]).to_string(),
            edge["in_flight"].to_string(),
        ]);
    }
    edges.print();

    let events = &status["events"];
    println!(
        "events by {} ({}), {} published, {} refused\n",
        text(&events["bus"]),
        text(&events["connection"]),
        events["published"],
        events["refused"]
    );
    let mut subscriptions = Table::new(["TOPIC", "SUBSCRIBER", "DELIVERED", "RETRIED", "REJECTED", "QUEUED", "IN FLIGHT"]);
    for subscription in list(&events["subscriptions"]) {
        subscriptions.row([
            text(&subscription["topic"]),
            text(&subscription["service"]),
            subscription["delivered"].to_string(),
            subscription["retried"].to_string(),
            subscription["rejected"].to_string(),
            subscription["queued"].to_string(),
            subscription["in_flight"].to_string(),
        ]);
    }
    subscriptions.print();
    Ok(())
}

fn breaker(breaker: &Value) -> String {
    match breaker {
        Value::Null => "off".into(),
        breaker => match &breaker["reason"] {
            Value::Null => text(&breaker["state"]),
            reason => format!("{} ({})", text(&breaker["state"]), text(reason)),
        },
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

/// A count, or the sum of counts by kind.
fn total(value: &Value) -> u64 {
    match value {
        Value::Object(counts) => counts.values().map(number).sum(),
        value => number(value),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Columns as wide as what is in them.
struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

// === impl Table ===

impl<const N: usize> Table<N> {
    fn new(head: [&str; N]) -> Self {
        Self { rows: vec![head.map(String::from)] }
    }

    fn row(&mut self, row: [String; N]) {
        self.rows.push(row);
    }

    fn print(&self) {
        let mut widths = [0; N];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        for row in &self.rows {
            let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            println!("{}", cells.join("  ").trim_end());
        }
        println!();
    }
}
