//! Sagas: what was started is done completely or taken back, whatever fails, is replaced or is killed in between.

use std::{
    collections::BTreeSet,
    env,
    time::{SystemTime, UNIX_EPOCH},
};
use wharf_tests::{Answer, App, Host, Postgres, component, eventually, patched, request};

/// How often the host is killed; `WHARF_KILLS` says otherwise.
const KILLS: u32 = 5;
/// How many sagas are begun before each of them.
const BEGUN: u32 = 24;

/// One service, `traveller`, that gets everything; `more` is more of its table, and what comes after it.
fn traveller(more: &str) -> String {
    format!(
        r#"
[topics."trip.paid"]

[services.traveller]
component = "<traveller>"
database = true
publishes = ["trip.paid"]
awaits = ["trip.paid"]
{more}

[[gateway.routes]]
path = "/{{*rest}}"
service = "traveller"
"#
    )
}

/// With tries that follow each other soon.
fn hasty(more: &str) -> String {
    traveller(&format!("sagas = {{ backoff = \"1ms\", max-backoff = \"20ms\" }}\n{more}"))
}

/// How a saga stands: status and reason, of an answer of the traveller's.
fn stands(answer: &Answer) -> (String, String) {
    assert_eq!(answer.status, 200, "{answer:?}");
    let text = answer.text();
    let mut lines = text.lines().map(str::to_owned);
    (lines.next().unwrap_or_default(), lines.next().unwrap_or_default())
}

async fn start(host: &Host, saga: &str, id: &str, doing: &str) -> Answer {
    host.get(&format!("/start?saga={saga}&id={id}&do={doing}")).await
}

/// Waits for a saga's end, and says how it stands.
async fn ended(host: &Host, saga: &str, id: &str) -> (String, String) {
    eventually(&format!("saga {id} ends"), async || {
        let answer = host.get(&format!("/wait?saga={saga}&id={id}&ms=1000")).await;
        match stands(&answer) {
            (status, reason) if status.starts_with("comp") && status.ends_with("ed") => Ok((status, reason)),
            other => Err(other),
        }
    })
    .await
}

/// The calls of a saga's steps in their order: `act flight 1`.
async fn calls(host: &Host, id: &str) -> Vec<String> {
    let answer = host.get(&format!("/calls?id={id}")).await;
    let text = answer.text();
    text.lines().map(|line| line.rsplit_once(' ').map_or(line, |(call, _)| call).to_owned()).collect()
}

/// A number below `limit`, another one at each run.
fn chance(limit: u32) -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
    now.subsec_micros() % limit
}

#[tokio::test]
async fn a_saga_is_done_completely_or_taken_back_the_last_step_first() {
    let app = App::new(&hasty(""));
    let host = app.start().await;
    let begun = start(&host, "trip", "good", "").await;
    assert_eq!(begun.status, 200, "{begun:?}");
    assert_eq!(ended(&host, "trip", "good").await, ("completed".into(), "-".into()));
    let mut done = calls(&host, "good").await;
    // The car is beside the hotel.
    done[1..3].sort();
    assert_eq!(done, ["act flight 1", "act car 1", "act hotel 1", "act pay 1", "act pack-the-suitcase 1"]);
    let answer = host.get("/get?saga=trip&id=good").await;
    let state = answer.text();
    for step in ["flight", "hotel", "car", "pay", "pack-the-suitcase"] {
        assert!(state.contains(&format!("\"{step}\":true")), "{state}");
    }

    start(&host, "trip", "bad", "pay:fail").await;
    let (status, reason) = ended(&host, "trip", "bad").await;
    assert_eq!(status, "compensated");
    assert!(reason.contains("no pay"), "{reason}");
    let mut undone = calls(&host, "bad").await.split_off(4);
    assert_eq!(undone.len(), 3, "{undone:?}");
    // Side by side too.
    undone[..2].sort();
    assert_eq!(undone, ["undo car 1", "undo hotel 1", "undo flight 1"]);

    let status = host.status(&app).await;
    let counts = serde_json::json!({
        "service": "traveller", "under_way": 0,
        "running": 0, "waiting": 0, "compensating": 0, "stuck": 0, "halted": 0,
    });
    assert_eq!(status["sagas"], serde_json::json!([counts]), "{status}");
    assert!(status["edges"].as_array().is_some_and(|edges| edges.iter().any(|it| it["edge"] == "sagas -> traveller")));
    host.stop().await;
}

