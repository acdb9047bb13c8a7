//! The shape of a component: which interfaces it imports and exports, function by function.
//!
//! Known from the compiled component alone, so that a system can be checked before any of it runs, and a new revision
//! before it gets a call.

mod difference;
mod wit;

pub use difference::{Difference, InterfaceChange, ShapeChanges};
pub(super) use wit::{Signature, wit};

use super::{exports::HttpVersion, link::untransferable};
use crate::{
    events::binding::HANDLER,
    manifest::did_you_mean,
    policy::{FunctionList, names_function},
    saga::binding::STEPS,
    store::MIGRATIONS,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};
use wasmtime::component::{
    Component,
    types::{ComponentFunc, ComponentItem},
};

/// The interfaces of one side, by name, each with its functions.
pub type Interfaces = BTreeMap<String, BTreeMap<String, ComponentFunc>>;

/// What a component needs and what it offers.
pub struct Shape {
    /// Imported interfaces that have functions.
    pub imports: Interfaces,
    /// Exported interfaces that have functions.
    pub exports: Interfaces,
    /// The version of `wasi:http` that it handles.
    pub http: Option<HttpVersion>,
}

/// A place where components do not fit each other or their manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// The service that can't run as it is.
    pub service: String,
    /// The part of its manifest that says otherwise.
    pub concern: Concern,
    /// What is wrong, what was expected, and what to do.
    pub message: String,
}

/// What of a service's manifest does not agree with the components.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Concern {
    /// Which component it has.
    Component,
    /// Whom it may call.
    Calls,
    /// What is delivered to it.
    Subscribes,
    /// A function that its policy names.
    Function {
        /// Whose function it is.
        callee: String,
        /// Where it is named.
        list: FunctionList,
        /// The function, as the policy names it.
        function: String,
    },
}

/// What a manifest grants a service, as far as components must agree with it.
#[derive(Clone, Debug, Default)]
pub struct Grants {
    /// Whom it may call.
    pub calls: Vec<String>,
    /// Those of them that are external: they have no component, and speak HTTP only.
    pub external: Vec<String>,
    /// Whether it has a database.
    pub database: bool,
    /// Whether it has buckets.
    pub buckets: bool,
    /// Whether events are delivered to it.
    pub subscribes: bool,
    /// The topics whose events its sagas may wait for.
    pub awaits: Vec<String>,
    /// The functions of those it calls that are named at its edges: whose, where, and by which name.
    pub functions: Vec<(String, FunctionList, String)>,
    /// Whether HTTP requests come to it: by a route, an aggregate, or a neighbour that may call it.
    pub routed: bool,
}

// === impl Misfit ===

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "service `{}` {}", self.service, self.message)
    }
}

// === impl Shape ===

impl Shape {
    /// Reads the shape of `component`.
    pub fn of(component: &Component) -> Self {
        let engine = component.engine();
        let ty = component.component_type();
        let exports = interfaces(ty.exports(engine).map(|(name, item)| (name, item.ty)), engine);
        let imports = interfaces(ty.imports(engine).map(|(name, item)| (name, item.ty)), engine);
        let handles = |prefix: &str| exports.keys().any(|name| name.starts_with(prefix));
        let http = if handles("wasi:http/handler@0.3.") {
            Some(HttpVersion::P3)
        } else if handles("wasi:http/incoming-handler@0.2.") {
            Some(HttpVersion::P2)
        } else {
            None
        };
        Self { imports, exports, http }
    }

    /// Whether it handles events.
    pub fn handles_events(&self) -> bool {
        self.exports.contains_key(HANDLER)
    }

    /// Whether it declares a schema.
    pub fn has_migrations(&self) -> bool {
        self.exports.contains_key(MIGRATIONS)
    }

    /// Whether it has sagas.
    pub fn has_sagas(&self) -> bool {
        self.exports.contains_key(STEPS)
    }

    /// The imports that only another service can offer.
    pub fn neighbours(&self) -> impl Iterator<Item = (&String, &BTreeMap<String, ComponentFunc>)> {
        self.imports.iter().filter(|(name, _)| !offered_by_host(name))
    }

