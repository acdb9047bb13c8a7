//! `wharf up --watch`: what is saved is built and serves, and what can't be built changes nothing.

use std::{fs, io::Write as _, time::Duration};
use tokio::time::Instant;
use wharf_tests::{App, Host, component, crate_with, eventually, guest_saying, patched, workspace};

/// A service whose source is the folder of its name, at the path of its name.
fn service(name: &str, more: &str) -> String {
    format!(
        "[services.{name}]\nsource = \"{name}\"\n{more}\n[[gateway.routes]]\npath = \"/{name}\"\nservice = \"{name}\"\n"
    )
}

/// A service that a build command makes: its text, 13 letters in the file `text`, put into a component that is there. The
/// command does `first`, which has the text as `$t`, writes half of the component, does `second`, and writes the rest.
fn by_command(first: &str, second: &str, more: &str) -> App {
    let build = format!(
        "mkdir -p made; t=$(cat text); {first}; LC_ALL=C sed \"s/Hello, world!/$t/\" ../base.wasm >../whole.wasm; \
         head -c 20000 ../whole.wasm >made/hello.wasm; {second}; cat ../whole.wasm >made/hello.wasm"
    );
    let other =
        "[services.other]\ncomponent = \"<hello-p2>\"\n[[gateway.routes]]\npath = \"/other\"\nservice = \"other\"\n";
    let app = App::new(&format!(
        "{}{other}",
        service("hello", &format!("build = '''{build}'''\nartifact = \"made/hello.wasm\"\n{more}"))
    ));
    fs::copy(component("hello-p3"), app.folder().join("base.wasm")).expect("it was built");
    fs::create_dir(app.folder().join("hello")).expect("a folder");
    app.file("hello/text", "Hello, first!");
    app
}

/// Waits until a path is answered with this text, and says how long that took.
async fn serves(host: &Host, path: &str, text: &str) -> Duration {
    let began = Instant::now();
    eventually(&format!("{path} says {text}"), async || {
        let answer = host.get(path).await;
        if answer.text() == text { Ok(()) } else { Err((answer, host.log())) }
    })
    .await;
    began.elapsed()
}

async fn number(host: &Host, app: &App, service: &str) -> u64 {
    host.service(app, service).await["revision"]["number"].as_u64().expect("revisions have numbers")
}

/// The lines of the log with this text.
fn lines(host: &Host, text: &str) -> Vec<String> {
    host.log().lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
}

/// What the last build took, as the log has it.
fn took(host: &Host) -> Duration {
    let log = host.log();
    let took = log.rsplit("took=").next().and_then(|rest| rest.split_whitespace().next()).expect("something was built");
    let (number, unit) = took.split_at(took.find(|c: char| c.is_alphabetic()).expect("a unit"));
    let number: f64 = number.parse().unwrap_or_else(|_| panic!("{took}"));
    Duration::from_secs_f64(number * if unit == "s" { 1.0 } else { 0.001 })
}

