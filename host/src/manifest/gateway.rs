//! `[gateway]` and `[admin]`: what listens, and which requests go where.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use http::Method;

use crate::policy::{RateLimitKey, RateLimitParams, RateLimitPolicy, bounds};

use super::{
    error::Placed,
    path::{PathPattern, PathTemplate},
    policy::{or_refused, switchable},
    reader::{Document, Table, Value, did_you_mean, quoted},
    secret::SecretRef,
    values::{LONGEST, SHORTEST},
};

/// The HTTP entrance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Where it listens; port 0 takes any free one.
    pub listen: Placed<SocketAddr>,
    /// The longest head of a request, in bytes.
    pub max_header_bytes: u64,
    /// The longest body of a request, in bytes, where its route sets none.
    pub max_body_bytes: u64,
    /// How long a client may take to send a request's head.
    pub header_timeout: Duration,
    /// The longest wait for the next piece of a request's body.
    pub body_timeout: Duration,
    /// How long a connection may stand without a request.
    pub idle_timeout: Duration,
    /// How long requests in flight may take to finish at shutdown.
    pub shutdown_grace: Duration,
    /// Connections at a time.
    pub max_connections: usize,
    /// Which requests go to which service; no two conflict.
    pub routes: Vec<Route>,
    /// Answers put together from several services; their paths conflict with no route for GET.
    pub aggregates: Vec<Aggregate>,
    /// The OpenAPI document of all that; its path conflicts with no route for GET.
    pub document: Option<ApiDocument>,
}

/// An OpenAPI document that the gateway serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiDocument {
    /// Where it is served; without parameters.
    pub path: Placed<PathPattern>,
    /// The file.
    pub file: Placed<PathBuf>,
}

/// Requests that go to a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The path in matchit's syntax: `/users/{id}`, `/files/{*rest}`. As there, and in axum, neither of the two matches
    /// what is empty: `/files/{*rest}` takes `/files/a` and `/files/a/b`, but not `/files` and not `/files/`, which are
    /// paths of their own.
    pub path: Placed<PathPattern>,
    /// The methods that it takes.
    pub methods: Methods,
    /// The service; it exists.
    pub service: Placed<String>,
    /// What is taken off the path's start before the service sees it: whole segments, no slash at the end.
    pub strip_prefix: Option<String>,
    /// The longest body of a request, in bytes; the gateway's where the route sets none.
    pub max_body_bytes: u64,
    /// A deadline of the route's own, in place of the edge's.
    pub deadline: Option<Duration>,
    /// How often it may be asked: its own, or the gateway's.
    pub rate_limit: Option<RateLimitPolicy>,
    /// Whether a request may be sent to the service twice, whatever its method.
    pub idempotent: bool,
}

/// The methods that a route takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Methods {
    /// Any.
    All,
    /// These, at least one.
    Only(Vec<Method>),
}

/// A GET whose answer is put together from several services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aggregate {
    /// The path in matchit's syntax.
    pub path: Placed<PathPattern>,
    /// The parts by their name in the answer; at least one.
    pub parts: BTreeMap<String, Part>,
    /// How often it may be asked: its own, or the gateway's.
    pub rate_limit: Option<RateLimitPolicy>,
}

/// A part of an aggregate: one GET to one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The service; it exists.
    pub service: Placed<String>,
    /// The path and query to ask for; every `{name}` in it is a parameter of the aggregate's path.
    pub path: Placed<PathTemplate>,
    /// A deadline of the part's own, in place of the edge's.
    pub deadline: Option<Duration>,
    /// Whether the answer goes out without it if it cannot be had.
    pub optional: bool,
}

/// Where the running host is asked and told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admin {
    /// A Unix socket, whose file permissions guard it.
    Socket(Placed<PathBuf>),
    /// A TCP port on loopback, guarded by a token.
    Listen {
        /// A loopback address.
        address: Placed<SocketAddr>,
        /// What a request must carry.
        token: Placed<SecretRef>,
    },
}

const METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
/// Where an answer lists the parts that it lacks.
const MISSING: &str = "_missing";
const MAX_BODY: u64 = 64 << 30;

// === impl Gateway ===

impl Gateway {
    pub(super) fn read(mut table: Table<'_>, doc: &Document<'_>) -> Self {
        let listen = table.optional("listen", |v| v.address());
        let listen = listen.unwrap_or_else(|| table.default("listen", SocketAddr::from(([127, 0, 0, 1], 3000))));
        let max_body_bytes = table.or("max-body-bytes", 1 << 20, |v| v.size(1..=MAX_BODY));
        let rate_limit = rate_limit(&mut table, None);
        let (routes, aggregates) = (table.tables("routes").into_iter(), table.tables("aggregates").into_iter());
        let document = table.optional("document", |value| ApiDocument::read(value.table()?));
        let mut time = |key, seconds| table.or(key, Duration::from_secs(seconds), |v| v.duration(SHORTEST..=LONGEST));
        let gateway = Self {
            listen,
            max_body_bytes,
            header_timeout: time("header-timeout", 10),
            body_timeout: time("body-timeout", 30),
            idle_timeout: time("idle-timeout", 60),
            shutdown_grace: time("shutdown-grace", 30),
            max_header_bytes: table.or("max-header-bytes", 16 << 10, |v| v.size(1 << 10..=1 << 20)),
            max_connections: table.or("max-connections", 10_000, |v| v.integer(1..=1_000_000)),
            routes: routes.filter_map(|route| Route::read(route, max_body_bytes, rate_limit.as_ref(), doc)).collect(),
            aggregates: aggregates.map(|aggregate| Aggregate::read(aggregate, rate_limit.as_ref(), doc)).collect(),
            document,
        };
        table.finish();
        gateway
    }
}

/// How often may be asked: what is written, else what `inherited` says.
fn rate_limit(table: &mut Table<'_>, inherited: Option<&RateLimitPolicy>) -> Option<RateLimitPolicy> {
    switchable(table, "rate-limit", inherited.cloned().map(Some), |mut table| {
        let from = inherited.map(RateLimitPolicy::params);
        let requests =
            required_unless(&mut table, "requests", "a number of requests", from.map(|from| from.requests), |v| {
                v.integer(bounds::RATE)
            });
        let per = required_unless(&mut table, "per", "a duration such as \"1s\"", from.map(|from| from.per), |v| {
            v.duration(SHORTEST..=LONGEST)
        });
        let burst = table.optional("burst", |v| v.integer(bounds::BURST)).or(from.and_then(|from| from.burst));
        let key = table.or("key", from.map_or(RateLimitKey::Client, |from| from.key.clone()), rate_limit_key);
        let policy = requests.zip(per).and_then(|(requests, per)| {
            let made = RateLimitPolicy::try_new(RateLimitParams { requests, per, burst, key });
            or_refused(&table, made.map(Some), || None)
        });
        table.finish();
        policy
    })
    .flatten()
}

fn rate_limit_key(value: &Value<'_>) -> Option<RateLimitKey> {
    match value.as_str() {
        Some("client") => Some(RateLimitKey::Client),
        Some("route") => Some(RateLimitKey::Route),
        Some(key)
            if let Some(name) = key.strip_prefix("header:")
                && !name.is_empty() =>
        {
            Some(RateLimitKey::Header(name.trim().to_ascii_lowercase()))
        }
        _ => value.expected("\"client\", \"route\" or a header such as \"header:x-api-key\""),
    }
}

/// A key that must be there where nothing is inherited.
fn required_unless<'a, T>(
    table: &mut Table<'a>,
    key: &'static str,
    expected: &str,
    inherited: Option<T>,
    read: impl FnOnce(&Value<'a>) -> Option<T>,
) -> Option<T> {
    match inherited {
        Some(inherited) => Some(table.or(key, inherited, read)),
        None => table.required(key, expected, read),
    }
}

