//! Building the components that a manifest gives as sources.
//!
//! A service in Rust is an ordinary crate, so cargo builds it and cargo alone decides what is out of date; crates of
//! one workspace are built by one call, because each call costs a resolution and what they share is built once. A
//! service in another language brings its own build command.
//!
//! The one thing that a newcomer's machine may lack is Rust's target `wasm32-wasip2`. Where rustup has it, cargo is
//! called as it is. Where it is missing, a toolchain is made from Debian's packages in the user's cache folder, once:
//! Wharf never calls rustup and changes nothing outside that folder, since a compiler is the user's to install. Where
//! neither can be had, one error says so.

mod cargo;
mod environment;
mod job;
mod programs;
mod sources;
#[cfg(test)]
mod testing;
mod toolchain;
mod watch;

pub use job::{BuildError, BuildJob, Builder, BuiltComponent, Crates, Outcome, build_components};
pub use programs::Programs;
pub use sources::Sources;
pub use toolchain::{Toolchain, ToolchainError, user_cache_dir};
pub use watch::{Changes, SourceWatch, SourceWatchError, Stirred, Waker};

/// Rust's name for what the components are compiled for.
pub const TARGET: &str = "wasm32-wasip2";
