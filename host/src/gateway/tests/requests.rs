use super::support::*;
use crate::{
    policy::{Fault, FaultKind},
    service::Body,
    telemetry::TraceContext,
};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use tokio::time::Duration;

#[tokio::test]
async fn a_request_reaches_its_service_with_context_and_without_what_concerns_only_the_connection() {
    let (upstream, mut seen) = witness();
    let mut limited = route("/users", upstream);
    limited.deadline = Some(Duration::from_secs(7));
    let server = Server::start(routes([limited]));
    let answer = server
        .ask(
            "POST /users?x=1 HTTP/1.1\r\nHost: shop.example\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\
             Connection: keep-alive, x-hop\r\nX-Hop: 1\r\nTE: trailers\r\nX-Forwarded-For: 6.6.6.6\r\n\
             Forwarded: for=6.6.6.6\r\nX-Custom: caf\u{e9}\r\n\
             traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n{}",
        )
        .await;
    assert_eq!((answer.status, answer.text()), (200, "ok"));
    assert!(answer.header("date").is_some());

    let seen = soon(seen.recv()).await.unwrap();
    assert_eq!((seen.method, seen.uri.to_string()), (Method::POST, "/users?x=1".into()));
    assert_eq!((seen.complete, seen.body), (true, Ok(b"{}".to_vec())));
    assert_eq!(seen.headers["host"], "shop.example");
    assert_eq!(seen.headers["content-type"], "application/json");
    assert_eq!(seen.headers["x-custom"].as_bytes(), "caf\u{e9}".as_bytes());
    assert_eq!(seen.headers["x-forwarded-for"], "127.0.0.1");
    assert_eq!(seen.headers["x-forwarded-host"], "shop.example");
    for gone in ["connection", "x-hop", "te", "forwarded"] {
        assert!(!seen.headers.contains_key(gone), "{gone}");
    }
    assert_eq!(&*seen.ctx.caller, "gateway");
    let left = seen.ctx.deadline.remaining();
    assert!(left <= Duration::from_secs(7) && left > Duration::from_secs(1), "{left:?}");
    let sent: TraceContext = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
    assert_eq!(seen.ctx.trace.trace_id(), sent.trace_id());
    assert_eq!(seen.headers["traceparent"], seen.ctx.trace.to_string());
}

#[tokio::test]
async fn headers_that_are_no_utf8_pass_and_malformed_requests_are_refused() {
    let (upstream, mut seen) = witness();
    let server = Server::start(routes([route("/{*rest}", upstream)]));
    assert_eq!(server.ask(b"GET /a HTTP/1.1\r\nhost: shop\r\nx-raw: \xff\xfe\r\n\r\n").await.status, 200);
    assert_eq!(soon(seen.recv()).await.unwrap().headers["x-raw"].as_bytes(), b"\xff\xfe");

    for request in [
        &b"GET  HTTP/1.1\r\nhost: shop\r\n\r\n"[..],
        b"nonsense\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nhost: shop\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nhost: shop\r\n\r\n",
        b"GET /a HTTP/1.1\r\nhost: shop\r\nbad header: x\r\n\r\n",
        b"GET /a HTTP/1.1\r\nhost: shop\r\ncontent-length: x\r\n\r\n",
        b"GET /a HTTP/1.1\r\nhost: shop\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST /a HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: gzip\r\n\r\n",
        b"GET /a HTTP/1.1\r\n\r\n",
        b"GET /a HTTP/1.1\r\nhost: shop\r\nhost: other\r\n\r\n",
    ] {
        let answer = server.ask(request).await;
        assert_eq!(answer.status, 400, "{}", String::from_utf8_lossy(request));
    }
    // And the host goes on.
    assert_eq!(server.get("/a").await.status, 200);
}

#[tokio::test]
async fn an_absolute_target_names_the_host() {
    let (upstream, mut seen) = witness();
    let server = Server::start(routes([route("/a", upstream)]));
    assert_eq!(server.ask("GET http://real/a?b HTTP/1.1\r\nhost: other\r\n\r\n").await.status, 200);
    let seen = soon(seen.recv()).await.unwrap();
    assert_eq!((seen.uri.to_string(), &seen.headers["host"]), ("/a?b".into(), &HeaderValue::from_static("real")));
}

