//! Who one is to a registry: what `docker login` has written down.
//!
//! `~/.docker/config.json` (or `$DOCKER_CONFIG/config.json`) is where everybody's credentials for registries are; tools of
//! all makes read it. Names and passwords in it are read, programs that keep them (`credsStore`, `credHelpers`) are not
//! run: a host that starts others' programs to get a component would be hard to reason about.

use base64::{Engine, prelude::BASE64_STANDARD};
use http::HeaderValue;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    env, fmt,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// The longest file of credentials.
const LONGEST_FILE: u64 = 1 << 20;

/// Names and passwords for registries.
#[derive(Clone, Default)]
pub struct Credentials {
    /// The file, where there is one.
    path: Option<PathBuf>,
    /// By registry, as it is called in a reference.
    known: BTreeMap<String, Login>,
    /// Those that a program keeps.
    kept_elsewhere: Vec<String>,
    /// Whether a program keeps all others.
    all_elsewhere: bool,
}

/// A name and a password. Nothing shows it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Login {
    name: String,
    password: String,
}

/// Credentials that can't be had.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file can't be read.
    #[error("the credentials in {} can't be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// It holds something else. What, is not shown: it may be a password.
    #[error("{} is not what `docker login` writes: it is no JSON with `auths` at line {line}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    #[serde(default)]
    creds_store: String,
}

#[derive(Deserialize)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

/// The folder of Docker's settings, of this user.
pub(super) fn docker_folder() -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("DOCKER_CONFIG").or_else(|| Some(set("HOME")?.join(".docker")))
}

// === impl Credentials ===

impl Credentials {
    /// Those of this user; none where there is no file.
    ///
    /// # Errors
    ///
    /// When there is a file and it can't be read.
    pub fn of_user() -> Result<Self, CredentialsError> {
        match docker_folder() {
            Some(folder) => Self::read(&folder.join("config.json")),
            None => Ok(Self::default()),
        }
    }

    /// Those in a file; none where it is not there.
    ///
    /// # Errors
    ///
    /// When there is a file and it can't be read.
    pub fn read(path: &Path) -> Result<Self, CredentialsError> {
        let unreadable = |source| CredentialsError::Unreadable { path: path.to_owned(), source };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { path: Some(path.to_owned()), ..Self::default() });
            }
            Err(error) => return Err(unreadable(error)),
        };
        let mut text = Vec::new();
        file.take(LONGEST_FILE).read_to_end(&mut text).map_err(unreadable)?;
        let config: Config = serde_json::from_slice(&text)
            .map_err(|error| CredentialsError::Broken { path: path.to_owned(), line: error.line() })?;
        let known = config.auths.iter().filter_map(|(registry, auth)| Some((bare(registry), Login::of(auth)?)));
        Ok(Self {
            path: Some(path.to_owned()),
            known: known.collect(),
            kept_elsewhere: config.cred_helpers.keys().map(|registry| bare(registry)).collect(),
            all_elsewhere: !config.creds_store.is_empty(),
        })
    }

    pub(super) fn of(&self, registry: &str) -> Option<&Login> {
        self.known.get(registry)
    }

    /// What can be done about a registry that wants to know who is asking.
    pub(super) fn advice(&self, registry: &str) -> String {
        let file = self.path.as_ref().map_or_else(|| "~/.docker/config.json".into(), |path| path.display().to_string());
        if self.known.contains_key(registry) {
            return format!("the name and password for it in {file} don't do");
        }
        if self.all_elsewhere || self.kept_elsewhere.iter().any(|kept| kept == registry) {
            return format!(
                "{file} leaves its password to a program, and Wharf runs none; write it down by `docker login {registry}` \
                 with a config.json (see DOCKER_CONFIG) that has no `credsStore` and `credHelpers`"
            );
        }
        format!("there is no name and password for it in {file}; `docker login {registry}` writes them there")
    }
}

/// The registry that an entry is for: what is around it is left from older formats.
fn bare(entry: &str) -> String {
    let host = entry.trim_start_matches("https://").trim_start_matches("http://");
    let host = host.split('/').next().unwrap_or_default();
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".into(),
        host => host.into(),
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.known.keys()).finish()
    }
}

// === impl Login ===

impl Login {
    fn of(auth: &Auth) -> Option<Self> {
        let encoded = auth.auth.as_ref().filter(|text| !text.is_empty()).and_then(|text| {
            let text = String::from_utf8(BASE64_STANDARD.decode(text.trim()).ok()?).ok()?;
            let (name, password) = text.split_once(':')?;
            // Docker has been seen to write a zero behind it.
            Some(Self { name: name.to_owned(), password: password.trim_end_matches('\0').to_owned() })
        });
        encoded.or_else(|| Some(Self { name: auth.username.clone()?, password: auth.password.clone()? }))
    }

    /// The header that says who one is.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        let text = format!("Basic {}", BASE64_STANDARD.encode(format!("{}:{}", self.name, self.password)));
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Credentials, CredentialsError> {
        let path = env::temp_dir().join(format!("wharf-docker-{}.json", uuid::Uuid::new_v4()));
        std::fs::write(&path, text).expect("a temporary file");
        let read = Credentials::read(&path);
        std::fs::remove_file(&path).expect("it is ours");
        read
    }

    #[test]
    fn what_docker_has_written_is_found() {
        // "ada:love:lace" and "bob:x\0"
        let credentials = read(
            r#"{"auths": {
                "127.0.0.1:5000": {"auth": "YWRhOmxvdmU6bGFjZQ=="},
                "https://index.docker.io/v1/": {"auth": "Ym9iOngA", "email": "bob@example.com"},
                "https://ghcr.io": {"username": "eve", "password": "y"},
                "quay.io": {},
                "broken.example.com": {"auth": "%"}
            }, "credHelpers": {"ecr.example.com": "ecr-login"}, "HttpHeaders": {}}"#,
        )
        .expect("it is well-formed");
        let login = |name: &str, password: &str| Login { name: name.into(), password: password.into() };
        assert_eq!(credentials.of("127.0.0.1:5000"), Some(&login("ada", "love:lace")));
        assert_eq!(credentials.of("docker.io"), Some(&login("bob", "x")));
        assert_eq!(credentials.of("ghcr.io"), Some(&login("eve", "y")));
        for registry in ["quay.io", "broken.example.com", "127.0.0.1", "ecr.example.com"] {
            assert_eq!(credentials.of(registry), None);
        }
        assert!(credentials.advice("ghcr.io").contains("don't do"));
        assert!(credentials.advice("ecr.example.com").contains("Wharf runs none"));
        assert!(credentials.advice("quay.io").contains("`docker login quay.io`"));
        let shown = format!("{credentials:?} {:?}", credentials.of("ghcr.io"));
        assert!(!shown.contains("eve") && !shown.contains("lace"), "{shown}");
        let header = credentials.of("docker.io").and_then(Login::header).expect("a header");
        assert_eq!(header, "Basic Ym9iOng=");
        assert!(header.is_sensitive());
    }

    #[test]
    fn what_is_broken_is_not_shown() {
        let error = read("{\"auths\":\n{\"ghcr.io\": {\"auth\": \"c2VjcmV0\"}").expect_err("it is cut off").to_string();
        assert!(error.contains("line 2") && !error.contains("c2VjcmV0"), "{error}");
        let none = Credentials::read(Path::new("/no/such/config.json")).expect("nothing is no error");
        assert_eq!(none.of("ghcr.io"), None);
    }
}
