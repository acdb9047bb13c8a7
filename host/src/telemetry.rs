//! What can be seen of a running host: traces, metrics and logs.

mod output;
mod trace;

pub use output::GuestOutput;
pub use trace::TraceContext;
