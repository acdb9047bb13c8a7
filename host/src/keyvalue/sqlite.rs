//! Buckets in a SQLite file: one table for all buckets of a service.

use super::{Failure, KeyValueError, Keys, MAX_BATCH_BYTES, MAX_VALUE, PAGE};
use crate::store::{Database, Error, Settings, Statement, Value};
use std::{collections::HashMap, path::Path};

/// `n` is what `list-keys` goes by: no entry gets that of one before it.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS entries (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    bucket TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    UNIQUE (bucket, key)
) STRICT";

/// A sum is written as digits like any other value, so that `get` reads what `increment` wrote.
const INCREMENT: &str = "INSERT INTO entries (bucket, key, value) VALUES ($1, $2, CAST(CAST($3 AS TEXT) AS BLOB))
    ON CONFLICT (bucket, key) DO UPDATE SET value = CAST(CAST(CAST(value AS TEXT) + $3 AS TEXT) AS BLOB)
    WHERE length(value) BETWEEN 1 AND 19 AND CAST(value AS TEXT) NOT GLOB '*[^0-9]*'
        AND (CAST(value AS TEXT) NOT GLOB '0*' OR CAST(value AS TEXT) = '0')
        AND (length(value) < 19 OR CAST(value AS TEXT) <= '9223372036854775807')
        AND CAST(CAST(value AS TEXT) AS INTEGER) <= 9223372036854775807 - $3
    RETURNING CAST(CAST(value AS TEXT) AS INTEGER)";

/// The buckets of one service.
#[derive(Clone, Debug)]
pub(super) struct Sqlite(Database);

// === impl Sqlite ===

impl Sqlite {
    pub(super) async fn open(data: &Path, service: &str) -> Result<Self, KeyValueError> {
        let settings = Settings {
            max_value_bytes: MAX_VALUE + (64 << 10),
            max_bytes: MAX_BATCH_BYTES,
            // The text of a statement that names a thousand keys is short; it is their values that are bounded.
            max_rows: super::MAX_BATCH.max(PAGE),
            ..Settings::default()
        };
        let file = data.join("kv").join(format!("{service}.sqlite"));
        let database = Database::open(file, settings).await?;
        let made = database.execute(statement(TABLE, [])).await;
        made.map_err(|error| KeyValueError::Table { service: service.into(), reason: error.words().to_owned() })?;
        Ok(Self(database))
    }

    pub(super) async fn close(&self) {
        self.0.close().await;
    }

    pub(super) async fn exists(&self, bucket: &str, key: &str) -> Result<bool, Failure> {
        let sql = "SELECT 1 FROM entries WHERE bucket = $1 AND key = $2";
        Ok(!self.query(sql, [text(bucket), text(key)]).await?.is_empty())
    }

    pub(super) async fn list_keys(&self, bucket: &str, cursor: Option<u64>) -> Result<Keys, Failure> {
        let sql = "SELECT n, key FROM entries WHERE bucket = $1 AND n > $2 ORDER BY n LIMIT $3";
        let after = cursor.map_or(0, |cursor| i64::try_from(cursor).unwrap_or(i64::MAX));
        let rows = self.query(sql, [text(bucket), Value::Integer(after), Value::Integer(PAGE as i64)]).await?;
        let last = match rows.last().map(Vec::as_slice) {
            Some([Value::Integer(n), _]) if rows.len() == PAGE => u64::try_from(*n).ok(),
            _ => None,
        };
        let keys = rows.into_iter().filter_map(|row| match row.into_iter().nth(1) {
            Some(Value::Text(key)) => Some(key),
            _ => None,
        });
        Ok(Keys { keys: keys.collect(), cursor: last })
    }

    /// `None` where what is there is no number, or the sum would be none.
    pub(super) async fn increment(&self, bucket: &str, key: &str, delta: i64) -> Result<Option<i64>, Failure> {
        let rows = self.query(INCREMENT, [text(bucket), text(key), Value::Integer(delta)]).await?;
        Ok(match rows.first().map(Vec::as_slice) {
            Some([Value::Integer(sum)]) => Some(*sum),
            _ => None,
        })
    }

    pub(super) async fn get_many(&self, bucket: &str, keys: Vec<String>) -> Result<Vec<Option<Vec<u8>>>, Failure> {
        let places: Vec<String> = (2..keys.len() + 2).map(|at| format!("${at}")).collect();
        let sql = format!("SELECT key, value FROM entries WHERE bucket = $1 AND key IN ({})", places.join(", "));
        let params = std::iter::once(text(bucket)).chain(keys.iter().map(|key| text(key)));
        let rows = self.query(&sql, params).await?;
        let mut values: HashMap<String, Vec<u8>> = rows
            .into_iter()
            .filter_map(|row| match <[Value; 2]>::try_from(row) {
                Ok([Value::Text(key), Value::Blob(value)]) => Some((key, value)),
                _ => None,
            })
            .collect();
        // A key that is asked for twice is there twice.
        let repeated = keys.iter().enumerate().map(|(at, key)| keys[at + 1..].contains(key)).collect::<Vec<_>>();
        let all = keys.iter().zip(repeated);
        Ok(all.map(|(key, again)| if again { values.get(key).cloned() } else { values.remove(key) }).collect())
    }

    pub(super) async fn set_many(&self, bucket: &str, entries: Vec<(String, Vec<u8>)>) -> Result<(), Failure> {
        let sql = "INSERT INTO entries (bucket, key, value) VALUES ($1, $2, $3)
            ON CONFLICT (bucket, key) DO UPDATE SET value = excluded.value";
        let set = entries.into_iter().map(|(key, value)| {
            let params = [text(bucket), Value::Text(key), Value::Blob(value)];
            statement(sql, params)
        });
        self.0.batch(set.collect()).await.map(drop).map_err(failure)
    }

    pub(super) async fn delete_many(&self, bucket: &str, keys: Vec<String>) -> Result<(), Failure> {
        let sql = "DELETE FROM entries WHERE bucket = $1 AND key = $2";
        let delete = keys.into_iter().map(|key| statement(sql, [text(bucket), Value::Text(key)]));
        self.0.batch(delete.collect()).await.map(drop).map_err(failure)
    }

    async fn query(&self, sql: &str, params: impl IntoIterator<Item = Value>) -> Result<Vec<Vec<Value>>, Failure> {
        self.0.query(statement(sql, params)).await.map(|rows| rows.rows).map_err(failure)
    }
}

fn statement(sql: &str, params: impl IntoIterator<Item = Value>) -> Statement {
    Statement { sql: sql.into(), params: params.into_iter().collect() }
}

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

fn failure(error: Error) -> Failure {
    Failure::Other(error.words().to_owned())
}
