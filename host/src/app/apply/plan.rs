//! What bringing a manifest about comes to, in lines for people.

use crate::{
    gateway::route_name,
    manifest::{self, Addresses, Manifest, Methods, Placed, SAGAS},
    policy::{BreakerPolicy, Policy},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Debug, Display},
    time::Duration,
};

/// What is to be done, for one state of the system and no other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What it is known by.
    pub id: String,
    /// What changes, in the order of the manifest's sections.
    pub changes: Vec<Planned>,
}

/// One thing that changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// Whether it comes, changes or goes.
    pub kind: Kind,
    /// What it is: `services.order`, `route GET /api/orders`, `policy order -> user`.
    pub what: String,
    /// What of it, each in words.
    #[serde(default)]
    pub details: Vec<String>,
}

/// What becomes of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It is new.
    New,
    /// It is there and becomes another.
    Changed,
    /// It goes.
    Removed,
}

/// What changes though the manifest says the same.
#[derive(Debug, Default)]
pub(super) struct Aside {
    /// The components that are others: the hash of the one that runs, if one does, and of the new one.
    pub components: BTreeMap<String, (Option<String>, String)>,
    /// The services whose secrets have other values.
    pub secrets: BTreeSet<String>,
    /// The services whose components have sagas.
    pub sagas: BTreeSet<String>,
    /// The services outside whose authorities' file has other certificates.
    pub certificates: BTreeSet<String>,
    /// Whether the file of the gateway's document says something else.
    pub document: bool,
}

/// What differs of one thing, one after the other.
#[derive(Default)]
struct Details(Vec<String>);

// === impl Planned ===

impl Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, what, details } = self;
        match kind {
            Kind::New => write!(f, "+ {what} (new)"),
            Kind::Changed => write!(f, "~ {what}"),
            Kind::Removed => write!(f, "- {what}"),
        }?;
        if details.is_empty() { Ok(()) } else { write!(f, ": {}", details.join(", ")) }
    }
}

impl Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.changes.iter().try_for_each(|change| writeln!(f, "{change}"))
    }
}

// === impl Details ===

impl Details {
    fn value<T: PartialEq + ?Sized, D: Display>(&mut self, name: &str, was: &T, is: &T, shown: impl Fn(&T) -> D) {
        if was != is {
            self.0.push(format!("{name} {} -> {}", shown(was), shown(is)));
        }
    }

    fn option<T: PartialEq, D: Display>(
        &mut self,
        name: &str,
        was: Option<&T>,
        is: Option<&T>,
        shown: impl Fn(&T) -> D,
    ) {
        let shown = |value: &Option<&T>| value.map_or_else(|| "none".to_owned(), |value| shown(value).to_string());
        self.value(name, &was, &is, shown);
    }

    fn list<T: PartialEq>(&mut self, name: &str, was: &[T], is: &[T], shown: impl Fn(&T) -> String) {
        let came = is.iter().filter(|it| !was.contains(it)).map(|it| format!("+{}", shown(it)));
        let went = was.iter().filter(|it| !is.contains(it)).map(|it| format!("-{}", shown(it)));
        let all: Vec<_> = came.chain(went).collect();
        if !all.is_empty() {
            self.0.push(format!("{name} {}", all.join(" ")));
        } else if was != is {
            self.0.push(format!("{name} in another order"));
        }
    }

    /// Something that has no short form.
    fn other<T: PartialEq + ?Sized>(&mut self, name: &str, was: &T, is: &T) {
        if was != is {
            self.0.push(format!("other {name}"));
        }
    }

    fn changed(self, what: String) -> Option<Planned> {
        (!self.0.is_empty()).then_some(Planned { kind: Kind::Changed, what, details: self.0 })
    }
}

fn duration(value: &Duration) -> String {
    format!("{value:?}")
}

fn debug(value: &impl Debug) -> String {
    format!("{value:?}")
}

fn placed(value: &Placed<impl Display>) -> String {
    value.value.to_string()
}

