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
