//! What can't work is said before anything runs: one clear error that names the place, exit code 1, nothing left behind.

use std::net::TcpListener;
use wharf_tests::{App, Done, HELLO, component};

/// Runs `wharf up` to its end, which is a failure that says all of `parts`, and leaves neither port nor socket behind.
async fn fails(app: &App, parts: &[&str]) -> Done {
    let port = free_port();
    let text = std::fs::read_to_string(app.manifest()).expect("it was written");
    std::fs::write(app.manifest(), text.replace("127.0.0.1:0", &format!("127.0.0.1:{port}")))
        .expect("it can be written");
    let done = app.wharf(&["up"]).await;
    assert_eq!(done.code(), Some(1), "{done:?}");
    assert!(done.stderr.contains("error: "), "{done:?}");
    for part in parts {
        assert!(done.stderr.contains(part), "no {part:?} in: {}", done.stderr);
    }
    assert!(!done.stderr.contains("panicked") && !done.stderr.contains("Ready"), "{}", done.stderr);
    assert!(done.stdout.is_empty(), "{}", done.stdout);
    TcpListener::bind(("127.0.0.1", port)).expect("the port is free again");
    assert!(!app.data().join("admin.sock").exists(), "the socket is left behind");
    done
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
    listener.local_addr().expect("it is bound").port()
}

/// The number of the line in the manifest that has this text, as errors write it.
fn line(app: &App, text: &str) -> String {
    let manifest = std::fs::read_to_string(app.manifest()).expect("it was written");
    let at = manifest.lines().position(|line| line.contains(text)).unwrap_or_else(|| panic!("no {text} in {manifest}"));
    format!("wharf.toml:{}", at + 1)
}

#[tokio::test]
async fn a_manifest_that_is_no_toml() {
    let app = App::new("[services.hello\ncomponent = 1");
    fails(&app, &[&line(&app, "[services.hello")]).await;
}

#[tokio::test]
async fn an_unknown_key() {
    let app = App::new(&HELLO.replace("component =", "databse = true\ncomponent ="));
    fails(&app, &[&line(&app, "databse"), "services.hello.databse", "`database`"]).await;
}

#[tokio::test]
async fn a_route_to_no_service() {
    let app = App::new(&HELLO.replace("service = \"hello\"", "service = \"helo\""));
    fails(&app, &[&line(&app, "helo\""), "there is no service `helo`", "`hello`"]).await;
}

#[tokio::test]
async fn several_mistakes_are_told_at_once() {
    let app =
        App::new(&format!("{HELLO}\n[gatway]\n[policy.defaults]\ndeadline = \"soon\"\nretry = {{ attempts = 0 }}\n"));
    fails(&app, &["gatway", "policy.defaults.deadline", "policy.defaults.retry.attempts"]).await;
}

#[tokio::test]
async fn no_manifest() {
    let app = App::new("");
    std::fs::remove_file(app.manifest()).expect("it was written");
    for command in [&["up"][..], &["build"], &["check"], &["status"], &["deploy", "hello", "hello.wasm"]] {
        let done = app.wharf(command).await;
        assert_eq!(done.code(), Some(1), "{done:?}");
        assert!(done.stderr.contains("wharf.toml"), "{done:?}");
    }
}

#[tokio::test]
async fn a_component_that_is_not_there() {
    let app = App::new(&HELLO.replace("<hello-p3>", "nothing.wasm"));
    fails(&app, &[&line(&app, "nothing.wasm"), "services.hello.component", "nothing.wasm can't be read"]).await;
    let done = app.wharf(&["check"]).await;
    assert_eq!(done.code(), Some(1), "{done:?}");
    assert!(done.stderr.contains("nothing.wasm can't be read"), "{done:?}");
}

#[tokio::test]
async fn sources_that_are_not_there() {
    // A machine without a toolchain for components makes one first, and takes minutes.
    component("hello-p3");
    let app = App::new(&HELLO.replace("component = \"<hello-p3>\"", "source = \"nowhere\""));
    let place = line(&app, "nowhere");
    fails(&app, &[&place, "services.hello.source: service `hello`", "nowhere can't be read"]).await;
    let done = app.wharf(&["check"]).await;
    assert_eq!(done.code(), Some(1), "{done:?}");
    assert!(done.stderr.contains(&place) && done.stderr.contains("services.hello.source"), "{done:?}");
}

