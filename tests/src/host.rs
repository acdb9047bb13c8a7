//! A running host.

use crate::{
    Answer, App, Done, Failed, Load, PATIENCE,
    client::{self, Body, Connection},
    eventually,
};
use hyper::Request;
use serde_json::Value;
use std::{
    net::SocketAddr,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Child,
    sync::watch,
    time::timeout,
};

/// Sends a process a signal, such as `TERM`.
pub fn send_signal(pid: u32, signal: &str) {
    let kill = format!("kill -{signal} {pid}");
    let done = std::process::Command::new("sh").args(["-c", &kill]).status().expect("there is a shell");
    assert!(done.success(), "{kill}: {done}");
}

/// `wharf up`, ready to serve. Killed when it is dropped.
pub struct Host {
    child: Child,
    manifest: String,
    address: SocketAddr,
    log: Arc<Mutex<String>>,
}

// === impl Host ===

impl Host {
    pub(crate) async fn start(app: &App) -> Self {
        Self::start_with(app, &[]).await
    }

    /// Starts with more arguments for `wharf up`.
    ///
    /// # Panics
    ///
    /// When it ends instead, or is not ready within [`PATIENCE`].
    pub async fn start_with(app: &App, more: &[&str]) -> Self {
        let manifest = app.manifest().display().to_string();
        let args: Vec<_> =
            ["--manifest", &manifest, "up", "--access-log", "off"].into_iter().chain(more.iter().copied()).collect();
        let mut command = app.command(&args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("wharf can be run");
        let log = Arc::new(Mutex::new(String::new()));
        let (ready, mut is_ready) = watch::channel(None);
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let into = log.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some(("Ready", rest)) = line.trim().split_once(' ') {
                    let address = rest.rsplit("http://").next().and_then(|address| address.trim().parse().ok());
                    ready.send_replace(address);
                }
                let mut log = into.lock().unwrap_or_else(PoisonError::into_inner);
                log.push_str(&line);
                log.push('\n');
            }
        });
        let said = || log.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let address = timeout(PATIENCE, is_ready.wait_for(Option::is_some)).await;
        let address = match address {
            Ok(Ok(address)) => address.expect("it was waited for"),
            Ok(Err(_)) => panic!("the host ended before it was ready:\n{}", said()),
            Err(_) => panic!("the host was not ready within {PATIENCE:?}:\n{}", said()),
        };
        Self { child, manifest, address, log }
    }

    /// Where its gateway listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// What it has written to standard error.
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A connection of its own.
    pub async fn connect(&self) -> Connection {
        Connection::open(self.address).await.unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    /// Begins to `GET` a path again and again from this many connections.
    pub fn load(&self, path: &str, connections: usize) -> Load {
        Load::start(self.address, path, connections)
    }

    /// Sends a request over a connection of its own.
    ///
    /// # Errors
    ///
    /// When the connection breaks before the answer is whole.
    pub async fn try_send(&self, request: Request<Body>) -> Result<Answer, Failed> {
        client::once(self.address, request).await
    }

    /// The answer to a request.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub async fn send(&self, request: Request<Body>) -> Answer {
        match self.try_send(request).await {
            Ok(answer) => answer,
            Err(error) => panic!("{error}\n{}", self.log()),
        }
    }

    /// `GET`s a path.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(client::request("GET", path, "")).await
    }

    /// `POST`s JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.with_body("POST", path, body.to_string()).await
    }

    /// Sends a body as JSON, whether it is or not.
    pub async fn with_body(&self, method: &str, path: &str, body: impl Into<bytes::Bytes>) -> Answer {
        let mut request = client::request(method, path, body);
        request.headers_mut().insert("content-type", "application/json".parse().expect("a value"));
        self.send(request).await
    }

    /// Runs `wharf` with the manifest of this host and these arguments, to its end.
    pub async fn wharf(&self, app: &App, args: &[&str]) -> Done {
        let args: Vec<_> = ["--manifest", &self.manifest].into_iter().chain(args.iter().copied()).collect();
        app.wharf(&args).await
    }

    /// `wharf status --json`.
    pub async fn status(&self, app: &App) -> Value {
        let done = self.wharf(app, &["status", "--json"]).await;
        assert_eq!(done.code(), Some(0), "{done:?}");
        done.json()
    }

    /// What `wharf status --json` says of an edge, such as `gateway -> user`.
    pub async fn edge(&self, app: &App, name: &str) -> Value {
        let status = self.status(app).await;
        let edges = status["edges"].as_array().into_iter().flatten();
        let found = edges.into_iter().find(|edge| edge["edge"] == name).cloned();
        found.unwrap_or_else(|| panic!("there is no edge {name} in {status}"))
    }

    /// What `wharf status --json` says of a service.
    pub async fn service(&self, app: &App, name: &str) -> Value {
        let status = self.status(app).await;
        let services = status["services"].as_array().into_iter().flatten();
        let found = services.into_iter().find(|service| service["name"] == name).cloned();
        found.unwrap_or_else(|| panic!("there is no service {name} in {status}"))
    }

    /// Waits until the log has a line with this text.
    pub async fn logged(&self, text: &str) -> String {
        eventually(&format!("a line with {text:?} in the log"), async || {
            let log = self.log();
            log.lines().find(|line| line.contains(text)).map(str::to_owned).ok_or(log)
        })
        .await
    }

    /// Sends it a signal, such as `TERM`.
    pub fn signal(&self, signal: &str) {
        send_signal(self.pid(), signal);
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// When it does not end within [`PATIENCE`].
    pub async fn ended(&mut self) -> ExitStatus {
        match timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => status.expect("it is our child"),
            Err(_) => panic!("the host did not end within {PATIENCE:?}:\n{}", self.log()),
        }
    }

    /// Asks it to end, waits until it has, and says that it ended well.
    pub async fn stop(self) {
        self.stop_with_log(|_| {}).await;
    }

    /// The same, with a look at all that it has written to standard error.
    pub async fn stop_with_log(mut self, look: impl FnOnce(&str)) {
        self.signal("TERM");
        let status = self.ended().await;
        assert!(status.success(), "{status}\n{}", self.log());
        look(&self.log());
    }
}
