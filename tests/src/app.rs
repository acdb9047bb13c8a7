//! An application of one test: a folder with a manifest and components.

use crate::{Host, PATIENCE, build, component, wharf};
use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};
use tokio::{
    process::{Child, Command},
    time::timeout,
};

/// A folder with a manifest, `wharf.toml`, and the components that it names. It goes when the test ends.
#[derive(Debug)]
pub struct App {
    folder: PathBuf,
    environment: Vec<(String, String)>,
}

/// How a command ended.
#[derive(Debug)]
pub struct Done {
    /// Its exit code.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

// === impl App ===

impl App {
    /// An application of this manifest. `<hello-p2>` in it stands for the path of that component, which is copied into
    /// the application's folder. A name, a gateway that listens on a free port, and a folder for data are added unless
    /// the text has sections of its own for them.
    pub fn new(manifest: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("wharf-test-{}-{count}", std::process::id()));
        // Of an earlier test run whose process had the same number and was killed.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("components")).expect("a temporary folder");
        let app = Self { folder, environment: Vec::new() };
        app.write(manifest);
        app
    }

    /// The shop, by the manifest that users get, with its components built and its port left to the system. `more` is
    /// added at the end.
    pub fn shop(more: &str) -> Self {
        let mut text = fs::read_to_string(build::root().join("wharf.toml")).expect("the shop's manifest");
        for service in ["user", "product", "order", "payment", "inventory", "checkout", "notification"] {
            let source = format!("source = \"components/{service}\"");
            assert!(text.contains(&source), "the shop has a service {service}");
            text = text.replace(&source, &format!("component = \"<{service}>\""));
        }
        let listen = "listen = \"127.0.0.1:3000\"";
        assert!(text.contains(listen));
        let app = Self::new(&format!("{}\n{more}", text.replace(listen, "listen = \"127.0.0.1:0\"")));
        let document = "components/openapi.json";
        fs::copy(build::root().join(document), app.folder.join(document)).expect("the shop's document");
        app
    }

    /// With this variable in the environment of all that it runs.
    #[must_use]
    pub fn with_env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Writes another manifest; see [`App::new`].
    pub fn write(&self, manifest: &str) {
        let mut text = String::new();
        for (section, content) in [("app", "name = \"test\"\ndata = \"data\""), ("gateway", "listen = \"127.0.0.1:0\"")]
        {
            let head = format!("[{section}]");
            if !manifest.lines().any(|line| line.trim() == head) {
                text += &format!("{head}\n{content}\n");
            }
        }
        let mut rest = manifest;
        while let Some((before, after)) = rest.split_once("\"<") {
            let (name, after) = after.split_once(">\"").expect("a name ends with >");
            text += &format!("{before}\"{}\"", self.copy_of(name).display());
            rest = after;
        }
        fs::write(self.manifest(), text + rest).expect("the application's folder can be written to");
    }

    fn copy_of(&self, name: &str) -> PathBuf {
        let path = self.component(name);
        if !path.exists() {
            fs::copy(component(name), &path).expect("components can be copied");
        }
        path
    }

    /// The application's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the manifest is.
    pub fn manifest(&self) -> PathBuf {
        self.folder.join("wharf.toml")
    }

    /// Where the application has its own copy of a component.
    pub fn component(&self, name: &str) -> PathBuf {
        self.folder.join("components").join(format!("{name}.wasm"))
    }

    /// The folder of its data, where the manifest leaves it to the test.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Puts a file into the folder.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.join(name);
        fs::write(&path, content).expect("the application's folder can be written to");
        path
    }

    /// Starts a host, and waits until it is ready.
    pub async fn start(&self) -> Host {
        Host::start(self).await
    }

    /// Runs `wharf` with these arguments in the application's folder, to its end.
    ///
    /// # Panics
    ///
    /// When it does not end within [`PATIENCE`].
    pub async fn wharf(&self, args: &[&str]) -> Done {
        let mut command = self.command(args);
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
        match timeout(PATIENCE, output).await {
            Ok(output) => output.expect("wharf can be run").into(),
            Err(_) => panic!("`wharf {}` did not end within {PATIENCE:?}", args.join(" ")),
        }
    }

    /// As [`App::wharf`], for what must come about.
    pub async fn done(&self, args: &[&str]) -> Done {
        let done = self.wharf(args).await;
        assert_eq!(done.code(), Some(0), "{done:?}");
        done
    }

    /// As [`App::wharf`], for what must not, with all of these words in the error.
    pub async fn refused(&self, args: &[&str], parts: &[&str]) {
        let done = self.wharf(args).await;
        assert_eq!(done.code(), Some(1), "{done:?}");
        for part in parts {
            assert!(done.stderr.contains(part), "no {part:?} in: {}", done.stderr);
        }
        assert!(!done.stderr.contains("Ready") && !done.stderr.contains("panicked"), "{}", done.stderr);
    }

    /// Starts `wharf` with these arguments in the application's folder. Killed when it is dropped.
    pub fn spawn(&self, args: &[&str]) -> Child {
        let mut command = self.command(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command.spawn().expect("wharf can be run")
    }

    /// `wharf` with these arguments, in the application's folder.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(wharf());
        command.args(args).current_dir(&self.folder);
        // Backtraces in errors are costly, and what is logged is part of what is tested.
        command.env("RUST_BACKTRACE", "0").env_remove("WHARF_LOG").env("NO_COLOR", "1");
        // Whoever runs the tests is somebody to registries, and nobody here.
        command.env("DOCKER_CONFIG", self.folder.join("no-docker"));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl Drop for App {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the application is kept: {}", self.folder.display());
        } else {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

// === impl Done ===

impl Done {
    /// The exit code, where there is one.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Standard output as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

impl From<std::process::Output> for Done {
    fn from(output: std::process::Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

/// A port that is free now.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there are free ports");
    listener.local_addr().expect("it is bound").port()
}
