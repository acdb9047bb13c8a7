//! `wharf sign`.

use super::say;
use anyhow::{Context, anyhow};
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};
use wharf::trust::{PrivateKey, SignError, sign};

#[derive(clap::Args)]
pub struct Args {
    /// The component, a .wasm file.
    file: PathBuf,
    /// The file of the private key, as `wharf keygen` or `openssl genpkey -algorithm ed25519` make one.
    #[arg(long, value_name = "KEYFILE")]
    key: PathBuf,
    /// Where the signed component goes; in place of the other if it is not given.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let Args { file, key, output } = args;
    let key = PrivateKey::read(key)?;
    let wasm = fs::read(file).with_context(|| format!("the component {} can't be read", file.display()))?;
    let (signed, what) = match sign(&wasm, &key) {
        Ok(signed) => (signed, "Signed"),
        Err(SignError::Signed(_)) => (wasm, "Unchanged"),
        Err(error) => return Err(anyhow!("{}: {error}", file.display())),
    };
    let to = output.as_ref().unwrap_or(file);
    if what == "Signed" || to != file {
        replace(to, &signed).with_context(|| format!("the component {} can't be written", to.display()))?;
    }
    say(what, format_args!("{}: it carries the signature of {}", to.display(), key.public()));
    Ok(())
}

/// Writes a file whole or not at all: a host may watch it.
fn replace(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let write = || {
        let mut file = fs::File::create_new(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        if let Ok(before) = fs::metadata(path) {
            file.set_permissions(before.permissions())?;
        }
        fs::rename(&temporary, path)
    };
    write().inspect_err(|_| drop(fs::remove_file(&temporary)))
}
