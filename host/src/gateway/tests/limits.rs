use super::support::*;
use crate::gateway::GatewayConfig;
use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use tokio::io::AsyncWriteExt;

fn small() -> GatewayConfig {
    GatewayConfig { max_header_bytes: 2048, max_body_bytes: 100_000, ..config() }
}

#[tokio::test]
async fn a_head_beyond_the_limits_is_refused_by_name() {
    let server = Server::with(small(), routes([route("/{*rest}", answers(200, "ok"))]));
    assert_eq!(server.get(&format!("/{}", "a".repeat(1000))).await.status, 200);
    server.get(&format!("/{}", "a".repeat(1100))).await.problem(414);
    let with = |header: String| format!("GET /a HTTP/1.1\r\nhost: shop\r\n{header}\r\n");
    assert_eq!(server.ask(with(format!("x: {}\r\n", "b".repeat(2000)))).await.status, 200);
    server.ask(with(format!("x: {}\r\n", "b".repeat(2100)))).await.problem(431);
    assert_eq!(server.ask(with(format!("x: {}\r\n", "b".repeat(100_000)))).await.status, 431);
    assert_eq!(server.ask(with((0..150).map(|n| format!("x{n}: y\r\n")).collect())).await.status, 431);
    // A head without an end.
    let mut client = server.connect().await;
    let _ = client.stream.write_all(&[b'a'; 200_000]).await;
    let rest = client.rest().await;
    assert!(rest.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&rest));
}

#[tokio::test]
async fn http2_headers_beyond_the_limit_are_refused() {
    let server = Server::with(small(), routes([route("/a", answers(200, "ok"))]));
    let mut client = http2::<Empty<Bytes>>(server.address).await;
    let request = Request::get("http://shop/a").header("x", "b".repeat(3000)).body(Empty::new()).unwrap();
    let status = soon(client.send_request(request)).await.map(|response| response.status().as_u16());
    assert!(matches!(status, Ok(431) | Err(_)), "{status:?}");
    let request = Request::get("http://shop/a").body(Empty::new()).unwrap();
    assert_eq!(soon(client.send_request(request)).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_body_that_says_it_is_too_large_is_refused_before_it_is_sent() {
    let (upstream, mut seen) = witness();
    let server = Server::with(small(), routes([route("/a", upstream)]));
    let answer = server.ask("POST /a HTTP/1.1\r\nhost: shop\r\ncontent-length: 100001\r\n\r\n").await;
    let document = answer.problem(413);
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(document["detail"].as_str().unwrap().contains("100000"));
    assert!(seen.try_recv().is_err());
}

#[tokio::test]
async fn the_refusal_reaches_a_client_that_sends_all_the_same() {
    let server = Server::with(small(), routes([route("/a", answers(200, "ok"))]));
    for _ in 0..20 {
        let client = server.connect().await;
        let (mut read, mut write) = client.stream.into_split();
        let sending = tokio::spawn(async move {
            let _ = write.write_all(b"POST /a HTTP/1.1\r\nhost: shop\r\ncontent-length: 3000000\r\n\r\n").await;
            let _ = write.write_all(&vec![b'x'; 3_000_000]).await;
        });
        // The whole body first, as a simple client does it; only then the answer.
        soon(sending).await.unwrap();
        let mut text = String::new();
        soon(tokio::io::AsyncReadExt::read_to_string(&mut read, &mut text)).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 413 "), "{text}");
    }
}

#[tokio::test]
async fn a_body_that_grows_too_large_breaks_off_for_the_service_and_is_a_413_for_the_client() {
    let (upstream, mut seen) = witness();
    let server = Server::with(small(), routes([route("/a", upstream)]));
    let mut client = server.connect().await;
    client.send("POST /a HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let chunk = format!("{:x}\r\n{}\r\n", 60_000, "x".repeat(60_000));
    client.send(&chunk).await;
    client.send(&chunk).await;
    client.answer().await.problem(413);
    let seen = soon(seen.recv()).await.unwrap();
    assert!(!seen.complete);
    assert!(seen.body.unwrap_err().contains("larger than 100000 bytes"));
}

#[tokio::test]
async fn a_body_of_exactly_the_limit_passes_streamed_or_whole() {
    let (upstream, mut seen) = witness();
    let server = Server::with(small(), routes([route("/a", upstream)]));
    for (length, complete) in [(1, true), (65_536, true), (65_537, false), (100_000, false)] {
        let head = format!("POST /a HTTP/1.1\r\nhost: shop\r\ncontent-length: {length}\r\n\r\n");
        assert_eq!(server.ask(head + &"x".repeat(length)).await.status, 200);
        let seen = soon(seen.recv()).await.unwrap();
        assert_eq!((seen.body.unwrap().len(), seen.complete), (length, complete));
    }
    let chunked = format!("POST /a HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n", 100_000);
    assert_eq!(server.ask(chunked + &"x".repeat(100_000) + "\r\n0\r\n\r\n").await.status, 200);
    assert_eq!(soon(seen.recv()).await.unwrap().body.unwrap().len(), 100_000);
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_a_place() {
    let config = GatewayConfig { max_connections: 2, ..config() };
    let server = Server::with(config, routes([route("/a", answers(200, "ok"))]));
    let request = "GET /a HTTP/1.1\r\nhost: shop\r\n\r\n";
    let mut first = server.connect().await;
    let mut second = server.connect().await;
    for client in [&mut first, &mut second] {
        client.send(request).await;
        client.answer().await;
    }
    let mut third = server.connect().await;
    third.send(request).await;
    let early = tokio::time::timeout(std::time::Duration::from_millis(100), third.head()).await;
    assert!(early.is_err(), "there is no place yet");
    drop(first);
    assert_eq!(third.answer().await.status, 200);
}