fn deadline(table: &mut Table<'_>) -> Option<Duration> {
    table.optional("deadline", |v| v.duration(SHORTEST..=LONGEST))
}

/// A path that requests are matched with.
fn route_path(table: &mut Table<'_>) -> Option<Placed<PathPattern>> {
    table.required("path", "a path such as \"/users/{id}\"", |value| {
        let path = value.string()?;
        match path.parse() {
            Ok(pattern) => Some(value.placed(pattern)),
            Err(wrong) => {
                let expected = "expected a path such as \"/users/{id}\" or \"/files/{*rest}\"";
                value.report(format!("{expected}, found {}: {wrong}", quoted(&path)))
            }
        }
    })
}

fn service(table: &mut Table<'_>) -> Option<Placed<String>> {
    table.required("service", "the name of a service", |v| Some(v.placed(v.string()?)))
}

// === impl Route ===

impl Route {
    fn read(
        mut table: Table<'_>,
        max_body_bytes: u64,
        gateway: Option<&RateLimitPolicy>,
        doc: &Document<'_>,
    ) -> Option<Self> {
        // Everything is read before anything is given up, so that everything wrong is reported.
        let path = route_path(&mut table);
        let methods = table.or("methods", Methods::All, Methods::read);
        let service = service(&mut table);
        let strip_prefix = table.optional("strip-prefix", |v| Some(v.placed(v.string()?)));
        let max_body_bytes = table.or("max-body-bytes", max_body_bytes, |v| v.size(1..=MAX_BODY));
        let deadline = deadline(&mut table);
        let rate_limit = rate_limit(&mut table, gateway);
        let idempotent = table.or("idempotent", false, Value::boolean);
        let stand_in = table.placed(PathPattern::default());
        table.finish();
        if let Some(prefix) = &strip_prefix
            && let Some(path) = &path
            && let Err(wrong) = path.strip(prefix)
        {
            doc.report_at(prefix, format!("{wrong}, found {}", quoted(prefix)));
        }
        let strip_prefix = strip_prefix.map(|prefix| prefix.value);
        let path = path.unwrap_or(stand_in);
        let service = service?;
        Some(Self { path, methods, service, strip_prefix, max_body_bytes, deadline, rate_limit, idempotent })
    }
}

// === impl ApiDocument ===

impl ApiDocument {
    fn read(mut table: Table<'_>) -> Option<Self> {
        let path = route_path(&mut table);
        if let Some(path) = &path
            && !path.params().is_empty()
        {
            table.report_field("path", format!("expected a path without parameters, found {}", quoted(path.as_str())));
        }
        let file = table.required("file", "the file with the OpenAPI document", |value| value.path());
        table.finish();
        Some(Self { path: path?, file: file? })
    }
}

// === impl Methods ===

impl Methods {
    /// Whether a route takes this method.
    pub fn allow(&self, method: &Method) -> bool {
        match self {
            Self::All => true,
            Self::Only(methods) => methods.contains(method),
        }
    }

    /// The methods by name; none of them for all.
    pub fn listed(&self) -> &[Method] {
        match self {
            Self::All => &[],
            Self::Only(methods) => methods,
        }
    }

    /// The first method that both take.
    pub(super) fn overlap(&self, other: &Self) -> Option<Method> {
        METHODS.into_iter().find(|method| self.allow(method) && other.allow(method))
    }

    fn read(value: &Value<'_>) -> Option<Self> {
        let mut methods = Vec::new();
        let items = value.items("an array of methods")?;
        if items.is_empty() {
            return value.report("expected at least one method; leave the key out to take all");
        }
        for item in items {
            let known = METHODS.iter().find(|method| item.as_str() == Some(method.as_str()));
            match known {
                Some(method) if methods.contains(method) => {
                    item.report::<()>(format!("`{method}` is listed twice"));
                }
                Some(method) => methods.push(method.clone()),
                None => {
                    item.expected::<()>(format_args!("one of {}", METHODS.map(|m| format!("\"{m}\"")).join(", ")));
                }
            }
        }
        Some(Self::Only(methods))
    }
}

