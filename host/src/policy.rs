//! What guards a call between two services.
//!
//! Pure state machines over tokio's clock: nothing in here knows wasmtime or hyper, so that every transition can be
//! tested on a paused clock, and the same mechanism guards typed calls, HTTP requests and event deliveries.

mod fault;

pub use fault::{Fault, FaultKind};
