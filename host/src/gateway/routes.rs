//! Which request goes where.
//!
//! A pattern is what [`matchit`] 0.9 takes: `/users/{id}`, `/files/{*rest}`. The path decides first, then the method:
//! of the patterns that match, a static segment beats a `{name}`, and every pattern without a `{*rest}` beats those
//! with one. (Two tables, because matchit itself refuses `/users/{*rest}` beside `/users/{id}/dashboard`, and just that
//! is how an aggregate stands in front of a service.) A pattern that matches but does not take the method is a 405, not
//! a reason to look further: otherwise adding a method to one route would change where another one leads.
//!
//! What a `{name}` or a `{*rest}` captures is never empty: `/files/{*rest}` matches neither `/files` nor `/files/`. That
//! is matchit's rule, and axum's, so nobody who knows them is surprised; and what a pattern leads to does not depend on
//! whether somebody has written a slash.

mod draft;

use super::{
    ApiDocument, Operation, Upstream,
    limit::{RouteLimit, RouteLimitSnapshot},
};
use crate::{
    manifest::{PathPattern, PathTemplate},
    policy::RateLimitPolicy,
};
use arc_swap::ArcSwap;
use draft::{Drafts, insert_error};
use http::{HeaderValue, Method};
use matchit::{Params, Router};
use std::{fmt, sync::Arc, time::Duration};

/// A pattern that leads to one service.
#[derive(Clone)]
pub struct Route {
    /// The pattern of the path.
    pub path: PathPattern,
    /// The methods that it takes; none given means all. `GET` brings `HEAD` with it.
    pub methods: Vec<Method>,
    /// The name of the service, for the access log.
    pub service: Arc<str>,
    /// Whom to call.
    pub upstream: Arc<dyn Upstream>,
    /// What is cut off the front of the path: whole segments, such as `/api`.
    pub strip_prefix: Option<String>,
    /// The largest request body in bytes, in place of the gateway's.
    pub max_body_bytes: Option<u64>,
    /// How long the call may take; without one, only the policy behind the upstream decides.
    pub deadline: Option<Duration>,
    /// How often it may be asked.
    pub rate_limit: Option<RateLimitPolicy>,
    /// Whether a request may be sent to the service twice, whatever its method.
    pub idempotent: bool,
}

/// A pattern whose answer is put together from several services. Takes GET and HEAD.
#[derive(Clone, Debug)]
pub struct Aggregate {
    /// The pattern of the path.
    pub path: PathPattern,
    /// What the answer consists of, in this order.
    pub parts: Vec<Part>,
    /// How often it may be asked.
    pub rate_limit: Option<RateLimitPolicy>,
}

/// One member of an aggregate's answer.
#[derive(Clone)]
pub struct Part {
    /// The name of the member.
    pub name: String,
    /// The name of the service, for problems and logs.
    pub service: Arc<str>,
    /// Whom to call.
    pub upstream: Arc<dyn Upstream>,
    /// The request's path and query, with `{name}` for what the aggregate's pattern captures.
    pub path: PathTemplate,
    /// How long fetching it may take, body included; without one, only the policy behind the upstream decides.
    pub deadline: Option<Duration>,
    /// Whether the answer is worth something without it.
    pub optional: bool,
}

/// Routes that cannot all be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The pattern can't be matched with.
    #[error("route {path:?}: {reason}")]
    InvalidPath {
        /// The pattern.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Two patterns match the same paths, and nothing says which is meant.
    #[error(
        "route {path:?} can't be told from {with:?}: both match the same paths; give them the same names or merge them"
    )]
    Conflict {
        /// The pattern that came later.
        path: String,
        /// The one that was there.
        with: String,
    },
    /// A method has two destinations.
    #[error("route {path:?} is there twice for {method}")]
    Duplicate {
        /// The pattern.
        path: String,
        /// The method, or "every method".
        method: String,
    },
    /// The prefix is not the beginning of the pattern.
    #[error(
        "route {path:?}: strip-prefix {prefix:?} must be whole leading segments of the path, without {{names}}, such as \"/api\""
    )]
    StripPrefix {
        /// The pattern.
        path: String,
        /// The prefix.
        prefix: String,
    },
    /// A part's path has a hole that nothing fills.
    #[error(
        "aggregate {path:?}, part {part:?}: its path uses {{{param}}}, which the aggregate's path does not capture"
    )]
    UnknownParam {
        /// The aggregate's pattern.
        path: String,
        /// The part's name.
        part: String,
        /// The parameter.
        param: String,
    },
    /// The parts' names don't make an answer.
    #[error("aggregate {path:?}: {reason}")]
    Parts {
        /// The aggregate's pattern.
        path: String,
        /// What is wrong.
        reason: String,
    },
}

