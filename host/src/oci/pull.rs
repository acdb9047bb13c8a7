//! From a reference to a file.

use super::{
    Progress,
    artifact::{ArtifactError, Descriptor, MANIFEST, Manifest},
    cache::{Cache, CacheError},
    credentials::{Credentials, CredentialsError},
    digest::{Digest, Digester},
    reference::{Reference, Version},
    registry::{Asking, LARGEST_ANSWER, LONGEST_TRANSFER, Registry, RegistryError},
};
use crate::outbound::HttpClient;
use http::{Method, header::ACCEPT};
use std::path::{Path, PathBuf};
use tokio::{fs::File, io::AsyncWriteExt, time::timeout};

/// Pulls components into a folder.
#[derive(Clone, Debug)]
pub struct Puller {
    client: HttpClient,
    /// `None`: those of the user, which are read only when a registry is asked.
    credentials: Option<Credentials>,
    cache: Cache,
}

/// A component that was pulled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The file.
    pub path: PathBuf,
    /// The digest of its manifest: what a reference to just this one ends with.
    pub digest: Digest,
    /// Where it came from.
    pub provenance: Provenance,
}

/// Where a pulled component came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Provenance {
    /// From the registry, just now.
    Registry,
    /// From the cache: it is what is wanted.
    Cache,
    /// From the cache: it is what was wanted the last time, and the registry is away.
    LastKnown {
        /// Why it is.
        away: String,
    },
}

/// Why a component was not pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry can't be had or says no.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The registry is away, and the cache has nothing to take instead.
    #[error("{0}, and the component is not in the cache")]
    NotCached(RegistryError),
    /// It is something else.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// What came is not what was asked for.
    #[error(
        "what the registry {registry} sends is not what was asked for: {what} should have the digest {expected}, and has \
         {found}; somebody has changed it, or a connection spoils it"
    )]
    Changed {
        /// The registry.
        registry: String,
        /// What is not what it should be.
        what: &'static str,
        /// Its digest.
        expected: Digest,
        /// The digest of what came.
        found: Digest,
    },
    /// Less came than there is.
    #[error("the registry {registry} sends {found} bytes of a component that has {expected}")]
    Short {
        /// The registry.
        registry: String,
        /// Bytes that it has.
        expected: u64,
        /// Bytes that came.
        found: u64,
    },
    /// There is no place for it.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// It is not known who one is.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

/// Does what the disk takes time for on a thread of its own.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

// === impl Puller ===

impl Puller {
    /// One that keeps what it pulls in `folder`, and is to registries who Docker's client is.
    ///
    /// # Errors
    ///
    /// When the folder can't be used.
    pub fn new(folder: &Path) -> Result<Self, PullError> {
        Ok(Self { client: HttpClient::new(), credentials: None, cache: Cache::open(folder)? })
    }

    /// One that is somebody else.
    ///
    /// # Errors
    ///
    /// When the folder can't be used.
    pub fn with_credentials(folder: &Path, credentials: Credentials) -> Result<Self, PullError> {
        Ok(Self { credentials: Some(credentials), ..Self::new(folder)? })
    }

    /// Pulls what is not in the cache. `progress` is told how far a transfer is.
    ///
    /// # Errors
    ///
    /// When it can't be had from anywhere, or what comes is not what it should be.
    pub async fn pull(&self, reference: &Reference, progress: &(dyn Fn(Progress) + Sync)) -> Result<Pulled, PullError> {
        let pulled = timeout(LONGEST_TRANSFER, self.pull_anywhere(reference, progress)).await;
        pulled.unwrap_or_else(|_| {
            let reason = format!("it takes longer than {} minutes", LONGEST_TRANSFER.as_secs() / 60);
            Err(RegistryError::Away { registry: reference.registry.clone(), reason }.into())
        })
    }

    /// Lets go what nobody has pulled or found here for a month. To be called after what is needed was pulled.
    ///
    /// # Errors
    ///
    /// When the folder can't be used.
    pub async fn tidy(&self) -> Result<(), PullError> {
        let cache = self.cache.clone();
        aside(move || cache.tidy()).await.unwrap_or(Ok(())).map_err(PullError::Cache)
    }

