//! Dead letters and replays.

use super::{Folder, created};
use crate::events::{
    ArchiveError, Bus, DeadLetterFilter, DeadReason, DeliveryPolicy, Event, MAX_LISTED, NewEvent, ReplayFrom,
    Subscription, Verdict,
    testing::{Log, acknowledging, policy, probe, start, until},
};
use jiff::Timestamp;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};
use tokio::time::Duration;

fn all() -> DeadLetterFilter {
    DeadLetterFilter { limit: MAX_LISTED, ..DeadLetterFilter::default() }
}

/// A subscriber that takes nothing as long as it is told so.
fn moody(bad: &Arc<AtomicBool>) -> (Vec<Subscription>, Log) {
    let bad = Arc::clone(bad);
    let (subscriber, log) = probe(move |event: Arc<Event>, _| {
        let bad = bad.load(SeqCst);
        async move {
            Ok(match &event.data[..] {
                b"odd" if bad => Verdict::Reject("no such order".into()),
                b"late" if bad => Verdict::Retry(None),
                _ => Verdict::Ack,
            })
        }
    });
    let policy = DeliveryPolicy { max_attempts: 2, ..policy() };
    (vec![Subscription::new("order.created", "audit", subscriber).with_policy(policy)], log)
}

async fn letters(bus: &Bus) -> Vec<(String, String)> {
    let letters = bus.dead_letters(all()).await.unwrap();
    letters.into_iter().map(|it| (it.letter, String::from_utf8(it.event.data.to_vec()).unwrap())).collect()
}

