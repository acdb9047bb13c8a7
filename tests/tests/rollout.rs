//! Rollouts by stages: which calls a new revision gets, when it goes on, and when it is sent away.

use serde_json::Value;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};
use tokio::task::JoinSet;
use wharf_tests::{Answer, App, Done, HELLO, Host, at, below, eventually, linked, patched, request};

fn saying(text: &str) -> Vec<u8> {
    patched("hello-p3", "Hello, world!", text)
}

async fn deploy(host: &Host, app: &App, service: &str, file: &str, more: &[&str]) -> Done {
    host.wharf(app, &[&["deploy", service, file], more].concat()).await
}

/// Begins a rollout and does not wait for its end.
async fn begin(host: &Host, app: &App, service: &str, file: &str, stages: &[&str]) {
    let stages: Vec<_> = stages.iter().flat_map(|stage| ["--stage", stage]).collect();
    let done = deploy(host, app, service, file, &[&stages[..], &["--detach"]].concat()).await;
    assert_eq!(done.code(), Some(0), "{done:?}");
    assert!(done.stderr.contains("Begun"), "{done:?}");
}

async fn rollout(host: &Host, app: &App, service: &str) -> Value {
    let done = host.wharf(app, &["rollout", service, "--json"]).await;
    assert_eq!(done.code(), Some(0), "{done:?}");
    done.json()
}

async fn ended(host: &Host, app: &App, service: &str) -> Value {
    eventually("the rollout ends", async || {
        let now = rollout(host, app, service).await;
        if now["end"].is_null() { Err(now) } else { Ok(now) }
    })
    .await
}

async fn with_header(host: &Host, path: &str, name: &'static str, value: &str) -> Answer {
    let mut request = request("GET", path, "");
    request.headers_mut().insert(name, value.parse().expect("a value"));
    host.send(request).await
}

/// Asks again and again, and counts what comes back by status and text.
struct Crowd {
    over: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    asking: JoinSet<BTreeMap<(u16, String), usize>>,
}

