//! What was pulled, kept for when it is wanted again.
//!
//! The folder is an [OCI image layout](https://github.com/opencontainers/image-spec/blob/main/image-layout.md), less the
//! configs, which nobody here reads: content lies under its digest in `blobs/sha256`, and `index.json` says what tags were
//! the last time. It can be removed at any time: what is wanted is pulled again. Content is whole before it has its name,
//! and its digest is checked whenever it is used, so that neither a crash nor a disk that forgets is ever deployed. What
//! nobody has wanted for a [month](UNUSED) goes when a host starts.

use super::{
    artifact::{Descriptor, MANIFEST},
    digest::{Digest, Digester},
    reference::{Reference, SCHEME},
};
use crate::disuse;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};

/// For how long content is kept that nobody wants. A manifest that is not started for longer than that may need its registry.
const UNUSED: Duration = Duration::from_secs(30 * 24 * 60 * 60);
const UNFINISHED: &str = ".tmp";
/// What the specification calls the name of a thing in an index.
const NAME: &str = "org.opencontainers.image.ref.name";
/// The largest index that is read. A line of it has about 300 bytes.
const LARGEST_INDEX: u64 = 16 << 20;

/// The folder.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    folder: PathBuf,
}

/// Why the folder can't be used.
#[derive(Debug, thiserror::Error)]
#[error("the cache of pulled components at {} can't be used: {source}", path.display())]
pub struct CacheError {
    path: PathBuf,
    source: io::Error,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    manifests: Vec<Descriptor>,
}

// === impl Cache ===

impl Cache {
    /// Opens the folder, and makes it where it is missing.
    pub(super) fn open(folder: &Path) -> Result<Self, CacheError> {
        let cache = Self { folder: folder.to_owned() };
        let blobs = cache.blobs();
        fs::create_dir_all(&blobs).map_err(|source| CacheError { path: blobs, source })?;
        let layout = cache.folder.join("oci-layout");
        if !layout.exists() {
            cache.put(&layout, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        Ok(cache)
    }

    /// Where the content of this digest is, or would be.
    pub(super) fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    fn blobs(&self) -> PathBuf {
        self.folder.join("blobs/sha256")
    }

    /// Where content can come together before it has a name.
    pub(super) fn unfinished(&self) -> PathBuf {
        self.folder.join(format!(".{:016x}{UNFINISHED}", fastrand::u64(..)))
    }

    /// Whether there is content of this digest, and it is still what it was. Who asks uses it.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        let check = || -> io::Result<bool> {
            let mut file = File::open(self.path(digest))?;
            disuse::touch(&file);
            let (mut digester, mut buffer) = (Digester::default(), vec![0; 64 << 10]);
            loop {
                match file.read(&mut buffer)? {
                    0 => return Ok(digester.finish() == *digest),
                    read => digester.update(&buffer[..read]),
                }
            }
        };
        check().unwrap_or(false)
    }

    /// Content that is small, if it is there and still what it was.
    pub(super) fn small(&self, digest: &Digest, most: u64) -> Option<Vec<u8>> {
        let mut content = Vec::new();
        let file = File::open(self.path(digest)).ok()?;
        disuse::touch(&file);
        file.take(most).read_to_end(&mut content).ok()?;
        (Digest::of(&content) == *digest).then_some(content)
    }

    /// Keeps content under its digest.
    pub(super) fn keep(&self, digest: &Digest, content: &[u8]) -> Result<(), CacheError> {
        self.put(&self.path(digest), content)
    }

    /// What `reference` was the last time.
    pub(super) fn known(&self, reference: &Reference) -> Option<Digest> {
        let name = name(reference);
        let index = self.index();
        index.manifests.iter().find(|it| it.annotations.get(NAME) == Some(&name)).map(|it| it.digest)
    }

    /// Notes what `reference` is now.
    pub(super) fn note(&self, reference: &Reference, manifest: &[u8]) -> Result<(), CacheError> {
        let name = name(reference);
        let mut descriptor = Descriptor::of(MANIFEST, manifest);
        descriptor.annotations.insert(NAME.to_owned(), name.clone());
        self.change_index(|manifests| {
            if !manifests.contains(&descriptor) {
                manifests.retain(|it| it.annotations.get(NAME) != Some(&name));
                manifests.push(descriptor);
            }
        })
    }

    /// Removes content that nobody has wanted for a month, and what tags were that came to it; also what was being pulled
    /// when somebody died.
    pub(super) fn tidy(&self) -> Result<(), CacheError> {
        let of = |path: &Path, can_go: fn(&str) -> bool| {
            disuse::remove(path, UNUSED, can_go).map_err(|source| CacheError { path: path.to_owned(), source })
        };
        of(&self.folder, |name| name.starts_with('.') && name.ends_with(UNFINISHED))?;
        match of(&self.blobs(), |_| true)? {
            0 => Ok(()),
            files => {
                tracing::info!(files, "pulled components that nobody wants any more were removed");
                self.change_index(|manifests| manifests.retain(|it| self.path(&it.digest).exists()))
            }
        }
    }

    fn change_index(&self, change: impl FnOnce(&mut Vec<Descriptor>)) -> Result<(), CacheError> {
        // Others may note something at this moment too, and what they noted must not be lost.
        let lock = self.folder.join("index.lock");
        let unusable = |source| CacheError { path: lock.clone(), source };
        let file = File::options().create(true).truncate(false).write(true).open(&lock).map_err(unusable)?;
        file.lock().map_err(unusable)?;
        let mut index = self.index();
        let before = index.manifests.clone();
        change(&mut index.manifests);
        if index.manifests == before {
            return Ok(());
        }
        let text = serde_json::to_vec_pretty(&index).map_err(|error| unusable(error.into()))?;
        self.put(&self.folder.join("index.json"), &text)
    }