#[tokio::test]
async fn what_is_saved_serves_and_what_does_not_compile_changes_nothing() {
    let app = App::new(&service("hello", ""));
    workspace(&app, "saved", &["hello"], &[]);
    let host = Host::start_with(&app, &["--watch"]).await;
    host.get("/hello").await.assert_text(200, "hello");
    let load = host.load("/hello", 2);

    let mut beside = Vec::new();
    for text in ["a", "b", "c", "d", "e"] {
        let saved = Instant::now();
        app.file("hello/src/lib.rs", guest_saying(text));
        serves(&host, "/hello", text).await;
        let all = saved.elapsed();
        host.logged("built services=\"hello\"").await;
        beside.push(all.saturating_sub(took(&host)));
    }
    // For those who want to know; on a machine that is busy it says little.
    beside.sort();
    eprintln!("from saving to serving, without what cargo took: {beside:?}");

    app.file("hello/src/lib.rs", format!("{}\nthis is no Rust", guest_saying("fourth")));
    let line = host.logged("the build failed; the old revision goes on").await;
    assert!(line.contains("services=\"hello\"") && line.contains("service `hello`: `cargo build"), "{line}");
    let log = host.log();
    assert!(log.contains("error: ") && log.contains("hello/src/lib.rs:"), "cargo's own words are missing: {log}");
    host.get("/hello").await.assert_text(200, "e");
    assert_eq!(number(&host, &app, "hello").await, 6);

    // Mended, by somebody who writes in pieces.
    let source = guest_saying("fifth");
    let mut file = fs::File::create(app.folder().join("hello/src/lib.rs")).expect("it can be written");
    for piece in source.as_bytes().chunks(source.len() / 3 + 1) {
        file.write_all(piece).expect("it can be written");
        file.sync_all().expect("it can be written");
    }
    drop(file);
    serves(&host, "/hello", "fifth").await;
    // Another module comes and is used.
    fs::create_dir(app.folder().join("hello/src/more")).expect("a folder");
    app.file("hello/src/more/mod.rs", "pub const TEXT: &str = \"sixth\";\n");
    let source = guest_saying("").replace("const TEXT: &str = \"\";", "mod more;\nuse more::TEXT;");
    app.file("hello/src/lib.rs", source);
    serves(&host, "/hello", "sixth").await;
    app.file("hello/src/more/mod.rs", "pub const TEXT: &str = \"seventh\";\n");
    serves(&host, "/hello", "seventh").await;

    load.all_served().await;
    // Each was deployed once, and nobody else deployed it too.
    assert_eq!(number(&host, &app, "hello").await, 9);
    let audit = host.wharf(&app, &["audit", "--json", "-n", "100"]).await;
    assert_eq!(audit.stdout.matches("\"by\":\"watch\"").count(), 8, "{}", audit.stdout);
    assert!(lines(&host, "refused").is_empty(), "{}", host.log());
    host.stop().await;
}

#[tokio::test]
async fn a_crate_that_is_shared_rebuilds_those_that_use_it_and_nobody_else() {
    let app = App::new(&["one", "two", "other"].map(|name| service(name, "")).concat());
    workspace(&app, "shared", &["other"], &["one", "two"]);
    let host = Host::start_with(&app, &["--watch"]).await;
    for text in ["new", "newer"] {
        app.file("text/src/lib.rs", crate_with(text));
        for path in ["/one", "/two"] {
            serves(&host, path, text).await;
        }
    }
    let built = lines(&host, "building");
    assert!(!built.is_empty() && built.iter().all(|line| line.contains("services=\"one, two\"")), "{built:?}");
    for (name, revision) in [("one", 3), ("two", 3), ("other", 1)] {
        assert_eq!(number(&host, &app, name).await, revision, "{name}");
    }

    // One of the users breaks: the other one goes on without it.
    let source = fs::read(app.folder().join("one/src/lib.rs")).expect("it is there");
    app.file("one/src/lib.rs", "not Rust");
    app.file("text/src/lib.rs", crate_with("newest"));
    serves(&host, "/two", "newest").await;
    let line = host.logged("the build failed").await;
    assert!(line.contains("services=\"one\""), "{line}");
    host.get("/one").await.assert_text(200, "newer");
    app.file("one/src/lib.rs", source);
    serves(&host, "/one", "newest").await;
    host.stop().await;
}

