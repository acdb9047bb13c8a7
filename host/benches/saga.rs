//! What sagas cost: one of five steps that do nothing, from its start to its end, and how many a second, 32 at a time. In a
//! file, with the durability of the operating system.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::runtime::Runtime;
use wharf::{
    policy::Fault,
    saga::{Definition, Outcome, Sagas, Settings, Status, Step, StepCall, Steps},
    store::{self, Database},
};

/// A service whose steps are done at once.
struct Done;

impl Steps for Done {
    fn act(&self, _call: StepCall) -> BoxFuture<'_, Result<Outcome, Fault>> {
        async { Ok(Outcome::Done(r#"{"payment":{"id":"p-1"}}"#.into())) }.boxed()
    }

    fn compensate(&self, call: StepCall) -> BoxFuture<'_, Result<Outcome, Fault>> {
        self.act(call)
    }
}

async fn one(sagas: &Sagas, next: &AtomicU64) {
    let id = next.fetch_add(1, Ordering::Relaxed).to_string();
    let input = br#"{"customer":"u-1","items":[{"product":"p-7","quantity":2}],"total":4200}"#;
    sagas.start("checkout", &id, input).await.expect("it is started");
    let end = sagas.wait("checkout", &id, Duration::from_secs(10)).await.expect("it ends");
    assert_eq!(end.status, Status::Completed);
}

fn saga(criterion: &mut Criterion) {
    let folder = std::env::temp_dir().join(format!("wharf-saga-bench-{}", uuid::Uuid::new_v4()));
    let runtime = Runtime::new().expect("a runtime");
    let step = |name: &str| Step { name: name.into(), beside: false, compensates: true, repeatable: true, wait: None };
    let steps = ["create-order", "authorise", "reserve", "capture", "confirm"].map(step).to_vec();
    let definition = Definition { name: "checkout".into(), steps, timeout_ms: None };
    let (sagas, database) = runtime.block_on(async {
        let database = Database::of_service(&folder, "order", store::Settings::default()).await.expect("a database");
        let sagas = Sagas::open("order", database.clone(), vec![definition], Arc::new(Done), Settings::default());
        (sagas.await.expect("sagas"), database)
    });
    let next = AtomicU64::new(0);
    let mut group = criterion.benchmark_group("saga");
    group.bench_function("5 steps", |b| b.to_async(&runtime).iter(|| one(&sagas, &next)));
    group.throughput(Throughput::Elements(32));
    group.bench_function("5 steps, 32 at a time", |b| {
        b.to_async(&runtime).iter(|| join_all((0..32).map(|_| one(&sagas, &next))));
    });
    group.finish();
    runtime.block_on(async {
        sagas.close(tokio::time::Instant::now()).await;
        database.close().await;
    });
    let _ = std::fs::remove_dir_all(&folder);
}

criterion_group!(benches, saga);
criterion_main!(benches);
