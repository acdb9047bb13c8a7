//! Policies on edges, as a client meets them: breaker, bulkhead, queue, deadline, retry.

use serde_json::json;
use wharf_tests::{Answer, App, Asking, EDGE, Host, Origin, at, behind, below, caller, eventually, held};

/// `trap` behind a breaker that stays open for so long.
fn guarded(open: &str) -> App {
    let breaker = format!("breaker = {{ failures = 3, open = \"{open}\", half-open = 1 }}");
    App::new(&behind("trap", &format!("retry = {{ attempts = 1 }}\n{breaker}")))
}

#[tokio::test]
async fn the_breaker_opens_after_its_failures_and_says_so() {
    let app = guarded("1h");
    let host = app.start().await;
    assert_eq!(host.edge(&app, EDGE).await["breaker"]["state"], "closed");
    for _ in 0..2 {
        host.get("/trap").await.assert_fault(502, "trapped");
    }
    // Failures in a row: an answer in between begins the count anew.
    host.get("/alive").await.assert_text(200, "alive");
    for _ in 0..3 {
        host.get("/trap").await.assert_fault(502, "trapped");
    }
    let rejected = host.get("/alive").await;
    let problem = rejected.assert_fault(503, "circuit-open");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(EDGE)), "{problem}");
    let after: u64 =
        rejected.header("retry-after").and_then(|after| after.parse().ok()).expect("it says when to come again");
    assert!((3000..=3600).contains(&after), "{after}");

    let edge = host.edge(&app, EDGE).await;
    assert_eq!(edge["breaker"]["state"], "open", "{edge}");
    assert_eq!(edge["faults"], json!({ "trapped": 5, "circuit-open": 1 }), "{edge}");
    assert_eq!((&edge["calls"], &edge["rejected"]), (&json!(7), &json!(1)), "{edge}");
    let shown = host.wharf(&app, &["status"]).await;
    let line = shown.stdout.lines().find(|line| line.starts_with(EDGE));
    let columns: Vec<_> = line.unwrap_or_default().split_whitespace().skip(3).collect();
    assert_eq!(columns.first(), Some(&"open"), "{shown:?}");
    // Window, calls, faults, retries, budget, rejected, fallbacks, in flight.
    assert_eq!(columns[columns.len() - 8..], ["-", "7", "6", "0", "-", "1", "0", "0"], "{shown:?}");
    host.stop().await;
}

#[tokio::test]
async fn the_breaker_closes_when_a_call_goes_well_again() {
    let app = guarded("300ms");
    let host = app.start().await;
    for _ in 0..3 {
        host.get("/trap").await.assert_fault(502, "trapped");
    }
    let answer = eventually("the breaker lets a call through", async || match host.get("/trap").await {
        answer if answer.status == 503 => Err(answer),
        answer => Ok(answer),
    })
    .await;
    // Half-open, it was let through, failed, and opened the breaker again at once.
    answer.assert_fault(502, "trapped");
    host.get("/alive").await.assert_fault(503, "circuit-open");
    eventually("the breaker lets a call through", async || match host.get("/alive").await {
        answer if answer.status == 503 => Err(answer),
        answer => {
            answer.assert_text(200, "alive");
            Ok(())
        }
    })
    .await;
    assert_eq!(host.edge(&app, EDGE).await["breaker"]["state"], "closed");
    for _ in 0..10 {
        host.get("/alive").await.assert_text(200, "alive");
    }
    host.stop().await;
}

/// Asks for `/held` this many times, each when the one before is under way, and comes back when the first `begun` of them
/// have come to the origin and the others wait.
///
/// One after the other, because an instance takes a second call only when the first one waits for something: of a burst
/// more would stand in the queue for a moment than fit there.
async fn hold(host: &Host, app: &App, origin: &Origin, times: usize, begun: usize) -> Vec<Asking> {
    let mut asks = Vec::new();
    for number in 1..=times {
        asks.push(host.ask(&held(origin)));
        eventually("a call is under way", async || {
            let edge = host.edge(app, "gateway -> caller").await;
            let count = |name: &str| edge[name].as_u64().unwrap_or_default() as usize;
            let is_there = count("in_flight") + count("queued") == number && origin.asked() == number.min(begun);
            if is_there { Ok(()) } else { Err((edge.to_string(), origin.asked())) }
        })
        .await;
    }
    asks
}

