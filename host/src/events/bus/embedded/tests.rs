//! What the embedded bus promises, each promise with a test that tries to break it.

mod archive;
mod changing;
mod crash;
mod crowd;
mod deadly;
mod disk;
mod here;
mod housekeeping;
mod keeping;
mod subjects;

use crate::{
    events::{
        BusKind, DeliveryPolicy, Durability, EmbeddedConfig, InvalidEvent, MAX_DATA, NewEvent, PublishError,
        Subscription, Verdict,
        testing::{acknowledging, gated, policy, probe, start, trapped, until},
    },
    policy::{Backoff, Fault, FaultKind},
    telemetry::TraceContext,
};
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};
use tokio::time::{Duration, Instant};

fn created(data: impl ToString) -> NewEvent {
    NewEvent::json("order.created", data.to_string())
}

/// A folder for a log; gone after the test.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("wharf-events-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    pub(super) fn file(&self) -> PathBuf {
        self.0.join("events.sqlite")
    }

    pub(super) fn kind(&self) -> BusKind {
        BusKind::Embedded(EmbeddedConfig { file: self.file(), durability: Durability::Os })
    }

    /// A look into the file, as people would take it.
    pub(super) fn ask<T: rusqlite::types::FromSql>(&self, sql: &str) -> T {
        rusqlite::Connection::open(self.file()).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_arrives_with_all_that_it_had() {
    let folder = Folder::new();
    let (subscriber, mut log) = acknowledging();
    let bus = start(folder.kind(), vec![Subscription::new("order.created", "notification", subscriber)]).await;
    let trace = TraceContext::root();
    let event = NewEvent { subject: Some("7".into()), ..created("{}") };
    let id = bus.publish("order", event, Some(trace)).await.unwrap();
    let seen = log.next().await;
    assert_eq!((&*seen.event.topic, &seen.event.id, seen.attempt), ("order.created", &id, 1));
    assert_eq!((&*seen.event.source, seen.event.subject.as_deref()), ("/services/order", Some("7")));
    assert_eq!((&*seen.event.datacontenttype, seen.event.traceparent), ("application/json", Some(trace)));
    assert_eq!(uuid::Uuid::parse_str(&id).unwrap().get_version_num(), 7);
}

#[tokio::test(start_paused = true)]
async fn one_at_a_time_keeps_the_order() {
    let folder = Folder::new();
    let (subscriber, mut log) = probe(|_, _| async {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..20))).await;
        Ok(Verdict::Ack)
    });
    let policy = DeliveryPolicy { concurrency: 1, ..policy() };
    let subscription = Subscription::new("order.created", "notification", subscriber).with_policy(policy);
    let bus = start(folder.kind(), vec![subscription]).await;
    for n in 0..100 {
        bus.publish("order", created(n), None).await.unwrap();
    }
    let expected: Vec<_> = (0..100).map(|n| n.to_string()).collect();
    assert_eq!(log.texts(100).await, expected);
}