#[tokio::test]
async fn requests_sent_ahead_are_answered_in_order_on_one_connection() {
    let echo = service(|_, request: Request<Body>| async move {
        Ok(Response::new(Body::complete(request.uri().path().to_owned())))
    });
    let server = Server::start(routes([route("/{*rest}", echo)]));
    let mut client = server.connect().await;
    let pipeline: String = (0..50).map(|n| format!("GET /{n} HTTP/1.1\r\nhost: shop\r\n\r\n")).collect();
    client.send(pipeline).await;
    for n in 0..50 {
        assert_eq!(client.answer().await.text(), format!("/{n}"));
    }
    // Half a request behind a whole one does not hold the whole one's answer back.
    client.send("GET /a HTTP/1.1\r\nhost: shop\r\n\r\nGET /b HT").await;
    assert_eq!(client.answer().await.text(), "/a");
    client.send("TP/1.1\r\nhost: shop\r\n\r\n").await;
    assert_eq!(client.answer().await.text(), "/b");
}

#[tokio::test]
async fn head_is_answered_as_get_without_the_body() {
    let (upstream, mut seen) = witness();
    let mut read = route("/a", upstream.clone());
    read.methods = vec![Method::GET];
    let server = Server::start(routes([read, route("/all", upstream)]));
    let mut client = server.connect().await;
    for (path, asked) in [("/a", Method::GET), ("/all", Method::HEAD)] {
        client.send(format!("HEAD {path} HTTP/1.1\r\nhost: shop\r\n\r\n")).await;
        let head = client.head().await;
        assert_eq!((head.status, head.header("content-length")), (200, Some("2")));
        assert_eq!(soon(seen.recv()).await.unwrap().method, asked);
    }
    // Had a body come, it would stand before this.
    client.send("GET /a HTTP/1.1\r\nhost: shop\r\n\r\n").await;
    assert_eq!(client.answer().await.text(), "ok");

    let mut http2 = http2::<Empty<Bytes>>(server.address).await;
    let request = Request::head(format!("http://shop{}", "/a")).body(Empty::new()).unwrap();
    let response = soon(http2.send_request(request)).await.unwrap();
    assert_eq!(response.headers()["content-length"], "2");
    assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
}

#[tokio::test]
async fn expect_continue_is_answered_when_the_body_is_wanted_and_not_when_it_is_too_large() {
    let (upstream, mut seen) = witness();
    let mut small = route("/a", upstream);
    small.max_body_bytes = Some(10);
    let server = Server::start(routes([small]));
    let mut client = server.connect().await;
    client.send("POST /a HTTP/1.1\r\nhost: shop\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n").await;
    assert_eq!(client.head().await.status, 100);
    client.send("hello").await;
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(soon(seen.recv()).await.unwrap().body.unwrap(), b"hello");

    client.send("POST /a HTTP/1.1\r\nhost: shop\r\nexpect: 100-continue\r\ncontent-length: 11\r\n\r\n").await;
    client.answer().await.problem(413);
}

#[tokio::test]
async fn http2_with_prior_knowledge_is_served_on_the_same_port() {
    let (upstream, mut seen) = witness();
    let server = Server::start(routes([route("/users", upstream)]));
    let mut client = http2::<Full<Bytes>>(server.address).await;
    for _ in 0..3 {
        let request = Request::post("http://shop.example/users?x=1").body(Full::from("hello")).unwrap();
        let response = soon(client.send_request(request)).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
        let seen = soon(seen.recv()).await.unwrap();
        assert_eq!((seen.uri.to_string(), seen.body.unwrap()), ("/users?x=1".into(), b"hello".to_vec()));
        assert_eq!(seen.headers["host"], "shop.example");
        assert_eq!(seen.headers["x-forwarded-host"], "shop.example");
    }
    let request = Request::get("http://shop.example/nothing").body(Full::default()).unwrap();
    assert_eq!(soon(client.send_request(request)).await.unwrap().status(), 404);
}