    async fn pull_anywhere(
        &self,
        reference: &Reference,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Pulled, PullError> {
        if let Version::Digest(digest) = reference.version
            && let Some(path) = self.cached(digest).await
        {
            return Ok(Pulled { path, digest, provenance: Provenance::Cache });
        }
        let away = match self.pull_anew(reference, progress).await {
            Err(PullError::Registry(error @ RegistryError::Away { .. })) => error,
            pulled => return pulled,
        };
        let (cache, of) = (self.cache.clone(), reference.clone());
        let known = aside(move || cache.known(&of)).await.flatten();
        if let Some(digest) = known
            && let Some(path) = self.cached(digest).await
        {
            return Ok(Pulled { path, digest, provenance: Provenance::LastKnown { away: away.to_string() } });
        }
        Err(PullError::NotCached(away))
    }

    /// The component whose manifest has this digest, if all of it is in the cache.
    async fn cached(&self, digest: Digest) -> Option<PathBuf> {
        let cache = self.cache.clone();
        let found = aside(move || {
            let manifest = Manifest::parse(&cache.small(&digest, LARGEST_ANSWER)?).ok()?;
            let component = manifest.component().ok()?.digest;
            cache.has(&component).then(|| cache.path(&component))
        });
        found.await.flatten()
    }

    async fn pull_anew(
        &self,
        reference: &Reference,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<Pulled, PullError> {
        let credentials = self.credentials.clone().map_or_else(Credentials::of_user, Ok)?;
        let mut registry = Registry::new(&self.client, &credentials, reference)?;
        let target = format!("manifests/{}", reference.version());
        let accept = format!("{MANIFEST}, application/vnd.oci.image.index.v1+json");
        let asking = Asking { header: Some((ACCEPT, &accept)), ..Asking::new(Method::GET, &target) };
        let (headers, manifest) = registry.ask_small(asking).await?;
        let digest = Digest::of(&manifest);
        // A tag has no digest that is known here, but the registry knows what it meant to send.
        let told = headers.get("docker-content-digest").and_then(|told| told.to_str().ok()?.parse().ok());
        let expected = if let Version::Digest(expected) = reference.version { Some(expected) } else { told };
        if let Some(expected) = expected
            && expected != digest
        {
            return Err(changed(reference, "the manifest", expected, digest));
        }
        let component = Manifest::parse(&manifest)?.component()?.clone();
        let (cache, wanted) = (self.cache.clone(), component.digest);
        let has = aside(move || cache.has(&wanted)).await.unwrap_or(false);
        if !has {
            self.fetch(&mut registry, reference, &component, progress).await?;
        }
        // Only what is whole is known.
        let (cache, of) = (self.cache.clone(), reference.clone());
        let noted = aside(move || cache.keep(&digest, &manifest).and_then(|()| cache.note(&of, &manifest)));
        noted.await.unwrap_or(Ok(()))?;
        let provenance = if has { Provenance::Cache } else { Provenance::Registry };
        Ok(Pulled { path: self.cache.path(&component.digest), digest, provenance })
    }

    /// Fetches a component into the cache.
    async fn fetch(
        &self,
        registry: &mut Registry<'_>,
        reference: &Reference,
        component: &Descriptor,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<(), PullError> {
        let target = format!("blobs/{}", component.digest);
        let response = registry.ask(Asking::new(Method::GET, &target)).await?;
        let temporary = self.cache.unfinished();
        let path = self.cache.path(&component.digest);
        let unusable = |source| PullError::Cache(CacheError::new(&temporary, source));
        let receive = async {
            let mut file = File::create_new(&temporary).await.map_err(unusable)?;
            let (mut digester, mut done) = (Digester::default(), 0);
            let mut pieces = registry.pieces(response, component.size);
            progress(Progress { done, of: component.size });
            while let Some(piece) = pieces.next().await? {
                digester.update(&piece);
                file.write_all(&piece).await.map_err(unusable)?;
                done += piece.len() as u64;
                progress(Progress { done, of: component.size });
            }
            if done < component.size {
                let registry = reference.registry.clone();
                return Err(PullError::Short { registry, expected: component.size, found: done });
            }
            let found = digester.finish();
            if found != component.digest {
                return Err(changed(reference, "the component", component.digest, found));
            }
            file.sync_all().await.map_err(unusable)?;
            tokio::fs::rename(&temporary, &path).await.map_err(unusable)
        };
        // Also when it is given up in the middle.
        let _removed = Removed(&temporary);
        receive.await
    }
}

fn changed(reference: &Reference, what: &'static str, expected: Digest, found: Digest) -> PullError {
    PullError::Changed { registry: reference.registry.clone(), what, expected, found }
}

/// A file that goes, unless it has got another name.
struct Removed<'a>(&'a Path);

impl Drop for Removed<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0);
    }
}