impl Crowd {
    async fn new(host: &Host, path: &'static str, connections: usize) -> Self {
        let (over, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut asking = JoinSet::new();
        for _ in 0..connections {
            let (mut connection, over, count) = (host.connect().await, over.clone(), count.clone());
            asking.spawn(async move {
                let mut seen = BTreeMap::new();
                while !over.load(SeqCst) {
                    let answer = connection.get(path).await.expect("an answer");
                    let text = if answer.status == 200 { answer.text().to_owned() } else { String::new() };
                    *seen.entry((answer.status, text)).or_default() += 1;
                    count.fetch_add(1, SeqCst);
                }
                seen
            });
        }
        Self { over, count, asking }
    }

    async fn has_asked(&self, times: usize) {
        eventually("requests", async || match self.count.load(SeqCst) {
            enough if enough >= times => Ok(()),
            count => Err(count),
        })
        .await;
    }

    async fn end(self) -> BTreeMap<(u16, String), usize> {
        self.over.store(true, SeqCst);
        let mut all = BTreeMap::new();
        for (what, count) in self.asking.join_all().await.into_iter().flatten() {
            *all.entry(what).or_default() += count;
        }
        all
    }
}

#[tokio::test]
async fn a_good_revision_goes_through_its_stages_and_gets_all_calls() {
    let app = App::new(HELLO);
    app.file("new.wasm", saying("Hello, again!"));
    let host = app.start().await;
    let crowd = Crowd::new(&host, "/hello", 4).await;
    let stages = ["--stage", "percent=10,for=300ms", "--stage", "percent=60,for=300ms"];
    let done = deploy(&host, &app, "hello", "new.wasm", &stages).await;
    assert_eq!(done.code(), Some(0), "{done:?}");
    for said in ["Begun hello: the rollout of revision 2", "1 of 2: 10 %, for 300ms", "Deployed hello: revision 2"] {
        assert!(done.stderr.contains(said), "{done:?}");
    }
    host.get("/hello").await.assert_text(200, "Hello, again!");
    let seen = crowd.end().await;
    assert!(seen.keys().all(|(status, _)| *status == 200), "{seen:?}");
    assert_eq!(seen.len(), 2, "{seen:?}");

    let last = rollout(&host, &app, "hello").await;
    assert_eq!(last["end"]["outcome"], "completed", "{last}");
    let (old, new) = (&last["old"]["calls"], &last["new"]["calls"]);
    let share = new.as_f64().unwrap() / (old.as_f64().unwrap() + new.as_f64().unwrap());
    assert!((0.5..0.7).contains(&share), "{share}: {last}");
    host.stop().await;
}

#[tokio::test]
async fn a_revision_that_traps_goes_back_and_few_have_seen_it() {
    let app = App::new(HELLO);
    // It answers everything but the path that the crowd asks for, where it traps.
    app.file("trapping.wasm", std::fs::read(wharf_tests::component("trap")).expect("it was built"));
    let host = app.start().await;
    let crowd = Crowd::new(&host, "/trap", 4).await;
    crowd.has_asked(200).await;
    let done = deploy(&host, &app, "hello", "trapping.wasm", &["--stage", "percent=5,for=1m"]).await;
    assert_eq!(done.code(), Some(1), "{done:?}");
    assert!(done.stderr.contains("revision 2") && done.stderr.contains("traps: "), "{done:?}");
    let before = crowd.count.load(SeqCst);
    crowd.has_asked(before + 500).await;
    let seen = crowd.end().await;
    let (all, hit) = (seen.values().sum::<usize>(), seen.get(&(502, String::new())).copied().unwrap_or_default());
    // Some were spared it altogether: their second try came when the rollout was undone.
    assert!(hit * 20 < all, "{seen:?}");
    let last = rollout(&host, &app, "hello").await;
    assert!(last["new"]["traps"].as_u64() > Some(0), "{last}");
    assert_eq!(host.service(&app, "hello").await["revision"]["number"], 1);
    host.logged("rollout undone; the old revision serves").await;
    eventually("the audit log has its end", async || {
        let audit = host.wharf(&app, &["audit"]).await.stdout;
        if audit.lines().any(|line| line.contains("rollout") && line.contains("traps: ")) { Ok(()) } else { Err(audit) }
    })
    .await;
    // And it is really gone.
    for _ in 0..50 {
        host.get("/trap").await.assert_text(200, "Hello, world!");
    }
    host.stop().await;
}

#[tokio::test]
async fn a_revision_that_fails_goes_back() {
    let app = App::new(HELLO);
    app.file("failing.wasm", std::fs::read(wharf_tests::component("trap")).expect("it was built"));
    let host = app.start().await;
    let crowd = Crowd::new(&host, "/trap", 2).await;
    let done = deploy(&host, &app, "hello", "failing.wasm", &["--stage", "percent=100,for=1m"]).await;
    assert_eq!(done.code(), Some(1), "{done:?}");
    crowd.end().await;
    let last = rollout(&host, &app, "hello").await;
    assert_eq!(last["end"]["outcome"], "undone", "{last}");
    eventually("the breaker that it opened closes", async || match host.get("/trap").await {
        answer if answer.status == 200 => Ok(()),
        answer => Err(answer),
    })
    .await;
    host.stop().await;
}

#[tokio::test]
async fn testers_see_the_new_one_first_also_behind_typed_calls() {
    let app = App::new(&linked(""));
    app.file("new.wasm", patched("linked-callee", "found ", "FOUND "));
    let host = app.start().await;
    let stages = ["header=X-Preview: yes,for=1m", "cookie=preview=yes,for=1m"];
    begin(&host, &app, "callee", "new.wasm", &stages).await;
    for _ in 0..20 {
        host.get("/find?key=pen").await.assert_text(200, "found pen");
        with_header(&host, "/find?key=pen", "x-preview", "no").await.assert_text(200, "found pen");
        with_header(&host, "/find?key=pen", "x-preview", "yes").await.assert_text(200, "FOUND pen");
    }
    let now = rollout(&host, &app, "callee").await;
    assert_eq!((&now["new"]["calls"], &now["split"]), (&20.into(), &"header x-preview: yes".into()), "{now}");

    let done = host.wharf(&app, &["rollout", "callee", "promote"]).await;
    assert!(done.stdout.contains("completed"), "{done:?}");
    host.get("/find?key=pen").await.assert_text(200, "FOUND pen");
    host.stop().await;
}

#[tokio::test]
async fn a_cookie_marks_requests_as_a_header_does() {
    let app = App::new(HELLO);
    app.file("new.wasm", saying("Hello, again!"));
    let host = app.start().await;
    begin(&host, &app, "hello", "new.wasm", &["cookie=preview=yes,for=1m"]).await;
    with_header(&host, "/hello", "cookie", "a=b; preview=yes").await.assert_text(200, "Hello, again!");
    with_header(&host, "/hello", "cookie", "preview=no").await.assert_text(200, "Hello, world!");
    let done = host.wharf(&app, &["rollout", "hello", "undo"]).await;
    assert!(done.stdout.contains("undone: an operator said so"), "{done:?}");
    with_header(&host, "/hello", "cookie", "preview=yes").await.assert_text(200, "Hello, world!");
    host.stop().await;
}

#[tokio::test]
async fn a_shadow_answers_for_nobody_and_is_compared() {
    let app = App::new(HELLO);
    app.file("new.wasm", saying("Hello, again!"));
    let host = app.start().await;
    begin(&host, &app, "hello", "new.wasm", &["shadow,for=1m"]).await;
    for _ in 0..10 {
        host.get("/hello").await.assert_text(200, "Hello, world!");
        host.with_body("POST", "/hello", "x").await.assert_text(200, "Hello, world!");
    }
    let now = eventually("the copies are answered", async || {
        let now = rollout(&host, &app, "hello").await;
        if now["new"]["calls"] == 10 && now["differing"] == 10 { Ok(now) } else { Err(now) }
    })
    .await;
    assert_eq!((&now["old"]["calls"], &now["new"]["failures"]), (&20.into(), &0.into()), "{now}");
    host.wharf(&app, &["rollout", "hello", "undo"]).await;
    host.stop().await;
}

#[tokio::test]
async fn while_a_rollout_is_under_way_there_is_no_other_of_its_service() {
    let app = App::new(HELLO);
    app.file("new.wasm", saying("Hello, again!"));
    app.file("newer.wasm", saying("Hello, later!"));
    let host = app.start().await;
    let done = host.wharf(&app, &["rollout", "hello"]).await;
    assert!(done.code() == Some(1) && done.stderr.contains("no rollout of service `hello`"), "{done:?}");
    begin(&host, &app, "hello", "new.wasm", &["percent=1,for=1m"]).await;
    let done = deploy(&host, &app, "hello", "newer.wasm", &[]).await;
    assert_eq!(done.code(), Some(1), "{done:?}");
    assert!(done.stderr.contains("the rollout of revision 2 of service `hello` is under way"), "{done:?}");
    host.wharf(&app, &["rollout", "hello", "undo"]).await;
    assert_eq!(ended(&host, &app, "hello").await["end"]["outcome"], "undone");
    let done = deploy(&host, &app, "hello", "newer.wasm", &["--at-once"]).await;
    assert_eq!(done.code(), Some(0), "{done:?}");
    host.get("/hello").await.assert_text(200, "Hello, later!");
    host.stop().await;
}

#[tokio::test]
async fn the_manifest_says_how_a_service_is_rolled_out() {
    let stages = "[services.hello.rollout]\nmin-calls = 0\nstages = [{ header = \"x-preview: yes\", for = \"1m\" }]";
    let app = App::new(&format!("{HELLO}\n{stages}\n"));
    app.file("new.wasm", saying("Hello, again!"));
    let host = app.start().await;
    let done = deploy(&host, &app, "hello", "new.wasm", &["--detach"]).await;
    assert!(done.stderr.contains("Begun"), "{done:?}");
    with_header(&host, "/hello", "x-preview", "yes").await.assert_text(200, "Hello, again!");
    host.get("/hello").await.assert_text(200, "Hello, world!");
    let status = host.wharf(&app, &["status"]).await;
    assert!(status.stdout.contains("header x-preview: yes"), "{status:?}");
    host.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_stages_is_said() {
    let app = App::new(HELLO);
    app.file("new.wasm", saying("Hello, again!"));
    let host = app.start().await;
    for (stages, said) in [
        (&["--stage", "percent=5"][..], "expected a stage such as `percent=5,for=30s`"),
        (&["--stage", "percent=0,for=1s"], "`stages`: expected 1 to 100, found 0"),
        (&["--stage", "percent=9,for=1s", "--stage", "percent=9,for=1s"], "more than the 9 % of the stage before"),
        (&["--stage", "header=nonsense,for=1s"], "expected a header such as `x-preview: yes`"),
        (&["--stage", "shadow,for=0s"], "more than zero"),
    ] {
        let done = deploy(&host, &app, "hello", "new.wasm", stages).await;
        assert!(done.code() != Some(0) && done.stderr.contains(said), "{said}: {done:?}");
    }
    assert_eq!(host.service(&app, "hello").await["revision"]["number"], 1);
    host.stop().await;
}

#[tokio::test]
async fn what_a_component_would_change_is_shown_before_it_is_deployed() {
    let app = App::new(&linked(""));
    app.file("other.wasm", patched("linked-callee", "found ", "FOUND "));
    app.file("hello.wasm", std::fs::read(wharf_tests::component("hello-p3")).expect("it was built"));
    let host = app.start().await;
    let fits = host.wharf(&app, &["diff", "callee", "other.wasm"]).await;
    assert_eq!(fits.code(), Some(0), "{fits:?}");
    assert!(fits.stdout.contains("no function is added, removed or changed"), "{fits:?}");
    let misfit = host.wharf(&app, &["diff", "callee", "hello.wasm"]).await;
    assert_eq!(misfit.code(), Some(1), "{misfit:?}");
    assert!(misfit.stdout.contains("  - probe:shapes/shapes@0.1.0 find: "), "{misfit:?}");
    assert!(misfit.stderr.contains("service `caller` imports `probe:shapes/shapes@0.1.0`"), "{misfit:?}");
    assert_eq!(host.service(&app, "callee").await["revision"]["number"], 1);
    host.stop().await;
}

#[tokio::test]
async fn a_revision_that_is_not_ready_by_its_own_word_is_refused() {
    let app = App::new(&at("picky", "picky", ""));
    app.file("unready.wasm", patched("picky", "I am ready now", "I am not ready"));
    app.file("asleep.wasm", patched("picky", "I am ready now", "I do not wake."));
    let host = app.start().await;
    for (file, reason) in [
        ("unready.wasm", "service `picky`: it says that it is not ready: I am not ready"),
        ("asleep.wasm", "service `picky`: it was not ready within 10s"),
    ] {
        for stages in [&["--at-once"][..], &["--stage", "percent=1,for=1m"]] {
            let done = deploy(&host, &app, "picky", file, stages).await;
            assert!(done.code() == Some(1) && done.stderr.contains(reason), "{reason}: {done:?}");
        }
        host.get("/picky").await.assert_text(200, "I am ready now");
    }
    let status = host.service(&app, "picky").await;
    assert_eq!(status["revision"]["number"], 1, "{status}");
    host.stop().await;
}

#[tokio::test]
async fn events_go_the_way_of_the_requests_that_they_come_of() {
    let topics = "[topics.\"order.created\"]\n";
    let speaker = below("speaker", "listener", "publishes = [\"order.created\"]");
    let hearer = below("hearer", "listener", "subscribes = [\"order.created\"]\ninstances = { max = 1 }");
    let app = App::new(&[topics, &speaker, &hearer].concat());
    app.file("new.wasm", patched("listener", "the listener as it was built", "the listener that is new now"));
    let host = app.start().await;
    begin(&host, &app, "hearer", "new.wasm", &["header=x-preview: yes,for=1m"]).await;
    for n in 0..20 {
        let preview = if n % 2 == 0 { "yes" } else { "no" };
        let path = format!("/speaker/publish?topic=order.created&data=of-{preview}-{n}");
        assert_eq!(with_header(&host, &path, "x-preview", preview).await.status, 200);
    }
    for preview in ["yes", "no"] {
        let heard = eventually("half of the events are heard", async || {
            let heard = with_header(&host, "/hearer/heard", "x-preview", preview).await;
            if heard.text().lines().count() == 10 { Ok(heard) } else { Err(heard) }
        })
        .await;
        assert!(heard.text().lines().all(|line| line.contains(&format!("\"of-{preview}-"))), "{heard:?}");
    }
    host.wharf(&app, &["rollout", "hearer", "undo"]).await;
    host.stop().await;
}

#[tokio::test]
async fn what_does_not_fit_a_revision_on_trial_is_refused() {
    // Nobody imports anything of the callee, but the caller that is on trial.
    let manifest = linked("").replace("<linked-caller>", "<hello-p3>");
    let app = App::new(&manifest);
    for (file, guest) in [("caller.wasm", "linked-caller"), ("hello.wasm", "hello-p2")] {
        app.file(file, std::fs::read(wharf_tests::component(guest)).expect("it was built"));
    }
    let host = Host::start_with(&app, &["--no-watch"]).await;
    begin(&host, &app, "caller", "caller.wasm", &["percent=1,for=1m"]).await;
    let misfit = "service `caller` imports `probe:shapes/shapes@0.1.0`";
    app.refused(&["deploy", "callee", "hello.wasm"], &[misfit]).await;
    app.refused(&["diff", "callee", "hello.wasm"], &[misfit]).await;
    std::fs::copy(app.folder().join("hello.wasm"), app.component("linked-callee")).expect("it can be written");
    app.refused(&["apply", "--yes"], &["`probe:shapes/shapes@0.1.0`"]).await;
    // Without it, nobody minds.
    host.wharf(&app, &["rollout", "caller", "undo"]).await;
    app.done(&["apply", "--yes"]).await;
    assert_eq!(host.service(&app, "callee").await["revision"]["number"], 2);
    host.stop().await;
}