#[tokio::test]
async fn there_is_one_saga_with_an_id_however_often_it_is_started() {
    let app = App::new(&hasty(""));
    let host = app.start().await;
    for answer in host.at_once("/start?saga=trip&id=1&do=", 20).await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(ended(&host, "trip", "1").await.0, "completed");
    assert_eq!(start(&host, "trip", "1", "").await.status, 200);
    assert_eq!(calls(&host, "1").await.len(), 5);
    assert_eq!(start(&host, "trip", "1", "pay:fail").await.status, 409);
    // The same id is another one of another saga.
    assert_eq!(start(&host, "unpaid", "1", "").await.status, 200);
    for (path, status) in [
        ("/start?saga=trop&id=1&do=", 404),
        ("/get?saga=trip&id=2", 404),
        ("/start?saga=trip&id=&do=", 400),
        ("/start?saga=trip&id=1&of=somebody&do=", 403),
    ] {
        let answer = host.get(path).await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
    }
    host.stop().await;
}

#[tokio::test]
async fn who_may_call_a_service_may_start_its_sagas_and_nobody_else() {
    let caller = |name: &str, calls: &str| {
        format!(
            "[services.{name}]\ncomponent = \"<traveller>\"\ndatabase = true\nawaits = [\"trip.paid\"]\n\
             publishes = [\"trip.paid\"]\n{calls}\n\
             [[gateway.routes]]\npath = \"/{name}/{{*rest}}\"\nservice = \"{name}\"\nstrip-prefix = \"/{name}\"\n"
        )
    };
    let both = caller("friend", "calls = [\"traveller\"]") + &caller("stranger", "");
    let app = App::new(&(hasty("") + &both));
    let host = app.start().await;
    let answer = host.get("/friend/start?of=traveller&saga=trip&id=1&do=").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(ended(&host, "trip", "1").await.0, "completed");
    let answer = host.get("/stranger/start?of=traveller&saga=trip&id=2&do=").await;
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(answer.text().contains("add it to `calls` in [services.stranger]"), "{answer:?}");
    assert_eq!(host.get("/get?saga=trip&id=2").await.status, 404);
    host.stop().await;
}

#[tokio::test]
async fn a_step_waits_for_an_event_also_for_one_that_came_before() {
    let app = App::new(&hasty(""));
    let host = app.start().await;
    // It waits in its first step while the event comes.
    start(&host, "paid", "early", "flight:retry-3").await;
    assert_eq!(host.get("/pay?id=early&data=cash").await.status, 200);
    assert_eq!(ended(&host, "paid", "early").await.0, "completed");
    assert!(host.get("/get?saga=paid&id=early").await.text().contains("\"settle\":\"cash\""));

    start(&host, "paid", "late", "").await;
    eventually("it waits", async || match calls(&host, "late").await {
        calls if calls == ["act flight 1"] => Ok(()),
        calls => Err(calls),
    })
    .await;
    // Of somebody else, and of nobody.
    host.get("/pay?id=other&data=cash").await;
    assert_eq!(stands(&host.get("/wait?saga=paid&id=late&ms=100").await).0, "running");
    host.get("/pay?id=late&data=card").await;
    assert_eq!(ended(&host, "paid", "late").await.0, "completed");
    assert!(host.get("/get?saga=paid&id=late").await.text().contains("\"settle\":\"card\""));

    start(&host, "unpaid", "never", "").await;
    assert_eq!(ended(&host, "unpaid", "never").await.0, "compensated");
    assert_eq!(calls(&host, "never").await, ["act flight 1", "undo flight 1"]);
    host.stop().await;
}

