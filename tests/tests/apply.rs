//! A running system is brought to a changed manifest, whole or not at all.

use serde_json::{Value, json};
use std::{collections::BTreeSet, fs};
use wharf_tests::{
    App, Done, HELLO, Host, Load, Origin, Postgres, Redis, at, below, caller, eventually, linked, patched, request,
    starting_with,
};

/// A service that publishes and hears `order.created`, below `/{name}`.
fn listener(name: &str, subscribes: &str) -> String {
    below(
        name,
        "listener",
        &format!("publishes = [\"order.created\"]\nsubscribes = [{subscribes}]\ninstances = {{ max = 1 }}"),
    )
}

const TOPIC: &str = "[topics.\"order.created\"]\n";
const CREATED: &str = "\"order.created\"";

async fn apply(host: &Host, app: &App) -> Vec<String> {
    let done = host.wharf(app, &["apply", "--yes", "--json"]).await;
    assert_eq!(done.code(), Some(0), "{done:?}\n{}", host.log());
    lines(&done.json())
}

/// A plan, a line for each change, without the hashes of components.
fn lines(plan: &Value) -> Vec<String> {
    let changes = plan["changes"].as_array().unwrap_or_else(|| panic!("{plan}"));
    let line = |change: &Value| {
        let details = change["details"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let details = details.map(|it| if it.starts_with("component ") { "component" } else { it });
        let kind = change["kind"].as_str().unwrap_or_default();
        format!("{kind} {} {}", change["what"].as_str().unwrap_or_default(), details.collect::<Vec<_>>().join(", "))
    };
    changes.iter().map(|change| line(change).trim().to_owned()).collect()
}

async fn refused(host: &Host, app: &App) -> String {
    let done = host.wharf(app, &["apply", "--yes"]).await;
    assert_eq!(done.code(), Some(1), "{done:?}");
    done.stderr
}

async fn reaches(load: &Load, more: usize) {
    let due = load.count() + more;
    eventually("requests", async || if load.count() >= due { Ok(()) } else { Err(load.count()) }).await;
}

async fn publish(host: &Host, at: &str, data: &str) {
    served(host, &format!("{at}/publish?topic=order.created&subject=s&data={data}")).await;
}

async fn heard(host: &Host, at: &str) -> Vec<String> {
    let answer = host.get(&format!("{at}/heard")).await;
    let data = answer.text().lines().filter_map(|line| line.rsplit(' ').next());
    data.map(|data| data.trim_matches('"').to_owned()).collect()
}

async fn hears(host: &Host, at: &str, expected: &[&str]) {
    eventually("the events are heard", async || {
        let heard = heard(host, at).await;
        if heard == expected { Ok(()) } else { Err(heard) }
    })
    .await;
}

async fn served(host: &Host, path: &str) {
    let answer = host.get(path).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// What of the status tells which system runs: revisions, edges, subscriptions, limits, services outside.
async fn standing(host: &Host, app: &App) -> Value {
    let status = host.status(app).await;
    let names = |list: &str, key: &str| -> Vec<Value> {
        status[list].as_array().into_iter().flatten().map(|it| it[key].clone()).collect()
    };
    let subscriptions = status["events"]["subscriptions"].as_array().into_iter().flatten();
    let subscriptions: Vec<_> = subscriptions.map(|it| json!([it["topic"], it["service"]])).collect();
    json!({
        "services": names("services", "name"),
        "revisions": names("services", "revision"),
        "edges": names("edges", "edge"),
        "external": names("external", "name"),
        "limits": names("rate_limits", "route"),
        "outboxes": names("outboxes", "service"),
        "subscriptions": subscriptions,
    })
}

#[tokio::test]
async fn services_with_routes_and_subscriptions_come_and_go_under_load() {
    let before = format!("{HELLO}{}{TOPIC}", listener("one", CREATED));
    let app = App::new(&before);
    let host = Host::start_with(&app, &["--no-watch"]).await;
    let was = standing(&host, &app).await;
    let load = host.load("/hello", 4);
    publish(&host, "/one", "1").await;
    host.get("/two/alive").await.assert_text(200, "Hello, world!");

    // With buckets, a typed neighbour and one outside, too.
    let origin = Origin::start().await;
    let more = format!(
        "{}\n{}\n[services.pay]\nendpoints = [\"http://{}\"]\n[[gateway.routes]]\npath = \"/pay\"\nservice = \"pay\"\n\
         [services.callee]\ncomponent = \"<linked-callee>\"\n{}",
        listener("two", CREATED),
        below("shelf", "shelf", "buckets = [\"box\"]"),
        origin.address(),
        below("caller", "linked-caller", "calls = [\"callee\"]"),
    );
    app.write(&format!("{before}{more}"));
    let planned = apply(&host, &app).await;
    let expected = [
        "new services.callee",
        "new services.caller",
        "new services.shelf",
        "new services.two",
        "new services.pay outside",
        "new route /caller/{*rest}",
        "new route /pay",
        "new route /shelf/{*rest}",
        "new route /two/{*rest}",
    ];
    assert_eq!(planned, expected);
    host.get("/two/alive").await.assert_text(200, "alive");
    host.get("/pay").await.assert_text(200, "outside");
    host.get("/caller/find?key=pen").await.assert_text(200, "found pen");
    host.get("/shelf/set?bucket=box&key=a&value=b").await;
    // The new one hears what is published from now on, and the other missed nothing.
    publish(&host, "/two", "2").await;
    hears(&host, "/one", &["1", "2"]).await;
    hears(&host, "/two", &["2"]).await;
    reaches(&load, 200).await;

    let two = host.load("/two/alive", 1);
    reaches(&two, 20).await;
    // None of it is needed by those that stay; who is on the way to it gets there.
    let held = host.ask("/caller/nop?times=2000");
    app.write(&before);
    let planned = apply(&host, &app).await;
    assert_eq!(planned.len(), expected.len(), "{planned:?}");
    assert!(planned.iter().all(|line| line.starts_with("removed ")), "{planned:?}");
    held.answer().await;
    let report = two.all_served().await;
    let said: BTreeSet<_> = report.answers.iter().map(|(answer, _)| answer.text().to_owned()).collect();
    assert!(said.is_subset(&BTreeSet::from(["alive".to_owned(), "Hello, world!".to_owned()])), "{said:?}");
    publish(&host, "/one", "3").await;
    hears(&host, "/one", &["1", "2", "3"]).await;
    assert_eq!(standing(&host, &app).await, was);
    assert!(!host.log().contains("still in use"), "{}", host.log());

    // Its place in the log is kept, as over a restart without it.
    app.write(&format!("{before}{}", listener("two", CREATED)));
    apply(&host, &app).await;
    hears(&host, "/two", &["3"]).await;
    load.all_served().await;
    host.stop().await;
}

#[tokio::test]
async fn settings_change_under_load_and_the_revision_stays_what_it_is() {
    let with = |more: &str| {
        format!(
            "{HELLO}[services.hog]\ncomponent = \"<hog>\"\n{more}\n[[gateway.routes]]\npath = \"/hog/{{*rest}}\"\n\
             service = \"hog\"\nstrip-prefix = \"/hog\"\n"
        )
    };
    let app = App::new(&with("limits = { memory = \"8MiB\" }"));
    let host = Host::start_with(&app, &["--no-watch"]).await;
    let before = host.service(&app, "hog").await["revision"].clone();
    host.get("/hog/take?mib=20").await.assert_fault(502, "trapped");
    host.get("/hog/take?mib=1").await.assert_text(200, "1 MiB");

    let (load, other) = (host.load("/hog/alive", 4), host.load("/hello", 4));
    for round in 0..6 {
        reaches(&load, 50).await;
        let large = round % 2 == 0;
        let memory = if large { "64MiB" } else { "8MiB" };
        app.write(&with(&format!("limits = {{ memory = \"{memory}\" }}\nconfig = {{ round = \"{round}\" }}")));
        let planned = apply(&host, &app).await;
        assert_eq!(planned.len(), 1, "{planned:?}");
        assert!(planned[0].starts_with("changed services.hog config.round "), "{planned:?}");
        let after = host.service(&app, "hog").await["revision"].clone();
        assert_eq!(after, before, "it is the same component still");
        if large {
            served(&host, "/hog/take?mib=20").await;
        } else {
            // By itself: a trap ends all calls of its instance, those of the load too.
            assert!(planned[0].contains("limits.memory 64 MiB -> 8 MiB"), "{planned:?}");
        }
    }
    load.all_served().await;
    other.all_served().await;
    host.get("/hog/take?mib=20").await.assert_fault(502, "trapped");
    host.stop().await;
}

#[tokio::test]
async fn when_one_part_fails_all_is_as_before() {
    let callee = "[services.callee]\ncomponent = \"<linked-callee>\"\n";
    let before = format!(
        "{HELLO}{callee}{}{}{TOPIC}[services.user]\ncomponent = \"<user>\"\ndatabase = true\npublishes = [\"user.created\"]\n\
         [topics.\"user.created\"]\n[[gateway.routes]]\npath = \"/users\"\nservice = \"user\"\n",
        below("caller", "linked-caller", "calls = [\"callee\"]"),
        listener("one", CREATED),
    );
    let app = App::new(&before);
    let host = Host::start_with(&app, &["--no-watch"]).await;
    let was = standing(&host, &app).await;
    let loads = [host.load("/hello", 2), host.load("/caller/find?key=pen", 2), host.load("/one/alive", 1)];
    app.file("components/trapping.wasm", starting_with("unreachable"));
    app.file("components/garbage.wasm", b"\0asm\x0d\0\x01\0 and what follows is no component");
    let path = |name: &str| app.component(name).display().to_string();
    // Good by itself: a new service with all that one can have, another policy, other settings.
    let good = format!(
        "{before}{}[services.shelf]\ncomponent = \"<shelf>\"\nbuckets = [\"box\"]\n[[gateway.routes]]\npath = \"/shelf\"\n\
         service = \"shelf\"\n[services.product]\ncomponent = \"<product>\"\ndatabase = true\n\
         [policy.edges.\"gateway -> hello\"]\ndeadline = \"9s\"\n",
        listener("two", CREATED)
    );
    let user = "component = \"<user>\"\ndatabase = true\npublishes = [\"user.created\"]";
    let cases = [
        // A neighbour that lacks what is called.
        (good.replace("<linked-callee>", "<hello-p3>"), "service `caller` imports `probe:shapes/shapes@0.1.0`"),
        // A component that traps when it starts, as a new service: the last in the order of names.
        (
            format!(
                "{good}[services.zebra]\ncomponent = {:?}\n[[gateway.routes]]\npath = \"/zebra\"\nservice = \"zebra\"",
                path("trapping")
            ),
            "service `zebra`: its first instance failed",
        ),
        (format!("{good}[services.zebra]\ncomponent = {:?}\n", path("garbage")), "garbage.wasm can't be loaded"),
        (format!("{good}[services.zebra]\ncomponent = {:?}\n", path("nothing")), "nothing.wasm can't be read"),
        // A schema that is strange to the database.
        (
            good.replace(user, "component = \"<product>\"\ndatabase = true")
                .replace("[services.product]\ncomponent = \"<product>\"\ndatabase = true\n", ""),
            "service `user`: ",
        ),
        // What can't be opened: a file lies where a service's database would.
        (format!("{good}[services.occupied]\ncomponent = \"<hello-p3>\"\ndatabase = true\n"), "occupied"),
        (format!("{good}[services.pay]\ndns = \"http://nobody.invalid\"\n"), "nobody.invalid can't be resolved"),
        (
            format!(
                "{good}[services.secret]\ncomponent = \"<hello-p3>\"\nsecrets = {{ key = \"env:NO_SUCH_VARIABLE_IN_HERE\" }}\n"
            ),
            "NO_SUCH_VARIABLE_IN_HERE",
        ),
    ];
    fs::create_dir_all(app.data().join("db/occupied.sqlite")).expect("it can be made");
    for (manifest, expected) in cases {
        app.write(&manifest);
        let said = refused(&host, &app).await;
        assert!(said.contains(expected), "{expected}: {said}");
        assert_eq!(standing(&host, &app).await, was, "{expected}");
        host.get("/shelf").await.assert_text(200, "Hello, world!");
        reaches(&loads[1], 20).await;
    }
    // Nor did anything stay behind that keeps out what is good.
    publish(&host, "/one", "1").await;
    app.write(&good);
    let planned = apply(&host, &app).await;
    assert!(planned.contains(&"new services.two".to_owned()), "{planned:?}");
    assert!(planned.contains(&"changed policy gateway -> hello deadline 5s -> 9s".to_owned()), "{planned:?}");
    publish(&host, "/two", "2").await;
    hears(&host, "/one", &["1", "2"]).await;
    hears(&host, "/two", &["2"]).await;
    for load in loads {
        load.all_served().await;
    }
    host.stop().await;
}

#[tokio::test]
async fn a_plan_is_shown_asked_for_and_good_for_one_state_only() {
    let app = App::new(&format!("{HELLO}{}", at("other", "hello-p2", "")));
    let host = Host::start_with(&app, &["--no-watch"]).await;
    let done = host.wharf(&app, &["apply"]).await;
    assert!(done.code() == Some(0) && done.stderr.contains("Unchanged the manifest is what runs already"), "{done:?}");

    let changed = format!(
        "{HELLO}{}[policy.edges.\"gateway -> hello\"]\ndeadline = \"2s\"\n",
        at("third", "hello-p3", "config = { a = \"b\" }")
    );
    app.write(&changed);
    let shown = host.wharf(&app, &["apply", "--dry-run"]).await;
    let plan: Vec<_> = shown.stderr.lines().filter_map(|line| line.trim().strip_prefix("Plan ")).collect();
    let expected = [
        "- services.other",
        "+ services.third (new)",
        "- route /other",
        "+ route /third (new)",
        "~ policy gateway -> hello: deadline 5s -> 2s",
    ];
    assert_eq!((shown.code(), plan), (Some(0), expected.to_vec()), "{shown:?}");
    // Nobody is there to be asked.
    let done = host.wharf(&app, &["apply"]).await;
    assert!(done.code() == Some(1) && done.stderr.contains("`--yes` does it without"), "{done:?}");
    served(&host, "/other").await;

    let plan = async || {
        let done = host.wharf(&app, &["apply", "--dry-run", "--json"]).await;
        done.json()["id"].as_str().expect("a plan has an id").to_owned()
    };
    let stale = async |id: &str| {
        let done = host.wharf(&app, &["apply", "--plan", id]).await;
        assert!(done.code() == Some(1) && done.stderr.contains("made for another state of the system"), "{done:?}");
        served(&host, "/other").await;
    };
    // What runs, a component and the manifest change in between.
    let id = plan().await;
    assert_eq!(id, plan().await, "the same as long as nothing changes");
    app.file("again.wasm", patched("hello-p3", "Hello, world!", "Hello, again!"));
    let done = host.wharf(&app, &["deploy", "hello", "again.wasm"]).await;
    assert_eq!(done.code(), Some(0), "{done:?}");
    stale(&id).await;
    let id = plan().await;
    fs::write(app.component("hello-p3"), patched("hello-p3", "Hello, world!", "Hello, third!")).expect("it is there");
    stale(&id).await;
    let id = plan().await;
    app.write(&changed.replace("2s", "3s"));
    stale(&id).await;

    let done = host.wharf(&app, &["apply", "--plan", &plan().await, "--json"]).await;
    assert_eq!(done.code(), Some(0), "{done:?}");
    let expected = [
        "changed services.hello component",
        "removed services.other",
        "new services.third",
        "removed route /other",
        "new route /third",
        "changed policy gateway -> hello deadline 5s -> 3s",
    ];
    assert_eq!(lines(&done.json()), expected);
    host.get("/hello").await.assert_text(200, "Hello, third!");
    assert_eq!(host.service(&app, "hello").await["revision"]["number"], 3);
    host.stop().await;
}

#[tokio::test]
async fn another_manifest_is_not_applied_to_a_host_that_runs_this_one() {
    let app = App::new(HELLO);
    let host = Host::start_with(&app, &["--no-watch"]).await;
    let text = fs::read_to_string(app.manifest()).expect("it is there");
    app.file("other.toml", text);
    let done: Done = app.wharf(&["--manifest", "other.toml", "apply", "--yes"]).await;
    assert!(done.code() == Some(1) && done.stderr.contains("and not "), "{done:?}");
    host.stop().await;
}

#[tokio::test]
async fn a_reload_leaves_to_an_apply_what_should_be_looked_at() {
    let app = App::new(HELLO);
    let host = app.start().await;
    let changed = format!("{HELLO}{}", at("other", "hello-p2", ""));
    app.write(&changed);
    // The watch sees it too, and waits.
    host.logged("the changed manifest waits: services.other is new").await;
    let done = host.wharf(&app, &["reload"]).await;
    assert!(done.code() == Some(1) && done.stderr.contains("services.other is new: `wharf apply`"), "{done:?}");
    apply(&host, &app).await;
    host.get("/other").await.assert_text(200, "Hello, world!");
    // Of the new service's file the watch knows from now on.
    let other = fs::read(app.component("hello-p2")).expect("it is there");
    fs::write(app.component("hello-p2"), patched_p2(&other)).expect("it can be written");
    eventually("the new build serves", async || {
        let number = host.service(&app, "other").await["revision"]["number"].clone();
        if number == 2 { Ok(()) } else { Err(number) }
    })
    .await;
    // Settings of a service that is there need nobody who looks.
    app.write(&changed.replace("[services.hello]", "[services.hello]\nlimits = { cpu = \"1s\" }"));
    host.logged("limits.cpu").await;
    host.stop().await;
}

/// The same component with one more custom section: another build that does the same.
fn patched_p2(wasm: &[u8]) -> Vec<u8> {
    // Section 0, of 5 bytes: a name of one, and three of content.
    [wasm, &[0, 5, 1, b'x', 1, 2, 3]].concat()
}

#[tokio::test]
async fn after_a_kill_in_the_middle_the_manifest_is_what_counts() {
    let before = format!("{HELLO}{}{TOPIC}", listener("one", CREATED));
    let after = format!(
        "{}{}{}{TOPIC}[services.user]\ncomponent = \"<user>\"\ndatabase = true\npublishes = [\"user.created\"]\n\
         [topics.\"user.created\"]\n[[gateway.routes]]\npath = \"/users\"\nservice = \"user\"\n",
        listener("one", CREATED),
        listener("two", CREATED),
        at("hello", "hello-p3", "config = { a = \"b\" }"),
    );
    let app = App::new(&before);
    // At any moment: the first ones kill it before anything is opened, the last ones mostly after all is done.
    for round in 0..6_u32 {
        app.write(&before);
        let mut host = Host::start_with(&app, &["--no-watch"]).await;
        publish(&host, "/one", &format!("{round}")).await;
        app.write(&after);
        let plan = host.wharf(&app, &["apply", "--dry-run", "--json"]).await.json()["id"].clone();
        let manifest = app.manifest().display().to_string();
        let id = plan.as_str().expect("a plan has an id").to_owned();
        let mut applying = app.spawn(&["--manifest", &manifest, "apply", "--plan", &id]);
        // Counted in looks at the status, each of which is answered while it is applied.
        for _ in 0..round * 2 {
            host.status(&app).await;
        }
        host.signal("KILL");
        host.ended().await;
        let _ = applying.wait().await;
        // The file has the new one, so that is what starts, whole.
        let host = Host::start_with(&app, &["--no-watch"]).await;
        publish(&host, "/two", "after").await;
        host.get("/hello").await.assert_text(200, "Hello, world!");
        host.get("/users").await;
        eventually("both hear it", async || {
            let (one, two) = (heard(&host, "/one").await, heard(&host, "/two").await);
            let hears = |heard: &[String]| heard.iter().any(|data| data == "after");
            if hears(&one) && hears(&two) { Ok(()) } else { Err((one, two)) }
        })
        .await;
        let done = host.wharf(&app, &["apply"]).await;
        assert!(done.stderr.contains("Unchanged the manifest is what runs already"), "{done:?}");
        host.stop().await;
    }
}

#[tokio::test]
async fn of_what_was_refused_the_history_knows_whose_fault_it_was() {
    let manifest = |first: &str, last: &str| {
        let service = |name: &str, component: &str| {
            format!(
                "[services.{name}]\ncomponent = \"{component}\"\n[[gateway.routes]]\npath = \"/{name}\"\nservice = \"{name}\"\n"
            )
        };
        service("first", first) + &service("last", last) + &service("same", "<hello-p3>")
    };
    let app = App::new(&manifest("<hello-p3>", "<hello-p2>"));
    let host = Host::start_with(&app, &["--no-watch"]).await;
    app.file("again.wasm", patched("hello-p3", "Hello, world!", "Hello, again!"));
    app.file("trapping.wasm", starting_with("unreachable"));
    let history = async |service: &str| {
        let done = host.wharf(&app, &["history", service, "--json"]).await;
        let revisions = done.json()["revisions"].as_array().cloned().unwrap_or_default();
        revisions.iter().map(|it| format!("{} {}", it["number"], it["standing"])).collect::<Vec<_>>()
    };
    app.write(&manifest("again.wasm", "trapping.wasm"));
    let said = refused(&host, &app).await;
    assert!(said.contains("service `last`: its first instance failed"), "{said}");
    assert_eq!(history("first").await, ["1 \"serving\""]);
    assert_eq!(history("last").await, ["2 \"failed\"", "1 \"serving\""]);
    assert_eq!(history("same").await, ["1 \"serving\""]);
    // Its number is free again.
    app.write(&manifest("again.wasm", "<hello-p2>"));
    apply(&host, &app).await;
    assert_eq!(history("first").await, ["2 \"serving\"", "1 \"replaced\""]);
    assert_eq!(history("last").await, ["2 \"failed\"", "1 \"serving\""]);
    host.get("/first").await.assert_text(200, "Hello, again!");
    host.stop().await;
}

#[tokio::test]
async fn what_only_a_start_brings_about_is_named() {
    let app = App::new(HELLO);
    let host = Host::start_with(&app, &["--no-watch"]).await;
    let listen = "[gateway]\nlisten = \"127.0.0.1:1\"\nmax-connections = 9\n";
    app.write(&format!("{listen}{HELLO}"));
    let done = host.wharf(&app, &["apply", "--yes"]).await;
    let expected = "gateway.listen, gateway.max-connections changed, and that takes a restart of the host";
    assert!(done.code() == Some(1) && done.stderr.contains(expected), "{done:?}");
    // But not for what clients are granted, which those get that connect from now on; nor for how long events are kept.
    let large = || {
        let mut request = request("GET", "/hello", "");
        request.headers_mut().insert("x-large", "x".repeat(4_000).parse().expect("a value"));
        request
    };
    let mut before = host.connect().await;
    assert_eq!(before.send(large()).await.expect("an answer").status, 200);
    app.write(&format!("[gateway]\nlisten = \"127.0.0.1:0\"\nmax-header-bytes = \"2KiB\"\n{HELLO}"));
    assert_eq!(apply(&host, &app).await, ["changed gateway max-header-bytes 16 KiB -> 2 KiB"]);
    assert_eq!(host.send(large()).await.status, 431);
    assert_eq!(before.send(large()).await.expect("an answer").status, 200);
    app.write(HELLO);
    apply(&host, &app).await;

    app.write(&format!("{HELLO}[events]\nlimit = \"8GiB\"\nkeep = {{ age = \"1h\" }}\n"));
    assert_eq!(apply(&host, &app).await, ["changed events keep.age 604800s -> 3600s, limit 4 GiB -> 8 GiB"]);
    assert_eq!(host.status(&app).await["events"]["log"]["limit"], 8_u64 << 30);
    host.stop().await;
}

#[tokio::test]
async fn an_edge_that_stays_keeps_what_is_known_on_it() {
    let app = App::new(&linked(""));
    let host = Host::start_with(&app, &["--no-watch"]).await;
    let done = host.wharf(&app, &["breaker", "force-open", "caller -> callee"]).await;
    assert_eq!(done.code(), Some(0), "{done:?}");
    // The caller is linked anew, and the callee too.
    let changed = linked("").replace("calls = [\"callee\"]", "calls = [\"callee\"]\nconfig = { a = \"b\" }");
    app.write(&changed.replace("<linked-callee>\"", "<linked-callee>\"\nconfig = { c = \"d\" }"));
    assert_eq!(apply(&host, &app).await.len(), 2);
    let edge = host.edge(&app, "caller -> callee").await;
    assert!(edge.to_string().contains("force"), "{edge}");
    host.get("/find?key=pen").await.assert_text(503, "fault FaultKind::CircuitOpen");
    host.stop().await;
}

#[tokio::test]
async fn who_is_on_the_way_to_a_service_that_goes_gets_there() {
    let origin = Origin::start().await;
    let slow = caller(&origin, "").replace("/{*rest}", "/outbound");
    let app = App::new(&format!("{HELLO}{slow}"));
    let host = Host::start_with(&app, &["--no-watch"]).await;
    let held = host.hold(&origin).await;
    app.write(HELLO);
    let manifest = app.manifest().display().to_string();
    let mut applying = app.spawn(&["--manifest", &manifest, "apply", "--yes"]);
    // New requests go elsewhere at once, and the one that was there before is not in their way.
    eventually("the route is gone", async || {
        let answer = host.get("/outbound").await;
        if answer.text() == "Hello, world!" { Ok(()) } else { Err(answer) }
    })
    .await;
    assert!(held.is_under_way());
    assert_eq!(applying.try_wait().expect("it is our child"), None, "it is not over yet");
    origin.let_go();
    held.answer().await.assert_text(200, "outside");
    assert!(applying.wait().await.expect("it is our child").success());
    host.stop().await;
}

#[tokio::test]
async fn what_a_service_stored_is_there_when_it_comes_back() {
    let user = "[services.user]\ncomponent = \"<user>\"\ndatabase = true\npublishes = [\"user.created\"]\n\
                [[gateway.routes]]\npath = \"/users/{*rest}\"\nservice = \"user\"\n\
                [[gateway.routes]]\npath = \"/users\"\nservice = \"user\"\n";
    let topic = "[topics.\"user.created\"]\n";
    let shelf = below("shelf", "shelf", "buckets = [\"box\"]");
    let all = format!("{HELLO}{user}{shelf}{topic}");
    let app = App::new(&all);
    let host = Host::start_with(&app, &["--no-watch"]).await;
    let made = host.post("/users", &json!({ "email": "ada@example.com", "name": "Ada" })).await;
    assert_eq!(made.status, 201, "{made:?}");
    let made = made.json();
    let path = format!("/users/{}", made["id"].as_str().expect("a user has an id"));
    served(&host, &path).await;
    served(&host, "/shelf/set?store=box&bucket=box&key=a&value=b").await;
    for _ in 0..3 {
        app.write(&format!("{HELLO}{topic}"));
        apply(&host, &app).await;
        host.get(&path).await.assert_text(200, "Hello, world!");
        // It is closed: nothing of it is beside its file.
        for kind in ["db/user", "kv/shelf"] {
            let log = app.data().join(format!("{kind}.sqlite-wal"));
            assert!(!log.exists(), "{}", log.display());
        }
        app.write(&all);
        apply(&host, &app).await;
        let found = host.get(&path).await;
        assert_eq!((found.status, found.text().contains("ada@example.com")), (200, true), "{found:?}");
    }
    // Without a database it is no service that this component could be.
    app.write(&all.replace("database = true\n", ""));
    let said = refused(&host, &app).await;
    assert!(said.contains("database"), "{said}");
    served(&host, &path).await;
    host.stop().await;
}

#[tokio::test]
async fn with_redis_subscriptions_come_and_go_as_well() {
    let redis = Redis::start().await;
    for bus in ["redis-streams", "redis-pubsub"] {
        let events = format!("[events]\nbus = \"{bus}\"\nredis = \"{}\"\n", redis.url());
        let before = format!("{HELLO}{}{TOPIC}{events}", listener("one", ""));
        let app = App::new(&before);
        let host = Host::start_with(&app, &["--no-watch"]).await;
        let load = host.load("/hello", 2);
        let both = format!("{HELLO}{}{}{TOPIC}{events}", listener("one", CREATED), listener("two", CREATED));
        app.write(&both);
        apply(&host, &app).await;
        publish(&host, "/two", "1").await;
        for at in ["/one", "/two"] {
            hears(&host, at, &["1"]).await;
        }
        // Otherwise delivered, and heard all the same.
        app.write(&both.replacen(
            &format!("subscribes = [{CREATED}]"),
            "subscribes = [{ topic = \"order.created\", attempts = 9, concurrency = 1 }]",
            1,
        ));
        let planned = apply(&host, &app).await;
        assert_eq!(planned.len(), 1, "{planned:?}");
        assert!(planned[0].contains("subscribes.order.created.concurrency 16 -> 1"), "{planned:?}");
        publish(&host, "/two", "2").await;
        for at in ["/one", "/two"] {
            hears(&host, at, &["1", "2"]).await;
        }
        app.write(&before);
        apply(&host, &app).await;
        publish(&host, "/one", "3").await;
        assert_eq!(host.status(&app).await["events"]["subscriptions"], json!([]));
        load.all_served().await;
        host.stop().await;
    }
}

#[tokio::test]
async fn of_many_who_apply_one_plan_one_does() {
    let app = App::new(HELLO);
    let host = Host::start_with(&app, &["--no-watch"]).await;
    let load = host.load("/hello", 2);
    app.file("again.wasm", patched("hello-p3", "Hello, world!", "Hello, again!"));
    for round in 1..=3 {
        app.write(&format!("{HELLO}{}", (0..round).map(|n| at(&format!("s{n}"), "hello-p2", "")).collect::<String>()));
        let plan = host.wharf(&app, &["apply", "--dry-run", "--json"]).await.json()["id"].clone();
        let id = plan.as_str().expect("a plan has an id");
        let args = ["apply", "--plan", id];
        let apply = || host.wharf(&app, &args);
        // And one that deploys the while, before or after.
        let deploy = host.wharf(&app, &["deploy", "hello", "again.wasm"]);
        let reload = host.wharf(&app, &["reload"]);
        let (one, two, three, deployed, _) = tokio::join!(apply(), apply(), apply(), deploy, reload);
        assert_eq!(deployed.code(), Some(0), "{deployed:?}");
        let done = [one, two, three];
        let applied = done.iter().filter(|done| done.stderr.contains("Applied + services.")).count();
        assert!(applied <= 1, "{done:?}");
        for done in &done {
            let known = ["Applied", "made for another state", "Unchanged"];
            assert!(known.iter().any(|word| done.stderr.contains(word)), "{done:?}");
        }
        // Where the deploy came in between, the plan was for another state.
        apply_all(&host, &app).await;
        for n in 0..round {
            host.get(&format!("/s{n}")).await.assert_text(200, "Hello, world!");
        }
    }
    load.all_served().await;
    host.stop().await;
}

async fn apply_all(host: &Host, app: &App) {
    let done = host.wharf(app, &["apply", "--yes"]).await;
    assert_eq!(done.code(), Some(0), "{done:?}");
}

#[tokio::test]
async fn a_database_on_a_server_is_opened_and_closed_while_it_runs() {
    let postgres = Postgres::start();
    let store = postgres.store("shop");
    let user = "[services.user]\ncomponent = \"<user>\"\ndatabase = true\npublishes = [\"user.created\"]\n\
                [[gateway.routes]]\npath = \"/users/{*rest}\"\nservice = \"user\"\n\
                [[gateway.routes]]\npath = \"/users\"\nservice = \"user\"\n";
    let before = format!("{HELLO}{store}[topics.\"user.created\"]\n");
    let app = App::new(&before);
    let host = Host::start_with(&app, &["--no-watch"]).await;
    let load = host.load("/hello", 2);
    let mut path = None;
    for _ in 0..2 {
        app.write(&format!("{before}{user}"));
        apply(&host, &app).await;
        let known = match &path {
            Some(path) => path,
            None => {
                let made = host.post("/users", &json!({ "email": "ada@example.com", "name": "Ada" })).await;
                assert_eq!(made.status, 201, "{made:?}");
                let made = made.json();
                path.insert(format!("/users/{}", made["id"].as_str().expect("a user has an id")))
            }
        };
        let found = host.get(known).await;
        assert!(found.text().contains("ada@example.com"), "{found:?}");
        app.write(&before);
        apply(&host, &app).await;
    }
    load.all_served().await;
    host.stop().await;
}

#[tokio::test]
async fn whatever_came_before_it_is_what_a_start_would_have_made() {
    let origin = Origin::start().await;
    let endpoint = format!("[services.pay]\nendpoints = [\"http://{}\"]\n", origin.address());
    let pay = "[[gateway.routes]]\npath = \"/pay\"\nservice = \"pay\"\n";
    let pieces = [
        listener("two", CREATED),
        below("shelf", "shelf", "buckets = [\"box\"]"),
        format!(
            "[services.callee]\ncomponent = \"<linked-callee>\"\n{}",
            below("caller", "linked-caller", "calls = [\"callee\"]")
        ),
        format!("{endpoint}{pay}"),
        "[policy.edges.\"gateway -> hello\"]\ndeadline = \"2s\"\n".to_owned(),
        "[services.user]\ncomponent = \"<user>\"\ndatabase = true\npublishes = [\"user.created\"]\n\
         [[gateway.routes]]\npath = \"/users\"\nservice = \"user\"\nrate-limit = { requests = 5, per = \"1s\" }\n"
            .to_owned(),
    ];
    let manifest = |round: usize| {
        let chosen = (0..pieces.len()).filter(|at| round >> at & 1 == 1).map(|at| pieces[at].as_str());
        // Sometimes the one that stays is another, too.
        let one = listener("one", CREATED).replace(
            "instances = {",
            if round & 0b1000 == 0 { "instances = {" } else { "outbound = [\"http://127.0.0.1:1\"]\ninstances = {" },
        );
        format!("{HELLO}{one}{TOPIC}[topics.\"user.created\"]\n{}", chosen.collect::<String>())
    };
    let names = |mut standing: Value| {
        standing.as_object_mut().expect("an object").remove("revisions");
        standing
    };
    let (app, fresh) = (App::new(&manifest(0)), App::new(&manifest(0)));
    let host = Host::start_with(&app, &["--no-watch"]).await;
    let load = host.load("/hello", 2);
    // A walk through the combinations that takes and gives several at a time.
    for round in [0b111111, 0b010101, 0b101010, 0b000000, 0b011110, 0b110011, 0b001100, 0b100001] {
        app.write(&manifest(round));
        apply(&host, &app).await;
        fresh.write(&manifest(round));
        let started = Host::start_with(&fresh, &["--no-watch"]).await;
        assert_eq!(names(standing(&host, &app).await), names(standing(&started, &fresh).await), "{round:06b}");
        for path in ["/two/alive", "/shelf/get?bucket=box&key=none", "/caller/find?key=pen", "/pay", "/users"] {
            let (here, there) = (host.get(path).await, started.get(path).await);
            assert_eq!((here.status, here.text()), (there.status, there.text()), "{round:06b} {path}");
        }
        started.stop().await;
        publish(&host, "/one", &format!("{round}")).await;
        hears_last(&host, "/one", &format!("{round}")).await;
        let nothing = host.wharf(&app, &["apply", "--yes"]).await;
        assert!(nothing.stderr.contains("Unchanged the manifest is what runs already"), "{nothing:?}");
    }
    load.all_served().await;
    assert!(!host.log().contains("WARN") && !host.log().contains("ERROR"), "{}", host.log());
    host.stop().await;
}

async fn hears_last(host: &Host, at: &str, expected: &str) {
    eventually("the event is heard", async || {
        let heard = heard(host, at).await;
        if heard.last().is_some_and(|last| last == expected) { Ok(()) } else { Err(heard) }
    })
    .await;
}

#[tokio::test]
async fn services_that_call_each_other_in_a_circle_go_together() {
    let one = |name: &str, callee: &str| below(name, "caller", &format!("calls = [\"{callee}\"]"));
    let app = App::new(&format!("{HELLO}{}{}", one("left", "right"), one("right", "left")));
    let host = Host::start_with(&app, &["--no-watch"]).await;
    host.get("/left/neighbour?name=right&path=/hello").await.assert_text(200, "alive");
    app.write(HELLO);
    assert_eq!(apply(&host, &app).await.len(), 4);
    assert!(!host.log().contains("still in use"), "{}", host.log());
    assert_eq!(standing(&host, &app).await["services"], json!(["hello"]));
    host.stop().await;
}
