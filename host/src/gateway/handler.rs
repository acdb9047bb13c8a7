//! From a request's head to its answer.

use super::{
    aggregate, answer,
    answer::AnswerBody,
    connection::Connection,
    exchange::Exchange,
    headers, intake,
    limit::RouteLimit,
    path,
    problem::Problem,
    routes::{Dispatch, RouteDeadline, ServiceRoute, Target},
};
use crate::{
    policy::Deadline,
    service::{Body, CallContext, Idempotent},
};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header, request::Parts, uri::PathAndQuery,
};
use hyper::body::{Body as _, Incoming};
use std::sync::Arc;
use tokio::time::{Duration, Instant};

/// The deadline of a call for which neither route nor part sets one: far enough to leave the matter to the policy
/// behind the upstream.
const NO_DEADLINE: Duration = Duration::from_secs(24 * 60 * 60);

/// Answers one request.
pub(super) async fn handle(connection: Arc<Connection>, request: Request<Incoming>) -> Response<AnswerBody> {
    let trace = headers::trace_of(request.headers());
    let mut exchange = Exchange::begin(connection.clone(), &request, trace);
    let result = respond(&connection, &mut exchange, request).await;
    answer::finish(exchange, result)
}

async fn respond(
    connection: &Connection,
    exchange: &mut Exchange,
    request: Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    let (mut parts, body) = request.into_parts();
    check_head(connection, &mut parts)?;
    if parts.method == Method::OPTIONS && parts.uri.path() == "*" {
        return Ok(no_content(HeaderMap::new()));
    }
    let target = {
        let routes = connection.front.routes.load();
        let Some((node, params)) = routes.find(parts.uri.path()) else {
            return Err(Problem::new(StatusCode::NOT_FOUND, "no route matches the path"));
        };
        let target = match node.dispatch(&parts.method) {
            Dispatch::Target(target) => target,
            Dispatch::HeadAsGet(target) => {
                parts.method = Method::GET;
                target
            }
            Dispatch::Options => {
                return Ok(no_content(HeaderMap::from_iter([(header::ALLOW, node.allow.clone())])));
            }
            Dispatch::NotAllowed => {
                let mut problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "the path does not take this method");
                problem.allow = Some(node.allow.clone());
                return Err(problem);
            }
        };
        match target {
            Target::Service(route) => Destination::Service(route.clone()),
            Target::Aggregate(route) => {
                let targets = aggregate::targets(route, &params)?;
                Destination::Aggregate(route.clone(), targets)
            }
            Target::Document(route) => {
                exchange.goes_to_document(route.clone());
                return Ok(route.document.answer(&parts.headers));
            }
        }
    };
    headers::for_upstream(&mut parts.headers, &connection.peer, &exchange.trace);
    match target {
        Destination::Service(route) => {
            exchange.goes_to_service(route.clone());
            count(connection, exchange, route.limit.as_deref(), &parts.headers, &body)?;
            forward(connection, exchange, &route, parts, body).await
        }
        Destination::Aggregate(route, targets) => {
            exchange.goes_to_aggregate(route.clone());
            count(connection, exchange, route.limit.as_deref(), &parts.headers, &body)?;
            aggregate::answer(connection, exchange.trace, &route, targets, parts.headers).await
        }
    }
}

/// Asks the rate limit of where a request goes.
fn count(
    connection: &Connection,
    exchange: &mut Exchange,
    limit: Option<&RouteLimit>,
    headers: &HeaderMap,
    body: &Incoming,
) -> Result<(), Problem> {
    let Some(limit) = limit else { return Ok(()) };
    let quota = limit.take(connection.client, headers);
    exchange.counted(quota);
    if quota.granted {
        return Ok(());
    }
    if !body.is_end_stream() {
        connection.activity.answered_early();
    }
    Err(limit.refusal(&quota))
}

/// Where a request goes, held without the routes that said so: they may be replaced meanwhile.
enum Destination {
    Service(Arc<ServiceRoute>),
    Aggregate(Arc<super::routes::AggregateRoute>, Vec<PathAndQuery>),
}

/// Refuses what is too large or could be misread, before anything is done for it.
fn check_head(connection: &Connection, parts: &mut Parts) -> Result<(), Problem> {
    let config = &connection.terms.config;
    if parts.method == Method::CONNECT {
        return Err(Problem::new(StatusCode::NOT_IMPLEMENTED, "this is not a proxy").closing());
    }
    let length = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if length > config.max_target_bytes() {
        let detail = format!("at most {} bytes of path and query are taken", config.max_target_bytes());
        return Err(Problem::new(StatusCode::URI_TOO_LONG, detail).closing());
    }
    headers::check_size(&parts.headers, config.max_header_bytes)?;
    headers::settle_host(&mut parts.headers, &parts.uri, parts.version)?;
    path::check(parts.uri.path()).map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.to_string()))
}

/// Calls the service of a route.
async fn forward(
    connection: &Connection,
    exchange: &mut Exchange,
    route: &ServiceRoute,
    parts: Parts,
    body: Incoming,
) -> Result<Response<Body>, Problem> {
    let config = &connection.terms.config;
    let limit = route.max_body_bytes.unwrap_or(config.max_body_bytes);
    let (body, outcome) = intake::take(body, limit, config.body_timeout).await?;

    if outcome.is_some() {
        // The service need not read to the end.
        connection.activity.answered_early();
    }

    let mut request = Request::new(body);
    *request.method_mut() = parts.method;
    *request.uri_mut() = origin_form(parts.uri, route.strip)?;
    *request.headers_mut() = parts.headers;
    if route.idempotent && !request.method().is_safe() {
        request.extensions_mut().insert(Idempotent);
    }
    let context = context(connection, exchange.trace, route.deadline.as_ref());
    let called = route.upstream.call(context, request).await;
    // Whatever the service made of a body that broke off, it was not what the client meant.
    if let Some(failure) = outcome.and_then(|outcome| outcome.failure()) {
        return Err(failure.into());
    }
    called.map_err(|fault| {
        tracing::debug!(service = &*route.service, %fault, "a request met a fault");
        fault.into()
    })
}

/// The context of a call that begins now.
pub(super) fn context(
    connection: &Connection,
    trace: crate::telemetry::TraceContext,
    deadline: Option<&RouteDeadline>,
) -> CallContext {
    let caller = connection.front.caller.clone();
    let (limit, of) = deadline.map_or((NO_DEADLINE, &caller), |deadline| (deadline.limit, &deadline.of));
    let deadline = Deadline { at: Instant::now() + limit, of: of.clone() };
    CallContext { caller, deadline, trace, unit: None }
}

/// Path and query alone, without the first `strip` bytes of the path.
fn origin_form(uri: Uri, strip: usize) -> Result<Uri, Problem> {
    if strip == 0 && uri.authority().is_none() {
        return Ok(uri);
    }
    let target = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let rest = &target[strip..];
    let bytes = match rest.as_bytes().first() {
        Some(b'/') => Bytes::copy_from_slice(rest.as_bytes()),
        _ => Bytes::from(["/", rest].concat()),
    };
    let target = PathAndQuery::from_maybe_shared(bytes)
        .map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "the path is malformed"))?;
    Ok(Uri::from(target))
}

fn no_content(headers: HeaderMap<HeaderValue>) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    *response.headers_mut() = headers;
    response
}
