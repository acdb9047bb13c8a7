use crate::{
    events::{
        BusConfig, BusError, BusKind, Connection, DeadLetterFilter, DeadReason, DeliveryPolicy, NewEvent, PublishError,
        RedisConfig, Subscriber, Subscription, Verdict,
        testing::{Log, Proxy, SOON, Server, acknowledging, gated, policy, probe, start, trapped, until},
    },
    policy::{Backoff, FaultKind},
    telemetry::TraceContext,
};
use redis::{Value, cmd};
use std::{collections::HashSet, sync::Arc};
use tokio::time::{Duration, Instant};

const LEASE: Duration = Duration::from_millis(600);

fn created(data: impl ToString) -> NewEvent {
    NewEvent::json("order.created", data.to_string())
}

fn about(subject: impl ToString, data: impl ToString) -> NewEvent {
    NewEvent { subject: Some(subject.to_string()), ..created(data) }
}

fn config(url: String, consumer: &str) -> RedisConfig {
    RedisConfig { consumer: consumer.into(), lease: LEASE, trim: SOON, ..RedisConfig::new(url) }
}

fn stream(partition: u16) -> String {
    format!("wharf:shop:order.created:{partition}")
}

fn kind(server: &Server, consumer: &str) -> BusKind {
    BusKind::RedisStreams(config(server.url(), consumer))
}

fn subscription(subscriber: Arc<dyn Subscriber>) -> Vec<Subscription> {
    let backoff = Backoff { first: Duration::from_millis(20), max: Duration::from_secs(1), jitter: 0.5 };
    let policy = DeliveryPolicy { backoff, ..policy() };
    vec![Subscription::new("order.created", "notification", subscriber).with_policy(policy)]
}

async fn pending(server: &Server) -> u64 {
    let mut raw = server.raw().await;
    let mut sum = 0;
    for partition in 0..8 {
        let mut query = cmd("XPENDING");
        let summary: (u64, Value, Value, Value) =
            query.arg(stream(partition)).arg("notification").query_async(&mut raw).await.unwrap();
        sum += summary.0;
    }
    sum
}

/// How many entries the streams of the topic have.
async fn entries(server: &Server) -> u64 {
    let mut raw = server.raw().await;
    let mut sum = 0;
    for partition in 0..8 {
        sum += cmd("XLEN").arg(stream(partition)).query_async::<u64>(&mut raw).await.unwrap();
    }
    sum
}

async fn nothing_pending(server: &Server) {
    until("everything is acknowledged", async || pending(server).await == 0).await;
}

/// Waits until all of `expected` have been delivered, once or more.
async fn all(log: &mut Log, expected: impl IntoIterator<Item = String>) {
    let mut missing: HashSet<String> = expected.into_iter().collect();
    while !missing.is_empty() {
        missing.remove(&log.next().await.text());
    }
}

