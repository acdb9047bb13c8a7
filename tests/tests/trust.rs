//! Trust: what the right people did not sign is refused wherever a component comes in, and what runs goes on.

use std::fs;
use wharf_tests::{App, HELLO, eventually, patched};

/// [`HELLO`], which takes only what one of these has signed.
fn signed_by(keys: &[&str]) -> String {
    let keys: Vec<_> = keys.iter().map(|key| format!("\"{key}\"")).collect();
    HELLO.replace("component =", &format!("signed-by = [{}]\ncomponent =", keys.join(", ")))
}

/// Makes a key in this file; its public half.
async fn keygen(app: &App, file: &str) -> String {
    app.done(&["keygen", file]).await.stdout.trim().to_owned()
}

#[tokio::test]
async fn a_host_starts_with_what_was_signed_and_with_nothing_else() {
    let app = App::new(HELLO);
    let (ours, theirs) = (keygen(&app, "ours.pem").await, keygen(&app, "theirs.pem").await);
    app.write(&signed_by(&[&ours]));
    let file = app.component("hello-p3").display().to_string();
    let sign = |key: &'static str| ["sign", &*file, "--key", key].map(str::to_owned);
    let at = "services.hello.component: service `hello`: the component";

    for command in ["check", "up"] {
        app.refused(&[command], &[at, "has no signature", &ours, "`services.hello.signed-by`", "wharf sign"]).await;
    }
    app.done(&sign("theirs.pem").each_ref().map(String::as_str)).await;
    for command in ["check", "up"] {
        app.refused(&[command], &[at, "is signed by", &theirs, &ours]).await;
    }
    // Nothing of it was compiled.
    let compiled = fs::read_dir(app.data().join("cache")).expect("check makes it").count();
    assert_eq!(compiled, 0);

    app.done(&sign("ours.pem").each_ref().map(String::as_str)).await;
    app.done(&["check"]).await;
    let host = app.start().await;
    host.get("/hello").await.assert_text(200, "Hello, world!");
    host.stop().await;

    let mut wasm = fs::read(&file).expect("it is there");
    *wasm.last_mut().expect("it is long") ^= 1;
    fs::write(&file, wasm).expect("it can be written");
    app.refused(&["up"], &[at, "was changed after", &ours]).await;
}

#[tokio::test]
async fn what_is_deployed_must_be_signed_and_the_old_goes_on_until_it_is() {
    let app = App::new(HELLO);
    let (ours, theirs) = (keygen(&app, "ours.pem").await, keygen(&app, "theirs.pem").await);
    app.write(&signed_by(&[&ours]));
    let file = app.component("hello-p3").display().to_string();
    app.done(&["sign", &file, "--key", "ours.pem"]).await;
    let new = patched("hello-p3", "Hello, world!", "Hello, again!");
    app.file("new.wasm", &new);
    app.done(&["sign", "new.wasm", "--key", "theirs.pem", "--output", "foreign.wasm"]).await;
    let host = app.start().await;

    for (file, said) in [("new.wasm", "has no signature"), ("foreign.wasm", &*theirs)] {
        app.refused(&["deploy", "hello", file], &["was not deployed", "service `hello`", said, &ours]).await;
        app.refused(&["diff", "hello", file], &["service `hello`", said, &ours]).await;
    }
    // The watch is no way around.
    fs::rename(app.folder().join("foreign.wasm"), &file).expect("it is there");
    host.logged("the changed component was refused").await;
    assert!(host.log().contains(&theirs), "{}", host.log());
    host.get("/hello").await.assert_text(200, "Hello, world!");
    assert_eq!(host.service(&app, "hello").await["revision"]["number"], 1);

    app.done(&["sign", &file, "--key", "ours.pem"]).await;
    eventually("the signed component serves", async || {
        let answer = host.get("/hello").await;
        if answer.text() == "Hello, again!" { Ok(()) } else { Err(answer) }
    })
    .await;
    // Whose word counts is not changed in passing, and never to somebody who has not signed what runs.
    app.write(&signed_by(&[&theirs]));
    app.refused(&["reload"], &["services.hello is to be signed by others", "`wharf apply`"]).await;
    app.done(&["apply", "--yes"]).await;
    let nobody = keygen(&app, "nobody.pem").await;
    app.write(&signed_by(&[&nobody]));
    app.refused(&["apply", "--yes"], &["the component is signed by", &theirs, &nobody]).await;
    host.get("/hello").await.assert_text(200, "Hello, again!");
    host.stop().await;
}

