//! Hot loading: a service is replaced while requests run, and none of them fails.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};
use tokio::task::JoinSet;
use wharf_tests::{
    App, Connection, HELLO, Host, Origin, Redis, at, caller, eventually, linked, patched, starting_with,
};

/// The build of `hello-p3` that says this instead of "Hello, world!".
fn saying(text: &str) -> Vec<u8> {
    patched("hello-p3", "Hello, world!", text)
}

async fn deploy(host: &Host, app: &App, service: &str, file: &str) -> u64 {
    let done = host.wharf(app, &["deploy", service, file, "--json"]).await;
    assert_eq!(done.code(), Some(0), "{done:?}");
    done.json()["number"].as_u64().expect("revisions have numbers")
}

/// The refusal of a deployment.
async fn refused(host: &Host, app: &App, service: &str, file: &str) -> String {
    let done = host.wharf(app, &["deploy", service, file]).await;
    assert_eq!(done.code(), Some(1), "{done:?}");
    assert!(done.stderr.starts_with("error: "), "{done:?}");
    done.stderr
}

#[tokio::test]
async fn no_request_fails_while_its_service_is_replaced_again_and_again() {
    let app = App::new(HELLO);
    let texts = ["Hello, even !", "Hello, odd !!"];
    let files = ["even.wasm", "odd.wasm"];
    for (file, text) in files.iter().zip(texts) {
        app.file(file, saying(text));
    }
    let host = app.start().await;
    let load = host.load("/hello", 8);
    const SWAPS: usize = 24;
    const REQUESTS: usize = 12_000;
    for swap in 0..SWAPS {
        // The swaps are spread over the requests.
        let due = REQUESTS * swap / SWAPS;
        eventually("requests", async || if load.count() >= due { Ok(()) } else { Err(load.count()) }).await;
        let before = host.service(&app, "hello").await["revision"]["number"].as_u64().unwrap_or_default();
        let after = if swap % 4 < 2 {
            deploy(&host, &app, "hello", files[swap % 2]).await
        } else {
            // As a build does it: under another name first.
            fs::copy(app.folder().join(files[swap % 2]), app.folder().join("components/new")).expect("it is there");
            fs::rename(app.folder().join("components/new"), app.component("hello-p3")).expect("it is there");
            eventually("the changed file serves", async || {
                let now = host.service(&app, "hello").await["revision"]["number"].as_u64().unwrap_or_default();
                if now > before { Ok(now) } else { Err(now) }
            })
            .await
        };
        assert_eq!(after, before + 1);
        // Who asks now is answered by the new one.
        host.get("/hello").await.assert_text(200, texts[swap % 2]);
    }
    eventually("requests", async || if load.count() >= REQUESTS { Ok(()) } else { Err(load.count()) }).await;
    let report = load.all_served().await;
    assert!(report.answers.len() >= REQUESTS);
    let seen: BTreeSet<_> = report.answers.iter().map(|(answer, _)| answer.text()).collect();
    let all = BTreeSet::from(["Hello, world!", texts[0], texts[1]]);
    assert!(seen.is_subset(&all) && texts.iter().all(|text| seen.contains(text)), "{seen:?}");
    assert_eq!(host.service(&app, "hello").await["revision"]["number"], SWAPS + 1);
    host.stop().await;
}

/// A service that publishes and remembers, and one between them that is replaced: it hears `order.created`, and tells of
/// each as `order.heard`. It has one try for each event.
fn relayed(events: &str) -> App {
    App::new(&format!(
        r#"
[services.recorder]
component = "<listener>"
publishes = ["order.created"]
subscribes = ["order.heard"]
instances = {{ max = 1 }}

[services.relay]
component = "<listener>"
publishes = ["order.heard"]
subscribes = [{{ topic = "order.created", attempts = 1 }}]

[topics."order.created"]
[topics."order.heard"]

[[gateway.routes]]
path = "/relay/{{*rest}}"
service = "relay"
strip-prefix = "/relay"

[[gateway.routes]]
path = "/{{*rest}}"
service = "recorder"

[events]
{events}
"#
    ))
}

/// Publishes numbers about this subject, one after the other, until it is told to stop; returns how many.
async fn publish_on(mut to: Connection, subject: usize, stop: Arc<AtomicBool>, count: Arc<AtomicUsize>) -> usize {
    let mut n = 0;
    while !stop.load(Relaxed) {
        let path = format!("/publish?topic=order.created&subject=s{subject}&data=forward-{n}");
        let answer = to.get(&path).await.expect("the publisher is not replaced");
        assert_eq!(answer.status, 200, "{answer:?}");
        n += 1;
        count.fetch_add(1, Relaxed);
    }
    n
}

/// The numbers that were heard of, by subject, each with its attempt.
async fn told(host: &Host) -> BTreeMap<String, Vec<(u32, usize)>> {
    let mut told = BTreeMap::<_, Vec<_>>::new();
    for line in host.get("/heard").await.text().lines() {
        let words: Vec<_> = line.split(' ').collect();
        let [_, "order.heard", _, _, _, subject, _, data] = words[..] else { panic!("{line}") };
        let (attempt, n) = data.trim_matches('"').split_once('-').expect("an attempt and a number");
        let heard = (attempt.parse().expect("an attempt"), n.parse().expect("a number"));
        told.entry(subject.to_owned()).or_default().push(heard);
    }
    told
}

