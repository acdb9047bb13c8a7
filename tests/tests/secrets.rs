//! Secrets: read from where they are kept, rotated while the host runs, and shown by nothing.

use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    net::TcpListener,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};
use wharf_tests::{Answer, App, Host, Load, Postgres, Redis, below, eventually, request};

/// What the guest answers for a value: FNV-1a.
fn hash(text: &str) -> String {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    format!("{:016x}", text.bytes().fold(0xcbf2_9ce4_8422_2325, step))
}

/// A service with these secrets, beside one without any.
fn confidant(secrets: &str) -> String {
    below("confidant", "confidant", &format!("secrets = {secrets}")) + &below("hello", "hello-p3", "")
}

fn path(key: &str) -> String {
    format!("/confidant/hash?key={key}")
}

async fn has(host: &Host, key: &str, value: &str) {
    host.get(&path(key)).await.assert_text(200, &hash(value));
}

async fn comes_to_have(host: &Host, key: &str, value: &str) {
    eventually("the new value is in use", async || {
        let answer = host.get(&path(key)).await;
        if answer.text() == hash(value) { Ok(()) } else { Err((answer, host.log())) }
    })
    .await;
}

async fn reaches(load: &Load, more: usize) {
    let due = load.count() + more;
    eventually("requests", async || if load.count() >= due { Ok(()) } else { Err(load.count()) }).await;
}

/// That all requests were answered, with the hash of one of these.
async fn only(load: Load, values: &[&str]) {
    let known: BTreeSet<_> = values.iter().map(|value| hash(value)).collect();
    let report = load.all_served().await;
    let seen: BTreeSet<_> = report.answers.iter().map(|(answer, _)| answer.text().to_owned()).collect();
    assert_eq!(seen, known);
}

/// The rotations in the audit log: what was rotated of which service, and what came of it.
fn audited(app: &App) -> Vec<String> {
    let text = fs::read_to_string(app.data().join("audit.log")).expect("there is one");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line is JSON"));
    let rotations = lines.filter(|line| line["what"] == "rotate secrets");
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    rotations.map(|it| [&it["service"], &it["detail"], &it["outcome"], &it["by"]].map(word).join(" ")).collect()
}

/// A folder of secrets as kubelet makes it. Each state is a hidden folder, and `..data` is a link to the present one.
struct Mounted {
    folder: PathBuf,
    state: u32,
}

impl Mounted {
    fn new(folder: PathBuf, secrets: &[(&str, &str)]) -> Self {
        fs::create_dir(&folder).expect("it can be made");
        let mut mounted = Self { folder, state: 0 };
        mounted.swap(secrets);
        mounted
    }

    /// As kubelet's atomic writer: a new state is written, the link to it put in place by a rename, then links to what is
    /// new in it are made and those to what is gone removed, and at last the state of before is.
    fn swap(&mut self, secrets: &[(&str, &str)]) {
        let at = |name: &str| self.folder.join(name);
        let (before, now) = (format!("..{}", self.state), format!("..{}", self.state + 1));
        fs::create_dir(at(&now)).expect("it can be made");
        for (key, value) in secrets {
            fs::write(at(&now).join(key), value).expect("it can be written");
        }
        symlink(&now, at("..data_tmp")).expect("it can be linked");
        fs::rename(at("..data_tmp"), at("..data")).expect("it can be renamed");
        for (key, _) in secrets.iter().filter(|(key, _)| !at(key).is_symlink()) {
            symlink(Path::new("..data").join(key), at(key)).expect("it can be linked");
        }
        for entry in fs::read_dir(&self.folder).expect("it is there") {
            let entry = entry.expect("it can be read");
            let name = entry.file_name().into_string().expect("it is text");
            if !name.starts_with('.') && !secrets.iter().any(|(key, _)| *key == name) {
                fs::remove_file(entry.path()).expect("it can be removed");
            }
        }
        if self.state > 0 {
            fs::remove_dir_all(at(&before)).expect("it can be removed");
        }
        self.state += 1;
    }
}

#[tokio::test]
async fn secrets_come_from_the_environment_from_files_and_from_folders() {
    let app = App::new(&confidant("[\"folder:more\", { one = \"env:ONE\", two = \"file:two\" }]"));
    let app = app.with_env("ONE", "the first");
    app.file("two", "the second\n");
    Mounted::new(app.folder().join("more"), &[("three", "the third"), ("db.password", "the fourth")]);
    let host = app.start().await;
    host.get("/confidant/keys").await.assert_text(200, "db.password,one,three,two");
    for (key, value) in
        [("one", "the first"), ("two", "the second"), ("three", "the third"), ("db.password", "the fourth")]
    {
        has(&host, key, value).await;
    }
    let limits = fs::read_to_string(format!("/proc/{}/limits", host.pid())).expect("it runs");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("there is one");
    assert!(matches!(core.split_whitespace().nth(4), Some("0" | "1")), "{core}");
    host.stop().await;
}

