//! `[policy.defaults]` and `[policy.edges."caller -> callee"]`: what guards each call.
//!
//! Merged as they are read: an edge's table starts from the defaults, the defaults from what is built in, so that
//! every policy handed out is whole.
//!
//! What is handed out are the values of [`crate::policy`] themselves. Their constructors say what can't work; here it is
//! given its place.

use std::{collections::BTreeMap, fmt, ops::RangeInclusive, time::Duration};

use super::{
    error::Placed,
    origin::Origin,
    reader::{Document, Table, Value, did_you_mean, quoted},
    values::{LONGEST, SHORTEST},
};
use crate::policy::{
    BreakerMode, BreakerParams, BreakerPolicy, BudgetPolicy, BulkheadPolicy, FailureParams, FailurePolicy,
    FallbackParams, FallbackPolicy, FaultKind, FixedAnswer, FixedResult, FunctionList, InjectPolicy, InvalidPolicy,
    Policy, PolicyParams, RetryParams, RetryPolicy, StaleParams, StatusSet, WaveText, WindowSize, bounds,
};

/// The caller of every call that comes in by HTTP from outside.
pub const GATEWAY: &str = "gateway";
/// The caller of every event delivery.
pub const EVENTS: &str = "events";
/// The callee of everything that is sent by mail.
pub const MAIL: &str = "mail";
/// The caller of every step of a saga.
pub const SAGAS: &str = "sagas";

/// A way that calls may take: who calls whom.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Edge {
    /// A service, [`GATEWAY`], [`EVENTS`] or [`SAGAS`].
    pub caller: String,
    /// A service, [`MAIL`], or an origin outside in the form that [`Origin`] displays.
    pub callee: String,
}

/// The policies of all edges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policies {
    /// For edges that have none of their own.
    pub defaults: Policy,
    /// For the edges that have their own, merged with the defaults.
    pub edges: BTreeMap<Edge, Policy>,
    /// Where edges name functions, the functions as they are named there. What they have from the defaults is not among
    /// them: it is said of all services, whose functions are others.
    pub functions: BTreeMap<Edge, Vec<(FunctionList, Placed<String>)>>,
}

/// Where one edge names functions; `None` for the defaults, which are of no callee.
type Written<'a> = Option<&'a mut Vec<(FunctionList, Placed<String>)>>;

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
        let defaults = read_policy(table.table("defaults"), &Policy::default(), None);
        let (mut edges, mut functions) = (BTreeMap::new(), BTreeMap::new());
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
            let mut written = Vec::new();
            let policy = read_policy(policy, &defaults, Some(&mut written));
            if let Some(first) = places.iter().find(|place| place.value == edge) {
                let line = first.place.map_or(0, |place| place.line);
                doc.report_at(
                    &name,
                    format!("the edge {} has a policy already, on line {line}", quoted(&edge.to_string())),
                );
                continue;
            }
            places.push(name.with(edge.clone()));
            if !written.is_empty() {
                functions.insert(edge.clone(), written);
            }
            edges.insert(edge, policy);
        }
        table.finish();
        (Self { defaults, edges, functions }, places)
    }
}

fn read_policy(mut table: Table<'_>, base: &Policy, mut written: Written<'_>) -> Policy {
    let base_params = base.params();
    let params = PolicyParams {
        deadline: table.or("deadline", base_params.deadline, |v| v.duration(SHORTEST..=LONGEST)),
        failure: read_failure(table.table("failure"), &base_params.failure),
        retry: read_retry(table.table("retry"), &base_params.retry, written.as_deref_mut()),
        breaker: switchable(&mut table, "breaker", base_params.breaker, |t| {
            read_breaker(t, base_params.breaker.unwrap_or_default())
        }),
        bulkhead: switchable(&mut table, "bulkhead", base_params.bulkhead.clone(), |t| {
            read_bulkhead(t, base_params.bulkhead.clone().unwrap_or_default())
        }),
        fallback: switchable(&mut table, "fallback", Some(base_params.fallback.clone()), |t| {
            read_fallback(t, &base_params.fallback, written)
        })
        .unwrap_or_default(),
        inject: switchable(&mut table, "inject", base_params.inject.map(Some), |t| read_inject(t, base_params.inject))
            .flatten(),
    };
    let policy = or_refused(&table, Policy::try_new(params), || base.clone());
    table.finish();
    policy
}

/// What a constructor made, or what stands in for it, the refusal being reported at its field.
pub(super) fn or_refused<T>(table: &Table<'_>, made: Result<T, InvalidPolicy>, base: impl FnOnce() -> T) -> T {
    made.unwrap_or_else(|refused| {
        refuse(table, &refused, refused.expected());
        base()
    })
}