#[tokio::test]
async fn an_event_travels_as_a_cloud_event_and_is_acknowledged() {
    let server = Server::start();
    let (subscriber, mut log) = acknowledging();
    let bus = start(kind(&server, "a"), subscription(subscriber)).await;
    let trace = TraceContext::root();
    let event = NewEvent { subject: Some("7".into()), ..created(r#"{"orderId":"7"}"#) };
    let id = bus.publish("order", event, Some(trace)).await.unwrap();

    let seen = log.next().await;
    assert_eq!((seen.attempt, &seen.event.id, seen.text()), (1, &id, r#"{"orderId":"7"}"#.into()));
    assert_eq!((&*seen.event.source, seen.event.subject.as_deref()), ("/services/order", Some("7")));
    assert_eq!(seen.event.traceparent, Some(trace));
    nothing_pending(&server).await;

    let mut raw = server.raw().await;
    let entries: Vec<(String, Vec<String>)> =
        cmd("XRANGE").arg(stream(2)).arg("-").arg("+").query_async(&mut raw).await.unwrap();
    let fields: Vec<_> = entries[0].1.chunks(2).map(|pair| (pair[0].as_str(), pair[1].clone())).collect();
    let expected = [
        ("specversion", "1.0".to_owned()),
        ("id", id),
        ("source", "/services/order".into()),
        ("type", "order.created".into()),
        ("time", seen.event.rfc3339()),
        ("datacontenttype", "application/json".into()),
        ("subject", "7".into()),
        ("traceparent", trace.to_string()),
        ("data", r#"{"orderId":"7"}"#.into()),
    ];
    assert_eq!(fields, expected);
    until("the lag is known", async || bus.snapshot().subscriptions[0].lag == Some(0)).await;
    assert_eq!(bus.snapshot().connection, Connection::Connected);
}

#[tokio::test]
async fn an_event_comes_again_after_a_fault_and_is_rejected_at_last() {
    let server = Server::start();
    let (subscriber, mut log) = probe(|event, attempt| async move {
        match (&event.data[..], attempt) {
            (b"1", 1) => Err(trapped()),
            (b"1", 2) => Ok(Verdict::Retry(Some(Duration::from_millis(5)))),
            (b"1", _) => Ok(Verdict::Ack),
            _ => Err(trapped()),
        }
    });
    let bus = start(kind(&server, "a"), subscription(subscriber)).await;
    bus.publish("order", created(1), None).await.unwrap();
    for attempt in 1..=3 {
        assert_eq!(log.next().await.attempt, attempt);
    }
    nothing_pending(&server).await;
    bus.publish("order", created(2), None).await.unwrap();
    for attempt in 1..=5 {
        assert_eq!(log.next().await.attempt, attempt);
    }
    nothing_pending(&server).await;
    let snapshot = &bus.snapshot().subscriptions[0];
    assert_eq!((snapshot.delivered, snapshot.retried, snapshot.rejected), (1, 6, 1));
}

#[tokio::test]
async fn a_host_that_starts_again_finds_what_it_left() {
    let server = Server::start();
    let (hanging, mut log, _gate) = gated();
    let bus = start(kind(&server, "a"), subscription(hanging)).await;
    bus.publish("order", created(1), None).await.unwrap();
    assert_eq!(log.next().await.attempt, 1);
    // Not a shutdown: it is gone with what it was doing.
    drop(bus);

    let (subscriber, mut log) = acknowledging();
    let _bus = start(kind(&server, "a"), subscription(subscriber)).await;
    let seen = log.next().await;
    assert_eq!((seen.attempt, seen.text()), (2, "1".into()));
    nothing_pending(&server).await;
}

#[tokio::test]
async fn events_and_publishers_survive_a_restart_of_redis() {
    let mut server = Server::start();
    let (subscriber, mut log, gate) = gated();
    let bus = start(kind(&server, "a"), subscription(subscriber)).await;
    for n in 0..20 {
        bus.publish("order", created(n), None).await.unwrap();
    }
    let first = log.next().await.text();
    server.kill();
    // What is settled now Redis learns later.
    gate.add_permits(5);
    // What was on its way when the connection broke may have arrived, for all one can know; what comes after surely not.
    for may_be in [true, false] {
        let begin = Instant::now();
        let Err(PublishError::Fault(fault)) = bus.publish("order", created("x"), None).await else {
            panic!("published without Redis")
        };
        assert!(begin.elapsed() < Duration::from_secs(5), "a publisher waits for a bounded time");
        let surely_not = fault.kind() == FaultKind::Unreachable;
        assert!(surely_not || (may_be && fault.kind() == FaultKind::DeadlineExceeded), "{fault}");
    }
    assert!(matches!(bus.snapshot().connection, Connection::Disconnected { .. }));

    // A publisher that waits while Redis comes back does not notice.
    let publisher = bus.publisher("order");
    let waiting = tokio::spawn(async move { publisher.publish(created(20), None).await });
    server.revive();
    waiting.await.unwrap().unwrap();
    for n in 21..40 {
        bus.publish("order", created(n), None).await.unwrap();
    }
    gate.add_permits(1000);
    all(&mut log, (0..40).map(|n| n.to_string()).filter(|it| *it != first)).await;
    nothing_pending(&server).await;
    until("nothing is held", async || bus.snapshot().subscriptions[0].lag == Some(0)).await;
    assert_eq!(bus.snapshot().connection, Connection::Connected);
}

#[tokio::test]
async fn cut_connections_lose_nothing() {
    let server = Server::start();
    let proxy = Proxy::to(server.port()).await;
    let (subscriber, mut log) = acknowledging();
    let bus = start(BusKind::RedisStreams(config(proxy.url(), "a")), subscription(subscriber)).await;
    for n in 0..200 {
        if n % 20 == 10 {
            proxy.cut();
        }
        bus.publish("order", created(n), None).await.unwrap();
    }
    all(&mut log, (0..200).map(|n| n.to_string())).await;
    nothing_pending(&server).await;
    assert!(proxy.accepted() > 10, "connections were made anew");
}

#[tokio::test]
async fn a_redis_that_kept_nothing_is_set_up_again() {
    let server = Server::start();
    let (subscriber, mut log) = acknowledging();
    let bus = start(kind(&server, "a"), subscription(subscriber)).await;
    bus.publish("order", created(1), None).await.unwrap();
    log.next().await;
    cmd("FLUSHALL").exec_async(&mut server.raw().await).await.unwrap();
    bus.publish("order", created(2), None).await.unwrap();
    assert_eq!(log.texts(1).await, ["2"]);
    nothing_pending(&server).await;
}

#[tokio::test]
async fn an_entry_that_is_no_event_stops_nothing() {
    let server = Server::start();
    let (subscriber, mut log) = acknowledging();
    let bus = start(kind(&server, "a"), subscription(subscriber)).await;
    let mut raw = server.raw().await;
    cmd("XADD").arg(stream(3)).arg("*").arg(b"\xff\xfe").arg("x").exec_async(&mut raw).await.unwrap();
    bus.publish("order", created(1), None).await.unwrap();
    assert_eq!(log.texts(1).await, ["1"]);
    nothing_pending(&server).await;
    assert_eq!(bus.snapshot().subscriptions[0].rejected, 1);
    let letters = bus.dead_letters(DeadLetterFilter::default()).await.unwrap();
    assert_eq!((letters.len(), letters[0].reason, letters[0].attempts), (1, DeadReason::Malformed, 0));
    assert_eq!(&letters[0].event.data[..], "{\"\u{fffd}\u{fffd}\":\"x\"}".as_bytes());
}

#[tokio::test]
async fn a_shutdown_leaves_to_redis_what_it_does_not_finish() {
    let server = Server::start();
    let (subscriber, mut log, gate) = gated();
    let one = DeliveryPolicy { concurrency: 1, ..policy() };
    let subscriptions = vec![Subscription::new("order.created", "notification", subscriber).with_policy(one)];
    let bus = start(kind(&server, "a"), subscriptions).await;
    for n in 0..3 {
        bus.publish("order", about("s", n), None).await.unwrap();
    }
    log.next().await;
    let stopping = tokio::spawn({
        let bus = bus.clone();
        async move { bus.shutdown(SOON).await }
    });
    until("it takes no more", async || bus.publish("order", created(9), None).await.is_err()).await;
    gate.add_permits(1);
    tokio::time::timeout(SOON / 2, stopping).await.expect("it does not wait for the rest").unwrap();
    assert!(log.rest().is_empty());

    let (subscriber, mut log) = acknowledging();
    let _bus = start(kind(&server, "a"), subscription(subscriber)).await;
    all(&mut log, (1..3).map(|n| n.to_string())).await;
    nothing_pending(&server).await;
}

#[tokio::test]
async fn a_start_without_redis_says_so_and_keeps_the_password() {
    let mut server = Server::start();
    server.kill();
    let url = format!("redis://user:geheim@127.0.0.1:{}", server.port());
    for (url, expected) in [(url.as_str(), "can't be used"), ("http://user:geheim@x", "not usable")] {
        let kind = BusKind::RedisStreams(RedisConfig::new(url));
        let config = BusConfig { app: "shop".into(), kind, publishes: [].into(), retention: Default::default() };
        let refused = crate::events::Bus::start(config, vec![]).await;
        let err: BusError = refused.unwrap_err();
        assert!(err.to_string().contains(expected), "{err}");
        assert!(!format!("{err} {err:?}").contains("geheim"), "{err:?}");
    }
}

#[tokio::test]
async fn hosts_with_other_partitions_are_refused() {
    let server = Server::start();
    let _bus = start(kind(&server, "a"), vec![]).await;
    for (partitions, expected) in [(4, "set `partitions = 8`"), (0, "expected 1 to 256")] {
        let kind = BusKind::RedisStreams(RedisConfig { partitions, ..config(server.url(), "b") });
        let publishes = [("order".to_owned(), vec!["order.created".to_owned()])].into();
        let config = BusConfig { app: "shop".into(), kind, publishes, retention: Default::default() };
        let refused = crate::events::Bus::start(config, vec![]).await.unwrap_err().to_string();
        assert!(refused.contains(expected), "{refused}");
    }
}

mod archive;
mod failures;
mod schedule;
mod sharing;
mod trimming;
