//! Revisions: what was deployed is there after a restart, whatever the host died of, and can be gone back to.

use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use tokio::time::Instant;
use wharf_tests::{App, Done, HELLO, Host, at, eventually, patched};

/// The build of `hello-p3` that says this instead of "Hello, world!".
fn saying(text: &str) -> Vec<u8> {
    patched("hello-p3", "Hello, world!", text)
}

/// One that says which it is.
fn numbered(number: usize) -> (String, Vec<u8>) {
    let text = format!("Hello, {number:06}");
    let wasm = saying(&text);
    (text, wasm)
}

/// Deploys a component, which must succeed.
async fn deploy(host: &Host, app: &App, service: &str, file: &str) -> u64 {
    number(&well(host.wharf(app, &["deploy", service, file, "--json"]).await))
}

/// Goes back, which must succeed.
async fn roll_back(host: &Host, app: &App, more: &[&str]) -> u64 {
    let args: Vec<_> = ["rollback"].into_iter().chain(more.iter().copied()).chain(["--json"]).collect();
    number(&well(host.wharf(app, &args).await))
}

fn well(done: Done) -> Done {
    assert_eq!(done.code(), Some(0), "{done:?}");
    done
}

fn number(done: &Done) -> u64 {
    done.json()["number"].as_u64().expect("revisions have numbers")
}

/// What is said of something that is refused.
async fn refused(host: &Host, app: &App, args: &[&str]) -> String {
    let done = host.wharf(app, args).await;
    assert_eq!(done.code(), Some(1), "{done:?}");
    done.stderr
}

async fn history(host: &Host, app: &App, service: &str) -> Value {
    well(host.wharf(app, &["history", service, "--json"]).await).json()
}

/// The history as lines like `2 replaced: by revision 3`, oldest first.
async fn told(host: &Host, app: &App, service: &str) -> Vec<String> {
    let history = history(host, app, service).await;
    let revisions = history["revisions"].as_array().expect("a list").iter().rev();
    let line = |it: &Value| {
        let why = it["why"].as_str().map(|why| format!(": {why}")).unwrap_or_default();
        format!("{} {}{why}", it["number"], it["standing"].as_str().unwrap_or_default())
    };
    revisions.map(line).collect()
}

async fn running(host: &Host, app: &App, service: &str) -> (u64, String) {
    let revision = host.service(app, service).await["revision"].clone();
    (revision["number"].as_u64().unwrap_or_default(), revision["hash"].as_str().unwrap_or_default().to_owned())
}

/// The files of a kind in the folder of revisions.
fn files(app: &App, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(app.data().join("revisions")).expect("it is there");
    let paths = entries.map(|entry| entry.expect("it can be read").path());
    paths.filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
}

/// The audit log as words, without the time: `deploy hello done`.
fn audited(app: &App) -> Vec<String> {
    let text = fs::read_to_string(app.data().join("audit.log")).expect("there is one");
    let words = text.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let words = ["by", "what", "service", "revision", "outcome"].map(|key| match &line[key] {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        });
        words.iter().filter(|word| !word.is_empty()).cloned().collect::<Vec<_>>().join(" ")
    });
    words.collect()
}

