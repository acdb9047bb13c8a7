//! `wharf history`.

use super::{
    client, print, runtime,
    text::{fitted, visible},
};
use bytes::Bytes;
use wharf::{
    manifest::Manifest,
    rollout::{Kept, Revisions},
};

#[derive(clap::Args)]
#[command(after_help = "\
The revision that serves is marked by `*`. SCHEMA is how many migrations the revision knows. What is too long for the
terminal is cut.

  wharf history order            the last revisions of `order`
  wharf history order --json     with their whole hashes, and what each was produced with
  wharf rollback order 3         back to one of them")]
pub struct Args {
    /// The service.
    service: String,
    /// Print everything that there is as JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(manifest: &Manifest, args: &Args) -> anyhow::Result<()> {
    let path = format!("/v1/services/{}/revisions", client::plain(&args.service)?);
    let history: Revisions = runtime()?.block_on(client::ask(manifest, "GET", &path, None, Bytes::new()))?;
    if args.json {
        return print(serde_json::to_string(&history)?);
    }
    let row = |kept: &Kept| {
        let Kept { revision, standing, why, schema, .. } = kept;
        let is_current = history.current == Some(revision.number);
        let schema = match history.schema {
            None => "-".to_owned(),
            Some(now) if is_current && now != *schema => format!("{schema} (the database has {now})"),
            // Of one that never served it is not known.
            Some(_) if *schema == 0 && !is_current => "-".into(),
            Some(_) => schema.to_string(),
        };
        [
            format!("{}{}", revision.number, if is_current { " *" } else { "" }),
            revision.hash.chars().take(12).collect(),
            revision.loaded.clone(),
            revision.metadata.title().map_or_else(|| "-".to_owned(), |title| visible(&title)),
            schema,
            why.as_ref().map_or_else(|| standing.to_string(), |why| visible(&format!("{standing}: {why}"))),
            visible(&revision.origin),
        ]
    };
    let head = ["REVISION", "HASH", "LOADED", "NAME", "SCHEMA", "STANDING", "ORIGIN"];
    print(fitted(head, &["NAME", "STANDING", "ORIGIN"], history.revisions.iter().map(row).collect()))
}
