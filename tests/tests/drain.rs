//! What a revision that was replaced still has under way: it is finished there, to a limit, and then ended so that
//! whoever waits for it learns why. Nothing is lost by it, and nothing answered by what is gone.

use http_body_util::BodyExt;
use hyper::body::Incoming;
use wharf_tests::{App, Asking, Host, Origin, below, caller, eventually, linked, patched, request, within};

/// Longer than any test takes.
const LONG: &str = "1m";
const SHORT: &str = "300ms";

const PATIENT: &str = "[policy.defaults]\ndeadline = \"1m\"";

/// Replaces a service by the component in this file; what it has under way may take so long.
async fn deploy(host: &Host, app: &App, service: &str, file: &str, drain: &str) {
    let done = host.wharf(app, &["deploy", service, file, "--at-once", "--drain", drain]).await;
    assert_eq!(done.code(), Some(0), "{done:?}");
}

/// Waits until a service has so many calls under way in revisions that were replaced.
async fn draining(host: &Host, app: &App, service: &str, calls: u64) {
    eventually(&format!("{calls} calls drain"), async || {
        let service = host.service(app, service).await;
        let draining = service["draining"].as_array().into_iter().flatten();
        let in_flight: u64 = draining.filter_map(|it| it["in_flight"].as_u64()).sum();
        if in_flight == calls { Ok(()) } else { Err(service) }
    })
    .await;
}

/// Waits until the revision that serves has a call under way.
async fn under_way(host: &Host, app: &App, service: &str) {
    eventually("it is under way", async || {
        let service = host.service(app, service).await;
        if service["instances"]["in_flight"] == 1 { Ok(()) } else { Err(service) }
    })
    .await;
}

/// Waits until a service has no revision any more but the one that serves.
async fn drained(host: &Host, app: &App, service: &str) {
    eventually("nothing drains", async || {
        let service = host.service(app, service).await;
        if service["draining"].as_array().is_some_and(Vec::is_empty) { Ok(()) } else { Err(service) }
    })
    .await;
}

async fn asked(origin: &Origin, times: usize) {
    eventually("the origin is asked", async || match origin.asked() {
        asked if asked == times => Ok(()),
        asked => Err(asked),
    })
    .await;
}

/// `caller`, and in `new.wasm` what replaces it: a service that says "Hello, new 1!".
fn app(origin: &Origin, more: &str) -> App {
    let app = App::new(&caller(origin, more));
    app.file("new.wasm", patched("hello-p3", "Hello, world!", "Hello, new 1!"));
    app
}

#[tokio::test]
async fn a_call_that_outlives_the_drain_is_ended_with_a_fault_that_says_so() {
    let origin = Origin::start().await;
    let app = app(&origin, PATIENT);
    let host = app.start().await;
    let slow = host.hold(&origin).await;
    deploy(&host, &app, "caller", "new.wasm", SHORT).await;
    let problem = slow.answer().await.assert_fault(503, "cancelled");
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("revision 1 of service `caller` was replaced"), "{problem}");
    drained(&host, &app, "caller").await;
    host.stop().await;
}

#[tokio::test]
async fn a_call_that_is_done_within_the_drain_is_answered_by_the_revision_that_began_it() {
    let origin = Origin::start().await;
    let app = app(&origin, PATIENT);
    let host = app.start().await;
    let slow = host.hold(&origin).await;
    deploy(&host, &app, "caller", "new.wasm", LONG).await;
    draining(&host, &app, "caller", 1).await;
    host.get("/new").await.assert_text(200, "Hello, new 1!");
    assert!(slow.is_under_way());
    origin.let_go();
    slow.answer().await.assert_text(200, "outside");
    drained(&host, &app, "caller").await;
    host.stop().await;
}

/// Begins to ask [`caller`] for an answer of which the last piece is made when `origin` lets go, and takes the first.
async fn streaming(host: &Host, origin: &Origin) -> Incoming {
    let mut connection = host.connect().await;
    let path = format!("/stream?origin={}&path=/held", origin.address());
    let answer = within("the head of the answer", connection.begin(request("GET", &path, ""))).await;
    let mut body = answer.expect("it is answered").into_body();
    assert_eq!(piece(&mut body).await, Ok(Some("first".to_owned())));
    asked(origin, 1).await;
    body
}

/// The next piece of a body; `None` at its regular end.
async fn piece(body: &mut Incoming) -> Result<Option<String>, String> {
    match within("a piece of the answer", body.frame()).await {
        None => Ok(None),
        Some(Err(error)) => Err(error.to_string()),
        Some(Ok(frame)) => {
            let data = frame.into_data().expect("it has no trailers");
            Ok(Some(String::from_utf8(data.to_vec()).expect("it is text")))
        }
    }
}

