//! Where an outgoing request goes: a neighbour, an allowed origin, or nowhere.

use crate::{
    policy::{Deadline, Fault, FaultKind},
    service::{Body, CallContext, Edge, Scope, into_wasi},
    telemetry::TraceContext,
};
use hyper::{
    Request, Response, Uri,
    header::{HeaderName, HeaderValue},
};
use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};
use tokio::time::{Duration, Instant};
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, Error, ForbiddenHeaderFilter, RequestOptions, WasiBody, WasiHttpHooks,
};

/// The domain of services: `http://user.internal/…` is the service `user`.
const INTERNAL: &str = ".internal";

/// How long a request may take that is made on nobody's behalf.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);

static FORBIDDEN: LazyLock<ForbiddenHeaderFilter> =
    LazyLock::new(|| Arc::new(|name: &HeaderName| DEFAULT_FORBIDDEN_HEADERS.contains(name)));

/// The origins outside that a service may call, each with its edge.
#[derive(Default)]
pub struct Outbound {
    origins: HashMap<String, Arc<Edge>>,
}

/// wasmtime's hooks into `wasi:http`, one for each store.
pub struct Hooks {
    scope: Arc<Scope>,
    caller: Option<CallContext>,
}

type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sent = Box<dyn Future<Output = Result<(Response<WasiBody>, Io), Error>> + Send>;

// === impl Outbound ===

impl Outbound {
    /// Allows `origin`, by an edge that ends there.
    pub fn allow(&mut self, origin: &Uri, edge: Arc<Edge>) {
        if let Some(key) = origin_of(origin) {
            self.origins.insert(key, edge);
        }
    }

    fn get(&self, uri: &Uri) -> Option<&Arc<Edge>> {
        self.origins.get(&origin_of(uri)?)
    }

    /// All edges to origins outside.
    pub fn edges(&self) -> impl Iterator<Item = &Arc<Edge>> {
        self.origins.values()
    }
}

/// `scheme://host:port`, with the scheme's own port where none is given (RFC 6454, section 4).
fn origin_of(uri: &Uri) -> Option<String> {
    let scheme = uri.scheme_str()?;
    let port = uri.port_u16().or(match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    })?;
    Some(format!("{scheme}://{}:{port}", uri.host()?.to_ascii_lowercase()))
}

// === impl Hooks ===

impl Hooks {
    /// Hooks for a store of the service that `scope` describes.
    pub fn new(scope: Arc<Scope>) -> Self {
        Self { scope, caller: None }
    }

    /// The next request is made on behalf of this call.
    pub fn set_caller(&mut self, caller: CallContext) {
        self.caller = Some(caller);
    }

    fn edge(&self, uri: &Uri) -> Result<Arc<Edge>, Fault> {
        let service = &self.scope.name;
        let host = uri.host().unwrap_or_default();
        if let Some(callee) = host.strip_suffix(INTERNAL) {
            return self.scope.edges.get(callee).cloned().ok_or_else(|| {
                Fault::new(
                    FaultKind::Denied,
                    format!("service `{service}` may not call `{callee}`: `services.{service}.calls` does not name it"),
                )
            });
        }
        self.scope.outbound.get(uri).cloned().ok_or_else(|| {
            let origin = origin_of(uri).unwrap_or_else(|| uri.to_string());
            Fault::new(
                FaultKind::Denied,
                format!("service `{service}` may not call {origin}: `services.{service}.outbound` does not allow it"),
            )
        })
    }
}

impl WasiHttpHooks for Hooks {
    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        FORBIDDEN.clone()
    }

    fn send_request(&mut self, request: Request<WasiBody>, options: Option<RequestOptions>, _processed: Io) -> Sent {
        let mut context = self.caller.clone().unwrap_or_else(|| CallContext {
            caller: self.scope.name.clone(),
            deadline: Deadline { at: Instant::now() + DEFAULT_DEADLINE, of: "the background of the service".into() },
            trace: TraceContext::root(),
        });
        if let Some(limit) = options.and_then(|options| options.first_byte_timeout) {
            context.deadline = context.deadline.or_in(limit, &"the request's own options".into());
        }
        let edge = self.edge(request.uri());
        let service = self.scope.name.clone();
        Box::new(async move {
            let sent = match edge {
                Ok(edge) => {
                    let mut request = request.map(from_wasi);
                    if let Ok(trace) = HeaderValue::try_from(context.trace.to_string()) {
                        request.headers_mut().insert("traceparent", trace);
                    }
                    edge.http(&context, request).await
                }
                Err(denied) => Err(denied),
            };
            match sent {
                Ok(response) => Ok((response.map(into_wasi), Box::new(async { Ok(()) }) as Io)),
                Err(fault) => {
                    tracing::warn!(%service, %fault, "an outgoing request failed");
                    Err(error_of(fault))
                }
            }
        })
    }
}

fn from_wasi(body: WasiBody) -> Body {
    if hyper::body::Body::is_end_stream(&body) { Body::empty() } else { Body::stream(body) }
}

/// How `wasi:http` says it.
fn error_of(fault: Fault) -> Error {
    match fault.kind() {
        FaultKind::Unreachable | FaultKind::CircuitOpen => Error::DestinationUnavailable,
        FaultKind::Overloaded => Error::ConnectionLimitReached,
        FaultKind::DeadlineExceeded => Error::HttpResponseTimeout,
        FaultKind::Trapped => Error::InternalError(Some(fault.message().to_string())),
        FaultKind::Cancelled => Error::ConnectionTerminated,
        FaultKind::Denied => Error::HttpRequestDenied,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_host_and_port_whatever_the_path() {
        let origin = |uri: &str| origin_of(&uri.parse().unwrap());
        assert_eq!(origin("https://API.example.com/v1?q"), origin("https://api.example.com:443/"));
        assert_ne!(origin("http://api.example.com/"), origin("https://api.example.com/"));
        assert_ne!(origin("http://api.example.com/"), origin("http://api.example.com.evil.org/"));
        assert_ne!(origin("http://127.0.0.1:80/"), origin("http://127.0.0.1:8080/"));
        assert_eq!(origin("/relative"), None);
    }
}
