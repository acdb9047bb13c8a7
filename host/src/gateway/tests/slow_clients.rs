use super::support::*;
use crate::{gateway::GatewayConfig, service::Body};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::Response;
use http_body_util::StreamBody;
use hyper::body::Frame;
use std::sync::Arc;
use tokio::{
    io::AsyncWriteExt,
    sync::Notify,
    time::{Duration, Instant, interval},
};

const SHORT: Duration = Duration::from_millis(200);

/// Only one of the timeouts is short, so that only it can be what ends the connection.
fn short(set: impl FnOnce(&mut GatewayConfig)) -> GatewayConfig {
    let mut config = config();
    set(&mut config);
    config
}

#[tokio::test]
async fn a_head_that_comes_drop_by_drop_is_cut_off() {
    let server = Server::with(short(|c| c.header_timeout = SHORT), routes([route("/a", answers(200, "ok"))]));
    let begun = Instant::now();
    let mut client = server.connect().await;
    client.send("GET /a HTTP/1.1\r\nhost: shop\r\n").await;
    let dripping = async {
        let mut tick = interval(Duration::from_millis(10));
        loop {
            tick.tick().await;
            if client.stream.write_all(b"x: y\r\n").await.is_err() {
                break;
            }
        }
    };
    soon(dripping).await;
    assert!(begun.elapsed() >= SHORT);
    // Other clients are served, and one that was served before is not exempt.
    let mut client = server.connect().await;
    client.send("GET /a HTTP/1.1\r\nhost: shop\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
    client.send("GET /a HT").await;
    assert!(client.rest().await.is_empty());
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_cut_off() {
    let server = Server::with(short(|c| c.header_timeout = SHORT), routes([]));
    assert!(server.connect().await.rest().await.is_empty());
    // Part of what HTTP/2 begins with leaves the version open.
    let mut client = server.connect().await;
    client.send("PRI * HTTP/2.0\r\n").await;
    assert!(client.rest().await.is_empty());
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let server = Server::with(short(|c| c.idle_timeout = SHORT), routes([route("/a", answers(200, "ok"))]));
    let mut client = server.connect().await;
    client.send("GET /a HTTP/1.1\r\nhost: shop\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
    assert!(client.rest().await.is_empty());
}

#[tokio::test]
async fn a_small_body_that_does_not_come_is_a_408_and_no_call() {
    let (upstream, mut seen) = witness();
    let server = Server::with(short(|c| c.body_timeout = SHORT), routes([route("/a", upstream)]));
    let answer = server.ask("POST /a HTTP/1.1\r\nhost: shop\r\ncontent-length: 10\r\n\r\nhalf").await;
    answer.problem(408);
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(seen.try_recv().is_err());
}

#[tokio::test]
async fn a_streamed_body_that_stops_breaks_off_for_the_service_and_is_a_408_for_the_client() {
    let (upstream, mut seen) = witness();
    let server = Server::with(short(|c| c.body_timeout = SHORT), routes([route("/a", upstream)]));
    let head = "POST /a HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n";
    server.ask(head).await.problem(408);
    assert!(soon(seen.recv()).await.unwrap().body.unwrap_err().contains("200 ms"));
}

#[tokio::test]
async fn a_body_that_comes_slowly_but_steadily_is_taken() {
    let (upstream, mut seen) = witness();
    let server = Server::with(short(|c| c.body_timeout = SHORT), routes([route("/a", upstream)]));
    let mut client = server.connect().await;
    client.send("POST /a HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let mut tick = interval(SHORT / 4);
    for _ in 0..12 {
        tick.tick().await;
        client.send("3\r\nabc\r\n").await;
    }
    client.send("0\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(soon(seen.recv()).await.unwrap().body.unwrap().len(), 36);
}

/// Larger than what the kernel's buffers on both sides take.
const LARGE: usize = 64 * 1024 * 1024;

#[tokio::test]
async fn who_does_not_read_his_answer_is_cut_off() {
    let whole = service(|_, _| async { Ok(Response::new(Body::complete(vec![b'x'; LARGE]))) });
    let piece = || async { Ok::<_, std::io::Error>(Frame::data(Bytes::from(vec![b'x'; 64 * 1024]))) };
    let endless = service(move |_, _| async move {
        let frames = stream::repeat_with(piece).then(|piece| piece);
        Ok(Response::new(Body::stream(StreamBody::new(frames.boxed()))))
    });
    let mut config = short(|c| c.body_timeout = SHORT);
    config.max_connections = 1;
    let list = [route("/whole", whole), route("/endless", endless), route("/a", answers(200, "ok"))];
    let server = Server::with(config, routes(list));
    for path in ["/whole", "/endless"] {
        let mut client = server.connect().await;
        client.send(format!("GET {path} HTTP/1.1\r\nhost: shop\r\n\r\n")).await;
        // There is one place only: whoever comes next gets it when the one that does not read has lost it.
        assert_eq!(server.ask("GET /a HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n").await.status, 200);
        assert!(client.rest().await.len() < LARGE);
    }
}

#[tokio::test]
async fn who_reads_slowly_gets_everything() {
    let large = service(|_, _| async { Ok(Response::new(Body::complete(vec![b'x'; LARGE]))) });
    let server = Server::with(short(|c| c.body_timeout = SHORT), routes([route("/large", large)]));
    let mut client = server.connect().await;
    client.send("GET /large HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n").await;
    let mut read = 0;
    let mut buffer = vec![0; LARGE / 16];
    let mut tick = interval(SHORT / 2);
    loop {
        tick.tick().await;
        let mut portion = 0;
        while portion < buffer.len() {
            match soon(tokio::io::AsyncReadExt::read(&mut client.stream, &mut buffer[portion..])).await.unwrap() {
                0 => break,
                more => portion += more,
            }
        }
        read += portion;
        if portion == 0 {
            break;
        }
    }
    assert!(read > LARGE, "{read} bytes came");
}

#[tokio::test]
async fn a_call_may_take_longer_than_any_timeout_of_the_client() {
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begins, goes) = (begun.clone(), go.clone());
    let slow = service(move |_, _| {
        let (begins, goes) = (begins.clone(), goes.clone());
        async move {
            begins.notify_one();
            goes.notified().await;
            Ok(json(200, "late"))
        }
    });
    let all = short(|c| (c.header_timeout, c.body_timeout, c.idle_timeout) = (SHORT, SHORT, SHORT));
    let (takes, _seen) = witness();
    let server =
        Server::with(all, routes([route("/slow", slow), route("/a", answers(200, "ok")), route("/takes", takes)]));
    let mut patient = server.connect().await;
    patient.send("GET /slow HTTP/1.1\r\nhost: shop\r\n\r\n").await;
    soon(begun.notified()).await;
    // Each of the timeouts ends another connection that begins only now, so the call has lasted longer than any.
    let silent = server.connect().await;
    let mut idle = server.connect().await;
    idle.send("GET /a HTTP/1.1\r\nhost: shop\r\n\r\n").await;
    assert_eq!(idle.answer().await.status, 200);
    let mut unfinished = server.connect().await;
    unfinished.send("POST /takes HTTP/1.1\r\nhost: shop\r\ncontent-length: 9\r\n\r\nhalf").await;
    tokio::join!(silent.rest(), idle.rest(), unfinished.rest());
    go.notify_one();
    assert_eq!(patient.answer().await.text(), "late");
}

#[tokio::test]
async fn who_reads_nothing_over_http2_is_cut_off_too() {
    let whole = service(|_, _| async { Ok(Response::new(Body::complete(vec![b'x'; LARGE]))) });
    let mut config = short(|c| c.body_timeout = SHORT);
    config.max_connections = 1;
    let server = Server::with(config, routes([route("/whole", whole), route("/a", answers(200, "ok"))]));
    let mut client = http2::<http_body_util::Empty<Bytes>>(server.address).await;
    let request = http::Request::get("http://shop/whole").body(http_body_util::Empty::new()).unwrap();
    let unread = soon(client.send_request(request)).await.unwrap();
    assert_eq!(server.get("/a").await.status, 200);
    drop(unread);
}
