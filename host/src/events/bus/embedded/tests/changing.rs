//! Subscriptions that come, change and go while events are published.

use super::{Folder, created};
use crate::events::{
    Bus, Cron, DeliveryPolicy, Retention, Schedule, Subscriber, Subscription, Verdict,
    testing::{acknowledging, gated, policy, probe, start, start_with, until},
};
use std::sync::Arc;
use tokio::time::{Duration, Instant};

fn subscription(service: &str, subscriber: Arc<dyn Subscriber>) -> Subscription {
    Subscription::new("order.created", service, subscriber).with_policy(policy())
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

async fn publish(bus: &Bus, range: std::ops::Range<u32>) {
    for n in range {
        bus.publish("order", created(n), None).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_subscription_begins_when_it_is_entered_and_the_others_miss_nothing() {
    let folder = Folder::new();
    let ((one, mut first), (two, mut second)) = (acknowledging(), acknowledging());
    let bus = start(folder.kind(), vec![subscription("audit", one)]).await;
    publish(&bus, 0..3).await;
    let entered = bus.enter(subscription("late", two)).await.unwrap();
    publish(&bus, 3..6).await;
    assert_eq!(bus.snapshot().subscriptions.len(), 1, "nothing of it shows yet");
    let publishing = {
        let bus = bus.clone();
        tokio::spawn(async move { publish(&bus, 6..200).await })
    };
    bus.begin(entered, soon()).await;
    publishing.await.unwrap();
    assert_eq!(first.texts(200).await, numbers(0..200));
    assert_eq!(second.texts(197).await, numbers(3..200));
    until("all is settled", async || bus.snapshot().subscriptions.iter().all(|it| it.lag == Some(0))).await;
    assert_eq!(bus.snapshot().subscriptions.len(), 2);
    bus.shutdown(Duration::from_secs(1)).await;
    assert_eq!((first.rest(), second.rest()), (vec![], vec![]));
}

#[tokio::test(start_paused = true)]
async fn one_that_ended_keeps_its_place() {
    let folder = Folder::new();
    let (one, mut first) = acknowledging();
    let bus = start(folder.kind(), vec![subscription("audit", one)]).await;
    publish(&bus, 0..2).await;
    assert_eq!(first.texts(2).await, ["0", "1"]);
    bus.end("order.created", "audit", soon()).await;
    publish(&bus, 2..4).await;
    assert_eq!(bus.snapshot().subscriptions, []);
    assert_eq!(first.rest(), [""; 0]);
    let (two, mut second) = acknowledging();
    let entered = bus.enter(subscription("audit", two)).await.unwrap();
    bus.begin(entered, soon()).await;
    assert_eq!(second.texts(2).await, ["2", "3"]);
    publish(&bus, 4..5).await;
    assert_eq!(second.texts(1).await, ["4"]);
    bus.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_never_began_leaves_nothing_behind() {
    let folder = Folder::new();
    let bus = start(folder.kind(), vec![]).await;
    publish(&bus, 0..1).await;
    let (one, _) = acknowledging();
    let entered = bus.enter(subscription("audit", one)).await.unwrap();
    bus.strike(entered).await;
    assert_eq!(folder.ask::<i64>("SELECT count(*) FROM subscriptions"), 0);
    assert_eq!(folder.ask::<i64>("SELECT count(*) FROM cursors"), 0);
    // So that the next try begins at the end, as any.
    publish(&bus, 1..2).await;
    let (two, mut second) = acknowledging();
    let entered = bus.enter(subscription("audit", two)).await.unwrap();
    bus.begin(entered, soon()).await;
    publish(&bus, 2..3).await;
    assert_eq!(second.texts(1).await, ["2"]);
    bus.shutdown(Duration::from_secs(1)).await;
    assert_eq!(second.rest(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn under_another_policy_it_goes_on_where_it_was() {
    let folder = Folder::new();
    let (one, mut first, gate) = gated();
    let bus = start(folder.kind(), vec![subscription("audit", one)]).await;
    publish(&bus, 0..4).await;
    // Two are settled, and the others are being handled.
    gate.add_permits(2);
    assert_eq!(first.texts(4).await, numbers(0..4));
    until("two are settled", async || bus.snapshot().subscriptions[0].delivered == 2).await;
    let (two, mut second) = probe(|_, _| async { Ok(Verdict::Ack) });
    let other = DeliveryPolicy { concurrency: 1, ..policy() };
    let entered = bus.enter(subscription("audit", two).with_policy(other)).await.unwrap();
    // What is being handled when the time is over comes again.
    bus.begin(entered, Instant::now() + Duration::from_millis(50)).await;
    publish(&bus, 4..6).await;
    assert_eq!(second.texts(4).await, numbers(2..6));
    until("all is settled", async || bus.snapshot().subscriptions[0].lag == Some(0)).await;
    bus.shutdown(Duration::from_secs(1)).await;
    assert_eq!((first.rest(), second.rest()), (vec![], vec![]));
}

#[tokio::test(start_paused = true)]
async fn what_services_may_publish_changes_while_it_runs() {
    let folder = Folder::new();
    let bus = start(folder.kind(), vec![]).await;
    let paid = || crate::events::NewEvent::json("order.paid", "1");
    assert!(bus.publish("order", paid(), None).await.is_err());
    let more = [("order".to_owned(), vec!["order.paid".to_owned()])];
    bus.declare(&more.clone().into()).await.unwrap();
    bus.allow_too(more.clone().into());
    bus.publish("order", paid(), None).await.unwrap();
    bus.publish("order", created(1), None).await.unwrap();
    bus.allow_only(more.into());
    bus.publish("order", paid(), None).await.unwrap();
    let refused = bus.publish("order", created(2), None).await.unwrap_err().to_string();
    assert!(refused.contains("may not publish order.created"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_schedule_that_stays_goes_on_and_one_that_goes_ends() {
    let folder = Folder::new();
    let bus = start(folder.kind(), vec![]).await;
    let schedule = |topic: &str, hour: u8| Schedule {
        topic: topic.into(),
        cron: Cron::parse(&format!("0 {hour} * * *"), jiff::tz::TimeZone::UTC).unwrap(),
        subject: None,
        data: None,
    };
    let tasks = || {
        let schedules = bus.0.schedules.lock().unwrap();
        let tasks = schedules.running.iter().map(|(it, task)| (it.topic.to_string(), task.id())).collect::<Vec<_>>();
        (tasks, schedules.tasks.len())
    };
    bus.run_schedules(vec![schedule("a", 1), schedule("b", 2), schedule("c", 3)]);
    let (before, _) = tasks();
    bus.run_schedules(vec![schedule("a", 1), schedule("b", 9), schedule("d", 4)]);
    until("those that went have ended", async || {
        bus.run_schedules(vec![schedule("a", 1), schedule("b", 9), schedule("d", 4)]);
        tasks().1 == 3
    })
    .await;
    let (after, _) = tasks();
    let names: Vec<_> = after.iter().map(|(topic, _)| topic.as_str()).collect();
    assert_eq!((names, after[0].1), (vec!["a", "b", "d"], before[0].1));
    assert!(after[1..].iter().all(|(_, task)| before.iter().all(|(_, was)| was != task)), "{before:?} {after:?}");
    bus.shutdown(Duration::from_secs(1)).await;
    assert_eq!(tasks(), (vec![], 0));
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_full_takes_more_once_it_may() {
    let folder = Folder::new();
    let limit = Retention { age: Duration::from_secs(3600), size: 1 << 20, limit: 1 << 20 };
    let (hanging, _log) = probe(|_, _| std::future::pending());
    let bus = start_with(folder.kind(), limit.clone(), vec![subscription("audit", hanging)]).await;
    let large = || created(format!("\"{}\"", "x".repeat(100_000)));
    while bus.publish("order", large(), None).await.is_ok() {}
    bus.keep(&Retention { limit: 2 << 20, ..limit });
    bus.publish("order", large(), None).await.unwrap();
    assert_eq!(bus.snapshot().log.map(|log| log.limit), Some(2 << 20));
}
