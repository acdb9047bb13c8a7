//! Removing the past.

use super::*;
use crate::events::{Bus, Retention};

async fn trimmed(server: &Server, host: &str, retention: Retention, subscriptions: Vec<Subscription>) -> Bus {
    let redis = RedisConfig { trim: Duration::from_millis(50), ..config(server.url(), host) };
    let publishes = [("order".to_owned(), vec!["order.created".to_owned()])].into();
    let config = BusConfig { app: "shop".into(), kind: BusKind::RedisStreams(redis), publishes, retention };
    Bus::start(config, subscriptions).await.unwrap()
}

#[tokio::test]
async fn the_past_goes_by_age_and_size_and_what_is_unsettled_stays() {
    for retention in [
        Retention { age: Duration::from_millis(1), ..Retention::default() },
        Retention { size: 0, ..Retention::default() },
    ] {
        let server = Server::start();
        let (subscriber, mut log, gate) = gated();
        let bus = trimmed(&server, "a", retention, subscription(subscriber)).await;
        for n in 0..400 {
            bus.publish("order", created(n), None).await.unwrap();
        }
        // Sixteen are tried, the others were read or are unread: nobody has settled any of them.
        let mut texts = HashSet::from([log.next().await.text()]);
        let begin = Instant::now();
        until("it was trimmed several times", async || {
            assert_eq!(entries(&server).await, 400);
            begin.elapsed() > Duration::from_millis(400)
        })
        .await;
        gate.add_permits(1000);
        nothing_pending(&server).await;
        // The last of each stream marks how far the group is.
        until("the past is gone", async || entries(&server).await <= 8).await;
        texts.extend(log.rest());
        assert_eq!(texts.len(), 400);
    }
}

#[tokio::test]
async fn a_subscription_that_is_no_more_does_not_hold_up_the_stream_for_good() {
    let server = Server::start();
    let (subscriber, _log) = acknowledging();
    let old = start(kind(&server, "a"), subscription(subscriber)).await;
    old.shutdown(SOON).await;
    let short = Retention { age: Duration::from_millis(1), ..Retention::default() };
    let bus = trimmed(&server, "b", short, vec![]).await;
    for n in 0..50 {
        bus.publish("order", created(n), None).await.unwrap();
    }
    let begin = Instant::now();
    until("the group was given the time of ten leases, and is dropped", async || {
        let left = entries(&server).await;
        assert!(left == 50 || begin.elapsed() > 5 * LEASE);
        left == 0
    })
    .await;
    let mut raw = server.raw().await;
    let groups: Vec<Value> = cmd("XINFO").arg("GROUPS").arg(stream(0)).query_async(&mut raw).await.unwrap();
    assert_eq!(groups, []);
}
