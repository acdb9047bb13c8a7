//! An endpoint as a balancer hands it out: its address, and the connections that lead there.
//!
//! The two belong together: whose certificate a connection must meet depends on where the address is from. Kept apart, a
//! call that meets a change of the manifest would go to the old address by the new connections.

use super::{
    address::Address,
    client::{HttpClient, NoAnswer},
};
use crate::{policy::Fault, service::Body};
use hyper::{Request, Response, body::Incoming};

/// How one endpoint is reached.
#[derive(Clone, PartialEq)]
pub(super) struct Target {
    pub(super) address: Address,
    pub(super) client: HttpClient,
}

// === impl Target ===

impl Target {
    /// The endpoint under its name.
    pub(super) fn named(address: Address, client: &HttpClient) -> (String, Self) {
        (address.name(), Self { address, client: client.clone() })
    }

    /// The request as it is sent there.
    pub(super) fn direct<B>(&self, request: Request<B>) -> Result<Request<B>, Fault> {
        self.address.direct(request)
    }

    /// Sends a request that was directed there.
    pub(super) async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, NoAnswer> {
        self.client.send(request).await
    }
}
