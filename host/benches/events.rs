//! What events cost: publishing 1 KB durably, alone and sixteen at a time, and the way from a publisher to a handler at a
//! fixed rate; by the embedded log with each durability, and by Redis Streams where there is a `redis-server`.
//!
//! No criterion: what matters here are the slow ones among many, and a load that does not wait for its answers. Arguments:
//! how many seconds each part takes (3), and the rate for the delivery's latency (5000 events a second).
//!
//!     cargo bench -p wharf --bench events -- 10 5000
//!
//! To compare with Redis itself, beside a server with the same `appendfsync` (`everysec` is what `os` is like, `always`
//! what `fsync` is like), and one and sixteen clients:
//!
//!     redis-server --port 7777 --save '' --appendonly yes --appendfsync everysec
//!     redis-benchmark -p 7777 -n 200000 -c 16 -d 1024 XADD bench '*' data __data__
//!
//! where `__data__` stands for 1,024 bytes: `$(head -c 1024 /dev/zero | tr '\0' x)`.

use futures::future::{BoxFuture, join_all};
use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};
use tokio::{
    runtime::Runtime,
    sync::mpsc,
    time::{Duration, Instant, MissedTickBehavior, interval, sleep},
};
use wharf::{
    events::{
        Bus, BusConfig, BusKind, Durability, EmbeddedConfig, Event, NewEvent, RedisConfig, Retention, Subscriber,
        Subscription, Verdict,
    },
    policy::Fault,
};

const SIZE: usize = 1024;
const TOPIC: &str = "order.created";

/// Notes when events come.
struct Arrivals(mpsc::UnboundedSender<(Instant, Arc<Event>)>);

impl Subscriber for Arrivals {
    fn deliver(&self, event: Arc<Event>, _: u32) -> BoxFuture<'_, Result<Verdict, Fault>> {
        let _ = self.0.send((Instant::now(), event));
        Box::pin(std::future::ready(Ok(Verdict::Ack)))
    }
}

struct Redis {
    server: Child,
    folder: PathBuf,
    port: u16,
}

