//! What the store costs: a query by key, a write, a batch, and many writers at once; and what it adds that a write has an
//! event that leaves with it. In a file; and some of it in PostgreSQL, on a server that the bench starts, which flushes
//! nothing, as SQLite does here. Without PostgreSQL that part is left out; `WHARF_BENCH_POSTGRES` is the URL of a database
//! on another server, for a role that may create roles.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures::future::join_all;
use std::{
    hint::black_box,
    path::{Path, PathBuf},
    sync::atomic::{AtomicI64, Ordering},
};
use tokio::runtime::Runtime;
use wharf::{
    events::{Bus, BusConfig, BusKind, Durability, EmbeddedConfig, NewEvent, Retention},
    outbox::{self, Outbox},
    store::{Database, OpenError, Server, ServerSettings, Settings, Statement, Value},
};

#[path = "../../tests/src/postgres.rs"]
#[allow(dead_code, missing_docs, reason = "the end-to-end tests use more of it")]
mod server;

const ROWS: i64 = 10_000;

/// A database with a table of `ROWS` users, and a folder that is gone afterwards.
struct Bench {
    runtime: Runtime,
    database: Database,
    folder: PathBuf,
    next: AtomicI64,
}

// === impl Bench ===

impl Bench {
    /// In a file.
    fn new() -> Self {
        Self::opened(async |folder| Database::of_service(folder, "user", Settings::default()).await)
    }

    /// In the PostgreSQL database of this URL, as an application of its own.
    fn on_server(url: String) -> Self {
        let settings = ServerSettings {
            app: format!("bench{}", uuid::Uuid::new_v4().simple()),
            url,
            certificates: None,
            connections: 32,
        };
        let service = Settings { connections: 16, ..Settings::default() };
        Self::opened(async |_| Database::on_server(&Server::new(settings)?, "user", None, service).await)
    }

    fn opened(open: impl AsyncFnOnce(&Path) -> Result<Database, OpenError>) -> Self {
        let folder = std::env::temp_dir().join(format!("wharf-store-bench-{}", uuid::Uuid::new_v4()));
        let runtime = Runtime::new().expect("a runtime");
        let database = runtime.block_on(open(&folder)).expect("the database can be opened");
        let bench = Self { runtime, database, folder, next: AtomicI64::new(0) };
        bench.runtime.block_on(async {
            let table = "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL UNIQUE)";
            let table = Statement { sql: table.into(), params: Vec::new() };
            bench.database.execute(table).await.expect("a table");
            for _ in 0..ROWS / 1_000 {
                let batch = (0..1_000).map(|_| bench.insert()).collect();
                bench.database.batch(batch).await.expect("rows");
            }
        });
        bench
    }

