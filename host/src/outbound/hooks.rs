//! Where an outgoing request goes: a neighbour, an allowed origin, or nowhere.

use crate::{
    policy::{Fault, FaultKind},
    service::{Body, CallContext, Edge, Gathered, Gathering, Scope, into_wasi},
};
use hyper::{
    Request, Response, Uri,
    header::{HeaderName, HeaderValue},
};
use std::{
    collections::HashMap,
    future::poll_fn,
    sync::{Arc, LazyLock},
    task::Poll,
};
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, Error, ForbiddenHeaderFilter, RequestOptions, WasiBody, WasiHttpHooks,
};

/// The domain of services: `http://user.internal/…` is the service `user`.
const INTERNAL: &str = ".internal";

/// How often in a row a guest may have nothing of its request's body ready before the body streams.
const IDLE_TURNS: u32 = 4;

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
        let mut context = self.caller.clone().unwrap_or_else(|| CallContext::background(&self.scope.name));
        if let Some(limit) = options.and_then(|options| options.first_byte_timeout) {
            context.deadline = context.deadline.or_in(limit, &"the request's own options".into());
        }
        let edge = self.edge(request.uri());
        let service = self.scope.name.clone();
        Box::new(async move {
            let sent = match edge {
                Ok(edge) => {
                    let (head, body) = request.into_parts();
                    let mut request = Request::from_parts(head, from_wasi(body).await);
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

/// The body of a request: complete where the guest has it ready, so that the request can be sent again.
///
/// A guest of `wasi:http` 0.3 writes a body beside its call, even one without a single byte: it ends with a future of
/// trailers. So a look at it as it comes tells nothing. But a guest that has everything needs only to be let on to hand it
/// over, and that is a turn or two of its store. One that still has to wait for something itself, perhaps for the very
/// answer to this request, brings nothing however often it is let on, and so must not be waited for: its body streams.
async fn from_wasi(body: WasiBody) -> Body {
    if hyper::body::Body::is_end_stream(&body) {
        return Body::empty();
    }
    let mut gathering = Gathering::new(Body::stream(body));
    let mut idle = 0;
    poll_fn(|cx| {
        idle = match gathering.poll(cx) {
            Gathered::All | Gathered::Enough => return Poll::Ready(()),
            Gathered::More => 0,
            Gathered::Nothing => idle + 1,
        };
        if idle > IDLE_TURNS {
            return Poll::Ready(());
        }
        // The guest's turn.
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
    gathering.into_body()
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
    use bytes::Bytes;
    use futures::{StreamExt, channel::mpsc};
    use http_body_util::{BodyExt, StreamBody};
    use hyper::body::Frame;

    type Frames = mpsc::UnboundedSender<Result<Frame<Bytes>, Error>>;

    /// A body that ends when its frames are dropped.
    fn body() -> (Frames, WasiBody) {
        let (frames, body) = mpsc::unbounded();
        (frames, StreamBody::new(body.boxed()).boxed_unsync())
    }

    fn data(text: &'static str) -> Result<Frame<Bytes>, Error> {
        Ok(Frame::data(Bytes::from_static(text.as_bytes())))
    }

    /// Runs beside the one that waits for a body, a piece of it each turn.
    async fn turns(frames: Frames, pieces: &[&'static str], idle: u32) {
        for piece in pieces {
            for _ in 0..idle {
                tokio::task::yield_now().await;
            }
            frames.unbounded_send(data(piece)).unwrap();
        }
    }

    #[tokio::test]
    async fn a_body_that_the_guest_has_ready_is_complete() {
        for (pieces, whole) in [(&[][..], ""), (&["one"], "one"), (&["one", " and ", "two"], "one and two")] {
            for idle in 0..3 {
                let (frames, body) = body();
                let (body, ()) = tokio::join!(from_wasi(body), turns(frames, pieces, idle));
                assert_eq!(body.to_complete().as_deref(), Some(whole.as_bytes()), "{idle}");
            }
        }
    }

    #[tokio::test]
    async fn a_body_that_has_to_be_waited_for_streams_from_its_beginning() {
        let (frames, body) = body();
        frames.unbounded_send(data("one")).unwrap();
        let body = from_wasi(body).await;
        assert!(body.as_complete().is_none());
        frames.unbounded_send(data(" and two")).unwrap();
        drop(frames);
        assert_eq!(body.collect().await.unwrap().to_bytes(), "one and two");
    }

    #[tokio::test]
    async fn a_large_body_streams() {
        let (frames, body) = body();
        const LARGE: &str = match std::str::from_utf8(&[b'x'; 40_000]) {
            Ok(text) => text,
            Err(_) => "",
        };
        for _ in 0..3 {
            frames.unbounded_send(data(LARGE)).unwrap();
        }
        drop(frames);
        let body = from_wasi(body).await;
        assert!(body.as_complete().is_none());
        assert_eq!(body.collect().await.unwrap().to_bytes().len(), 120_000);
    }

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