#[tokio::test]
async fn an_answer_that_streams_is_sent_to_its_end_within_the_drain() {
    let origin = Origin::start().await;
    let app = app(&origin, PATIENT);
    let host = app.start().await;
    let mut body = streaming(&host, &origin).await;
    deploy(&host, &app, "caller", "new.wasm", LONG).await;
    draining(&host, &app, "caller", 1).await;
    host.get("/new").await.assert_text(200, "Hello, new 1!");
    origin.let_go();
    assert_eq!(piece(&mut body).await, Ok(Some("outside".to_owned())));
    assert_eq!(piece(&mut body).await, Ok(None));
    drained(&host, &app, "caller").await;
    host.stop().await;
}

#[tokio::test]
async fn an_answer_that_streams_for_longer_breaks_off_and_does_not_look_whole() {
    let origin = Origin::start().await;
    let app = app(&origin, PATIENT);
    let host = app.start().await;
    let mut body = streaming(&host, &origin).await;
    deploy(&host, &app, "caller", "new.wasm", SHORT).await;
    let end = piece(&mut body).await;
    assert!(end.is_err(), "{end:?}");
    // It was no clean end for the host either.
    host.logged("calls ended with the drain of a revision").await;
    drained(&host, &app, "caller").await;
    host.get("/new").await.assert_text(200, "Hello, new 1!");
    host.stop().await;
}

/// `linked-caller` and `linked-callee`, which may ask `origin`, and in `new.wasm` one that says `FOUND`.
fn pair(origin: &Origin) -> App {
    // What the caller says of a fault is a 503, and the gateway would try that again.
    let app = App::new(&linked(&format!(
        "outbound = [\"http://{}\"]\n{PATIENT}\nretry = {{ attempts = 1 }}",
        origin.address()
    )));
    app.file("new.wasm", patched("linked-callee", "found ", "FOUND "));
    app
}

/// Asks the callee for what `origin` holds back.
async fn finding(host: &Host, origin: &Origin) -> Asking {
    let before = origin.asked();
    let asking = host.ask(&format!("/find?key=held-{}", origin.address()));
    asked(origin, before + 1).await;
    asking
}

#[tokio::test]
async fn a_typed_call_is_finished_within_the_drain_by_the_revision_that_began_it() {
    let origin = Origin::start().await;
    let app = pair(&origin);
    let host = app.start().await;
    let slow = finding(&host, &origin).await;
    deploy(&host, &app, "callee", "new.wasm", LONG).await;
    draining(&host, &app, "callee", 1).await;
    host.get("/find?key=pen").await.assert_text(200, "FOUND pen");
    assert!(slow.is_under_way());
    origin.let_go();
    slow.answer().await.assert_text(200, &format!("found held-{}", origin.address()));
    drained(&host, &app, "callee").await;
    host.stop().await;
}

#[tokio::test]
async fn a_typed_call_that_takes_longer_is_a_fault_of_its_caller() {
    let origin = Origin::start().await;
    let app = pair(&origin);
    let host = app.start().await;
    // One after the other: a fault without a place takes the caller's instance along, with all its calls.
    let as_value = host.ask("/find?key=wait");
    under_way(&host, &app, "callee").await;
    deploy(&host, &app, "callee", "new.wasm", SHORT).await;
    as_value.answer().await.assert_text(503, "fault FaultKind::Cancelled");
    drained(&host, &app, "callee").await;
    // The caller's instance is none the worse for it.
    host.get("/find?key=pen").await.assert_text(200, "FOUND pen");

    let as_cause = host.ask("/find-plain?key=wait");
    under_way(&host, &app, "callee").await;
    app.file("newer.wasm", patched("linked-callee", "found ", "Found "));
    deploy(&host, &app, "callee", "newer.wasm", SHORT).await;
    let problem = as_cause.answer().await.assert_fault(502, "trapped");
    let detail = problem["detail"].as_str().unwrap_or_default();
    for part in ["find-plain", "caller -> callee", "revision 2 of service `callee` was replaced"] {
        assert!(detail.contains(part), "no {part} in {detail}");
    }
    drained(&host, &app, "callee").await;
    host.get("/find?key=pen").await.assert_text(200, "Found pen");
    host.stop().await;
}

