//! Wharf runs microservices as WebAssembly components inside one process.
//!
//! Every call that enters a service takes one way through the house:
//!
//! ```text
//! caller  ->  edge (policy)  ->  endpoint  ->  worker  ->  instance
//! ```
//!
//! The modules are the stations of that way, and imports run one way: `cli` uses `app`, `app` assembles everything
//! else, `policy` knows neither wasmtime nor hyper.

pub mod app;
pub mod build;
mod disuse;
pub mod engine;
pub mod events;
pub mod gateway;
pub mod inbox;
pub mod keyvalue;
pub mod mail;
pub mod manifest;
pub mod oci;
pub mod outbound;
pub mod outbox;
pub mod policy;
pub mod rollout;
pub mod saga;
pub mod service;
pub mod store;
pub mod telemetry;
pub mod trust;