/// That all are served as soon as the origin lets go, and whoever comes then.
async fn all_served(host: &Host, origin: &Origin, asks: Vec<Asking>) {
    origin.let_go();
    for ask in asks {
        ask.answer().await.assert_text(200, "outside");
    }
    host.get("/alive").await.assert_text(200, "alive");
}

/// That its time was over. The call that the guest makes has the same deadline as the guest itself, so now and then the
/// guest has just the time to say so.
#[track_caller]
fn assert_out_of_time(answer: &Answer) {
    if answer.status == 502 {
        answer.assert_text(502, "ErrorCode::HttpResponseTimeout");
    } else {
        let problem = answer.assert_fault(504, "deadline-exceeded");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("gateway -> caller")), "{problem}");
    }
}

#[tokio::test]
async fn a_full_bulkhead_refuses_and_those_that_wait_are_served_later() {
    let origin = Origin::start().await;
    let policy = r#"
[policy.edges."gateway -> caller"]
deadline = "1m"
retry = { attempts = 1 }
breaker = false
bulkhead = { concurrent = 2, queue = 3 }
"#;
    let app = App::new(&caller(&origin, policy));
    let host = app.start().await;
    let asks = hold(&host, &app, &origin, 5, 2).await;
    for _ in 0..3 {
        let answer = host.get("/alive").await;
        let problem = answer.assert_fault(503, "overloaded");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("bulkhead")), "{problem}");
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
    }
    assert_eq!(origin.asked(), 2, "those that wait are not begun");
    all_served(&host, &origin, asks).await;
    host.stop().await;
}

#[tokio::test]
async fn a_service_with_no_room_left_refuses() {
    let origin = Origin::start().await;
    let policy = r#"
instances = { max = 2, concurrency = 2, queue = 1 }

[policy.edges."gateway -> caller"]
deadline = "1m"
retry = { attempts = 1 }
breaker = false
"#;
    let app = App::new(&caller(&origin, policy));
    let host = app.start().await;
    let asks = hold(&host, &app, &origin, 5, 4).await;
    eventually("the fifth is in the queue", async || {
        let service = host.service(&app, "caller").await;
        let instances = &service["instances"];
        let full = instances["in_flight"] == 4 && instances["queued"] == 1;
        if full { Ok(()) } else { Err(service.to_string()) }
    })
    .await;
    for _ in 0..3 {
        let answer = host.get("/alive").await;
        answer.assert_fault(503, "overloaded");
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
    }
    all_served(&host, &origin, asks).await;
    host.stop().await;
}

#[tokio::test]
async fn a_call_ends_at_its_deadline() {
    let origin = Origin::start().await;
    let policy = r#"
[policy.edges."gateway -> caller"]
deadline = "300ms"
"#;
    let app = App::new(&caller(&origin, policy));
    let host = app.start().await;
    assert_out_of_time(&host.get(&held(&origin)).await);
    host.get("/alive").await.assert_text(200, "alive");
    // Neither is what nobody waits for kept.
    eventually("nothing is in flight", async || {
        let service = host.service(&app, "caller").await;
        if service["instances"]["in_flight"] == 0 { Ok(()) } else { Err(service.to_string()) }
    })
    .await;
    host.stop().await;
}

#[tokio::test]
async fn the_deadline_goes_along_with_the_call() {
    let origin = Origin::start().await;
    // The edge to the origin would have a minute; its caller's caller has less.
    let more = format!(
        r#"
[policy.defaults]
deadline = "1m"
[policy.edges."gateway -> caller"]
deadline = "300ms"
[policy.edges."caller -> http://{}"]
deadline = "1m"
"#,
        origin.address()
    );
    let app = App::new(&caller(&origin, &more));
    let host = app.start().await;
    assert_out_of_time(&host.get(&held(&origin)).await);
    eventually("the call to the origin is over", async || {
        let edge = host.edge(&app, &format!("caller -> http://{}", origin.address())).await;
        if edge["in_flight"] == 0 { Ok(()) } else { Err(edge.to_string()) }
    })
    .await;
    host.stop().await;
}