#[tokio::test]
async fn what_was_kept_must_be_signed_too() {
    let app = App::new(HELLO);
    let (ours, theirs) = (keygen(&app, "ours.pem").await, keygen(&app, "theirs.pem").await);
    app.file("new.wasm", patched("hello-p3", "Hello, world!", "Hello, again!"));
    app.done(&["sign", "new.wasm", "--key", "ours.pem"]).await;
    let host = app.start().await;
    app.done(&["deploy", "hello", "new.wasm"]).await;
    host.stop().await;
    // From now on it matters who signed: what served last goes on, and there is no way back to what nobody signed.
    app.write(&signed_by(&[&ours]));
    let host = app.start().await;
    host.get("/hello").await.assert_text(200, "Hello, again!");
    app.refused(&["rollback", "hello"], &["service `hello`: the component has no signature", &ours]).await;
    host.get("/hello").await.assert_text(200, "Hello, again!");
    host.stop().await;
    app.write(&signed_by(&[&theirs]));
    app.refused(&["up"], &["service `hello`: the component is signed by", &ours, &theirs]).await;
}

#[tokio::test]
async fn keys_are_changed_without_a_time_when_nothing_starts() {
    let app = App::new(HELLO);
    let (old, new) = (keygen(&app, "old.pem").await, keygen(&app, "new.pem").await);
    let file = app.component("hello-p3").display().to_string();
    for key in ["old.pem", "new.pem"] {
        app.done(&["sign", &file, "--key", key]).await;
    }
    assert!(app.done(&["sign", &file, "--key", "old.pem"]).await.stderr.contains("Unchanged"));
    for keys in [vec![&*old], vec![&*old, &*new], vec![&*new]] {
        app.write(&signed_by(&keys));
        app.done(&["check"]).await;
    }
    // The application's keys are for services that name none.
    app.write(&format!("[app]\nname = \"test\"\ndata = \"data\"\nsigned-by = [\"{new}\"]\n{HELLO}"));
    app.done(&["check"]).await;
    let third = keygen(&app, "third.pem").await;
    app.write(&format!("[app]\nname = \"test\"\ndata = \"data\"\nsigned-by = [\"{third}\"]\n{HELLO}"));
    app.refused(&["check"], &["`app.signed-by` wants", &third, &old, &new]).await;
}

#[tokio::test]
async fn who_signed_can_be_asked() {
    let app = App::new(HELLO);
    let file = app.component("hello-p3").display().to_string();
    let (one, other) = (keygen(&app, "one.pem").await, keygen(&app, "other.pem").await);
    app.refused(&["verify", &file], &["no signature"]).await;
    app.done(&["sign", &file, "--key", "one.pem"]).await;
    assert_eq!(app.done(&["verify", &file]).await.stdout.trim(), one);
    app.done(&["verify", &file, "--key", &other, "--key", &one]).await;
    app.refused(&["verify", &file, "--key", &other], &["is signed by", &one, "none of the given keys"]).await;
    let module = app.file("module.wasm", b"\0asm\x01\0\0\0");
    app.refused(&["sign", &module.display().to_string(), "--key", "one.pem"], &["core module"]).await;
    app.refused(&["sign", &file, "--key", "wharf.toml"], &["wharf.toml holds no private Ed25519 key"]).await;
    app.refused(&["keygen", "one.pem"], &["one.pem already"]).await;
}
