//! Cross references: whether what the sections say of each other is true.

use std::collections::{BTreeMap, BTreeSet};

use crate::policy::FunctionList;

use super::{
    Manifest,
    error::Placed,
    events::Bus,
    external::ExternalService,
    gateway::{Admin, Methods},
    path::PathPattern,
    policy::{EVENTS, Edge, GATEWAY, MAIL, SAGAS},
    reader::{Document, did_you_mean, quoted},
    server_url::ServerUrl,
    services::Service,
    store::Store,
};

/// Reports every reference that leads nowhere and every two things that exclude each other.
pub(super) fn validate(manifest: &Manifest, edges: &[Placed<Edge>], doc: &Document<'_>) {
    for service in manifest.services.values() {
        check_calls(manifest, service, doc);
        let subscribed = service.subscribes.iter().map(|it| &it.topic);
        for topic in service.publishes.iter().chain(subscribed).chain(&service.awaits) {
            check_topic(manifest, topic, doc);
        }
    }
    check_databases(manifest, doc);
    check_schedules(manifest, doc);
    check_awaits(manifest, doc);
    for route in &manifest.gateway.routes {
        check_service(manifest, &route.service, doc);
    }
    for part in manifest.gateway.aggregates.iter().flat_map(|aggregate| aggregate.parts.values()) {
        check_service(manifest, &part.service, doc);
    }
    check_routes(manifest, doc);
    check_listeners(manifest, doc);
    for external in manifest.external.values() {
        check_slow_rate(manifest, external, doc);
    }
    let existing = manifest.edges();
    for edge in edges {
        check_edge(manifest, edge, &existing, doc);
        check_functions(manifest, &edge.value, doc);
    }
}

fn service_names(manifest: &Manifest) -> impl Iterator<Item = &str> + Clone {
    manifest.services.keys().chain(manifest.external.keys()).map(String::as_str)
}

fn check_service(manifest: &Manifest, name: &Placed<String>, doc: &Document<'_>) -> bool {
    let exists = manifest.has_service(name);
    if !exists {
        let meant = did_you_mean(name, service_names(manifest));
        doc.report_at(name, format!("there is no service {}{meant}", quoted(name)));
    }
    exists
}

fn check_calls(manifest: &Manifest, service: &Service, doc: &Document<'_>) {
    for callee in &service.calls {
        if callee.value == service.name.value {
            doc.report_at(callee, "a service cannot call itself; a call within it is a function call");
        } else {
            check_service(manifest, callee, doc);
        }
    }
}

/// What only a server has goes with a server, and no two services are the same role there.
fn check_databases(manifest: &Manifest, doc: &Document<'_>) {
    let mut urls: BTreeMap<&str, &Placed<ServerUrl>> = BTreeMap::new();
    for database in manifest.services.values().filter_map(|service| service.database.as_ref()) {
        if manifest.store == Store::Files && !doc.has_errors_under("store") {
            let example = "add it as in [store] url = \"env:DATABASE_URL\"";
            let message = format!("this goes with a server, and the manifest names none: {example}");
            database.url.iter().for_each(|url| doc.report_at(url, message.as_str()));
            database.connections.iter().for_each(|connections| doc.report_at(connections, message.as_str()));
        }
        let Some(url) = &database.url else { continue };
        let ServerUrl::Written(text) = &url.value else { continue };
        if let Some(other) = urls.insert(text.expose(), url) {
            let message = format!("this URL is on line {} already; each service needs a role of its own", line(other));
            doc.report_at(url, message);
        }
    }
}

/// What is slow is said by those who call, so one of them must.
fn check_slow_rate(manifest: &Manifest, external: &ExternalService, doc: &Document<'_>) {
    let outlier = external.balance.outlier.as_ref();
    if outlier.is_none_or(|outlier| outlier.breaker().params().slow_rate.is_none()) {
        return;
    }
    let name = &external.name;
    let says = |edge: &Edge| manifest.edge_policy(&edge.caller, &edge.callee).params().failure.params().slow.is_some();
    if !manifest.edges().iter().any(|edge| edge.callee == name.value && says(edge)) {
        let callers = "expected a policy of an edge that leads here to say what is slow";
        let message = format!("`outlier.slow-rate` is set, and nothing is slow: {callers}, as failure.slow = \"1s\"");
        doc.report_at(name, message);
    }
}

