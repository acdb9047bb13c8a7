//! A real mail server, aiosmtpd, that behaves as it is told to.

use crate::{app::free_port, eventually, within};
use serde_json::{Value, json};
use std::{
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
    sync::watch,
};

const SCRIPT: &str = include_str!("smtp.py");

/// A server on a port of the loopback. It ends when it is dropped.
pub struct Smtp {
    settings: Value,
    running: Option<Running>,
    got: Arc<Mutex<Vec<Value>>>,
}

struct Running {
    _child: Child,
    stdin: ChildStdin,
    /// How many times it said that it is ready, or has changed its mode.
    heard: watch::Receiver<u32>,
}

// === impl Smtp ===

impl Smtp {
    /// One with these settings (see `smtp.py`), which does not run yet.
    pub fn new(mut settings: Value) -> Self {
        settings["port"] = json!(free_port());
        Self { settings, running: None, got: Arc::default() }
    }

    /// One that takes everything, without TLS and login.
    pub async fn start() -> Self {
        Self::start_with(json!({})).await
    }

    /// One with these settings.
    pub async fn start_with(settings: Value) -> Self {
        let mut server = Self::new(settings);
        server.run().await;
        server
    }

    /// Starts it.
    ///
    /// # Panics
    ///
    /// When there is no aiosmtpd on this machine: without it nothing of what mail is for is tested.
    pub async fn run(&mut self) {
        let mut command = Command::new(python());
        command.args(["-c", SCRIPT, &self.settings.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().expect("it ran a moment ago");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let (sender, heard) = watch::channel(0);
        let got = self.got.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                match serde_json::from_str(&line) {
                    Ok(message) => got.lock().unwrap_or_else(PoisonError::into_inner).push(message),
                    Err(_) => sender.send_modify(|heard| *heard += 1),
                }
            }
        });
        let stdin = child.stdin.take().expect("it is piped");
        let mut running = Running { _child: child, stdin, heard };
        running.hear().await;
        self.running = Some(running);
    }

    /// Ends it.
    pub async fn stop(&mut self) {
        if let Some(Running { _child: mut child, .. }) = self.running.take() {
            child.kill().await.expect("it is our child");
        }
    }

    /// Changes what it is started with.
    pub fn set(&mut self, key: &str, value: Value) {
        self.settings[key] = value;
    }

    /// From now on it behaves so.
    pub async fn mode(&mut self, mode: &str) {
        let running = self.running.as_mut().expect("it runs");
        running.stdin.write_all(format!("{mode}\n").as_bytes()).await.expect("it listens");
        running.hear().await;
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.settings["port"])
    }

    /// All messages that it got, whatever it said to them.
    pub fn got(&self) -> Vec<Value> {
        self.got.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it has got so many, and gives them.
    pub async fn messages(&self, count: usize) -> Vec<Value> {
        eventually(&format!("{count} messages"), async || {
            let got = self.got();
            if got.len() >= count { Ok(got) } else { Err(got) }
        })
        .await
    }
}

// === impl Running ===

impl Running {
    /// Waits for the answer to what it was told last.
    async fn hear(&mut self) {
        within("a word of the mail server", self.heard.changed()).await.expect("the mail server ended");
    }
}

/// What a message says in a header; `null` where it has none.
pub fn header(message: &Value, name: &str) -> Value {
    let mut all = message["headers"].as_array().into_iter().flatten();
    all.find(|header| header[0].as_str().is_some_and(|it| it.eq_ignore_ascii_case(name)))
        .map_or(Value::Null, |header| header[1].clone())
}

/// The Python that has aiosmtpd: Debian's package is for Debian's own, which need not be the first that is found.
fn python() -> &'static PathBuf {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let all = ["python3", "/usr/bin/python3"].map(PathBuf::from);
        let has = |python: &PathBuf| {
            let mut command = std::process::Command::new(python);
            command.args(["-c", "import aiosmtpd"]).stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        all.into_iter().find(has).unwrap_or_else(|| {
            panic!("there is no Python with `aiosmtpd`; install it (Debian: apt-get install python3-aiosmtpd)")
        })
    })
}
