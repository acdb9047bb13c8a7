//! Requests that services make: to nobody, unless the manifest lets them.

use wharf_tests::{App, Origin, at, below, component, request};

/// Both guests ask whom they are told to ask; neither may ask anybody.
fn app(caller: &str) -> App {
    App::new(&manifest(caller))
}

fn manifest(caller: &str) -> String {
    let rest = r#"
[services.hello]
component = "<hello-p3>"

# A guest that got no answer says 502, which is a failure like any other.
[policy.edges."gateway -> new"]
breaker = false
[policy.edges."gateway -> old"]
breaker = false
"#;
    below("new", "caller", caller) + &at("old", "fetch-p2", caller) + rest
}

#[tokio::test]
async fn nobody_outside_can_be_asked_by_default() {
    let origin = Origin::start().await;
    let app = app("");
    let host = app.start().await;
    let address = origin.address();
    for path in [format!("/new/outbound?origin={address}&path=/"), format!("/old?origin={address}&path=/")] {
        let answer = host.get(&path).await;
        assert_eq!(answer.status, 502, "{answer:?}");
        assert!(answer.text().contains("HttpRequestDenied"), "{answer:?}");
    }
    assert_eq!(origin.asked(), 0);
    let log = host.log();
    assert!(log.contains(&format!("may not call http://{address}")) && log.contains("services.new.outbound"), "{log}");
    host.stop().await;
}

#[tokio::test]
async fn an_allowed_origin_can_be_asked_and_no_other() {
    let (allowed, other) = (Origin::start().await, Origin::start().await);
    let app = app(&format!("outbound = [\"http://{}\"]", allowed.address()));
    let host = app.start().await;
    for path in ["/new/outbound?", "/old?"] {
        let ask = async |origin: &str| host.get(&format!("{path}origin={origin}&path=/any")).await;
        ask(&allowed.address().to_string()).await.assert_text(200, "outside");
        let port = allowed.address().port();
        // Another port, another name for the same host, and a name that only begins so.
        for origin in
            [other.address().to_string(), format!("localhost:{port}"), format!("127.0.0.1.example.com:{port}")]
        {
            let answer = ask(&origin).await;
            assert_eq!(answer.status, 502, "{path} {origin}: {answer:?}");
            assert!(answer.text().contains("HttpRequestDenied"), "{path} {origin}: {answer:?}");
        }
    }
    assert_eq!((allowed.asked(), other.asked()), (2, 0));
    let edge = host.edge(&app, &format!("new -> http://{}", allowed.address())).await;
    assert_eq!((&edge["calls"], &edge["breaker"]["state"]), (&1.into(), &"closed".into()), "{edge}");
    host.stop().await;
}

/// wasmtime offers `wasi:http/outgoing-handler` in one version, and components that were compiled against an older one get
/// it as well. Whichever it is, the request is made on behalf of the call that the guest is working on.
#[tokio::test]
async fn the_trace_travels_with_requests_of_all_versions() {
    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let origin = Origin::start().await;
    let outbound = format!("outbound = [\"http://{}\"]", origin.address());
    let older = r#"
[services.older]
component = "older.wasm"
OUTBOUND
[[gateway.routes]]
path = "/older"
service = "older"
"#;
    let app = App::new("");
    app.write(&(manifest(&outbound) + &older.replace("OUTBOUND", &outbound)));
    app.file("older.wasm", compiled_against("wasi:http/outgoing-handler@0.2.12", "wasi:http/outgoing-handler@0.2.10"));
    let host = app.start().await;
    for path in ["/new/outbound", "/old", "/older"] {
        let mut request = request("GET", &format!("{path}?origin={}&path=/", origin.address()), "");
        request.headers_mut().insert("traceparent", PARENT.parse().expect("a header's value"));
        host.send(request).await.assert_text(200, "outside");
        let traces = origin.traces();
        let trace = traces.last().map_or("", String::as_str);
        assert_eq!(trace.get(..35), PARENT.get(..35), "{path} asked on nobody's behalf: {trace:?}");
    }
    host.stop().await;
}

/// `fetch-p2`, as if compiled against another version of an interface.
fn compiled_against(from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len(), "the component's layout must stay as it is");
    let mut wasm = std::fs::read(component("fetch-p2")).expect("the component was built just now");
    let found: Vec<_> = (0..wasm.len()).filter(|at| wasm[*at..].starts_with(from.as_bytes())).collect();
    assert!(!found.is_empty(), "`fetch-p2` does not import {from}: name here what it imports");
    for at in found {
        wasm[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    wasm
}

#[tokio::test]
async fn an_origin_that_is_not_there_is_a_fault_of_the_call_alone() {
    let gone = Origin::start().await;
    let address = gone.address();
    drop(gone);
    let app = app(&format!("outbound = [\"http://{address}\"]"));
    let host = app.start().await;
    for path in ["/new/outbound?", "/old?"] {
        let answer = host.get(&format!("{path}origin={address}&path=/")).await;
        assert_eq!(answer.status, 502, "{answer:?}");
        assert!(answer.text().contains("DestinationUnavailable"), "{answer:?}");
    }
    host.get("/new/alive").await.assert_text(200, "alive");
    host.stop().await;
}

#[tokio::test]
async fn a_neighbour_is_asked_by_its_name_within_the_process() {
    let app = app("calls = [\"hello\"]");
    let host = app.start().await;
    host.get("/new/neighbour?name=hello&path=/hi").await.assert_text(200, "Hello, world!");
    host.get("/old?origin=hello.internal&path=/hi").await.assert_text(200, "Hello, world!");
    for caller in ["new", "old"] {
        let edge = host.edge(&app, &format!("{caller} -> hello")).await;
        assert_eq!(edge["calls"], 1, "{edge}");
    }
    // A name that `calls` does not have, and one that is no service at all.
    for name in ["old", "nobody"] {
        let answer = host.get(&format!("/new/neighbour?name={name}&path=/")).await;
        assert_eq!(answer.status, 502, "{answer:?}");
        assert!(answer.text().contains("HttpRequestDenied"), "{answer:?}");
    }
    host.stop().await;
}

#[tokio::test]
async fn a_neighbour_that_calls_does_not_name_is_denied() {
    let app = app("");
    let host = app.start().await;
    for path in ["/new/neighbour?name=hello&path=/", "/old?origin=hello.internal&path=/"] {
        let answer = host.get(path).await;
        assert_eq!(answer.status, 502, "{answer:?}");
        assert!(answer.text().contains("HttpRequestDenied"), "{answer:?}");
    }
    host.stop().await;
}
