use super::support::*;
use crate::{
    gateway::{Route, Upstream},
    policy::{Fault, FaultKind, RateLimitKey, RateLimitParams, RateLimitPolicy},
    service::Idempotent,
};
use std::sync::Arc;
use tokio::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

/// So many, and then none for as long as a test may take.
fn limit(requests: u32, key: RateLimitKey) -> Option<RateLimitPolicy> {
    Some(RateLimitPolicy::try_new(RateLimitParams { requests, per: HOUR, burst: None, key }).unwrap())
}

fn limited(path: &str, upstream: Arc<dyn Upstream>, requests: u32) -> Route {
    Route { rate_limit: limit(requests, RateLimitKey::Client), ..route(path, upstream) }
}

/// What the field of the route's limit says is left. The time is no shorter than it can be after a slow test.
#[track_caller]
fn left(answer: &Answer, name: &str, window: u64) -> u64 {
    let prefix = format!(r#"ratelimit: "{name}";r="#);
    let field = answer.head.lines().find_map(|line| line.strip_prefix(&prefix));
    let (left, time) = field.and_then(|field| field.split_once(";t=")).unwrap_or_else(|| panic!("{answer:?}"));
    let time: u64 = time.parse().unwrap();
    assert!((window - 60..=window).contains(&time), "{answer:?}");
    left.parse().unwrap()
}

#[tokio::test]
async fn who_asks_too_often_is_told_so_and_every_answer_says_what_is_left() {
    let (upstream, mut seen) = witness();
    let server = Server::start(routes([limited("/a/{id}", upstream, 2), route("/b", answers(200, "ok"))]));
    for expected in [1, 0] {
        let answer = server.get("/a/1").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("ratelimit-policy"), Some(r#""/a/{id}";q=2;w=3600"#));
        assert_eq!(left(&answer, "/a/{id}", 1800), expected);
        assert_eq!(answer.header("retry-after"), None);
        seen.try_recv().unwrap();
    }
    let refused = server.get("/a/2").await;
    let document = refused.problem(429);
    assert_eq!(document["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded");
    assert_eq!(document["title"], "Request cannot be satisfied as assigned quota has been exceeded");
    assert_eq!(document["violated-policies"], serde_json::json!(["/a/{id}"]));
    assert_eq!(document["detail"], "the limit of 2 per 3600s for one client is used up");
    assert_eq!(refused.header("ratelimit-policy"), Some(r#""/a/{id}";q=2;w=3600"#));
    assert_eq!(left(&refused, "/a/{id}", 1800), 0);
    let after = refused.header("retry-after").unwrap();
    assert!(refused.header("ratelimit").unwrap().ends_with(&format!("t={after}")), "the same moment: {refused:?}");
    assert!(seen.try_recv().is_err(), "the service knows nothing of it");

    let other = server.get("/b").await;
    assert_eq!((other.status, other.header("ratelimit")), (200, None));
    let lines = server.logged(4).await;
    assert_eq!((&lines[2]["status"], &lines[2]["limited"]), (&429.into(), &true.into()));
    assert_eq!((&lines[2]["route"], &lines[2]["service"]), (&"/a/{id}".into(), &"test".into()));
    assert!(lines[0]["limited"].is_null() && lines[3]["limited"].is_null());
}

#[tokio::test]
async fn the_refusal_does_not_wait_for_the_body() {
    let server = Server::start(routes([limited("/a", answers(200, "ok"), 1)]));
    assert_eq!(server.get("/a").await.status, 200);
    // Of the body nothing is ever sent.
    server.ask("POST /a HTTP/1.1\r\nhost: shop\r\ncontent-length: 100\r\n\r\n").await.problem(429);
    // Nor is a client reset that sends all of it first.
    let client = server.connect().await;
    let (mut read, mut write) = client.stream.into_split();
    let sending = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        let _ = write.write_all(b"POST /a HTTP/1.1\r\nhost: shop\r\ncontent-length: 900000\r\n\r\n").await;
        let _ = write.write_all(&vec![b'x'; 900_000]).await;
    });
    soon(sending).await.unwrap();
    let mut text = String::new();
    soon(tokio::io::AsyncReadExt::read_to_string(&mut read, &mut text)).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 429 "), "{text}");
}

#[tokio::test]
async fn what_a_service_says_of_its_own_limits_stays_and_faults_carry_the_fields_too() {
    let own = service(|_, _| async {
        let mut response = json(200, "1");
        response.headers_mut().insert("ratelimit", r#""own";r=7"#.parse().unwrap());
        Ok(response)
    });
    let trapped = fails(Fault::new(FaultKind::Trapped, "it trapped"));
    let server = Server::start(routes([limited("/own", own, 5), limited("/trap", trapped, 5)]));
    let answer = server.get("/own").await;
    assert_eq!(answer.header("ratelimit"), Some(r#""own";r=7"#), "the first of two");
    assert_eq!(left(&answer, "/own", 720), 4);
    let fault = server.get("/trap").await;
    fault.problem(502);
    assert_eq!(left(&fault, "/trap", 720), 4);
}

#[tokio::test]
async fn only_what_goes_to_a_service_counts() {
    let get = |requests| Route { methods: vec![http::Method::GET], ..limited("/a", answers(200, "ok"), requests) };
    let server = Server::start(routes([get(2)]));
    for _ in 0..3 {
        server.ask("POST /a HTTP/1.1\r\nhost: shop\r\ncontent-length: 0\r\n\r\n").await.problem(405);
        assert_eq!(server.ask("OPTIONS /a HTTP/1.1\r\nhost: shop\r\n\r\n").await.status, 204);
        server.get("/a/b").await.problem(404);
    }
    let mut client = server.connect().await;
    client.send("HEAD /a HTTP/1.1\r\nhost: shop\r\n\r\n").await;
    assert_eq!(left(&client.head().await, "GET /a", 1800), 1, "HEAD is a GET there");
    assert_eq!(server.get("/a").await.status, 200);
    server.get("/a").await.problem(429);
}

#[tokio::test]
async fn a_key_is_what_the_policy_says() {
    let by = |path, key| Route { rate_limit: limit(1, key), ..route(path, answers(200, "ok")) };
    let server =
        Server::start(routes([by("/key", RateLimitKey::Header("x-api-key".into())), by("/all", RateLimitKey::Route)]));
    let ask = async |key| {
        let request = format!("GET /key HTTP/1.1\r\nhost: shop\r\nx-api-key: {key}\r\n\r\n");
        server.ask(request).await
    };
    assert_eq!(ask("one").await.status, 200);
    assert_eq!(ask("two").await.status, 200);
    let document = ask("one").await.problem(429);
    assert_eq!(document["detail"], "the limit of 1 per 3600s for one x-api-key is used up");
    assert_eq!(server.get("/key").await.status, 200, "who has no key counts by address");
    server.get("/key").await.problem(429);
    // Nor can a key be hidden from the service behind `Connection`.
    let hidden = "GET /key HTTP/1.1\r\nhost: shop\r\nconnection: x-api-key\r\nx-api-key: three\r\n\r\n";
    server.ask(hidden).await.problem(429);
    assert_eq!(server.get("/all").await.status, 200);
    assert_eq!(server.get("/all").await.problem(429)["detail"], "the limit of 1 per 3600s for this route is used up");
}

#[tokio::test]
async fn an_aggregate_can_have_a_limit() {
    let (part_of, mut seen) = witness();
    let mut builder = crate::gateway::Routes::builder();
    builder.aggregate(crate::gateway::Aggregate {
        path: "/d/{id}".parse().unwrap(),
        parts: vec![crate::gateway::Part { optional: true, ..part("user", "/users/{id}", part_of) }],
        rate_limit: limit(1, RateLimitKey::Client),
    });
    let server = Server::start(builder);
    let answer = server.get("/d/1").await;
    assert_eq!((answer.status, left(&answer, "GET /d/{id}", 3600)), (200, 0));
    seen.try_recv().unwrap();
    server.get("/d/2").await.problem(429);
    assert!(seen.try_recv().is_err());
    assert_eq!(server.logged(2).await[1]["limited"], true);
}

#[tokio::test]
async fn new_routes_go_on_with_what_was_counted_where_the_limit_is_the_same() {
    let with = |requests| routes([limited("/a", answers(200, "ok"), requests), route("/b", answers(200, "ok"))]);
    let server = Server::start(with(2));
    server.routes.replace(with(2).build().unwrap());
    assert_eq!(server.get("/a").await.status, 200);
    server.routes.replace(with(2).build().unwrap());
    server.routes.replace(with(2).build().unwrap());
    assert_eq!(server.get("/a").await.status, 200);
    server.routes.replace(with(2).build().unwrap());
    server.get("/a").await.problem(429);
    let counted = || {
        let limits = server.routes.limits();
        limits.into_iter().map(|it| (it.route, it.limit.granted, it.limit.refused)).collect::<Vec<_>>()
    };
    assert_eq!(counted(), [("/a".to_owned(), 2, 1)]);
    // Another limit counts anew.
    server.routes.replace(with(3).build().unwrap());
    assert_eq!(counted(), [("/a".to_owned(), 0, 0)]);
    assert_eq!(left(&server.get("/a").await, "/a", 1200), 2);
    assert_eq!(counted(), [("/a".to_owned(), 1, 0)]);
}

#[tokio::test]
async fn requests_of_an_idempotent_route_are_marked() {
    let told = || {
        service(|_, request| async move {
            let marked = request.extensions().get::<Idempotent>().is_some();
            Ok(json(200, if marked { "true" } else { "false" }))
        })
    };
    let server = Server::start(routes([Route { idempotent: true, ..route("/a", told()) }, route("/b", told())]));
    let post = async |path| {
        let request = format!("POST {path} HTTP/1.1\r\nhost: shop\r\ncontent-length: 2\r\n\r\n{{}}");
        server.ask(request).await.text().to_owned()
    };
    assert_eq!((post("/a").await, post("/b").await), ("true".into(), "false".into()));
}
