//! Typed links between services: any WIT types, and faults where the types have a place for them.

use wharf_tests::App;

const APP: &str = r#"
[services.caller]
component = "<linked-caller>"
calls = ["callee"]
limits = { memory = "256MiB" }
[[gateway.routes]]
path = "/{*rest}"
service = "caller"

[services.callee]
component = "<linked-callee>"
limits = { memory = "256MiB" }

[policy.defaults]
deadline = "30s"
retry = { attempts = 1 }
breaker = false

[policy.edges."caller -> callee"]
deadline = "30s"
"#;

#[tokio::test]
async fn values_of_all_types_come_back_as_they_went() {
    let app = App::new(APP);
    let host = app.start().await;
    host.get("/echo").await.assert_text(200, "same");
    host.get("/points?count=10000").await.assert_text(200, "10000");
    host.get("/points?count=0").await.assert_text(200, "0");
    host.get("/add?a=4294967295&b=2").await.assert_text(200, "1");
    host.get("/nop?times=1000").await.assert_text(200, "1000");
    host.get("/find?key=pen").await.assert_text(200, "found pen");
    host.get("/find?key=missing").await.assert_text(404, "missing");
    host.get("/find-plain?key=missing").await.assert_text(404, "missing is not there");
    let edge = host.edge(&app, "caller -> callee").await;
    // A domain error is an answer.
    assert_eq!(edge["faults"], serde_json::json!({}), "{edge}");
    assert_eq!(edge["calls"], 1007, "{edge}");
    host.stop().await;
}

#[tokio::test]
async fn bytes_get_across_in_both_directions() {
    let app = App::new(APP);
    let host = app.start().await;
    for count in [0_u64, 1, 1000, 64 << 10, 4 << 20, 16 << 20] {
        let sum: u64 = (0..count).map(|n| n % 251).sum();
        host.get(&format!("/sum?count={count}")).await.assert_text(200, &sum.to_string());
        host.get(&format!("/bytes?count={count}")).await.assert_text(200, &sum.to_string());
    }
    for count in [0, 1, 64 << 10, 4 << 20, (16 << 20) - 3] {
        host.get(&format!("/mirror?name=any&count={count}")).await.assert_text(200, "mirrored");
        host.get(&format!("/mirror-blocking?count={count}")).await.assert_text(200, "mirrored");
    }
    for (pages, count) in [(0, 0), (10, 1000), (100, 64 << 10), (3, 4_000_000)] {
        host.get(&format!("/bind?pages={pages}&count={count}")).await.assert_text(200, "same");
    }
    host.stop().await;
}

#[tokio::test]
async fn a_value_that_is_too_large_ends_its_call_and_not_the_host() {
    let app = App::new(APP);
    let host = app.start().await;
    let large = "with more than a call carries in one direction (16 MiB, 1048576 values)";
    // Where the function has a place for faults, the caller goes on.
    let answer = host.get(&format!("/mirror?name=any&count={}", 16 << 20)).await;
    answer.assert_text(
        503,
        &format!("fault FaultKind::Denied: `mirror` of `probe:shapes/shapes@0.1.0` was called {large}"),
    );
    let answer = host.get("/mirror?name=swell&count=1").await;
    answer.assert_text(
        503,
        &format!("fault FaultKind::Trapped: service `callee` answered `mirror` of `probe:shapes/shapes@0.1.0` {large}"),
    );
    assert_eq!(host.edge(&app, "gateway -> caller").await["faults"], serde_json::json!({}));
    // Else its own call fails.
    for path in ["/sum?count=20000000", "/bytes?count=20000000", "/mirror-blocking?count=20000000"] {
        let problem = host.get(path).await.assert_fault(502, "trapped");
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(detail.contains(large), "{path}: {detail}");
        host.get("/echo").await.assert_text(200, "same");
    }
    // Neither has the memory for so much.
    for path in ["/sum?count=300000000", "/bytes?count=300000000"] {
        host.get(path).await.assert_fault(502, "trapped");
        host.get("/echo").await.assert_text(200, "same");
    }
    // The limit of values: two million records.
    let problem = host.get("/points?count=2000000").await.assert_fault(502, "trapped");
    assert!(problem["detail"].as_str().unwrap_or_default().contains(large), "{problem}");
    host.get("/points?count=300000").await.assert_text(200, "300000");
    host.stop().await;
}