#[tokio::test]
async fn what_is_no_secret_is_told_at_its_line() {
    let app = App::new(&confidant("\"folder:more\""));
    app.refused(&["up"], &["wharf.toml:", "services.confidant.secrets: the folder of secrets", "cannot be read"]).await;
    fs::create_dir(app.folder().join("more")).expect("it can be made");
    app.refused(&["up"], &["services.confidant.secrets: the folder", "holds no secret"]).await;
    fs::create_dir(app.folder().join("more/sub")).expect("it can be made");
    app.refused(&["up"], &["more/sub` in a folder of secrets is no file"]).await;
    fs::remove_dir(app.folder().join("more/sub")).expect("it can be removed");
    app.file("more/\u{1b}[31m", "hunter2");
    app.refused(&["up"], &["the file `\\u{1b}[31m` in the folder", "can't be a secret's key"]).await;
}

#[tokio::test]
async fn a_file_that_changes_is_in_use_soon_without_a_lost_request_and_without_the_watch() {
    let app = App::new(&confidant("{ key = \"file:key\" }"));
    app.file("key", "old");
    let host = Host::start_with(&app, &["--no-watch"]).await;
    let before = host.service(&app, "confidant").await["revision"].clone();
    // Nor is the manifest looked at, which nobody has applied.
    app.write("this is no manifest");
    let load = host.load(&path("key"), 4);
    reaches(&load, 100).await;
    // In place, in two goes.
    let mut file = fs::File::create(app.folder().join("key")).expect("it can be written");
    file.write_all(b"the first half, ").expect("it can be written");
    file.sync_all().expect("it can be written");
    file.write_all(b"the second").expect("it can be written");
    drop(file);
    comes_to_have(&host, "key", "the first half, the second").await;
    // By another file in its place.
    fs::rename(app.file("key.new", "renamed\n"), app.folder().join("key")).expect("it can be renamed");
    comes_to_have(&host, "key", "renamed").await;
    reaches(&load, 100).await;
    only(load, &["old", "the first half, the second", "renamed"]).await;

    let log = host.log();
    assert_eq!(log.matches("secrets rotated service=\"confidant\" secrets=\"key\"").count(), 2, "{log}");
    assert_eq!(audited(&app), ["confidant key done watch"; 2]);
    app.write(&confidant("{ key = \"file:key\" }"));
    assert_eq!(host.service(&app, "confidant").await["revision"], before);
    assert!(!host.log().contains("ERROR"), "{}", host.log());
    host.stop().await;
}

#[tokio::test]
async fn a_mounted_secret_is_swapped_as_kubelet_does_without_a_lost_request() {
    let app = App::new(&confidant("\"folder:mounted\""));
    let mut mounted = Mounted::new(app.folder().join("mounted"), &[("key", "old"), ("gone", "x")]);
    let host = Host::start_with(&app, &["--no-watch"]).await;
    host.get("/confidant/keys").await.assert_text(200, "gone,key");
    let load = host.load(&path("key"), 4);
    reaches(&load, 100).await;
    mounted.swap(&[("key", "new"), ("came", "y")]);
    comes_to_have(&host, "key", "new").await;
    host.get("/confidant/keys").await.assert_text(200, "came,key");
    // Back again, and the first of two quick ones may never be seen.
    mounted.swap(&[("key", "between"), ("came", "y")]);
    mounted.swap(&[("key", "newest"), ("came", "y")]);
    comes_to_have(&host, "key", "newest").await;
    let report = load.all_served().await;
    let seen: BTreeSet<_> = report.answers.iter().map(|(answer, _)| answer.text().to_owned()).collect();
    let known = ["old", "new", "between", "newest"].map(hash);
    assert!(seen.iter().all(|seen| known.contains(seen)) && seen.len() >= 3, "{seen:?}");
    assert_eq!(audited(&app)[0], "confidant came, gone, key done watch");
    host.stop().await;
}

