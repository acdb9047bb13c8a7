//! What a service's SQL may be.
//!
//! This is the second fence. The first is PostgreSQL's own: a service's connections are logged in as a role that has
//! rights on its own schema and nothing else, so there is nothing to break out to. What is refused here is what a
//! connection would keep for the calls that use it next (settings, temporary tables, locks of a session), what is
//! shared by all who are in the same server whatever their role (advisory locks, large objects), and code that nobody
//! can look into beforehand (functions, `DO`). What is left is the dialect that PostgreSQL shares with SQLite, and what
//! PostgreSQL has beyond it in the same statements.
//!
//! Where a service has a URL of its own, its role owns the host's tables too, and around these this is the only fence. It
//! stands as long as PostgreSQL finds the same words in a text as the [`lexer`](super::lexer) does. So what different
//! versions of it read differently is refused, and so are names that are written in such a way.

use super::lexer::{Kind, Token};
use crate::store::HOST_TABLES;

/// What a statement does, by the word that it is named after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    /// It only reads.
    Read,
    /// It changes rows.
    Change,
    /// It changes the schema.
    Define,
}

const READING: [&str; 3] = ["SELECT", "VALUES", "TABLE"];
const CHANGING: [&str; 4] = ["INSERT", "UPDATE", "DELETE", "MERGE"];
const DEFINING: [&str; 5] = ["CREATE", "ALTER", "DROP", "TRUNCATE", "ANALYZE"];
const TRANSACTIONS: [&str; 9] =
    ["BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE", "START", "ABORT", "PREPARE"];

/// What can be created, altered and dropped.
const OBJECTS: [&str; 6] = ["TABLE", "INDEX", "VIEW", "SEQUENCE", "TYPE", "DOMAIN"];

/// What may stand between `CREATE` and what is created.
const BETWEEN: [&str; 6] = ["OR", "REPLACE", "UNIQUE", "UNLOGGED", "MATERIALIZED", "RECURSIVE"];

/// Functions that run text as SQL, change the session or reach beyond the schema.
///
/// Each is meant with all whose names begin so.
const FUNCTIONS: [&str; 18] = [
    "set_config",
    "query_to_xml",
    "cursor_to_xml",
    "ts_stat",
    "ts_rewrite",
    "dblink",
    "lo_",
    "loread",
    "lowrite",
    "pg_advisory_",
    "pg_try_advisory_",
    "pg_cancel_backend",
    "pg_terminate_backend",
    "pg_read_",
    "pg_ls_",
    "pg_restore_",
    "pg_clear_",
    "crosstab",
];

/// Of these there are no more.
const OTHER_FUNCTIONS: [&str; 4] = ["setval", "setseed", "xpath_table", "connectby"];

