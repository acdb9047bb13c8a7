//! What can be seen of a running host: traces, metrics and logs.

mod trace;

pub use trace::TraceContext;
