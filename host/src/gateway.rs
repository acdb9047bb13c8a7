//! The HTTP front of the house: turns requests into calls, and faults into answers.
//!
//! Goals, in this order: a hostile client takes no more than its share; what a client sends reaches a service only in a
//! form that service and gateway read the same way; an ordinary small request costs next to nothing.
//!
//! The choices that follow:
//! - **One port, HTTP/1.1 and HTTP/2 by prior knowledge.** TLS belongs to what stands in front.
//! - **Everything a client controls is bounded**: head size, body size, streams of a connection, connections, and how
//!   long each of head, body, idleness and the reading of an answer may take ([`GatewayConfig`]).
//! - **Paths are matched as they were sent** and never normalised. What two readers could read differently (bad percent
//!   encoding, NUL, dot segments) is refused with 400 instead.
//! - **A small request body is read before the call is made**, so that a slow client occupies a connection and not an
//!   instance; larger ones stream.
//! - **What proxies add is set here and not believed**: `X-Forwarded-For`, `-Proto` and `-Host` say what this gateway
//!   saw, and what a client put there is replaced. Hop-by-hop headers go no further in either direction.
//! - **Who does not read is cut off**, so that an answer that nobody takes does not hold the instance that makes it.
//! - **Who asks too often is told so** before the body is read, with the fields of the IETF's draft (`limit`).
//! - **What clients may ask is said here too**: the gateway serves the OpenAPI document, and holds it to the routes
//!   (`document`).
//! - **A fault is an `application/problem+json`** (RFC 9457) whose `type` is `urn:wharf:fault:<kind>`; what HTTP itself
//!   explains (404, 405, 413 and so on) has the type `about:blank`. `instance` names the trace.
//!
//! Left out on purpose: upgrades (WebSocket), CONNECT, compression, caching, rewriting of bodies.
//!
//! The gateway knows neither wasmtime nor policies: they are behind [`Upstream`]. Of the manifest it knows the paths, which
//! are read there and nowhere else.

mod aggregate;
mod answer;
mod config;
mod connection;
mod document;
mod exchange;
mod handler;
mod headers;
mod intake;
mod limit;
mod listener;
mod path;
mod problem;
mod pump;
mod routes;
mod template;
mod watch;

#[cfg(test)]
mod tests;

pub use config::{ConfigError, GatewayConfig};
pub use connection::SharedTerms;
pub use document::{ApiDocument, DocumentError, Operation};
pub use limit::RouteLimitSnapshot;
pub use listener::{BindError, Drained, Gateway};
pub(crate) use routes::methods_and_path as route_name;
pub use routes::{Aggregate, Part, Route, RouteError, Routes, RoutesBuilder, SharedRoutes};

use crate::{
    policy::Fault,
    service::{Body, CallContext},
};
use futures::future::BoxFuture;
use http::{Request, Response};

/// What stands behind a route: a service, with the policies of the edge from the gateway to it.
///
/// The request has an origin-form target (path and query, prefix stripped), a `Host`, a `traceparent`, and no
/// hop-by-hop headers. The deadline in the context is the upstream's to keep. When the client leaves, the future is
/// dropped.
pub trait Upstream: Send + Sync + 'static {
    /// Makes the call; the answer's body may still be streaming when this returns.
    fn call(&self, ctx: CallContext, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, Fault>>;
}