#[tokio::test]
async fn a_build_command_that_fails_or_makes_nothing() {
    component("hello-p3");
    for (command, key) in [("exit 3", "build"), ("true", "artifact")] {
        let source = format!("source = \".\"\nbuild = \"{command}\"\nartifact = \"none.wasm\"");
        let app = App::new(&HELLO.replace("component = \"<hello-p3>\"", &source));
        let place = line(&app, &format!("{key} = "));
        fails(&app, &[&format!("{place}: services.hello.{key}: service `hello`")]).await;
    }
}

#[tokio::test]
async fn a_component_that_is_none() {
    let app = App::new(&HELLO.replace("<hello-p3>", "broken.wasm"));
    for content in [&b""[..], b"not a component", b"\0asm\x01\0\0\0", b"\0asm\x0d\0\x01\0\xff\xff\xff"] {
        app.file("broken.wasm", content);
        let done = app.wharf(&["up"]).await;
        assert_eq!(done.code(), Some(1), "{done:?}");
        let place = line(&app, "broken.wasm");
        assert!(done.stderr.contains(&place) && done.stderr.contains("broken.wasm can't be loaded"), "{done:?}");
    }
    fails(&app, &["services.hello.component"]).await;
}

#[tokio::test]
async fn an_import_that_nobody_offers() {
    let app = App::new(
        "[services.caller]\ncomponent = \"<linked-caller>\"\n[[gateway.routes]]\npath = \"/\"\nservice = \"caller\"\n",
    );
    let expected = "service `caller` imports `probe:shapes/shapes@0.1.0`, which neither the host nor any service of the manifest offers";
    let expected = format!("{}: services.caller.component: {expected}", line(&app, "linked-caller"));
    fails(&app, &[&expected]).await;
    let done = app.wharf(&["check"]).await;
    assert_eq!(done.code(), Some(1), "{done:?}");
    assert!(done.stderr.contains(&expected), "{done:?}");
}

#[tokio::test]
async fn an_import_of_the_hosts_own_that_it_does_not_have() {
    let wanting = r#"(component
        (import "wasi:http/types@0.2.0" (instance $types
            (export "incoming-request" (type (sub resource)))
            (export "response-outparam" (type (sub resource)))))
        (import "wharf:platform/time-travel@0.1.0" (instance (export "back" (func)))))"#;
    let app = App::new("[services.wanting]\ncomponent = \"wanting.wasm\"\n");
    app.file("wanting.wasm", wat::parse_str(wanting).expect("it is a component"));
    let place = format!("{}: services.wanting.component: service `wanting`", line(&app, "wanting.wasm"));
    fails(&app, &[&place, "wharf:platform/time-travel@0.1.0"]).await;
}

#[tokio::test]
async fn two_services_that_offer_what_one_imports() {
    let app = App::new(
        r#"
[services.caller]
component = "<linked-caller>"
calls = ["one", "other"]
[services.one]
component = "<linked-callee>"
[services.other]
component = "<linked-callee>"
"#,
    );
    let expected = "service `caller` imports `probe:shapes/shapes@0.1.0`, and `one` and `other` all export it";
    let place = format!("{}: services.caller.calls", line(&app, "calls = "));
    fails(&app, &[&place, expected, "leave one of them in `services.caller.calls`"]).await;
}

#[tokio::test]
async fn a_route_to_a_service_without_http() {
    let app = App::new(&HELLO.replace("<hello-p3>", "silent.wasm"));
    app.file("silent.wasm", wat::parse_str("(component)").expect("it is a component"));
    let place = format!("{}: services.hello.component: ", line(&app, "silent.wasm"));
    fails(&app, &[&place, "service `hello` is called by HTTP", "wasi:http/handler@0.3.0"]).await;
}

