//! The OpenAPI document: the shop is as it says, and the gateway serves it.

use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};
use tokio::{process::Command, time::timeout};
use wharf_tests::{App, Done, HELLO, Host, PATIENCE, eventually, openapi_tool, request};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Runs one of the programs that know OpenAPI to its end.
async fn run(app: &App, name: &str, args: &[&str]) -> Done {
    let hooks = repository().join("tests/openapi");
    let mut command = Command::new(openapi_tool(name));
    command.args(args).current_dir(app.folder()).stdin(Stdio::null()).kill_on_drop(true);
    command.env("PYTHONPATH", hooks).env("PYTHONDONTWRITEBYTECODE", "1").env("SCHEMATHESIS_HOOKS", "hooks");
    match timeout(PATIENCE * 2, command.output()).await {
        Ok(output) => output.expect("it can be run").into(),
        Err(_) => panic!("`{name}` did not end within {:?}", PATIENCE * 2),
    }
}

#[tokio::test]
async fn the_shop_is_as_its_document_says() {
    let app = App::shop("");
    let host = app.start().await;
    let served = host.get("/api/openapi.json").await;
    let file = app.file("served.json", served.text()).display().to_string();
    let url = format!("http://{}", host.address());
    let config = repository().join("tests/openapi/schemathesis.toml").display().to_string();
    let args = ["--no-color", "--config-file", &config, "run", &file, "--url", &url, "--checks", "all"];
    let done = run(&app, "schemathesis", &args).await;
    assert_eq!(done.code(), Some(0), "{}\n{}\n{}", done.stdout, done.stderr, host.log());
    // All of it was asked for.
    let document = served.json();
    let items = document["paths"].as_object().expect("it has paths").values();
    let operations: usize =
        items.map(|item| item.as_object().map_or(0, |it| it.len() - usize::from(it.contains_key("parameters")))).sum();
    assert!(done.stdout.contains(&format!("Tested: {operations}\n")), "{operations}: {}", done.stdout);
    // Nor did any of it trouble whoever was not asked.
    let dead = host.wharf(&app, &["events", "list", "--json"]).await.json();
    assert_eq!(dead["letters"], json!([]), "{dead}");
    assert!(!host.log().contains("ERROR"), "{}", host.log());
    host.stop().await;
}

#[tokio::test]
async fn the_document_is_openapi_to_another_reader_too() {
    let app = App::new(HELLO);
    let file = repository().join("components/openapi.json").display().to_string();
    let done = run(&app, "openapi-spec-validator", &[&file]).await;
    assert_eq!(done.code(), Some(0), "{done:?}");
}

const SERVED: &str = "[gateway.document]\npath = \"/openapi.json\"\nfile = \"openapi.json\"\n";

/// A service behind the gateway, and a document.
fn documented(document: &str) -> App {
    let route = "path = \"/hello/{name}\"\nmethods = [\"GET\"]\nservice = \"hello\"\n";
    let app = App::new(&format!("[services.hello]\ncomponent = \"<hello-p3>\"\n[[gateway.routes]]\n{route}{SERVED}"));
    app.file("openapi.json", document);
    app
}

fn document(title: &str, path: &str) -> String {
    json!({ "openapi": "3.1.0", "info": { "title": title, "version": "1" }, "paths": { path: { "get": {} } } })
        .to_string()
}

async fn serves(host: &Host, text: &str) {
    eventually("the document is served", async || {
        let answer = host.get("/openapi.json").await;
        if answer.text() == text { Ok(()) } else { Err((answer, host.log())) }
    })
    .await;
}

#[tokio::test]
async fn the_document_is_served_and_becomes_another_while_the_host_runs() {
    let [first, second] = ["first", "second"].map(|title| document(title, "/hello/{name}"));
    let app = documented(&first);
    let host = app.start().await;
    let answer = host.get("/openapi.json").await;
    assert_eq!((answer.status, answer.header("content-type"), answer.text()), (200, Some("application/json"), &*first));
    let etag = answer.header("etag").expect("it has one").to_owned();
    let mut again = request("GET", "/openapi.json", "");
    again.headers_mut().insert("if-none-match", etag.parse().expect("a value"));
    let answer = host.send(again).await;
    assert_eq!((answer.status, answer.header("etag"), answer.text()), (304, Some(&*etag), ""));
    let answer = host.send(request("HEAD", "/openapi.json", "")).await;
    assert_eq!((answer.status, answer.header("etag"), answer.text()), (200, Some(&*etag), ""));

    app.file("openapi.json", &second);
    serves(&host, &second).await;
    // One that does not hold is refused, and the one before is served on.
    app.file("openapi.json", document("third", "/nowhere"));
    let line = host.logged("the changed manifest was refused").await;
    assert!(line.contains("`GET /nowhere` is in the document, and no route matches its path"), "{line}");
    host.get("/openapi.json").await.assert_text(200, &second);
    host.stop().await;

    app.file("openapi.json", &second);
    let host = Host::start_with(&app, &["--no-watch"]).await;
    app.file("openapi.json", &first);
    let plan = host.wharf(&app, &["apply", "--dry-run"]).await;
    assert!(plan.stderr.contains("~ gateway: the document says something else"), "{plan:?}");
    host.get("/openapi.json").await.assert_text(200, &second);
    assert_eq!(host.wharf(&app, &["apply", "--yes"]).await.code(), Some(0));
    host.get("/openapi.json").await.assert_text(200, &first);
    // Without a document there is none.
    let manifest = fs::read_to_string(app.manifest()).expect("it was written");
    fs::write(app.manifest(), manifest.replace(SERVED, "")).expect("it can be written");
    assert_eq!(host.wharf(&app, &["reload"]).await.code(), Some(0));
    assert_eq!(host.get("/openapi.json").await.status, 404);
    host.stop().await;
}

#[tokio::test]
async fn a_document_of_what_is_not_there_is_refused_at_its_line() {
    for (text, part) in [
        (document("it", "/hello"), "`GET /hello` is in the document, and no route matches its path"),
        (
            document("it", "/hello/{name}").replace("\"get\"", "\"post\""),
            "`POST /hello/{name}` is in the document, and the routes of its path take only GET, HEAD, OPTIONS",
        ),
        ("{\"openapi\": \"3.0.3\"}".into(), "expected an OpenAPI document with `\"openapi\": \"3.1.x\"`"),
        ("openapi: 3.1.0".into(), "expected an OpenAPI document in JSON: "),
    ] {
        let app = documented(&text);
        for command in ["check", "up"] {
            app.refused(&[command], &["wharf.toml:", ": gateway.document.file: ", part]).await;
        }
    }
    let app = documented("");
    fs::remove_file(app.folder().join("openapi.json")).expect("it is there");
    app.refused(&["check"], &["gateway.document.file: ", "openapi.json: the document can't be read: No such file"])
        .await;
}