#[tokio::test]
async fn a_secret_that_can_not_be_had_any_more_keeps_its_value_and_holds_up_no_other() {
    let app = App::new(&confidant("[\"folder:more\", { one = \"file:one\", two = \"file:two\" }]"));
    app.file("one", "1");
    app.file("two", "2");
    fs::create_dir(app.folder().join("more")).expect("it can be made");
    app.file("more/three", "3");
    let host = app.start().await;
    fs::remove_file(app.folder().join("one")).expect("it is there");
    app.file("more/three", "");
    host.logged("services.confidant.secrets.one: the secret in file").await;
    host.logged("services.confidant.secrets: the secret in the file").await;
    app.file("two", "II");
    comes_to_have(&host, "two", "II").await;
    has(&host, "one", "1").await;
    has(&host, "three", "3").await;
    app.file("one", "I");
    app.file("more/three", "III");
    comes_to_have(&host, "one", "I").await;
    comes_to_have(&host, "three", "III").await;
    // Each trouble was told once.
    assert_eq!(host.log().matches("what was there before is used on").count(), 2, "{}", host.log());
    host.stop().await;
}

/// An address for the admin API.
fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
    listener.local_addr().expect("it is bound").to_string()
}

/// An answer of the admin API.
async fn admin(address: &str, method: &str, path: &str, token: &str, body: &str) -> Answer {
    let mut connection = wharf_tests::Connection::open(address.parse().expect("an address")).await.expect("it listens");
    let mut request = request(method, path, body.to_owned());
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse().expect("a value"));
    connection.send(request).await.expect("it answers")
}

#[tokio::test]
async fn the_token_of_the_admin_api_is_rotated() {
    let address = free_address();
    let listen = format!("[admin]\nlisten = \"{address}\"\ntoken = \"file:token\"\n");
    let app = App::new(&(confidant("{ key = \"file:key\" }") + &listen));
    app.file("key", "x");
    app.file("token", "the old token");
    let host = Host::start_with(&app, &["--no-watch"]).await;
    assert_eq!(admin(&address, "GET", "/v1/status", "the old token", "").await.status, 200);
    app.file("token", "the new token");
    host.logged("the token of the admin API was rotated").await;
    assert_eq!(admin(&address, "GET", "/v1/status", "the old token", "").await.status, 401);
    assert_eq!(admin(&address, "GET", "/v1/status", "the new token", "").await.status, 200);
    host.service(&app, "confidant").await;
    assert_eq!(audited(&app), ["- admin.token done watch"]);
    host.stop().await;
}

/// That a rotation of these URLs' passwords was told.
async fn rotated(host: &Host, keys: &[&str]) {
    for key in keys {
        host.logged(&format!("the password of the URL was rotated key=\"{key}\"")).await;
    }
}

#[tokio::test]
async fn the_password_of_redis_is_rotated_and_its_next_connections_log_in_by_the_new_one() {
    let redis = Redis::start().await;
    let mut session = redis.session().await;
    let url = |password: &str| redis.url().replace("redis://", &format!("redis://:{password}@"));
    let require = ["CONFIG", "SET", "requirepass"];
    session.command(&[&require[..], &["the-old-one"]].concat()).await.expect("it is set");
    let listener = "publishes = [\"order.created\"]\nsubscribes = [\"order.created\"]\ninstances = { max = 1 }";
    let servers = "[topics.\"order.created\"]\n[events]\nredis = \"file:url\"\n[key-value]\nredis = \"file:url\"\n";
    let shelf = below("shelf", "shelf", "buckets = [\"box\"]");
    let app = App::new(&(below("listener", "listener", listener) + &shelf + servers));
    app.file("url", url("the-old-one"));
    let host = app.start().await;
    host.get("/shelf/set?bucket=box&key=a&value=1").await.assert_text(200, "done");

    session.command(&[&require[..], &["the-new-one"]].concat()).await.expect("it is set");
    app.file("url", url("the-new-one"));
    rotated(&host, &["events.redis", "key-value.redis"]).await;
    // All but this session.
    session.command(&["CLIENT", "KILL", "SKIPME", "yes", "TYPE", "normal"]).await.expect("they are ended");
    eventually("the buckets are there", async || {
        let answer = host.get("/shelf/get?bucket=box&key=a").await;
        if (answer.status, answer.text()) == (200, "1") { Ok(()) } else { Err(answer) }
    })
    .await;
    let published = host.get("/listener/publish?topic=order.created&data=after").await;
    assert_eq!(published.status, 200, "{published:?}");
    eventually("the event is heard", async || {
        let heard = host.get("/listener/heard").await;
        if heard.text().contains("\"after\"") { Ok(()) } else { Err((heard, host.log())) }
    })
    .await;
    // Another place is another matter.
    app.file("url", url("the-new-one") + "/7");
    host.logged("takes a restart of the host key=\"events.redis\"").await;
    assert_eq!(audited(&app), ["- events.redis done watch", "- key-value.redis done watch"]);
    host.get("/shelf/get?bucket=box&key=a").await.assert_text(200, "1");
    host.stop().await;
}