#[tokio::test]
async fn what_waits_goes_on_after_a_restart() {
    let app = App::new(&hasty(""));
    let mut host = app.start().await;
    start(&host, "later", "time", "").await;
    let mut begin = request("GET", "/start?saga=paid&id=event&do=", "");
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    begin.headers_mut().insert("traceparent", traceparent.parse().expect("a value"));
    assert_eq!(host.send(begin).await.status, 200);
    let trace = async |host: &Host| {
        let shown = host.wharf(&app, &["saga", "show", "event", "--json"]).await.json();
        assert_eq!(shown["trace"], "4bf92f3577b34da6a3ce929d0e0e4736", "{shown}");
    };
    trace(&host).await;
    for id in ["time", "event"] {
        eventually("it waits", async || match calls(&host, id).await {
            calls if calls == ["act flight 1"] => Ok(()),
            calls => Err(calls),
        })
        .await;
    }
    host.signal("KILL");
    assert!(!host.ended().await.success());
    let host = app.start().await;
    // They wait for the revision, which lacks nothing.
    assert!(!host.log().contains("halted"), "{}", host.log());
    assert_eq!(ended(&host, "later", "time").await.0, "completed");
    assert_eq!(calls(&host, "time").await, ["act flight 1", "act fly 1"]);
    host.get("/pay?id=event&data=cash").await;
    assert_eq!(ended(&host, "paid", "event").await.0, "completed");
    trace(&host).await;
    host.stop().await;
}

#[tokio::test]
async fn what_fails_is_tried_again_as_far_as_that_is_safe() {
    let app = App::new(&(hasty("") + "[policy.edges.\"sagas -> traveller\"]\ndeadline = \"300ms\"\nbreaker = false\n"));
    let host = app.start().await;
    for (id, doing, end) in [
        ("retries", "hotel:retry-3", "completed"),
        ("too-many", "hotel:retry", "compensated"),
        ("trap", "hotel:trap-2", "completed"),
        // It can't be called again, and nobody knows whether it had its effect.
        ("once", "pay:effect-trap-1", "compensated"),
        ("hangs", "hotel:hang-1", "completed"),
        ("hangs-once", "pay:hang-1", "compensated"),
        ("undo", "pay:fail,undo.flight:fail-3,undo.hotel:trap-1", "compensated"),
    ] {
        start(&host, "trip", id, doing).await;
        assert_eq!(ended(&host, "trip", id).await.0, end, "{id}");
    }
    let calls_of = async |id, call: &str| calls(&host, id).await.iter().filter(|it| it.starts_with(call)).count();
    assert_eq!(calls_of("retries", "act hotel").await, 4);
    assert_eq!(calls_of("too-many", "act hotel").await, 5);
    assert_eq!(calls_of("once", "act pay").await, 1);
    assert_eq!(calls_of("once", "undo pay").await, 1);
    assert_eq!(calls_of("hangs-once", "undo pay").await, 1);
    // It said itself that it did nothing.
    assert_eq!(calls_of("undo", "undo pay").await, 0);
    assert_eq!(calls_of("undo", "undo flight").await, 4);
    host.stop().await;
}