fn check_topic(manifest: &Manifest, topic: &Placed<String>, doc: &Document<'_>) {
    if !manifest.topics.contains_key(&topic.value) {
        let meant = did_you_mean(topic, manifest.topics.keys().map(String::as_str));
        let name = quoted(topic);
        let add =
            if meant.is_empty() { format!("; declare it as [topics.\"{}\"]", topic.escape_debug()) } else { meant };
        doc.report_at(topic, format!("there is no topic {name}{add}"));
    }
}

/// A firing is kept until it is published, and noted when it was: both take a bus that keeps something.
fn check_schedules(manifest: &Manifest, doc: &Document<'_>) {
    if matches!(manifest.bus, Bus::RedisPubsub(_)) {
        for schedule in manifest.topics.values().filter_map(|topic| topic.schedule.as_ref()) {
            let remedy =
                "set bus to \"redis-streams\" under [events], or drop this key and publish the topic from outside";
            let message = format!("the bus \"redis-pubsub\" keeps nothing, and so fires no schedules; {remedy}");
            doc.report_at(schedule, message);
        }
    }
}

/// A saga that waits for an event which nobody keeps would wait in vain.
fn check_awaits(manifest: &Manifest, doc: &Document<'_>) {
    if matches!(manifest.bus, Bus::RedisPubsub(_)) {
        for topic in manifest.services.values().flat_map(|service| &service.awaits) {
            let message = "the bus \"redis-pubsub\" loses what comes while nobody listens, and a saga would wait in vain; set \
                           bus to \"redis-streams\" under [events], or drop this topic";
            doc.report_at(topic, message);
        }
    }
}

/// Two routes conflict if some request would match both and neither is more specific.
///
/// As in the gateway, patterns with a `{*rest}` are a table of their own behind all others: matchit by itself refuses
/// `/users/{*rest}` beside `/users/{id}/dashboard`.
fn check_routes(manifest: &Manifest, doc: &Document<'_>) {
    let gateway = &manifest.gateway;
    let get = Methods::Only(vec![http::Method::GET]);
    let routes = gateway.routes.iter().map(|route| (&route.path, &route.methods));
    let aggregates = gateway.aggregates.iter().map(|aggregate| &aggregate.path);
    let by_get = aggregates.chain(gateway.document.iter().map(|document| &document.path)).map(|path| (path, &get));
    let mut all: Vec<_> = routes.chain(by_get).collect();
    // What is empty stands in for a path that could not be read.
    all.retain(|(path, _)| !path.as_str().is_empty());
    // In the order of the lines, so that it is the later of two that conflicts with the earlier.
    all.sort_by_key(|(path, _)| path.place);

    let (mut exact, mut rest) = (matchit::Router::new(), matchit::Router::new());
    let mut known: BTreeMap<&str, Vec<(&Placed<PathPattern>, &Methods)>> = BTreeMap::new();
    for (path, methods) in all {
        let same = known.entry(path.as_str()).or_default();
        if let Some((other, method)) = same.iter().find_map(|(other, theirs)| Some((other, theirs.overlap(methods)?))) {
            doc.report_at(path, format!("`{method} {}` has a route already, on line {}", path.value, line(other)));
        }
        let first = same.is_empty();
        same.push((path, methods));
        let router = if path.has_rest() { &mut rest } else { &mut exact };
        if first && let Err(error) = router.insert(path.as_str(), ()) {
            let message = match error {
                matchit::InsertError::Conflict { with } => {
                    let other = known.get(with.as_str()).and_then(|same| same.first());
                    let on = other.map_or_else(String::new, |(other, _)| format!(", on line {}", line(other)));
                    let (path, with) = (quoted(path.as_str()), quoted(&with));
                    format!("{path} matches the same requests as {with}{on}; give the parameters the same names")
                }
                other => {
                    format!("expected a path that can be matched, found {}: {other}", quoted(path.as_str()))
                }
            };
            doc.report_at(path, message);
        }
    }
}

fn line<T>(placed: &Placed<T>) -> usize {
    placed.place.map_or(0, |place| place.line)
}

