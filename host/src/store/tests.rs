//! What the store promises, each promise with a test that tries to break it, on every backend that makes it.
//!
//! What only one backend promises is tested beside it.

/// Makes tests of functions that take a [`Scratch`]: one for each backend.
macro_rules! on_each_backend {
    ($($test:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $test() {
                super::$test(crate::store::tests::Scratch::sqlite()).await;
            })*
        }
        mod postgres {
            $(#[tokio::test]
            async fn $test() {
                super::$test(crate::store::tests::Scratch::postgres()).await;
            })*
        }
    };
}

pub(crate) use on_each_backend;

pub(super) mod guard;
mod limits;
pub(super) mod migrations;
mod reading;
#[path = "../../../tests/src/postgres.rs"]
#[allow(dead_code, missing_docs, reason = "the end-to-end tests use more of it")]
pub(super) mod server;
mod transactions;
mod units;
mod writing;

pub(super) use super::*;
pub(super) use futures::{FutureExt, future::join_all};
use std::sync::{Arc, OnceLock};

/// A place for databases that is gone after the test: a folder, or a database on a server.
pub(crate) struct Scratch(Place);

enum Place {
    Folder(PathBuf),
    Server { server: Server, database: String },
}

/// The server of this process's tests, which ends with the process.
pub(super) fn postgres() -> &'static server::Postgres {
    static POSTGRES: OnceLock<server::Postgres> = OnceLock::new();
    POSTGRES.get_or_init(server::Postgres::start)
}

/// A server's settings with the URL of a role.
pub(super) fn settings_of(url: String) -> ServerSettings {
    ServerSettings { app: "test".into(), url, certificates: None, connections: 16 }
}

impl Scratch {
    pub(crate) fn sqlite() -> Self {
        let folder = std::env::temp_dir().join(format!("wharf-store-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(Place::Folder(folder))
    }

    pub(crate) fn postgres() -> Self {
        let database = format!("t{}", uuid::Uuid::new_v4().simple());
        postgres().create(&database);
        let server = Server::new(settings_of(postgres().url(&database))).unwrap();
        Self(Place::Server { server, database })
    }

    /// The folder of one that is one.
    pub(crate) fn folder(&self) -> &Path {
        match &self.0 {
            Place::Folder(folder) => folder,
            Place::Server { .. } => panic!("it is no folder"),
        }
    }

    /// The server and the name of the database of one that is on a server.
    pub(super) fn server(&self) -> (&Server, &str) {
        match &self.0 {
            Place::Folder(_) => panic!("it is no server"),
            Place::Server { server, database } => (server, database),
        }
    }

    pub(super) async fn database(&self) -> Database {
        self.with(Settings::default()).await
    }

    pub(super) async fn with(&self, settings: Settings) -> Database {
        self.of("user", settings).await
    }

    /// The database of a service.
    pub(crate) async fn of(&self, service: &str, settings: Settings) -> Database {
        match &self.0 {
            Place::Folder(folder) => Database::of_service(folder, service, settings).await,
            Place::Server { server, .. } => Database::on_server(server, service, None, settings).await,
        }
        .unwrap_or_else(|error| panic!("{error}"))
    }

    /// A database with a table `t (id INTEGER PRIMARY KEY, v TEXT UNIQUE)` that has the rows 1 to `rows`.
    pub(super) async fn table(&self, rows: i64, settings: Settings) -> Database {
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
        match &self.0 {
            Place::Folder(folder) => drop(std::fs::remove_dir_all(folder)),
            // It goes with the server.
            Place::Server { .. } => {}
        }
    }
}

pub(super) fn sql(sql: &str) -> Statement {
    Statement { sql: sql.into(), params: Vec::new() }
}

pub(super) fn with(sql: &str, params: impl IntoIterator<Item = Value>) -> Statement {
    Statement { sql: sql.into(), params: params.into_iter().collect() }
}

pub(super) fn text(text: &str) -> Value {
    Value::Text(text.into())
}

pub(super) fn insert(id: i64) -> Statement {
    with("INSERT INTO t VALUES ($1, $2)", [Value::Integer(id), Value::Text(format!("v{id}"))])
}

/// The value of a query's only column in its only row.
pub(super) async fn one(database: &Database, query: &str) -> Value {
    let rows = database.query(sql(query)).await.unwrap().rows;
    assert_eq!((rows.len(), rows[0].len()), (1, 1));
    rows[0][0].clone()
}

pub(super) async fn count(database: &Database) -> i64 {
    let Value::Integer(count) = one(database, "SELECT count(*) FROM t").await else { panic!("not a number") };
    count
}