#[tokio::test]
async fn all_that_does_not_fit_is_told_at_once() {
    let app = App::new(&format!(
        "{}subscribes = [\"told\"]\n[topics.told]\n[services.caller]\ncomponent = \"<linked-caller>\"\n",
        HELLO.split("[[").next().unwrap_or_default()
    ));
    let expected = [
        format!("{}: services.hello.subscribes: service `hello` subscribes", line(&app, "subscribes")),
        format!("{}: services.caller.component: service `caller` imports", line(&app, "linked-caller")),
    ];
    let parts: Vec<_> = expected.iter().map(String::as_str).collect();
    fails(&app, &parts).await;
    let done = app.wharf(&["check"]).await;
    assert_eq!(done.code(), Some(1), "{done:?}");
    for part in parts {
        assert!(done.stderr.contains(part), "no {part:?} in: {}", done.stderr);
    }
}

#[tokio::test]
async fn a_port_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
    let address = taken.local_addr().expect("it is bound").to_string();
    let app = App::new(&format!("[gateway]\nlisten = \"{address}\"\n{HELLO}"));
    let done = app.wharf(&["up"]).await;
    assert_eq!(done.code(), Some(1), "{done:?}");
    for part in [&line(&app, &address), "gateway.listen", &address] {
        assert!(done.stderr.contains(part), "no {part} in {}", done.stderr);
    }
    assert!(!app.data().join("admin.sock").exists());
}

#[tokio::test]
async fn a_secret_that_is_not_set() {
    let app = App::new(&format!("{HELLO}\n[services.hello.secrets]\nkey = \"env:WHARF_TEST_NOT_SET\"\n"));
    fails(&app, &[&line(&app, "WHARF_TEST_NOT_SET"), "services.hello.secrets.key", "WHARF_TEST_NOT_SET"]).await;
}

#[tokio::test]
async fn a_data_folder_that_cannot_be() {
    let app = App::new(&format!("[app]\nname = \"test\"\ndata = \"file/data\"\n{HELLO}"));
    app.file("file", "not a folder");
    let done = app.wharf(&["up"]).await;
    assert_eq!(done.code(), Some(1), "{done:?}");
    assert!(done.stderr.contains(&line(&app, "file/data")) && done.stderr.contains("app.data"), "{done:?}");
}

#[tokio::test]
async fn nobody_to_ask() {
    let app = App::new(HELLO);
    for command in [&["status"][..], &["status", "--json"], &["deploy", "hello", "components/hello-p3.wasm"]] {
        let done = app.wharf(command).await;
        assert_eq!(done.code(), Some(1), "{done:?}");
        assert!(done.stderr.contains("no host answers") && done.stderr.contains("wharf up"), "{done:?}");
        assert!(done.stdout.is_empty(), "{done:?}");
    }
}

#[tokio::test]
async fn a_wrong_command_line() {
    let app = App::new(HELLO);
    for command in
        [&[][..], &["upp"], &["up", "--fast"], &["deploy"], &["deploy", "hello"], &["up", "--log-format", "xml"]]
    {
        let done = app.wharf(command).await;
        assert_eq!(done.code(), Some(2), "{command:?}: {done:?}");
        assert!(done.stderr.contains("Usage: wharf") || done.stderr.contains("try '--help'"), "{command:?}: {done:?}");
    }
}

#[tokio::test]
async fn every_command_explains_itself() {
    let app = App::new("");
    let all = app.wharf(&["--help"]).await;
    assert_eq!(all.code(), Some(0), "{all:?}");
    for command in ["up", "build", "check", "status", "deploy"] {
        assert!(
            all.stdout.lines().any(|line| line.trim_start().starts_with(command)),
            "no {command} in {}",
            all.stdout
        );
        let help = app.wharf(&[command, "--help"]).await;
        assert_eq!(help.code(), Some(0), "{help:?}");
        assert!(help.stdout.contains(&format!("Usage: wharf {command}")), "{help:?}");
        assert!(help.stdout.contains("--manifest"), "{help:?}");
    }
    let version = app.wharf(&["--version"]).await;
    assert_eq!((version.code(), version.stdout.starts_with("wharf ")), (Some(0), true), "{version:?}");
}

#[tokio::test]
async fn check_says_that_all_fits() {
    let app = App::shop("");
    let done = app.wharf(&["check"]).await;
    assert_eq!(done.code(), Some(0), "{done:?}");
    assert!(done.stderr.contains("7 components: they fit"), "{done:?}");
}
