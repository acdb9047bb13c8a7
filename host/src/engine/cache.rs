//! Compiled code on disk.
//!
//! Compiling is slow (tenths of a second for a small component, many seconds for a JavaScript one) and moves the
//! latency of every neighbour; loading what was compiled before takes a fraction of a millisecond. A file's name is the
//! hash of the component together with everything of the engine that the code depends on, so a stale one is never
//! found.

use super::compiler;
use sha2::{Digest, Sha256};
use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Write},
    path::{Path, PathBuf},
};
use wasmtime::{Engine, component::Component};

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
        if !path.exists() {
            return None;
        }
        // SAFETY: the file is output of `Component::serialize` of this very version of wasmtime (its name has the
        // compatibility hash), written whole by `keep` before it got this name, in a folder that only this user can
        // write to. Nobody truncates it later: files are only ever made under another name and renamed.
        let found = unsafe { Component::deserialize_file(engine, &path) };
        found
            .inspect_err(
                |error| tracing::warn!(path = %path.display(), %error, "compiled code is unusable; compiling anew"),
            )
            .ok()
    }

    fn file(&self, hash: &str) -> PathBuf {
        self.folder.join(format!("{hash}-{:016x}.cwasm", self.compatibility))
    }

    fn keep(&self, path: &Path, code: &[u8]) -> Result<(), CacheError> {
        let temporary = self.folder.join(format!(".{:016x}.tmp", fastrand::u64(..)));
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
