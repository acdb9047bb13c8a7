//! Services: endpoints, workers, instance pools and the typed links between components.

mod body;
mod context;

pub use body::{Body, BodyError};
pub use context::CallContext;