#[tokio::test]
async fn what_changes_during_a_build_is_built_after_it_and_the_last_one_serves_at_once() {
    let first = "echo \"$t\" >>../begun; while [ -e ../hold ]; do sleep 0.01; done";
    let stages = "rollout = { stages = [{ percent = 5, for = \"1h\" }] }";
    let app = by_command(first, ":", stages);
    let host = Host::start_with(&app, &["--watch"]).await;
    host.get("/hello").await.assert_text(200, "Hello, first!");
    let begun = || fs::read_to_string(app.folder().join("begun")).unwrap_or_default();

    let hold = app.file("hold", "");
    app.file("hello/text", "Hello, 2nd !!");
    eventually("the build has read it", async || if begun().contains("2nd") { Ok(()) } else { Err(begun()) }).await;
    // Too late for this build.
    app.file("hello/text", "Hello, 3rd !!");
    app.file("hello/text", "Hello, 4th !!");
    fs::remove_file(hold).expect("it is there");
    serves(&host, "/hello", "Hello, 4th !!").await;
    // And two in a row without anything in between.
    app.file("hello/text", "Hello, 5th !!");
    app.file("hello/text", "Hello, 6th !!");
    serves(&host, "/hello", "Hello, 6th !!").await;
    // In spite of the stages, all of the calls go there.
    for _ in 0..50 {
        host.get("/hello").await.assert_text(200, "Hello, 6th !!");
    }
    assert!(!begun().contains("3rd"), "{}", begun());
    host.stop().await;
}

#[tokio::test]
async fn what_a_build_has_written_half_is_left_alone_until_it_is_whole_or_has_failed() {
    let second = ": >../half; while [ -e ../hold ]; do sleep 0.01; done; [ ! -e ../fail ]";
    let app = by_command(":", &format!("{second} || exit 3"), "");
    let host = Host::start_with(&app, &["--watch"]).await;
    let half = app.folder().join("half");
    for (fails, text, other) in [(true, "Hello, 2nd !!", "Hello, oth2 !"), (false, "Hello, 3rd !!", "Hello, oth3 !")] {
        let _ = fs::remove_file(&half);
        let hold = app.file("hold", "");
        if fails {
            app.file("fail", "");
        } else {
            fs::remove_file(app.folder().join("fail")).expect("it is there");
        }
        app.file("hello/text", text);
        eventually("half of it is written", async || if half.exists() { Ok(()) } else { Err(host.log()) }).await;
        // What was written later than this half has been looked at, so the half has been too.
        fs::write(app.component("hello-p2"), patched("hello-p2", "Hello, world!", other)).expect("it can be written");
        serves(&host, "/other", other).await;
        fs::remove_file(hold).expect("it is there");
        if fails {
            let line = host.logged("the build failed").await;
            assert!(line.contains("services=\"hello\"") && line.contains("exit status: 3"), "{line}");
            host.get("/hello").await.assert_text(200, "Hello, first!");
        } else {
            serves(&host, "/hello", text).await;
        }
    }
    assert!(lines(&host, "refused").is_empty(), "{}", host.log());
    assert_eq!(number(&host, &app, "hello").await, 2);
    host.stop().await;
}

#[tokio::test]
async fn a_caller_that_needs_what_its_neighbour_offers_only_now_is_deployed_after_it() {
    let build = "build = \"mkdir -p made; cp it.wasm made/it.wasm\"";
    let app = App::new(&format!(
        "{}{}[[gateway.routes]]\npath = \"/echo\"\nservice = \"asker\"\n",
        service("asker", &format!("{build}\nartifact = \"made/it.wasm\"\ncalls = [\"callee\"]")),
        service("callee", &format!("{build}\nartifact = \"made/it.wasm\"")),
    ));
    let save = |service: &str, guest: &str| {
        fs::create_dir_all(app.folder().join(service)).expect("a folder");
        fs::copy(component(guest), app.folder().join(service).join("it.wasm")).expect("it was built");
    };
    save("asker", "hello-p3");
    save("callee", "hello-p3");
    let host = Host::start_with(&app, &["--watch"]).await;
    host.get("/echo").await.assert_text(200, "Hello, world!");
    save("asker", "linked-caller");
    save("callee", "linked-callee");
    serves(&host, "/echo", "same").await;
    host.stop().await;
}

