use crate::{
    events::{
        Bus, BusConfig, BusKind, Connection, NewEvent, PublishError, RedisConfig, Subscription,
        testing::{Proxy, SOON, Server, acknowledging, until},
    },
    policy::FaultKind,
};
use futures::StreamExt;
use redis::cmd;

/// The payload that the user service written for Node publishes.
const USER_CREATED: &str = r#"{"userId":"0198c0de","email":"ada@example.com"}"#;

async fn start(url: String, subscriptions: Vec<Subscription>) -> Bus {
    let publishes = [("user".to_owned(), vec!["user.created".to_owned()])].into();
    let kind = BusKind::RedisPubSub(RedisConfig::new(url));
    Bus::start(
        BusConfig { app: "shop".into(), kind, publishes, retention: crate::events::Retention::default() },
        subscriptions,
    )
    .await
    .unwrap()
}

/// Publishes as any other program would, and returns how many it reached.
async fn publish(server: &Server, message: &str) -> u64 {
    let mut raw = server.raw().await;
    cmd("PUBLISH").arg("user.created").arg(message).query_async(&mut raw).await.unwrap()
}

#[tokio::test]
async fn what_another_program_publishes_arrives() {
    let server = Server::start();
    let (notification, mut first) = acknowledging();
    let (audit, mut second) = acknowledging();
    let subscriptions = vec![
        Subscription::new("user.created", "notification", notification),
        Subscription::new("user.created", "audit", audit),
    ];
    let bus = start(server.url(), subscriptions).await;
    assert_eq!(publish(&server, USER_CREATED).await, 1);
    for log in [&mut first, &mut second] {
        let seen = log.next().await;
        assert_eq!((seen.text(), seen.attempt), (USER_CREATED.to_owned(), 1));
        assert_eq!((&*seen.event.topic, &*seen.event.source), ("user.created", "redis:user.created"));
        assert_eq!(&*seen.event.datacontenttype, "application/json");
    }
    until("both are counted", async || bus.snapshot().subscriptions.iter().all(|it| it.delivered == 1)).await;
}

#[tokio::test]
async fn another_program_gets_the_bare_payload() {
    let server = Server::start();
    let (subscriber, mut log) = acknowledging();
    let bus = start(server.url(), vec![Subscription::new("user.created", "notification", subscriber)]).await;
    let mut other = redis::Client::open(server.url()).unwrap().get_async_pubsub().await.unwrap();
    other.subscribe("user.created").await.unwrap();
    bus.publish("user", NewEvent::json("user.created", USER_CREATED), None).await.unwrap();
    let message = tokio::time::timeout(SOON, other.on_message().next()).await.unwrap().unwrap();
    assert_eq!(message.get_payload_bytes(), USER_CREATED.as_bytes());
    // And the services of this host get it once.
    assert_eq!(log.texts(1).await, [USER_CREATED]);
    publish(&server, "2").await;
    assert_eq!(log.texts(1).await, ["2"]);
}

#[tokio::test]
async fn what_is_not_json_goes_neither_in_nor_out() {
    let server = Server::start();
    let (subscriber, mut log) = acknowledging();
    let bus = start(server.url(), vec![Subscription::new("user.created", "notification", subscriber)]).await;
    publish(&server, "{not json").await;
    publish(&server, USER_CREATED).await;
    assert_eq!(log.texts(1).await, [USER_CREATED]);
    assert_eq!(bus.snapshot().subscriptions[0].dropped, 1);
    let refused = bus.publish("user", NewEvent::json("user.created", "{not json"), None).await;
    assert!(matches!(refused, Err(PublishError::Invalid(_))), "{refused:?}");
}

#[tokio::test]
async fn it_subscribes_again_after_a_cut_and_after_a_restart() {
    let mut server = Server::start();
    let proxy = Proxy::to(server.port()).await;
    let (subscriber, mut log) = acknowledging();
    let bus = start(proxy.url(), vec![Subscription::new("user.created", "notification", subscriber)]).await;
    proxy.cut();
    until("a listener is there again", async || proxy.accepted() > 2 && publish(&server, "1").await == 1).await;
    assert_eq!(log.next().await.text(), "1");

    server.kill();
    let refused = bus.publish("user", NewEvent::json("user.created", "2"), None).await;
    let Err(PublishError::Fault(fault)) = refused else { panic!("published without Redis") };
    // The first command over a connection that is about to be found dead may have arrived, for all one can know.
    assert!(matches!(fault.kind(), FaultKind::Unreachable | FaultKind::DeadlineExceeded), "{fault}");
    assert!(matches!(bus.snapshot().connection, Connection::Disconnected { .. }));
    server.revive();
    until("a listener is there again", async || publish(&server, "3").await == 1).await;
    until("it arrives", async || log.rest().contains(&"3".to_owned())).await;
    until("publishing works again", async || {
        bus.publish("user", NewEvent::json("user.created", "4"), None).await.is_ok()
    })
    .await;
    assert_eq!(bus.snapshot().connection, Connection::Connected);
}

#[tokio::test]
async fn subscriptions_come_change_and_go_while_it_runs() {
    let server = Server::start();
    let soon = || tokio::time::Instant::now() + SOON;
    // There is none at first, and so no connection that receives.
    let bus = start(server.url(), vec![]).await;
    let ((one, mut first), (two, mut second), (three, mut third)) = (acknowledging(), acknowledging(), acknowledging());
    let entered = bus.enter(Subscription::new("user.created", "notification", one)).await.unwrap();
    assert_eq!(publish(&server, "0").await, 1, "the channel is confirmed");
    bus.begin(entered, soon()).await;
    publish(&server, "1").await;
    // What came between the entering and the beginning may have been too early, or not.
    let heard = first.texts(1).await;
    assert!(heard == ["1"] || heard == ["0"] && first.texts(1).await == ["1"], "{heard:?}");
    // Another service on the same channel, and another channel on the same connection.
    for (topic, subscriber) in [("user.created", two), ("user.gone", three)] {
        let entered = bus.enter(Subscription::new(topic, "audit", subscriber)).await.unwrap();
        bus.begin(entered, soon()).await;
    }
    publish(&server, "2").await;
    assert_eq!((first.texts(1).await, second.texts(1).await), (vec!["2".into()], vec!["2".into()]));
    let mut raw = server.raw().await;
    let _: u64 = cmd("PUBLISH").arg("user.gone").arg("3").query_async(&mut raw).await.unwrap();
    assert_eq!(third.texts(1).await, ["3"]);
    // One in place of another misses nothing.
    let (four, mut fourth) = acknowledging();
    let entered = bus.enter(Subscription::new("user.created", "audit", four)).await.unwrap();
    bus.begin(entered, soon()).await;
    bus.end("user.created", "notification", soon()).await;
    publish(&server, "4").await;
    assert_eq!(fourth.texts(1).await, ["4"]);
    assert_eq!(bus.snapshot().subscriptions.len(), 2);
    bus.shutdown(SOON).await;
    assert_eq!((first.rest(), second.rest()), (vec![], vec![]));
}
