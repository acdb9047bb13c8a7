//! Tapes beside wasmtime's own dynamic values: both must say the same of every type.

mod hostile;
mod relay;
mod types;
mod written;
