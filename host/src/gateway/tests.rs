//! The gateway over real sockets. Only what stands behind it is a double.

mod aggregates;
mod lifecycle;
mod limits;
mod rate_limits;
mod requests;
mod routing;
mod slow_clients;
mod streaming;
mod support;