#[tokio::test]
async fn a_signal_during_a_build_ends_it_with_all_that_it_has_started() {
    for signal in ["INT", "TERM"] {
        let first =
            "if [ \"$t\" = 'Hello, 2nd !!' ]; then sleep 1000 & echo $! >../pid.new; mv ../pid.new ../pid; wait; fi";
        let app = by_command(first, ":", "");
        let mut host = Host::start_with(&app, &["--watch"]).await;
        app.file("hello/text", "Hello, 2nd !!");
        let pid = eventually("the build runs", async || fs::read_to_string(app.folder().join("pid"))).await;
        let process = format!("/proc/{}/stat", pid.trim());
        let runs = || fs::read_to_string(&process).is_ok_and(|stat| !stat.contains(") Z "));
        assert!(runs(), "{process}");
        host.signal(signal);
        assert!(host.ended().await.success());
        eventually("what the build has started is gone", async || if runs() { Err(()) } else { Ok(()) }).await;
        assert!(lines(&host, "failed").is_empty(), "{}", host.log());
    }
}

#[tokio::test]
async fn sources_and_nothing_at_all_can_not_be_watched_at_once() {
    let app = by_command(":", ":", "");
    let done = app.wharf(&["up", "--watch", "--no-watch"]).await;
    assert_eq!(done.code(), Some(2), "{done:?}");
}

/// The lines of the audit log that say that the watch deployed something.
async fn by_watch(host: &Host, app: &App) -> usize {
    let audit = host.wharf(app, &["audit", "--json", "-n", "100"]).await;
    audit.stdout.matches("\"by\":\"watch\"").count()
}

#[tokio::test]
async fn what_is_built_to_be_looked_at_is_not_deployed() {
    let app = by_command("true", "true", "");
    let host = app.start().await;
    host.get("/hello").await.assert_text(200, "Hello, first!");

    app.file("hello/text", "Hello, other!");
    let plan = app.done(&["apply", "--dry-run"]).await;
    assert!(plan.stderr.contains("services.hello: component "), "{plan:?}");
    app.file("hello/text", "Hello, third!");
    app.done(&["check"]).await;
    // Asked, and nobody is there who would say yes.
    app.refused(&["apply"], &["nobody is there to be asked"]).await;
    // The watch has seen all of that.
    host.logged("built, and not deployed").await;
    host.get("/hello").await.assert_text(200, "Hello, first!");
    assert_eq!((number(&host, &app, "hello").await, by_watch(&host, &app).await), (1, 0), "{}", host.log());

    // It is deployed when that is asked for, once.
    app.done(&["apply", "--yes"]).await;
    host.get("/hello").await.assert_text(200, "Hello, third!");
    assert_eq!((number(&host, &app, "hello").await, by_watch(&host, &app).await), (2, 0), "{}", host.log());

    // What `wharf build` makes the watch deploys as before.
    app.file("hello/text", "Hello, fourth");
    app.done(&["build"]).await;
    serves(&host, "/hello", "Hello, fourth").await;
    host.stop().await;
}

#[tokio::test]
async fn a_hold_ends_with_the_one_who_asked_for_it() {
    // A build that waits for the test.
    let app = by_command("if [ -e wait ]; then touch waiting; while [ -e wait ]; do sleep 0.05; done; fi", "true", "");
    let host = app.start().await;
    app.file("hello/wait", "");
    app.file("hello/text", "Hello, other!");
    let mut check = app.spawn(&["check"]);
    let waiting = app.folder().join("hello/waiting");
    eventually("it is being built", async || if waiting.exists() { Ok(()) } else { Err(()) }).await;
    let made = app.folder().join("hello/made/hello.wasm");
    fs::write(&made, patched("hello-p3", "Hello, world!", "Hello, third!")).expect("it can be written");
    check.start_kill().expect("it runs");
    check.wait().await.expect("it is our child");
    host.logged("built, and not deployed").await;
    // From now on what changes is deployed.
    fs::write(&made, patched("hello-p3", "Hello, world!", "Hello, fifth!")).expect("it can be written");
    serves(&host, "/hello", "Hello, fifth!").await;
    fs::remove_file(app.folder().join("hello/wait")).expect("it is there");
    host.stop().await;
}
