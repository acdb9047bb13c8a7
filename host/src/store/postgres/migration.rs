//! How PostgreSQL applies migrations.
//!
//! Each is a transaction of the service's own role, which holds a lock on the record for as long as it lasts: where
//! several hosts start at once, one of them applies a migration and the others find it applied.
//!
//! **Foreign keys** are checked at its end, as with SQLite. PostgreSQL lets only those wait that are `DEFERRABLE`, so all of
//! them are made so; as they stay `INITIALLY IMMEDIATE`, and no service can say otherwise, that changes nothing but here.
//! Nor does it change a table while rows of it wait to be checked: so those are checked before each statement that might,
//! and go on waiting only where they would be wrong now.

use super::{
    connection::{Connection, Failure, HostWords, Task, Want},
    dialect::Text,
    guard::Verb,
};
use crate::store::{
    Error, Settings,
    migration::{Applied, MigrateError, Migration, Recorded, count, digest, missing},
};
use tokio::time::Instant;
use tokio_postgres::error::SqlState;

pub(super) struct Migrating<'m> {
    pub(super) connection: &'m Connection,
    pub(super) settings: &'m Settings,
    pub(super) words: &'m HostWords,
    /// The service's schema.
    pub(super) schema: &'m str,
}

/// Words that make those foreign keys of a schema `DEFERRABLE` that are not. Of a partition's, its parent's are altered.
const IMPATIENT: &str = "SELECT format('ALTER TABLE %I.%I ALTER CONSTRAINT %I DEFERRABLE', n.nspname, c.relname, k.conname) \
    FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE n.nspname = $1 AND k.contype = 'f' AND NOT k.condeferrable AND k.conparentid = 0 \
    AND pg_has_role(c.relowner, 'USAGE') ORDER BY k.oid";

// === impl Migrating ===

