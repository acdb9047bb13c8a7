//! Buckets: what services keep by wasi:keyvalue, in files of their own and in Redis.

use wharf_tests::{App, Host, Redis, below, send_signal};

/// Two services with buckets of the same name. `more` is more of the manifest.
fn shelves(more: &str) -> App {
    let buckets = "buckets = [\"box\", \"drawer\"]";
    App::new(&(below("one", "shelf", buckets) + &below("two", "shelf", buckets) + more))
}

async fn ask(host: &Host, what: &str) -> (u16, String) {
    let answer = host.get(what).await;
    (answer.status, answer.text().to_owned())
}

async fn says(host: &Host, what: &str, expected: &str) {
    assert_eq!(ask(host, what).await, (200, expected.to_owned()), "{what}");
}

async fn keeps(app: &App) {
    let host = app.start().await;
    for (what, expected) in [
        ("set?bucket=box&key=a&value=1", "done"),
        ("get?bucket=box&key=a", "1"),
        ("exists?bucket=box&key=a", "true"),
        ("exists?bucket=drawer&key=a", "false"),
        ("increment?bucket=box&key=a&by=41", "42"),
        ("set-many?bucket=box&keys=b,c&value=x", "done"),
        ("get-many?bucket=box&keys=c,none,a", "c=x,-,a=42"),
        ("keys?bucket=box", "a,b,c"),
        ("delete-many?bucket=box&keys=b,none", "done"),
        ("delete?bucket=box&key=c", "done"),
        ("keys?bucket=box", "a"),
    ] {
        says(&host, &format!("/one/{what}"), expected).await;
    }
    assert_eq!(ask(&host, "/one/get?bucket=cellar&key=a").await, (403, "no such store".into()));
    assert_eq!(ask(&host, "/two/get?bucket=box&key=a").await.0, 404, "the box of another service");
    let refused = ask(&host, &format!("/one/get?bucket=box&key={}", "k".repeat(1025))).await;
    assert_eq!(refused, (500, "the key has 1025 bytes, expected 1 to 1024".into()));

    // Killed, since what was answered is kept.
    let mut host = host;
    send_signal(host.pid(), "KILL");
    host.ended().await;
    let host = app.start().await;
    says(&host, "/one/get?bucket=box&key=a", "42").await;
    host.stop().await;
}

#[tokio::test]
async fn in_files() {
    let app = shelves("");
    keeps(&app).await;
    assert!(app.data().join("kv/one.sqlite").is_file() && app.data().join("kv/two.sqlite").is_file());
}

#[tokio::test]
async fn in_redis() {
    let redis = Redis::start().await;
    let app = shelves(&format!("[key-value]\nredis = \"{}\"\n", redis.url()));
    keeps(&app).await;
    let kept = redis.session().await.command(&["HGETALL", "wharf:test:kv:one:box"]).await.expect("Redis answers");
    assert_eq!(kept, ["a", "42"]);
    assert!(!app.data().join("kv").exists());
}

#[tokio::test]
async fn a_component_that_wants_buckets_needs_them_in_the_manifest() {
    let app = App::new(&below("one", "shelf", ""));
    let checked = app.wharf(&["check"]).await;
    assert_ne!(checked.code(), Some(0));
    assert!(checked.stderr.contains("grant it buckets, as with `buckets = [\"default\"]`"), "{checked:?}");
}
