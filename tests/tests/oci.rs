//! Components in a real registry: pushed, pulled, run; and what happens when it is away, or lies.

use std::fs;
use wharf_tests::{App, Done, HELLO, Host, Registry, component, patched};

/// [`HELLO`] of this component.
fn hello(reference: &str) -> String {
    HELLO.replace("<hello-p3>", reference)
}

/// Pushes `hello-p3`, saying this; the reference by digest.
async fn push(app: &App, reference: &str, text: &str) -> String {
    let file = app.file("pushed.wasm", patched("hello-p3", "Hello, world!", text));
    app.done(&["push", &file.display().to_string(), reference]).await.stdout.trim().to_owned()
}

/// Starts a host, which says this, and stops it; its log.
async fn says(app: &App, text: &str) -> String {
    let host: Host = app.start().await;
    host.get("/hello").await.assert_text(200, text);
    let log = host.log();
    host.stop().await;
    log
}

#[tokio::test]
async fn what_is_pushed_runs_by_its_tag_and_by_its_digest() {
    let app = App::new("");
    let registry = Registry::start(app.folder()).await;
    let tag = registry.reference("shop/hello:1");
    app.write(&hello(&tag));
    app.refused(&["check"], &["services.hello.component", "has no such component", "manifest unknown"]).await;

    let digest = push(&app, &tag, "Hello, one !!").await;
    assert!(digest.starts_with(&registry.reference("shop/hello@sha256:")), "{digest}");
    // The same once more is the same.
    assert_eq!(push(&app, &tag, "Hello, one !!").await, digest);
    assert!(app.done(&["check"]).await.stderr.contains(&format!("Pulled {tag}")));
    let host = app.start().await;
    host.get("/hello").await.assert_text(200, "Hello, one !!");
    assert_eq!(host.service(&app, "hello").await["revision"]["origin"], tag.as_str());

    // The tag moves, and that is nothing to what runs, until it is deployed or the next start.
    push(&app, &tag, "Hello, two !!").await;
    host.get("/hello").await.assert_text(200, "Hello, one !!");
    app.done(&["deploy", "hello", &tag]).await;
    host.get("/hello").await.assert_text(200, "Hello, two !!");
    host.stop().await;
    says(&app, "Hello, two !!").await;
    app.write(&hello(&digest));
    says(&app, "Hello, one !!").await;
}

#[tokio::test]
async fn a_registry_that_is_away_keeps_nothing_from_starting() {
    let app = App::new("");
    let mut registry = Registry::start(app.folder()).await;
    let tag = registry.reference("hello:1");
    let digest = push(&app, &tag, "Hello, one !!").await;
    registry.stop().await;
    for reference in [&tag, &digest] {
        app.write(&hello(reference));
        app.refused(&["up"], &["services.hello.component", "is away", "not in the cache"]).await;
    }
    registry.start_again().await;
    app.write(&hello(&tag));
    app.done(&["check"]).await;
    registry.stop().await;
    let log = says(&app, "Hello, one !!").await;
    assert!(log.contains(&format!("Cached {tag} is what it was the last time")), "{log}");
    app.write(&hello(&digest));
    assert!(!says(&app, "Hello, one !!").await.contains("is away"));

    registry.start_again().await;
    push(&app, &tag, "Hello, two !!").await;
    app.write(&hello(&tag));
    says(&app, "Hello, two !!").await;
}

#[tokio::test]
async fn a_registry_that_lies_is_not_believed() {
    let app = App::new("");
    let registry = Registry::start(app.folder()).await;
    let tag = registry.reference("hello:1");
    let digest = push(&app, &tag, "Hello, one !!").await;
    let (good, evil) =
        (patched("hello-p3", "Hello, world!", "Hello, one !!"), patched("hello-p3", "Hello, world!", "Hello, evil!!"));
    registry.change(&good, &evil);
    for reference in [&tag, &digest] {
        app.write(&hello(reference));
        for command in ["check", "up"] {
            app.refused(&[command], &["services.hello.component", "is not what was asked for", "the component"]).await;
        }
    }
    registry.change(&evil, &good);
    says(&app, "Hello, one !!").await;
    let other = format!("{}sha256:{}", digest.split_once("sha256:").expect("a digest").0, "0".repeat(64));
    app.write(&hello(&other));
    app.refused(&["up"], &["has no such component"]).await;
}

