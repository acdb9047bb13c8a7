//! Services: endpoints, workers, instance pools, and the typed links between components.
//!
//! ```text
//! edge  ->  endpoint  ->  pool  ->  worker  ->  instance
//! ```
//!
//! Every kind of call takes this way: HTTP requests, typed function calls and events are one [`call::Call`], placed by
//! one pool, run by one loop.

mod body;
mod call;
mod callee;
mod context;
mod desk;
mod driver;
mod edge;
mod endpoint;
mod exports;
mod fallback;
mod fixed;
mod health;
mod http;
mod link;
mod messages;
mod metadata;
mod pool;
mod revision;
mod scope;
mod set;
mod shape;
mod state;
mod tape;
mod trial;
mod worker;

pub(crate) use body::{Gathered, Gathering};
pub(crate) use http::into_wasi;
pub(crate) use state::current_call;
pub use {
    body::{Body, BodyError},
    context::CallContext,
    edge::{Edge, Endpoint, Idempotent},
    endpoint::Service,
    exports::{FunctionKey, HttpVersion},
    fixed::FixedResults,
    health::HEALTH,
    metadata::Metadata,
    pool::{InstanceSettings, PoolSnapshot},
    revision::{Revision, RevisionError, RevisionInfo},
    scope::Scope,
    shape::{Concern, Difference, Grants, InterfaceChange, Misfit, Shape, ShapeChanges, misfits},
    state::State,
    tape::{MOST_BYTES, MOST_UNDER_WAY, MOST_VALUES, Tape},
    trial::{Marked, Trial},
};

#[cfg(test)]
mod tests;
