//! Redis that dies, hangs, is cut off or has no memory left, under a load that keeps its own account.

use super::*;
use crate::events::{Bus, testing::Seen};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

/// Publishers that note what was acknowledged.
struct Load {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU32>,
    tasks: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(bus: &Bus, publishers: usize) -> Self {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let tasks = (0..publishers).map(|publisher| {
            let (bus, stop, count) = (bus.clone(), Arc::clone(&stop), Arc::clone(&count));
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                for n in 0.. {
                    if stop.load(Relaxed) {
                        break;
                    }
                    let text = format!("{publisher}/{n}");
                    if bus.publish("order", about(publisher, &text), None).await.is_ok() {
                        acknowledged.push(text);
                        count.fetch_add(1, Relaxed);
                    }
                }
                acknowledged
            })
        });
        let tasks = tasks.collect();
        Self { stop, count, tasks }
    }

    async fn goes_on(&self, by: u32) {
        let before = self.count.load(Relaxed);
        until("publishing goes on", async || self.count.load(Relaxed) >= before + by).await;
    }

    async fn stop(self) -> Vec<String> {
        self.stop.store(true, Relaxed);
        let mut all = Vec::new();
        for task in self.tasks {
            all.extend(task.await.unwrap());
        }
        all
    }
}

fn shares(log: &mut Log, seen: &mut HashSet<String>) {
    seen.extend(log.rest());
}

async fn everything_came(acknowledged: Vec<String>, log: &mut Log) {
    let mut seen = HashSet::new();
    until("everything that was acknowledged was delivered", async || {
        shares(log, &mut seen);
        acknowledged.iter().all(|it| seen.contains(it))
    })
    .await;
}

/// Redis with every write on its disk before it answers, killed in the middle of its work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_is_killed_again_and_again() {
    let kills = std::env::var("WHARF_REDIS_KILLS").ok().and_then(|it| it.parse().ok()).unwrap_or(25);
    let mut server = Server::start();
    let (subscriber, mut log) = acknowledging();
    let bus = start(kind(&server, "a"), subscription(subscriber)).await;
    let load = Load::start(&bus, 4);
    for _ in 0..kills {
        load.goes_on(fastrand::u32(1..60)).await;
        server.kill();
        server.revive();
    }
    load.goes_on(10).await;
    let acknowledged = load.stop().await;
    everything_came(acknowledged, &mut log).await;
    nothing_pending(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_cut_at_random() {
    let server = Server::start();
    let proxy = Proxy::to(server.port()).await;
    let (subscriber, mut log) = probe(|_, attempt| async move {
        if attempt == 1 && fastrand::u8(..10) == 0 { Err(trapped()) } else { Ok(Verdict::Ack) }
    });
    let bus = start(BusKind::RedisStreams(config(proxy.url(), "a")), subscription(subscriber)).await;
    let load = Load::start(&bus, 4);
    for _ in 0..40 {
        load.goes_on(fastrand::u32(1..60)).await;
        proxy.cut();
    }
    let acknowledged = load.stop().await;
    everything_came(acknowledged, &mut log).await;
    nothing_pending(&server).await;
}

#[tokio::test]
async fn a_redis_that_hangs_blocks_nobody_for_good() {
    let server = Server::start();
    let (subscriber, mut log) = acknowledging();
    let bus = start(kind(&server, "a"), subscription(subscriber)).await;
    bus.publish("order", created(0), None).await.unwrap();
    assert_eq!(log.next().await.text(), "0");
    server.hang();
    let begin = Instant::now();
    let Err(PublishError::Fault(fault)) = bus.publish("order", created("x"), None).await else { panic!("published") };
    assert!(begin.elapsed() < Duration::from_secs(5), "a publisher waits for a bounded time");
    assert_eq!(fault.kind(), FaultKind::DeadlineExceeded, "{fault}");
    server.go_on();
    until("publishing works again", async || bus.publish("order", created(1), None).await.is_ok()).await;
    all(&mut log, ["1".to_owned()]).await;
    nothing_pending(&server).await;
    server.hang();
    let begin = Instant::now();
    bus.shutdown(Duration::from_secs(2)).await;
    assert!(begin.elapsed() < Duration::from_secs(4), "a shutdown keeps its deadline");
    server.go_on();
}

#[tokio::test]
async fn a_redis_without_memory_refuses_clearly_and_goes_on_delivering() {
    let server = Server::start();
    let (subscriber, mut log, gate) = gated();
    let bus = start(kind(&server, "a"), subscription(subscriber)).await;
    let mut raw = server.raw().await;
    let mut set = async |limit: &str| {
        cmd("CONFIG").arg("SET").arg("maxmemory").arg(limit).exec_async(&mut raw).await.unwrap();
    };
    set("6mb").await;
    let large = "x".repeat(100_000);
    let (mut acknowledged, mut refused) = (Vec::new(), None);
    while refused.is_none() {
        let text = format!("{} {large}", acknowledged.len());
        assert!(acknowledged.len() < 1000, "it never was full");
        match bus.publish("order", created(&text), None).await {
            Ok(_) => acknowledged.push(text),
            Err(err) => refused = Some(err),
        }
    }
    let Some(PublishError::Fault(fault)) = refused else { panic!("{refused:?}") };
    assert_eq!(fault.kind(), FaultKind::Overloaded);
    assert!(fault.to_string().contains("OOM") && fault.to_string().contains("maxmemory"), "{fault}");
    // What is scheduled needs memory too; some bytes may still have been free.
    until("nothing is scheduled either", async || {
        let due = jiff::Timestamp::now() + Duration::from_secs(3600);
        let scheduled = bus.publish("order", NewEvent { due: Some(due), ..created(&large) }, None).await;
        matches!(scheduled, Err(PublishError::Fault(fault)) if fault.kind() == FaultKind::Overloaded)
    })
    .await;

    // Its leases go on and it settles what it has, far beyond the time that a host may be silent.
    let begin = Instant::now();
    until("several leases are over", async || begin.elapsed() > 3 * LEASE).await;
    gate.add_permits(10_000);
    let mut seen: Vec<Seen> = Vec::new();
    while seen.len() < acknowledged.len() {
        seen.push(log.next().await);
    }
    nothing_pending(&server).await;
    let texts: HashSet<_> = seen.iter().map(Seen::text).collect();
    assert!(acknowledged.iter().all(|it| texts.contains(it)));
    assert!(seen.iter().all(|it| it.attempt == 1), "nothing was taken over");
    set("0").await;
    bus.publish("order", created("after"), None).await.unwrap();
    all(&mut log, ["after".to_owned()]).await;
}
