//! Guests that trap, loop or take all memory: they are stopped and named, and their neighbours go on.

use std::time::Duration;
use wharf_tests::{App, at, below, eventually, linked};

fn app() -> App {
    let policies = r#"
[policy.defaults]
deadline = "100s"
retry = { attempts = 1 }
breaker = false

[policy.edges."gateway -> spin-on"]
deadline = "500ms"
"#;
    let services = [
        at("hello", "hello-p3", ""),
        at("old", "hello-p2", ""),
        below("trap", "trap", ""),
        below("spin", "spin", "limits = { cpu = \"200ms\" }"),
        // The same with more time than its callers have.
        below("spin-on", "spin", "limits = { cpu = \"30s\" }"),
        below("hog", "hog", "limits = { memory = \"16MiB\" }"),
    ];
    App::new(&(services.concat() + policies))
}

#[tokio::test]
async fn a_component_that_knows_nothing_of_wharf_is_served() {
    let app = app();
    let host = app.start().await;
    for (path, version) in [("/hello", "0.3"), ("/old", "0.2")] {
        let answer = host.get(path).await;
        answer.assert_text(200, "Hello, world!");
        assert_eq!(answer.header("content-type"), Some("text/plain"));
        let service = host.service(&app, &path[1..]).await;
        assert!(service["http"].as_str().is_some_and(|http| http.starts_with(version)), "{service}");
    }
    for answer in host.at_once("/old", 50).await {
        answer.assert_text(200, "Hello, world!");
    }
    host.stop().await;
}

#[tokio::test]
async fn a_trap_ends_its_own_call_and_nothing_else() {
    let app = app();
    let host = app.start().await;
    let neighbours = host.load("/hello", 2);
    for _ in 0..5 {
        let problem = host.get("/trap/trap").await.assert_fault(502, "trapped");
        assert!(
            problem["detail"].as_str().is_some_and(|detail| detail.contains("service `trap` trapped")),
            "{problem}"
        );
        host.get("/trap/alive").await.assert_text(200, "alive");
    }
    for answer in host.at_once("/trap/trap", 60).await {
        answer.assert_fault(502, "trapped");
    }
    host.get("/trap/alive").await.assert_text(200, "alive");
    neighbours.all_served().await;
    let edge = host.edge(&app, "gateway -> trap").await;
    assert_eq!(edge["faults"]["trapped"], 65, "{edge}");
    host.stop().await;
}

#[tokio::test]
async fn the_log_says_of_a_trap_what_the_guest_said_of_it() {
    let app = App::new(&linked(""));
    let host = app.start().await;
    host.get("/find?key=trap").await;
    host.logged("the instance trapped").await;
    let log = host.log();
    let trap = log.lines().find(|line| line.contains("the instance trapped")).unwrap_or_default();
    assert!(trap.contains("ERROR") && trap.contains("stderr=") && trap.contains("asked to trap"), "{log}");
    host.stop().await;
}

#[tokio::test]
async fn a_loop_is_ended_by_its_cpu_limit_or_by_its_callers_deadline() {
    let app = app();
    let host = app.start().await;
    let problem = host.get("/spin/spin").await.assert_fault(502, "trapped");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("limits.cpu")), "{problem}");
    host.get("/spin-on/spin").await.assert_fault(504, "deadline-exceeded");
    for path in ["/spin/alive", "/spin-on/alive"] {
        host.get(path).await.assert_text(200, "alive");
    }
    // Given up, it does not go on computing.
    eventually("nothing is in flight", async || {
        let service = host.service(&app, "spin-on").await;
        let instances = &service["instances"];
        if instances["under_way"] == 0 && instances["in_flight"] == 0 { Ok(()) } else { Err(service.to_string()) }
    })
    .await;
    host.stop().await;
}

#[tokio::test]
async fn loops_do_not_slow_their_neighbours_beyond_their_share() {
    let app = app();
    let host = app.start().await;
    let calm = host.load("/hello", 2);
    eventually("500 answers", async || if calm.count() >= 500 { Ok(()) } else { Err(calm.count()) }).await;
    let calm = calm.all_served().await;

    let neighbours = host.load("/hello", 2);
    for _ in 0..2 {
        for answer in host.at_once("/spin/spin", 6).await {
            answer.assert_fault(502, "trapped");
        }
    }
    let beside = neighbours.all_served().await;
    // Every thread of the host is held by a loop most of the time, and each loop yields every few milliseconds: a
    // neighbour's call waits for a few of those turns. Without them it would wait for whole loops.
    assert!(beside.answers.len() >= 50, "only {} neighbours' calls were served", beside.answers.len());
    let (before, median, slow) = (calm.quantile(0.5), beside.quantile(0.5), beside.quantile(0.99));
    assert!(median < before * 20 + Duration::from_millis(100), "median {before:?}, and {median:?} beside loops");
    assert!(slow < before * 50 + Duration::from_secs(3), "median {before:?}, and 99 % within {slow:?} beside loops");
    host.stop().await;
}

#[tokio::test]
async fn memory_is_limited_and_the_limit_is_named() {
    let app = app();
    let host = app.start().await;
    host.get("/hog/take?mib=4").await.assert_text(200, "4 MiB");
    let neighbours = host.load("/hello", 2);
    for _ in 0..3 {
        let problem = host.get("/hog/hog").await.assert_fault(502, "trapped");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("limits.memory")), "{problem}");
        host.get("/hog/alive").await.assert_text(200, "alive");
    }
    for answer in host.at_once("/hog/hog", 30).await {
        answer.assert_fault(502, "trapped");
    }
    host.get("/hog/take?mib=4").await.assert_text(200, "4 MiB");
    neighbours.all_served().await;
    host.stop().await;
}

#[tokio::test]
async fn all_of_them_at_once() {
    let app = app();
    let host = app.start().await;
    let neighbours = [host.load("/hello", 1), host.load("/old", 1)];
    let hostile = async |path: &'static str, status| {
        for _ in 0..2 {
            for answer in host.at_once(path, 6).await {
                assert_eq!(answer.status, status, "{path}: {answer:?}");
            }
        }
    };
    tokio::join!(
        hostile("/trap/trap", 502),
        hostile("/spin/spin", 502),
        hostile("/spin-on/spin", 504),
        hostile("/hog/hog", 502)
    );
    for neighbour in neighbours {
        neighbour.all_served().await;
    }
    for path in ["/trap/alive", "/spin/alive", "/hog/alive", "/spin-on/alive"] {
        host.get(path).await.assert_text(200, "alive");
    }
    host.stop().await;
}