#[tokio::test]
async fn a_fault_has_its_place_in_the_result() {
    let app = App::new(&APP.replace(
        "[policy.edges.\"caller -> callee\"]\ndeadline = \"30s\"",
        "[policy.edges.\"caller -> callee\"]\ndeadline = \"500ms\"",
    ));
    let host = app.start().await;
    host.get("/find?key=trap").await.assert_text(503, "fault FaultKind::Trapped");
    host.get("/find?key=wait").await.assert_text(503, "fault FaultKind::DeadlineExceeded");
    host.get("/find?key=pen").await.assert_text(200, "found pen");
    assert_eq!(host.edge(&app, "gateway -> caller").await["faults"], serde_json::json!({}));
    host.stop().await;
}

#[tokio::test]
async fn an_open_circuit_is_a_fault_as_well() {
    let policy = "deadline = \"30s\"\nbreaker = { failures = 2, open = \"1h\", half-open = 1 }";
    let app = App::new(&APP.replace(
        "[policy.edges.\"caller -> callee\"]\ndeadline = \"30s\"",
        &format!("[policy.edges.\"caller -> callee\"]\n{policy}"),
    ));
    let host = app.start().await;
    for _ in 0..2 {
        host.get("/find?key=trap").await.assert_text(503, "fault FaultKind::Trapped");
    }
    host.get("/find?key=pen").await.assert_text(503, "fault FaultKind::CircuitOpen");
    let edge = host.edge(&app, "caller -> callee").await;
    assert_eq!(edge["breaker"]["state"], "open", "{edge}");
    host.stop().await;
}

#[tokio::test]
async fn without_a_place_for_it_the_callers_own_call_fails_and_names_the_cause() {
    let app = App::new(APP);
    let host = app.start().await;
    let problem = host.get("/find-plain?key=trap").await.assert_fault(502, "trapped");
    let detail = problem["detail"].as_str().unwrap_or_default();
    for part in ["service `caller`", "find-plain", "caller -> callee", "service `callee` trapped"] {
        assert!(detail.contains(part), "no {part} in {detail}");
    }
    host.get("/find-plain?key=pen").await.assert_text(200, "found pen");
    host.stop().await;
}

#[tokio::test]
async fn calls_go_only_where_the_manifest_lets_them() {
    let app = App::new(
        &APP.replace("calls = [\"callee\"]\n", "")
            .replace("[policy.edges.\"caller -> callee\"]\ndeadline = \"30s\"\n", ""),
    );
    for command in ["up", "check"] {
        let done = app.wharf(&[command]).await;
        assert_eq!(done.code(), Some(1), "{done:?}");
        let expected =
            "`probe:shapes/shapes@0.1.0`, which `callee` exports, but `services.caller.calls` does not name it";
        assert!(done.stderr.contains(expected), "{}", done.stderr);
    }
}

#[tokio::test]
async fn a_resource_is_refused() {
    // The interface has to be wanted by somebody, and no guest does: this one is made for it.
    let wanting = r#"(component
        (import "probe:handles/handles@0.1.0" (instance
            (export "counter" (type $counter (sub resource)))
            (type $own (own $counter))
            (export "[constructor]counter" (func (result $own)))
            (type $borrow (borrow $counter))
            (export "[method]counter.next" (func (param "self" $borrow) (result u32))))))"#;
    let app = App::new("");
    app.file("components/wanting.wasm", wat::parse_str(wanting).expect("it is a component"));
    app.write("[services.wanting]\ncomponent = \"components/wanting.wasm\"\ncalls = [\"owner\"]\n[services.owner]\ncomponent = \"<linked-resource>\"\n");
    let done = app.wharf(&["up"]).await;
    assert_eq!(done.code(), Some(1), "{done:?}");
    assert!(done.stderr.contains("a resource"), "{}", done.stderr);
    assert!(done.stderr.contains("service `wanting`"), "{}", done.stderr);
}