#[tokio::test]
async fn a_restart_goes_on_with_what_was_deployed() {
    let app = App::new(HELLO);
    for n in 2..=3 {
        app.file(&format!("{n}.wasm"), numbered(n).1);
    }
    let host = app.start().await;
    let manifests = running(&host, &app, "hello").await;
    assert_eq!(deploy(&host, &app, "hello", "2.wasm").await, 2);
    assert_eq!(deploy(&host, &app, "hello", "3.wasm").await, 3);
    let deployed = running(&host, &app, "hello").await;
    host.stop().await;

    let host = app.start().await;
    host.get("/hello").await.assert_text(200, &numbered(3).0);
    assert_eq!(running(&host, &app, "hello").await, deployed);
    // The one that watches takes it for nothing new that the manifest names another one.
    let seen = fs::read(app.component("hello-p3")).expect("it is there");
    fs::write(app.component("hello-p3"), seen).expect("it can be written");
    assert_eq!(roll_back(&host, &app, &["hello"]).await, 2);
    host.get("/hello").await.assert_text(200, &numbered(2).0);
    host.stop().await;

    // What was gone back to as well; and the compiled code is not needed for it.
    fs::remove_dir_all(app.data().join("cache")).expect("it is there");
    let host = app.start().await;
    host.get("/hello").await.assert_text(200, &numbered(2).0);
    assert_eq!(running(&host, &app, "hello").await.0, 2);
    assert_eq!(
        told(&host, &app, "hello").await,
        ["1 replaced: by revision 2", "2 serving", "3 undone: rolled back to revision 2"]
    );
    host.stop().await;

    // Unless one asks for what the manifest says.
    let host = Host::start_with(&app, &["--from-manifest"]).await;
    host.get("/hello").await.assert_text(200, "Hello, world!");
    assert_eq!(running(&host, &app, "hello").await, (4, manifests.1.clone()));
    host.stop().await;
    let host = app.start().await;
    assert_eq!(running(&host, &app, "hello").await, (4, manifests.1));
    host.stop().await;
}