    fn insert(&self) -> Statement {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        Statement {
            sql: "INSERT INTO users (id, name, email) VALUES ($1, $2, $3)".into(),
            params: vec![
                Value::Integer(id),
                Value::Text(format!("User {id}")),
                Value::Text(format!("user-{id}@example.com")),
            ],
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.runtime.block_on(self.database.close());
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn point(id: i64) -> Statement {
    Statement { sql: "SELECT id, name, email FROM users WHERE id = $1".into(), params: vec![Value::Integer(id)] }
}

fn store(criterion: &mut Criterion) {
    let bench = Bench::new();
    let database = &bench.database;
    let mut group = criterion.benchmark_group("store");

    let mut id = 0;
    group.bench_function("query by key", |b| {
        b.to_async(&bench.runtime).iter(|| {
            id = (id + 7) % ROWS;
            async move { black_box(database.query(point(id)).await.expect("a row")) }
        });
    });
    // A text that no session knows goes to a blocking thread: what the way there and back costs.
    let mut text = 0;
    group.bench_function("query by key, unknown statement", |b| {
        b.to_async(&bench.runtime).iter(|| {
            text += 1;
            let mut statement = point(text % ROWS);
            statement.sql.push_str(&format!(" -- {text}"));
            async move { black_box(database.query(statement).await.expect("a row")) }
        });
    });
    group.bench_function("insert", |b| {
        b.to_async(&bench.runtime).iter(|| async { database.execute(bench.insert()).await.expect("a row") });
    });
    group.bench_function("batch of 4", |b| {
        b.to_async(&bench.runtime).iter(|| async {
            let batch = (0..4).map(|_| bench.insert()).collect();
            database.batch(batch).await.expect("rows")
        });
    });
    group.bench_function("transaction of 4", |b| {
        b.to_async(&bench.runtime).iter(|| async {
            let transaction = database.begin().await.expect("a transaction");
            for _ in 0..4 {
                transaction.execute(bench.insert()).await.expect("a row");
            }
            transaction.commit().await.expect("a commit");
        });
    });
    for writers in [16_u64, 64] {
        group.throughput(Throughput::Elements(writers));
        group.bench_with_input(BenchmarkId::new("inserts at once", writers), &writers, |b, &writers| {
            b.to_async(&bench.runtime).iter(|| async {
                for result in join_all((0..writers).map(|_| database.execute(bench.insert()))).await {
                    result.expect("a row");
                }
            });
        });
    }
    group.finish();
}

/// A row by its key and a new row, by one task and by several at once, where each visit goes to a server.
fn postgres(criterion: &mut Criterion) {
    let (_server, url) = match std::env::var("WHARF_BENCH_POSTGRES") {
        Ok(url) => (None, url),
        Err(_) if server::Postgres::is_installed() => {
            let server = server::Postgres::start();
            server.create("bench");
            let url = server.url("bench");
            (Some(server), url)
        }
        Err(_) => return eprintln!("PostgreSQL is not installed, and is left out"),
    };
    let bench = Bench::on_server(url);
    let database = &bench.database;
    let id = AtomicI64::new(0);
    let read = async || {
        let id = id.fetch_add(7, Ordering::Relaxed) % ROWS;
        black_box(database.query(point(id)).await.expect("a row"));
    };
    let write = async || {
        database.execute(bench.insert()).await.expect("a row");
    };
    let mut group = criterion.benchmark_group("postgres");
    for tasks in [1_u64, 16] {
        group.throughput(Throughput::Elements(tasks));
        group.bench_with_input(BenchmarkId::new("query by key", tasks), &tasks, |b, &tasks| {
            b.to_async(&bench.runtime).iter(|| join_all((0..tasks).map(|_| read())));
        });
        group.bench_with_input(BenchmarkId::new("insert", tasks), &tasks, |b, &tasks| {
            b.to_async(&bench.runtime).iter(|| join_all((0..tasks).map(|_| write())));
        });
    }
    group.finish();
}

/// An order as the shop writes it: without its event, and with it, while the relay takes the events to an embedded bus.
fn outbox(criterion: &mut Criterion) {
    let bench = Bench::new();
    let (database, runtime) = (&bench.database, &bench.runtime);
    let config = BusConfig {
        app: "bench".into(),
        kind: BusKind::Embedded(EmbeddedConfig {
            file: bench.folder.join("events.sqlite"),
            durability: Durability::Os,
        }),
        publishes: [("user".to_owned(), vec!["user.created".to_owned()])].into(),
        retention: Retention::default(),
    };
    let (bus, outbox) = runtime.block_on(async {
        let bus = Bus::start(config, Vec::new()).await.expect("a bus");
        let settings =
            outbox::Settings { max_events: usize::MAX, max_bytes: usize::MAX, ..outbox::Settings::default() };
        let outbox = Outbox::open("user", database.clone(), bus.clone(), settings).await.expect("an outbox");
        (bus, outbox)
    });
    let event = |row: &Statement| {
        // As an order's event is about that order.
        let Some(Value::Integer(id)) = row.params.first() else { unreachable!("a row has a number") };
        NewEvent { subject: Some(format!("u-{id}")), ..NewEvent::json("user.created", vec![b' '; 200]) }
    };
    let place = |events: bool| {
        let (outbox, statements) = (outbox.clone(), vec![bench.insert()]);
        let events = if events { statements.iter().map(event).collect() } else { Vec::new() };
        async move {
            match events.is_empty() {
                true => drop(database.batch(statements).await.expect("a row")),
                false => drop(outbox.batch(database, statements, events, None).await.expect("a row and an event")),
            }
        }
    };
    let mut group = criterion.benchmark_group("outbox");
    for writers in [1_u64, 16] {
        for (name, events) in [("without", false), ("with", true)] {
            group.throughput(Throughput::Elements(writers));
            group.bench_with_input(
                BenchmarkId::new(format!("a row {name} its event"), writers),
                &writers,
                |b, &writers| {
                    b.to_async(runtime).iter(|| join_all((0..writers).map(|_| place(events))));
                },
            );
        }
    }
    group.finish();
    runtime.block_on(async {
        outbox.close().await;
        bus.shutdown(std::time::Duration::from_secs(5)).await;
    });
}

criterion_group!(benches, store, postgres, outbox);
criterion_main!(benches);
