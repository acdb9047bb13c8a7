//! `wharf verify`.

use super::{print, say};
use anyhow::{Context, anyhow, bail};
use std::path::PathBuf;
use wharf::trust::{PublicKey, signers};

#[derive(clap::Args)]
pub struct Args {
    /// The component, a .wasm file.
    file: PathBuf,
    /// A public key; one of those that are given must have signed. Without any, whoever has signed is good.
    #[arg(long = "key", value_name = "PUBLIC")]
    keys: Vec<PublicKey>,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let Args { file, keys } = args;
    let name = file.display();
    let wasm = std::fs::read(file).with_context(|| format!("the component {name} can't be read"))?;
    let found = signers(&wasm, keys).map_err(|error| anyhow!("{name} can't be trusted: {error}"))?;
    let by = |keys: &[PublicKey]| keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let good: Vec<_> = found.valid.iter().filter(|key| keys.is_empty() || keys.contains(key)).collect();
    if good.is_empty() {
        match (&found.valid[..], &found.changed[..]) {
            ([], []) => {
                bail!("{name} can't be trusted: it is signed by keys that it does not tell; name them with `--key`")
            }
            ([], changed) => bail!("{name} can't be trusted: it was changed after it was signed by {}", by(changed)),
            (valid, _) => {
                bail!("{name} can't be trusted: it is signed by {}, and by none of the given keys", by(valid))
            }
        }
    }
    say("Verified", format_args!("{name}: it is as it was signed by"));
    good.into_iter().try_for_each(print)
}
