//! The client for all requests that leave the process, by pooled connections.

use super::authorities::Authorities;
use crate::service::Body;
use hyper::{Request, Response, Uri, body::Incoming};
use hyper_rustls::{DefaultServerNameResolver, HttpsConnector, HttpsConnectorBuilder, ResolveServerName};
use hyper_util::{
    client::legacy::{Client, Error, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{CertificateError, ClientConfig};
use std::{error::Error as StdError, fmt, io, sync::Arc, time::Duration};

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
    /// Who is trusted in place of Mozilla's list.
    pub(super) authorities: Option<Authorities>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) struct NoAnswer {
    /// Whether there was no connection, so that nothing was sent.
    pub(crate) nothing_sent: bool,
    /// What went wrong, with its causes.
    pub(crate) message: String,
}

// === impl HttpClient ===

impl HttpClient {
    /// A client that trusts the certificate authorities of Mozilla's list.
    pub fn new() -> Self {
        Self::build(Tls::default())
    }

    /// A client that trusts these authorities in place of Mozilla's list.
    pub(crate) fn trusting(&self, authorities: Authorities) -> Self {
        self.with(Tls { authorities: Some(authorities), ..Tls::default() })
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
        let builder = HttpsConnectorBuilder::new();
        let builder = match &tls.authorities {
            Some(authorities) => {
                let config = ClientConfig::builder().with_root_certificates(authorities.roots());
                builder.with_tls_config(config.with_no_client_auth())
            }
            None => builder.with_webpki_roots(),
        };
        let mut builder = builder.https_or_http();
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
    pub(crate) async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, NoAnswer> {
        self.0.client.request(request).await.map_err(|error| NoAnswer::of(&error))
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpClient({:?})", self.0.tls)
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
            if let Some(error) = refused_certificate(inner) {
                message = certificate_in_words(error);
                break;
            }
            message = format!("{message}: {inner}");
            cause = inner.source();
        }
        Self { nothing_sent: error.is_connect(), message }
    }
}

/// What is wrong with a server's certificate, if that is the cause.
fn refused_certificate<'a>(cause: &'a (dyn StdError + 'static)) -> Option<&'a CertificateError> {
    // An I/O error hides what it is made of: its source is the source of that. And one may be made of another.
    if let Some(inside) = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        return refused_certificate(inside);
    }
    match cause.downcast_ref()? {
        rustls::Error::InvalidCertificate(error) => Some(error),
        _ => None,
    }
}

fn certificate_in_words(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => {
            "its certificate is signed by no authority that is trusted; one of your own is named by `ca`".into()
        }
        CertificateError::BadSignature => {
            "its certificate names an authority that is trusted, and is signed by another key".into()
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names: Vec<_> = presented.iter().map(|name| bare(name)).collect();
            let names = if names.is_empty() { "no name at all".into() } else { names.join(", ") };
            format!("its certificate is for {names} and not for {}", expected.to_str())
        }
        error => format!("its certificate is refused: {error}"),
    }
}

/// The name in what rustls shows of it: `DnsName("pay.example.com")`.
fn bare(name: &str) -> &str {
    let inside = name.split_once('(').and_then(|(_, inside)| inside.strip_suffix(')'));
    inside.unwrap_or(name).trim_matches('"')
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::ServerName;

    #[test]
    fn a_refused_certificate_is_found_in_its_wrapping() {
        let refused = || rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let twice = io::Error::other(io::Error::other(refused()));
        for cause in [&refused() as &(dyn StdError + 'static), &io::Error::other(refused()), &twice] {
            assert_eq!(refused_certificate(cause), Some(&CertificateError::UnknownIssuer));
        }
        for cause in [&rustls::Error::DecryptError as &(dyn StdError + 'static), &io::Error::other("refused")] {
            assert_eq!(refused_certificate(cause), None);
        }
    }

    #[test]
    fn a_wrong_name_is_told_with_the_right_one() {
        let told = |presented: &[&str]| {
            let expected = ServerName::try_from("pay.example.com").unwrap();
            let presented = presented.iter().map(ToString::to_string).collect();
            certificate_in_words(&CertificateError::NotValidForNameContext { expected, presented })
        };
        assert_eq!(
            told(&["DnsName(\"a.example\")", "IpAddress(10.0.0.1)"]),
            "its certificate is for a.example, 10.0.0.1 and not for pay.example.com"
        );
        assert_eq!(told(&[]), "its certificate is for no name at all and not for pay.example.com");
        let expired = certificate_in_words(&CertificateError::Expired);
        assert!(expired.starts_with("its certificate is refused: "), "{expired}");
    }
}
