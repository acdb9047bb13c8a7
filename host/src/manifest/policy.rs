//! `[policy.defaults]` and `[policy.edges."caller -> callee"]`: what guards each call.
//!
//! Merged as they are read: an edge's table starts from the defaults, the defaults from what is built in, so that
//! every policy handed out is whole.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::{
    error::Placed,
    origin::Origin,
    reader::{Document, Table, join_key, quoted},
    values::{LONGEST, SHORTEST, ShowDuration},
};

/// The caller of every call that comes in by HTTP from outside.
pub const GATEWAY: &str = "gateway";
/// The caller of every event delivery.
pub const EVENTS: &str = "events";

/// A way that calls may take: who calls whom.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Edge {
    /// A service, [`GATEWAY`] or [`EVENTS`].
    pub caller: String,
    /// A service, or an origin outside in the form that [`Origin`] displays.
    pub callee: String,
}

/// The policies of all edges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policies {
    /// For edges that have none of their own.
    pub defaults: EdgePolicy,
    /// For the edges that have their own, merged with the defaults.
    pub edges: BTreeMap<Edge, EdgePolicy>,
}

/// What guards the calls of one edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EdgePolicy {
    /// The longest that a call may take, all attempts and waits together.
    pub deadline: Duration,
    /// When and how often a failed call is tried again.
    pub retry: Retry,
    /// Stops calling a callee that keeps failing; `None` if it is switched off.
    pub breaker: Option<Breaker>,
    /// Bounds how much of the caller one callee can hold up; `None` if it is switched off.
    pub bulkhead: Option<Bulkhead>,
}

/// Retries with exponential backoff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Attempts in all, the first included: 1 means no retry.
    pub attempts: u32,
    /// The bound of the wait before the second attempt; doubled for each further one.
    pub backoff: Duration,
    /// What the bound grows to at most; never less than `backoff`.
    pub max_backoff: Duration,
}

/// A circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// Failures in a row that open it.
    pub failures: u32,
    /// How long it stays open.
    pub open: Duration,
    /// Calls that it lets through at a time while half-open; at least 1.
    pub half_open: u32,
}

/// A bound on calls at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bulkhead {
    /// Calls under way at a time; at least 1.
    pub concurrent: u32,
    /// Calls that may wait for room; 0 means that none waits.
    pub queue: u32,
}

const BREAKER: Breaker = Breaker { failures: 5, open: Duration::from_secs(60), half_open: 1 };
const BULKHEAD: Bulkhead = Bulkhead { concurrent: 256, queue: 1024 };
const BUILT_IN: EdgePolicy = EdgePolicy {
    deadline: Duration::from_secs(5),
    retry: Retry { attempts: 3, backoff: Duration::from_millis(50), max_backoff: Duration::from_secs(1) },
    breaker: Some(BREAKER),
    bulkhead: Some(BULKHEAD),
};

// === impl Edge ===

impl Edge {
    /// An edge by the names at its ends.
    pub fn new(caller: impl Into<String>, callee: impl Into<String>) -> Self {
        Self { caller: caller.into(), callee: callee.into() }
    }
}

impl fmt::Display for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.caller, self.callee)
    }
}

// === impl Policies ===

impl Policies {
    /// Also hands back where each edge was written, for the cross checks.
    pub(super) fn read(mut table: Table<'_>, doc: &Document<'_>) -> (Self, Vec<Placed<Edge>>) {
        let defaults = EdgePolicy::read(table.table("defaults"), BUILT_IN, doc);
        let mut edges = BTreeMap::new();
        let mut places: Vec<Placed<Edge>> = Vec::new();
        for (name, value) in table.table("edges").entries() {
            let Some((caller, callee)) = name.split_once("->") else {
                doc.report_at(&name, format!("expected an edge such as \"order -> user\", found {}", quoted(&name)));
                continue;
            };
            // One spelling for each origin, so that it is found again whatever the case or a default port.
            let callee = callee.trim();
            let callee = Origin::parse(callee).map_or_else(|| callee.to_owned(), |origin| origin.to_string());
            let edge = Edge::new(caller.trim(), callee);
            let Some(policy) = value.table() else { continue };
            let policy = EdgePolicy::read(policy, defaults, doc);
            if let Some(first) = places.iter().find(|place| place.value == edge) {
                let line = first.place.map_or(0, |place| place.line);
                doc.report_at(
                    &name,
                    format!("the edge {} has a policy already, on line {line}", quoted(&edge.to_string())),
                );
                continue;
            }
            places.push(name.with(edge.clone()));
            edges.insert(edge, policy);
        }
        table.finish();
        (Self { defaults, edges }, places)
    }
}