#[tokio::test]
async fn only_what_is_safe_is_tried_again() {
    let policy = "retry = { attempts = 3, backoff = \"1ms\", max-backoff = \"5ms\" }\nbreaker = false";
    let app = App::new(&behind("trap", policy));
    let host = app.start().await;
    // The instance may have had its effect before it trapped, so a POST is not sent again.
    host.post("/trap", &json!({})).await.assert_fault(502, "trapped");
    assert_eq!(host.edge(&app, EDGE).await["retries"], 0);
    host.get("/trap").await.assert_fault(502, "trapped");
    assert_eq!(host.edge(&app, EDGE).await["retries"], 2);
    host.stop().await;
}

#[tokio::test]
async fn what_a_guest_asks_for_is_tried_again_like_anything_else() {
    // Nobody listens there, so nothing is ever begun, and trying again is safe whatever is asked for.
    let gone = Origin::start().await;
    let address = gone.address();
    drop(gone);
    let policies = r#"
[services.trap]
component = "<trap>"

[policy.defaults]
retry = { attempts = 3, backoff = "1ms", max-backoff = "5ms" }
breaker = false
[policy.edges."gateway -> new"]
retry = { attempts = 1 }
[policy.edges."gateway -> old"]
retry = { attempts = 1 }
"#;
    let new = below("new", "caller", &format!("calls = [\"trap\"]\noutbound = [\"http://{address}\"]"));
    let old = at("old", "fetch-p2", "calls = [\"trap\"]");
    let app = App::new(&(new + &old + policies));
    let host = app.start().await;
    let long = "x".repeat(4000);
    for (path, edge, retries) in [
        ("/new/neighbour?name=trap&path=/trap".to_owned(), "new -> trap".to_owned(), 2),
        // The instance may have had its effect before it trapped.
        ("/new/neighbour?name=trap&path=/trap&body=x".to_owned(), "new -> trap".to_owned(), 2),
        ("/old?origin=trap.internal&path=/trap".to_owned(), "old -> trap".to_owned(), 2),
        (format!("/new/outbound?origin={address}&path=/"), format!("new -> http://{address}"), 2),
        (format!("/new/outbound?origin={address}&path=/&body=x"), format!("new -> http://{address}"), 4),
        (format!("/new/outbound?origin={address}&path=/&body={long}"), format!("new -> http://{address}"), 6),
    ] {
        assert_eq!(host.get(&path).await.status, 502, "{edge}");
        let edge = host.edge(&app, &edge).await;
        assert_eq!(edge["retries"], retries, "{}: {edge}", &path[..path.len().min(100)]);
    }
    host.stop().await;
}

#[tokio::test]
async fn a_route_can_say_that_its_requests_may_be_made_twice() {
    let app = App::new(
        r#"
[services.trap]
component = "<trap>"
instances = { max = 1 }
[[gateway.routes]]
path = "/twice/{*rest}"
service = "trap"
strip-prefix = "/twice"
idempotent = true
[[gateway.routes]]
path = "/{*rest}"
service = "trap"

[policy.edges."gateway -> trap"]
retry = { attempts = 3, backoff = "1ms", max-backoff = "5ms" }
breaker = false
"#,
    );
    let host = app.start().await;
    // There is one instance. Armed, it traps, and the next one answers.
    for (path, answers) in [("/armed", false), ("/twice/armed", true)] {
        host.get("/arm").await.assert_text(200, "armed");
        let answer = host.post(path, &json!({})).await;
        if answers {
            answer.assert_text(200, "alive");
        } else {
            answer.assert_fault(502, "trapped");
        }
        assert_eq!(host.edge(&app, "gateway -> trap").await["retries"], u64::from(answers));
    }
    // It may not be made twice for ever.
    host.post("/twice/trap", &json!({})).await.assert_fault(502, "trapped");
    assert_eq!(host.edge(&app, "gateway -> trap").await["retries"], 3);
    // Nor can a body that is not there any more be sent again.
    host.get("/arm").await.assert_text(200, "armed");
    host.with_body("POST", "/twice/armed", vec![b'x'; 200_000]).await.assert_fault(502, "trapped");
    host.stop().await;
}
