//! A real Redis, and a client of a few lines that speaks its protocol bare.

use crate::{app::free_port, eventually, within};
use std::process::Stdio;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
};

/// `redis-server` on a free port, without persistence. Killed when it is dropped.
pub struct Redis {
    child: Child,
    port: u16,
}

/// A connection to Redis.
pub struct Session(BufReader<TcpStream>);

// === impl Redis ===

impl Redis {
    /// Starts it.
    ///
    /// # Panics
    ///
    /// When there is no `redis-server` on this machine: without it nothing of what Redis is for is tested.
    pub async fn start() -> Self {
        let port = free_port();
        Self { child: run(port).await, port }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// A connection.
    pub async fn session(&self) -> Session {
        Session::open(self.port).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Ends it. What it held is gone.
    pub async fn stop(&mut self) {
        self.child.kill().await.expect("it is our child");
    }

    /// Starts it again where it was.
    pub async fn start_again(&mut self) {
        self.child = run(self.port).await;
    }
}

async fn run(port: u16) -> Child {
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    command.args(["--dir", &std::env::temp_dir().display().to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let child = command.spawn().unwrap_or_else(|error| {
        panic!("`redis-server` can't be run: {error}; install it (Debian: apt-get install redis-server)")
    });
    eventually("Redis answers", async || {
        let mut session = Session::open(port).await?;
        session.command(&["PING"]).await.map(drop)
    })
    .await;
    child
}

// === impl Session ===

impl Session {
    async fn open(port: u16) -> Result<Self, String> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| error.to_string())?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Sends a command, and reads one reply: its strings and numbers, in their order.
    ///
    /// # Errors
    ///
    /// When the connection breaks, or Redis says that it is one.
    pub async fn command(&mut self, words: &[&str]) -> Result<Vec<String>, String> {
        let mut bytes = format!("*{}\r\n", words.len());
        for word in words {
            bytes += &format!("${}\r\n{word}\r\n", word.len());
        }
        self.0.write_all(bytes.as_bytes()).await.map_err(|error| error.to_string())?;
        self.reply().await
    }

    /// Reads one reply, or one message of a subscription.
    ///
    /// # Errors
    ///
    /// As [`Session::command`].
    pub async fn reply(&mut self) -> Result<Vec<String>, String> {
        within("a reply of Redis", async {
            let mut flat = Vec::new();
            let mut open = 1_u64;
            while open > 0 {
                open -= 1;
                let mut line = String::new();
                self.0.read_line(&mut line).await.map_err(|error| error.to_string())?;
                let (kind, rest) = line.trim_end().split_at_checked(1).ok_or("the connection ended")?;
                match kind {
                    "+" | ":" => flat.push(rest.to_owned()),
                    "-" => return Err(rest.to_owned()),
                    "$" if rest != "-1" => {
                        let length: usize = rest.parse().map_err(|_| format!("no length: {line:?}"))?;
                        let mut text = vec![0; length + 2];
                        self.0.read_exact(&mut text).await.map_err(|error| error.to_string())?;
                        text.truncate(length);
                        flat.push(String::from_utf8(text).map_err(|error| error.to_string())?);
                    }
                    "$" => {}
                    "*" => open += rest.parse::<u64>().unwrap_or(0),
                    _ => return Err(format!("no reply: {line:?}")),
                }
            }
            Ok(flat)
        })
        .await
    }
}
