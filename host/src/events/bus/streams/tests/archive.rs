//! Dead letters and replays.

use super::*;
use crate::events::{ArchiveError, Bus, ReplayFrom};

fn two(first: Arc<dyn Subscriber>, second: Arc<dyn Subscriber>) -> Vec<Subscription> {
    ["notification", "audit"]
        .into_iter()
        .zip([first, second])
        .map(|(service, it)| Subscription::new("order.created", service, it).with_policy(policy()))
        .collect()
}

async fn letters(bus: &Bus, count: usize) -> Vec<crate::events::DeadLetter> {
    let mut letters = Vec::new();
    until(&format!("there are {count} dead letters"), async || {
        letters = bus.dead_letters(DeadLetterFilter::default()).await.unwrap();
        letters.len() == count
    })
    .await;
    letters
}

fn named(letters: &[&crate::events::DeadLetter]) -> DeadLetterFilter {
    let letters = letters.iter().map(|it| it.letter.clone()).collect();
    DeadLetterFilter { letters: Some(letters), ..DeadLetterFilter::default() }
}

#[tokio::test]
async fn dead_letters_are_listed_revived_and_discarded() {
    let server = Server::start();
    let (first, mut rejecting) = probe(|event, _| async move {
        // What comes once more after it was dead is taken.
        let reason = String::from_utf8_lossy(&event.data).into_owned();
        if event.subject.as_deref() == Some("good") { Ok(Verdict::Ack) } else { Ok(Verdict::Reject(reason)) }
    });
    let (second, mut other) = acknowledging();
    let bus = start(kind(&server, "a"), two(first, second)).await;
    for n in 0..3 {
        bus.publish("order", about("bad", n), None).await.unwrap();
    }
    let found = letters(&bus, 3).await;
    let shown: Vec<_> = found.iter().map(|it| (&*it.service, it.reason, &*it.error, it.attempts)).collect();
    assert_eq!(shown[1], ("notification", DeadReason::Rejected, "1", 1));
    assert_eq!((found[0].event.subject.as_deref(), &found[0].event.data[..]), (Some("bad"), &b"0"[..]));
    nothing_pending(&server).await;

    let filter = DeadLetterFilter { after: Some(found[0].letter.clone()), limit: 1, ..Default::default() };
    assert_eq!(bus.dead_letters(filter).await.unwrap(), [found[1].clone()]);
    let filter = DeadLetterFilter { service: Some("audit".into()), ..Default::default() };
    assert_eq!(bus.dead_letters(filter).await.unwrap(), []);
    let filter = DeadLetterFilter { reason: Some(DeadReason::Rejected), ..Default::default() };
    assert_eq!(bus.dead_letters(filter).await.unwrap().len(), 3);
    let filter = DeadLetterFilter { reason: Some(DeadReason::Denied), ..Default::default() };
    assert_eq!(bus.dead_letters(filter).await.unwrap(), []);
    let filter = DeadLetterFilter { letters: Some(vec!["x".into()]), ..Default::default() };
    assert!(matches!(bus.dead_letters(filter).await, Err(ArchiveError::Offset(..))));

    // One comes again to the service that gave it up, with its first try, and is dead once more.
    rejecting.rest();
    assert_eq!(other.texts(3).await.len(), 3);
    assert_eq!(bus.revive(named(&[&found[0]])).await.unwrap(), 1);
    let again = rejecting.next().await;
    assert_eq!((again.text(), again.attempt, &again.event.id), ("0".into(), 1, &found[0].event.id));
    let found = letters(&bus, 3).await;
    assert_eq!(found[2].error, "0");
    assert_eq!(bus.discard(named(&[&found[0], &found[2]])).await.unwrap(), 2);
    assert_eq!(letters(&bus, 1).await[0].error, "2");
    assert!(other.rest().is_empty(), "nobody else gets it");
    assert_eq!(bus.discard(DeadLetterFilter::default()).await.unwrap(), 1);
    assert_eq!(bus.revive(DeadLetterFilter::default()).await.unwrap(), 0);
}