    /// The functions that other services can call, each with its interface.
    pub fn functions(&self) -> impl Iterator<Item = (&str, &str, &ComponentFunc)> + Clone {
        let interfaces = self.exports.iter().filter(|(name, _)| !offered_by_host(name));
        interfaces.flat_map(|(interface, functions)| {
            functions.iter().map(move |(function, ty)| (interface.as_str(), function.as_str(), ty))
        })
    }
}

fn interfaces<'a>(items: impl Iterator<Item = (&'a str, ComponentItem)>, engine: &wasmtime::Engine) -> Interfaces {
    let mut interfaces = Interfaces::new();
    for (name, item) in items {
        let ComponentItem::ComponentInstance(instance) = item else { continue };
        let functions: BTreeMap<_, _> = instance
            .exports(engine)
            .filter_map(|(function, item)| match item.ty {
                ComponentItem::ComponentFunc(ty) => Some((function.to_string(), ty)),
                _ => None,
            })
            .collect();
        if !functions.is_empty() {
            interfaces.insert(name.to_string(), functions);
        }
    }
    interfaces
}

/// Whether the host itself is the one to ask for an interface.
fn offered_by_host(interface: &str) -> bool {
    interface.starts_with("wasi:") || interface.starts_with("wharf:")
}

/// Which service offers `interface` to `service`, or why none does.
pub fn provider<'a>(
    service: &str,
    interface: &str,
    grants: &Grants,
    shapes: &'a BTreeMap<String, Arc<Shape>>,
) -> Result<&'a str, (Concern, String)> {
    let all: Vec<&str> = shapes
        .iter()
        .filter(|(name, shape)| *name != service && shape.exports.contains_key(interface))
        .map(|(name, _)| name.as_str())
        .collect();
    let granted: Vec<&str> = all.iter().copied().filter(|name| grants.calls.iter().any(|call| call == name)).collect();
    match (granted.as_slice(), all.as_slice()) {
        ([one], _) => Ok(one),
        ([], []) => {
            let external: Vec<&str> = grants.external.iter().map(String::as_str).collect();
            let or_outside = match external.as_slice() {
                [] => String::new(),
                [_] => format!("; {} is external, and external services speak HTTP only", listed(&external)),
                _ => format!("; {} are external, and external services speak HTTP only", listed(&external)),
            };
            let nobody = "which neither the host nor any service of the manifest offers";
            Err((Concern::Component, format!("imports `{interface}`, {nobody}{or_outside}")))
        }
        ([], all) => {
            let which = if all.len() == 1 { "it" } else { "one of them" };
            let message = format!(
                "imports `{interface}`, which {} exports, but `services.{service}.calls` does not name {which}",
                listed(all)
            );
            Err((Concern::Calls, message))
        }
        (several, _) => {
            let message = format!(
                "imports `{interface}`, and {} all export it: leave one of them in `services.{service}.calls`",
                listed(several)
            );
            Err((Concern::Calls, message))
        }
    }
}

fn listed(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" and ")
}

