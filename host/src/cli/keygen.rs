//! `wharf keygen`.

use super::{print, say};
use std::path::PathBuf;
use wharf::trust::PrivateKey;

#[derive(clap::Args)]
pub struct Args {
    /// The file for the private key, which must not be there yet. Only you can read it.
    file: PathBuf,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let key = PrivateKey::generate()?;
    key.write(&args.file)?;
    say("Made", format_args!("{}: the private key, which signs; keep it secret", args.file.display()));
    say("Public", "the public key, which goes into `signed-by` in the manifest:");
    print(key.public())
}
