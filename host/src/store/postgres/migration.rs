//! How PostgreSQL applies migrations.
//!
//! Each is a transaction of the service's own role, which holds a lock on the record for as long as it lasts: where
//! several hosts start at once, one of them applies a migration and the others find it applied.

use super::{
    connection::{Connection, Failure, HostWords, Task, Want},
    dialect::Text,
};
use crate::store::{
    Error, Settings,
    migration::{Applied, MigrateError, Migration, Recorded, count, digest, missing},
};
use tokio::time::Instant;

pub(super) struct Migrating<'m> {
    pub(super) connection: &'m Connection,
    pub(super) settings: &'m Settings,
    pub(super) words: &'m HostWords,
}

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
            let task = Task { text, params: Vec::new() };
            let result = self.connection.run(&task, Want::Count).await;
            result.map_err(|failure| migration.failed(number, self.explain(failure)))?;
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