#[tokio::test]
async fn a_saga_goes_on_with_a_revision_that_knows_its_steps_and_bars_one_that_does_not() {
    let app = App::new(&hasty(""));
    let host = app.start().await;
    start(&host, "paid", "waits", "").await;
    eventually("it waits", async || match calls(&host, "waits").await {
        calls if calls == ["act flight 1"] => Ok(()),
        calls => Err(calls),
    })
    .await;
    let other =
        app.file("other.wasm", patched("traveller", "the traveller as it was built", "the traveller as it is to be."));
    let done = host.wharf(&app, &["deploy", "traveller", &other.display().to_string()]).await;
    assert_eq!(done.code(), Some(0), "{done:?}");

    // One that lacks a step that another saga has before it.
    start(&host, "trip", "hangs", "hotel:hang-1").await;
    let strange = app.file("strange.wasm", patched("traveller", "pack-the-suitcase", "pack-the-backpack"));
    let strange = strange.display().to_string();
    for command in ["deploy", "diff"] {
        let done = host.wharf(&app, &[command, "traveller", &strange]).await;
        assert_eq!(done.code(), Some(1), "{command}: {done:?}");
        let said = done.stdout + &done.stderr;
        assert!(
            said.contains("step `pack-the-suitcase` of saga `trip`") && said.contains("`hangs`"),
            "{command}: {said}"
        );
    }
    host.get("/pay?id=waits&data=cash").await;
    assert_eq!(ended(&host, "paid", "waits").await.0, "completed");
    assert_eq!(host.get("/build").await.text(), "the traveller as it is to be.");
    assert_eq!(ended(&host, "trip", "hangs").await.0, "completed");
    // Nothing needs it any more.
    let done = host.wharf(&app, &["deploy", "traveller", &strange]).await;
    assert_eq!(done.code(), Some(0), "{done:?}");
    start(&host, "trip", "light", "").await;
    assert_eq!(ended(&host, "trip", "light").await.0, "completed");
    assert!(calls(&host, "light").await.contains(&"act pack-the-backpack 1".to_owned()));
    host.stop().await;
}

#[tokio::test]
async fn what_a_component_does_not_know_any_more_is_shown_as_halted() {
    let app = App::new(&hasty(""));
    let host = app.start().await;
    start(&host, "paid", "1", "").await;
    let sagas = async |host: &Host| {
        let done = host.wharf(&app, &["status"]).await;
        let line = done.stdout.lines().find(|line| line.starts_with("sagas of traveller: "));
        line.unwrap_or_default().to_owned()
    };
    let stand = async |host: &Host, what: &str| {
        eventually(what, async || match sagas(host).await {
            line if line == format!("sagas of traveller: {what}") => Ok(()),
            line => Err(line),
        })
        .await;
    };
    stand(&host, "1 under way: 1 waiting").await;
    host.stop().await;

    // Nobody thinks that it is gone.
    let with_sagas = std::fs::read_to_string(app.manifest()).expect("it was written");
    // The same one, which exports its steps by a name that the host does not know.
    let mut other = std::fs::read(component("traveller")).expect("it was built");
    let (name, unknown) = (b"wharf:saga/steps", b"wharf:saga/stops");
    while let Some(at) = other.windows(name.len()).position(|bytes| bytes == name) {
        other[at..at + name.len()].copy_from_slice(unknown);
    }
    app.file("other.wasm", other);
    app.write(&hasty("").replace("<traveller>", "other.wasm"));
    let host = app.start().await;
    host.logged("the revision that serves lacks a step of theirs").await;
    stand(&host, "1 under way: 1 halted").await;
    let done = host.wharf(&app, &["saga", "list", "--stuck"]).await;
    assert!(
        done.stdout.contains("running (halted)") && done.stdout.contains("lacks the compensation of step"),
        "{done:?}"
    );
    let done = host.wharf(&app, &["saga", "start", "traveller", "paid", "--id", "2"]).await;
    assert!(done.stderr.contains("knows no saga `paid`; it knows none"), "{done:?}");
    host.stop().await;

    std::fs::write(app.manifest(), with_sagas).expect("it can be written");
    let host = app.start().await;
    stand(&host, "1 under way: 1 waiting").await;
    host.get("/pay?id=1&data=cash").await;
    assert_eq!(ended(&host, "paid", "1").await.0, "completed");
    stand(&host, "0 under way").await;
    host.stop().await;
    // One that never had any has none.
    let app = App::new(&hasty("").replace("<traveller>", "<hello-p3>"));
    let host = app.start().await;
    assert_eq!(host.status(&app).await["sagas"], serde_json::json!([]));
    host.stop().await;
}

