//! Secrets: the manifest names where they are kept, never what they are.

use std::{
    env, fmt,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::reader::Value;

/// Where a secret is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRef {
    /// In this environment variable: `"env:NAME"`.
    Env(String),
    /// In this file, less a newline at its end: `"file:path"`.
    File(PathBuf),
}

/// A secret's value. Neither `Debug` nor anything else shows it by accident, and its memory is wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

/// A secret that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The variable is not set.
    #[error("the environment variable `{0}`, which holds the secret, is not set")]
    Unset(String),
    /// The variable or file has nothing in it.
    #[error("the secret in {0} is empty")]
    Empty(SecretRef),
    /// The variable or file holds something other than text.
    #[error("the secret in {0} is not UTF-8 text")]
    NotText(SecretRef),
    /// The file is too long for a secret.
    #[error("{0} is longer than {MAX_LENGTH} bytes, which is more than a secret needs")]
    TooLong(SecretRef),
    /// The file cannot be read.
    #[error("the secret in file `{}` cannot be read: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The folder cannot be read.
    #[error("the folder of secrets `{}` cannot be read: {error}", path.display())]
    UnreadableFolder {
        /// The folder.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The folder has no secret in it.
    #[error("the folder `{}` holds no secret: each is a file in it, and the file's name is the key", .0.display())]
    EmptyFolder(PathBuf),
    /// Something in the folder is no file.
    #[error(
        "`{}` in a folder of secrets is no file: each secret is a file of its own, directly in the folder; what begins with \
         a dot is left out",
        .0.display()
    )]
    NoFile(PathBuf),
    /// A file's name can't be a key.
    #[error("the file {name} in the folder of secrets `{}` can't be a secret's key: {problem}", folder.display())]
    WrongName {
        /// The folder.
        folder: PathBuf,
        /// The name, as it may be shown.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The service has another setting of this name.
    #[error(
        "`{key}` in the folder of secrets `{}` is in `config` or in another place of `secrets` too; the service can see only \
         one of them",
        folder.display()
    )]
    Twice {
        /// The folder.
        folder: PathBuf,
        /// The key.
        key: String,
    },
    /// The folder holds too much.
    #[error("the folder of secrets `{}` holds more than {most}, which is more than a service needs", folder.display())]
    TooMuch {
        /// The folder.
        folder: PathBuf,
        /// What it may hold.
        most: String,
    },
    /// The folder was replaced each time that it was read.
    #[error("the folder of secrets `{}` changes again and again while it is read", .0.display())]
    Unsettled(PathBuf),
}

const MAX_LENGTH: u64 = 64 * 1024;

/// What is kept in a file, less a newline at its end.
pub(super) fn read_file(path: &Path) -> Result<Secret, SecretError> {
    let unreadable = |error| SecretError::Unreadable { path: path.to_owned(), error };
    let reference = || SecretRef::File(path.to_owned());
    // As large as it may become, so that it does not move and leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_LENGTH as usize + 1));
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_LENGTH + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_LENGTH {
        return Err(SecretError::TooLong(reference()));
    }
    let text = str::from_utf8(&bytes).map_err(|_| SecretError::NotText(reference()))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(SecretError::Empty(reference())),
        text => Ok(Secret::new(text)),
    }
}

// === impl SecretRef ===

impl SecretRef {
    /// Fetches the secret from where it is kept.
    ///
    /// # Errors
    /// When there is none, or it is empty, no text or far too long. The error never holds the value.
    pub fn resolve(&self) -> Result<Secret, SecretError> {
        match self {
            Self::Env(name) => match env::var(name) {
                Ok(value) if value.is_empty() => Err(SecretError::Empty(self.clone())),
                Ok(value) => Ok(Secret::new(value)),
                Err(env::VarError::NotPresent) => Err(SecretError::Unset(name.clone())),
                Err(env::VarError::NotUnicode(_)) => Err(SecretError::NotText(self.clone())),
            },
            Self::File(path) => read_file(path),
        }
    }

    /// Fetches it once more, where it may have changed. `None` where it can't be read twice, or never changes: a pipe, a
    /// variable of the environment.
    pub fn resolve_again(&self) -> Option<Result<Secret, SecretError>> {
        let Self::File(path) = self else { return None };
        match fs::metadata(path) {
            Ok(file) if !file.is_file() => None,
            _ => Some(read_file(path)),
        }
    }

    /// Reads a reference. What stands in its place is not shown: it may be the secret itself.
    pub(super) fn read(value: &Value<'_>) -> Option<Self> {
        if value.as_str().is_some_and(|text| text.starts_with("folder:")) {
            return value.report(
                "a folder holds secrets of more than one name: it stands in place of the table, or beside it, as in \
                 secrets = [\"folder:path\", { key = \"env:NAME\" }]",
            );
        }
        let reference = value.as_str().and_then(|text| {
            let env = text.strip_prefix("env:").filter(|name| !name.is_empty() && !name.contains(['=', '\0']));
            let file = text.strip_prefix("file:").filter(|path| !path.is_empty() && !path.contains('\0'));
            env.map(|name| Self::Env(name.to_owned())).or(file.map(|path| Self::File(value.doc().resolve(path))))
        });
        reference.or_else(|| {
            value.report(
                "expected a reference to a secret, \"env:NAME\" or \"file:path\"; the secret itself is not kept here",
            )
        })
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "the environment variable `{}`", name.escape_debug()),
            Self::File(path) => write!(f, "the file `{}`", path.display()),
        }
    }
}

// === impl Secret ===

impl Secret {
    /// Wraps a value that must not be shown.
    pub fn new(value: impl Into<String>) -> Self {
        Self(Zeroizing::new(value.into()))
    }

    /// The value, for the one who needs it. It must not reach a log.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_shown() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(…)");
    }

    #[test]
    fn a_file_is_read_without_its_last_newline() {
        let path = env::temp_dir().join(format!("wharf-secret-{}", std::process::id()));
        for (content, expected) in [
            ("abc\n", Ok("abc")),
            ("abc\r\n", Ok("abc")),
            ("a b", Ok("a b")),
            ("\n", Err(format!("the secret in the file `{}` is empty", path.display()))),
        ] {
            std::fs::write(&path, content).expect("the temporary folder is writable");
            let secret = SecretRef::File(path.clone()).resolve();
            let secret = secret.as_ref().map(Secret::expose).map_err(ToString::to_string);
            assert_eq!(secret, expected, "{content:?}");
        }
        std::fs::write(&path, [0xff, 0xfe]).expect("the temporary folder is writable");
        assert!(matches!(SecretRef::File(path.clone()).resolve(), Err(SecretError::NotText(_))));
        std::fs::write(&path, vec![b'a'; 70_000]).expect("the temporary folder is writable");
        assert!(matches!(SecretRef::File(path.clone()).resolve(), Err(SecretError::TooLong(_))));
        std::fs::remove_file(&path).expect("it was just written");
        assert!(matches!(SecretRef::File(path).resolve(), Err(SecretError::Unreadable { .. })));
    }

    #[test]
    fn a_variable_that_is_not_set_is_named() {
        let error = SecretRef::Env("WHARF_TEST_NO_SUCH_VARIABLE".into()).resolve().expect_err("nobody sets it");
        assert_eq!(
            error.to_string(),
            "the environment variable `WHARF_TEST_NO_SUCH_VARIABLE`, which holds the secret, is not set"
        );
        assert!(!SecretRef::Env("PATH".into()).resolve().expect("every process has a PATH").expose().is_empty());
    }
}
