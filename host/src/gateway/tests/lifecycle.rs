use super::support::*;
use crate::gateway::{BindError, ConfigError, Drained, Gateway, GatewayConfig, Upstream};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use std::sync::Arc;
use tokio::{net::TcpStream, sync::Notify, time::Duration};

/// A service that says when it is called, and answers when it is let go.
fn held() -> (Arc<Notify>, Arc<Notify>, Arc<dyn Upstream>) {
    let (called, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, wait) = (called.clone(), go.clone());
    let upstream = service(move |_, _| {
        let (tell, wait) = (tell.clone(), wait.clone());
        async move {
            tell.notify_one();
            wait.notified().await;
            Ok(json(200, "finished"))
        }
    });
    (called, go, upstream)
}

const REQUEST: &str = "GET /held HTTP/1.1\r\nhost: shop\r\n\r\n";

#[tokio::test]
async fn a_shutdown_lets_requests_finish_and_takes_no_new_ones() {
    let (called, go, upstream) = held();
    let mut server = Server::start(routes([route("/held", upstream), route("/a", answers(200, "ok"))]));
    let mut idle = server.connect().await;
    idle.send("GET /a HTTP/1.1\r\nhost: shop\r\n\r\n").await;
    idle.answer().await;
    let mut busy = server.connect().await;
    busy.send(REQUEST).await;
    soon(called.notified()).await;
    let mut multiplexed = http2::<Empty<Bytes>>(server.address).await;
    let request = Request::get("http://shop/held").body(Empty::new()).unwrap();
    let pending = tokio::spawn(multiplexed.send_request(request));
    soon(called.notified()).await;

    server.stop();
    assert!(idle.rest().await.is_empty());
    // The listener is gone as soon as the idle connection was told.
    assert!(TcpStream::connect(server.address).await.is_err());
    go.notify_waiters();
    let answer = busy.answer().await;
    assert_eq!((answer.text(), answer.header("connection")), ("finished", Some("close")));
    assert!(busy.rest().await.is_empty());
    let response = soon(pending).await.unwrap().unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "finished");
    drop(multiplexed);
    assert_eq!(server.drained().await, Drained { cut: 0 });
}

#[tokio::test]
async fn what_outlasts_the_grace_is_cut_and_counted() {
    let (called, _go, upstream) = held();
    let config = GatewayConfig { shutdown_grace: Duration::from_millis(50), ..config() };
    let mut server = Server::with(config, routes([route("/held", upstream)]));
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = server.connect().await;
        client.send(REQUEST).await;
        soon(called.notified()).await;
        clients.push(client);
    }
    server.stop();
    assert_eq!(server.drained().await, Drained { cut: 3 });
    for client in clients {
        assert!(client.rest().await.is_empty());
    }
}

#[tokio::test]
async fn a_port_in_use_is_told_in_plain_words() {
    let server = Server::start(routes([]));
    let taken = GatewayConfig { listen: server.address, ..config() };
    let error = Gateway::bind(taken, routes([]).build().unwrap()).err().unwrap();
    assert!(matches!(error, BindError::InUse { address } if address == server.address));
    let text = error.to_string();
    assert!(text.contains(&server.address.to_string()) && text.contains("port is in use"), "{text}");

    let foreign = GatewayConfig { listen: "192.0.2.1:0".parse().unwrap(), ..config() };
    let error = Gateway::bind(foreign, routes([]).build().unwrap()).err().unwrap();
    assert!(matches!(error, BindError::NoSuchAddress { .. }), "{error}");
}

#[tokio::test]
async fn settings_with_which_nothing_could_work_are_refused() {
    let refused = |config| match Gateway::bind(config, routes([]).build().unwrap()).err() {
        Some(BindError::Config(error)) => error,
        other => panic!("{other:?}"),
    };
    let zero = GatewayConfig { body_timeout: Duration::ZERO, ..config() };
    assert_eq!(refused(zero), ConfigError::ZeroTimeout("body-timeout"));
    assert_eq!(refused(GatewayConfig { max_connections: 0, ..config() }), ConfigError::Connections(0));
    assert_eq!(refused(GatewayConfig { max_header_bytes: 10, ..config() }), ConfigError::HeaderBytes(10));
}