/// Gathers routes; [`build`](Self::build) checks them against each other.
#[derive(Clone, Debug, Default)]
pub struct RoutesBuilder {
    routes: Vec<Route>,
    aggregates: Vec<Aggregate>,
    document: Option<(PathPattern, Arc<ApiDocument>)>,
}

/// Routes that hold together.
pub struct Routes {
    /// Patterns without a catch-all; looked at first.
    exact: Router<Node>,
    /// Patterns with one.
    rest: Router<Node>,
    limits: Vec<Arc<RouteLimit>>,
}

/// The routes of a running gateway, to be replaced while requests run: a request keeps those it began with.
#[derive(Clone)]
pub struct SharedRoutes(Arc<ArcSwap<Routes>>);

/// What one pattern leads to.
pub(super) struct Node {
    by_method: Vec<(Method, Target)>,
    /// For the methods that are not in `by_method`.
    any: Option<Target>,
    /// What a 405 and an OPTIONS answer say.
    pub(super) allow: HeaderValue,
}

#[derive(Clone)]
pub(super) enum Target {
    Service(Arc<ServiceRoute>),
    Aggregate(Arc<AggregateRoute>),
    Document(Arc<DocumentRoute>),
}

/// How long a call may take, and whose limit that is: for whoever reads that it was not enough.
pub(super) struct RouteDeadline {
    pub(super) limit: Duration,
    pub(super) of: Arc<str>,
}

pub(super) struct ServiceRoute {
    pub(super) pattern: Arc<str>,
    pub(super) service: Arc<str>,
    pub(super) upstream: Arc<dyn Upstream>,
    pub(super) strip: usize,
    pub(super) max_body_bytes: Option<u64>,
    pub(super) deadline: Option<RouteDeadline>,
    pub(super) limit: Option<Arc<RouteLimit>>,
    pub(super) idempotent: bool,
}

pub(super) struct AggregateRoute {
    pub(super) pattern: Arc<str>,
    pub(super) parts: Vec<AggregatePart>,
    pub(super) limit: Option<Arc<RouteLimit>>,
}

pub(super) struct DocumentRoute {
    pub(super) pattern: Arc<str>,
    pub(super) document: Arc<ApiDocument>,
}

pub(super) struct AggregatePart {
    pub(super) name: String,
    pub(super) service: Arc<str>,
    pub(super) upstream: Arc<dyn Upstream>,
    pub(super) template: PathTemplate,
    pub(super) deadline: Option<RouteDeadline>,
    pub(super) optional: bool,
}

