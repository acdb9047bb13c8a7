//! What is kept over restarts, and what is dropped.

use super::{Folder, created};
use crate::{
    events::{
        Bus, BusConfig, BusError, BusKind, DeliveryPolicy, Durability, EmbeddedConfig, Event, LogError, NewEvent,
        Prepared, PublishError, Retention, Subscription, Verdict,
        bus::{
            Transport,
            embedded::{Embedded, keeper},
        },
        testing::{acknowledging, gated, policy, probe, start, start_with, until},
    },
    policy::FaultKind,
};
use jiff::{SignedDuration, Timestamp};
use std::{path::Path, sync::Arc};
use tokio::time::{Duration, Instant};

fn subscription(service: &str, subscriber: Arc<dyn crate::events::Subscriber>) -> Subscription {
    Subscription::new("order.created", service, subscriber).with_policy(policy())
}

#[tokio::test(start_paused = true)]
async fn a_subscription_goes_on_where_it_was_and_a_new_one_begins_at_the_end() {
    let folder = Folder::new();
    let (hanging, _log) = probe(|_, _| std::future::pending());
    let bus = start(folder.kind(), vec![subscription("audit", hanging)]).await;
    for n in 0..3 {
        bus.publish("order", created(n), None).await.unwrap();
    }
    // As if it had died: nobody shuts it down.
    drop(bus);
    let ((one, mut first), (two, mut second)) = (acknowledging(), acknowledging());
    let bus = start(folder.kind(), vec![subscription("audit", one), subscription("late", two)]).await;
    assert_eq!(first.texts(3).await, ["0", "1", "2"]);
    bus.publish("order", created(3), None).await.unwrap();
    assert_eq!((first.texts(1).await, second.texts(1).await), (vec!["3".into()], vec!["3".into()]));
    bus.shutdown(Duration::from_secs(1)).await;
    drop(bus);
    // Nothing comes twice after an orderly end.
    let (one, mut first) = acknowledging();
    let bus = start(folder.kind(), vec![subscription("audit", one)]).await;
    bus.publish("order", created(4), None).await.unwrap();
    assert_eq!(first.texts(1).await, ["4"]);
    // The one that is missing meanwhile has its place kept.
    bus.shutdown(Duration::from_secs(1)).await;
    drop(bus);
    let (two, mut second) = acknowledging();
    let _bus = start(folder.kind(), vec![subscription("late", two)]).await;
    assert_eq!(second.texts(1).await, ["4"]);
    assert_eq!(folder.ask::<i64>("SELECT count(*) FROM subscriptions WHERE removed IS NOT NULL"), 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_settled_beside_a_hanging_event_is_not_delivered_again() {
    let folder = Folder::new();
    let answer = |event: Arc<Event>, _| async move {
        if &*event.data == b"0" {
            std::future::pending::<()>().await;
        }
        Ok(Verdict::Ack)
    };
    let (subscriber, mut log) = probe(answer);
    let bus = start(folder.kind(), vec![subscription("audit", subscriber)]).await;
    for n in 0..100 {
        bus.publish("order", created(n), None).await.unwrap();
    }
    assert_eq!(log.texts(100).await.len(), 100);
    // It becomes pending, and the position goes on without it.
    until("the position is saved", async || {
        tokio::time::sleep(Duration::from_millis(100)).await;
        folder.ask::<i64>("SELECT position FROM cursors") == 100
    })
    .await;
    assert_eq!(folder.ask::<i64>("SELECT seq FROM pending"), 1);
    drop(bus);
    let (subscriber, mut log) = acknowledging();
    let bus = start(folder.kind(), vec![subscription("audit", subscriber)]).await;
    assert_eq!(bus.snapshot().subscriptions[0].lag, Some(1));
    assert_eq!(log.texts(1).await, ["0"]);
    until("it is settled", async || folder.ask::<i64>("SELECT count(*) FROM pending") == 0).await;
    assert!(log.rest().is_empty());
}

#[tokio::test(start_paused = true)]
async fn tries_and_their_delays_survive_a_crash() {
    let folder = Folder::new();
    let (subscriber, mut log) = probe(|_, _| async { Ok(Verdict::Retry(Some(Duration::from_secs(3600)))) });
    let bus = start(folder.kind(), vec![subscription("audit", subscriber)]).await;
    bus.publish("order", created(1), None).await.unwrap();
    log.next().await;
    until("the try is saved", async || folder.ask::<i64>("SELECT count(*) FROM pending WHERE attempts = 1") == 1).await;
    drop(bus);
    let (subscriber, mut log) = acknowledging();
    let bus = start(folder.kind(), vec![subscription("audit", subscriber)]).await;
    until("it waits", async || bus.snapshot().subscriptions[0].waiting == 1).await;
    let begin = Instant::now();
    tokio::time::advance(Duration::from_secs(3590)).await;
    assert!(log.rest().is_empty());
    let seen = log.next().await;
    assert_eq!(seen.attempt, 2);
    assert!(begin.elapsed() >= Duration::from_secs(3595), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_is_for_later_comes_when_it_is_due_also_after_a_restart() {
    let folder = Folder::new();
    let (subscriber, mut log) = acknowledging();
    let bus = start(folder.kind(), vec![subscription("audit", subscriber)]).await;
    let later =
        |n: i64, seconds| NewEvent { due: Some(Timestamp::now() + SignedDuration::from_secs(seconds)), ..created(n) };
    let begin = Instant::now();
    bus.publish("order", later(2, 15), None).await.unwrap();
    bus.publish("order", later(1, 10), None).await.unwrap();
    bus.publish("order", later(3, 40), None).await.unwrap();
    bus.publish("order", later(0, -10), None).await.unwrap();
    assert_eq!(log.texts(3).await, ["0", "1", "2"]);
    // The system's clock stands still while this one is moved on, so the second wait begins anew.
    let after = begin.elapsed().as_secs_f64();
    assert!((14.0..28.0).contains(&after), "{after}");
    bus.shutdown(Duration::from_secs(1)).await;
    drop(bus);
    assert_eq!(folder.ask::<i64>("SELECT count(*) FROM scheduled"), 1);
    let (subscriber, mut log) = acknowledging();
    let _bus = start(folder.kind(), vec![subscription("audit", subscriber)]).await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    assert_eq!(log.texts(1).await, ["3"]);
    assert_eq!(folder.ask::<i64>("SELECT count(*) FROM scheduled"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_schedule_fires_once_for_a_time() {
    let folder = Folder::new();
    let (subscriber, mut log) = acknowledging();
    let bus = start(folder.kind(), vec![subscription("audit", subscriber)]).await;
    let at = |seconds| Timestamp::from_second(seconds).unwrap();
    let transport = &bus.0.transport;
    let event = |n: i64| bus.prepare("order", created(n), None).unwrap().event;
    assert_eq!(transport.last_fired("order.created").await, Ok(None));
    assert_eq!(transport.fire(at(60), event(0)).await, Ok(true));
    assert_eq!(transport.fire(at(60), event(1)).await, Ok(false));
    assert_eq!(transport.fire(at(0), event(2)).await, Ok(false));
    assert_eq!(transport.fire(at(120), event(3)).await, Ok(true));
    assert_eq!(transport.last_fired("order.created").await, Ok(Some(at(120))));
    assert_eq!(log.texts(2).await, ["0", "3"]);
    assert!(log.rest().is_empty());
}

#[tokio::test]
async fn retention_drops_what_is_settled_and_nothing_else() {
    let folder = Folder::new();
    let (slow, mut slow_log, gate) = gated();
    let (quick, mut quick_log) = probe(|event, _| async move {
        Ok(if event.data.starts_with(b"7 ") { Verdict::Reject("seven".into()) } else { Verdict::Ack })
    });
    let tight = DeliveryPolicy { concurrency: 1, capacity: 2, ..policy() };
    let subscriptions = vec![subscription("audit", quick), subscription("slow", slow).with_policy(tight)];
    let retention = Retention { age: Duration::from_secs(3600), size: 0, limit: 1 << 30 };
    let log = open(&folder, retention, subscriptions).await;
    for n in 0..1000 {
        publish(&log, created(format!("{n} {}", "x".repeat(1000)))).await;
        // Nobody subscribes to this one.
        publish(&log, NewEvent::json("order.confirmed", "x")).await;
    }
    quick_log.texts(1000).await;
    let count = |topic| folder.ask::<i64>(&format!("SELECT count(*) FROM log WHERE topic = '{topic}'"));
    keeper::sweep_once(&log.log).await.unwrap();
    // One holds all of its topic; of the other the last event of the log stays.
    assert_eq!((count("order.created"), count("order.confirmed")), (1000, 1));
    gate.add_permits(500);
    slow_log.texts(501).await;
    until("it is saved", async || folder.ask::<i64>("SELECT min(position) FROM cursors") == 1000).await;
    keeper::sweep_once(&log.log).await.unwrap();
    assert_eq!(count("order.created"), 501);
    assert_eq!(folder.ask::<i64>("SELECT min(seq) FROM events"), 15, "the event of the dead letter is kept");
    gate.add_permits(1000);
    slow_log.texts(499).await;
    until("it is saved", async || folder.ask::<i64>("SELECT min(position) FROM cursors") == 1999).await;
    keeper::sweep_once(&log.log).await.unwrap();
    assert_eq!((count("order.created"), count("order.confirmed")), (1, 1));
    // The pages are used again, and the numbers are not.
    let pages = folder.ask::<i64>("SELECT page_count FROM pragma_page_count");
    for n in 0..500 {
        publish(&log, created(format!("{n}0 {}", "x".repeat(1000)))).await;
    }
    assert_eq!(folder.ask::<i64>("SELECT page_count FROM pragma_page_count"), pages);
    assert_eq!(folder.ask::<i64>("SELECT max(seq) FROM events"), 2500);
}

/// The log without a bus around it, so that a test can say when to sweep.
async fn open(folder: &Folder, retention: Retention, subscriptions: Vec<Subscription>) -> Embedded {
    let config = EmbeddedConfig { file: folder.file(), durability: Durability::Os };
    Embedded::start(&config, &retention, subscriptions).await.unwrap().0
}

async fn publish(embedded: &Embedded, new: NewEvent) {
    let topic = new.topic.as_str().into();
    let event = Arc::new(Event::publish(new, topic, "/services/order".into(), None));
    embedded.publish(Prepared { event, due: None }).await.unwrap();
}

#[tokio::test]
async fn a_full_log_names_the_subscription_that_is_furthest_behind() {
    let folder = Folder::new();
    let (slow, mut slow_log, gate) = gated();
    let (quick, _log) = acknowledging();
    let tight = DeliveryPolicy { concurrency: 1, capacity: 2, ..policy() };
    let subscriptions = vec![subscription("audit", quick), subscription("slow", slow).with_policy(tight)];
    let retention = Retention { age: Duration::from_secs(3600), size: 1 << 20, limit: 1 << 20 };
    let bus = start_with(folder.kind(), retention, subscriptions).await;
    let mut taken = 0;
    let refused = loop {
        match bus.publish("order", created("x".repeat(10_000)), None).await {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
    };
    assert!((50..110).contains(&taken), "{taken}");
    let text = refused.to_string();
    assert!(matches!(refused, PublishError::Fault(fault) if fault.kind() == FaultKind::Overloaded));
    assert!(text.contains("limit of 1048576 bytes") && text.contains("slow to order.created"), "{text}");
    gate.add_permits(1_000_000);
    slow_log.texts(taken).await;
    // What is settled is dropped as soon as somebody needs the space.
    until("it takes events again", async || bus.publish("order", created("x"), None).await.is_ok()).await;
}

#[tokio::test]
async fn a_subscription_that_is_gone_for_long_holds_nothing() {
    let folder = Folder::new();
    let (subscriber, _log) = probe(|_, _| std::future::pending());
    let bus = start(folder.kind(), vec![subscription("gone", subscriber)]).await;
    for n in 0..10 {
        bus.publish("order", created(n), None).await.unwrap();
    }
    drop(bus);
    let retention = Retention { age: Duration::from_millis(20), ..Retention::default() };
    let log = open(&folder, retention, vec![]).await;
    until("it is forgotten", async || {
        keeper::sweep_once(&log.log).await.unwrap();
        folder.ask::<i64>("SELECT count(*) FROM subscriptions") == 0
    })
    .await;
    assert_eq!(folder.ask::<i64>("SELECT count(*) FROM events"), 1);
    assert_eq!(folder.ask::<i64>("SELECT count(*) FROM cursors"), 0);
}

async fn refused(file: &Path) -> LogError {
    let kind = BusKind::Embedded(EmbeddedConfig { file: file.to_owned(), durability: Durability::Fsync });
    let config = BusConfig { app: "shop".into(), kind, publishes: [].into(), retention: Retention::default() };
    match Bus::start(config, vec![]).await {
        Err(BusError::Log(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_file_that_is_no_log_is_refused_with_words_and_left_alone() {
    let folder = Folder::new();
    let file = folder.file();
    std::fs::write(&file, "what is this? ".repeat(1000)).unwrap();
    let error = refused(&file).await;
    assert!(matches!(error, LogError::Damaged { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(file.to_str().unwrap()) && text.contains("backup"), "{text}");
    assert!(std::fs::read_to_string(&file).unwrap().starts_with("what is this?"));

    std::fs::remove_file(&file).unwrap();
    rusqlite::Connection::open(&file).unwrap().execute_batch("CREATE TABLE t (v)").unwrap();
    let error = refused(&file).await;
    assert!(matches!(error, LogError::Foreign(_)), "{error:?}");
    assert_eq!(folder.ask::<i64>("SELECT count(*) FROM sqlite_schema"), 1);

    std::fs::remove_file(&file).unwrap();
    start(folder.kind(), vec![]).await.shutdown(Duration::from_secs(1)).await;
    rusqlite::Connection::open(&file).unwrap().execute_batch("PRAGMA user_version = 9").unwrap();
    let error = refused(&file).await;
    assert!(error.to_string().contains("has version 9, and this Wharf knows versions up to 1"), "{error}");

    let error = refused(&file.join("below/events.sqlite")).await;
    assert!(matches!(error, LogError::Folder { .. }), "{error:?}");
}

#[tokio::test]
async fn what_was_read_from_the_file_is_what_was_published() {
    let folder = Folder::new();
    let (hanging, _log) = probe(|_, _| std::future::pending());
    let bus = start(folder.kind(), vec![subscription("audit", hanging)]).await;
    let event = NewEvent {
        subject: Some("é".into()),
        datacontenttype: Some("image/png".into()),
        data: vec![0, 255, 1].into(),
        ..created("")
    };
    let trace = crate::telemetry::TraceContext::root();
    let published = bus.prepare("order", event, Some(trace)).unwrap();
    bus.publish_prepared(published.clone()).await.unwrap();
    bus.publish("order", created("{}"), None).await.unwrap();
    drop(bus);
    assert_eq!(folder.ask::<String>("SELECT data FROM log WHERE seq = 2"), "{}");
    assert_eq!(folder.ask::<i64>("SELECT unread FROM lag"), 2);
    let (subscriber, mut log) = acknowledging();
    let _bus = start(folder.kind(), vec![subscription("audit", subscriber)]).await;
    let read = log.next().await.event;
    // To the millisecond, as it is on every wire.
    assert_eq!(read.rfc3339(), published.event.rfc3339());
    let read = Event { time: published.event.time, ..(*read).clone() };
    assert_eq!(read, *published.event);
    let plain = log.next().await.event;
    assert_eq!((&*plain.datacontenttype, &plain.subject, &plain.traceparent), ("application/json", &None, &None));
}