#[tokio::test(start_paused = true)]
async fn no_more_are_handled_at_a_time_than_allowed() {
    let folder = Folder::new();
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (current, peak) = (now, Arc::clone(&most));
    let (subscriber, mut log) = probe(move |_, attempt| {
        let (current, peak) = (Arc::clone(&current), Arc::clone(&peak));
        async move {
            peak.fetch_max(current.fetch_add(1, SeqCst) + 1, SeqCst);
            tokio::time::sleep(Duration::from_millis(fastrand::u64(1..2000))).await;
            current.fetch_sub(1, SeqCst);
            Ok(if attempt < 3 { Verdict::Retry(None) } else { Verdict::Ack })
        }
    });
    let policy = DeliveryPolicy { concurrency: 4, ..policy() };
    let bus =
        start(folder.kind(), vec![Subscription::new("order.created", "notification", subscriber).with_policy(policy)])
            .await;
    for n in 0..50 {
        bus.publish("order", created(n), None).await.unwrap();
    }
    assert_eq!(log.texts(150).await.len(), 150);
    assert_eq!(most.load(SeqCst), 4);
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_hangs_slows_nobody_else() {
    let folder = Folder::new();
    let (hanging, mut stuck) = probe(|_, _| std::future::pending());
    let (quick, mut log) = acknowledging();
    let subscriptions = vec![
        Subscription::new("order.created", "audit", hanging),
        Subscription::new("order.created", "notification", quick),
    ];
    let bus = start(folder.kind(), subscriptions).await;
    for n in 0..1000 {
        bus.publish("order", created(n), None).await.unwrap();
    }
    assert_eq!(log.texts(1000).await.len(), 1000);
    assert_eq!(stuck.rest().len(), 16);
    let [audit, notification] = &bus.snapshot().subscriptions[..] else { panic!("two subscriptions") };
    assert_eq!((audit.in_flight, audit.queued, audit.lag), (16, 984, Some(1000)));
    assert_eq!((notification.delivered, notification.lag), (1000, Some(0)));
}

#[tokio::test(start_paused = true)]
async fn a_subscription_without_room_falls_behind_and_refuses_nobody() {
    let folder = Folder::new();
    let (slow, mut slow_log, gate) = gated();
    let (quick, mut log) = acknowledging();
    let tight = DeliveryPolicy { concurrency: 1, capacity: 2, ..policy() };
    let subscriptions = vec![
        Subscription::new("order.created", "audit", slow).with_policy(tight),
        Subscription::new("order.created", "notification", quick),
    ];
    let bus = start(folder.kind(), subscriptions).await;
    for n in 0..200 {
        bus.publish("order", created(n), None).await.unwrap();
    }
    let all: Vec<_> = (0..200).map(|n| n.to_string()).collect();
    assert_eq!(log.texts(200).await, all);
    let audit = &bus.snapshot().subscriptions[0];
    assert_eq!((audit.in_flight, audit.queued, audit.lag), (1, 1, Some(200)));
    assert_eq!(slow_log.texts(1).await, ["0"]);
    assert!(slow_log.rest().is_empty());
    gate.add_permits(100);
    assert_eq!(slow_log.texts(100).await, all[1..101]);
    // While it catches up there is more.
    bus.publish("order", created(200), None).await.unwrap();
    gate.add_permits(1000);
    assert_eq!(slow_log.texts(99).await, all[101..]);
    assert_eq!(slow_log.texts(1).await, ["200"]);
    until("nothing is left", async || bus.snapshot().subscriptions.iter().all(|it| it.lag == Some(0))).await;
    // It is at the end again, and gets what is new from memory.
    bus.publish("order", created(201), None).await.unwrap();
    assert_eq!((slow_log.texts(1).await, log.texts(2).await), (vec!["201".into()], vec!["200".into(), "201".into()]));
    assert_eq!((bus.snapshot().published, bus.snapshot().refused), (202, 0));
}

#[tokio::test]
async fn a_hundred_thousand_events_for_one_that_is_slow_are_in_the_file_and_not_in_memory() {
    let folder = Folder::new();
    let (slow, mut slow_log, gate) = gated();
    let (quick, mut log) = acknowledging();
    let tight = DeliveryPolicy { concurrency: 4, capacity: 100, ..policy() };
    let subscriptions = vec![
        Subscription::new("order.created", "audit", slow).with_policy(tight),
        Subscription::new("order.created", "notification", quick),
    ];
    let bus = start(folder.kind(), subscriptions).await;
    const COUNT: usize = 100_000;
    for first in (0..COUNT).step_by(500) {
        let publishing = (first..first + 500).map(|n| bus.publish("order", created(n), None));
        futures::future::try_join_all(publishing).await.unwrap();
        let audit = &bus.snapshot().subscriptions[0];
        assert!(audit.in_flight + audit.waiting + audit.queued <= 100, "{audit:?}");
    }
    // The other one has had all of them, at the publishers' speed.
    assert_eq!(log.texts(COUNT).await.len(), COUNT);
    assert_eq!(bus.snapshot().subscriptions[0].lag, Some(COUNT as u64));
    assert_eq!(slow_log.texts(4).await.len(), 4);
    assert!(slow_log.rest().is_empty());
    gate.add_permits(COUNT);
    assert!(slow_log.texts(COUNT - 4).await.into_iter().eq((4..COUNT).map(|n| n.to_string())));
}

#[tokio::test(start_paused = true)]
async fn the_bytes_in_memory_are_bounded_too() {
    let folder = Folder::new();
    let (slow, mut log, gate) = gated();
    let tight = DeliveryPolicy { capacity_bytes: 2 * MAX_DATA, ..policy() };
    let bus = start(folder.kind(), vec![Subscription::new("order.created", "audit", slow).with_policy(tight)]).await;
    let large = || NewEvent::json("order.created", vec![b' '; MAX_DATA]);
    for _ in 0..5 {
        bus.publish("order", large(), None).await.unwrap();
    }
    bus.publish("order", created(1), None).await.unwrap();
    let audit = &bus.snapshot().subscriptions[0];
    assert_eq!((audit.in_flight + audit.queued, audit.lag), (2, Some(6)));
    gate.add_permits(6);
    assert_eq!(log.texts(6).await[5], "1");
}

#[tokio::test(start_paused = true)]
async fn tries_come_further_and_further_apart_and_then_it_is_rejected() {
    let folder = Folder::new();
    let (subscriber, mut log) = probe(|_, _| async { Err(trapped()) });
    let bus = start(
        folder.kind(),
        vec![Subscription::new("order.created", "notification", subscriber).with_policy(policy())],
    )
    .await;
    let begin = Instant::now();
    let id = bus.publish("order", created(1), None).await.unwrap();
    let mut tries = Vec::new();
    for _ in 0..5 {
        let seen = log.next().await;
        assert_eq!(seen.event.id, id);
        tries.push((seen.attempt, (seen.at - begin).as_secs_f64().round() as u64));
    }
    assert_eq!(tries, [(1, 0), (2, 1), (3, 3), (4, 7), (5, 15)]);
    until("it is rejected", async || bus.snapshot().subscriptions[0].rejected == 1).await;
    tokio::time::advance(Duration::from_secs(3600)).await;
    assert!(log.rest().is_empty());
    let snapshot = &bus.snapshot().subscriptions[0];
    assert_eq!((snapshot.retried, snapshot.delivered, snapshot.lag), (4, 0, Some(0)));
}

#[tokio::test(start_paused = true)]
async fn the_subscriber_and_the_fault_can_say_when_to_come_again() {
    let folder = Folder::new();
    let (subscriber, mut log) = probe(|_, attempt| async move {
        match attempt {
            1 => Ok(Verdict::Retry(Some(Duration::from_secs(3)))),
            2 => Err(Fault::new(FaultKind::DeadlineExceeded, "late").with_retry_after(Duration::from_secs(6))),
            3 => Err(Fault::new(FaultKind::DeadlineExceeded, "late").with_retry_after(Duration::ZERO)),
            4 => Ok(Verdict::Retry(Some(Duration::MAX))),
            _ => Ok(Verdict::Ack),
        }
    });
    let subscription = Subscription::new("order.created", "notification", subscriber).with_policy(policy());
    let bus = start(folder.kind(), vec![subscription]).await;
    bus.publish("order", created(1), None).await.unwrap();
    let mut last = log.next().await.at;
    let mut waits = Vec::new();
    for _ in 0..3 {
        let at = log.next().await.at;
        waits.push((at - last).as_secs_f64().round() as u64);
        last = at;
    }
    assert_eq!(waits, [3, 6, 4]);
    // Not for ever: an hour is the longest.
    tokio::time::advance(Duration::from_secs(3601)).await;
    until("it is acknowledged", async || bus.snapshot().subscriptions[0].delivered == 1).await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_another_try_holds_up_nobody() {
    let folder = Folder::new();
    let (subscriber, mut log) = probe(|event, attempt| async move {
        let again = attempt == 1 && &*event.data == b"0";
        Ok(if again { Verdict::Retry(Some(Duration::from_secs(10))) } else { Verdict::Ack })
    });
    let policy = DeliveryPolicy { concurrency: 1, ..policy() };
    let subscription = Subscription::new("order.created", "notification", subscriber).with_policy(policy);
    let bus = start(folder.kind(), vec![subscription]).await;
    for n in 0..3 {
        bus.publish("order", created(n), None).await.unwrap();
    }
    assert_eq!(log.texts(4).await, ["0", "1", "2", "0"]);
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_another_try_still_takes_its_place() {
    let folder = Folder::new();
    let (subscriber, mut log) = probe(|_, _| async { Ok(Verdict::Retry(None)) });
    let tight = DeliveryPolicy { concurrency: 1, capacity: 1, max_attempts: 2, ..policy() };
    let subscription = Subscription::new("order.created", "notification", subscriber).with_policy(tight);
    let bus = start(folder.kind(), vec![subscription]).await;
    for n in 1..=2 {
        bus.publish("order", created(n), None).await.unwrap();
    }
    assert_eq!(log.texts(4).await, ["1", "1", "2", "2"]);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_event_is_not_tried_again() {
    let folder = Folder::new();
    let (subscriber, mut log) = probe(|event, _| async move {
        match &event.data[..] {
            b"0" => Ok(Verdict::Reject("no such order".into())),
            b"1" => Err(Fault::new(FaultKind::Denied, "not granted")),
            _ => panic!("a bug in the subscriber"),
        }
    });
    let policy = DeliveryPolicy { max_attempts: 2, ..policy() };
    let subscription = Subscription::new("order.created", "notification", subscriber).with_policy(policy);
    let bus = start(folder.kind(), vec![subscription]).await;
    for n in 0..3 {
        bus.publish("order", created(n), None).await.unwrap();
    }
    // The panic is a fault like another: tried again, and no end of the dispatcher.
    assert_eq!(log.texts(4).await, ["0", "1", "2", "2"]);
    until("all are rejected", async || bus.snapshot().subscriptions[0].rejected == 3).await;
}

#[tokio::test(start_paused = true)]
async fn only_granted_topics_can_be_published() {
    let folder = Folder::new();
    let bus = start(folder.kind(), vec![]).await;
    for (service, topic) in [("order", "user.created"), ("user", "order.created"), ("order", "")] {
        let denied = bus.publish(service, NewEvent::json(topic, "{}"), None).await;
        assert!(matches!(denied, Err(PublishError::Denied { .. })), "{service} {topic}");
    }
    let large = NewEvent::json("order.created", vec![0; MAX_DATA + 1]);
    let refused = bus.publisher("order").publish(large, None).await;
    assert_eq!(refused, Err(PublishError::Invalid(InvalidEvent::DataTooLarge(MAX_DATA + 1))));
    assert!(bus.publisher("order").publish(created("{}"), None).await.is_ok());
    assert_eq!((bus.snapshot().published, bus.snapshot().refused), (1, 4));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_finishes_what_is_in_hand_and_keeps_the_rest() {
    let folder = Folder::new();
    let subscribe = || {
        let (subscriber, log) = probe(|_, attempt| async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Ok(if attempt == 1 { Verdict::Retry(None) } else { Verdict::Ack })
        });
        (vec![Subscription::new("order.created", "notification", subscriber).with_policy(policy())], log)
    };
    let (subscriptions, mut log) = subscribe();
    let bus = start(folder.kind(), subscriptions).await;
    for n in 0..40 {
        bus.publish("order", created(n), None).await.unwrap();
    }
    let begin = Instant::now();
    log.next().await;
    bus.shutdown(Duration::from_secs(30)).await;
    assert!(begin.elapsed() < Duration::from_secs(5), "it waits no longer than it must");
    let refused = bus.publish("order", created(41), None).await;
    assert!(matches!(refused, Err(PublishError::Fault(fault)) if fault.kind() == FaultKind::Unreachable));
    let tried = log.rest().len() + 1;
    assert_eq!((tried, bus.snapshot().subscriptions[0].delivered), (16, 0));
    // The file has everything: a copy of it alone is a backup.
    assert_eq!(std::fs::metadata(format!("{}-wal", folder.file().display())).map_or(0, |it| it.len()), 0);

    let (subscriptions, mut log) = subscribe();
    let bus = start(folder.kind(), subscriptions).await;
    let mut tries: Vec<(String, u32)> = Vec::new();
    for _ in 0..16 + 2 * 24 {
        let seen = log.next().await;
        tries.push((seen.text(), seen.attempt));
    }
    // Tries survive a restart too.
    let again = (0..40).map(|n| (n.to_string(), 2)).chain((16..40).map(|n| (n.to_string(), 1)));
    let (mut again, ()) = (again.collect::<Vec<_>>(), tries.sort());
    again.sort();
    assert_eq!(tries, again);
    until("all are delivered", async || bus.snapshot().subscriptions[0].delivered == 40).await;
    assert!(log.rest().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_no_longer_than_its_grace() {
    let folder = Folder::new();
    let (hanging, _log) = probe(|_, _| std::future::pending());
    let (failing, mut tries) = probe(|_, _| async { Err(trapped()) });
    let far = Backoff { first: Duration::from_secs(50), max: Duration::from_secs(60), jitter: 0.0 };
    let subscriptions = vec![
        Subscription::new("order.created", "audit", hanging),
        Subscription::new("order.created", "notification", failing)
            .with_policy(DeliveryPolicy { backoff: far, ..policy() }),
    ];
    let bus = start(folder.kind(), subscriptions).await;
    bus.publish("order", created(1), None).await.unwrap();
    tries.next().await;
    let begin = Instant::now();
    bus.shutdown(Duration::from_secs(10)).await;
    assert_eq!(begin.elapsed().as_secs(), 10);
    assert!(tries.rest().is_empty());
}
