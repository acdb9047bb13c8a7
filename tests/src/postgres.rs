//! A real PostgreSQL: a server of its own for whoever starts one, in a temporary folder.
//!
//! Only the standard library: the host's unit tests use this file too.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    os::unix::{
        fs::{MetadataExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread::sleep,
    time::Duration,
};

/// How often to look whether the server has come up, and the pause between: much longer than it takes on an idle machine.
const LOOKS: u32 = 3_000;
const PAUSE: Duration = Duration::from_millis(20);

const PASSWORD: &str = "a password";

/// PostgreSQL refuses to run as root, so it runs as nobody where the tests are root.
const NOBODY: u32 = 65_534;

/// Starts the server, and ends it by its process's number when standard input ends: that is when whoever started it says
/// so, or is gone, however that came about. Said `keep`, it leaves the data.
const SCRIPT: &str = r#"
"$1/postgres" -D "$2/data" -p "$3" -k "$2" -h 127.0.0.1 -F \
    -c max_connections=60 -c shared_buffers=32MB -c log_line_prefix='%u@%d ' >"$2/log" 2>&1 &
server=$!
echo started
read -r word
kill -QUIT "$server"
wait "$server"
[ "$word" = keep ] || rm -rf "$2"
"#;

/// `postgres` on a free port of the loopback. It ends when it is dropped, and when this process does.
#[derive(Debug)]
pub struct Postgres {
    programs: PathBuf,
    folder: PathBuf,
    port: u16,
    running: Option<(Child, ChildStdin)>,
}

// === impl Postgres ===

impl Postgres {
    /// Whether there is one to start.
    pub fn is_installed() -> bool {
        installed().is_some()
    }

    /// Makes a cluster and starts a server on it.
    ///
    /// # Panics
    ///
    /// When PostgreSQL is not installed: without it nothing of what it is for is tested.
    pub fn start() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("wharf-postgres-{}-{count}", std::process::id()));
        // Of an earlier run whose process had the same number and was killed.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a temporary folder");
        if is_root() {
            chown(&folder, Some(NOBODY), Some(NOBODY)).expect("root may give a folder away");
        }
        let port = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a free port").port();
        let mut server = Self { programs: programs(), folder, port, running: None };
        let password = server.folder.join("password");
        fs::write(&password, PASSWORD).expect("the folder can be written to");
        // Sorted as people sort, which is not as bytes do: nothing may depend on it.
        let mut initdb = as_server(&server.programs.join("initdb"));
        initdb.args(["-D".as_ref(), server.folder.join("data").as_os_str()]).arg("--pwfile").arg(&password);
        initdb.args(["-U", "owner", "-A", "scram-sha-256", "-N", "-E", "UTF8", "--locale=C"]);
        initdb.args(["--locale-provider=icu", "--icu-locale=en"]);
        run(initdb);
        server.run();
        server
    }

    /// Ends it as if the machine had failed it; its data stays.
    pub fn stop(&mut self) {
        if let Some((mut child, mut stdin)) = self.running.take() {
            let _ = writeln!(stdin, "keep");
            drop(stdin);
            let _ = child.wait();
        }
    }

    /// Starts it again where it was.
    pub fn start_again(&mut self) {
        self.run();
    }

    /// The URL of a database on it, for the role that may do anything.
    pub fn url(&self, database: &str) -> String {
        self.url_of("owner", PASSWORD, database)
    }

    /// The URL of a database on it, for a role.
    pub fn url_of(&self, role: &str, password: &str, database: &str) -> String {
        format!("postgres://{role}:{}@127.0.0.1:{}/{database}", password.replace(' ', "%20"), self.port)
    }

    /// Makes a database.
    pub fn create(&self, database: &str) {
        self.psql("postgres", &format!("CREATE DATABASE \"{database}\""));
    }

    /// Makes a database, and the part of a manifest that says that everything is kept there.
    pub fn store(&self, database: &str) -> String {
        self.create(database);
        format!("[store]\nurl = \"{}\"\n", self.url(database))
    }

    /// What `pg_dump` makes of the database of this URL.
    ///
    /// # Panics
    ///
    /// When it fails.
    pub fn dump(&self, url: &str) -> String {
        let mut dump = Command::new(self.programs.join("pg_dump"));
        dump.args(["-d", url]);
        run(dump)
    }

    /// Lets it speak TLS too; returns the file with the certificate of the authority that vouches for it.
    ///
    /// # Panics
    ///
    /// When there is no `openssl`, which Debian's PostgreSQL brings.
    pub fn enable_tls(&self) -> PathBuf {
        let at = |name: &str| self.folder.join(name).display().to_string();
        let make = |name: &str, more: &[&str]| {
            let mut openssl = as_server(Path::new("openssl"));
            openssl.args([
                "req",
                "-x509",
                "-days",
                "2",
                "-nodes",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ]);
            openssl.args(["-subj", &format!("/CN={name}"), "-keyout", &at(&format!("{name}.key"))]);
            openssl.args(["-out", &at(&format!("{name}.pem"))]).args(more);
            run(openssl);
        };
        make("authority", &[]);
        let (authority, key) = (at("authority.pem"), at("authority.key"));
        let names = ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"];
        make("server", &[["-CA", &authority, "-CAkey", &key].as_slice(), &names].concat());
        for setting in [
            format!("ssl_cert_file = '{}'", at("server.pem")),
            format!("ssl_key_file = '{}'", at("server.key")),
            "ssl = on".into(),
        ] {
            self.psql("postgres", &format!("ALTER SYSTEM SET {setting}"));
        }
        self.psql("postgres", "SELECT pg_reload_conf()");
        PathBuf::from(authority)
    }

    /// What `psql` prints for these statements: rows by line, columns between `|`.
    ///
    /// # Panics
    ///
    /// When one fails.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &self.url(database), "-c", sql]);
        run(psql)
    }

    fn run(&mut self) {
        let mut server = as_server(Path::new("/bin/sh"));
        server.args(["-c", SCRIPT, "sh"]).arg(&self.programs).arg(&self.folder).arg(self.port.to_string());
        server.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = server.spawn().expect("there is a shell");
        let stdin = child.stdin.take().expect("it is piped");
        let mut line = String::new();
        let out = child.stdout.take().expect("it is piped");
        BufReader::new(out).read_line(&mut line).expect("the script speaks");
        self.running = Some((child, stdin));
        for _ in 0..LOOKS {
            let mut ready = Command::new(self.programs.join("psql"));
            ready.args(["-X", "-d", &self.url("postgres"), "-c", "SELECT 1"]);
            let answer = ready.output().expect("psql can be run");
            if answer.status.success() {
                return;
            }
            sleep(PAUSE);
        }
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        panic!("PostgreSQL did not come up:\n{log}");
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some((mut child, stdin)) = self.running.take() {
            drop(stdin);
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|it| it.uid() == 0)
}

/// A command as the user that the server may run as.
fn as_server(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/").env("LC_ALL", "C");
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

fn programs() -> PathBuf {
    installed().unwrap_or_else(|| panic!("PostgreSQL is not installed (Debian: apt-get install postgresql)"))
}

/// The folder with PostgreSQL's programs, of the newest that is installed.
fn installed() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let newest = versions.pop().map(|(_, folder)| folder);
    newest.into_iter().chain(std::env::split_paths(&path)).find(|folder| folder.join("initdb").exists())
}

fn run(mut command: Command) -> String {
    let done = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).trim_end().to_owned()
}
