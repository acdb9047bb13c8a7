//! What the store promises, each promise with a test that tries to break it.

mod crash;
mod guard;
mod limits;
mod migrations;
mod reading;
mod transactions;
mod units;
mod writing;

use super::*;
use futures::{FutureExt, future::join_all};
use std::sync::Arc;

/// A folder that is gone after the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("wharf-store-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    async fn database(&self) -> Database {
        self.with(Settings::default()).await
    }

    async fn with(&self, settings: Settings) -> Database {
        Database::of_service(&self.0, "user", settings).await.unwrap()
    }

    /// A database with a table `t (id INTEGER PRIMARY KEY, v TEXT UNIQUE)` that has the rows 1 to `rows`.
    async fn table(&self, rows: i64, settings: Settings) -> Database {
        let database = self.with(settings).await;
        database.execute(sql("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT UNIQUE)")).await.unwrap();
        for chunk in (1..=rows).collect::<Vec<_>>().chunks(1_000) {
            database.batch(chunk.iter().map(|id| insert(*id)).collect()).await.unwrap();
        }
        database
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn sql(sql: &str) -> Statement {
    Statement { sql: sql.into(), params: Vec::new() }
}

fn with(sql: &str, params: impl IntoIterator<Item = Value>) -> Statement {
    Statement { sql: sql.into(), params: params.into_iter().collect() }
}

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

fn insert(id: i64) -> Statement {
    with("INSERT INTO t VALUES ($1, $2)", [Value::Integer(id), Value::Text(format!("v{id}"))])
}

/// The value of a query's only column in its only row.
async fn one(database: &Database, query: &str) -> Value {
    let rows = database.query(sql(query)).await.unwrap().rows;
    assert_eq!((rows.len(), rows[0].len()), (1, 1));
    rows[0][0].clone()
}

async fn count(database: &Database) -> i64 {
    let Value::Integer(count) = one(database, "SELECT count(*) FROM t").await else { panic!("not a number") };
    count
}
