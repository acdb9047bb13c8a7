//! Components in OCI registries: the ones that container images are kept in.
//!
//! `component = "oci://registry/name:tag"` is pulled before the host starts. What is in a registry follows the [Wasm OCI
//! artifact layout](https://tag-runtime.cncf.io/wgs/wasm/deliverables/wasm-oci-artifact/) of the CNCF, an image manifest
//! whose config is an `application/vnd.wasm.config.v0+json` and whose one layer is the component as it is,
//! `application/wasm`; so what `wkg` or `oras` push is pulled here, and what `wharf push` pushes is pulled there.
//!
//! - **What is pulled is what was meant.** A digest is that of the manifest, the manifest has the digest of the component,
//!   and both are checked, also when they come from the cache. A registry, or whoever is between, can change a tag, but
//!   not what a digest is. Who may decide what a tag is, is a matter of [trust](crate::trust).
//! - **A registry that is away keeps nothing from starting.** A digest that is in the cache is never asked for again. A
//!   tag is, at each start; when no registry answers, or only by an error of its own, it is what it was the last time.
//!   A registry that answers that there is no such tag, or not for you, is believed.
//! - **Nothing grows without end.** Components are as large as one that is deployed may be, manifests and answers are
//!   small, each step has its time, and a redirect leads no further than a few others.
//!
//! The client is a small one of Wharf's own, on the connections that calls leave by too. The library for this,
//! `oci-client`, would bring `reqwest`, a second TLS provider that is built from C, `chrono` and `regex`, 38 crates in
//! all, for the six requests that are made here.

mod artifact;
mod cache;
mod challenge;
mod credentials;
mod digest;
mod pull;
mod push;
mod reference;
mod registry;

pub use cache::CacheError;
pub use credentials::{Credentials, CredentialsError};
pub use digest::Digest;
pub use pull::{Provenance, PullError, Pulled, Puller};
pub use push::{PushError, push};
pub use reference::{Reference, ReferenceError, Version};
pub use registry::RegistryError;

/// The largest component that is pulled or pushed.
pub const LARGEST_COMPONENT: u64 = 256 << 20;

/// How far a pull is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that are here.
    pub done: u64,
    /// Bytes of all.
    pub of: u64,
}

#[cfg(test)]
mod tests;