impl Migrating<'_> {
    /// Applies those migrations that the database has not yet.
    pub(super) async fn apply(&self, migrations: &[Migration]) -> Result<Applied, MigrateError> {
        let mut from = None;
        loop {
            let to_do = match self.begin(migrations).await {
                Ok(to_do) => to_do,
                Err(error) => {
                    self.connection.roll_back().await;
                    return Err(error);
                }
            };
            let to = count(migrations.len());
            from.get_or_insert(to - count(to_do.len()));
            let Some(next) = to_do.first() else {
                self.connection.roll_back().await;
                return Ok(Applied { from: from.unwrap_or(to), to });
            };
            if let Err(error) = self.run(next).await {
                self.connection.roll_back().await;
                return Err(error);
            }
        }
    }

    fn recorded(&self, failure: Failure) -> MigrateError {
        MigrateError::Record(self.explain(failure))
    }

    fn explain(&self, failure: Failure) -> Error {
        self.connection.explain(failure, None, self.settings.migration_time)
    }

    /// Begins a transaction, waits for the record, and returns what is not in it.
    async fn begin<'m>(&self, migrations: &'m [Migration]) -> Result<&'m [Migration], MigrateError> {
        let time = self.settings.migration_time.as_millis().max(1);
        let host = &self.words.host;
        // NB: so that what is read after the lock is what those have written who held it before.
        let begin = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {time}; SET LOCAL statement_timeout = {time}; \
             LOCK TABLE {host}._wharf_migrations IN SHARE ROW EXCLUSIVE MODE; SET CONSTRAINTS ALL DEFERRED"
        );
        self.connection.say(&begin).await.map_err(|failure| self.recorded(failure))?;
        let read = format!("SELECT name, sha256, applied_at FROM {host}._wharf_migrations ORDER BY version");
        let rows = self.connection.ask(&read, &[]).await.map_err(|failure| self.recorded(failure))?;
        let known = rows
            .iter()
            .map(|row| Ok(Recorded { name: row.try_get(0)?, sha256: row.try_get(1)?, applied_at: row.try_get(2)? }));
        let known = known.collect::<Result<_, tokio_postgres::Error>>().map_err(|error| self.recorded(error.into()))?;
        missing(migrations, known, self.settings.max_migration_bytes)
    }

    async fn run(&self, migration: &Migration) -> Result<(), MigrateError> {
        let Migration { version, name, .. } = migration;
        let deadline = Instant::now() + self.settings.migration_time;
        let statements = Text::read_migration(migration.text()?);
        self.let_wait().await.map_err(|failure| self.recorded(failure))?;
        for (number, text) in (1..).zip(statements) {
            let text = text.map_err(|error| migration.failed(number, error))?;
            if text.parameters > 0 {
                return Err(migration.failed(number, Error::Invalid("a migration has no parameters".into())));
            }
            if Instant::now() > deadline {
                let limit = self.settings.migration_time;
                return Err(
                    migration.failed(number, Error::TooLarge(format!("the migration runs longer than {limit:?}")))
                );
            }
            let defines = text.verb == Verb::Define;
            let task = Task { text, params: Vec::new() };
            let run = async {
                if defines {
                    self.check_what_waits().await?;
                }
                self.connection.run(&task, Want::Count).await?;
                if defines { self.let_wait().await } else { Ok(()) }
            };
            run.await.map_err(|failure| migration.failed(number, self.explain_statement(failure)))?;
        }
        if let Err(failure) = self.connection.say("SET CONSTRAINTS ALL IMMEDIATE").await {
            if let Failure::Said(error) = &failure
                && let Some((table, parent)) = orphan(error)
            {
                return Err(MigrateError::Orphans { version: *version, name: name.clone(), table, parent });
            }
            return Err(self.recorded(failure));
        }
        self.record(migration).await.map_err(|failure| self.recorded(failure))
    }

    /// Makes those foreign keys wait for the end that can't yet.
    async fn let_wait(&self) -> Result<(), Failure> {
        for row in self.connection.ask(IMPATIENT, &[&self.schema]).await? {
            let alter: String = row.try_get(0)?;
            self.connection.say(&alter).await?;
        }
        Ok(())
    }

    /// Checks what waits, if it can be checked now.
    async fn check_what_waits(&self) -> Result<(), Failure> {
        let check = "SAVEPOINT waiting; SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED; RELEASE waiting";
        match self.connection.say(check).await {
            Err(Failure::Said(error)) if error.code() == Some(&SqlState::FOREIGN_KEY_VIOLATION) => {
                self.connection.say("ROLLBACK TO waiting; RELEASE waiting").await
            }
            result => result,
        }
    }

    fn explain_statement(&self, failure: Failure) -> Error {
        let waits = matches!(&failure, Failure::Said(error) if error.code() == Some(&SqlState::OBJECT_IN_USE));
        match self.explain(failure) {
            Error::Invalid(reason) if waits => Error::Invalid(format!(
                "{reason}: it has rows that refer to rows which do not exist yet, and PostgreSQL changes no such table; write \
                 those rows first"
            )),
            error => error,
        }
    }

    async fn record(&self, migration: &Migration) -> Result<(), Failure> {
        let HostWords { key, host, host_path, service_path } = self.words;
        let insert = format!(
            "INSERT INTO {host}._wharf_migrations (version, name, sha256, applied_at) VALUES ($1, $2, $3, \
             to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'))"
        );
        self.connection.speak(host_path, key).await?;
        let (version, digest) = (i64::from(migration.version), digest(&migration.sql));
        self.connection.ask(&insert, &[&version, &migration.name, &digest]).await?;
        self.connection.speak(service_path, "").await?;
        self.connection.say("COMMIT").await
    }
}

/// The table with a row that refers to none, and the table that it refers to, of what PostgreSQL says of a foreign key.
fn orphan(error: &tokio_postgres::Error) -> Option<(String, String)> {
    let said = error.as_db_error()?;
    let quoted = |text: &str| text.split('"').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let message = quoted(said.message());
    match said.constraint()? {
        _ if said.message().starts_with("update or delete") => {
            Some((message.get(2)?.clone(), message.first()?.clone()))
        }
        _ => Some((message.first()?.clone(), quoted(said.detail()?).pop()?)),
    }
}
