//! A real registry.

use crate::{app::free_port, client, eventually};
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
};
use tokio::process::{Child, Command};

/// A line of `htpasswd` for the name `ada` and the password `U*U`, from the test vectors of bcrypt.
const ADA: &str = "ada:$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW\n";

/// `docker-registry` on a free port, with a folder of its own. Killed when it is dropped.
pub struct Registry {
    child: Child,
    address: SocketAddr,
    folder: PathBuf,
}

// === impl Registry ===

impl Registry {
    /// Starts one that anybody may use, which keeps what it has below `folder`.
    pub async fn start(folder: &Path) -> Self {
        Self::with(folder, "").await
    }

    /// Starts one that only knows `ada`, with the password `U*U`.
    pub async fn guarded(folder: &Path) -> Self {
        fs::write(folder.join("htpasswd"), ADA).expect("the folder can be written to");
        let path = folder.join("htpasswd");
        Self::with(folder, &format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", path.display())).await
    }

    /// Starts one that shows this certificate; both are PEM.
    pub async fn tls(folder: &Path, certificate: &str, key: &str) -> Self {
        let path = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).expect("the folder can be written to");
            path.display().to_string()
        };
        let (certificate, key) = (path("tls.crt", certificate), path("tls.key", key));
        Self::with(folder, &format!("  tls:\n    certificate: {certificate}\n    key: {key}\n")).await
    }

    async fn with(folder: &Path, more: &str) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let folder = folder.join("registry");
        let config = folder.with_extension("yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n{more}",
            folder.display()
        );
        fs::write(&config, text).expect("the folder can be written to");
        Self { child: run(&config, address).await, address, folder }
    }

    /// The reference of a repository with a tag or a digest: `order:1`.
    pub fn reference(&self, name: &str) -> String {
        format!("oci://{}/{name}", self.address)
    }

    /// Its host and port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it. What it has stays.
    pub async fn stop(&mut self) {
        self.child.kill().await.expect("it is our child");
    }

    /// Starts it again where it was.
    pub async fn start_again(&mut self) {
        self.child = run(&self.folder.with_extension("yml"), self.address).await;
    }

    /// Puts other content in the place of this one, and does not tell.
    pub fn change(&self, content: &[u8], to: &[u8]) {
        let blobs = self.folder.join("docker/registry/v2/blobs/sha256");
        let of = |path: &Path| fs::read_dir(path).expect("it is a folder").flatten().map(|it| it.path());
        let files = of(&blobs).flat_map(|folder| of(&folder).collect::<Vec<_>>()).map(|folder| folder.join("data"));
        let found: Vec<_> = files.filter(|file| fs::read(file).is_ok_and(|it| it == content)).collect();
        let [file] = &found[..] else { panic!("the registry has it {} times", found.len()) };
        fs::write(file, to).expect("it can be written");
    }
}

async fn run(config: &Path, address: SocketAddr) -> Child {
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(config);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let child = command.spawn().unwrap_or_else(|error| {
        panic!("`docker-registry` can't be run: {error}; install it (Debian: apt-get install docker-registry)")
    });
    // By TLS or not: that it is asked for something is enough.
    eventually("the registry answers", async || client::once(address, client::request("GET", "/v2/", "")).await).await;
    child
}
