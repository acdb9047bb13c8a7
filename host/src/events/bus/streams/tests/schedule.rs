//! Events for later.

use super::*;
use crate::events::Event;
use jiff::Timestamp;

fn later(data: impl ToString, after: Duration) -> NewEvent {
    NewEvent { due: Some(Timestamp::now() + after), ..created(data) }
}

#[tokio::test]
async fn what_is_scheduled_comes_once_when_it_is_due() {
    let mut server = Server::start();
    let (subscriber, mut log) = acknowledging();
    let first = start(kind(&server, "a"), subscription(subscriber)).await;
    let second = start(kind(&server, "b"), vec![]).await;
    let (begin, after) = (Instant::now(), Duration::from_millis(700));
    for n in 0..100 {
        first.publish("order", later(n, after), None).await.unwrap();
    }
    second.publish("order", later("past", Duration::ZERO), None).await.unwrap();
    assert_eq!(log.next().await.text(), "past");
    // What waits is kept like everything else.
    server.kill();
    server.revive();
    let mut texts = HashSet::new();
    for _ in 0..100 {
        let seen = log.next().await;
        assert!(seen.at - begin >= after - Duration::from_millis(20), "it came early");
        assert!(texts.insert(seen.text()), "it came twice: {}", seen.text());
    }
    nothing_pending(&server).await;
    assert!(log.rest().is_empty());
    assert_eq!(
        cmd("EXISTS").arg("wharf:shop:due").arg("wharf:shop:scheduled").query_async(&mut server.raw().await).await,
        Ok(0)
    );
    drop((first, second));
}

#[tokio::test]
async fn a_schedule_fires_once_whichever_host_comes_first() {
    let server = Server::start();
    let (subscriber, mut log) = acknowledging();
    let hosts = [start(kind(&server, "a"), subscription(subscriber)).await, start(kind(&server, "b"), vec![]).await];
    let event = |n: i64| {
        let event = Event::publish(created(n), "order.created".into(), "/services/order".into(), None);
        Arc::new(event)
    };
    let at = |n: i64| Timestamp::from_second(1_753_000_000 + n).unwrap();
    assert_eq!(hosts[0].0.transport.last_fired("order.created").await, Ok(None));
    for n in 0..20 {
        let fired = futures::future::join_all(hosts.iter().map(|host| host.0.transport.fire(at(n), event(n)))).await;
        assert_eq!(fired.iter().filter(|it| **it == Ok(true)).count(), 1, "{fired:?}");
    }
    assert_eq!(hosts[1].0.transport.fire(at(7), event(7)).await, Ok(false), "that is past");
    let same = event(20);
    for _ in 0..2 {
        assert_eq!(hosts[0].0.transport.fire(at(20), Arc::clone(&same)).await, Ok(true), "it asks again of the same");
    }
    assert_eq!(hosts[1].0.transport.last_fired("order.created").await, Ok(Some(at(20))));
    all(&mut log, (0..=20).map(|n| n.to_string())).await;
    nothing_pending(&server).await;
    assert_eq!((log.rest().len(), entries(&server).await), (0, 21));
}