/// What a node does with a method.
pub(super) enum Dispatch<'n> {
    Target(&'n Target),
    /// HEAD where only GET is routed: to be asked as GET, the body to be left out.
    HeadAsGet(&'n Target),
    /// OPTIONS where nobody takes it: the gateway knows the answer.
    Options,
    NotAllowed,
}

/// What a route is called: its methods, where it does not take all, and its pattern.
pub fn methods_and_path(methods: &[Method], path: &str) -> String {
    let mut methods: Vec<&str> = methods.iter().map(Method::as_str).collect();
    methods.sort_unstable();
    if methods.is_empty() { path.to_owned() } else { format!("{} {path}", methods.join(",")) }
}

// === impl RoutesBuilder ===

impl RoutesBuilder {
    /// Adds a route.
    pub fn route(&mut self, route: Route) -> &mut Self {
        self.routes.push(route);
        self
    }

    /// Adds an aggregate.
    pub fn aggregate(&mut self, aggregate: Aggregate) -> &mut Self {
        self.aggregates.push(aggregate);
        self
    }

    /// Serves the document of what is routed at this path, to GET.
    pub fn document(&mut self, path: PathPattern, document: Arc<ApiDocument>) -> &mut Self {
        self.document = Some((path, document));
        self
    }

    /// Checks all of them.
    ///
    /// # Errors
    /// The first pair that conflicts, or the first that is wrong by itself.
    pub fn build(self) -> Result<Routes, RouteError> {
        let mut drafts = Drafts::default();
        for route in self.routes {
            drafts.add_route(route)?;
        }
        for aggregate in self.aggregates {
            drafts.add_aggregate(aggregate)?;
        }
        if let Some((path, document)) = self.document {
            drafts.add_document(&path, document)?;
        }
        let mut routes = Routes { exact: Router::new(), rest: Router::new(), limits: drafts.limits };
        for draft in drafts.nodes {
            let path = draft.pattern.to_string();
            let router = if draft.has_rest { &mut routes.rest } else { &mut routes.exact };
            router.insert(path.clone(), draft.finish()).map_err(|error| insert_error(path, error))?;
        }
        Ok(routes)
    }
}

// === impl Routes ===

impl Routes {
    /// Starts gathering.
    pub fn builder() -> RoutesBuilder {
        RoutesBuilder::default()
    }

    /// Why an operation of a document leads nowhere, where it does not.
    pub fn not_routed(&self, operation: &Operation) -> Option<String> {
        let Some((node, _)) = self.find(&operation.sample) else {
            return Some(format!("{operation} is in the document, and no route matches its path"));
        };
        let is_taken = !matches!(node.dispatch(&operation.method), Dispatch::NotAllowed);
        let taken = node.allow.to_str().unwrap_or_default();
        (!is_taken).then(|| format!("{operation} is in the document, and the routes of its path take only {taken}"))
    }

    /// The node for a path, and what its pattern captured.
    pub(super) fn find<'r, 'p>(&'r self, path: &'p str) -> Option<(&'r Node, Params<'r, 'p>)> {
        let found = self.exact.at(path).or_else(|_| self.rest.at(path)).ok()?;
        Some((found.value, found.params))
    }
}

// === impl Node ===

impl Node {
    pub(super) fn dispatch(&self, method: &Method) -> Dispatch<'_> {
        let of = |wanted: &Method| self.by_method.iter().find(|(taken, _)| taken == wanted).map(|(_, target)| target);
        if let Some(target) = of(method) {
            return Dispatch::Target(target);
        }
        if *method == Method::HEAD
            && let Some(target) = of(&Method::GET)
        {
            return Dispatch::HeadAsGet(target);
        }
        match &self.any {
            Some(target) => Dispatch::Target(target),
            None if *method == Method::OPTIONS => Dispatch::Options,
            None => Dispatch::NotAllowed,
        }
    }
}

// === impl SharedRoutes ===

impl SharedRoutes {
    pub(super) fn new(routes: Routes) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(routes)))
    }

    /// Puts `routes` in place of the present ones, for all requests that begin from now on. What was counted under a rate
    /// limit stays counted where the same route has the same limit.
    pub fn replace(&self, routes: Routes) {
        let before = self.0.load();
        for limit in &routes.limits {
            before.limits.iter().for_each(|before| limit.take_over(before));
        }
        self.0.store(Arc::new(routes));
    }

    /// The rate limits as they are now, in the order of the routes.
    pub fn limits(&self) -> Vec<RouteLimitSnapshot> {
        self.0.load().limits.iter().map(|limit| limit.snapshot()).collect()
    }

    pub(super) fn load(&self) -> arc_swap::Guard<Arc<Routes>> {
        self.0.load()
    }
}

// === impl Debug ===

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routes").finish_non_exhaustive()
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.path, self.service)
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}{}", self.name, self.service, self.path)
    }
}