fn check_listeners(manifest: &Manifest, doc: &Document<'_>) {
    if let Admin::Listen { address, .. } = &manifest.admin
        && address.value == manifest.gateway.listen.value
        && address.port() != 0
    {
        doc.report_at(address, format!("the gateway listens on {} already", address.value));
    }
}

/// Only a service calls functions, and only those of a service that runs here.
fn check_functions(manifest: &Manifest, edge: &Edge, doc: &Document<'_>) {
    let Some((list, first)) = manifest.policies.functions.get(edge).and_then(|written| written.first()) else { return };
    let Edge { caller, callee } = edge;
    let instead = match list {
        FunctionList::Idempotent => "for which a route can be `idempotent`",
        FunctionList::Remembered => "where answers to safe requests are remembered without being named",
        FunctionList::FixedResults => "for which there is `fallback.fixed`",
    };
    let why = match caller.as_str() {
        GATEWAY => format!("the gateway calls by HTTP, {instead}"),
        EVENTS => "an event has no result".to_owned(),
        _ if callee == MAIL => "mail is sent, or it is not".to_owned(),
        SAGAS => "what became of a step is written down, and nothing can stand in for it".to_owned(),
        _ if callee.contains("://") || manifest.external.contains_key(callee) => {
            format!("{} is called by HTTP, {instead}", quoted(callee))
        }
        _ => return,
    };
    doc.report_at(first, format!("no functions are called on this edge: {why}"));
}

/// A policy for calls that cannot happen is a mistake, not a precaution.
fn check_edge(manifest: &Manifest, placed: &Placed<Edge>, existing: &BTreeSet<Edge>, doc: &Document<'_>) {
    let Edge { caller, callee } = &placed.value;
    if [GATEWAY, EVENTS, SAGAS].contains(&callee.as_str()) {
        doc.report_at(placed, format!("nothing calls {}; it is only ever a caller", quoted(callee)));
        return;
    }
    let outside = callee.contains("://");
    let callee_exists = outside || callee == MAIL || check_service(manifest, &placed.with(callee.clone()), doc);
    let callers = service_names(manifest).chain([GATEWAY, EVENTS, SAGAS]);
    if !callers.clone().any(|name| name == caller) {
        let meant = did_you_mean(caller, callers);
        let message =
            format!("there is no service {}{meant}; other callers are `gateway`, `events` and `sagas`", quoted(caller));
        doc.report_at(placed, message);
        return;
    }
    if manifest.external.contains_key(caller) {
        let caller = quoted(caller);
        doc.report_at(placed, format!("{caller} is external: its calls come from outside, by the gateway"));
        return;
    }
    // What could not be read might have been the way that is missing here.
    let grants = match caller.as_str() {
        GATEWAY => "gateway".to_owned(),
        EVENTS => format!("services.{callee}.subscribes"),
        SAGAS => format!("services.{callee}.database"),
        _ if outside => format!("services.{caller}.outbound"),
        _ if callee == MAIL => format!("services.{caller}.mail"),
        _ => format!("services.{caller}.calls"),
    };
    if !callee_exists || existing.contains(&placed.value) || doc.has_errors_under(&grants) {
        return;
    }
    let (caller, callee) = (quoted(caller), quoted(callee));
    let why = match placed.value.caller.as_str() {
        GATEWAY | EVENTS | SAGAS if outside || placed.value.callee == MAIL => format!("{caller} calls only services"),
        GATEWAY => format!("no route or aggregate leads to {callee}"),
        EVENTS if manifest.external.contains_key(&placed.value.callee) => {
            format!("{callee} is external, and events are delivered to services that run here")
        }
        EVENTS => format!("{callee} subscribes to no topic"),
        _ if placed.value.callee == MAIL => {
            format!("{caller} may not send mail; add mail = {{ from = \"…\" }} to [services.{}]", placed.value.caller)
        }
        SAGAS if manifest.external.contains_key(&placed.value.callee) => {
            format!("{callee} is external, and sagas are of services that run here")
        }
        SAGAS => format!("{callee} has no database, in which its sagas would be"),
        _ => format!("{caller} may not call {callee}; add {callee} to {grants}"),
    };
    doc.report_at(placed, format!("there is no such edge: {why}"));
}