#[tokio::test]
async fn passwords_of_postgresql_are_rotated_and_the_next_connections_log_in_by_the_new_ones() {
    let postgres = Postgres::start();
    postgres.create("shop");
    postgres.psql(
        "shop",
        "CREATE ROLE host LOGIN CREATEROLE PASSWORD 'old'; CREATE ROLE own LOGIN PASSWORD 'old';
         GRANT CREATE ON DATABASE shop TO host; GRANT CREATE ON DATABASE shop TO own",
    );
    let app = App::shop("[store]\nurl = \"file:host-url\"\n");
    let manifest = fs::read_to_string(app.manifest()).expect("it was written");
    let users = "[services.user]";
    assert!(manifest.contains(users));
    let own = manifest.replacen("database = true", "database = { url = \"file:own-url\" }", 1);
    assert!(own.find("own-url") < own.find("[services.product]"), "the user service comes first: {own}");
    app.write(&own);
    let passwords = |password: &str| {
        app.file("host-url", postgres.url_of("host", password, "shop"));
        app.file("own-url", postgres.url_of("own", password, "shop"));
    };
    passwords("old");
    let host = app.start().await;
    let register = async |email: &str| {
        let answer = host.post("/api/users", &serde_json::json!({ "email": email, "name": "Ada" })).await;
        let id = answer.json()["id"].as_str().map(str::to_owned);
        id.ok_or_else(|| format!("{answer:?}\n{}", host.log()))
    };
    register("before@example.com").await.expect("it is registered");
    postgres.psql("shop", "ALTER ROLE host PASSWORD 'new'; ALTER ROLE own PASSWORD 'new'");
    passwords("new");
    rotated(&host, &["services.user.database.url", "store.url"]).await;
    postgres.psql(
        "shop",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = 'shop' AND usename IS NOT NULL AND pid <> pg_backend_pid()",
    );
    let user = eventually("a user is registered", async || register("after@example.com").await).await;
    // By the outbox, which the host keeps by its own connections, and into the database of another service.
    eventually("the user is welcomed", async || {
        let told = host.get(&format!("/api/notifications?userId={user}")).await;
        if told.status == 200 && told.json()[0]["kind"] == "welcome" { Ok(()) } else { Err((told, host.log())) }
    })
    .await;
    host.stop().await;
}

// ---------------------------------------------------------------- nothing shows them

/// That none of these is in it, in any of the ways in which text is written.
#[track_caller]
fn shows_none(what: &str, content: &[u8], planted: &[&str]) {
    for secret in planted {
        assert!(!content.windows(secret.len()).any(|it| it == secret.as_bytes()), "{secret} is in {what}");
    }
}

fn sweep(folder: &Path, planted: &[&str]) {
    for entry in fs::read_dir(folder).expect("it can be read").flatten() {
        let (path, kind) = (entry.path(), entry.file_type().expect("it is there"));
        if kind.is_dir() {
            sweep(&path, planted);
        } else if kind.is_file() {
            shows_none(&path.display().to_string(), &fs::read(&path).expect("it can be read"), planted);
        }
    }
}