// === impl EdgePolicy ===

impl EdgePolicy {
    fn read(mut table: Table<'_>, base: Self, doc: &Document<'_>) -> Self {
        let deadline = table.or("deadline", base.deadline, |v| v.duration(SHORTEST..=LONGEST));
        let retry = Retry::read(table.table("retry"), base.retry, doc);
        let breaker =
            switchable(&mut table, "breaker", base.breaker, |t| Breaker::read(t, base.breaker.unwrap_or(BREAKER)));
        let bulkhead =
            switchable(&mut table, "bulkhead", base.bulkhead, |t| Bulkhead::read(t, base.bulkhead.unwrap_or(BULKHEAD)));
        table.finish();
        Self { deadline, retry, breaker, bulkhead }
    }
}

/// A table, or `false` to switch it off.
fn switchable<'a, T>(
    table: &mut Table<'a>,
    key: &'static str,
    base: Option<T>,
    read: impl FnOnce(Table<'a>) -> T,
) -> Option<T> {
    let Some(value) = table.value(key) else { return base };
    match value.as_boolean() {
        Some(false) => None,
        Some(true) => value.expected("a table, or `false` to switch it off"),
        None => value.table().map(read),
    }
}

// === impl Retry ===

impl Retry {
    fn read(mut table: Table<'_>, base: Self, doc: &Document<'_>) -> Self {
        let attempts = table.or("attempts", base.attempts, |v| v.integer(1..=10));
        let backoff = table.optional("backoff", |v| Some(v.placed(v.duration(SHORTEST..=LONGEST)?)));
        let max_backoff = table.optional("max-backoff", |v| Some(v.placed(v.duration(SHORTEST..=LONGEST)?)));
        let least = backoff.as_ref().map_or(base.backoff, |placed| placed.value);
        let most = max_backoff.as_ref().map_or(base.max_backoff, |placed| placed.value);
        // Reported only where one of the two is written: an edge that inherits both is not where the mistake is.
        if let Some(written) = backoff.or(max_backoff)
            && least > most
        {
            let key = join_key(table.key(), "max-backoff");
            let (least, most) = (ShowDuration(least), ShowDuration(most));
            doc.report_at(&written, format!("backoff is {least}, which is more than {key}, {most}"));
        }
        table.finish();
        Self { attempts, backoff: least, max_backoff: most }
    }
}

// === impl Breaker ===

impl Breaker {
    fn read(mut table: Table<'_>, base: Self) -> Self {
        let breaker = Self {
            failures: table.or("failures", base.failures, |v| v.integer(1..=1_000_000)),
            open: table.or("open", base.open, |v| v.duration(SHORTEST..=LONGEST)),
            half_open: table.or("half-open", base.half_open, |v| v.integer(1..=10_000)),
        };
        table.finish();
        breaker
    }
}

// === impl Bulkhead ===

impl Bulkhead {
    fn read(mut table: Table<'_>, base: Self) -> Self {
        let bulkhead = Self {
            concurrent: table.or("concurrent", base.concurrent, |v| v.integer(1..=1_000_000)),
            queue: table.or("queue", base.queue, |v| v.integer(0..=1_000_000)),
        };
        table.finish();
        bulkhead
    }
}