#[tokio::test]
async fn a_registry_may_want_to_know_who_asks() {
    let app = App::new("");
    let registry = Registry::guarded(app.folder()).await;
    let tag = registry.reference("hello:1");
    app.write(&hello(&tag));
    let file = component("hello-p3").display().to_string();
    let docker = app.folder().join("docker");
    fs::create_dir(&docker).expect("the folder can be written to");
    let as_somebody = async |args: &[&str]| {
        let mut command = app.command(args);
        command.env("DOCKER_CONFIG", &docker);
        Done::from(command.output().await.expect("wharf can be run"))
    };
    for args in [&["push", &file, &tag][..], &["check"]] {
        let done = as_somebody(args).await;
        assert!(done.code() == Some(1) && done.stderr.contains("docker login"), "{done:?}");
    }
    // "ada:U*U", and then one that is wrong.
    for (auth, code) in [("YWRhOlUqVQ==", 0), ("YWRhOngK", 1)] {
        let text = format!("{{\"auths\": {{\"{}\": {{\"auth\": \"{auth}\"}}}}}}", registry.address());
        fs::write(docker.join("config.json"), text).expect("the folder can be written to");
        for args in [&["push", &file, &tag][..], &["check"]] {
            let done = as_somebody(args).await;
            assert_eq!(done.code(), Some(code), "{done:?}");
            assert!(code == 0 || done.stderr.contains("don't do"), "{done:?}");
        }
    }
}

#[tokio::test]
async fn a_registry_of_ones_own_is_trusted_by_its_certificate() {
    let app = App::new("");
    let [good, other] =
        [(); 2].map(|()| rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate"));
    let registry = Registry::tls(app.folder(), &good.cert.pem(), &good.signing_key.serialize_pem()).await;
    let tag = registry.reference("hello:1");
    app.write(&hello(&tag));
    let folder = app.folder().join("docker/certs.d").join(registry.address().to_string());
    fs::create_dir_all(&folder).expect("the folder can be written to");
    let file = component("hello-p3").display().to_string();
    for (certificate, said) in
        [(other.cert.pem(), "certificate"), ("nothing".into(), "holds no certificate"), (good.cert.pem(), "")]
    {
        fs::write(folder.join("ca.crt"), certificate).expect("the folder can be written to");
        for args in [&["push", &file, &tag][..], &["check"]] {
            let mut command = app.command(args);
            let done = command.env("DOCKER_CONFIG", app.folder().join("docker")).output().await;
            let done = Done::from(done.expect("wharf can be run"));
            assert_eq!(done.code(), Some(if said.is_empty() { 0 } else { 1 }), "{done:?}");
            assert!(done.stderr.contains(said), "{done:?}");
        }
    }
}

#[tokio::test]
async fn who_owns_a_tag_does_not_decide_what_runs() {
    let app = App::new("");
    let registry = Registry::start(app.folder()).await;
    let tag = registry.reference("hello:1");
    let key = app.done(&["keygen", "ours.pem"]).await.stdout.trim().to_owned();
    push(&app, &tag, "Hello, one !!").await;
    app.write(&hello(&tag).replace("component =", &format!("signed-by = [\"{key}\"]\ncomponent =")));
    app.refused(&["up"], &["service `hello`: the component has no signature", &key]).await;
    let file = app.folder().join("pushed.wasm").display().to_string();
    app.done(&["sign", &file, "--key", "ours.pem"]).await;
    app.done(&["push", &file, &tag]).await;
    says(&app, "Hello, one !!").await;
    app.refused(&["push", "wharf.toml", &tag], &["wharf.toml was not pushed", "it is no component"]).await;
}