impl Redis {
    /// A server of its own, if there is one on the path.
    fn start(appendfsync: &str) -> Option<Self> {
        let folder = folder("redis");
        let port = std::net::TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port();
        let server = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"])
            .args(["--appendfsync", appendfsync, "--dir"])
            .arg(&folder)
            .stdout(Stdio::null())
            .spawn()
            .ok()?;
        let until = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(Self { server, folder, port })
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("wharf-events-bench-{name}-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

async fn start(kind: BusKind, subscriptions: Vec<Subscription>) -> Bus {
    let publishes = [("order".to_owned(), vec![TOPIC.to_owned()])].into();
    let config = BusConfig { app: "bench".into(), kind, publishes, retention: Retention::default() };
    Bus::start(config, subscriptions).await.expect("a bus")
}

fn event(data: &[u8]) -> NewEvent {
    NewEvent { subject: Some(fastrand::u32(0..10_000).to_string()), ..NewEvent::json(TOPIC, data.to_vec()) }
}

/// A part of sorted times, in milliseconds.
fn at(sorted: &[Duration], part: f64) -> f64 {
    let index = (sorted.len() as f64 * part) as usize;
    sorted.get(index.min(sorted.len().saturating_sub(1))).map_or(f64::NAN, |it| it.as_secs_f64() * 1e3)
}

fn report(what: &str, rate: f64, mut times: Vec<Duration>) {
    times.sort_unstable();
    let (p50, p99, max) = (at(&times, 0.5), at(&times, 0.99), at(&times, 1.0));
    println!("{what:<52} {rate:>9.0}/s   p50 {p50:>7.3} ms   p99 {p99:>7.3} ms   max {max:>8.3} ms");
}

/// So many publishers, each of which waits for its answer, with one subscription that listens.
async fn throughput(name: &str, kind: BusKind, publishers: usize, time: Duration) {
    let (arrivals, mut arrived) = mpsc::unbounded_channel();
    let bus = start(kind, vec![Subscription::new(TOPIC, "audit", Arc::new(Arrivals(arrivals)))]).await;
    let data: Arc<[u8]> = vec![b'x'; SIZE].into();
    let begin = Instant::now();
    let publishing = (0..publishers).map(|_| {
        let (bus, data) = (bus.clone(), Arc::clone(&data));
        tokio::spawn(async move {
            let mut times = Vec::new();
            while begin.elapsed() < time {
                let asked = Instant::now();
                bus.publish("order", event(&data), None).await.expect("it is taken");
                times.push(asked.elapsed());
            }
            times
        })
    });
    let times: Vec<_> = join_all(publishing).await.into_iter().flat_map(|it| it.expect("no panic")).collect();
    let took = begin.elapsed().as_secs_f64();
    let rate = times.len() as f64 / took;
    for _ in 0..times.len() {
        arrived.recv().await.expect("a delivery");
    }
    report(&format!("{name}: publish, {publishers} publishers"), rate, times);
    bus.shutdown(Duration::from_secs(10)).await;
}

/// Events at a fixed rate, whether or not they are answered, from before their publishing to their handler.
async fn latency(name: &str, kind: BusKind, rate: u32, time: Duration) {
    let (arrivals, mut arrived) = mpsc::unbounded_channel();
    let bus = start(kind, vec![Subscription::new(TOPIC, "audit", Arc::new(Arrivals(arrivals)))]).await;
    let data: Arc<[u8]> = vec![b'x'; SIZE].into();
    let begun: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let refused = Arc::new(AtomicUsize::new(0));
    // What a tick has in it, since ticks are a millisecond apart at best.
    let each = rate.div_ceil(1_000);
    let mut ticks = interval(Duration::from_secs(1) * each / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let begin = Instant::now();
    let mut publishing = Vec::new();
    let mut count = 0;
    while begin.elapsed() < time {
        ticks.tick().await;
        for _ in 0..each {
            let (bus, data, begun, refused) =
                (bus.clone(), Arc::clone(&data), Arc::clone(&begun), Arc::clone(&refused));
            // Its number is what it begins with, so that the time can be found when it arrives.
            let number: usize = count;
            begun.lock().expect("no panic").push(Instant::now());
            count += 1;
            publishing.push(tokio::spawn(async move {
                let mut data = data.to_vec();
                data[..12].copy_from_slice(format!("{number:012}").as_bytes());
                if bus.publish("order", event(&data), None).await.is_err() {
                    refused.fetch_add(1, Relaxed);
                }
            }));
        }
    }
    join_all(publishing).await;
    let taken = count - refused.load(Relaxed);
    let mut times = Vec::with_capacity(taken);
    for _ in 0..taken {
        let (when, event) = arrived.recv().await.expect("a delivery");
        let number: usize = String::from_utf8_lossy(&event.data[..12]).parse().expect("a number");
        times.push(when.duration_since(begun.lock().expect("no panic")[number]));
    }
    let real = taken as f64 / begin.elapsed().as_secs_f64();
    report(&format!("{name}: delivery at {rate}/s"), real, times);
    bus.shutdown(Duration::from_secs(10)).await;
}

fn main() {
    // Cargo says `--bench` too.
    let mut arguments = std::env::args().skip(1).filter_map(|it| it.parse::<u32>().ok());
    let time = Duration::from_secs(arguments.next().unwrap_or(3).into());
    let rate = arguments.next().unwrap_or(5_000).max(1);
    let runtime = Runtime::new().expect("a runtime");
    for (name, durability) in [("embedded os", Durability::Os), ("embedded fsync", Durability::Fsync)] {
        let part = |measure: &dyn Fn(BusKind) -> BoxFuture<'static, ()>| {
            let folder = folder("embedded");
            runtime.block_on(measure(BusKind::Embedded(EmbeddedConfig {
                file: folder.join("events.sqlite"),
                durability,
            })));
            let _ = std::fs::remove_dir_all(folder);
        };
        part(&|kind| Box::pin(throughput(name, kind, 1, time)));
        part(&|kind| Box::pin(throughput(name, kind, 16, time)));
        part(&|kind| Box::pin(latency(name, kind, rate, time)));
    }
    for (name, appendfsync) in [("redis everysec", "everysec"), ("redis always", "always")] {
        let part = |measure: &dyn Fn(BusKind) -> BoxFuture<'static, ()>| {
            let Some(redis) = Redis::start(appendfsync) else { return false };
            let config = RedisConfig::new(format!("redis://127.0.0.1:{}", redis.port));
            runtime.block_on(async {
                sleep(Duration::from_millis(200)).await;
                measure(BusKind::RedisStreams(config)).await;
            });
            true
        };
        let there = part(&|kind| Box::pin(throughput(name, kind, 1, time)))
            && part(&|kind| Box::pin(throughput(name, kind, 16, time)))
            && part(&|kind| Box::pin(latency(name, kind, rate, time)));
        if !there {
            println!("{name}: no redis-server on the path");
        }
    }
}