#[tokio::test]
async fn a_fault_is_told_as_a_problem() {
    let fault = Fault::new(FaultKind::CircuitOpen, "order: circuit open after 5 failures")
        .with_retry_after(Duration::from_millis(1500));
    let server = Server::start(routes([route("/orders", fails(fault))]));
    let answer = server
        .ask(
            "GET /orders HTTP/1.1\r\nhost: shop\r\n\
             traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n",
        )
        .await;
    let document = answer.problem(503);
    assert_eq!(answer.header("retry-after"), Some("2"));
    assert_eq!(document["type"], "urn:wharf:fault:circuit-open");
    assert_eq!(document["fault"], "circuit-open");
    assert_eq!(document["detail"], "order: circuit open after 5 failures");
    assert_eq!(document["instance"], "urn:wharf:trace:4bf92f3577b34da6a3ce929d0e0e4736");
}

#[tokio::test]
async fn a_service_cannot_write_a_second_answer_into_the_connection() {
    let lying = service(|_, _| async {
        let mut response = Response::new(Body::complete("xxxHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"));
        let headers = response.headers_mut();
        headers.insert("content-length", HeaderValue::from_static("3"));
        headers.insert("transfer-encoding", HeaderValue::from_static("chunked"));
        headers.insert("connection", HeaderValue::from_static("upgrade"));
        Ok(response)
    });
    let odd = service(|_, _| async { Ok(json(101, "")) });
    let server = Server::start(routes([route("/lying", lying), route("/odd", odd), route("/a", answers(200, "good"))]));
    let mut client = server.connect().await;
    client.send("GET /lying HTTP/1.1\r\nhost: shop\r\n\r\nGET /a HTTP/1.1\r\nhost: shop\r\n\r\n").await;
    let lied = client.answer().await;
    assert!(lied.text().ends_with("evil"));
    assert_eq!((lied.header("connection"), lied.header("transfer-encoding")), (None, None));
    assert_eq!(client.answer().await.text(), "good");
    server.get("/odd").await.problem(502);
}

#[tokio::test]
async fn every_request_leaves_one_line_in_the_access_log() {
    let server = Server::start(routes([
        route("/users/{id}", answers(200, "{\"id\":1}")),
        route("/broken", fails(Fault::new(FaultKind::Trapped, "it broke"))),
    ]));
    server.get("/users/1?token=secret").await;
    server.get("/broken").await;
    server.get("/nothing").await;
    let lines = server.logged(3).await;
    assert_eq!(lines.len(), 3);
    let first = &lines[0];
    assert_eq!((&first["method"], &first["path"]), (&"GET".into(), &"/users/1".into()));
    assert_eq!((&first["status"], &first["bytes"]), (&200.into(), &8.into()));
    assert_eq!((&first["route"], &first["service"]), (&"/users/{id}".into(), &"test".into()));
    assert_eq!(first["trace"].as_str().unwrap().len(), 32);
    assert!(first.get("aborted").is_none() && first.get("fault").is_none(), "{first}");
    assert_eq!((&lines[1]["status"], &lines[1]["fault"]), (&502.into(), &"trapped".into()));
    assert_eq!((&lines[2]["status"], lines[2].get("route")), (&404.into(), None));
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_call() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    struct Cancelled(tokio::sync::mpsc::UnboundedSender<&'static str>);
    impl Drop for Cancelled {
        fn drop(&mut self) {
            let _ = self.0.send("dropped");
        }
    }
    let hanging = service(move |_, _| {
        let tell = tell.clone();
        async move {
            let _ = tell.send("called");
            let _cancelled = Cancelled(tell);
            std::future::pending().await
        }
    });
    let server = Server::start(routes([route("/hang", hanging)]));
    let mut client = server.connect().await;
    client.send("GET /hang HTTP/1.1\r\nhost: shop\r\n\r\n").await;
    assert_eq!(soon(told.recv()).await, Some("called"));
    drop(client);
    assert_eq!(soon(told.recv()).await, Some("dropped"));
    let lines = server.logged(1).await;
    assert_eq!((&lines[0]["status"], &lines[0]["aborted"]), (&499.into(), &true.into()));
}
