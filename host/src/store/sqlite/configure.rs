//! How a connection is set up before a service's SQL may reach it.

use super::session::Role;
use crate::store::Settings;
use rusqlite::{Connection, config::DbConfig, limits::Limit};

/// Statements that a connection keeps compiled.
pub(super) const COMPILED: usize = 64;

/// Sets the pragmas, options and limits of a connection that was just opened.
pub(super) fn configure(connection: &Connection, role: Role, settings: &Settings) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(COMPILED);
    let set = |name, value: i64| connection.pragma_update(None, name, value);
    let kib = |bytes: u64| i64::try_from(bytes / 1024).unwrap_or(i64::MAX);
    match role {
        Role::Writer => {
            connection.pragma_update(
                None,
                "synchronous",
                if settings.durable_at_power_loss { "full" } else { "normal" },
            )?;
            set("foreign_keys", 1)?;
            // The writer checkpoints itself, between commits: see `writer`.
            connection.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))?;
            connection.pragma_update_and_check(None, "journal_size_limit", 16 << 20, |_| Ok(()))?;
            let page: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
            let pages = i64::try_from(settings.max_file_bytes).unwrap_or(i64::MAX) / page.max(1);
            connection.pragma_update_and_check(
                None,
                "max_page_count",
                pages.clamp(1, i64::from(u32::MAX - 1)),
                |_| Ok(()),
            )?;
        }
        Role::Reader => set("query_only", 1)?,
    }
    set("cache_size", -kib(settings.cache_bytes))?;
    for (option, value) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_DQS_DDL, false),
        (DbConfig::SQLITE_DBCONFIG_DQS_DML, false),
        // NB: else SQLite compiles a statement anew whenever a value is bound that its plan may depend on, and that is
        // any `LIMIT $1`: several times what running it costs.
        (DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true),
    ] {
        connection.set_db_config(option, value)?;
    }
    let bytes = |bytes: usize| i32::try_from(bytes).unwrap_or(i32::MAX);
    for (limit, value) in [
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (Limit::SQLITE_LIMIT_LENGTH, bytes(settings.max_value_bytes)),
        (Limit::SQLITE_LIMIT_SQL_LENGTH, bytes(settings.max_migration_bytes.max(settings.max_sql_bytes))),
        (Limit::SQLITE_LIMIT_COLUMN, 200),
        (Limit::SQLITE_LIMIT_EXPR_DEPTH, 200),
        (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 50),
        (Limit::SQLITE_LIMIT_VDBE_OP, 100_000),
        (Limit::SQLITE_LIMIT_FUNCTION_ARG, 100),
        (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1_000),
        (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, 4_096),
        (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 50),
        (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
    ] {
        connection.set_limit(limit, value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::StatementStatus;

    #[test]
    fn a_statement_is_compiled_once_whatever_its_limit_is() {
        let connection = Connection::open_in_memory().unwrap();
        configure(&connection, Role::Writer, &Settings::default()).unwrap();
        connection.execute_batch("CREATE TABLE t (v); INSERT INTO t VALUES (1), (2), (3)").unwrap();
        let mut statement = connection.prepare("SELECT v FROM t WHERE v > $1 ORDER BY v LIMIT $2").unwrap();
        for limit in 1..=3 {
            let rows = statement.query_map((0, limit), |row| row.get::<_, i64>(0)).unwrap();
            assert_eq!(rows.map(Result::unwrap).count(), limit as usize);
        }
        assert_eq!(statement.get_status(StatementStatus::RePrepare), 0);
    }
}