fn bytes(value: &u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let unit = units.into_iter().find(|(unit, _)| *value >= *unit && value.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{value} B"), |(unit, name)| format!("{} {name}", value / unit))
}

fn short(hash: &str) -> String {
    hash.chars().take(12).collect()
}

/// Everything that differs.
pub(super) fn changes(old: &Manifest, new: &Manifest, aside: &Aside) -> Vec<Planned> {
    let mut all = services(old, new, aside);
    all.extend(outside(old, new, aside));
    all.extend(both("topics", &old.topics, &new.topics, topic));
    all.extend(gateway(&old.gateway, &new.gateway, aside).changed("gateway".into()));
    let mut events = Details::default();
    events.value("keep.age", &old.retention.age, &new.retention.age, duration);
    events.value("keep.size", &old.retention.size, &new.retention.size, bytes);
    events.value("limit", &old.retention.limit, &new.retention.limit, bytes);
    all.extend(events.changed("events".into()));
    let mut mail = Details::default();
    mail.value("to", &old.mail.to_string(), &new.mail.to_string(), String::clone);
    if mail.0.is_empty() {
        mail.other("settings of the server", &old.mail, &new.mail);
    }
    all.extend(mail.changed("mail".into()));
    let routes = |manifest: &Manifest| {
        let routes = manifest
            .gateway
            .routes
            .iter()
            .map(|it| (route_name(it.methods.listed(), &it.path.to_string()), it.clone()));
        routes.collect::<BTreeMap<_, _>>()
    };
    all.extend(named("route ", &routes(old), &routes(new), route));
    let aggregates = |manifest: &Manifest| {
        let aggregates = manifest.gateway.aggregates.iter().map(|it| (it.path.to_string(), it.clone()));
        aggregates.collect::<BTreeMap<_, _>>()
    };
    all.extend(named("aggregate ", &aggregates(old), &aggregates(new), aggregate));
    let edges = old.edges();
    // Any service with a database could have sagas, and few do.
    let is_used = |ends: &&manifest::Edge| ends.caller != SAGAS || aside.sagas.contains(&ends.callee);
    for ends in new.edges().intersection(&edges).filter(is_used) {
        let policy = |manifest: &Manifest| manifest.edge_policy(&ends.caller, &ends.callee).clone();
        all.extend(policy_details(&policy(old), &policy(new)).changed(format!("policy {ends}")));
    }
    all
}

/// What came, changed and went of things with names, in the order of these.
fn named<T>(
    before: &str,
    old: &BTreeMap<String, T>,
    new: &BTreeMap<String, T>,
    differ: impl Fn(&T, &T) -> Details,
) -> Vec<Planned> {
    let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let planned = |name: &String| {
        let what = format!("{before}{name}");
        match (old.get(name), new.get(name)) {
            (Some(was), Some(is)) => differ(was, is).changed(what),
            (None, Some(_)) => Some(Planned { kind: Kind::New, what, details: Vec::new() }),
            (Some(_), None) => Some(Planned { kind: Kind::Removed, what, details: Vec::new() }),
            (None, None) => None,
        }
    };
    names.into_iter().filter_map(planned).collect()
}

fn both<T>(
    section: &str,
    old: &BTreeMap<String, T>,
    new: &BTreeMap<String, T>,
    differ: impl Fn(&T, &T) -> Details,
) -> Vec<Planned> {
    named(&format!("{section}."), old, new, differ)
}

fn services(old: &Manifest, new: &Manifest, aside: &Aside) -> Vec<Planned> {
    both("services", &old.services, &new.services, |was, is| {
        let mut details = Details::default();
        let name = &is.name.value;
        let at_once = if it_has_stages(is) { " (at once, without its stages)" } else { "" };
        if let Some((was, is)) = aside.components.get(name) {
            let was = was.as_deref().map_or_else(|| "none".to_owned(), short);
            details.0.push(format!("component {was} -> {}{at_once}", short(is)));
        }
        service(&mut details, was, is);
        if aside.secrets.contains(name) {
            details.0.push("secrets have other values".into());
        }
        for callee in is.calls.iter().filter(|callee| was.calls.contains(callee)) {
            if old.services.contains_key(&callee.value) != new.services.contains_key(&callee.value) {
                details.0.push(format!("calls {} in another place", callee.value));
            }
        }
        details
    })
}

fn it_has_stages(service: &manifest::Service) -> bool {
    !service.rollout.params().stages.is_empty()
}

fn service(details: &mut Details, was: &manifest::Service, is: &manifest::Service) {
    details.value("database", &was.database.is_some(), &is.database.is_some(), bool::to_string);
    details.list("buckets", &was.buckets, &is.buckets, placed);
    details.list("signed-by", &was.signed_by, &is.signed_by, |key| key.value.to_string());
    details.other("rollout", &was.rollout, &is.rollout);
    details.list("calls", &was.calls, &is.calls, placed);
    details.list("outbound", &was.outbound, &is.outbound, placed);
    details.option("mail.from", was.mail.as_ref(), is.mail.as_ref(), placed);
    details.list("publishes", &was.publishes, &is.publishes, placed);
    let topics = |service: &manifest::Service| service.subscribes.iter().map(|it| it.topic.clone()).collect::<Vec<_>>();
    details.list("subscribes", &topics(was), &topics(is), placed);
    for it in &is.subscribes {
        if let Some(before) = was.subscribes.iter().find(|was| was.topic == it.topic) {
            let (was, is, topic) = (&before.policy, &it.policy, &it.topic.value);
            let key = |key: &str| format!("subscribes.{topic}.{key}");
            details.value(&key("concurrency"), &was.concurrency, &is.concurrency, usize::to_string);
            details.value(&key("in-flight"), &was.capacity, &is.capacity, usize::to_string);
            details.value(&key("attempts"), &was.max_attempts, &is.max_attempts, u32::to_string);
            details.value(&key("backoff"), &was.backoff.first, &is.backoff.first, duration);
            details.value(&key("max-backoff"), &was.backoff.max, &is.backoff.max, duration);
            details.value(&key("order"), &was.order, &is.order, |it| debug(it).to_lowercase());
            details.value(&key("deduplicate"), &was.deduplicate, &is.deduplicate, bool::to_string);
        }
    }
    details.list("awaits", &was.awaits, &is.awaits, placed);
    sagas(details, &was.sagas, &is.sagas);
    let keys: BTreeSet<_> = was.config.keys().chain(is.config.keys()).collect();
    for key in keys {
        let name = format!("config.{key}");
        details.option(&name, was.config.get(key), is.config.get(key), |value| format!("{value:?}"));
    }
    let (before, after) = (&was.secrets.named, &is.secrets.named);
    let keys: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    for key in keys {
        details.other(&format!("secrets.{key}"), &before.get(key), &after.get(key));
    }
    details.list("secrets", &was.secrets.folders, &is.secrets.folders, placed);
    details.value("instances.max", &was.instances.max, &is.instances.max, usize::to_string);
    details.value("instances.concurrency", &was.instances.concurrency, &is.instances.concurrency, usize::to_string);
    details.value("instances.reuse", &was.instances.reuse, &is.instances.reuse, u64::to_string);
    details.value("instances.queue", &was.instances.queue, &is.instances.queue, usize::to_string);
    details.value("limits.memory", &was.limits.memory, &is.limits.memory, bytes);
    details.value("limits.tables", &was.limits.tables, &is.limits.tables, usize::to_string);
    details.value("limits.cpu", &was.limits.cpu, &is.limits.cpu, duration);
}

fn sagas(details: &mut Details, was: &manifest::Sagas, is: &manifest::Sagas) {
    // NB: all fields by name, so that none is left out.
    let manifest::Sagas { attempts, backoff, max_backoff, concurrency, max, timeout, keep } = is;
    details.value("sagas.attempts", &was.attempts, attempts, u32::to_string);
    details.value("sagas.backoff", &was.backoff, backoff, duration);
    details.value("sagas.max-backoff", &was.max_backoff, max_backoff, duration);
    details.value("sagas.concurrency", &was.concurrency, concurrency, usize::to_string);
    details.value("sagas.max", &was.max, max, usize::to_string);
    details.value("sagas.timeout", &was.timeout, timeout, duration);
    details.value("sagas.keep", &was.keep, keep, duration);
}

fn outside(old: &Manifest, new: &Manifest, aside: &Aside) -> Vec<Planned> {
    let mut all = both("services", &old.external, &new.external, |was, is| {
        let mut details = Details::default();
        match (&was.addresses, &is.addresses) {
            (Addresses::List(was), Addresses::List(is)) => details.list("endpoints", was, is, placed),
            (was, is) => details.other("addresses", was, is),
        }
        details.value("balance", &was.balance.balance, &is.balance.balance, ToString::to_string);
        details.other("outlier", &was.balance.outlier, &is.balance.outlier);
        details.other("health", &(&was.balance.health, &was.probe), &(&is.balance.health, &is.probe));
        details.other("ca", &was.ca, &is.ca);
        if aside.certificates.contains(&is.name.value) {
            details.0.push("other certificates in the file of `ca`".into());
        }
        details
    });
    for planned in all.iter_mut().filter(|planned| planned.kind != Kind::Changed) {
        planned.details.push("outside".into());
    }
    all
}

fn gateway(was: &manifest::Gateway, is: &manifest::Gateway, aside: &Aside) -> Details {
    let mut details = Details::default();
    details.value("max-header-bytes", &was.max_header_bytes, &is.max_header_bytes, bytes);
    details.value("max-body-bytes", &was.max_body_bytes, &is.max_body_bytes, bytes);
    details.value("header-timeout", &was.header_timeout, &is.header_timeout, duration);
    details.value("body-timeout", &was.body_timeout, &is.body_timeout, duration);
    details.value("idle-timeout", &was.idle_timeout, &is.idle_timeout, duration);
    details.value("shutdown-grace", &was.shutdown_grace, &is.shutdown_grace, duration);
    let document = |it: &manifest::ApiDocument| format!("{} at {}", it.file.display(), it.path.value);
    details.option("document", was.document.as_ref(), is.document.as_ref(), document);
    if aside.document {
        details.0.push("the document says something else".into());
    }
    details
}

fn topic(was: &manifest::Topic, is: &manifest::Topic) -> Details {
    let mut details = Details::default();
    details.other("description", &was.description, &is.description);
    details.other("schedule", &was.schedule, &is.schedule);
    details
}

fn route(was: &manifest::Route, is: &manifest::Route) -> Details {
    let mut details = Details::default();
    details.value("service", &was.service.value, &is.service.value, String::clone);
    details.option("strip-prefix", was.strip_prefix.as_ref(), is.strip_prefix.as_ref(), String::clone);
    details.value("max-body-bytes", &was.max_body_bytes, &is.max_body_bytes, bytes);
    details.option("deadline", was.deadline.as_ref(), is.deadline.as_ref(), duration);
    details.other("rate-limit", &was.rate_limit, &is.rate_limit);
    details.value("idempotent", &was.idempotent, &is.idempotent, bool::to_string);
    // Which methods it takes is part of its name, but not whether they are all.
    let all = |methods: &Methods| matches!(methods, Methods::All);
    details.other("methods", &all(&was.methods), &all(&is.methods));
    // The same paths by other names.
    details.other("names in the path", &was.path, &is.path);
    details
}

fn aggregate(was: &manifest::Aggregate, is: &manifest::Aggregate) -> Details {
    let mut details = Details::default();
    let names = |it: &manifest::Aggregate| it.parts.keys().cloned().collect::<Vec<_>>();
    details.list("parts", &names(was), &names(is), String::clone);
    for (name, is) in &is.parts {
        if let Some(was) = was.parts.get(name) {
            details.value(&format!("parts.{name}.service"), &was.service.value, &is.service.value, String::clone);
            details.value(&format!("parts.{name}.path"), &was.path, &is.path, |it| it.to_string());
            let deadlines = (was.deadline.as_ref(), is.deadline.as_ref());
            details.option(&format!("parts.{name}.deadline"), deadlines.0, deadlines.1, duration);
            details.value(&format!("parts.{name}.optional"), &was.optional, &is.optional, bool::to_string);
        }
    }
    details.other("rate-limit", &was.rate_limit, &is.rate_limit);
    details
}

fn policy_details(was: &Policy, is: &Policy) -> Details {
    let mut details = Details::default();
    let (was, is) = (was.params(), is.params());
    details.value("deadline", &was.deadline, &is.deadline, duration);
    details.other("failure", &was.failure, &is.failure);
    {
        let (was, is) = (was.retry.params(), is.retry.params());
        details.value("retry.attempts", &was.attempts, &is.attempts, u32::to_string);
        details.value("retry.backoff", &was.backoff, &is.backoff, duration);
        details.value("retry.max-backoff", &was.max_backoff, &is.max_backoff, duration);
        details.other("retry.status", &was.status, &is.status);
        details.other("retry.budget", &was.budget, &is.budget);
        details.list("retry.idempotent", &was.idempotent, &is.idempotent, String::clone);
    }
    match (&was.breaker, &is.breaker) {
        (Some(was), Some(is)) => breaker(&mut details, was, is),
        (was, is) => details.value("breaker", &was.is_some(), &is.is_some(), bool::to_string),
    }
    let bulkhead = |it: &crate::policy::BulkheadPolicy| format!("{}+{}", it.concurrent(), it.queue());
    details.option("bulkhead", was.bulkhead.as_ref(), is.bulkhead.as_ref(), bulkhead);
    details.other("fallback", &was.fallback, &is.fallback);
    details.other("inject", &was.inject, &is.inject);
    details
}

fn breaker(details: &mut Details, was: &BreakerPolicy, is: &BreakerPolicy) {
    let (was, is) = (was.params(), is.params());
    let number = |value: &u32| value.to_string();
    details.value("breaker.mode", &was.mode, &is.mode, |it| debug(it).to_lowercase());
    details.option("breaker.failures", was.failures.as_ref(), is.failures.as_ref(), number);
    details.option("breaker.failure-rate", was.failure_rate.as_ref(), is.failure_rate.as_ref(), number);
    details.option("breaker.slow-rate", was.slow_rate.as_ref(), is.slow_rate.as_ref(), number);
    details.other("breaker.window", &was.window, &is.window);
    details.option("breaker.minimum", was.minimum.as_ref(), is.minimum.as_ref(), number);
    details.value("breaker.open", &was.open, &is.open, duration);
    details.option("breaker.max-open", was.max_open.as_ref(), is.max_open.as_ref(), duration);
    details.value("breaker.half-open", &was.half_open, &is.half_open, number);
}

#[cfg(test)]
mod tests;