#[tokio::test]
async fn events_of_a_service_that_is_replaced_again_and_again_all_arrive_in_order_and_none_uses_up_its_try() {
    let redis = Redis::start().await;
    const SWAPS: usize = 12;
    const SUBJECTS: usize = 4;
    for events in ["bus = \"embedded\"".to_owned(), format!("redis = \"{}\"", redis.url())] {
        let app = relayed(&events);
        let texts = ["the listener as it was even!", "the listener as it was odd!!"];
        let files = ["even.wasm", "odd.wasm"];
        for (file, text) in files.iter().zip(texts) {
            app.file(file, patched("listener", "the listener as it was built", text));
        }
        let host = app.start().await;
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut publishers = JoinSet::new();
        for subject in 0..SUBJECTS {
            let work = publish_on(host.connect().await, subject, stop.clone(), count.clone());
            publishers.spawn(async move { (format!("s{subject}"), work.await) });
        }
        for swap in 0..SWAPS {
            // Under load before each, and so during each.
            let due = count.load(Relaxed) + 40;
            eventually("events", async || if count.load(Relaxed) >= due { Ok(()) } else { Err(due) }).await;
            deploy(&host, &app, "relay", files[swap % 2]).await;
            host.get("/relay/build").await.assert_text(200, texts[swap % 2]);
        }
        stop.store(true, Relaxed);
        let published: BTreeMap<String, usize> = publishers.join_all().await.into_iter().collect();
        let told = eventually("all events are told of", async || {
            let told = told(&host).await;
            let seen = |subject| told.get(subject).map_or(0, |it| it.iter().collect::<BTreeSet<_>>().len());
            if published.iter().all(|(subject, count)| seen(subject) >= *count) { Ok(told) } else { Err(told.len()) }
        })
        .await;
        for (subject, count) in &published {
            let told = &told[subject];
            assert!(told.iter().all(|(attempt, _)| *attempt == 1), "{subject}: {told:?}");
            // In the order of the first time.
            let mut seen = BTreeSet::new();
            let first: Vec<_> = told.iter().map(|(_, n)| *n).filter(|n| seen.insert(*n)).collect();
            assert!(first.iter().copied().eq(0..*count), "{subject}: {first:?}");
        }
        let dead = host.wharf(&app, &["events", "list", "--json"]).await.json();
        assert_eq!(dead["letters"], serde_json::json!([]), "{dead}");
        assert_eq!(host.service(&app, "relay").await["revision"]["number"], SWAPS + 1);
        host.stop().await;
    }
}

#[tokio::test]
async fn what_runs_already_is_not_deployed_again() {
    let app = App::new(HELLO);
    app.file("same.wasm", fs::read(app.component("hello-p3")).expect("it is there"));
    app.file("new.wasm", saying("Hello, again!"));
    let host = app.start().await;
    let loaded = host.service(&app, "hello").await["revision"].clone();
    for (file, number, said) in [
        ("same.wasm", 1, "Unchanged hello: revision 1"),
        ("new.wasm", 2, "Deployed hello: revision 2"),
        ("new.wasm", 2, "Unchanged hello: revision 2"),
    ] {
        let done = host.wharf(&app, &["deploy", "hello", file]).await;
        assert_eq!(done.code(), Some(0), "{done:?}");
        assert!(done.stderr.contains(said), "{done:?}");
        let now = host.service(&app, "hello").await["revision"].clone();
        assert_eq!((now["number"] == number, now == loaded), (true, number == 1), "{now}");
    }
    let done = host.wharf(&app, &["deploy", "hello", "new.wasm", "--json"]).await;
    assert_eq!((&done.json()["outcome"], &done.json()["number"]), (&"unchanged".into(), &2.into()), "{done:?}");
    host.stop().await;
}

#[tokio::test]
async fn a_file_written_in_place_is_deployed_once_it_is_whole() {
    use std::io::Write as _;
    let app = App::new(HELLO);
    let host = app.start().await;
    let load = host.load("/hello", 2);
    let wasm = saying("Hello, again!");
    let mut file = fs::File::create(app.component("hello-p3")).expect("it can be written");
    for piece in wasm.chunks(wasm.len() / 3 + 1) {
        file.write_all(piece).expect("it can be written");
        file.sync_all().expect("it can be written");
    }
    drop(file);
    eventually("the new build serves", async || {
        let answer = host.get("/hello").await;
        if answer.text() == "Hello, again!" { Ok(()) } else { Err(answer) }
    })
    .await;
    load.all_served().await;
    host.stop().await;
}

#[tokio::test]
async fn a_file_that_several_services_have_is_deployed_for_all_of_them() {
    let app = App::new(&["one", "other"].map(|name| at(name, "hello-p3", "")).concat());
    let host = app.start().await;
    fs::write(app.component("hello-p3"), saying("Hello, both !")).expect("it can be written");
    for path in ["/one", "/other"] {
        eventually("the new build serves", async || {
            let answer = host.get(path).await;
            if answer.text() == "Hello, both !" { Ok(()) } else { Err(answer) }
        })
        .await;
    }
    host.stop().await;
}