fn refuse(table: &Table<'_>, refused: &InvalidPolicy, expected: &str) {
    // What could not be read might have been what is missing.
    if !table.has_errors() {
        table.report_field(refused.field(), format!("expected {expected}, found {}", refused.found()));
    }
}

/// A table, or `false` to switch it off.
pub(super) fn switchable<'a, T>(
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

/// A number within its bounds, or `false` for none.
fn number_or_off(
    table: &mut Table<'_>,
    key: &'static str,
    base: Option<u32>,
    bounds: RangeInclusive<u32>,
) -> Option<u32> {
    let Some(value) = table.value(key) else { return base };
    if value.as_boolean() == Some(false) { None } else { value.integer(bounds).or(base) }
}

fn duration(value: &Value<'_>) -> Option<Duration> {
    value.duration(SHORTEST..=LONGEST)
}

/// A duration, or `false` for none.
fn duration_or_off(table: &mut Table<'_>, key: &'static str, base: Option<Duration>) -> Option<Duration> {
    let Some(value) = table.value(key) else { return base };
    if value.as_boolean() == Some(false) { None } else { duration(&value).or(base) }
}

fn statuses(value: &Value<'_>) -> Option<StatusSet> {
    let mut patterns = Vec::new();
    for item in value.items("an array of statuses such as \"503\" and classes such as \"5xx\"")? {
        let pattern = item.as_str().filter(|pattern| StatusSet::try_new([*pattern]).is_ok());
        patterns.push(pattern.or_else(|| item.expected("a status such as \"503\" or a class such as \"5xx\""))?);
    }
    StatusSet::try_new(patterns).ok()
}

fn fault(value: &Value<'_>) -> Option<FaultKind> {
    let name = value.str("a kind of fault such as \"trapped\"")?;
    FaultKind::parse(name).or_else(|| {
        let meant = did_you_mean(name, FaultKind::ALL.iter().map(|kind| kind.as_str()));
        value.report(format!("there is no fault {}{meant}", quoted(name)))
    })
}

/// A list of functions, each of which is written down with its place.
fn functions(value: &Value<'_>, list: FunctionList, written: Written<'_>) -> Option<Vec<String>> {
    let names = value.strings("function name")?;
    if let Some(written) = written {
        written.extend(names.iter().map(|name| (list, name.clone())));
    }
    Some(names.into_iter().map(|name| name.value).collect())
}

fn read_failure(mut table: Table<'_>, base: &FailurePolicy) -> FailurePolicy {
    let from = base.params();
    let params = FailureParams {
        faults: table
            .or("faults", from.faults.clone(), |v| v.items("an array of kinds of fault")?.iter().map(fault).collect()),
        status: table.or("status", from.status, statuses),
        slow: duration_or_off(&mut table, "slow", from.slow),
    };
    let policy = or_refused(&table, FailurePolicy::try_new(params), || base.clone());
    table.finish();
    policy
}

fn read_retry(mut table: Table<'_>, base: &RetryPolicy, written: Written<'_>) -> RetryPolicy {
    let from = base.params();
    let params = RetryParams {
        attempts: table.or("attempts", from.attempts, |v| v.integer(bounds::ATTEMPTS)),
        backoff: table.or("backoff", from.backoff, duration),
        max_backoff: table.or("max-backoff", from.max_backoff, duration),
        status: table.or("status", from.status, statuses),
        budget: switchable(&mut table, "budget", from.budget, |t| read_budget(t, from.budget.unwrap_or_default())),
        idempotent: table
            .or("idempotent", from.idempotent.clone(), |v| functions(v, FunctionList::Idempotent, written)),
    };
    let policy = or_refused(&table, RetryPolicy::try_new(params), || base.clone());
    table.finish();
    policy
}

fn read_budget(mut table: Table<'_>, base: BudgetPolicy) -> BudgetPolicy {
    let percent = table.or("percent", base.percent(), |v| v.integer(bounds::BUDGET_PERCENT));
    let min_per_second =
        table.or("min-per-second", base.min_per_second(), |v| v.integer(bounds::BUDGET_MIN_PER_SECOND));
    let policy = or_refused(&table, BudgetPolicy::try_new(percent, min_per_second), || base);
    table.finish();
    policy
}

fn read_breaker(mut table: Table<'_>, base: BreakerPolicy) -> BreakerPolicy {
    let policy = read_breaker_keys(&mut table, base);
    table.finish();
    policy
}

