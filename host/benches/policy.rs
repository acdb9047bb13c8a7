//! What the policies of an edge cost a call.
//!
//! The attempt in these benches does nothing, so that what is measured is the policies' own cost. "Ready" is answered at
//! once; "pending" first hands the task back to the runtime, as a call to another task does, and so pays for a timer.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::{hint::black_box, sync::Arc, time::Duration};
use tokio::{runtime, time::Instant};
use wharf::policy::{
    Answer, Breaker, BreakerParams, BreakerPolicy, Deadline, Ended, Failure, FailureParams, FailurePolicy, FaultKind,
    Guard, Jitter, Outcome, Policy, PolicyParams, RateLimitKey, RateLimitParams, RateLimitPolicy, RateLimiter, Repeat,
    RetryPolicy, WindowSize,
};

const CALLS_PER_TASK: u64 = 1_000;

const FAILED: Outcome = Outcome::failed(Failure::Fault(FaultKind::Trapped));

fn guard(policy: Policy) -> Arc<Guard> {
    Arc::new(Guard::new("order -> user", policy))
}

/// Everything that there is, on: deadline, bulkhead, breaker with both rates over a window, budget, slowness.
fn whole(window: WindowSize) -> Policy {
    let breaker = BreakerParams { failure_rate: Some(50), slow_rate: Some(50), window, ..BreakerParams::default() };
    let failure = FailureParams { slow: Some(Duration::from_secs(1)), ..FailureParams::default() };
    Policy::try_new(PolicyParams {
        breaker: Some(BreakerPolicy::try_new(breaker).expect("a valid policy")),
        failure: FailurePolicy::try_new(failure).expect("a valid policy"),
        ..PolicyParams::default()
    })
    .expect("a valid policy")
}

/// One with little: no retry, no breaker, no bulkhead.
fn bare() -> PolicyParams {
    PolicyParams { retry: RetryPolicy::never(), breaker: None, bulkhead: None, ..PolicyParams::default() }
}

