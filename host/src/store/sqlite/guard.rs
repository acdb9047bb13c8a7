//! What a service's SQL may do: SQLite's authorizer, asked whenever a statement is prepared.
//!
//! SQL can name files (`ATTACH`, `VACUUM INTO`), load code, change how the connection works (`PRAGMA`), and leave
//! things behind on a connection that other calls use next (temporary tables, open transactions). All of that is
//! refused. What is left is the dialect that SQLite shares with PostgreSQL.

use crate::store::{Authority, HOST_TABLES};
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU8, Ordering},
};

/// `PRAGMA`s that only describe the schema.
const DESCRIBING: [&str; 7] =
    ["table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo", "foreign_key_list"];

const TEMPORARY: &str = "temporary tables, views and triggers are not allowed: calls share their connections";

/// Whose SQL is being prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Author {
    /// The host's own: everything is allowed.
    Host,
    /// A service's.
    Service,
    /// A service's migration.
    Migration,
}

/// Decides for one connection, and remembers why it last refused.
#[derive(Clone)]
pub(super) struct Guard {
    author: Arc<AtomicU8>,
    refusal: Arc<Mutex<Option<String>>>,
}

// === impl Author ===

impl From<Authority> for Author {
    fn from(authority: Authority) -> Self {
        match authority {
            Authority::Host => Self::Host,
            Authority::Service => Self::Service,
        }
    }
}

// === impl Guard ===

impl Guard {
    pub(super) fn new() -> Self {
        Self { author: Arc::new(AtomicU8::new(Author::Host as u8)), refusal: Arc::default() }
    }

    /// From now on statements are this author's; returns whose they were before.
    ///
    /// Relaxed is enough: the authorizer runs on the thread that prepares.
    pub(super) fn set(&self, author: Author) -> Author {
        match self.author.swap(author as u8, Ordering::Relaxed) {
            0 => Author::Host,
            1 => Author::Service,
            _ => Author::Migration,
        }
    }

    /// Why the last statement was refused, once.
    pub(super) fn refusal(&self) -> Option<String> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What SQLite asks.
    pub(super) fn authorize(&self, context: AuthContext<'_>) -> Authorization {
        let migration = match self.author.load(Ordering::Relaxed) {
            0 => return Authorization::Allow,
            author => author == Author::Migration as u8,
        };
        match judge(context, migration) {
            Ok(()) => Authorization::Allow,
            Err(reason) => {
                *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
                Authorization::Deny
            }
        }
    }
}

fn judge(context: AuthContext<'_>, migration: bool) -> Result<(), String> {
    use AuthAction as A;
    // NB: SQLite tells of `CREATE TABLE temp.t` and the like as of any table or trigger. What tells them apart is that
    // all of them insert into the schema of `temp`, which nothing else does.
    let temporary = context.database_name.is_some_and(|name| name.eq_ignore_ascii_case("temp"));
    let creates = matches!(context.action, A::Insert { .. } | A::CreateTable { .. } | A::CreateView { .. });
    if temporary && creates {
        return Err(TEMPORARY.into());
    }
    match context.action {
        A::Select | A::Read { .. } | A::Recursive | A::Reindex { .. } | A::Analyze { .. } => Ok(()),
        A::CreateView { .. } | A::DropView { .. } => Ok(()),
        A::CreateTable { table_name }
        | A::DropTable { table_name }
        | A::AlterTable { table_name, .. }
        | A::Insert { table_name }
        | A::Update { table_name, .. }
        | A::Delete { table_name }
        | A::CreateIndex { table_name, .. }
        | A::DropIndex { table_name, .. }
        | A::CreateTrigger { table_name, .. }
        | A::DropTrigger { table_name, .. } => own(table_name),
        A::Function { function_name } => match function_name.to_ascii_lowercase().as_str() {
            "load_extension" | "fts3_tokenizer" => Err(format!("the function {function_name} is not allowed")),
            _ => Ok(()),
        },
        A::Pragma { pragma_name, .. } if DESCRIBING.iter().any(|name| pragma_name.eq_ignore_ascii_case(name)) => Ok(()),
        A::Pragma { pragma_name, .. } => {
            Err(format!("PRAGMA {pragma_name} is not allowed: the host decides how the database works"))
        }
        A::Transaction { .. } | A::Savepoint { .. } => Err(if migration {
            "BEGIN, COMMIT, ROLLBACK and SAVEPOINT are not allowed: each migration is one transaction already".into()
        } else {
            "BEGIN, COMMIT, ROLLBACK and SAVEPOINT are not statements here: use `batch`, or `begin` for a transaction"
                .into()
        }),
        A::Attach { .. } | A::Detach { .. } => {
            Err("ATTACH, DETACH and VACUUM are not allowed: a service has one database, which the host looks after"
                .into())
        }
        A::CreateTempTable { .. }
        | A::CreateTempIndex { .. }
        | A::CreateTempTrigger { .. }
        | A::CreateTempView { .. }
        | A::DropTempTable { .. }
        | A::DropTempIndex { .. }
        | A::DropTempTrigger { .. }
        | A::DropTempView { .. } => Err(TEMPORARY.into()),
        A::CreateVtable { module_name, .. } | A::DropVtable { module_name, .. } => {
            Err(format!("virtual tables ({module_name}) are not allowed"))
        }
        other => Err(format!("not allowed: {other:?}")),
    }
}

/// Whether the table is the service's own to change.
fn own(table: &str) -> Result<(), String> {
    let theirs = table.get(..HOST_TABLES.len()).is_some_and(|prefix| prefix.eq_ignore_ascii_case(HOST_TABLES));
    if theirs {
        Err(format!("the table {table} is the host's; names that begin with {HOST_TABLES} are kept for it"))
    } else {
        Ok(())
    }
}
