//! `signed-by`: whose signature a component must carry.

use super::{
    error::Placed,
    reader::{Table, Value, quoted},
};
use crate::trust::PublicKey;

/// The longest text in place of a key that an error shows.
const LONGEST_SHOWN: usize = 80;

/// Reads the keys of which one must have signed; none where nothing is said.
pub(super) fn read(table: &mut Table<'_>) -> Vec<Placed<PublicKey>> {
    table.or("signed-by", Vec::new(), keys)
}

fn keys(value: &Value<'_>) -> Option<Vec<Placed<PublicKey>>> {
    let texts = value.strings("public key")?;
    if texts.is_empty() && value.items("").is_some_and(|items| items.is_empty()) {
        return value.report("expected at least one public key; where anybody may sign, leave `signed-by` out");
    }
    let mut keys = Vec::new();
    for text in &texts {
        match text.parse() {
            Ok(key) => keys.push(text.with(key)),
            // Not shown: it opens whatever it was made for.
            Err(_) if text.contains("PRIVATE KEY") => {
                let wrong =
                    "this is a private key, and others can read it here; expected the public one that belongs to it";
                value.doc().report_at(text, wrong);
            }
            Err(error) if text.len() <= LONGEST_SHOWN => {
                value.doc().report_at(text, format!("{error}, found {}", quoted(text)));
            }
            Err(error) => value.doc().report_at(text, format!("{error}, found a long string")),
        }
    }
    Some(keys)
}
