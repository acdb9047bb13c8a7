//! How a host comes and goes: by SIGTERM, by SIGKILL, and beside another one.

use serde_json::json;
use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt, time::Duration};
use tokio::net::TcpStream;
use wharf_tests::{App, Connection, Done, HELLO, Origin, caller, component, eventually, request, send_signal, within};

/// What takes long is held by `origin`, and nothing else ends it.
fn long(origin: &Origin, gateway: &str) -> App {
    let caller = caller(origin, "[policy.defaults]\ndeadline = \"1m\"");
    App::new(&format!("[gateway]\nlisten = \"127.0.0.1:0\"\n{gateway}\n{caller}"))
}

#[tokio::test]
async fn what_is_in_flight_is_finished_and_nothing_new_is_taken() {
    for signal in ["TERM", "INT"] {
        let origin = Origin::start().await;
        let app = long(&origin, "");
        let mut host = app.start().await;
        let address = host.address();
        let mut idle = host.connect().await;
        idle.get("/alive").await.expect("it is answered").assert_text(200, "alive");
        let slow = host.hold(&origin).await;

        host.signal(signal);
        eventually("nobody is let in", async || match TcpStream::connect(address).await {
            Ok(_) => Err(()),
            Err(_) => Ok(()),
        })
        .await;
        assert!(slow.is_under_way());
        origin.let_go();
        slow.answer().await.assert_text(200, "outside");
        assert!(host.ended().await.success());
        assert!(host.log().contains("every request was answered"), "{}", host.log());
        assert!(!app.data().join("admin.sock").exists(), "the socket is left behind");
    }
}

#[tokio::test]
async fn what_takes_longer_than_the_grace_is_cut_off() {
    let origin = Origin::start().await;
    let app = long(&origin, "shutdown-grace = \"200ms\"");
    let mut host = app.start().await;
    let slow = host.hold(&origin).await;
    host.signal("TERM");
    assert!(host.ended().await.success());
    assert!(host.log().contains("1 requests took longer"), "{}", host.log());
    let answer = slow.try_answer().await;
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status >= 500));
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_crash() {
    let app = App::shop("");
    let mut acknowledged = Vec::new();
    for round in 0..2 {
        let mut host = app.start().await;
        for id in &acknowledged {
            assert_eq!(host.get(&format!("/api/users/{id}")).await.status, 200, "{id} is lost");
        }
        let address = host.address();
        // Several keep on registering while the host is killed.
        let clients: Vec<_> = (0..4).map(|client| tokio::spawn(register(address, round, client))).collect();
        eventually("users", async || {
            let edge = host.edge(&app, "gateway -> user").await;
            if edge["calls"].as_u64() >= Some(100) { Ok(()) } else { Err(edge.to_string()) }
        })
        .await;
        host.signal("KILL");
        assert!(!host.ended().await.success());
        for client in clients {
            acknowledged.extend(client.await.expect("it does not panic"));
        }
        assert!(app.folder().join(".wharf/admin.sock").exists(), "nobody was there to remove it");
    }
    let host = app.start().await;
    assert!(acknowledged.len() >= 100, "{}", acknowledged.len());
    for id in &acknowledged {
        assert_eq!(host.get(&format!("/api/users/{id}")).await.status, 200, "{id} is lost");
    }
    // The socket of the dead host was replaced.
    assert_eq!(host.status(&app).await["pid"], host.pid());
    host.stop().await;
}

/// Registers users until the connection breaks; the ids of those that were acknowledged.
async fn register(address: SocketAddr, round: u32, client: u32) -> Vec<String> {
    let mut ids = Vec::new();
    let Ok(mut connection) = Connection::open(address).await else { return ids };
    loop {
        let email = format!("u{round}-{client}-{}@example.com", ids.len());
        let body = json!({ "email": email, "name": "U" }).to_string();
        match connection.send(request("POST", "/api/users", body)).await {
            Ok(answer) if answer.status == 201 => ids.push(answer.json()["id"].as_str().expect("an id").to_owned()),
            Ok(answer) => panic!("{answer:?}"),
            Err(_) => return ids,
        }
    }
}

#[tokio::test]
async fn a_second_host_with_the_same_data_is_refused_and_the_first_goes_on() {
    let app = App::shop("");
    let host = app.start().await;
    for _ in 0..2 {
        let second = app.wharf(&["up"]).await;
        assert_eq!(second.code(), Some(1), "{second:?}");
        assert!(second.stderr.contains("another host runs"), "{second:?}");
    }
    assert_eq!(host.status(&app).await["pid"], host.pid());
    let answer = host.post("/api/users", &json!({ "email": "ada@example.com", "name": "Ada" })).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    host.stop().await;
}