#[tokio::test]
async fn other_settings_of_sagas_take_no_restart() {
    let text = |sagas: &str| traveller(&format!("sagas = {{ {sagas} }}"));
    let app = App::new(&text("max = 1, attempts = 1"));
    let host = Host::start_with(&app, &["--no-watch"]).await;
    start(&host, "paid", "1", "").await;
    assert_eq!(start(&host, "trip", "2", "").await.status, 503);
    app.write(&text("max = 9, backoff = \"1ms\", max-backoff = \"1ms\""));
    let done = host.wharf(&app, &["apply", "--yes"]).await;
    assert_eq!(done.code(), Some(0), "{done:?}");
    let plan = done.stdout + &done.stderr;
    assert!(plan.contains("services.traveller: sagas.attempts 1 -> 5, "), "{plan}");
    start(&host, "trip", "2", "hotel:retry-4").await;
    assert_eq!(ended(&host, "trip", "2").await.0, "completed");
    app.write(&text("max = 1, attempts = 1"));
    let done = host.wharf(&app, &["reload"]).await;
    assert_eq!(done.code(), Some(0), "{done:?}");
    assert_eq!(start(&host, "trip", "3", "").await.status, 503);
    // The revision is still the first.
    let status = host.status(&app).await;
    assert_eq!(status["services"][0]["revision"]["number"], 1, "{status}");
    host.get("/pay?id=1&data=cash").await;
    assert_eq!(ended(&host, "paid", "1").await.0, "completed");
    host.stop().await;
}

#[tokio::test]
async fn an_operator_sees_all_of_it_and_has_the_last_word() {
    let slow = "sagas = { attempts = 2, backoff = \"1h\", max-backoff = \"1h\" }";
    let app = App::new(&traveller(slow));
    let host = app.start().await;
    let saga = async |args: &[&str]| {
        let args: Vec<_> = ["saga"].into_iter().chain(args.iter().copied()).chain(["--json"]).collect();
        let done = host.wharf(&app, &args).await;
        assert_eq!(done.code(), Some(0), "{done:?}");
        done.json()
    };
    let input = r#"{"do": {"hotel": "fail", "undo.flight": "trap"}}"#;
    let begun = saga(&["start", "traveller", "trip", "--id", "1", "--input", input]).await;
    assert_eq!((&begun["service"], &begun["id"]), (&"traveller".into(), &"1".into()), "{begun}");
    // It waits for an hour, unless somebody says otherwise.
    let at = |view: &serde_json::Value| view["steps"][0].clone();
    eventually("it was tried once", async || match at(&saga(&["show", "1"]).await) {
        step if step["compensations"] == 1 && step["error"].is_string() => Ok(()),
        step => Err(step),
    })
    .await;
    saga(&["retry", "1"]).await;
    eventually("it was tried twice, and is stuck", async || match saga(&["show", "1"]).await {
        view if at(&view)["compensations"] == 2 && view["stuck"] == true => Ok(()),
        view => Err(view),
    })
    .await;
    let listed = saga(&["list", "--service", "traveller", "--status", "compensating"]).await;
    assert_eq!(listed["sagas"][0]["id"], "1", "{listed}");
    let stuck = saga(&["list", "--stuck"]).await;
    assert_eq!(stuck["sagas"].as_array().map(Vec::len), Some(1), "{stuck}");
    host.logged("a compensation keeps failing").await;
    saga(&["compensate", "1", "--skip", "flight"]).await;
    let stuck = saga(&["list", "--stuck"]).await;
    assert_eq!(stuck["sagas"], serde_json::json!([]), "{stuck}");
    let (status, reason) = ended(&host, "trip", "1").await;
    assert_eq!(status, "compensated");
    assert!(reason.contains("no hotel"), "{reason}");

    host.get("/start?saga=paid&id=2&do=").await;
    saga(&["compensate", "2"]).await;
    assert_eq!(ended(&host, "paid", "2").await.0, "compensated");
    // What is not there is left out.
    let shown = host.wharf(&app, &["saga", "show", "2", "--json"]).await;
    assert!(!shown.stdout.contains("null"), "{shown:?}");
    // Page after page, of all services.
    let first = saga(&["list", "--limit", "1"]).await;
    let after = first["next"].to_string();
    let second = saga(&["list", "--limit", "1", "--after", &after]).await;
    assert_eq!((&first["sagas"][0]["id"], &second["sagas"][0]["id"]), (&"2".into(), &"1".into()), "{first} {second}");
    let done = host.wharf(&app, &["saga", "list", "--limit", "1"]).await;
    assert!(done.stderr.contains(&format!("--after {after}")), "{done:?}");
    let done = host.wharf(&app, &["saga", "list"]).await;
    assert!(done.stdout.contains("compensated") && done.stdout.contains("trip"), "{done:?}");
    for (args, words) in [(["show", "3"], "there is no saga `3`"), (["retry", "1"], ""), (["compensate", "2"], "")] {
        let done = host.wharf(&app, &["saga", args[0], args[1]]).await;
        assert_eq!(done.code(), Some(1), "{done:?}");
        assert!(done.stderr.contains(words), "{done:?}");
    }
    let done = host.wharf(&app, &["saga", "start", "traveler", "trip", "--id", "1"]).await;
    assert!(done.stderr.contains("did you mean `traveller`"), "{done:?}");
    let audit = host.wharf(&app, &["audit"]).await;
    assert!(audit.stdout.contains("compensate saga"), "{audit:?}");
    host.stop().await;
}

