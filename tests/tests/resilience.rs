//! Outages with real components, and what the policies of edges make of them: what a client sees, what an operator sees
//! and does, what the manifest changes while the host runs.

use serde_json::json;
use wharf_tests::{App, EDGE, Host, at, behind, below, component, eventually, linked};

async fn breaker(host: &Host, app: &App, edge: &str) -> serde_json::Value {
    host.edge(app, edge).await["breaker"].clone()
}

/// What `wharf breaker` is told, and that it went well.
async fn order(host: &Host, app: &App, command: &str, edge: &str) {
    let done = host.wharf(app, &["breaker", command, edge]).await;
    assert_eq!(done.code(), Some(0), "{done:?}");
}

// --- outages

#[tokio::test]
async fn a_slow_callee_is_left_alone_though_it_answers() {
    let policy = r#"
failure = { slow = "50ms" }
breaker = { failures = false, slow-rate = 50, window = 10, minimum = 4, open = "1h" }
"#;
    let app = App::new(&behind("trap", policy));
    let host = app.start().await;
    // Each takes 100 ms.
    for _ in 0..4 {
        host.get("/wait").await.assert_text(200, "waited");
    }
    let problem = host.get("/wait").await.assert_fault(503, "circuit-open");
    assert_eq!(problem["trip"], json!({ "kind": "slow-rate", "slow": 4, "calls": 4, "threshold": 50 }), "{problem}");
    let reason = "4 of 4 calls were slow, 50 % are too many";
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(reason)), "{problem}");
    // The same reason in the log and in the status.
    let line = host.logged("circuit breaker opened").await;
    assert!(line.contains(reason) && line.contains(EDGE), "{line}");
    let shown = host.wharf(&app, &["status"]).await;
    assert!(shown.stdout.contains(&format!("open ({reason})")), "{shown:?}");
    assert_eq!(breaker(&host, &app, EDGE).await["last_trip"], problem["trip"]);
    host.stop().await;
}

#[tokio::test]
async fn a_callee_that_traps_on_every_second_call_is_found_out_by_its_rate() {
    let policy = r#"
retry = { attempts = 1 }
breaker = { failures = 5, failure-rate = 50, window = "1m", minimum = 6, open = "1h" }
"#;
    let app = App::new(&behind("trap", policy));
    let host = app.start().await;
    for _ in 0..3 {
        host.get("/alive").await.assert_text(200, "alive");
        host.get("/trap").await.assert_fault(502, "trapped");
    }
    let problem = host.get("/alive").await.assert_fault(503, "circuit-open");
    assert_eq!(problem["trip"], json!({ "kind": "failure-rate", "failed": 3, "calls": 6, "threshold": 50 }));
    host.stop().await;
}

#[tokio::test]
async fn a_callee_that_loops_is_cut_off_and_then_left_alone_while_its_neighbour_goes_on() {
    let policy = r#"
[policy.defaults]
retry = { attempts = 1 }
breaker = { failures = 3, open = "1h" }
"#;
    let services = [below("spin", "spin", "limits = { cpu = \"50ms\" }"), at("hello", "hello-p3", "")];
    let app = App::new(&(services.concat() + policy));
    let host = app.start().await;
    let load = host.load("/hello", 4);
    for _ in 0..3 {
        host.get("/spin/spin").await.assert_fault(502, "trapped");
    }
    let problem = host.get("/spin/alive").await.assert_fault(503, "circuit-open");
    assert_eq!(problem["trip"], json!({ "kind": "consecutive-failures", "failures": 3, "last": "trapped" }));
    let report = load.all_served().await;
    assert!(!report.answers.is_empty());
    host.stop().await;
}

