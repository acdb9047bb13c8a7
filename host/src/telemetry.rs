//! What can be seen of a running host: traces, metrics and logs.

mod access_log;
mod output;
mod trace;

pub use access_log::{AccessFormat, AccessLog, AccessRecord};
pub use output::{GuestOutput, LastWords};
pub use trace::TraceContext;