#[tokio::test]
async fn a_component_with_sagas_needs_a_database() {
    let app = App::new(
        &hasty("").replace("database = true", "").replace("awaits = [\"trip.paid\"]", "").replace("sagas = ", "#"),
    );
    app.refused(&["check"], &["exports `wharf:saga/steps@0.1.0`", "set `database = true` in [services.traveller]"])
        .await;
    let app = App::new(&hasty("").replace("awaits = [\"trip.paid\"]", ""));
    let words = "which the service may not await: add it to `awaits` in [services.traveller]";
    app.refused(&["up"], &["step `settle` of saga `paid`", words]).await;
}

/// Kills the host in the middle of sagas, again and again, and then looks whether all of them ended, and no effect of a step
/// happened under two keys or twice under one.
async fn killed_again_and_again(app: App) {
    let kills = env::var("WHARF_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS);
    let what = ["", "pay:fail", "hotel:retry-2", "pack-the-suitcase:fail", "car:trap-1", "pay:fail,undo.flight:fail-2"];
    let mut acknowledged = BTreeSet::new();
    for kill in 0..kills {
        let mut host = app.start().await;
        let begun = 1 + chance(BEGUN);
        for n in 0..begun {
            let (id, doing) = (format!("{kill}-{n}"), what[n as usize % what.len()]);
            if start(&host, "trip", &id, doing).await.status == 200 {
                acknowledged.insert(id);
            }
        }
        host.signal("KILL");
        assert!(!host.ended().await.success());
    }
    let host = app.start().await;
    assert!(!acknowledged.is_empty());
    for id in &acknowledged {
        let (status, _) = ended(&host, "trip", id).await;
        let calls: BTreeSet<String> = calls(&host, id).await.into_iter().collect();
        let has = |call: &str| calls.iter().any(|it| it.starts_with(call));
        if status == "completed" {
            assert!(has("act pack-the-suitcase") && !has("undo"), "{id}: {calls:?}");
        } else {
            assert!(has("undo flight"), "{id}: {calls:?}");
        }
    }
    let answer = host.get("/effects").await;
    let effects = answer.text();
    let mut seen = BTreeSet::new();
    for line in effects.lines() {
        let (times, of) = line.split_once(' ').expect("a number, and of what");
        let (of, key) = of.rsplit_once(' ').expect("a key");
        assert_eq!(times, "1", "{line}");
        assert!(seen.insert(of.to_owned()), "under two keys: {of}, {key}");
    }
    host.stop().await;
}

#[tokio::test]
async fn what_was_started_ends_however_often_the_host_is_killed() {
    killed_again_and_again(App::new(&hasty(""))).await;
}

#[tokio::test]
async fn also_with_postgresql() {
    let postgres = Postgres::start();
    killed_again_and_again(App::new(&(hasty("") + &postgres.store("shop")))).await;
}
