//! Services outside, as clients of the gateway and services here meet them: several endpoints, of which some fail.

use serde_json::{Value, json};
use tokio::net::TcpStream;
use wharf_tests::{App, Host, Origin, below, eventually, outside};

/// `payment`, which is outside at these endpoints, behind the gateway and for `caller`. `more` goes to its table, and
/// `policy` to all edges.
fn app(endpoints: &[&Origin], more: &str, policy: &str) -> App {
    let endpoints: Vec<_> = endpoints.iter().map(|origin| format!("http://{}", origin.address())).collect();
    named(&format!("endpoints = {endpoints:?}\n{more}"), policy)
}

fn named(payment: &str, policy: &str) -> App {
    App::new(&manifest(payment, policy))
}

fn manifest(payment: &str, policy: &str) -> String {
    let caller = below("caller", "caller", "calls = [\"payment\"]");
    format!("{}{caller}\n[policy.defaults]\n{policy}\n", outside(payment))
}

/// What status says of an endpoint.
async fn endpoint(host: &Host, app: &App, origin: &Origin) -> Value {
    let status = host.status(app).await;
    let name = format!("http://{}", origin.address());
    let endpoints = status["external"][0]["endpoints"].as_array().into_iter().flatten();
    let found = endpoints.into_iter().find(|endpoint| endpoint["endpoint"] == *name).cloned();
    found.unwrap_or_else(|| panic!("there is no endpoint {name} in {status}"))
}

async fn becomes(host: &Host, app: &App, origin: &Origin, standing: &str) -> Value {
    eventually(&format!("the endpoint is {standing}"), async || {
        let endpoint = endpoint(host, app, origin).await;
        if endpoint["standing"] == standing { Ok(endpoint) } else { Err(endpoint.to_string()) }
    })
    .await
}

#[tokio::test]
async fn calls_go_to_each_endpoint_in_turn() {
    let (one, other) = (Origin::start().await, Origin::start().await);
    let app = app(&[&one, &other], "", "");
    let host = app.start().await;
    for _ in 0..5 {
        host.get("/pay/charges").await.assert_text(200, "outside");
        host.get("/caller/neighbour?name=payment&path=/charges").await.assert_text(200, "outside");
    }
    assert_eq!((one.asked(), other.asked()), (5, 5));
    // They hear their own names, whatever the gateway was called.
    assert_eq!((one.host(), other.host()), (one.address().to_string(), other.address().to_string()));
    let shown = endpoint(&host, &app, &one).await;
    assert_eq!((&shown["standing"], &shown["calls"], &shown["failures"]), (&"healthy".into(), &5.into(), &0.into()));
    assert_eq!(shown["in_flight"], 0, "{shown}");
    for edge in ["gateway -> payment", "caller -> payment"] {
        let edge = host.edge(&app, edge).await;
        assert_eq!((&edge["calls"], &edge["faults"]), (&5.into(), &json!({})), "{edge}");
    }
    let shown = host.wharf(&app, &["status"]).await.stdout;
    let line = shown.lines().find(|line| line.starts_with("payment")).unwrap_or_default();
    let columns: Vec<_> = line.split_whitespace().collect();
    assert_eq!(columns, ["payment", &format!("http://{}", one.address()), "healthy", "5", "0", "0"], "{shown}");
    host.stop().await;
}

#[tokio::test]
async fn the_less_loaded_endpoint_gets_the_calls() {
    let (busy, idle) = (Origin::start().await, Origin::start().await);
    let app = app(&[&busy, &idle], "balance = \"least-loaded\"", "deadline = \"1m\"");
    let host = app.start().await;
    idle.let_go();
    // One call that hangs at `busy`; those that happen to go to `idle` are answered.
    let held = loop {
        let mut connection = host.connect().await;
        let asked = idle.asked();
        let call = tokio::spawn(async move { connection.get("/pay/held").await });
        eventually("somebody is asked", async || match (busy.asked(), idle.asked()) {
            (1, _) => Ok(()),
            (_, now) if now > asked => Ok(()),
            counts => Err(counts),
        })
        .await;
        if busy.asked() == 1 {
            break call;
        }
        call.await.expect("it does not panic").expect("it is answered").assert_text(200, "outside");
    };
    for _ in 0..20 {
        host.get("/pay/charges").await.assert_text(200, "outside");
    }
    assert_eq!(busy.asked(), 1);
    busy.let_go();
    held.await.expect("it does not panic").expect("it is answered").assert_text(200, "outside");
    host.stop().await;
}