#[tokio::test]
async fn a_request_in_flight_ends_on_the_revision_that_it_began_on() {
    let origin = Origin::start().await;
    let app = App::new(&caller(&origin, "[policy.defaults]\ndeadline = \"1m\""));
    let host = app.start().await;
    let slow = host.hold(&origin).await;

    app.file("hello.wasm", saying("Hello, new 1!"));
    deploy(&host, &app, "caller", "hello.wasm").await;
    host.get("/hello").await.assert_text(200, "Hello, new 1!");
    assert!(slow.is_under_way());
    // Only the old revision can pass on what the origin says.
    origin.let_go();
    slow.answer().await.assert_text(200, "outside");
    host.stop().await;
}

#[tokio::test]
async fn what_cannot_serve_is_refused_with_a_reason_and_the_old_revision_goes_on() {
    let app = App::new(&linked(""));
    let host = app.start().await;
    let load = host.load("/find?key=pen", 2);
    let mut broken = fs::read(wharf_tests::component("linked-callee")).expect("it was built");
    broken.truncate(broken.len() / 2);
    app.file("half.wasm", &broken);
    app.file("garbage.wasm", b"\0asm\x0d\0\x01\0 and what follows is no component");
    app.file("empty.wasm", b"");
    app.file("module.wasm", wat::parse_str("(module)").expect("it is a module"));
    app.file("callee-less.wasm", fs::read(wharf_tests::component("hello-p3")).expect("it was built"));
    app.file("handlerless.wasm", wat::parse_str("(component)").expect("it is a component"));
    // The same interface, and at its first instantiation it traps.
    app.file("trapping.wasm", starting_with("unreachable"));
    app.file("hanging.wasm", starting_with("(loop (br 0))"));

    for (service, file, reason) in [
        ("callee", "half.wasm", "half.wasm can't be loaded: "),
        ("callee", "garbage.wasm", "garbage.wasm can't be loaded: "),
        ("callee", "empty.wasm", "empty.wasm can't be loaded: "),
        ("callee", "module.wasm", "module.wasm can't be loaded: "),
        ("callee", "callee-less.wasm", "service `caller` imports `probe:shapes/shapes@0.1.0`"),
        ("caller", "handlerless.wasm", "service `caller` is called by HTTP"),
        ("caller", "trapping.wasm", "service `caller`: its first instance failed"),
        ("caller", "hanging.wasm", "service `caller`: its first instance failed"),
        ("nobody", "handlerless.wasm", "there is no service `nobody`\n"),
        ("calle", "handlerless.wasm", "there is no service `calle` (did you mean `callee`?)"),
    ] {
        let said = refused(&host, &app, service, file).await;
        assert!(said.contains(reason), "{service} {file}: {said}");
    }
    let done = host.wharf(&app, &["deploy", "callee", "nothing.wasm"]).await;
    assert_eq!(done.code(), Some(1), "{done:?}");
    assert!(done.stderr.contains("nothing.wasm"), "{done:?}");

    // The same by the watched file.
    fs::write(app.component("linked-callee"), &broken).expect("it can be written");
    let line = host.logged("the changed component was refused").await;
    assert!(line.contains("callee"), "{line}");

    for service in ["caller", "callee"] {
        assert_eq!(host.service(&app, service).await["revision"]["number"], 1);
    }
    host.get("/echo").await.assert_text(200, "same");
    load.all_served().await;

    // Nor did a refused one leave anything behind that keeps a good one out.
    app.file("good.wasm", patched("linked-callee", "found ", "FOUND "));
    deploy(&host, &app, "callee", "good.wasm").await;
    host.get("/find?key=pen").await.assert_text(200, "FOUND pen");
    host.stop().await;
}

#[tokio::test]
async fn the_component_of_another_service_is_refused_for_what_it_is() {
    let app = App::shop("");
    let host = app.start().await;
    let path = |service: &str| app.component(service).display().to_string();
    // What others need comes first, and is told even where the database would object too.
    let said = refused(&host, &app, "user", &path("product")).await;
    assert!(said.contains("service `order` imports `shop:users/users"), "{said}");
    host.stop().await;

    // Nobody imports anything of `letters`.
    let app = App::new(
        "[topics.\"user.created\"]\n\
         [services.user]\ncomponent = \"<user>\"\ndatabase = true\npublishes = [\"user.created\"]\n\
         [services.letters]\ncomponent = \"<notification>\"\ndatabase = true\nmail = { from = \"shop@example.com\" }\n",
    );
    let host = app.start().await;
    let path = |service: &str| app.component(service).display().to_string();
    let said = refused(&host, &app, "letters", &path("user")).await;
    assert!(said.contains("this is the component of service `user`"), "{said}");
    assert!(said.contains("`create users`") && said.contains("`create notifications`"), "{said}");
    assert!(!said.contains("was changed after"), "{said}");
    assert_eq!(host.service(&app, "letters").await["revision"]["number"], 1);
    host.stop().await;
}
