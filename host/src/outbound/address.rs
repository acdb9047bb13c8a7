//! How one endpoint is reached.

use crate::policy::{Fault, FaultKind};
use hyper::{
    Request, Uri, Version,
    header::{HOST, HeaderValue},
};
use std::net::SocketAddr;

/// Where requests to an endpoint go, and which host they name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// Scheme and authority; the path is of no meaning.
    to: Uri,
    host: HeaderValue,
}

// === impl Address ===

impl Address {
    /// The endpoint that is this origin. `None` if it is none.
    pub(super) fn of_origin(origin: &Uri) -> Option<Self> {
        let host = HeaderValue::from_str(origin.authority()?.as_str()).ok()?;
        origin.scheme()?;
        Some(Self { to: origin.clone(), host })
    }

    /// The endpoint at this address of an origin that was resolved: who is asked there still hears the origin's own name.
    pub(super) fn resolved(origin: &Uri, address: SocketAddr) -> Option<Self> {
        let by_name = Self::of_origin(origin)?;
        let to = Uri::builder().scheme(origin.scheme()?.clone()).authority(address.to_string());
        Some(Self { to: to.path_and_query("/").build().ok()?, ..by_name })
    }

    /// The origin, for people.
    pub(super) fn name(&self) -> String {
        self.to.to_string().trim_end_matches('/').to_owned()
    }

    /// The request as it is sent there.
    pub(super) fn direct<B>(&self, request: Request<B>) -> Result<Request<B>, Fault> {
        let (mut parts, body) = request.into_parts();
        let mut to = self.to.clone().into_parts();
        to.path_and_query = parts.uri.into_parts().path_and_query.or(to.path_and_query);
        parts.uri = Uri::from_parts(to).map_err(|error| {
            Fault::new(FaultKind::Denied, format!("the request has a target that {} can't have: {error}", self.name()))
        })?;
        // A neighbour's name, or the gateway's own, means nothing there. What the gateway was called is in
        // `x-forwarded-host`.
        parts.headers.insert(HOST, self.host.clone());
        parts.version = Version::HTTP_11;
        Ok(Request::from_parts(parts, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directed(address: &Address, uri: &str) -> (String, String) {
        let request = Request::builder().uri(uri).header("host", "localhost:3000").body(()).unwrap();
        let request = address.direct(request).unwrap();
        (request.uri().to_string(), request.headers()["host"].to_str().unwrap().to_owned())
    }

    #[test]
    fn a_request_goes_to_the_endpoint_and_names_its_host() {
        let address = Address::of_origin(&"http://pay.example.com:8080".parse().unwrap()).unwrap();
        assert_eq!(address.name(), "http://pay.example.com:8080");
        for uri in ["/charges?of=1", "http://payment.internal/charges?of=1"] {
            let (uri, host) = directed(&address, uri);
            assert_eq!((&*uri, &*host), ("http://pay.example.com:8080/charges?of=1", "pay.example.com:8080"));
        }
        assert_eq!(directed(&address, "http://payment.internal").0, "http://pay.example.com:8080/");
        assert_eq!(directed(&address, "*").0, "http://pay.example.com:8080*");
        assert_eq!(Address::of_origin(&"/relative".parse().unwrap()), None);
    }

    #[test]
    fn an_address_that_was_resolved_still_hears_the_name() {
        let origin: Uri = "https://pay.example.com".parse().unwrap();
        for (address, name) in [("10.0.0.1:443", "https://10.0.0.1:443"), ("[::1]:443", "https://[::1]:443")] {
            let address = Address::resolved(&origin, address.parse().unwrap()).unwrap();
            assert_eq!(address.name(), name);
            assert_eq!(directed(&address, "/a"), (format!("{name}/a"), "pay.example.com".into()));
        }
    }
}
