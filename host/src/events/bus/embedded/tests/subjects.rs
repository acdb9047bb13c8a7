//! One stuck subject, and many events behind it.

use super::{Folder, created};
use crate::events::{
    DeliveryPolicy, NewEvent, Subscription, Verdict,
    testing::{policy, probe, start, until},
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

fn about(subject: &str, n: u64) -> NewEvent {
    NewEvent { subject: Some(subject.into()), ..created(format!("{subject}{n}")) }
}

#[tokio::test(start_paused = true)]
async fn those_behind_a_stuck_event_take_no_room_from_other_subjects() {
    let folder = Folder::new();
    let stuck = Arc::new(AtomicBool::new(true));
    let answer = |stuck: &Arc<AtomicBool>| {
        let stuck = Arc::clone(stuck);
        move |event: Arc<crate::events::Event>, _| {
            let again = event.subject.as_deref() == Some("a") && stuck.load(SeqCst);
            async move { Ok(if again { Verdict::Retry(None) } else { Verdict::Ack }) }
        }
    };
    let policy = DeliveryPolicy { concurrency: 4, capacity: 64, max_attempts: 1_000, ..policy() };
    let subscribe =
        |subscriber| vec![Subscription::new("order.created", "audit", subscriber).with_policy(policy.clone())];
    let (subscriber, mut log) = probe(answer(&stuck));
    let bus = start(folder.kind(), subscribe(subscriber)).await;
    // Far more than there is room for, and half of it behind the first.
    for n in 0..500 {
        bus.publish("order", about("a", n), None).await.unwrap();
        bus.publish("order", about("b", n), None).await.unwrap();
    }
    let mut others = Vec::new();
    while others.len() < 500 {
        let text = log.next().await.text();
        if text.starts_with('b') {
            others.push(text);
        } else {
            assert_eq!(text, "a0");
        }
    }
    assert!(others.iter().cloned().eq((0..500).map(|n| format!("b{n}"))));
    let snapshot = &bus.snapshot().subscriptions[0];
    assert_eq!(snapshot.lag, Some(500));
    assert!(snapshot.in_flight + snapshot.waiting + snapshot.queued <= 4, "{snapshot:?}");
    // A crash now: what was settled behind the stuck one does not come again, the rest is there and in order.
    until("it is saved", async || folder.ask::<i64>("SELECT count(*) FROM pending") >= 499).await;
    drop(bus);
    stuck.store(false, SeqCst);
    let (subscriber, mut log) = probe(answer(&stuck));
    let bus = start(folder.kind(), subscribe(subscriber)).await;
    assert_eq!(bus.snapshot().subscriptions[0].lag, Some(500));
    bus.publish("order", about("a", 500), None).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..501 {
        seen.push(log.next().await.text());
    }
    assert!(seen.iter().cloned().eq((0..=500).map(|n| format!("a{n}"))), "{seen:?}");
    until("all is settled", async || {
        folder.ask::<i64>("SELECT count(*) FROM pending") == 0
            && folder.ask::<i64>("SELECT position FROM cursors") == 1001
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_single_subject_that_is_slow_keeps_its_order() {
    let folder = Folder::new();
    let (subscriber, mut log) = probe(|event, attempt| async move {
        tokio::time::sleep(std::time::Duration::from_millis(fastrand::u64(0..5))).await;
        Ok(if attempt == 1 && event.data.ends_with(b"7") { Verdict::Retry(None) } else { Verdict::Ack })
    });
    let policy = DeliveryPolicy { capacity: 50, ..policy() };
    let subscription = Subscription::new("order.created", "audit", subscriber).with_policy(policy);
    let bus = start(folder.kind(), vec![subscription]).await;
    for n in 0..300 {
        bus.publish("order", about("a", n), None).await.unwrap();
    }
    let mut seen = Vec::new();
    while seen.last().is_none_or(|last| last != "a299") {
        seen.push(log.next().await.text());
    }
    seen.dedup();
    assert!(seen.iter().cloned().eq((0..300).map(|n| format!("a{n}"))), "{seen:?}");
}