/// Checks components against each other and against what the manifest grants them. Empty: all fits.
pub fn misfits(shapes: &BTreeMap<String, Arc<Shape>>, grants: &BTreeMap<String, Grants>) -> Vec<Misfit> {
    let mut found = Vec::new();
    let none = Grants::default();
    for (service, shape) in shapes {
        let grants = grants.get(service).unwrap_or(&none);
        let mut say =
            |concern: Concern, message: String| found.push(Misfit { service: service.clone(), concern, message });
        if grants.routed && shape.http.is_none() {
            let neither = "neither `wasi:http/handler@0.3.0` nor `wasi:http/incoming-handler@0.2.x`";
            say(Concern::Component, format!("is called by HTTP, but its component exports {neither}"));
        }
        if grants.subscribes && !shape.handles_events() {
            let message = format!("subscribes to topics, but its component does not export `{HANDLER}`");
            say(Concern::Subscribes, message);
        }
        let wants = |interface: &str| shape.imports.keys().any(|name| name.starts_with(interface));
        let wanted = ["wharf:store/sql", "wharf:outbox/outbox"].into_iter().find(|interface| wants(interface));
        if let Some(interface) = wanted
            && !grants.database
        {
            let message =
                format!("imports `{interface}`: grant it a database with `database = true` in [services.{service}]");
            say(Concern::Component, message);
        }
        let wants_buckets = shape.imports.keys().any(|name| name.starts_with("wasi:keyvalue/"));
        if wants_buckets && !grants.buckets {
            let message = format!(
                "imports `wasi:keyvalue`: grant it buckets, as with `buckets = [\"default\"]` in [services.{service}]"
            );
            say(Concern::Component, message);
        }
        if shape.has_migrations() && !grants.database {
            let message = format!("has migrations but no database: set `database = true` in [services.{service}]");
            say(Concern::Component, message);
        }
        if shape.has_sagas() && !grants.database {
            let message = format!(
                "exports `{STEPS}`, and the host keeps its sagas in its own database: set `database = true` in \
                 [services.{service}]"
            );
            say(Concern::Component, message);
        }
        for (callee, list, function) in &grants.functions {
            let Some(why) = shapes.get(callee).and_then(|shape| lacks(function, callee, shape)) else { continue };
            let concern = Concern::Function { callee: callee.clone(), list: *list, function: function.clone() };
            say(concern, format!("has `{}` in `{}`, {why}", function.escape_debug(), list.key()));
        }
        for (interface, functions) in shape.neighbours() {
            match provider(service, interface, grants, shapes) {
                Err((concern, message)) => say(concern, message),
                Ok(callee) => {
                    for message in mismatches(interface, functions, callee, &shapes[callee].exports[interface]) {
                        say(Concern::Component, message);
                    }
                }
            }
        }
    }
    found
}

/// Why a policy can't mean any function of `callee`, a component of this shape, by this name; `None` where it can.
pub(super) fn lacks(function: &str, callee: &str, shape: &Shape) -> Option<String> {
    let known = shape.functions();
    let named = [function.to_owned()];
    if known.clone().any(|(interface, name, _)| names_function(&named, interface, name)) {
        return None;
    }
    if known.clone().next().is_none() {
        return Some(format!("and `{callee}` exports no functions for its neighbours"));
    }
    let full: Vec<String> = known
        .clone()
        .flat_map(|(interface, name, _)| {
            let unversioned = interface.split_once('@').map_or(interface, |(name, _)| name);
            [format!("{interface}.{name}"), format!("{unversioned}.{name}")]
        })
        .collect();
    let short = known.map(|(_, name, _)| name);
    let meant = if function.contains('/') {
        did_you_mean(function, full.iter().map(String::as_str))
    } else {
        did_you_mean(function, short.clone())
    };
    let which = if meant.is_empty() {
        let names: BTreeSet<_> = short.collect();
        let names: Vec<_> = names.into_iter().map(|name| format!("`{name}`")).collect();
        format!("; its functions are {}", names.join(", "))
    } else {
        meant
    };
    Some(format!("a function that `{callee}` does not export{which}"))
}

/// Where what a caller imports differs from what `callee` exports.
fn mismatches(
    interface: &str,
    wanted: &BTreeMap<String, ComponentFunc>,
    callee: &str,
    offered: &BTreeMap<String, ComponentFunc>,
) -> Vec<String> {
    let mut found = Vec::new();
    for (name, wanted) in wanted {
        let types = wanted.params().map(|(_, ty)| ty).chain(wanted.results());
        if let Some(what) = types.into_iter().find_map(|ty| untransferable(&ty)) {
            found.push(format!(
                "`{name}` of `{interface}` has {what} in its type, which can't pass from one service to another: \
                 use plain values (records, variants, lists, options, results)"
            ));
            continue;
        }
        match offered.get(name) {
            None => found.push(format!("calls `{name}` of `{interface}`, which `{callee}` does not export")),
            Some(offered) => {
                let differences = difference::between(wanted, offered);
                if !differences.is_empty() {
                    let each: String = differences.iter().map(|it| format!("\n  {it}")).collect();
                    found.push(format!(
                        "`{name}` of `{interface}` is not what `{callee}` exports{each}\n  expected: {}\n  found:    {}",
                        Signature(wanted),
                        Signature(offered)
                    ));
                }
            }
        }
    }
    found
}
