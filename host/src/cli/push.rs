//! `wharf push`.

use super::{print, pull::mebibytes, runtime, say};
use anyhow::Context;
use std::path::PathBuf;
use wharf::oci::{Credentials, Reference, push};

#[derive(clap::Args)]
pub struct Args {
    /// The component, a .wasm file.
    file: PathBuf,
    /// Where it goes: oci://registry/name:tag. Who you are there, `docker login` writes down.
    reference: Reference,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let Args { file, reference } = args;
    let wasm = std::fs::read(file).with_context(|| format!("the component {} can't be read", file.display()))?;
    say("Pushing", format_args!("{} ({} MiB) to {reference}", file.display(), mebibytes(wasm.len() as u64)));
    let credentials = Credentials::of_user()?;
    let pushed = runtime()?.block_on(push(&credentials, reference, wasm));
    let digest = pushed.with_context(|| format!("{} was not pushed to {reference}", file.display()))?;
    say("Pushed", format_args!("{reference} is now"));
    print(reference.at(digest))
}
