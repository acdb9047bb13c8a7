//! Components that are in registries.

use super::say;
use anyhow::Context;
use futures::future::try_join_all;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};
use tokio::time::{Duration, Instant};
use wharf::{
    app::Components,
    manifest::{Manifest, Placed},
    oci::{Progress, Provenance, PullError, Pulled, Puller, Reference},
};

/// How often one hears of a transfer that takes long.
const LINES: Duration = Duration::from_secs(3);

/// Says now and then how far a transfer is that takes long.
struct Telling<'a> {
    of: &'a Reference,
    last: Mutex<Instant>,
}

/// Pulls the components of these services.
pub async fn components(manifest: &Manifest, wanted: &[(&str, &Placed<Reference>)]) -> anyhow::Result<Components> {
    let puller = puller(manifest)?;
    // Several services may have the same.
    let mut services: BTreeMap<&Reference, Vec<_>> = BTreeMap::new();
    for (service, reference) in wanted {
        services.entry(&reference.value).or_default().push((*service, *reference));
    }
    let pulling = services.into_iter().map(|(reference, services)| {
        let puller = &puller;
        async move {
            let pulled = pull(puller, reference).await;
            let pulled = pulled
                .map_err(|error| manifest.errors_at(services.iter().map(|(_, place)| place.with(error.to_string()))))?;
            let each = services.into_iter().map(move |(service, _)| (service.to_owned(), pulled.clone()));
            anyhow::Ok(each.collect::<Vec<_>>())
        }
    });
    Ok(try_join_all(pulling).await?.into_iter().flatten().collect())
}

/// The component that a command names: a file, or one in a registry.
pub async fn component(manifest: &Manifest, named: &Path) -> anyhow::Result<Vec<u8>> {
    let path = match named.to_str().filter(|text| Reference::is_meant(text)) {
        None => named.to_owned(),
        Some(text) => {
            let pulled = pull(&puller(manifest)?, &text.parse()?).await;
            pulled.with_context(|| format!("{text} can't be pulled"))?
        }
    };
    std::fs::read(path).with_context(|| format!("the component {} can't be read", named.display()))
}

/// Lets go what was pulled into this folder and that nobody has wanted for long.
pub async fn tidy(folder: PathBuf) {
    // Nothing was ever pulled.
    if !folder.exists() {
        return;
    }
    let tidied = async { Puller::new(&folder)?.tidy().await };
    if let Err(error) = tidied.await {
        tracing::warn!(%error, "what was pulled and nobody wants any more can't be removed");
    }
}

fn puller(manifest: &Manifest) -> anyhow::Result<Puller> {
    Ok(Puller::new(&manifest.pulled())?)
}

async fn pull(puller: &Puller, reference: &Reference) -> Result<PathBuf, PullError> {
    let telling = Telling { of: reference, last: Mutex::new(Instant::now()) };
    let Pulled { path, digest, provenance } = puller.pull(reference, &|progress| telling.tell(progress)).await?;
    match provenance {
        Provenance::Registry => say("Pulled", format_args!("{reference} ({digest})")),
        Provenance::Cache => {}
        Provenance::LastKnown { away } => {
            say("Cached", format_args!("{reference} is what it was the last time ({digest}): {away}"));
        }
    }
    Ok(path)
}

/// Bytes as people read them.
pub fn mebibytes(bytes: u64) -> String {
    let tenths = (bytes * 10) >> 20;
    format!("{}.{}", tenths / 10, tenths % 10)
}

// === impl Telling ===

impl Telling<'_> {
    fn tell(&self, Progress { done, of }: Progress) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() >= LINES {
            *last = Instant::now();
            say("Pulling", format_args!("{}: {} of {} MiB", self.of, mebibytes(done), mebibytes(of)));
        }
    }
}