/// The breaker of a table that has other keys too.
pub(super) fn read_breaker_keys(table: &mut Table<'_>, base: BreakerPolicy) -> BreakerPolicy {
    let from = *base.params();
    let params = BreakerParams {
        mode: table.or("mode", from.mode, |v| match v.str("a mode")? {
            "enforce" => Some(BreakerMode::Enforce),
            "metrics-only" => Some(BreakerMode::MetricsOnly),
            _ => v.expected("\"enforce\" or \"metrics-only\""),
        }),
        failures: number_or_off(table, "failures", from.failures, bounds::FAILURES),
        failure_rate: number_or_off(table, "failure-rate", from.failure_rate, bounds::PERCENT),
        slow_rate: number_or_off(table, "slow-rate", from.slow_rate, bounds::PERCENT),
        window: table.or("window", from.window, |v| match v.as_str() {
            Some(_) => duration(v).map(WindowSize::Time),
            None if v.is_integer() => v.integer(bounds::WINDOW_CALLS).map(WindowSize::Calls),
            None => v.expected("a number of calls such as 100, or a duration such as \"10s\""),
        }),
        minimum: table.optional("minimum", |v| v.integer(bounds::MINIMUM)).or(from.minimum),
        open: table.or("open", from.open, duration),
        max_open: duration_or_off(table, "max-open", from.max_open),
        half_open: table.or("half-open", from.half_open, |v| v.integer(bounds::HALF_OPEN)),
    };
    BreakerPolicy::try_new(params).unwrap_or_else(|refused| {
        let own = format!("`{}.", table.name());
        refuse(table, &refused, &refused.expected().replace("`breaker.", &own));
        base
    })
}

fn read_bulkhead(mut table: Table<'_>, base: BulkheadPolicy) -> BulkheadPolicy {
    let concurrent = table.or("concurrent", base.concurrent(), |v| v.integer(bounds::CONCURRENT));
    let queue = table.or("queue", base.queue(), |v| v.integer(bounds::QUEUE));
    let policy = or_refused(&table, BulkheadPolicy::try_new(concurrent, queue), || base);
    table.finish();
    policy
}

fn read_fallback(mut table: Table<'_>, base: &FallbackPolicy, mut written: Written<'_>) -> FallbackPolicy {
    let from = base.params();
    let params = FallbackParams {
        stale: switchable(&mut table, "stale", from.stale.clone(), |t| {
            read_stale(t, from.stale.clone().unwrap_or_default(), written.as_deref_mut())
        }),
        fixed: switchable(&mut table, "fixed", from.fixed.clone(), |t| {
            read_fixed(t, from.fixed.clone().unwrap_or_default())
        }),
        fixed_results: table.optional("fixed-results", |v| read_fixed_results(v, written)).unwrap_or_default(),
    };
    let policy = or_refused(&table, FallbackPolicy::try_new(params), || base.clone());
    table.finish();
    policy
}

fn read_stale(mut table: Table<'_>, base: StaleParams, written: Written<'_>) -> StaleParams {
    let params = StaleParams {
        max_age: table.or("max-age", base.max_age, duration),
        entries: table.or("entries", base.entries, |v| v.integer(bounds::STALE_ENTRIES)),
        size: table.or("size", base.size, |v| v.size(bounds::STALE_SIZE)),
        functions: table.or("functions", base.functions, |v| functions(v, FunctionList::Remembered, written)),
    };
    table.finish();
    params
}

fn read_fixed(mut table: Table<'_>, base: FixedAnswer) -> FixedAnswer {
    let answer = FixedAnswer {
        status: table.or("status", base.status, |v| u16::try_from(v.integer(bounds::ANSWER_STATUS)?).ok()),
        content_type: table.or("content-type", base.content_type, Value::string),
        body: table.or("body", base.body, Value::string),
    };
    table.finish();
    answer
}

fn read_fixed_results(value: &Value<'_>, written: Written<'_>) -> Option<Vec<FixedResult>> {
    let Some(written) = written else {
        let example = "[policy.edges.\"order -> user\".fallback.fixed-results]";
        return value.report(format!("each service has functions of its own; expected this at an edge, as {example}"));
    };
    let mut results = Vec::new();
    for (function, value) in value.table()?.entries() {
        let Some(text) = value.str("a string that holds a value in WAVE, such as 'some({id: \"0\"})'") else {
            continue;
        };
        match WaveText::try_new(text) {
            Ok(value) => results.push(FixedResult { function: function.value.clone(), value }),
            Err(error) => value.report(error.to_string()).unwrap_or_default(),
        }
        written.push((FunctionList::FixedResults, value.placed(function.value)));
    }
    Some(results)
}

fn read_inject(mut table: Table<'_>, base: Option<InjectPolicy>) -> Option<InjectPolicy> {
    let percent = table.or("percent", base.map_or(100, |base| base.percent()), |v| v.integer(bounds::PERCENT));
    let delay = duration_or_off(&mut table, "delay", base.and_then(|base| base.delay()));
    let fault = table.optional("fault", fault).or(base.and_then(|base| base.fault()));
    let policy = or_refused(&table, InjectPolicy::try_new(percent, delay, fault).map(Some), || base);
    table.finish();
    policy
}
