//! Origins outside, by pooled connections.

use crate::{
    policy::{Fault, FaultKind},
    service::{Body, CallContext},
};
use hyper::{Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use std::time::Duration;

/// Connecting to an origin that does not answer is given up after this, whatever the deadline.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that was of no use for this long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How many connections to one origin are kept for later.
const IDLE_CONNECTIONS: usize = 64;

/// The client for all requests that leave the process. Cloned, it shares its connections.
#[derive(Clone)]
pub struct HttpClient(Client<HttpsConnector<HttpConnector>, Body>);

/// One origin outside.
pub struct External {
    origin: Uri,
    client: HttpClient,
}

// === impl HttpClient ===

impl HttpClient {
    /// A client that trusts the certificate authorities of Mozilla's list.
    pub fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector =
            HttpsConnectorBuilder::new().with_webpki_roots().https_or_http().enable_http1().wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Self(client)
    }
}

impl Default for HttpClient {
    fn default() -> Self {
        Self::new()
    }
}

// === impl External ===

impl External {
    /// The origin of `origin`; its path is of no meaning.
    pub fn new(origin: Uri, client: HttpClient) -> Self {
        Self { origin, client }
    }

    /// Sends a request, whose URI must be absolute.
    ///
    /// # Errors
    ///
    /// `unreachable` when no connection could be made, so that nothing was sent; `trapped` when it broke after that.
    pub async fn http(&self, context: &CallContext, request: Request<Body>) -> Result<Response<Body>, Fault> {
        match self.client.0.request(request).await {
            Ok(response) => Ok(response.map(Body::stream)),
            Err(error) => {
                let kind = if error.is_connect() { FaultKind::Unreachable } else { FaultKind::Trapped };
                let mut causes = error.to_string();
                let mut cause = std::error::Error::source(&error);
                while let Some(inner) = cause {
                    causes = format!("{causes}: {inner}");
                    cause = inner.source();
                }
                let (caller, origin) = (&context.caller, &self.origin);
                Err(Fault::new(kind, format!("`{caller}` could not get an answer from {origin}: {causes}")))
            }
        }
    }
}