/// Decides on one statement's significant tokens, of which there is at least one.
pub(super) fn judge(tokens: &[Token<'_>], migration: bool) -> Result<Verb, String> {
    let verb = verb(tokens).ok_or_else(|| refusal(&tokens[0], migration))?;
    if verb == Verb::Define && !tokens[0].is_one_of(&["TRUNCATE", "ANALYZE"]) {
        object(tokens)?;
    }
    // Who locks a row keeps others from changing it.
    let mut reads = verb == Verb::Read;
    for pair in tokens.windows(2) {
        reads &= !(pair[0].is("FOR") && pair[1].is_one_of(&["UPDATE", "NO", "SHARE", "KEY"]));
        if pair[0].has_escapes() && pair[1].is_plain_string() {
            return Err(
                "a string with escapes (E'…') can't go on after its closing quote: write it in one piece".into()
            );
        }
        if pair[0].is_one_of(&["CREATE", "INTO", "REPLACE"])
            && pair[1].is_one_of(&["TEMP", "TEMPORARY", "LOCAL", "GLOBAL"])
        {
            return Err(TEMPORARY.into());
        }
    }
    for token in tokens {
        if token.kind == Kind::Name && token.text.starts_with(['u', 'U']) {
            return Err("names with Unicode escapes (U&\"…\") are not allowed".into());
        }
        if token.kind == Kind::Number && !token.is_number() {
            return Err(format!("`{}` is not a number; expected a space after one", token.text));
        }
        let Some(name) = token.name() else { continue };
        if let Some(function) = FUNCTIONS.iter().find(|function| name.starts_with(*function)) {
            let family = if name == **function { "" } else { ", as all that begin so," };
            return Err(format!("the function {name}{family} is not allowed"));
        }
        if OTHER_FUNCTIONS.contains(&name.as_str()) {
            return Err(format!("the function {name} is not allowed"));
        }
        if name.starts_with("pg_temp") {
            return Err(TEMPORARY.into());
        }
        if !reads && name.starts_with(HOST_TABLES) {
            return Err(format!("the table {name} is the host's; names that begin with {HOST_TABLES} are kept for it"));
        }
    }
    Ok(verb)
}

const TEMPORARY: &str = "temporary tables and views are not allowed: calls share their connections";

/// What a statement does; of one that begins with `WITH`, what any part of it does.
pub(super) fn verb(tokens: &[Token<'_>]) -> Option<Verb> {
    let first = tokens.first()?;
    // `(SELECT …) UNION …`
    let first = if first.is_symbol("(") { tokens.iter().find(|token| !token.is_symbol("("))? } else { first };
    if first.is("WITH") {
        let any = |words: &[&str]| tokens.iter().any(|token| token.is_one_of(words));
        Some(match () {
            () if any(&CHANGING) => Verb::Change,
            () if any(&["INTO"]) => Verb::Define,
            () => Verb::Read,
        })
    } else if first.is_one_of(&READING) {
        // `SELECT … INTO` makes a table.
        let makes = first.is("SELECT") && tokens.iter().any(|token| token.is("INTO"));
        Some(if makes { Verb::Define } else { Verb::Read })
    } else if first.is_one_of(&CHANGING) {
        Some(Verb::Change)
    } else if first.is_one_of(&DEFINING) {
        Some(Verb::Define)
    } else {
        None
    }
}

fn object(tokens: &[Token<'_>]) -> Result<(), String> {
    if tokens[0].is_one_of(&READING) || tokens[0].is("WITH") || tokens[0].is_symbol("(") {
        return Ok(());
    }
    if tokens[0].is("ALTER") && tokens.get(2).is_some_and(|token| token.is("ALL")) {
        return Err("ALTER … ALL IN TABLESPACE is not allowed: not all that is there is the service's".into());
    }
    match tokens[1..].iter().find(|token| !token.is_one_of(&BETWEEN)) {
        Some(object) if object.is_one_of(&OBJECTS) => Ok(()),
        Some(object) if object.is_one_of(&["TEMP", "TEMPORARY", "LOCAL", "GLOBAL"]) => Err(TEMPORARY.into()),
        found => {
            let found = found.map_or("nothing", |token| token.text);
            let what = tokens[0].text.to_ascii_uppercase();
            Err(format!("{what} goes with TABLE, INDEX, VIEW, SEQUENCE, TYPE and DOMAIN here, not with `{found}`"))
        }
    }
}

fn refusal(first: &Token<'_>, migration: bool) -> String {
    match () {
        () if first.is_one_of(&TRANSACTIONS) && migration => {
            "BEGIN, COMMIT, ROLLBACK and SAVEPOINT are not allowed: each migration is one transaction already".into()
        }
        () if first.is_one_of(&TRANSACTIONS) => {
            "BEGIN, COMMIT, ROLLBACK and SAVEPOINT are not statements here: use `batch`, or `begin` for a transaction"
                .into()
        }
        () if first.is_one_of(&["SET", "RESET", "PRAGMA", "DISCARD"]) => {
            format!("{} is not allowed: the host decides how the database works", first.text.to_ascii_uppercase())
        }
        () if first.is_one_of(&["ATTACH", "DETACH", "VACUUM"]) => {
            "ATTACH, DETACH and VACUUM are not allowed: a service has one database, which the host looks after".into()
        }
        () => format!(
            "a statement can't begin with `{}` here: expected SELECT, WITH, VALUES, INSERT, UPDATE, DELETE, MERGE, CREATE, \
             ALTER, DROP, TRUNCATE or ANALYZE",
            first.text
        ),
    }
}