fn text(pair: (&str, &str)) -> (String, String) {
    (pair.0.into(), pair.1.into())
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_tells_why_and_can_live_again_or_go() {
    let folder = Folder::new();
    let bad = Arc::new(AtomicBool::new(true));
    let (subscriptions, mut log) = moody(&bad);
    let bus = start(folder.kind(), subscriptions).await;
    for data in ["odd", "fine", "late", "odd"] {
        let event = NewEvent { subject: Some("7".into()), ..created(data) };
        bus.publish("order", event, None).await.unwrap();
    }
    assert_eq!(log.texts(5).await, ["odd", "fine", "late", "late", "odd"]);
    until("all are settled", async || bus.snapshot().subscriptions[0].lag == Some(0)).await;
    assert_eq!(bus.snapshot().subscriptions[0].dead, Some(3));
    // A dead letter outlives the host.
    drop(bus);
    let (subscriptions, mut log) = moody(&bad);
    let bus = start(folder.kind(), subscriptions).await;
    assert_eq!((bus.snapshot().subscriptions[0].dead, bus.snapshot().subscriptions[0].lag), (Some(3), Some(0)));
    let found = bus.dead_letters(all()).await.unwrap();
    let told: Vec<_> = found.iter().map(|it| (&*it.service, it.reason, &*it.error, it.attempts)).collect();
    let exhausted = "the subscriber asked for another try";
    assert_eq!(
        told,
        [
            ("audit", DeadReason::Rejected, "no such order", 1),
            ("audit", DeadReason::AttemptsExhausted, exhausted, 2),
            ("audit", DeadReason::Rejected, "no such order", 1)
        ]
    );
    assert_eq!(found[0].event.subject.as_deref(), Some("7"));
    let some = |filter: DeadLetterFilter| async { bus.dead_letters(filter).await.unwrap().len() };
    assert_eq!(some(DeadLetterFilter { topic: Some("order.confirmed".into()), ..all() }).await, 0);
    assert_eq!(some(DeadLetterFilter { service: Some("audit".into()), limit: 2, ..all() }).await, 2);
    assert_eq!(some(DeadLetterFilter { after: Some("2".into()), ..all() }).await, 1);
    assert_eq!(some(DeadLetterFilter { letters: Some(vec!["1".into(), "3".into()]), ..all() }).await, 2);
    assert_eq!(some(DeadLetterFilter { reason: Some(DeadReason::AttemptsExhausted), ..all() }).await, 1);
    assert_eq!(some(DeadLetterFilter { reason: Some(DeadReason::Denied), ..all() }).await, 0);
    let wrong = bus.dead_letters(DeadLetterFilter { after: Some("x".into()), ..all() }).await;
    assert!(matches!(wrong, Err(ArchiveError::Offset(..))));

    // Still bad: it is tried from the first try on, and is dead once more.
    let one = DeadLetterFilter { letters: Some(vec!["1".into()]), ..all() };
    assert_eq!(bus.revive(one.clone()).await, Ok(1));
    let seen = log.next().await;
    assert_eq!((seen.text(), seen.attempt), ("odd".into(), 1));
    until("it is dead", async || bus.snapshot().subscriptions[0].dead == Some(3)).await;
    assert_eq!(letters(&bus).await, [("2", "late"), ("3", "odd"), ("4", "odd")].map(text));
    assert_eq!(bus.revive(one).await, Ok(0));

    bad.store(false, SeqCst);
    let these = DeadLetterFilter { letters: Some(vec!["2".into(), "4".into()]), ..all() };
    assert_eq!(bus.revive(these).await, Ok(2));
    assert_eq!(log.texts(2).await.len(), 2);
    until("all are settled", async || bus.snapshot().subscriptions[0].lag == Some(0)).await;
    assert_eq!(bus.discard(all()).await, Ok(1));
    assert_eq!((bus.snapshot().subscriptions[0].dead, letters(&bus).await.len()), (Some(0), 0));
    until("it is saved", async || folder.ask::<i64>("SELECT count(*) FROM pending") == 0).await;
    assert!(log.rest().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_poison_event_lets_the_others_flow() {
    let folder = Folder::new();
    let (subscriber, mut log) = probe(|event: Arc<Event>, _| async move {
        if event.data.ends_with(b"13") { panic!("poison") } else { Ok(Verdict::Ack) }
    });
    let policy = DeliveryPolicy { concurrency: 1, max_attempts: 3, ..policy() };
    let bus =
        start(folder.kind(), vec![Subscription::new("order.created", "audit", subscriber).with_policy(policy)]).await;
    for n in 0..200 {
        bus.publish("order", created(n), None).await.unwrap();
    }
    assert_eq!(log.texts(204).await.len(), 204);
    until("all are settled", async || bus.snapshot().subscriptions[0].lag == Some(0)).await;
    let dead = bus.dead_letters(all()).await.unwrap();
    let dead: Vec<_> = dead.iter().map(|it| (&it.event.data[..], it.attempts, &*it.error)).collect();
    let error = "trapped: the subscriber panicked";
    assert!(dead.iter().all(|(_, attempts, text)| *attempts == 3 && error.contains(text)), "{dead:?}");
    assert!(dead.iter().map(|(data, ..)| *data).eq([&b"13"[..], b"113"]));
    assert_eq!(bus.snapshot().subscriptions[0].delivered, 198);
}

#[tokio::test(start_paused = true)]
async fn a_replay_delivers_the_past_once_more_and_survives_a_crash() {
    let folder = Folder::new();
    let (first, mut log) = acknowledging();
    let (second, mut other) = acknowledging();
    let subscriptions =
        vec![Subscription::new("order.created", "audit", first), Subscription::new("order.created", "other", second)];
    let bus = start(folder.kind(), subscriptions).await;
    for n in 0..100 {
        bus.publish("order", created(n), None).await.unwrap();
        bus.publish("order", NewEvent::json("order.confirmed", "x"), None).await.unwrap();
    }
    log.texts(100).await;
    let from = |offset: &str| ReplayFrom::Offset(offset.into());
    // The numbers go over all topics: the event "90" is the 181st.
    assert_eq!(bus.replay("order.created", "audit", from("181")).await, Ok(10));
    assert!(log.texts(10).await.iter().cloned().eq((90..100).map(|n| n.to_string())));
    until("it is through", async || folder.ask::<i64>("SELECT count(*) FROM cursors") == 2).await;
    assert_eq!(bus.replay("order.created", "audit", from("1000")).await, Ok(0));
    assert!(matches!(bus.replay("order.created", "audit", from("x")).await, Err(ArchiveError::Offset(..))));
    let nobody = bus.replay("order.created", "nobody", from("0")).await;
    assert!(matches!(nobody, Err(ArchiveError::NoSubscription { .. })));
    let early = ReplayFrom::Time(Timestamp::UNIX_EPOCH);
    assert_eq!(bus.replay("order.created", "audit", early).await, Ok(100));
    let late = Timestamp::now() + jiff::SignedDuration::from_secs(60);
    assert_eq!(bus.replay("order.created", "audit", ReplayFrom::Time(late)).await, Ok(0));
    assert_eq!(log.texts(100).await.len(), 100);
    assert_eq!(other.texts(100).await.len(), 100);
    assert!(other.rest().is_empty(), "others hear nothing of it");
    bus.shutdown(Duration::from_secs(1)).await;
    drop(bus);

    // One that a crash interrupts goes on.
    let (hanging, _log) = probe(|_, _| std::future::pending());
    let bus = start(folder.kind(), vec![Subscription::new("order.created", "audit", hanging)]).await;
    assert_eq!(bus.replay("order.created", "audit", from("0")).await, Ok(100));
    drop(bus);
    let (subscriber, mut log) = acknowledging();
    let _bus = start(folder.kind(), vec![Subscription::new("order.created", "audit", subscriber)]).await;
    // They have no subject, and the tries of what a crash interrupted are written down before they begin: in any order.
    let mut heard: Vec<u32> = log.texts(100).await.iter().map(|text| text.parse().unwrap()).collect();
    heard.sort_unstable();
    assert!(heard.into_iter().eq(0..100));
    until("it is through", async || folder.ask::<i64>("SELECT count(*) FROM cursors WHERE until IS NOT NULL") == 0)
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_is_stopped_delivers_no_more_and_leaves_nothing_behind() {
    let folder = Folder::new();
    let bad = Arc::new(AtomicBool::new(false));
    let (gate, held) = (Arc::new(tokio::sync::Semaphore::new(200)), Arc::clone(&bad));
    let opened = Arc::clone(&gate);
    let (subscriber, mut log) = probe(move |_, _| {
        let (opened, bad) = (Arc::clone(&opened), Arc::clone(&held));
        async move {
            opened.acquire().await.unwrap().forget();
            Ok(if bad.load(SeqCst) { Verdict::Retry(None) } else { Verdict::Ack })
        }
    });
    let tight = DeliveryPolicy { concurrency: 3, capacity: 40, ..policy() };
    let subscription =
        || Subscription::new("order.created", "audit", Arc::clone(&subscriber)).with_policy(tight.clone());
    let bus = start(folder.kind(), vec![subscription()]).await;
    for n in 0..200 {
        // Some of one subject, which are set aside when there are many.
        let subject = (n % 2 == 0).then(|| "s".to_owned());
        bus.publish("order", NewEvent { subject, ..created(n) }, None).await.unwrap();
    }
    log.texts(200).await;
    bad.store(true, SeqCst);
    let replay = async || bus.replay("order.created", "audit", ReplayFrom::Offset("0".into())).await.unwrap();
    let stop = async || bus.stop_replays("order.created", "audit").await.unwrap();
    assert_eq!((replay().await, replay().await), (200, 200));
    // Some wait for their next try, some are being tried, most are in the file.
    gate.add_permits(5);
    log.texts(8).await;
    assert_eq!(stop().await, 400);
    assert_eq!(stop().await, 0);
    until("nothing is left of them", async || folder.ask::<i64>("SELECT count(*) FROM cursors") == 1).await;
    assert_eq!(folder.ask::<i64>("SELECT count(*) FROM pending"), 0);
    gate.add_permits(1000);
    // What comes anew comes, and nothing else does, however long one waits.
    bad.store(false, SeqCst);
    bus.publish("order", created("new"), None).await.unwrap();
    assert_eq!(log.texts(1).await, ["new"]);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(log.rest().is_empty());
    assert_eq!(folder.ask::<i64>("SELECT count(*) FROM pending"), 0);
    let nobody = bus.stop_replays("order.created", "nobody").await;
    assert!(matches!(nobody, Err(ArchiveError::NoSubscription { .. })));
    // Another one goes through.
    assert_eq!(replay().await, 201);
    assert_eq!(log.texts(201).await.len(), 201);
}
