//! What the policies of an edge cost a call.
//!
//! The attempt in these benches does nothing, so that what is measured is the policies' own cost. "Ready" is answered at
//! once; "pending" first hands the task back to the runtime, as a call to another task does, and so pays for a timer.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use std::{hint::black_box, sync::Arc, time::Duration};
use tokio::{runtime, time::Instant};
use wharf::policy::{Breaker, BreakerPolicy, BulkheadPolicy, Fault, FaultKind, Guard, Jitter, Policy, RetryPolicy};

const CALLS_PER_TASK: u64 = 1_000;

fn guard() -> Arc<Guard> {
    Arc::new(Guard::new("order -> user", Policy::default()))
}

fn rt(threads: usize) -> runtime::Runtime {
    runtime::Builder::new_multi_thread().worker_threads(threads).enable_time().build().expect("a runtime")
}

async fn ready(guard: &Guard, deadline: Instant) {
    let answer = guard.run(deadline, false, |attempt| async move { Ok(black_box(attempt.number)) }).await;
    black_box(answer.is_ok());
}

async fn pending(guard: &Guard, deadline: Instant) {
    let answer = guard.run(deadline, false, |attempt| async move {
        tokio::task::yield_now().await;
        Ok(black_box(attempt.number))
    });
    black_box(answer.await.is_ok());
}

/// `tasks` tasks make [`CALLS_PER_TASK`] calls each on one edge.
async fn contend(guard: &Arc<Guard>, tasks: u64) {
    let deadline = Instant::now() + Duration::from_secs(3600);
    let calls = |guard: Arc<Guard>| async move {
        for _ in 0..CALLS_PER_TASK {
            ready(&guard, deadline).await;
        }
    };
    let tasks: Vec<_> = (0..tasks).map(|_| tokio::spawn(calls(Arc::clone(guard)))).collect();
    for task in tasks {
        task.await.expect("the task ends");
    }
}

fn closed_edge(c: &mut Criterion) {
    let runtime = rt(1);
    let deadline = runtime.block_on(async { Instant::now() + Duration::from_secs(3600) });
    let mut group = c.benchmark_group("guard");
    let whole = guard();
    group.bench_function("ready", |b| b.to_async(&runtime).iter(|| ready(&whole, deadline)));
    group.bench_function("pending", |b| b.to_async(&runtime).iter(|| pending(&whole, deadline)));
    group.bench_function("pending without guard", |b| b.to_async(&runtime).iter(tokio::task::yield_now));
    let bare = Policy::try_new(Duration::from_secs(5), RetryPolicy::never(), None, None).expect("a valid policy");
    let bare = Guard::new("order -> user", bare);
    group.bench_function("ready, no breaker, no bulkhead", |b| {
        b.to_async(&runtime).iter(|| ready(&bare, deadline));
    });
    group.bench_function("clock", |b| b.iter(Instant::now));
}

fn contended_edge(c: &mut Criterion) {
    let mut group = c.benchmark_group("guard contended");
    let runtime = rt(4);
    for tasks in [1, 4, 16] {
        let guard = guard();
        group.throughput(criterion::Throughput::Elements(tasks * CALLS_PER_TASK));
        group.bench_function(BenchmarkId::from_parameter(tasks), |b| {
            b.to_async(&runtime).iter(|| contend(&guard, tasks));
        });
    }
}

fn state_machines(c: &mut Criterion) {
    let breaker = Breaker::new("order -> user".into(), BreakerPolicy::default());
    c.bench_function("breaker/closed, success", |b| {
        b.iter(|| {
            if let Ok(admission) = black_box(&breaker).admit() {
                admission.succeed();
            }
        });
    });
    c.bench_function("breaker/closed, failure and success", |b| {
        b.iter(|| {
            if let Ok(admission) = black_box(&breaker).admit() {
                admission.fail(FaultKind::Trapped);
            }
            if let Ok(admission) = black_box(&breaker).admit() {
                admission.succeed();
            }
        });
    });
    let hour = Duration::from_secs(3600);
    let tripped = Breaker::new("order -> user".into(), BreakerPolicy::try_new(1, hour, 1).expect("a valid policy"));
    if let Ok(admission) = tripped.admit() {
        admission.fail(FaultKind::Trapped);
    }
    c.bench_function("breaker/open, rejected", |b| b.iter(|| black_box(&tripped).admit().is_err()));

    let (retry, fault) = (RetryPolicy::default(), Fault::new(FaultKind::Unreachable, "nobody there"));
    c.bench_function("retry/decision", |b| {
        b.iter(|| retry.pause(1, black_box(&fault), false, Duration::from_secs(1), &Jitter::FULL));
    });
    // A bulkhead alone: what it adds to an edge without a breaker.
    let bulkhead = Some(BulkheadPolicy::default());
    let only = Policy::try_new(Duration::from_secs(5), RetryPolicy::never(), None, bulkhead).expect("a valid policy");
    let only = Guard::new("order -> user", only);
    let runtime = rt(1);
    let deadline = runtime.block_on(async { Instant::now() + hour });
    c.bench_function("guard/ready, bulkhead only", |b| b.to_async(&runtime).iter(|| ready(&only, deadline)));
}

criterion_group!(benches, closed_edge, contended_edge, state_machines);
criterion_main!(benches);