#[tokio::test]
async fn a_build_ends_with_the_command_that_began_it() {
    // A machine without a toolchain for components makes one first, and takes minutes.
    component("hello-p3");
    for (command, signal, code) in
        [("up", "TERM", 143), ("up", "INT", 130), ("build", "TERM", 143), ("check", "INT", 130)]
    {
        let app = App::new(
            r#"
[services.slow]
source = "slow"
build = "sleep 1000 & echo $! >started; wait"
artifact = "slow.wasm"
"#,
        );
        fs::create_dir(app.folder().join("slow")).expect("the application's folder can be written to");
        let wharf = app.spawn(&[command]);
        let compiler: u32 = eventually("the build is under way", async || {
            let started = fs::read_to_string(app.folder().join("slow/started")).unwrap_or_default();
            started.trim_end().parse().map_err(|_| started)
        })
        .await;
        send_signal(wharf.id().expect("it runs"), signal);
        let done = within("the end of wharf", wharf.wait_with_output()).await;
        let done = Done::from(done.expect("it is our child"));
        assert_eq!(done.code(), Some(code), "{command} {signal}: {done:?}");
        assert!(done.stderr.contains("error: stopped by "), "{command} {signal}: {done:?}");
        eventually("what the build has started has ended", async || {
            let state = fs::read_to_string(format!("/proc/{compiler}/stat")).unwrap_or_default();
            // One that nobody has reaped has ended all the same.
            if state.is_empty() || state.contains(") Z ") { Ok(()) } else { Err(state) }
        })
        .await;
    }
}

#[tokio::test]
async fn a_data_folder_has_one_host_wherever_their_admin_apis_are() {
    let app = App::new("");
    let admin =
        |name: &str| format!("[app]\nname = \"test\"\ndata = \"data\"\n[admin]\nsocket = \"{name}.sock\"\n{HELLO}");
    app.write(&admin("first"));
    let mut host = app.start().await;
    app.write(&admin("second"));
    let second = app.wharf(&["up"]).await;
    assert_eq!(second.code(), Some(1), "{second:?}");
    let expected = format!(
        "wharf.toml:5: app.data: another host runs with the data folder data (process {}): stop it, or give this one a \
         folder of its own",
        host.pid()
    );
    assert!(second.stderr.contains(&expected), "no {expected:?} in: {}", second.stderr);
    host.get("/hello").await.assert_text(200, "Hello, world!");

    // A host that is killed has no time to let go, and needs none.
    host.signal("KILL");
    host.ended().await;
    app.start().await.stop().await;
}

#[tokio::test]
async fn the_admin_socket_is_for_its_own_user_alone() {
    let app = App::new(HELLO);
    let host = app.start().await;
    let socket = std::fs::metadata(app.data().join("admin.sock")).expect("it is there");
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);
    host.stop().await;
}

#[tokio::test]
async fn the_admin_api_on_loopback_wants_its_token() {
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("there are free ports").port();
    let app = App::new(&format!("[admin]\nlisten = \"127.0.0.1:{port}\"\ntoken = \"file:token\"\n{HELLO}"));
    app.file("token", "correct horse battery staple");
    let host = app.start().await;
    assert_eq!(host.status(&app).await["pid"], host.pid());

    let admin = SocketAddr::from(([127, 0, 0, 1], port));
    for token in [
        None,
        Some(""),
        Some("Bearer "),
        Some("Bearer wrong"),
        Some("Bearer correct horse battery stapl"),
        Some("correct horse battery staple"),
    ] {
        for (method, path) in [("GET", "/v1/status"), ("POST", "/v1/services/hello/revisions"), ("GET", "/nothing")] {
            let mut connection = Connection::open(admin).await.expect("it listens");
            let mut request = request(method, path, "");
            if let Some(token) = token {
                request.headers_mut().insert("authorization", token.parse().expect("a value"));
            }
            let answer = connection.send(request).await.expect("it is answered");
            assert_eq!(answer.status, 401, "{method} {path} {token:?}: {answer:?}");
            assert!(!answer.text().contains("horse"), "{answer:?}");
        }
    }
    assert!(!host.log().contains("horse"), "{}", host.log());
    host.stop().await;
}

#[tokio::test]
async fn the_admin_api_is_never_open_to_others() {
    for (admin, expected) in [
        ("listen = \"0.0.0.0:0\"\ntoken = \"file:token\"", "loopback"),
        ("listen = \"[::]:0\"\ntoken = \"file:token\"", "loopback"),
        ("listen = \"127.0.0.1:0\"", "token"),
    ] {
        let app = App::new(&format!("[admin]\n{admin}\n{HELLO}"));
        app.file("token", "secret");
        let done = app.wharf(&["up"]).await;
        assert_eq!(done.code(), Some(1), "{done:?}");
        assert!(done.stderr.contains("wharf.toml:") && done.stderr.contains(expected), "{done:?}");
    }
}

#[tokio::test]
async fn a_slow_client_is_cut_off_and_keeps_nobody_from_the_end() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let app = App::new(&format!("[gateway]\nlisten = \"127.0.0.1:0\"\nheader-timeout = \"300ms\"\n{HELLO}"));
    let host = app.start().await;
    let mut slow = TcpStream::connect(host.address()).await.expect("it listens");
    slow.write_all(b"GET /hello HTTP/1.1\r\nHost: x\r\n").await.expect("it listens");
    let mut said = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(30), slow.read_to_end(&mut said)).await;
    assert!(ended.is_ok(), "the connection is still open");
    let said = String::from_utf8_lossy(&said);
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 408"), "{said}");
    host.get("/hello").await.assert_text(200, "Hello, world!");
    host.stop().await;
}