/// `speaker`, and `hearer`, which may ask `origin`; in `new.wasm` is another build of the same.
fn events(origin: &Origin) -> App {
    let topics = format!("[topics.\"order.created\"]\n{PATIENT}\n");
    let speaker = below("speaker", "listener", "publishes = [\"order.created\"]");
    let more = format!(
        "subscribes = [\"order.created\"]\ninstances = {{ max = 1 }}\noutbound = [\"http://{}\"]",
        origin.address()
    );
    let app = App::new(&[topics, speaker, below("hearer", "listener", &more)].concat());
    app.file("new.wasm", patched("listener", "the listener as it was built", "the listener that is new now"));
    app
}

/// Publishes on a subject of its own, so that it need not wait for others.
async fn publish(host: &Host, data: &str) {
    let answer = host.get(&format!("/speaker/publish?topic=order.created&subject={data}&data={data}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Waits until so many events are settled and none is left; gives the status of the subscription.
async fn settled(host: &Host, app: &App, count: u64) -> serde_json::Value {
    eventually(&format!("{count} events are settled"), async || {
        let subscription = host.status(app).await["events"]["subscriptions"][0].clone();
        if subscription["delivered"] == count && subscription["in_flight"] == 0 {
            Ok(subscription)
        } else {
            Err(subscription)
        }
    })
    .await
}

/// Attempt and data of each event that the revision which serves now has heard of.
async fn heard(host: &Host) -> Vec<(String, String)> {
    let heard = host.get("/hearer/heard").await;
    let line = |line: &str| {
        let words: Vec<_> = line.split(' ').collect();
        (words[2].to_owned(), words[words.len() - 1].trim_matches('"').to_owned())
    };
    heard.text().lines().map(line).collect()
}

#[tokio::test]
async fn an_event_is_handled_to_its_end_within_the_drain_and_comes_once() {
    let origin = Origin::start().await;
    let app = events(&origin);
    let host = app.start().await;
    publish(&host, &format!("held-{}", origin.address())).await;
    asked(&origin, 1).await;
    deploy(&host, &app, "hearer", "new.wasm", LONG).await;
    draining(&host, &app, "hearer", 1).await;
    publish(&host, "next").await;
    origin.let_go();
    let subscription = settled(&host, &app, 2).await;
    assert_eq!(subscription["retried"], 0, "{subscription}\n{}", host.log());
    drained(&host, &app, "hearer").await;
    // The new revision has heard of the other one, and of nothing else.
    assert_eq!(heard(&host).await, [("1".to_owned(), "next".to_owned())]);
    assert_eq!(origin.asked(), 1);
    host.stop().await;
}

#[tokio::test]
async fn an_event_that_takes_longer_is_handled_once_more_by_the_new_revision() {
    let origin = Origin::start().await;
    let app = events(&origin);
    let host = app.start().await;
    let data = format!("held-{}", origin.address());
    publish(&host, &data).await;
    asked(&origin, 1).await;
    deploy(&host, &app, "hearer", "new.wasm", SHORT).await;
    drained(&host, &app, "hearer").await;
    asked(&origin, 2).await;
    assert_eq!(heard(&host).await, [("2".to_owned(), data)]);
    origin.let_go();
    let subscription = settled(&host, &app, 1).await;
    assert_eq!((&subscription["rejected"], &subscription["retried"]), (&0.into(), &1.into()), "{subscription}");
    let dead = host.wharf(&app, &["events", "list", "--json"]).await.json();
    assert_eq!(dead["letters"], serde_json::json!([]), "{dead}");
    host.stop().await;
}

#[tokio::test]
async fn what_waits_for_a_revision_whose_drain_ends_is_not_answered_by_it() {
    let origin = Origin::start().await;
    let app = app(
        &origin,
        &format!(
            "instances = {{ max = 1, concurrency = 1 }}\n{PATIENT}\nbreaker = false\nretry = {{ budget = false }}"
        ),
    );
    let host = app.start().await;
    let slow = host.hold(&origin).await;
    // The old one would say "alive".
    let waiting: Vec<_> = (0..8).map(|_| host.ask("/alive")).collect();
    eventually("they wait", async || {
        let service = host.service(&app, "caller").await;
        if service["instances"]["queued"] == 8 { Ok(()) } else { Err(service) }
    })
    .await;
    deploy(&host, &app, "caller", "new.wasm", SHORT).await;
    slow.answer().await.assert_fault(503, "cancelled");
    // They were not begun, so another try does no harm, and finds the new one.
    for waiting in waiting {
        waiting.answer().await.assert_text(200, "Hello, new 1!");
    }
    drained(&host, &app, "caller").await;
    host.stop().await;
}
