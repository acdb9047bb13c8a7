//! What a statement is, as far as its text tells: it is looked at once, and remembered by who runs it.

use crate::store::{Error, begins_with};
use std::sync::atomic::AtomicBool;

/// What is known of a statement from its text.
pub(super) struct Shape {
    /// It changes nothing.
    pub(super) reads: bool,
    /// For each of SQLite's parameters, in its order, which of the statement's values it takes.
    pub(super) parameters: Vec<usize>,
    /// How many values it takes.
    pub(super) count: usize,
    /// It can do only little, whatever it is given.
    pub(super) bounded: bool,
    /// It may change what was known of others: it is neither a query nor a change of rows.
    pub(super) reshapes: bool,
    /// It was quick when it last ran.
    pub(super) quick: AtomicBool,
}

// === impl Shape ===

impl Shape {
    /// That of a statement that was compiled from this text. Whether it is bounded is asked where it matters.
    pub(super) fn of(
        statement: &rusqlite::Statement<'_>,
        sql: &str,
        is_bounded: impl FnOnce() -> bool,
    ) -> Result<Self, Error> {
        let (parameters, count) = parameters(statement)?;
        let reads = statement.readonly();
        let reshapes = !reads && !begins_with(sql, &["INSERT", "UPDATE", "DELETE", "REPLACE", "WITH"]);
        let bounded = !reshapes && is_bounded();
        Ok(Self { reads, parameters, count, bounded, reshapes, quick: AtomicBool::new(false) })
    }
}

/// For each of SQLite's parameters which value it takes, and how many values there are.
///
/// SQLite takes `$2` for a name, and numbers names as they come: in `… $2 … $1 …` its first parameter is `$2`.
fn parameters(statement: &rusqlite::Statement<'_>) -> Result<(Vec<usize>, usize), Error> {
    let total = statement.parameter_count();
    let mut places = Vec::with_capacity(total);
    for index in 1..=total {
        let name = statement.parameter_name(index).unwrap_or("?");
        let digits = name.strip_prefix('$').unwrap_or_default();
        match digits.parse::<usize>() {
            Ok(number @ 1..) if number <= total && !digits.starts_with(['0', '+']) => places.push(number - 1),
            Ok(1..) if !digits.starts_with(['0', '+']) => {
                return Err(Error::Invalid(format!(
                    "{name} leaves a gap: there are {total} parameters, $1 to ${total}"
                )));
            }
            _ => return Err(Error::Invalid(format!("`{name}` is not a parameter; expected `$1`, `$2`, …"))),
        }
    }
    Ok((places, total))
}