#[tokio::test]
async fn a_dead_endpoint_is_ejected_and_no_call_fails_for_it() {
    let (alive, dead) = (Origin::start().await, Origin::start().await);
    let app = app(&[&alive, &dead], "outlier = { failures = 3, open = \"1h\" }", "retry = { backoff = \"1ms\" }");
    let host = app.start().await;
    for _ in 0..4 {
        host.get("/pay/charges").await.assert_text(200, "outside");
    }
    assert_eq!((alive.asked(), dead.asked()), (2, 2));
    let address = dead.address();
    drop(dead);
    eventually("nobody listens there", async || match TcpStream::connect(address).await {
        Ok(_) => Err(()),
        Err(_) => Ok(()),
    })
    .await;
    for _ in 0..10 {
        host.get("/pay/charges").await.assert_text(200, "outside");
        // Nothing was begun at an endpoint that was not reached, so also what is not safe is sent again.
        host.post("/pay/charges", &json!({ "of": 1 })).await.assert_text(200, "outside");
    }
    let status = host.status(&app).await;
    let shown = &status["external"][0]["endpoints"][1];
    assert_eq!(shown["endpoint"], format!("http://{address}"), "{status}");
    assert_eq!((&shown["standing"], &shown["failures"]), (&"ejected".into(), &3.into()), "{status}");
    assert!(shown["reason"].as_str().is_some_and(|reason| reason.starts_with("3 failures in a row")), "{status}");
    assert_eq!(alive.asked(), 22);
    let edge = host.edge(&app, "gateway -> payment").await;
    assert_eq!(
        (&edge["faults"], &edge["retries"], &edge["breaker"]["state"]),
        (&json!({}), &3.into(), &"closed".into())
    );
    let shown = host.wharf(&app, &["status"]).await.stdout;
    assert!(shown.contains("ejected (3 failures in a row, the last: unreachable)"), "{shown}");
    host.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_hangs_is_found_out_at_the_deadline() {
    let (quick, hangs) = (Origin::start().await, Origin::start().await);
    let app = app(&[&quick, &hangs], "outlier = { failures = 2, open = \"1h\" }", "deadline = \"300ms\"");
    let host = app.start().await;
    quick.let_go();
    for _ in 0..2 {
        host.get("/pay/held").await.assert_text(200, "outside");
        host.get("/pay/held").await.assert_fault(504, "deadline-exceeded");
    }
    let shown = endpoint(&host, &app, &hangs).await;
    assert_eq!((&shown["standing"], &shown["in_flight"]), (&"ejected".into(), &0.into()), "{shown}");
    for _ in 0..10 {
        host.get("/pay/held").await.assert_text(200, "outside");
    }
    assert_eq!(hangs.asked(), 2);
    host.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_flaps_costs_its_callers_nothing() {
    let (steady, flaps) = (Origin::start().await, Origin::start().await);
    let more = "outlier = { failures = 2, open = \"100ms\", max-open = \"400ms\" }";
    let app = app(&[&steady, &flaps], more, "retry = { backoff = \"1ms\" }");
    let host = app.start().await;
    for round in 0..3 {
        flaps.answer(503);
        becomes_by_calls(&host, &app, &flaps, "ejected").await;
        flaps.answer(200);
        becomes_by_calls(&host, &app, &flaps, "healthy").await;
        let asked = flaps.asked();
        for _ in 0..4 {
            host.get("/pay/charges").await.assert_text(200, "outside");
        }
        assert_eq!(flaps.asked(), asked + 2, "round {round}: it has its turns again");
    }
    let edge = host.edge(&app, "gateway -> payment").await;
    assert_eq!((&edge["faults"], &edge["breaker"]["state"]), (&json!({}), &"closed".into()), "{edge}");
    host.stop().await;
}

/// Calls that all are answered, until an endpoint stands so.
async fn becomes_by_calls(host: &Host, app: &App, origin: &Origin, standing: &str) {
    eventually(&format!("the endpoint is {standing}"), async || {
        host.get("/pay/charges").await.assert_text(200, "outside");
        let endpoint = endpoint(host, app, origin).await;
        if endpoint["standing"] == standing { Ok(()) } else { Err(endpoint.to_string()) }
    })
    .await;
}

#[tokio::test]
async fn no_more_are_ejected_than_may_be() {
    let (one, other) = (Origin::start().await, Origin::start().await);
    let app =
        app(&[&one, &other], "outlier = { failures = 1, open = \"1h\" }", "retry = { attempts = 1 }\nbreaker = false");
    let host = app.start().await;
    for origin in [&one, &other] {
        origin.answer(500);
    }
    for _ in 0..10 {
        host.get("/pay/charges").await.assert_text(500, "outside");
    }
    // The first that failed is out, and the second gets all: what it says is better than nothing.
    assert_eq!((one.asked(), other.asked()), (1, 9));
    assert_eq!(endpoint(&host, &app, &one).await["standing"], "ejected");
    assert_eq!(endpoint(&host, &app, &other).await["standing"], "kept-in");
    host.stop().await;
}

#[tokio::test]
async fn when_all_endpoints_are_ejected_the_call_ends_at_once_and_says_why() {
    let (one, other) = (Origin::start().await, Origin::start().await);
    let outlier = "outlier = { failures = 1, open = \"1h\", max-ejected = 100 }";
    let app = app(&[&one, &other], outlier, "retry = { attempts = 1 }\nbreaker = false");
    let host = app.start().await;
    for origin in [&one, &other] {
        origin.answer(500);
    }
    for _ in 0..2 {
        host.get("/pay/charges").await.assert_text(500, "outside");
    }
    for _ in 0..3 {
        let answer = host.get("/pay/charges").await;
        let problem = answer.assert_fault(503, "circuit-open");
        let detail = problem["detail"].as_str().unwrap_or_default();
        for origin in [&one, &other] {
            assert!(detail.contains(&format!("http://{} is ejected", origin.address())), "{problem}");
        }
        assert_eq!(problem["trip"]["kind"], "consecutive-failures", "{problem}");
        let after: u64 = answer.header("retry-after").and_then(|after| after.parse().ok()).expect("it says when");
        assert!((3500..=3600).contains(&after), "{after}");
    }
    assert_eq!((one.asked(), other.asked()), (1, 1));
    // A guest hears it in its own words.
    let answer = host.get("/caller/neighbour?name=payment&path=/charges").await;
    answer.assert_text(502, "ErrorCode::DestinationUnavailable");
    host.stop().await;
}

#[tokio::test]
async fn ejected_endpoints_come_back_when_they_are_well() {
    let (one, other) = (Origin::start().await, Origin::start().await);
    let outlier = "outlier = { failures = 1, open = \"100ms\", max-ejected = 100 }";
    let app = app(&[&one, &other], outlier, "retry = { attempts = 1 }\nbreaker = false");
    let host = app.start().await;
    for origin in [&one, &other] {
        origin.answer(500);
    }
    eventually("all are out", async || match host.get("/pay/charges").await {
        answer if answer.status == 503 => Ok(answer.assert_fault(503, "circuit-open")),
        answer => Err(answer),
    })
    .await;
    for origin in [&one, &other] {
        origin.answer(200);
    }
    for origin in [&one, &other] {
        eventually("both are back", async || {
            let answer = host.get("/pay/charges").await;
            let endpoint = endpoint(&host, &app, origin).await;
            if endpoint["standing"] == "healthy" { Ok(()) } else { Err((answer, endpoint.to_string())) }
        })
        .await;
    }
    for _ in 0..10 {
        host.get("/pay/charges").await.assert_text(200, "outside");
    }
    host.stop().await;
}

#[tokio::test]
async fn probes_take_an_endpoint_out_and_bring_it_back() {
    let (one, other) = (Origin::start().await, Origin::start().await);
    let health = "health = { path = \"/health\", interval = \"50ms\", healthy = 2, unhealthy = 2 }\noutlier = false";
    let app = app(&[&one, &other], health, "breaker = { failures = 1, open = \"1h\" }");
    let host = app.start().await;
    eventually("both are probed", async || match (one.probed(), other.probed()) {
        (0, _) | (_, 0) => Err(()),
        _ => Ok(()),
    })
    .await;
    // It answers calls, but says that it should not get any.
    one.answer_probes(503);
    let shown = becomes(&host, &app, &one, "unhealthy").await;
    assert_eq!((&shown["reason"], &shown["health"]["healthy"]), (&"status 503".into(), &false.into()), "{shown}");
    let asked = one.asked();
    for _ in 0..6 {
        host.get("/pay/charges").await.assert_text(200, "outside");
    }
    assert_eq!((one.asked(), other.asked()), (asked, 6));
    host.logged("endpoint unhealthy").await;

    other.answer_probes(404);
    becomes(&host, &app, &other, "unhealthy").await;
    let problem = host.get("/pay/charges").await.assert_fault(502, "unreachable");
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert!(detail.contains(&format!("http://{} is unhealthy (status 404)", other.address())), "{problem}");

    // Nobody was asked, which the breaker of the edge does not count: calls flow as soon as one is back.
    let edge = host.edge(&app, "gateway -> payment").await;
    assert_eq!((&edge["retries"], &edge["breaker"]["state"]), (&0.into(), &"closed".into()), "{edge}");
    one.answer_probes(204);
    becomes(&host, &app, &one, "healthy").await;
    for _ in 0..4 {
        host.get("/pay/charges").await.assert_text(200, "outside");
    }
    assert_eq!((one.asked(), other.asked()), (asked + 4, 6));
    host.stop().await;
}

#[tokio::test]
async fn a_service_moves_in_and_its_callers_see_no_difference() {
    let origin = Origin::start().await;
    let app = app(&[&origin], "", "");
    let ask = async |host: &Host, text: &str| {
        host.get("/pay/charges").await.assert_text(200, text);
        host.get("/caller/neighbour?name=payment&path=/charges").await.assert_text(200, text);
    };
    let host = app.start().await;
    ask(&host, "outside").await;
    host.stop().await;

    app.write(&manifest("component = \"<hello-p3>\"", ""));
    let host = app.start().await;
    ask(&host, "Hello, world!").await;
    assert_eq!(host.status(&app).await["external"], json!([]));
    host.stop().await;
    assert_eq!(origin.asked(), 2);
}

#[tokio::test]
async fn a_name_stands_for_its_addresses() {
    let origin = Origin::start().await;
    let port = origin.address().port();
    // Where localhost is an IPv6 address too, nobody listens there, and the call goes on to the other.
    let app = named(&format!("dns = \"http://localhost:{port}\""), "retry = { backoff = \"1ms\" }");
    let host = app.start().await;
    for _ in 0..4 {
        host.get("/pay/charges").await.assert_text(200, "outside");
    }
    assert_eq!(origin.host(), format!("localhost:{port}"), "it hears the name, not the address");
    assert_eq!(endpoint(&host, &app, &origin).await["calls"], 4);
    host.stop().await;
}

#[tokio::test]
async fn a_name_that_nobody_has_keeps_no_host_from_starting() {
    let app = named("dns = \"http://nobody.invalid\"", "retry = { attempts = 1 }");
    let host = app.start().await;
    let problem = host.get("/pay/charges").await.assert_fault(502, "unreachable");
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("no address of `payment` is known") && detail.contains("nobody.invalid"), "{problem}");
    let shown = host.wharf(&app, &["status"]).await.stdout;
    assert!(shown.lines().any(|line| line.starts_with("payment") && line.contains("nobody.invalid")), "{shown}");
    host.stop().await;
}

#[tokio::test]
async fn endpoints_change_while_the_host_runs_and_those_that_stay_keep_their_state() {
    let (sick, well, new) = (Origin::start().await, Origin::start().await, Origin::start().await);
    let list = |origins: &[&Origin]| {
        let endpoints: Vec<_> = origins.iter().map(|origin| format!("http://{}", origin.address())).collect();
        format!("endpoints = {endpoints:?}")
    };
    let outlier = "outlier = { failures = 1, open = \"1h\" }";
    let policy = "retry = { attempts = 1 }\nbreaker = false\ndeadline = \"1m\"";
    let payment = format!("{}\n{outlier}", list(&[&sick, &well]));
    let app = named(&payment, policy);
    let host = Host::start_with(&app, &["--no-watch"]).await;
    sick.answer(500);
    for _ in 0..4 {
        host.get("/pay/charges").await;
    }
    assert_eq!((sick.asked(), well.asked()), (1, 3));
    assert_eq!(endpoint(&host, &app, &sick).await["standing"], "ejected");
    // One call stays under way at an endpoint that stays.
    let mut connection = host.connect().await;
    let held = tokio::spawn(async move { connection.get("/pay/held").await });
    eventually("it is asked", async || if well.asked() == 4 { Ok(()) } else { Err(well.asked()) }).await;

    let reload = async |payment: &str| {
        app.write(&manifest(payment, policy));
        host.wharf(&app, &["reload", "--json"]).await
    };
    let done = reload(&format!("{}\n{outlier}", list(&[&new, &sick, &well]))).await;
    let changes = done.json()["changes"].clone();
    assert_eq!((done.code(), changes.as_array().map(Vec::len)), (Some(0), Some(1)), "{done:?}");
    assert_eq!(
        (&changes[0]["kind"], &changes[0]["what"]),
        (&json!("changed"), &json!("services.payment")),
        "{changes}"
    );
    for _ in 0..6 {
        host.get("/pay/charges").await.assert_text(200, "outside");
    }
    assert_eq!((sick.asked(), well.asked(), new.asked()), (1, 7, 3));
    assert_eq!(endpoint(&host, &app, &sick).await["standing"], "ejected");
    assert_eq!(endpoint(&host, &app, &well).await["in_flight"], 1);

    // Without the endpoint at which it is under way it ends all the same.
    let done = reload(&list(&[&new])).await;
    assert_eq!(done.code(), Some(0), "{done:?}");
    well.let_go();
    held.await.expect("it does not panic").expect("it is answered").assert_text(200, "outside");
    for _ in 0..3 {
        host.get("/pay/charges").await.assert_text(200, "outside");
    }
    assert_eq!((sick.asked(), well.asked(), new.asked()), (1, 7, 6));

    // Probes, too, begin while it runs.
    let done =
        reload(&format!("{}\nhealth = {{ path = \"/health\", interval = \"50ms\" }}", list(&[&new, &well]))).await;
    assert_eq!(done.code(), Some(0), "{done:?}");
    new.answer_probes(503);
    becomes(&host, &app, &new, "unhealthy").await;
    // And end; then nobody is unhealthy.
    app.write(&manifest(&list(&[&new, &well]), policy));
    let done = host.wharf(&app, &["reload"]).await;
    let expected = "~ services.payment: other health";
    assert!(done.code() == Some(0) && done.stderr.contains(expected), "{done:?}");
    assert_eq!(endpoint(&host, &app, &new).await["standing"], "healthy");
    host.stop().await;
}

#[tokio::test]
async fn an_operator_takes_an_endpoint_out_and_puts_it_back() {
    let (one, other) = (Origin::start().await, Origin::start().await);
    let app = app(&[&one, &other], "", "retry = { attempts = 1 }\nbreaker = false");
    let host = app.start().await;
    let name = |origin: &Origin| format!("payment at http://{}", origin.address());
    let done = host.wharf(&app, &["breaker", "force-open", &name(&one)]).await;
    assert_eq!(done.code(), Some(0), "{done:?}");
    assert!(done.stderr.contains(&format!("{}: forced-open, taken-out", name(&one))), "{done:?}");
    for _ in 0..4 {
        host.get("/pay/charges").await.assert_text(200, "outside");
    }
    assert_eq!((one.asked(), other.asked()), (0, 4));
    let shown = host.wharf(&app, &["status"]).await.stdout;
    assert!(shown.contains("taken-out (by an operator)"), "{shown}");

    // The last one too, if he says so.
    let done = host.wharf(&app, &["breaker", "force-open", &name(&other), "--json"]).await;
    assert_eq!((done.code(), &done.json()["standing"]), (Some(0), &json!("taken-out")), "{done:?}");
    let answer = host.get("/pay/charges").await;
    let problem = answer.assert_fault(503, "circuit-open");
    // Nobody knows when he puts one back, so it is what the gateway says of every open circuit.
    let told = (&problem["trip"]["kind"], answer.header("retry-after"));
    assert_eq!(told, (&json!("operator"), Some("1")), "{problem}");

    let done = host.wharf(&app, &["breaker", "disable", &name(&other)]).await;
    assert_eq!(done.code(), Some(0), "{done:?}");
    let shown = host.wharf(&app, &["status"]).await.stdout;
    assert!(shown.contains("healthy (its circuit breaker is disabled)"), "{shown}");
    for origin in [&one, &other] {
        let done = host.wharf(&app, &["breaker", "reset", &name(origin)]).await;
        assert_eq!(done.code(), Some(0), "{done:?}");
    }
    for _ in 0..2 {
        host.get("/pay/charges").await.assert_text(200, "outside");
    }
    assert_eq!((one.asked(), other.asked()), (1, 5));

    let almost = name(&one).replace("payment", "paymnt");
    let done = host.wharf(&app, &["breaker", "reset", &almost]).await;
    let expected = format!("there is no endpoint `{almost}` (did you mean `{}`?)", name(&one));
    assert!(done.code() == Some(1) && done.stderr.contains(&expected), "{done:?}");
    let done = host.wharf(&app, &["breaker", "reset", "payment at nowhere"]).await;
    let expected = "`wharf status` shows all of them, each is called `SERVICE at ENDPOINT`";
    assert!(done.code() == Some(1) && done.stderr.contains(expected), "{done:?}");
    host.stop().await;
}

#[tokio::test]
async fn an_endpoint_without_a_breaker_says_so() {
    let origin = Origin::start().await;
    let app = app(&[&origin], "outlier = false", "");
    let host = app.start().await;
    let name = format!("payment at http://{}", origin.address());
    let done = host.wharf(&app, &["breaker", "force-open", &name]).await;
    let expected = format!("the endpoint `{name}` has no circuit breaker: its service says `outlier = false`");
    assert!(done.code() == Some(1) && done.stderr.contains(&expected), "{done:?}");
    host.stop().await;
}

#[tokio::test]
async fn what_can_not_be_taken_over_of_services_outside_changes_nothing() {
    let origin = Origin::start().await;
    let payment = format!("endpoints = [\"http://{}\"]", origin.address());
    let app = named(&payment, "deadline = \"5s\"");
    let host = Host::start_with(&app, &["--no-watch"]).await;
    let changed = manifest("dns = \"http://nobody.invalid\"", "deadline = \"6s\"");
    let more =
        format!("{}\n[services.letters]\ndns = \"http://no-one.invalid\"", manifest(&payment, "deadline = \"6s\""));
    for (text, expected) in [
        (&changed, "services.payment.dns: nobody.invalid can't be resolved"),
        (&more, "services.letters.dns: no-one.invalid can't be resolved"),
    ] {
        app.write(text);
        let done = host.wharf(&app, &["reload"]).await;
        assert!(done.code() == Some(1) && done.stderr.contains(expected), "{done:?}");
        host.get("/pay/charges").await.assert_text(200, "outside");
    }
    // Nor was the policy taken over, which is good by itself.
    app.write(&manifest(&payment, "deadline = \"5s\""));
    let done = host.wharf(&app, &["reload", "--json"]).await;
    assert_eq!(done.json()["changes"], json!([]), "{done:?}");
    host.stop().await;
}

#[tokio::test]
async fn what_a_service_outside_cannot_do_is_said() {
    let origin = Origin::start().await;
    let address = origin.address();
    let app = App::new(&format!(
        r#"
[services.caller]
component = "<linked-caller>"
calls = ["callee"]

[services.callee]
endpoints = ["http://{address}"]
"#
    ));
    for command in ["check", "up"] {
        let done = app.wharf(&[command]).await;
        assert_eq!(done.code(), Some(1), "{done:?}");
        let said = "which neither the host nor any service of the manifest offers; `callee` is external, and external \
                    services speak HTTP only";
        assert!(done.stderr.contains(said), "{done:?}");
    }
    let app = named(&format!("endpoints = [\"http://{address}\"]"), "");
    let host = app.start().await;
    let component = app.component("caller").display().to_string();
    let done = host.wharf(&app, &["deploy", "payment", &component]).await;
    assert_eq!(done.code(), Some(1), "{done:?}");
    assert!(done.stderr.contains("`payment` is external and has no revisions"), "{done:?}");
    host.stop().await;
}
