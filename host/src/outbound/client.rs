//! The client for all requests that leave the process, by pooled connections.

use crate::service::Body;
use hyper::{Request, Response, Uri, body::Incoming};
use hyper_rustls::{DefaultServerNameResolver, HttpsConnector, HttpsConnectorBuilder, ResolveServerName};
use hyper_util::{
    client::legacy::{Client, Error, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use std::{error::Error as _, sync::Arc, time::Duration};

/// Connecting to an origin that does not answer is given up after this, whatever the deadline.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that was of no use for this long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How many connections to one origin are kept for later.
const IDLE_CONNECTIONS: usize = 64;

/// A client with its connections. Cloned, it shares them; two are equal if they do.
#[derive(Clone)]
pub struct HttpClient(Arc<Inner>);

struct Inner {
    tls: Tls,
    client: Client<HttpsConnector<HttpConnector>, Body>,
}

/// By what a client knows that a server is who it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tls {
    /// The origin whose host's certificate is expected, whatever address a request is sent to. Without one, it is the
    /// host that the request is sent to.
    pub(super) expected: Option<Uri>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct NoAnswer {
    /// Whether there was no connection, so that nothing was sent.
    pub(super) nothing_sent: bool,
    /// What went wrong, with its causes.
    pub(super) message: String,
}

// === impl HttpClient ===

impl HttpClient {
    /// A client that trusts the certificate authorities of Mozilla's list.
    pub fn new() -> Self {
        Self::build(Tls::default())
    }

    /// This client, if it goes by `tls`, or else a new one.
    pub(super) fn with(&self, tls: Tls) -> Self {
        if self.0.tls == tls { self.clone() } else { Self::build(tls) }
    }

    fn build(tls: Tls) -> Self {
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let mut builder = HttpsConnectorBuilder::new().with_webpki_roots().https_or_http();
        if let Some(origin) = tls.expected.clone() {
            let resolver = move |_: &Uri| DefaultServerNameResolver::default().resolve(&origin);
            builder = builder.with_server_name_resolver(resolver);
        }
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .pool_timer(TokioTimer::new())
            .build(builder.enable_http1().wrap_connector(connector));
        Self(Arc::new(Inner { tls, client }))
    }

    /// Sends a request, whose URI must be absolute.
    pub(super) async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, NoAnswer> {
        self.0.client.request(request).await.map_err(|error| NoAnswer::of(&error))
    }
}

impl Default for HttpClient {
    fn default() -> Self {
        Self::new()
    }
}

impl PartialEq for HttpClient {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

// === impl NoAnswer ===

impl NoAnswer {
    fn of(error: &Error) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            message = format!("{message}: {inner}");
            cause = inner.source();
        }
        Self { nothing_sent: error.is_connect(), message }
    }
}
