//! Aggregates: one answer from several services.
//!
//! The parts are fetched in parallel and put together as they came: each is checked to be JSON, none is parsed into
//! values and written again. A part that the manifest calls optional and that cannot be had is `null`, and the answer
//! says why under `_missing`; a required one decides the answer of the whole.

use super::{
    connection::Connection,
    handler::context,
    headers,
    problem::Problem,
    routes::{AggregatePart, AggregateRoute},
    template::fill,
};
use crate::{
    policy::{Fault, FaultKind},
    service::Body,
    telemetry::TraceContext,
};
use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header, uri::PathAndQuery};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use matchit::Params;
use std::borrow::Cow;
use tokio::time::timeout_at;

/// The member that reports parts which are missing.
pub(super) const MISSING: &str = "_missing";
/// The largest body of a part in bytes.
const MAX_PART: usize = 1024 * 1024;

/// Why a part is not there.
enum PartError {
    /// The service's own refusal: what a required part answers so is the answer of the whole.
    Refused(Response<Body>),
    /// Anything else.
    Failed(Problem),
}

/// What to ask the parts for, from what the aggregate's pattern captured.
pub(super) fn targets(route: &AggregateRoute, params: &Params<'_, '_>) -> Result<Vec<PathAndQuery>, Problem> {
    let target = |part: &AggregatePart| fill(&part.template, |name| params.get(name));
    let filled: Result<Vec<_>, _> = route.parts.iter().map(target).collect();
    filled.map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "the path names nothing that could be asked for"))
}

/// Fetches all parts and puts them together.
pub(super) async fn answer(
    connection: &Connection,
    trace: TraceContext,
    route: &AggregateRoute,
    targets: Vec<PathAndQuery>,
    mut headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    headers::for_part(&mut headers);
    let mut running: FuturesUnordered<_> = route
        .parts
        .iter()
        .zip(targets)
        .enumerate()
        .map(|(at, (part, target))| {
            let fetched = fetch(connection, trace, part, target, headers.clone());
            async move { (at, fetched.await) }
        })
        .collect();

    let mut bodies: Vec<Option<Bytes>> = vec![None; route.parts.len()];
    let mut missing = Vec::new();
    while let Some((at, fetched)) = running.next().await {
        let part = &route.parts[at];
        match fetched {
            Ok(body) => bodies[at] = Some(body),
            Err(PartError::Refused(response)) if !part.optional => return Ok(response),
            Err(PartError::Failed(problem)) if !part.optional => return Err(problem),
            Err(error) => missing.push((at, report(part, error))),
        }
    }
    missing.sort_by_key(|(at, _)| *at);
    let missing: Vec<serde_json::Value> = missing.into_iter().map(|(_, report)| report).collect();

    let mut response = Response::new(Body::complete(join(route, &bodies, &missing)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

async fn fetch(
    connection: &Connection,
    trace: TraceContext,
    part: &AggregatePart,
    target: PathAndQuery,
    mut headers: HeaderMap,
) -> Result<Bytes, PartError> {
    let ctx = context(connection, trace.child(), part.deadline.as_ref());
    let deadline = ctx.deadline.at;
    headers::set_trace(&mut headers, &ctx.trace);
    let mut request = Request::new(Body::empty());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = Uri::from(target);
    *request.headers_mut() = headers;

    let whole = async {
        let (head, body) = part.upstream.call(ctx, request).await?.into_parts();
        let body = match Limited::new(body, MAX_PART).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                return Err(part.unusable(format!("answered with more than {MAX_PART} bytes")));
            }
            Err(_) => return Err(part.unusable("broke off its answer")),
        };
        Ok((head, body))
    };
    // The upstream keeps the deadline of the call; only here is the reading of the body in it too.
    let Ok(fetched) = timeout_at(deadline, whole).await else {
        let message = format!("{} did not answer in time", part.service);
        return Err(Fault::new(FaultKind::DeadlineExceeded, message).into());
    };
    let (head, body) = fetched?;

    match head.status {
        status if status.is_success() => match is_json(&body) {
            true => Ok(body),
            false => Err(part.unusable("answered with something other than JSON")),
        },
        status if status.is_client_error() => Err(PartError::Refused(Response::from_parts(head, Body::complete(body)))),
        status => Err(part.unusable(format!("answered with status {}", status.as_u16()))),
    }
}

fn is_json(body: &[u8]) -> bool {
    // The parser skips strings without a look at their encoding.
    std::str::from_utf8(body).is_ok_and(|text| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok())
}

fn report(part: &AggregatePart, error: PartError) -> serde_json::Value {
    let problem = match error {
        PartError::Failed(problem) => problem,
        PartError::Refused(response) => {
            let detail = format!("{} answered with status {}", part.service, response.status().as_u16());
            Problem::new(response.status(), detail)
        }
    };
    serde_json::json!({
        "part": part.name,
        "type": problem.type_uri(),
        "status": problem.status.as_u16(),
        "detail": problem.detail,
    })
}

/// The parts as members of one object.
fn join(route: &AggregateRoute, bodies: &[Option<Bytes>], missing: &[serde_json::Value]) -> Vec<u8> {
    let length: usize = bodies.iter().flatten().map(|body| body.len() + 64).sum();
    let mut whole = Vec::with_capacity(length + 128);
    let mut separator = b'{';
    let mut name = |whole: &mut Vec<u8>, name: &str| {
        whole.push(std::mem::replace(&mut separator, b','));
        // A string is always written as JSON.
        whole.extend_from_slice(serde_json::Value::from(name).to_string().as_bytes());
        whole.push(b':');
    };
    for (part, body) in route.parts.iter().zip(bodies) {
        name(&mut whole, &part.name);
        whole.extend_from_slice(body.as_deref().unwrap_or(b"null"));
    }
    if !missing.is_empty() {
        name(&mut whole, MISSING);
        whole.extend_from_slice(serde_json::Value::from(missing).to_string().as_bytes());
    }
    whole.push(b'}');
    whole
}

// === impl AggregatePart ===

impl AggregatePart {
    /// The service answered, but not with what a part can be made of.
    fn unusable(&self, what: impl Into<Cow<'static, str>>) -> PartError {
        let detail = format!("{} {}", self.service, what.into());
        PartError::Failed(Problem::new(StatusCode::BAD_GATEWAY, detail))
    }
}

// === impl PartError ===

impl From<Fault> for PartError {
    fn from(fault: Fault) -> Self {
        Self::Failed(fault.into())
    }
}