// === impl Aggregate ===

impl Aggregate {
    fn read(mut table: Table<'_>, gateway: Option<&RateLimitPolicy>, doc: &Document<'_>) -> Self {
        let path = route_path(&mut table);
        let rate_limit = rate_limit(&mut table, gateway);
        let params = path.as_ref().map(|path| path.params());
        let mut parts = BTreeMap::new();
        let mut count = 0;
        for (name, value) in table.table("parts").entries() {
            count += 1;
            if name.is_empty() || name.value == MISSING {
                doc.report_at(&name, format!("expected a name for this part of the answer other than `{MISSING}`"));
            }
            if let Some(part) = value.table().and_then(|table| Part::read(table, params)) {
                parts.insert(name.value, part);
            }
        }
        if count == 0 {
            table.report("expected at least one part, as in [gateway.aggregates.parts.user]");
        }
        let path = path.unwrap_or_else(|| table.placed(PathPattern::default()));
        table.finish();
        Self { path, parts, rate_limit }
    }
}

// === impl Part ===

impl Part {
    /// `params` are those of the aggregate's path, if that could be read.
    fn read(mut table: Table<'_>, params: Option<&[String]>) -> Option<Self> {
        let service = service(&mut table);
        let path = table.required("path", "a path such as \"/users/{id}\"", |value| {
            let text = value.string()?;
            match text.parse::<PathTemplate>() {
                Ok(template) => {
                    check_params(value, &template, params?);
                    Some(value.placed(template))
                }
                Err(wrong) => {
                    let expected = "expected a path such as \"/users/{id}\" or \"/orders?userId={id}\"";
                    value.report(format!("{expected}, found {}: {wrong}", quoted(&text)))
                }
            }
        });
        let deadline = deadline(&mut table);
        let optional = table.or("optional", false, Value::boolean);
        let path = path.unwrap_or_else(|| table.placed(PathTemplate::default()));
        table.finish();
        Some(Self { service: service?, path, deadline, optional })
    }
}

fn check_params(value: &Value<'_>, template: &PathTemplate, known: &[String]) {
    let used: BTreeSet<_> = template.params().collect();
    for name in used.into_iter().filter(|name| !known.iter().any(|known| known == name)) {
        let meant = did_you_mean(name, known.iter().map(String::as_str));
        value.report::<()>(format!("the aggregate's path has no parameter {}{meant}", quoted(name)));
    }
}

// === impl Admin ===

impl Admin {
    /// `data` is where the socket goes if nothing is said.
    pub(super) fn read(mut table: Table<'_>, data: &Path) -> Self {
        let socket = table.value("socket");
        let listen = table.value("listen");
        let token = table.value("token");
        let default = table.default("socket", data.join("admin.sock"));
        table.finish();
        let token_ref = token.as_ref().and_then(|value| Some(value.placed(SecretRef::read(value)?)));
        match (socket, listen) {
            (Some(_), Some(listen)) => {
                listen.report::<()>("expected either `socket` or `listen`, found both");
            }
            (socket, None) => {
                if let Some(token) = token {
                    token.report::<()>("`token` goes with `listen`; a socket is guarded by its file's permissions");
                }
                return Self::Socket(socket.and_then(|value| value.path()).unwrap_or(default));
            }
            (None, Some(listen)) => {
                let address = listen.address();
                if address.as_ref().is_some_and(|address| !address.ip().is_loopback()) {
                    listen.expected::<()>("a loopback address such as \"127.0.0.1:9000\"");
                }
                if token.is_none() {
                    listen.report::<()>("`token` is required with `listen`, such as token = \"env:WHARF_ADMIN_TOKEN\"");
                }
                if let (Some(address), Some(token)) = (address, token_ref) {
                    return Self::Listen { address, token };
                }
            }
        }
        Self::Socket(default)
    }
}