#[tokio::test]
async fn a_deadline_is_kept_while_the_guest_computes_and_the_one_who_set_it_is_named() {
    let app = App::new(&linked(
        r#"
[policy.defaults]
retry = { attempts = 1 }
[policy.edges."gateway -> caller"]
deadline = "300ms"
[policy.edges."caller -> callee"]
deadline = "1m"
"#,
    ));
    let host = app.start().await;
    // The callee would wait for an hour, its edge for a minute: what ran out is what the first edge gave.
    let answer = host.get("/find?key=wait").await;
    if answer.status == 503 {
        answer.assert_text(503, "fault FaultKind::DeadlineExceeded");
    } else {
        let problem = answer.assert_fault(504, "deadline-exceeded");
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(detail.contains("gateway -> caller: no answer within 300ms, the deadline of the edge"), "{problem}");
    }
    host.stop().await;
}

// --- what counts

#[tokio::test]
async fn statuses_count_as_the_policy_says() {
    // `/find?key=trap` is a 503 of the caller's own: its callee trapped, and it says so.
    let policies = |counts: &str| {
        linked(&format!(
            r#"
[policy.defaults]
breaker = false
[policy.edges."gateway -> caller"]
breaker = {{ failures = 2, open = "1h" }}
retry = {{ attempts = 1 }}
failure = {{ status = {counts} }}
"#
        ))
    };
    let app = App::new(&policies(r#"["5xx"]"#));
    let host = app.start().await;
    for _ in 0..4 {
        host.get("/find?key=missing").await.assert_text(404, "missing");
    }
    for _ in 0..2 {
        assert_eq!(host.get("/find?key=trap").await.status, 503);
    }
    let problem = host.get("/find?key=pen").await.assert_fault(503, "circuit-open");
    assert_eq!(problem["trip"]["last"], "status 503", "{problem}");
    assert_eq!(host.edge(&app, "gateway -> caller").await["failed_answers"], 2);
    host.stop().await;

    let app = App::new(&policies(r#"["404"]"#));
    let host = app.start().await;
    for _ in 0..4 {
        assert_eq!(host.get("/find?key=trap").await.status, 503);
    }
    for _ in 0..2 {
        host.get("/find?key=missing").await.assert_text(404, "missing");
    }
    host.get("/find?key=pen").await.assert_fault(503, "circuit-open");
    host.stop().await;
}

// --- fallback

#[tokio::test]
async fn a_stale_answer_takes_the_place_of_a_failure_and_tells_its_age() {
    let app = App::new(&behind("trap", "fallback = { stale = { max-age = \"1h\" } }\nretry = { attempts = 1 }"));
    let host = app.start().await;
    host.get("/alive").await.assert_text(200, "alive");
    order(&host, &app, "force-open", EDGE).await;
    let stale = host.get("/alive").await;
    stale.assert_text(200, "alive");
    assert!(stale.header("age").and_then(|age| age.parse::<u64>().ok()).is_some(), "{stale:?}");
    let status = stale.header("cache-status").unwrap_or_default();
    assert!(status.starts_with("wharf; hit; ttl=-") && status.ends_with("; detail=circuit-open"), "{stale:?}");
    // What was never asked for has no other answer, and neither has an order.
    host.get("/other").await.assert_fault(503, "circuit-open");
    host.post("/alive", &json!({})).await.assert_fault(503, "circuit-open");
    let edge = host.edge(&app, EDGE).await;
    assert_eq!((&edge["stale_answers"], &edge["fixed_answers"]), (&json!(1), &json!(0)), "{edge}");
    order(&host, &app, "reset", EDGE).await;
    let fresh = host.get("/alive").await;
    assert!(fresh.header("age").is_none(), "{fresh:?}");
    host.stop().await;
}

#[tokio::test]
async fn a_fixed_answer_takes_the_place_of_a_failure() {
    let policy = r#"
retry = { attempts = 1 }
breaker = false
fallback = { fixed = { status = 203, content-type = "text/plain", body = "later" } }
"#;
    let app = App::new(&behind("trap", policy));
    let host = app.start().await;
    host.get("/alive").await.assert_text(200, "alive");
    let answer = host.get("/trap").await;
    answer.assert_text(203, "later");
    assert_eq!(answer.header("content-type"), Some("text/plain"));
    assert_eq!(host.edge(&app, EDGE).await["fixed_answers"], 1);
    host.stop().await;
}

#[tokio::test]
async fn a_typed_call_gets_what_it_was_answered_before() {
    let app = App::new(&linked(
        r#"
# The caller says 503 for a fault of its callee, which is to be seen here and not to be guarded against.
[policy.edges."gateway -> caller"]
breaker = false
retry = { attempts = 1 }
[policy.edges."caller -> callee"]
fallback = { stale = { functions = ["probe:shapes/shapes.find"] } }
"#,
    ));
    let host = app.start().await;
    host.get("/find?key=pen").await.assert_text(200, "found pen");
    host.get("/find-plain?key=pen").await.assert_text(200, "found pen");
    host.get("/find?key=missing").await.assert_text(404, "missing");
    order(&host, &app, "force-open", "caller -> callee").await;
    host.get("/find?key=pen").await.assert_text(200, "found pen");
    for key in ["cup", "missing"] {
        host.get(&format!("/find?key={key}")).await.assert_text(503, "fault FaultKind::CircuitOpen");
    }
    assert_eq!(host.edge(&app, "caller -> callee").await["stale_answers"], 1);
    // Of a function that the policy does not name nothing is kept.
    host.get("/find-plain?key=pen").await.assert_fault(502, "trapped");
    host.stop().await;
}

/// The number of the line in the manifest that has this text, as errors write it.
fn line(app: &App, text: &str) -> String {
    let manifest = std::fs::read_to_string(app.manifest()).expect("it was written");
    let at = manifest.lines().position(|line| line.contains(text)).unwrap_or_else(|| panic!("no {text} in {manifest}"));
    format!("wharf.toml:{}", at + 1)
}

#[tokio::test]
async fn a_typed_call_gets_the_result_that_the_manifest_has_for_it() {
    let manifest =
        |results: &str| linked(&format!("[policy.edges.\"caller -> callee\".fallback.fixed-results]\n{results}"));
    let good = manifest("find = 'ok(\"someone\")'\n\"probe:shapes/shapes.find-plain\" = 'err(\"later\")'");
    let app = App::new(&good);
    let host = Host::start_with(&app, &["--no-watch"]).await;
    host.get("/find?key=pen").await.assert_text(200, "found pen");
    host.get("/find?key=missing").await.assert_text(404, "missing");
    host.get("/find?key=trap").await.assert_text(200, "someone");
    host.get("/find-plain?key=trap").await.assert_text(404, "later");
    order(&host, &app, "force-open", "caller -> callee").await;
    host.get("/find?key=pen").await.assert_text(200, "someone");
    let edge = host.edge(&app, "caller -> callee").await;
    assert_eq!((&edge["stale_answers"], &edge["fixed_answers"]), (&json!(0), &json!(3)), "{edge}");

    app.write(&manifest("find = '\"nobody\"'"));
    let done = host.wharf(&app, &["reload"]).await;
    assert_eq!(done.code(), Some(0), "{done:?}");
    host.get("/find?key=pen").await.assert_text(200, "nobody");
    // What the component would not give is refused, by a reload as by a start, and changes nothing.
    for (results, key, expected) in [
        (
            "find = 'ok(1)'",
            "find",
            "a fixed result for `find` of `probe:shapes/shapes@0.1.0`, which is not what the function gives: expected \
             `string`, found `1` (character 4)\n  its type:   result<string, variant { missing, fault(record {",
        ),
        ("fnid = '1'", "fnid", "a function that `callee` does not export (did you mean `find`?)"),
    ] {
        app.write(&manifest(results));
        let apart = App::new(&manifest(results));
        let place =
            format!("{}: policy.edges.\"caller -> callee\".fallback.fixed-results.{key}: ", line(&app, results));
        let refused = [host.wharf(&app, &["reload"]).await, apart.wharf(&["check"]).await, apart.wharf(&["up"]).await];
        for done in refused {
            assert_eq!(done.code(), Some(1), "{done:?}");
            assert!(done.stderr.contains(&place) && done.stderr.contains(expected), "{done:?}");
        }
        host.get("/find?key=pen").await.assert_text(200, "nobody");
    }
    // A component that no longer has the function is refused too.
    app.write(&good);
    assert_eq!(host.wharf(&app, &["reload"]).await.code(), Some(0));
    let other = component("hello-p3").display().to_string();
    let done = host.wharf(&app, &["deploy", "callee", &other]).await;
    assert_eq!(done.code(), Some(1), "{done:?}");
    let place = format!("{}: policy.edges.\"caller -> callee\".fallback.fixed-results.find: ", line(&app, "find = "));
    assert!(done.stderr.contains(&place), "{done:?}");
    host.get("/find?key=pen").await.assert_text(200, "someone");
    host.stop().await;
}

#[tokio::test]
async fn functions_that_an_edge_names_are_functions_of_its_callee() {
    let manifest = |policy: &str| linked(&format!("[policy.edges.\"caller -> callee\"]\n{policy}"));
    let good = manifest("retry = { idempotent = [\"find\", \"probe:shapes/shapes.find-plain\"] }");
    let app = App::new(&good);
    let host = Host::start_with(&app, &["--no-watch"]).await;
    for (policy, key, name) in [
        ("retry = { idempotent = [\"find\", \"fnid\"] }", "retry.idempotent", "fnid"),
        ("fallback = { stale = { functions = [\"fidn\"] } }", "fallback.stale.functions", "fidn"),
    ] {
        app.write(&manifest(policy));
        let apart = App::new(&manifest(policy));
        let place = format!("{}: policy.edges.\"caller -> callee\".{key}: ", line(&app, policy));
        let expected = format!(
            "{place}service `caller` has `{name}` in `{key}`, a function that `callee` does not export (did you mean \
             `find`?)"
        );
        let refused = [
            host.wharf(&app, &["reload"]).await,
            host.wharf(&app, &["apply", "--yes"]).await,
            apart.wharf(&["check"]).await,
            apart.wharf(&["up"]).await,
        ];
        for done in refused {
            assert_eq!(done.code(), Some(1), "{done:?}");
            assert!(done.stderr.contains(&expected), "{done:?}");
        }
    }
    app.write(&good);
    assert_eq!(host.wharf(&app, &["reload"]).await.code(), Some(0));
    let other = component("hello-p3").display().to_string();
    let done = host.wharf(&app, &["deploy", "callee", &other]).await;
    assert_eq!(done.code(), Some(1), "{done:?}");
    let place = format!("{}: policy.edges.\"caller -> callee\".retry.idempotent: ", line(&app, "retry = "));
    assert!(done.stderr.contains(&place) && done.stderr.contains("exports no functions"), "{done:?}");
    host.stop().await;
}

// --- the operator

#[tokio::test]
async fn an_operator_forces_a_breaker_open_disables_it_and_resets_it() {
    let app = App::new(&behind("trap", "retry = { attempts = 1 }\nbreaker = { failures = 2, open = \"1h\" }"));
    let host = app.start().await;
    order(&host, &app, "force-open", EDGE).await;
    let problem = host.get("/alive").await.assert_fault(503, "circuit-open");
    assert_eq!(problem["trip"], json!({ "kind": "operator" }), "{problem}");
    host.logged("circuit breaker forced open by an operator").await;
    assert_eq!(breaker(&host, &app, EDGE).await["state"], "forced-open");

    order(&host, &app, "disable", EDGE).await;
    for _ in 0..4 {
        host.get("/trap").await.assert_fault(502, "trapped");
    }
    assert_eq!(breaker(&host, &app, EDGE).await["state"], "disabled");

    order(&host, &app, "metrics-only", EDGE).await;
    for _ in 0..4 {
        host.get("/trap").await.assert_fault(502, "trapped");
    }
    host.logged("circuit breaker would have opened").await;
    assert_eq!(breaker(&host, &app, EDGE).await["consecutive_failures"], 4);

    let done = host.wharf(&app, &["breaker", "reset", EDGE, "--json"]).await;
    assert_eq!((done.code(), &done.json()["breaker"]["state"]), (Some(0), &json!("closed")), "{done:?}");
    host.get("/alive").await.assert_text(200, "alive");

    for (edge, expected) in [
        ("gateway -> calle", "there is no edge `gateway -> calle` (did you mean `gateway -> callee`?)"),
        ("x", "there is no edge `x`; `wharf status` shows all of them"),
    ] {
        let done = host.wharf(&app, &["breaker", "reset", edge]).await;
        assert_eq!(done.code(), Some(1), "{done:?}");
        assert!(done.stderr.contains(expected), "{done:?}");
    }
    host.stop().await;
}

#[tokio::test]
async fn an_edge_without_a_breaker_says_so() {
    let app = App::new(&behind("hello-p3", "breaker = false"));
    let host = app.start().await;
    let done = host.wharf(&app, &["breaker", "force-open", EDGE]).await;
    assert_eq!(done.code(), Some(1), "{done:?}");
    assert!(done.stderr.contains("has no circuit breaker: its policy says `breaker = false`"), "{done:?}");
    host.stop().await;
}

// --- the manifest, while the host runs

#[tokio::test]
async fn policies_change_while_the_host_runs_and_the_breaker_keeps_its_state() {
    let manifest = |failures: u32| {
        behind("trap", &format!("retry = {{ attempts = 1 }}\nbreaker = {{ failures = {failures}, open = \"1h\" }}"))
    };
    let app = App::new(&manifest(5));
    let host = Host::start_with(&app, &["--no-watch"]).await;
    for _ in 0..2 {
        host.get("/trap").await.assert_fault(502, "trapped");
    }
    app.write(&manifest(3));
    let done = host.wharf(&app, &["reload", "--json"]).await;
    let changes =
        json!([{ "kind": "changed", "what": format!("policy {EDGE}"), "details": ["breaker.failures 5 -> 3"] }]);
    assert_eq!((done.code(), &done.json()["changes"]), (Some(0), &changes), "{done:?}");
    assert_eq!(breaker(&host, &app, EDGE).await["consecutive_failures"], 2, "what was counted still counts");
    host.get("/trap").await.assert_fault(502, "trapped");
    host.get("/alive").await.assert_fault(503, "circuit-open");
    // And open it stays under another policy still.
    app.write(&manifest(4));
    host.signal("HUP");
    host.logged("manifest applied changes=[\"~ policy gateway -> callee: breaker.failures 3 -> 4\"]").await;
    host.get("/alive").await.assert_fault(503, "circuit-open");
    host.stop().await;
}

#[tokio::test]
async fn of_many_who_reload_at_once_one_takes_the_manifest_over() {
    let quiet = behind("hello-p3", "retry = { attempts = 1 }");
    let app = App::new(&quiet);
    let host = Host::start_with(&app, &["--no-watch"]).await;
    app.write(&format!("{quiet}\ninject = {{ percent = 100, fault = \"unreachable\" }}"));
    let reload = || host.wharf(&app, &["reload", "--json"]);
    let (one, two, three, four) = tokio::join!(reload(), reload(), reload(), reload());
    let mut changes = [one, two, three, four].map(|done| done.json()["changes"].as_array().map_or(0, Vec::len));
    changes.sort_unstable();
    assert_eq!(changes, [0, 0, 0, 1]);
    host.get("/x").await.assert_fault(502, "unreachable");
    for once in ["FAULT INJECTION IS ON", "manifest applied"] {
        host.logged(once).await;
        assert_eq!(host.log().matches(once).count(), 1, "{once}: {}", host.log());
    }
    host.stop().await;
}

#[tokio::test]
async fn a_changed_manifest_is_taken_over_by_itself() {
    let app = App::new(&behind("hello-p3", "deadline = \"1s\""));
    let host = app.start().await;
    app.write(&behind("hello-p3", "deadline = \"2s\""));
    host.logged("manifest applied").await;
    let routes = behind("hello-p3", "deadline = \"2s\"").replace("{*rest}", "only");
    app.write(&routes);
    eventually("the route is gone", async || match host.get("/other").await {
        answer if answer.status == 404 => Ok(()),
        answer => Err(answer),
    })
    .await;
    host.get("/only").await.assert_text(200, "Hello, world!");
    host.stop().await;
}

#[tokio::test]
async fn a_manifest_that_can_not_be_taken_over_changes_nothing() {
    let good = behind("hello-p3", "deadline = \"1s\"");
    let app = App::new(&good);
    let host = Host::start_with(&app, &["--no-watch"]).await;
    let refusals = [
        (good.replace("1s", "0s"), "deadline: expected a duration from 1ms to 24h, found `\"0s\"`"),
        (format!("{good}\n[services.other]\ncomponent = \"<hello-p3>\""), "services.other is new: `wharf apply`"),
        (format!("{good}\n[topics.\"a\"]\n[app]\nname = \"other\"\ndata = \"data\""), "app.name changed, and that"),
    ];
    for (manifest, expected) in refusals {
        app.write(&manifest);
        // The command reads the manifest too, to find the host: what is wrong with it is said before the host is asked.
        let done = host.wharf(&app, &["reload"]).await;
        assert_eq!(done.code(), Some(1), "{done:?}");
        assert!(done.stderr.contains(expected), "{done:?}");
    }
    app.write(&good);
    let done = host.wharf(&app, &["reload"]).await;
    assert_eq!(done.code(), Some(0), "{done:?}");
    assert!(done.stderr.contains("Reloaded the manifest is what runs already"), "{done:?}");
    host.stop().await;
}

// --- injection and the budget

#[tokio::test]
async fn faults_are_injected_loudly_and_only_while_the_manifest_says_so() {
    let quiet = behind("hello-p3", "retry = { attempts = 1 }\nbreaker = false");
    let app = App::new(&format!("{quiet}\ninject = {{ percent = 100, fault = \"unreachable\" }}"));
    let host = app.start().await;
    let line = host.logged("FAULT INJECTION IS ON").await;
    assert!(line.contains("WARN") && line.contains(EDGE), "{line}");
    let problem = host.get("/x").await.assert_fault(502, "unreachable");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("injected by the policy")), "{problem}");
    let shown = host.wharf(&app, &["status"]).await;
    let expected = "FAULT INJECTION IS ON: gateway -> callee: 100 % of the attempts end with `unreachable`; 1 so far";
    assert!(shown.stdout.contains(expected), "{shown:?}");
    app.write(&quiet);
    host.logged("fault injection is off again").await;
    host.get("/x").await.assert_text(200, "Hello, world!");
    host.stop().await;
}

#[tokio::test]
async fn retries_stay_within_their_budget_when_half_of_the_calls_fail() {
    let policy = r#"
retry = { attempts = 3, backoff = "1ms", max-backoff = "2ms", budget = { percent = 20, min-per-second = 0 } }
breaker = false
inject = { percent = 50, fault = "trapped" }
"#;
    let app = App::new(&behind("hello-p3", policy));
    let host = app.start().await;
    let mut connection = host.connect().await;
    for _ in 0..500 {
        connection.get("/x").await.expect("every request is answered");
    }
    let edge = host.edge(&app, EDGE).await;
    let (calls, retries) = (edge["calls"].as_u64().unwrap_or(0), edge["retries"].as_u64().unwrap_or(0));
    assert_eq!(calls, 500, "{edge}");
    // Of 500 calls 250 fail, and with nothing to hold them there would be about 375 retries.
    assert!((80..=100).contains(&retries), "{edge}");
    assert!(edge["refused_retries"].as_u64().is_some_and(|refused| refused > 100), "{edge}");
    host.stop().await;
}
