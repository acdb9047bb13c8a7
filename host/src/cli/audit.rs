//! `wharf audit`.

use super::{
    print,
    text::{fitted, visible},
};
use anyhow::Context;
use wharf::{
    app::{AuditEntry, last_entries},
    manifest::Manifest,
};

#[derive(clap::Args)]
#[command(after_help = "\
What is too long for the terminal is cut; `--json` has it whole.")]
pub struct Args {
    /// At most so many, the last ones.
    #[arg(short, long, default_value_t = 50)]
    number: usize,
    /// Print the lines as they are: JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(manifest: &Manifest, args: &Args) -> anyhow::Result<()> {
    let folder = &manifest.app.data.value;
    let entries = last_entries(folder, args.number);
    let entries = entries.with_context(|| format!("the audit log in {} can't be read", folder.display()))?;
    if args.json {
        return entries.iter().try_for_each(|entry| print(serde_json::to_string(entry)?));
    }
    let row = |AuditEntry { time, who, deed, outcome }: &AuditEntry| {
        let more = deed.reason.as_ref().or(deed.detail.as_ref());
        [
            time.clone(),
            who.to_string(),
            visible(&deed.what),
            deed.service.as_deref().map_or_else(|| "-".to_owned(), visible),
            deed.revision.map_or_else(|| "-".to_owned(), |number| number.to_string()),
            outcome.to_string(),
            more.map(|more| visible(more)).unwrap_or_default(),
        ]
    };
    let head = ["TIME", "BY", "WHAT", "SERVICE", "REVISION", "OUTCOME", "MORE"];
    print(fitted(head, &["WHAT", "SERVICE", "MORE"], entries.iter().map(row).collect()))
}
