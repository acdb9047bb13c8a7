//! From a file to a reference.

use super::{
    artifact::{Artifact, MANIFEST, NoComponent},
    credentials::Credentials,
    digest::Digest,
    reference::{Reference, Version},
    registry::{Asking, LONGEST_TRANSFER, Registry, RegistryError, encoded, location},
};
use crate::outbound::HttpClient;
use bytes::Bytes;
use http::{Method, header::CONTENT_TYPE};
use tokio::time::timeout;

/// Why a component was not pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The registry can't be had or says no.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The file is none.
    #[error(transparent)]
    NoComponent(#[from] NoComponent),
    /// A digest follows from what is pushed.
    #[error("a component is pushed to a tag, as in oci://{registry}/{name}:1.0.0; its digest follows from what it is")]
    NoTag {
        /// The registry.
        registry: String,
        /// The repository.
        name: String,
    },
}

/// Pushes a component, where it is not there yet, and calls it by the reference's tag. The digest of its manifest.
///
/// # Errors
///
/// When it is no component, or the registry does not take it.
pub async fn push(credentials: &Credentials, reference: &Reference, wasm: Vec<u8>) -> Result<Digest, PushError> {
    let Version::Tag(tag) = &reference.version else {
        return Err(PushError::NoTag { registry: reference.registry.clone(), name: reference.name.clone() });
    };
    let artifact = Artifact::of(&wasm, &reference.name)?;
    let pushed = async {
        let mut registry = Registry::new(&HttpClient::new(), credentials, reference)?;
        blob(&mut registry, wasm.into()).await?;
        blob(&mut registry, artifact.config.into()).await?;
        let digest = Digest::of(&artifact.manifest);
        let target = format!("manifests/{tag}");
        let header = Some((CONTENT_TYPE, MANIFEST));
        let asking = Asking { header, body: artifact.manifest.into(), ..Asking::new(Method::PUT, &target) };
        registry.ask_small(asking).await?;
        Ok(digest)
    };
    timeout(LONGEST_TRANSFER, pushed).await.unwrap_or_else(|_| {
        let reason = format!("it takes longer than {} minutes", LONGEST_TRANSFER.as_secs() / 60);
        Err(RegistryError::Away { registry: reference.registry.clone(), reason }.into())
    })
}

/// Uploads content, unless the registry has it.
async fn blob(registry: &mut Registry<'_>, content: Bytes) -> Result<(), RegistryError> {
    let digest = Digest::of(&content);
    let there = registry.ask(Asking::new(Method::HEAD, &format!("blobs/{digest}"))).await?;
    if there.status().is_success() {
        return Ok(());
    }
    let begun = registry.ask(Asking::new(Method::POST, "blobs/uploads/")).await?;
    let session = location(&begun).ok_or_else(|| registry.nonsense("an upload has begun nowhere"))?;
    let separator = if session.contains('?') { '&' } else { '?' };
    let target = format!("{session}{separator}digest={}", encoded(&digest.to_string()));
    let header = Some((CONTENT_TYPE, "application/octet-stream"));
    registry.ask_small(Asking { header, body: content, ..Asking::new(Method::PUT, &target) }).await?;
    Ok(())
}