#[tokio::test]
async fn the_past_of_a_topic_is_replayed_into_one_subscription() {
    let server = Server::start();
    let (first, mut log) = acknowledging();
    let (second, mut other) = acknowledging();
    let bus = start(kind(&server, "a"), two(first, second)).await;
    for n in 0..50 {
        bus.publish("order", about(n % 5, n), None).await.unwrap();
    }
    let mut middle = None;
    for _ in 0..50 {
        let seen = log.next().await;
        other.next().await;
        if seen.text() == "25" {
            middle = Some(seen.event.time);
        }
    }
    nothing_pending(&server).await;
    let from = ReplayFrom::Offset("0".into());
    assert_eq!(bus.replay("order.created", "notification", from).await.unwrap(), 50);
    let mut texts = log.texts(50).await;
    texts.sort_by_key(|it| it.parse::<u32>().unwrap());
    assert_eq!(texts, (0..50).map(|n| n.to_string()).collect::<Vec<_>>());
    // Redis gives the time by which it counts after the event had its own.
    let count = bus.replay("order.created", "audit", ReplayFrom::Time(middle.unwrap())).await.unwrap();
    assert!((25..=50).contains(&count), "{count}");
    assert_eq!(other.texts(usize::try_from(count).unwrap()).await.len() as u64, count);
    until("nothing is left of it", async || bus.snapshot().subscriptions.iter().all(|it| it.lag == Some(0))).await;
    assert!(log.rest().is_empty() && other.rest().is_empty());

    let refused = bus.replay("order.created", "nobody", ReplayFrom::Offset("0".into())).await;
    assert!(matches!(refused, Err(ArchiveError::NoSubscription { .. })), "{refused:?}");
    let refused = bus.replay("order.created", "audit", ReplayFrom::Offset("soon".into())).await;
    assert!(refused.unwrap_err().to_string().contains("1753000000007-0"));
}

#[tokio::test]
async fn a_replay_that_is_stopped_delivers_no_more_than_was_read_and_revived_letters_still_come() {
    let server = Server::start();
    let gate = Arc::new(tokio::sync::Semaphore::new(201));
    let held = Arc::clone(&gate);
    let (subscriber, mut log) = probe(move |event, _| {
        let held = Arc::clone(&held);
        async move {
            held.acquire().await.unwrap().forget();
            let is_dead = event.subject.as_deref() == Some("bad");
            Ok(if is_dead { Verdict::Reject("bad".into()) } else { Verdict::Ack })
        }
    });
    let tight = DeliveryPolicy { concurrency: 2, capacity: 8, ..policy() };
    let subscription = Subscription::new("order.created", "notification", subscriber).with_policy(tight);
    let bus = start(kind(&server, "a"), vec![subscription]).await;
    bus.publish("order", about("bad", 0), None).await.unwrap();
    for n in 1..=200 {
        bus.publish("order", about(n % 5, n), None).await.unwrap();
    }
    log.texts(201).await;
    let dead = letters(&bus, 1).await;
    nothing_pending(&server).await;
    assert_eq!(bus.replay("order.created", "notification", ReplayFrom::Offset("0".into())).await.unwrap(), 201);
    // Behind the replay, so that it is among what nobody has read.
    assert_eq!(bus.revive(named(&[&dead[0]])).await.unwrap(), 1);
    log.texts(2).await;
    let stopped = bus.stop_replays("order.created", "notification").await.unwrap();
    assert!((150..201).contains(&stopped), "{stopped}");
    assert_eq!(bus.stop_replays("order.created", "notification").await.unwrap(), 0);
    gate.add_permits(1000);
    let rest = 201 - usize::try_from(stopped).unwrap() - 2 + 1;
    log.texts(rest).await;
    until("nothing is left of it", async || bus.snapshot().subscriptions[0].lag == Some(0)).await;
    nothing_pending(&server).await;
    assert!(log.rest().is_empty());
    let refused = bus.stop_replays("order.created", "nobody").await;
    assert!(matches!(refused, Err(ArchiveError::NoSubscription { .. })), "{refused:?}");
    bus.publish("order", about("new", 7), None).await.unwrap();
    assert_eq!(log.texts(1).await, ["7"]);
}