#[tokio::test]
async fn a_component_of_the_manifest_that_is_another_one_since_is_a_new_revision() {
    let app = App::new(HELLO);
    app.file("2.wasm", numbered(2).1);
    let host = app.start().await;
    deploy(&host, &app, "hello", "2.wasm").await;
    host.stop().await;
    fs::write(app.component("hello-p3"), numbered(3).1).expect("it can be written");
    let host = app.start().await;
    host.get("/hello").await.assert_text(200, &numbered(3).0);
    assert_eq!(running(&host, &app, "hello").await.0, 3);

    // While it runs, too, and then that is what a restart begins with.
    fs::write(app.component("hello-p3"), numbered(4).1).expect("it can be written");
    eventually("the changed file serves", async || match running(&host, &app, "hello").await.0 {
        4 => Ok(()),
        other => Err(other),
    })
    .await;
    assert_eq!(deploy(&host, &app, "hello", "2.wasm").await, 5);
    host.stop().await;
    let host = app.start().await;
    assert_eq!(running(&host, &app, "hello").await.0, 5);
    // The manifest's becomes what runs anyway: that is no other revision.
    fs::copy(app.folder().join("2.wasm"), app.component("hello-p3")).expect("it can be written");
    eventually("that is seen", async || match audited(&app).last().map(String::as_str) {
        Some("watch deploy hello 5 unchanged") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    host.stop().await;
    let host = app.start().await;
    assert_eq!(running(&host, &app, "hello").await.0, 5);
    host.stop().await;
}

#[tokio::test]
async fn the_last_few_are_kept_with_their_components_and_no_others() {
    let app = App::new(&format!("[app]\nname = \"test\"\ndata = \"data\"\nrevisions = 3\n{HELLO}"));
    let host = app.start().await;
    for n in 2..=6 {
        app.file("next.wasm", numbered(n).1);
        assert_eq!(deploy(&host, &app, "hello", "next.wasm").await, n as u64);
    }
    assert_eq!(
        told(&host, &app, "hello").await,
        ["4 replaced: by revision 5", "5 replaced: by revision 6", "6 serving"]
    );
    assert_eq!(files(&app, "wasm").len(), 3);
    let said = refused(&host, &app, &["rollback", "hello", "2"]).await;
    assert!(said.contains("has no revision 2 to go back to; 4, 5 and 6 are kept"), "{said}");
    let said = refused(&host, &app, &["rollback", "hallo"]).await;
    assert!(said.contains("did you mean `hello`?"), "{said}");
    assert_eq!(roll_back(&host, &app, &["hello", "4"]).await, 4);
    host.get("/hello").await.assert_text(200, &numbered(4).0);
    // There and back.
    assert_eq!(roll_back(&host, &app, &["hello"]).await, 6);
    assert_eq!(roll_back(&host, &app, &["hello"]).await, 4);
    let done = well(host.wharf(&app, &["rollback", "hello", "4"]).await);
    assert!(done.stderr.contains("revision 4") && done.stderr.contains("serves already"), "{done:?}");
    let table = well(host.wharf(&app, &["history", "hello"]).await).stdout;
    assert!(table.lines().any(|line| line.starts_with("4 *") && line.contains("serving")), "{table}");
    host.stop().await;

    // What a host that died left in the folder goes at the next start.
    fs::write(app.data().join("revisions/.0123.tmp"), "half").expect("it can be written");
    fs::write(app.data().join(format!("revisions/{}.wasm", "0".repeat(64))), "nobody's").expect("it can be written");
    let host = app.start().await;
    assert_eq!((files(&app, "wasm").len(), files(&app, "tmp").len()), (3, 0));
    host.stop().await;
}

#[tokio::test]
async fn a_revision_tells_what_its_component_says_of_itself() {
    let app = App::new(HELLO);
    let host = app.start().await;
    let history = history(&host, &app, "hello").await;
    let revision = &history["revisions"][0];
    assert!(revision["producers"]["language"].get("Rust").is_some(), "{history}");
    assert!(revision["name"].as_str().is_some_and(|name| name.contains("hello")), "{history}");
    assert_eq!(host.service(&app, "hello").await["revision"]["producers"], revision["producers"]);
    host.stop().await;
}

#[tokio::test]
async fn what_cannot_be_read_says_what_to_do() {
    let app = App::new(HELLO);
    app.file("2.wasm", numbered(2).1);
    let host = app.start().await;
    deploy(&host, &app, "hello", "2.wasm").await;
    let hash = running(&host, &app, "hello").await.1;
    host.stop().await;

    let record = app.data().join("revisions/hello.json");
    let good = fs::read_to_string(&record).expect("it is there");
    for (bad, reason) in [
        (good[..good.len() / 2].to_owned(), "EOF"),
        (good.replace("\"current\": 2", "\"current\": 7"), "the revision that serves is not among those in it"),
        (good.replace("\"format\": 1", "\"format\": 9"), "format 9"),
    ] {
        fs::write(&record, bad).expect("it can be written");
        let done = app.wharf(&["up"]).await;
        assert_eq!(done.code(), Some(1), "{done:?}");
        for word in ["hello.json can't be read: ", reason, "move it away"] {
            assert!(done.stderr.contains(word), "{word}: {done:?}");
        }
    }
    fs::write(&record, &good).expect("it can be written");

    // A component that is damaged, and no compiled code in its place.
    fs::remove_dir_all(app.data().join("cache")).expect("it is there");
    let component = app.data().join(format!("revisions/{hash}.wasm"));
    fs::write(&component, numbered(9).1).expect("it can be written");
    let done = app.wharf(&["up"]).await;
    assert_eq!(done.code(), Some(1), "{done:?}");
    for word in ["its content is another one", "--from-manifest", "wharf.toml:"] {
        assert!(done.stderr.contains(word), "{word}: {done:?}");
    }
    let host = Host::start_with(&app, &["--from-manifest"]).await;
    host.get("/hello").await.assert_text(200, "Hello, world!");
    host.stop().await;
}

#[tokio::test]
async fn a_kept_revision_that_does_not_fit_any_more_is_told_with_the_way_out() {
    let manifest = "[services.hello]\ncomponent = \"<hello-p3>\"\ndatabase = true\n";
    let app = App::new(manifest);
    app.file("2.wasm", migrating("no handler", &STEPS[..1]));
    let host = app.start().await;
    assert_eq!(deploy(&host, &app, "hello", "2.wasm").await, 2);
    host.stop().await;
    // Now it would have to handle HTTP, as the manifest's component does.
    app.write(&format!("{manifest}\n[[gateway.routes]]\npath = \"/hello\"\nservice = \"hello\"\n"));
    let done = app.wharf(&["up"]).await;
    assert_eq!(done.code(), Some(1), "{done:?}");
    for word in ["`hello` with its revision 2", "not the component of the manifest", "wharf up --from-manifest"] {
        assert!(done.stderr.contains(word), "{word}: {done:?}");
    }
    // The schema is what the revision that served last made of it, and the manifest's component knows nothing of it.
    let done = app.wharf(&["up", "--from-manifest"]).await;
    assert!(done.stderr.contains("schema version 1, but the component knows only 0"), "{done:?}");
    app.write(manifest);
    let host = app.start().await;
    assert_eq!(running(&host, &app, "hello").await.0, 2);
    host.stop().await;
}

#[tokio::test]
async fn a_deploy_that_is_killed_has_happened_or_has_not() {
    let kills = std::env::var("WHARF_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(20);
    let app = App::new(HELLO);
    let mut host = app.start().await;
    // How long it takes here, so that the kills are spread over it.
    app.file("next.wasm", numbered(999_999).1);
    let begun = Instant::now();
    deploy(&host, &app, "hello", "next.wasm").await;
    let takes = begun.elapsed();
    let (mut before, mut after) = (0, 0);
    let mut serves = numbered(999_999).0;
    for kill in 0..kills {
        let (number_before, hash_before) = running(&host, &app, "hello").await;
        let (text, wasm) = numbered(kill);
        app.file("next.wasm", wasm);
        let recorded_before = record(&app, "hello");
        let deploying = app.spawn(&["deploy", "hello", "next.wasm"]);
        let at = if kill % 2 == 0 {
            // In turn over the whole of it and a little beyond.
            let at = takes.mul_f64(1.3 * (((kill * 7) % kills) as f64 + 0.5) / kills as f64);
            tokio::time::sleep(at).await;
            at
        } else {
            // While it is recorded, migrated, warmed up and put in place.
            recorded(&app, "hello", &recorded_before).await;
            let at = Duration::from_micros(kill as u64 * 397 % 8000);
            spin(at);
            at
        };
        host.signal("KILL");
        host.ended().await;
        let answered = deploying.wait_with_output().await.expect("it ends").status.success();

        host = app.start().await;
        let (number, hash) = running(&host, &app, "hello").await;
        let answer = host.get("/hello").await.text().to_owned();
        if hash == hash_before {
            assert_eq!((number, &answer), (number_before, &serves), "{at:?}");
            assert!(!answered, "what was acknowledged is gone: {at:?}");
            before += 1;
        } else {
            assert!(number > number_before, "{number} after {number_before}: {at:?}");
            assert_eq!(answer, text, "{at:?}");
            after += 1;
        }
        serves = answer;
        let history = history(&host, &app, "hello").await;
        assert_eq!(history["current"], number, "{history}");
        let revisions = history["revisions"].as_array().expect("a list");
        let current = revisions.iter().find(|it| it["number"] == number).expect("it is there");
        assert_eq!((&current["hash"], &current["standing"]), (&hash.into(), &"serving".into()), "{history}");
        let standings: Vec<_> = revisions.iter().map(|it| it["standing"].as_str().unwrap_or_default()).collect();
        assert_eq!(standings.iter().filter(|it| **it == "serving").count(), 1, "{history}");
        assert!(!standings.contains(&"coming"), "{history}");
        assert!(files(&app, "tmp").is_empty());
        let kept = revisions.iter().filter(|it| it["standing"] != "failed").count();
        assert_eq!(files(&app, "wasm").len(), kept, "{history}");
    }
    println!("{kills} kills within {takes:?}: {before} before, {after} after");
    // The last one that was there can be gone back to, and the numbers go on.
    let (number, _) = running(&host, &app, "hello").await;
    app.file("next.wasm", numbered(900_000).1);
    assert!(deploy(&host, &app, "hello", "next.wasm").await > number);
    assert_eq!(roll_back(&host, &app, &["hello"]).await, number);
    host.get("/hello").await.assert_text(200, &serves);
    host.stop().await;
}

/// The record of a service, as it is on the disk.
fn record(app: &App, service: &str) -> String {
    fs::read_to_string(app.data().join(format!("revisions/{service}.json"))).expect("it is always there, and whole")
}

/// Waits until the record is another one: a revision is coming, or has come already.
async fn recorded(app: &App, service: &str, before: &str) {
    let end = Instant::now() + wharf_tests::PATIENCE;
    while record(app, service) == before {
        assert!(Instant::now() < end, "no revision is coming");
        tokio::task::yield_now().await;
    }
}

/// Waits for less time than timers can tell.
fn spin(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

#[tokio::test]
async fn a_deploy_that_is_killed_while_it_migrates_leaves_a_host_that_starts() {
    let kills = std::env::var("WHARF_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(20_usize).div_ceil(2);
    let sql: Vec<_> = (0..=kills).map(|n| format!("CREATE TABLE things_{n} (id INTEGER PRIMARY KEY)")).collect();
    let steps: Vec<_> = sql.iter().map(|sql| ("make things", sql.as_str())).collect();
    let app = keeper_of(&migrating("first", &steps[..1]));
    let mut host = app.start().await;
    let (mut before, mut after) = (0, 0);
    for kill in 0..kills {
        let number_before = running(&host, &app, "keeper").await.0;
        app.file("next.wasm", migrating(&format!("step {kill}"), &steps[..kill + 2]));
        let recorded_before = record(&app, "keeper");
        let deploying = app.spawn(&["deploy", "keeper", "next.wasm"]);
        recorded(&app, "keeper", &recorded_before).await;
        spin(Duration::from_micros(kill as u64 * 997 % 10_000));
        host.signal("KILL");
        host.ended().await;
        drop(deploying);

        host = app.start().await;
        let number = running(&host, &app, "keeper").await.0;
        let history = history(&host, &app, "keeper").await;
        assert_eq!(history["current"], number, "{history}");
        if number == number_before { before += 1 } else { after += 1 }
    }
    println!("{kills} kills: {before} before, {after} after");
    app.file("next.wasm", migrating("last", &steps));
    deploy(&host, &app, "keeper", "next.wasm").await;
    let history = history(&host, &app, "keeper").await;
    assert_eq!((&history["schema"], &history["revisions"][0]["schema"]), (&steps.len().into(), &steps.len().into()));
    host.stop().await;
}

#[tokio::test]
async fn deploys_and_rollbacks_of_one_service_at_once_come_one_after_the_other() {
    let app = App::new(&["one", "other"].map(|name| at(name, "hello-p3", "")).concat());
    let host = app.start().await;
    let load = host.load("/one", 4);
    for n in 2..=5 {
        app.file(&format!("{n}.wasm"), numbered(n).1);
    }
    deploy(&host, &app, "one", "2.wasm").await;
    let (first, second, back, other) = tokio::join!(
        host.wharf(&app, &["deploy", "one", "3.wasm", "--json"]),
        host.wharf(&app, &["deploy", "one", "4.wasm", "--json"]),
        host.wharf(&app, &["rollback", "one", "1", "--json"]),
        host.wharf(&app, &["deploy", "other", "5.wasm", "--json"]),
    );
    let mut numbers = [number(&well(first)), number(&well(second))];
    numbers.sort_unstable();
    assert_eq!(numbers, [3, 4]);
    assert_eq!((number(&well(back)), number(&well(other))), (1, 2));
    let history = history(&host, &app, "one").await;
    let (now, hash) = running(&host, &app, "one").await;
    assert_eq!(history["current"], now, "{history}");
    let texts = load.all_served().await;
    assert!(!texts.answers.is_empty());
    let answer = host.get("/one").await.text().to_owned();
    host.stop().await;
    let host = app.start().await;
    assert_eq!(running(&host, &app, "one").await, (now, hash));
    host.get("/one").await.assert_text(200, &answer);
    host.get("/other").await.assert_text(200, &numbered(5).0);
    host.stop().await;
}

#[tokio::test]
async fn the_audit_log_says_who_did_what() {
    let app = App::new(HELLO);
    app.file("2.wasm", numbered(2).1);
    app.file("bad.wasm", b"no component");
    let host = app.start().await;
    deploy(&host, &app, "hello", "2.wasm").await;
    refused(&host, &app, &["deploy", "hello", "bad.wasm"]).await;
    roll_back(&host, &app, &["hello"]).await;
    well(host.wharf(&app, &["breaker", "force-open", "gateway -> hello"]).await);
    well(host.wharf(&app, &["reload"]).await);
    host.stop().await;
    let expected = [
        "start deploy hello 1 done",
        "socket deploy hello begun",
        "socket deploy hello 2 done",
        "socket deploy hello begun",
        "socket deploy hello refused",
        "socket rollback hello begun",
        "socket rollback hello 1 done",
        "socket breaker done",
        "socket reload done",
    ];
    assert_eq!(audited(&app), expected);
    // Without a host, too.
    let last = well(app.wharf(&["audit", "--json", "-n", "5"]).await).stdout;
    let last: Vec<Value> = last.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(last.len(), 5);
    let reason = last[0]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("it is not a WebAssembly file"), "{last:?}");
    let own = fs::metadata(app.folder()).map(|it| std::os::unix::fs::MetadataExt::uid(&it)).expect("it is there");
    assert!(last.iter().all(|entry| entry["uid"] == own && entry["pid"].as_u64().is_some()), "{last:?}");
    assert!(last[3]["detail"].as_str().is_some_and(|detail| detail.contains("gateway -> hello")), "{last:?}");
    let table = well(app.wharf(&["audit"]).await).stdout;
    assert!(table.contains("it is not a WebAssembly file"), "{table}");
}

/// A small file system in memory; gone after the test.
struct Small(PathBuf);

impl Small {
    fn mount(at: &Path) -> Option<Self> {
        fs::create_dir(at).expect("it can be made");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(at).output();
        mount.is_ok_and(|output| output.status.success()).then(|| Self(at.to_owned()))
    }

    /// Fills it to the last page.
    fn fill(&self) {
        use std::io::Write as _;
        let mut file = fs::File::create(self.0.join("ballast")).expect("there is room for a file");
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("ballast")).expect("it is there");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[tokio::test]
async fn on_a_full_disk_a_deploy_is_refused_and_what_runs_goes_on() {
    let app = App::new(HELLO);
    let Some(small) = Small::mount(&app.data()) else {
        println!("NOT TESTED: no small file system can be mounted here, which takes root");
        return;
    };
    app.file("2.wasm", numbered(2).1);
    app.file("3.wasm", numbered(3).1);
    let host = app.start().await;
    deploy(&host, &app, "hello", "2.wasm").await;
    let before = running(&host, &app, "hello").await;
    small.fill();
    for args in [["deploy", "hello", "3.wasm"], ["rollback", "hello", "1"]] {
        let said = refused(&host, &app, &args).await;
        for word in ["can't be written", "No space left on device", "what runs goes on as it was"] {
            assert!(said.contains(word), "{word}: {said}");
        }
        assert_eq!(running(&host, &app, "hello").await, before);
        host.get("/hello").await.assert_text(200, &numbered(2).0);
    }
    small.make_room();
    assert_eq!(deploy(&host, &app, "hello", "3.wasm").await, 3);
    host.stop().await;
    let host = app.start().await;
    host.get("/hello").await.assert_text(200, &numbered(3).0);
    host.stop().await;
}

/// A component that has these migrations and does nothing else. `tag` makes it another one than others with the same.
fn migrating(tag: &str, migrations: &[(&str, &str)]) -> Vec<u8> {
    // The list of records at 16, the texts after it.
    let record = 20;
    let (mut records, mut texts) = (Vec::new(), Vec::new());
    let at = |text: &str, texts: &mut Vec<u8>| {
        let place = 16 + migrations.len() * record + texts.len();
        texts.extend(text.as_bytes());
        [place, text.len()].map(|number| u32::try_from(number).expect("it is small").to_le_bytes()).concat()
    };
    for (version, (name, sql)) in (1_u32..).zip(migrations) {
        records.extend(version.to_le_bytes());
        records.extend(at(name, &mut texts));
        records.extend(at(sql, &mut texts));
    }
    let list = [16_u32, u32::try_from(migrations.len()).expect("they are few")].map(u32::to_le_bytes).concat();
    let bytes = |bytes: &[u8]| bytes.iter().map(|byte| format!("\\{byte:02x}")).collect::<String>();
    let text = format!(
        r#"(component $"{tag}"
            (core module $m
                (memory (export "memory") 1)
                (data (i32.const 0) "{}")
                (data (i32.const 16) "{}{}")
                (func (export "migrations") (result i32) (i32.const 0)))
            (core instance $i (instantiate $m))
            (type $migration' (record (field "version" u32) (field "name" string) (field "sql" string)))
            (func $f (result (list $migration')) (canon lift (core func $i "migrations") (memory (core memory $i "memory"))))
            (component $c
                (type $r (record (field "version" u32) (field "name" string) (field "sql" string)))
                (import "import-type-migration" (type $t (eq $r)))
                (import "import-func" (func $f (result (list $t))))
                (export $e "migration" (type $r))
                (export "migrations" (func $f) (func (result (list $e)))))
            (instance $exported (instantiate $c
                (with "import-func" (func $f)) (with "import-type-migration" (type $migration'))))
            (export "wharf:store/migrations@0.1.0" (instance $exported)))"#,
        bytes(&list),
        bytes(&records),
        bytes(&texts),
    );
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}"))
}

/// An application of one service with a database, `keeper`.
fn keeper_of(component: &[u8]) -> App {
    let app = App::new("[services.keeper]\ncomponent = \"keeper.wasm\"\ndatabase = true\n");
    app.file("keeper.wasm", component);
    app
}

/// It, with one migration, and components with more of them.
fn keeper() -> App {
    let app = keeper_of(&migrating("first", &STEPS[..1]));
    app.file("2.wasm", migrating("second", &STEPS[..2]));
    app.file("3.wasm", migrating("third", &STEPS));
    app
}

const STEPS: [(&str, &str); 3] = [
    ("create things", "CREATE TABLE things (id INTEGER PRIMARY KEY)"),
    ("name things", "ALTER TABLE things ADD COLUMN name TEXT"),
    ("weigh things", "ALTER TABLE things ADD COLUMN weight REAL"),
];

#[tokio::test]
async fn going_back_past_migrations_takes_force() {
    let app = keeper();
    let host = app.start().await;
    assert_eq!(deploy(&host, &app, "keeper", "2.wasm").await, 2);
    assert_eq!(deploy(&host, &app, "keeper", "3.wasm").await, 3);
    let said = refused(&host, &app, &["rollback", "keeper"]).await;
    assert!(said.contains("revision 2 does not know migration 3 (`weigh things`)"), "{said}");
    let said = refused(&host, &app, &["rollback", "keeper", "1"]).await;
    for word in ["revision 1 does not know migrations 2 (`name things`) and 3 (`weigh things`)", "--force"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert_eq!(running(&host, &app, "keeper").await.0, 3);
    assert_eq!(roll_back(&host, &app, &["keeper", "1", "--force"]).await, 1);
    let told = well(host.wharf(&app, &["history", "keeper"]).await).stdout;
    assert!(told.contains("1 (the database has 3)"), "{told}");
    host.stop().await;

    // Whoever forced it has decided that for the restarts too.
    let host = app.start().await;
    assert_eq!(running(&host, &app, "keeper").await.0, 1);
    assert!(host.log().contains("runs on a newer schema than it knows"), "{}", host.log());
    // Forward again nothing is in the way.
    assert_eq!(roll_back(&host, &app, &["keeper"]).await, 3);
    let history = history(&host, &app, "keeper").await;
    assert_eq!((&history["schema"], &history["revisions"][0]["schema"]), (&3.into(), &3.into()), "{history}");
    host.stop().await;
}

#[tokio::test]
async fn a_deploy_that_fails_after_it_migrated_says_so_and_the_old_revision_goes_on() {
    let app = keeper();
    let host = app.start().await;
    let bad = [STEPS[0], STEPS[1], ("break things", "ALTER TABLE nothing ADD COLUMN weight REAL")];
    app.file("bad.wasm", migrating("bad", &bad));
    let said = refused(&host, &app, &["deploy", "keeper", "bad.wasm"]).await;
    for word in
        ["migration 3 (`break things`) failed", "It had applied migration 2 (`name things`) before", "revision 1"]
    {
        assert!(said.contains(word), "{word}: {said}");
    }
    let lines = told(&host, &app, "keeper").await;
    assert!(
        lines[0].starts_with("1 serving: migration 2 (`name things`) was applied for a revision that failed"),
        "{lines:?}"
    );
    assert!(lines[1].starts_with("2 failed: service `keeper`: migration 3 (`break things`) failed"), "{lines:?}");
    host.stop().await;
    // And it is still what serves after a restart, with the same said of it.
    let host = app.start().await;
    assert_eq!(running(&host, &app, "keeper").await.0, 1);
    assert_eq!(told(&host, &app, "keeper").await, lines);
    // One that knows them all is welcome.
    assert_eq!(deploy(&host, &app, "keeper", "3.wasm").await, 3);
    host.stop().await;
}

/// Not a test of a bound, but what the README says of it.
#[tokio::test]
async fn a_rollback_compiles_nothing() {
    let app = App::new(HELLO);
    app.file("2.wasm", numbered(2).1);
    let host = app.start().await;
    deploy(&host, &app, "hello", "2.wasm").await;
    let mut times = Vec::new();
    for _ in 0..10 {
        let begun = Instant::now();
        roll_back(&host, &app, &["hello"]).await;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    println!("rollback by the command line: median {:?}, slowest {:?}", times[5], times[9]);
    assert!(times[0] < Duration::from_secs(10), "{times:?}");
    host.stop().await;
}

#[tokio::test]
async fn what_becomes_of_the_schema_is_shown_and_a_deploy_past_migrations_takes_force_too() {
    let app = keeper_of(&migrating("first", &STEPS[..2]));
    app.file("more.wasm", migrating("more", &STEPS));
    app.file("fewer.wasm", migrating("fewer", &STEPS[..1]));
    let host = Host::start_with(&app, &["--no-watch"]).await;
    let more = app.done(&["diff", "keeper", "more.wasm"]).await;
    assert!(more.stdout.contains("it would migrate: `weigh things`"), "{more:?}");
    let fewer = app.done(&["diff", "keeper", "fewer.wasm"]).await;
    assert!(fewer.stdout.contains("it does not know what the database has: `name things`"), "{fewer:?}");
    let json = app.done(&["diff", "keeper", "fewer.wasm", "--json"]).await.json();
    assert_eq!(json["schema"]["unknown"], serde_json::json!(["name things"]), "{json}");
    // It was only looked at.
    assert_eq!(host.service(&app, "keeper").await["revision"]["number"], 1);

    let said = ["does not know migration 2 (`name things`)", "--force"];
    app.refused(&["deploy", "keeper", "fewer.wasm"], &said).await;
    app.refused(&["deploy", "keeper", "fewer.wasm", "--stage", "percent=100,for=1s"], &said).await;
    app.done(&["deploy", "keeper", "fewer.wasm", "--force"]).await;
    let number = host.service(&app, "keeper").await["revision"]["number"].clone();
    host.logged("runs on a newer schema than it knows").await;

    // What the manifest names is put in place the same way.
    let named = app.folder().join("keeper.wasm");
    app.done(&["deploy", "keeper", &named.display().to_string()]).await;
    std::fs::copy(app.folder().join("fewer.wasm"), &named).expect("it can be written");
    app.refused(&["apply", "--yes"], &said).await;
    app.done(&["apply", "--yes", "--force"]).await;
    let now = host.service(&app, "keeper").await["revision"]["number"].clone();
    assert!(now.as_u64() > number.as_u64(), "{now}");
    host.stop().await;
}