#[tokio::test]
async fn a_secret_is_found_nowhere() {
    const PLANTED: [&str; 6] = [
        "planted-env-91c2",
        "planted-file-a07d",
        "planted-folder-55e1",
        "planted-token-3b3f",
        "rotated-file-77aa",
        "rotated-folder-0d19",
    ];
    let [env, file, folder, token, new_file, new_folder] = PLANTED;
    let address = free_address();
    let listen = format!("[admin]\nlisten = \"{address}\"\ntoken = \"env:PLANTED_TOKEN\"\n");
    let manifest = confidant("[\"folder:more\", { env = \"env:PLANTED\", file = \"file:file\" }]") + &listen;
    let app =
        App::new(&manifest).with_env("PLANTED", env).with_env("PLANTED_TOKEN", token).with_env("WHARF_LOG", "trace");
    app.file("file", file);
    let mut mounted = Mounted::new(app.folder().join("more"), &[("folder", folder)]);
    let host = app.start().await;
    for (key, value) in [("env", env), ("file", file), ("folder", folder)] {
        has(&host, key, value).await;
    }
    host.get("/confidant/trap").await.assert_fault(502, "trapped");
    app.file("file", new_file);
    comes_to_have(&host, "file", new_file).await;
    mounted.swap(&[("folder", new_folder)]);
    comes_to_have(&host, "folder", new_folder).await;

    let check = |what: &str, said: &str| shows_none(what, said.as_bytes(), &PLANTED);
    // Settings that change with the secrets, and a change that is refused.
    app.write(
        &(manifest.replace("env = \"env:PLANTED\"", "other = \"env:PLANTED\"")
            + "\n[policy.defaults]\ndeadline = \"9s\"\n"),
    );
    app.file("file", "");
    for args in [
        &["status"][..],
        &["status", "--json"],
        &["check"],
        &["apply", "--dry-run", "--json"],
        &["apply", "--yes"],
        &["reload"],
        &["history", "confidant", "--json"],
        &["rollback", "confidant", "7"],
        &["deploy", "confidant", "file"],
        &["diff", "confidant", "file"],
        &["audit", "--json"],
        &["events", "list", "--json"],
    ] {
        let done = host.wharf(&app, args).await;
        check(&format!("{args:?}"), &format!("{}{}", done.stdout, done.stderr));
    }
    app.file("file", file);
    let applied = host.wharf(&app, &["apply", "--yes", "--json"]).await;
    assert_eq!(applied.code(), Some(0), "{applied:?}");
    check("apply", &format!("{}{}", applied.stdout, applied.stderr));
    let body = format!("{{\"components\": {{\"confidant\": \"{}\"}}}}", app.component("confidant").display());
    for (method, path, body) in [
        ("GET", "/v1/status", ""),
        ("POST", "/v1/plan", &*body),
        ("POST", "/v1/apply", "no JSON"),
        ("POST", "/v1/breakers", "{}"),
        ("GET", "/v1/services/confidant/revisions", ""),
        ("GET", "/v1/nothing", ""),
    ] {
        for token in [token, "a wrong token"] {
            let answer = admin(&address, method, path, token, body).await;
            check(path, &format!("{answer:?}"));
        }
    }
    host.stop_with_log(|log| {
        assert!(log.contains("TRACE"), "{log}");
        check("the log", log);
    })
    .await;
    sweep(&app.data(), &PLANTED);
}

#[tokio::test]
async fn no_error_shows_a_secret() {
    const PLANTED: &str = "planted-in-a-url-1f6e";
    let hello = below("hello", "hello-p3", "buckets = [\"b\"]\ndatabase = true\n");
    let written = |url: &str| format!("\"{url}\"");
    let urls = |scheme: &str| {
        let rests = ["127.0.0.1:1", "127.0.0.1:nine", "[::", "no such host", "", "127.0.0.1:1/a/b?c=d&sslmode=maybe"];
        let odd = [format!("ada:a@b?{PLANTED}=c@127.0.0.1/shop"), format!("127.0.0.1/shop?password={PLANTED}&x=y")];
        let all = rests.map(|rest| format!("ada:{PLANTED}@{rest}")).into_iter().chain(odd);
        all.map(|rest| format!("{scheme}://{rest}")).collect::<Vec<_>>()
    };
    let mut cases = vec![
        below("hello", "hello-p3", &format!("secrets = \"{PLANTED}\"")),
        below("hello", "hello-p3", &format!("secrets = [\"{PLANTED}\", {{ a = \"{PLANTED}\" }}]")),
        below("hello", "hello-p3", &format!("secrets = {{ a = [\"{PLANTED}\"] }}")),
        format!("{hello}[admin]\nlisten = \"127.0.0.1:0\"\ntoken = \"{PLANTED}\"\n"),
    ];
    for (section, key, schemes) in [
        ("events", "redis", ["redis", "rediss", "mailto"]),
        ("key-value", "redis", ["redis", "rediss", "mailto"]),
        ("store", "url", ["postgres", "postgresql", "mailto"]),
    ] {
        for url in schemes.iter().flat_map(|scheme| urls(scheme)) {
            cases.push(format!("{hello}[{section}]\n{key} = {}\n", written(&url)));
            cases.push(format!("{hello}[{section}]\n{key} = \"env:PLANTED\"\n# {url}\n"));
        }
    }
    for case in cases {
        let url = case.rsplit_once("# ").map_or("x", |(_, url)| url.trim()).to_owned();
        let app = App::new(&case).with_env("PLANTED", &url).with_env("WHARF_LOG", "trace");
        let done = app.wharf(&["up"]).await;
        assert_eq!(done.code(), Some(1), "{case}: {done:?}");
        shows_none(&case, format!("{}{}", done.stdout, done.stderr).as_bytes(), &[PLANTED]);
        if app.data().is_dir() {
            sweep(&app.data(), &[PLANTED]);
        }
    }
}
