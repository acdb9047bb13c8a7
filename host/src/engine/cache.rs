//! Compiled code on disk.
//!
//! Compiling is slow (tenths of a second for a small component, many seconds for a JavaScript one) and moves the
//! latency of every neighbour; loading what was compiled before takes a fraction of a millisecond. A file's name is the
//! hash of the component together with everything of the engine that the code depends on, so a stale one is never
//! found. What no revision is of and nobody has used for [days](UNUSED) is removed now and then.

use super::compiler;
use crate::disuse;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};
use wasmtime::{Engine, component::Component};

/// For how long code is kept that no revision is of: `wharf check` and who goes on with what he tried yesterday find it.
const UNUSED: Duration = Duration::from_secs(3 * 24 * 60 * 60);
const SUFFIX: &str = ".cwasm";
const UNFINISHED: &str = ".tmp";

/// The folder of compiled code.
pub struct CodeCache {
    folder: PathBuf,
    /// Everything of the engine and this processor that compiled code depends on.
    compatibility: u64,
}

/// Why a component could not be made ready to run.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The folder can't be used.
    #[error("the cache of compiled code at {} can't be used: {source}", path.display())]
    Folder {
        /// The folder or file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The bytes are no component, or one that this engine does not take.
    #[error("{0}")]
    Compile(String),
}

/// Says of the likeliest mistakes what they are; the compiler's own words are for all others.
fn recognise(wasm: &[u8]) -> Result<(), CacheError> {
    let wrong = match (wasm.get(..4), wasm.get(4..8)) {
        (Some(b"\0asm"), Some([1, 0, 0, 0])) => {
            "it is a core module, and a service is a component: build it for wasm32-wasip2"
        }
        (Some(b"\0asm"), _) => return Ok(()),
        _ => "it is not a WebAssembly file",
    };
    Err(CacheError::Compile(wrong.into()))
}

// === impl CodeCache ===

impl CodeCache {
    /// Opens the folder, and makes it where it is missing: readable and writable for this user alone.
    pub(super) fn open(engine: &Engine, folder: &Path) -> Result<Self, CacheError> {
        use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
        let wrong = |source| CacheError::Folder { path: folder.to_path_buf(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(wrong)?;
        let found = fs::metadata(folder).map_err(wrong)?;
        // Code from here is run as it is, so nobody else may be able to put any there.
        let own = fs::metadata("/proc/self").map_err(wrong)?.uid();
        if found.uid() != own {
            return Err(wrong(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to another user")));
        }
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(wrong)?;

        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Ok(Self { folder: folder.to_path_buf(), compatibility: hasher.finish() })
    }

    /// The name under which a component's content is known: the SHA-256 of its bytes, in hexadecimal.
    pub fn content_hash(wasm: &[u8]) -> String {
        format!("{:x}", Sha256::digest(wasm))
    }

    /// The component, compiled now or before. Takes as long as compiling takes: not for async threads.
    ///
    /// # Errors
    ///
    /// [`CacheError::Compile`] for what is no valid component, [`CacheError::Folder`] when the folder can't be written.
    pub fn load(&self, engine: &Engine, wasm: &[u8], hash: &str) -> Result<Component, CacheError> {
        if let Some(component) = self.find(engine, hash) {
            return Ok(component);
        }
        recognise(wasm)?;
        let code = compiler::compile(engine, wasm).map_err(CacheError::Compile)?;
        // Without the cache the component runs all the same, so a full disk must not keep it from running.
        if let Err(error) = self.keep(&self.file(hash), &code) {
            tracing::warn!(%error, "compiled code is not kept; the next start compiles again");
        } else if let Some(component) = self.find(engine, hash) {
            return Ok(component);
        }
        // SAFETY: it is what the compiler of this very program made of the component, just now, and told nobody else.
        unsafe { Component::deserialize(engine, &code) }.map_err(|error| CacheError::Compile(format!("{error:#}")))
    }

    /// The component of this content, if it was compiled before: for who has no bytes at hand, or need not read them.
    pub fn find(&self, engine: &Engine, hash: &str) -> Option<Component> {
        let path = self.file(hash);
        disuse::touch(&fs::File::open(&path).ok()?);
        // SAFETY: the file is output of `Component::serialize` of this very version of wasmtime (its name has the
        // compatibility hash), written whole by `keep` before it got this name, in a folder that only this user can
        // write to. Nobody truncates it later: files are only ever made under another name and renamed, and removed whole,
        // which leaves them to who has them mapped.
        let found = unsafe { Component::deserialize_file(engine, &path) };
        found
            .inspect_err(
                |error| tracing::warn!(path = %path.display(), %error, "compiled code is unusable; compiling anew"),
            )
            .ok()
    }

    /// Removes code of other components than `needed`, and of other engines than this one, that nobody has used for days;
    /// also what was being written when a host died. Takes its time: not for async threads.
    pub fn tidy(&self, needed: &BTreeSet<String>) {
        let own = self.suffix();
        let can_go = |name: &str| match name.strip_suffix(&own) {
            Some(hash) => !needed.contains(hash),
            None => name.ends_with(SUFFIX) || name.starts_with('.') && name.ends_with(UNFINISHED),
        };
        match disuse::remove(&self.folder, UNUSED, can_go) {
            Ok(0) => {}
            Ok(files) => tracing::info!(files, "compiled code that nobody needs any more was removed"),
            Err(error) => {
                tracing::warn!(folder = %self.folder.display(), %error, "old compiled code can't be removed");
            }
        }
    }

    fn file(&self, hash: &str) -> PathBuf {
        self.folder.join(format!("{hash}{}", self.suffix()))
    }

    fn suffix(&self) -> String {
        format!("-{:016x}{SUFFIX}", self.compatibility)
    }

    fn keep(&self, path: &Path, code: &[u8]) -> Result<(), CacheError> {
        let temporary = self.folder.join(format!(".{:016x}{UNFINISHED}", fastrand::u64(..)));
        let write = || -> io::Result<()> {
            let mut file = fs::File::create_new(&temporary)?;
            file.write_all(code)?;
            file.sync_all()?;
            fs::rename(&temporary, path)
        };
        write().map_err(|source| {
            let _ = fs::remove_file(&temporary);
            CacheError::Folder { path: path.to_path_buf(), source }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disuse::testing::forget;

    #[test]
    fn code_that_is_needed_or_was_used_lately_stays() {
        let folder = std::env::temp_dir().join(format!("wharf-code-{}", uuid::Uuid::new_v4()));
        let engine = Engine::default();
        let cache = CodeCache::open(&engine, &folder).expect("a temporary folder");
        let other = "other-0123456789abcdef.cwasm";
        let files = ["needed", "unneeded", "new", "used"].map(|hash| cache.file(hash));
        for path in files.iter().chain(&[folder.join(other), folder.join(".1.tmp"), folder.join("notes.txt")]) {
            fs::write(path, "no code").expect("it can be written");
            forget(path, UNUSED);
        }
        forget(&cache.file("new"), UNUSED - Duration::from_secs(60));
        // That it is of no use is another matter.
        assert!(cache.find(&engine, "used").is_none());
        cache.tidy(&BTreeSet::from(["needed".to_owned()]));
        let left = ["needed", "unneeded", "new", "used"].map(|hash| cache.file(hash).exists());
        assert_eq!(left, [true, false, true, true]);
        let left = [other, ".1.tmp", "notes.txt"].map(|name| folder.join(name).exists());
        assert_eq!(left, [false, false, true]);
        fs::remove_dir_all(&folder).expect("it is ours");
    }
}