fn policies() -> [(&'static str, Policy); 3] {
    [
        ("default", Policy::default()),
        ("whole, over calls", whole(WindowSize::Calls(100))),
        ("whole, over time", whole(WindowSize::Time(Duration::from_secs(10)))),
    ]
}

fn in_an_hour() -> Deadline {
    Deadline { at: Instant::now() + Duration::from_secs(3600), of: "bench".into() }
}

fn rt(threads: usize) -> runtime::Runtime {
    runtime::Builder::new_multi_thread().worker_threads(threads).enable_time().build().expect("a runtime")
}

async fn ready(guard: &Guard, deadline: &Deadline) {
    let attempt = |attempt: wharf::policy::Attempt| async move { Ok(Answer::of(black_box(attempt.number))) };
    black_box(guard.run(deadline, Repeat::Always, attempt).await.is_ok());
}

async fn pending(guard: &Guard, deadline: &Deadline) {
    let answer = guard.run(deadline, Repeat::Always, |attempt| async move {
        tokio::task::yield_now().await;
        Ok(Answer::of(black_box(attempt.number)))
    });
    black_box(answer.await.is_ok());
}

/// `tasks` tasks make [`CALLS_PER_TASK`] calls each on one edge.
async fn contend(guard: &Arc<Guard>, tasks: u64, is_ready: bool) {
    let deadline = in_an_hour();
    let calls = |guard: Arc<Guard>, deadline: Deadline| async move {
        for _ in 0..CALLS_PER_TASK {
            if is_ready { ready(&guard, &deadline).await } else { pending(&guard, &deadline).await }
        }
    };
    let tasks: Vec<_> = (0..tasks).map(|_| tokio::spawn(calls(Arc::clone(guard), deadline.clone()))).collect();
    for task in tasks {
        task.await.expect("the task ends");
    }
}

fn closed_edge(c: &mut Criterion) {
    let runtime = rt(1);
    let deadline = runtime.block_on(async { in_an_hour() });
    let mut group = c.benchmark_group("guard");
    for (name, policy) in policies() {
        let guard = guard(policy);
        group.bench_function(format!("ready, {name}"), |b| b.to_async(&runtime).iter(|| ready(&guard, &deadline)));
        group.bench_function(format!("pending, {name}"), |b| b.to_async(&runtime).iter(|| pending(&guard, &deadline)));
    }
    group.bench_function("pending, no guard", |b| b.to_async(&runtime).iter(tokio::task::yield_now));
    for (name, params) in [
        ("bare", bare()),
        ("bulkhead only", PolicyParams { bulkhead: PolicyParams::default().bulkhead, ..bare() }),
        ("breaker only", PolicyParams { breaker: PolicyParams::default().breaker, ..bare() }),
        ("budget only", PolicyParams { retry: RetryPolicy::default(), ..bare() }),
    ] {
        let guard = guard(Policy::try_new(params).expect("a valid policy"));
        group.bench_function(format!("ready, {name}"), |b| b.to_async(&runtime).iter(|| ready(&guard, &deadline)));
    }
    group.bench_function("clock", |b| b.iter(Instant::now));
}

fn contended_edge(c: &mut Criterion) {
    let runtime = rt(4);
    for (name, policy) in policies() {
        for (kind, is_ready) in [("ready", true), ("pending", false)] {
            let mut group = c.benchmark_group(format!("guard contended, {kind}, {name}"));
            for tasks in [1, 2, 4, 8, 16] {
                let guard = guard(policy.clone());
                group.throughput(Throughput::Elements(tasks * CALLS_PER_TASK));
                group.bench_function(BenchmarkId::from_parameter(tasks), |b| {
                    b.to_async(&runtime).iter(|| contend(&guard, tasks, is_ready));
                });
            }
        }
    }
}

fn state_machines(c: &mut Criterion) {
    let tell = |breaker: &Breaker, outcome| {
        if let Ok(admission) = black_box(breaker).admit() {
            admission.end(outcome, Instant::now());
        }
    };
    for (name, policy) in policies() {
        let policy = policy.params().breaker.expect("it has a breaker");
        let breaker = Breaker::new("order -> user".into(), policy);
        c.bench_function(&format!("breaker/closed, success, {name}"), |b| b.iter(|| tell(&breaker, Outcome::GOOD)));
        let many = BreakerParams { failures: Some(1_000_000), failure_rate: Some(100), ..*policy.params() };
        let breaker = Breaker::new("order -> user".into(), BreakerPolicy::try_new(many).expect("a valid policy"));
        c.bench_function(&format!("breaker/closed, failure and success, {name}"), |b| {
            b.iter(|| {
                tell(&breaker, FAILED);
                tell(&breaker, Outcome::GOOD);
            });
        });
    }
    let params = BreakerParams { failures: Some(1), open: Duration::from_secs(3600), ..BreakerParams::default() };
    let tripped = Breaker::new("order -> user".into(), BreakerPolicy::try_new(params).expect("a valid policy"));
    tell(&tripped, FAILED);
    c.bench_function("breaker/open, rejected", |b| b.iter(|| black_box(&tripped).admit().is_err()));

    let retry = RetryPolicy::default();
    c.bench_function("retry/decision", |b| {
        let ended = || black_box((Ended::Fault(FaultKind::Unreachable), None));
        b.iter(|| retry.pause(1, ended(), Repeat::IfNothingBegun, Duration::from_secs(1), &Jitter::FULL));
    });
}

fn limiter(requests: u32, per: Duration, key: RateLimitKey) -> RateLimiter {
    let params = RateLimitParams { requests, per, burst: None, key };
    RateLimiter::new(RateLimitPolicy::try_new(params).expect("a valid policy"))
}

/// `tasks` tasks ask [`CALLS_PER_TASK`] times each, by a key of their own.
async fn contend_for(limiter: &Arc<RateLimiter>, tasks: u64) {
    let ask = |limiter: Arc<RateLimiter>, key: u64| async move {
        for _ in 0..CALLS_PER_TASK {
            black_box(limiter.take(&key, Instant::now()));
        }
    };
    let tasks: Vec<_> = (0..tasks).map(|key| tokio::spawn(ask(Arc::clone(limiter), key))).collect();
    for task in tasks {
        task.await.expect("the task ends");
    }
}

/// What a rate limit costs a request, the clock included (see "guard/clock").
fn rate_limits(c: &mut Criterion) {
    // A request comes back each nanosecond, so that all are granted.
    let wide = |key| limiter(1_000_000, Duration::from_millis(1), key);
    // And here one a day.
    let narrow = || limiter(1, Duration::from_secs(24 * 3600), RateLimitKey::Client);
    let mut group = c.benchmark_group("rate limit");
    let limit = wide(RateLimitKey::Route);
    group.bench_function("granted, of the route", |b| b.iter(|| limit.take(black_box(&0_u64), Instant::now())));
    for clients in [1, 10_000] {
        let (limit, mut next) = (wide(RateLimitKey::Client), 0_u64);
        group.bench_function(format!("granted, of {clients} clients in turn"), |b| {
            b.iter(|| {
                next = (next + 1) % clients;
                limit.take(black_box(&next), Instant::now())
            });
        });
    }
    let limit = narrow();
    group.bench_function("refused", |b| b.iter(|| limit.take(black_box(&0_u64), Instant::now())));
    // The table is full soon, and each of these looks through a set and finds no place.
    let (limit, mut next) = (narrow(), 0_u64);
    group.bench_function("invented keys", |b| {
        b.iter(|| {
            next += 1;
            limit.take(black_box(&next), Instant::now())
        });
    });
    group.finish();

    let runtime = rt(4);
    for (name, key) in [("of the route", RateLimitKey::Route), ("a client each", RateLimitKey::Client)] {
        let mut group = c.benchmark_group(format!("rate limit contended, {name}"));
        for tasks in [1, 2, 4, 8, 16] {
            let limit = Arc::new(wide(key.clone()));
            group.throughput(Throughput::Elements(tasks * CALLS_PER_TASK));
            group.bench_function(BenchmarkId::from_parameter(tasks), |b| {
                b.to_async(&runtime).iter(|| contend_for(&limit, tasks));
            });
        }
    }
}

criterion_group!(benches, closed_edge, contended_edge, state_machines, rate_limits);
criterion_main!(benches);
