//! Routes in the making: what each by itself must hold, gathered by pattern.

use super::{
    Aggregate, AggregatePart, AggregateRoute, DocumentRoute, Node, Part, Route, RouteDeadline, RouteError,
    ServiceRoute, Target,
};
use crate::{
    gateway::{ApiDocument, aggregate, limit::RouteLimit},
    manifest::PathPattern,
    policy::RateLimitPolicy,
};
use http::{HeaderValue, Method};
use matchit::InsertError;
use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

/// matchit's refusal, in words for whoever wrote the pattern. What else but a conflict it could refuse is no pattern.
pub(super) fn insert_error(path: String, error: InsertError) -> RouteError {
    match error {
        InsertError::Conflict { with } => RouteError::Conflict { path, with },
        other => RouteError::InvalidPath { path, reason: other.to_string() },
    }
}

// === impl Drafts ===

/// Nodes in the making, in the order in which their patterns came.
#[derive(Default)]
pub(super) struct Drafts {
    pub(super) nodes: Vec<Draft>,
    pub(super) limits: Vec<Arc<RouteLimit>>,
}

/// The node of one pattern.
pub(super) struct Draft {
    pub(super) pattern: Arc<str>,
    pub(super) has_rest: bool,
    by_method: Vec<(Method, Target)>,
    any: Option<Target>,
}

impl Drafts {
    fn draft(&mut self, path: &PathPattern) -> &mut Draft {
        let at = self.nodes.iter().position(|draft| &*draft.pattern == path.as_str()).unwrap_or_else(|| {
            let (pattern, has_rest) = (path.as_str().into(), path.has_rest());
            self.nodes.push(Draft { pattern, has_rest, by_method: Vec::new(), any: None });
            self.nodes.len() - 1
        });
        &mut self.nodes[at]
    }

    fn limit(&mut self, methods: &[Method], path: &str, policy: Option<RateLimitPolicy>) -> Option<Arc<RouteLimit>> {
        let limit = Arc::new(RouteLimit::new(methods, path, policy?));
        self.limits.push(limit.clone());
        Some(limit)
    }

    pub(super) fn add_route(&mut self, route: Route) -> Result<(), RouteError> {
        let path = route.path.to_string();
        let strip = match &route.strip_prefix {
            None => 0,
            Some(prefix) => {
                let stripped = route.path.strip(prefix);
                stripped.map_err(|_| RouteError::StripPrefix { path: path.clone(), prefix: prefix.clone() })?
            }
        };
        let limit = self.limit(&route.methods, &path, route.rate_limit);
        let draft = self.draft(&route.path);
        let service = Arc::new(ServiceRoute {
            pattern: draft.pattern.clone(),
            service: route.service,
            upstream: route.upstream,
            strip,
            max_body_bytes: route.max_body_bytes,
            deadline: deadline(route.deadline, format_args!("the route {}", route.path)),
            limit,
            idempotent: route.idempotent,
        });
        if route.methods.is_empty() {
            if draft.any.replace(Target::Service(service)).is_some() {
                return Err(RouteError::Duplicate { path, method: "every method".into() });
            }
            return Ok(());
        }
        route.methods.into_iter().try_for_each(|method| draft.add(method, Target::Service(service.clone())))
    }

    pub(super) fn add_aggregate(&mut self, aggregate: Aggregate) -> Result<(), RouteError> {
        let path = || aggregate.path.to_string();
        let wrong = |reason: String| RouteError::Parts { path: path(), reason };
        if aggregate.parts.is_empty() {
            return Err(wrong("it has no parts".into()));
        }
        let mut names = BTreeSet::new();
        let mut parts = Vec::with_capacity(aggregate.parts.len());
        for part in aggregate.parts {
            if part.name == aggregate::MISSING {
                return Err(wrong(format!("a part can't be called {:?}, which reports missing parts", part.name)));
            }
            if !names.insert(part.name.clone()) {
                return Err(wrong(format!("the part {:?} is there twice", part.name)));
            }
            let captured = aggregate.path.params();
            if let Some(param) = part.path.params().find(|name| !captured.iter().any(|known| known == name)) {
                let param = param.to_owned();
                return Err(RouteError::UnknownParam { path: path(), part: part.name, param });
            }
            let Part { name, service, upstream, path: template, deadline: limit, optional } = part;
            let deadline = deadline(limit, format_args!("the part {name} of {}", aggregate.path));
            parts.push(AggregatePart { name, service, upstream, template, deadline, optional });
        }
        let limit = self.limit(&[Method::GET], aggregate.path.as_str(), aggregate.rate_limit);
        let draft = self.draft(&aggregate.path);
        let pattern = draft.pattern.clone();
        draft.add(Method::GET, Target::Aggregate(Arc::new(AggregateRoute { pattern, parts, limit })))
    }

    pub(super) fn add_document(&mut self, path: &PathPattern, document: Arc<ApiDocument>) -> Result<(), RouteError> {
        let draft = self.draft(path);
        let pattern = draft.pattern.clone();
        draft.add(Method::GET, Target::Document(Arc::new(DocumentRoute { pattern, document })))
    }
}

impl Draft {
    fn add(&mut self, method: Method, target: Target) -> Result<(), RouteError> {
        if self.by_method.iter().any(|(taken, _)| *taken == method) {
            return Err(RouteError::Duplicate { path: self.pattern.to_string(), method: method.to_string() });
        }
        self.by_method.push((method, target));
        Ok(())
    }

    pub(super) fn finish(self) -> Node {
        let mut allowed: Vec<&str> = self.by_method.iter().map(|(method, _)| method.as_str()).collect();
        for (implied, when) in [("HEAD", allowed.contains(&"GET")), ("OPTIONS", true)] {
            if when && !allowed.contains(&implied) {
                allowed.push(implied);
            }
        }
        // A method is a token, and a token is a valid value.
        let allow = HeaderValue::from_str(&allowed.join(", ")).unwrap_or(HeaderValue::from_static("OPTIONS"));
        Node { by_method: self.by_method, any: self.any, allow }
    }
}

fn deadline(limit: Option<Duration>, of: fmt::Arguments<'_>) -> Option<RouteDeadline> {
    limit.map(|limit| RouteDeadline { limit, of: of.to_string().into() })
}