    /// One that can't be read knows nothing, which is what it is for.
    fn index(&self) -> Index {
        let read = || -> Option<Index> {
            let mut text = Vec::new();
            File::open(self.folder.join("index.json")).ok()?.take(LARGEST_INDEX).read_to_end(&mut text).ok()?;
            serde_json::from_slice(&text).ok()
        };
        read().unwrap_or(Index { schema_version: 2, manifests: Vec::new() })
    }

    fn put(&self, path: &Path, content: &[u8]) -> Result<(), CacheError> {
        let temporary = self.unfinished();
        let write = || {
            let mut file = File::create_new(&temporary)?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&temporary, path)
        };
        write().map_err(|source| {
            let _ = fs::remove_file(&temporary);
            CacheError { path: path.to_owned(), source }
        })
    }
}

/// As tools write it that know images and not Wharf: without the scheme.
fn name(reference: &Reference) -> String {
    let text = reference.to_string();
    text.strip_prefix(SCHEME).map(str::to_owned).unwrap_or(text)
}

// === impl CacheError ===

impl CacheError {
    pub(super) fn new(path: &Path, source: io::Error) -> Self {
        Self { path: path.to_owned(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disuse::testing::forget;

    #[test]
    fn what_is_spoilt_is_not_there() {
        let folder = std::env::temp_dir().join(format!("wharf-oci-cache-{}", uuid::Uuid::new_v4()));
        let cache = Cache::open(&folder).expect("a temporary folder");
        let digest = Digest::of(b"content");
        assert!(!cache.has(&digest));
        cache.keep(&digest, b"content").expect("it can be written");
        assert!(cache.has(&digest));
        assert_eq!(cache.small(&digest, 100).as_deref(), Some(&b"content"[..]));
        assert_eq!(cache.small(&digest, 3), None);
        fs::write(cache.path(&digest), b"contents").expect("it can be written");
        assert!(!cache.has(&digest));
        assert_eq!(cache.small(&digest, 100), None);

        let tag: Reference = "oci://ghcr.io/order:1".parse().expect("a reference");
        assert_eq!(cache.known(&tag), None);
        for content in [&b"one"[..], b"two", b"two"] {
            cache.note(&tag, content).expect("it can be written");
            assert_eq!(cache.known(&tag), Some(Digest::of(content)));
        }
        assert_eq!(cache.known(&"oci://ghcr.io/order:2".parse().expect("a reference")), None);
        fs::write(folder.join("index.json"), "{").expect("it can be written");
        assert_eq!(cache.known(&tag), None);
        cache.note(&tag, b"one").expect("it can be written");
        assert_eq!(cache.known(&tag), Some(Digest::of(b"one")));
        let left = fs::read_dir(&folder).expect("it is there").flatten().map(|it| it.file_name());
        assert!(left.into_iter().all(|name| !name.to_string_lossy().ends_with(".tmp")));
        fs::remove_dir_all(&folder).expect("it is ours");
    }

    #[test]
    fn what_nobody_wants_any_more_goes_with_its_name() {
        let folder = std::env::temp_dir().join(format!("wharf-oci-old-{}", uuid::Uuid::new_v4()));
        let cache = Cache::open(&folder).expect("a temporary folder");
        let [old, used]: [Reference; 2] =
            ["1", "2"].map(|tag| format!("oci://ghcr.io/order:{tag}").parse().expect("one"));
        for (reference, manifest) in [(&old, b"old"), (&used, b"use")] {
            cache.keep(&Digest::of(manifest), manifest).expect("it can be written");
            cache.note(reference, manifest).expect("it can be written");
            forget(&cache.path(&Digest::of(manifest)), UNUSED);
        }
        fs::write(folder.join(".1.tmp"), "half").expect("it can be written");
        for kept in ["index.json", "oci-layout", ".1.tmp"] {
            forget(&folder.join(kept), UNUSED);
        }
        assert!(cache.has(&Digest::of(b"use")));
        cache.tidy().expect("it can be written");
        assert_eq!([&old, &used].map(|it| cache.known(it)), [None, Some(Digest::of(b"use"))]);
        assert!(!cache.path(&Digest::of(b"old")).exists() && cache.has(&Digest::of(b"use")));
        assert_eq!(["oci-layout", ".1.tmp"].map(|name| folder.join(name).exists()), [true, false]);
        fs::remove_dir_all(&folder).expect("it is ours");
    }

    #[test]
    fn notes_that_are_made_at_once_are_all_kept() {
        let folder = std::env::temp_dir().join(format!("wharf-oci-notes-{}", uuid::Uuid::new_v4()));
        let cache = Cache::open(&folder).expect("a temporary folder");
        let reference = |at: usize| format!("oci://ghcr.io/order:{at}").parse::<Reference>().expect("a reference");
        std::thread::scope(|scope| {
            for at in 0..8 {
                let cache = &cache;
                scope.spawn(move || cache.note(&reference(at), &[at as u8]).expect("it can be written"));
            }
        });
        for at in 0..8 {
            assert_eq!(cache.known(&reference(at)), Some(Digest::of(&[at as u8])));
        }
        fs::remove_dir_all(&folder).expect("it is ours");
    }
}
