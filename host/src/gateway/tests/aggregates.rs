use super::support::*;
use crate::{
    gateway::{Part, Upstream},
    policy::{Fault, FaultKind},
    service::Body,
};
use http::{Request, Response};
use std::sync::Arc;
use tokio::{sync::Barrier, time::Duration};

const DASHBOARD: &str = "/api/users/{id}/dashboard";
const USER: &str = r#"{"id":"1","name":"Ann"}"#;

fn optional(part: Part) -> Part {
    Part { optional: true, ..part }
}

fn dashboard(user: Arc<dyn Upstream>, orders: Arc<dyn Upstream>) -> Server {
    let parts = vec![part("user", "/users/{id}", user), optional(part("orders", "/orders?userId={id}", orders))];
    Server::start(aggregate(DASHBOARD, parts))
}

#[tokio::test]
async fn the_parts_become_members_of_one_answer() {
    let server = dashboard(answers(200, USER), answers(200, "[{\"total\": 1.10}]"));
    let answer = server.get("/api/users/1/dashboard").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    // As they came: a number that a float could not hold stays what it was.
    assert_eq!(answer.text(), format!(r#"{{"user":{USER},"orders":[{{"total": 1.10}}]}}"#));
    server.ask("POST /api/users/1/dashboard HTTP/1.1\r\nhost: shop\r\ncontent-length: 0\r\n\r\n").await.problem(405);
    let mut client = server.connect().await;
    client.send("HEAD /api/users/1/dashboard HTTP/1.1\r\nhost: shop\r\n\r\n").await;
    assert_eq!(client.head().await.header("content-length"), Some(answer.body.len().to_string().as_str()));
    assert_eq!(server.logged(1).await[0]["route"], DASHBOARD);
}

#[tokio::test]
async fn parts_are_fetched_at_the_same_time() {
    let both = Arc::new(Barrier::new(2));
    let meeting = || {
        let both = both.clone();
        service(move |_, _| {
            let both = both.clone();
            async move {
                both.wait().await;
                Ok(json(200, "1"))
            }
        })
    };
    let server = dashboard(meeting(), meeting());
    assert_eq!(server.get("/api/users/1/dashboard").await.text(), r#"{"user":1,"orders":1}"#);
}

#[tokio::test]
async fn what_was_captured_stays_one_value() {
    let (user, mut seen_user) = witness();
    let (orders, mut seen_orders) = witness();
    let parts = [("user", "/users/{id}", user), ("orders", "/orders?userId={id}", orders)];
    let server = Server::start(aggregate(DASHBOARD, parts.map(|(n, path, to)| optional(part(n, path, to))).into()));
    for (sent, segment) in [
        ("7", "7"),
        ("1&admin=true", "1%26admin%3Dtrue"),
        ("1%26admin", "1%26admin"),
        ("1%3Fx%23y%2Fz", "1%3Fx%23y%2Fz"),
        ("a+b;c", "a%2Bb%3Bc"),
    ] {
        server.get(&format!("/api/users/{sent}/dashboard?userId=9&limit=1")).await;
        assert_eq!(soon(seen_user.recv()).await.unwrap().uri.to_string(), format!("/users/{segment}"));
        assert_eq!(soon(seen_orders.recv()).await.unwrap().uri.to_string(), format!("/orders?userId={segment}"));
    }
    server.get("/api/users/../dashboard").await.problem(400);
    server.get("/api/users/%2e%2e/dashboard").await.problem(400);
}

#[tokio::test]
async fn a_part_is_asked_with_the_clients_credentials_in_the_clients_trace() {
    let (user, mut seen) = witness();
    let server = Server::start(aggregate("/d/{id}", vec![part("user", "/users/{id}", user)]));
    server
        .ask(
            "GET /d/1 HTTP/1.1\r\nhost: shop\r\nauthorization: Bearer x\r\naccept-encoding: gzip\r\nif-none-match: *\r\n\
             range: bytes=0-1\r\ntraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n",
        )
        .await;
    let seen = soon(seen.recv()).await.unwrap();
    assert_eq!(seen.headers["authorization"], "Bearer x");
    assert_eq!(seen.headers["traceparent"], seen.ctx.trace.to_string());
    assert!(seen.headers["traceparent"].to_str().unwrap().contains("4bf92f3577b34da6a3ce929d0e0e4736"));
    for gone in ["accept-encoding", "if-none-match", "range"] {
        assert!(!seen.headers.contains_key(gone), "{gone}");
    }
}

#[tokio::test]
async fn a_missing_optional_part_is_null_and_reported() {
    let broken = service(|_, _| async {
        let mut response = Response::new(Body::complete("{\"half\":"));
        response.headers_mut().insert("content-type", "application/json".parse().unwrap());
        Ok(response)
    });
    let endless = service(|_, _| async { Ok(Response::new(Body::complete(vec![b'1'; 2 * 1024 * 1024]))) });
    let open = Fault::new(FaultKind::CircuitOpen, "order: circuit open");
    for (orders, kind, status) in [
        (fails(open), "urn:wharf:fault:circuit-open", 503),
        (answers(500, "{\"error\":\"oops\"}"), "about:blank", 502),
        (answers(404, "{\"error\":\"no\"}"), "about:blank", 404),
        (answers(200, ""), "about:blank", 502),
        (answers(200, "1 2"), "about:blank", 502),
        (broken, "about:blank", 502),
        (endless, "about:blank", 502),
        (service(|_, _| async { Ok(Response::new(Body::complete(&b"\"\xff\""[..]))) }), "about:blank", 502),
    ] {
        let answer = dashboard(answers(200, USER), orders).get("/api/users/1/dashboard").await;
        assert_eq!(answer.status, 200);
        let document = answer.json();
        assert_eq!(document["user"]["name"], "Ann");
        assert!(document["orders"].is_null(), "{document}");
        let missing = &document["_missing"][0];
        assert_eq!((&missing["part"], &missing["type"]), (&"orders".into(), &kind.into()));
        assert_eq!(missing["status"], status);
        assert!(!missing["detail"].as_str().unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_part_that_takes_too_long_is_missing_and_keeps_nobody_waiting() {
    let hanging = || service(|_, _| std::future::pending());
    // The head comes in time, the body does not.
    let stalling = service(|_, request: Request<Body>| async move {
        let never = futures::stream::pending::<Result<hyper::body::Frame<bytes::Bytes>, std::io::Error>>();
        drop(request);
        Ok(Response::new(Body::stream(http_body_util::StreamBody::new(never))))
    });
    for orders in [hanging(), stalling] {
        let mut late = optional(part("orders", "/orders?userId={id}", orders));
        late.deadline = Some(Duration::from_millis(50));
        let server = Server::start(aggregate(DASHBOARD, vec![part("user", "/u/{id}", answers(200, USER)), late]));
        let document = server.get("/api/users/1/dashboard").await.json();
        assert_eq!(document["_missing"][0]["type"], "urn:wharf:fault:deadline-exceeded");
        assert_eq!(document["_missing"][0]["status"], 504);
    }
    let mut required = part("user", "/users/{id}", hanging());
    required.deadline = Some(Duration::from_millis(50));
    let server = Server::start(aggregate(DASHBOARD, vec![required]));
    server.get("/api/users/1/dashboard").await.problem(504);
}

#[tokio::test]
async fn a_required_part_decides_the_answer() {
    let unknown = dashboard(answers(404, "{\"error\":\"User not found\"}"), service(|_, _| std::future::pending()));
    let answer = unknown.get("/api/users/9/dashboard").await;
    assert_eq!((answer.status, answer.text()), (404, "{\"error\":\"User not found\"}"));
    assert_eq!(answer.header("content-type"), Some("application/json"));

    for (user, status) in [
        (fails(Fault::new(FaultKind::Trapped, "user ended")), 502),
        (fails(Fault::new(FaultKind::Overloaded, "user is full")), 503),
        (fails(Fault::new(FaultKind::DeadlineExceeded, "user is late")), 504),
        (answers(500, "{}"), 502),
        (answers(302, ""), 502),
        (answers(200, "<html>"), 502),
    ] {
        dashboard(user, answers(200, "[]")).get("/api/users/1/dashboard").await.problem(status);
    }
}
