//! A folder of secrets: each file in it is one, and the file's name is its key.
//!
//! That is how Kubernetes mounts a Secret. There the files are links into `..data`, itself a link to a hidden folder, and a
//! new state is put in place by one rename of that link. What is read here is of one state: it is read again where the
//! link has changed meanwhile.

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
};

use super::{
    reader::{Value, quoted},
    secret::{Secret, SecretError, read_file},
    services::wrong_key,
};

/// A folder of secrets: `"folder:path"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretFolder(PathBuf);

const MOST_FILES: usize = 256;
/// What Kubernetes lets one Secret hold.
const MOST_BYTES: usize = 1 << 20;
/// The link that Kubernetes puts in place of another where secrets change.
const DATA: &str = "..data";
/// How often a folder is read that changes meanwhile.
const TRIES: usize = 5;

// === impl SecretFolder ===

impl SecretFolder {
    /// All secrets in it, by the names of their files.
    ///
    /// # Errors
    /// When one can't be had, or there is none, or there are too many. The error never holds a value.
    pub fn resolve(&self) -> Result<BTreeMap<String, Secret>, SecretError> {
        let state = || fs::read_link(self.0.join(DATA)).ok();
        for _ in 0..TRIES {
            let before = state();
            let read = self.read_files();
            if before == state() {
                return read;
            }
        }
        Err(SecretError::Unsettled(self.0.clone()))
    }

    fn read_files(&self) -> Result<BTreeMap<String, Secret>, SecretError> {
        let unreadable = |error| SecretError::UnreadableFolder { path: self.0.clone(), error };
        let too_much = |most: String| SecretError::TooMuch { folder: self.0.clone(), most };
        let (mut secrets, mut bytes) = (BTreeMap::new(), 0);
        for entry in fs::read_dir(&self.0).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let shown = name.to_string_lossy();
            let wrong =
                |problem: String| SecretError::WrongName { folder: self.0.clone(), name: quoted(&shown), problem };
            let name = name.to_str().ok_or_else(|| wrong("it is not UTF-8 text".into()))?;
            if let Some(problem) = wrong_key(name) {
                return Err(wrong(problem));
            }
            let path = entry.path();
            // Through links; and what is no file may block whoever reads it.
            if fs::metadata(&path).is_ok_and(|it| !it.is_file()) {
                return Err(SecretError::NoFile(path));
            }
            if secrets.len() == MOST_FILES {
                return Err(too_much(format!("{MOST_FILES} files")));
            }
            let secret = read_file(&path)?;
            bytes += secret.expose().len();
            if bytes > MOST_BYTES {
                return Err(too_much(format!("{} KiB", MOST_BYTES >> 10)));
            }
            secrets.insert(name.to_owned(), secret);
        }
        if secrets.is_empty() { Err(SecretError::EmptyFolder(self.0.clone())) } else { Ok(secrets) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The folder, if the value says one; reports nothing.
    pub(super) fn read(value: &Value<'_>) -> Option<Self> {
        let path = value.as_str()?.strip_prefix("folder:")?;
        let is_path = !path.is_empty() && !path.contains('\0');
        is_path.then(|| Self(value.doc().resolve(path)))
    }
}

impl fmt::Display for SecretFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "folder:{}", self.0.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("wharf-secrets-{}", uuid::Uuid::new_v4()));
            fs::create_dir(&path).expect("a temporary folder");
            Self(path)
        }

        fn put(&self, name: &str, content: impl AsRef<[u8]>) {
            fs::write(self.0.join(name), content).expect("it can be written");
        }

        /// What is found, as `key=value`, or the error without the folder's name.
        fn found(&self) -> Result<Vec<String>, String> {
            let found = SecretFolder(self.0.clone()).resolve();
            let found = found.map_err(|error| error.to_string().replace(&*self.0.to_string_lossy(), "…"))?;
            Ok(found.iter().map(|(key, value)| format!("{key}={}", value.expose())).collect())
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn each_file_is_a_secret_of_its_name() {
        let folder = Folder::new();
        folder.put("api-key", "abc\n");
        folder.put("db.password", "d e f");
        folder.put(".hidden", "not this");
        assert_eq!(folder.found(), Ok(vec!["api-key=abc".into(), "db.password=d e f".into()]));
    }

    #[test]
    fn links_are_followed_as_kubernetes_makes_them() {
        let folder = Folder::new();
        let state = |name: &str, value: &str| {
            fs::create_dir(folder.0.join(name)).expect("it can be made");
            fs::write(folder.0.join(name).join("api-key"), value).expect("it can be written");
        };
        state("..1", "old");
        symlink("..1", folder.0.join("..data")).expect("it can be linked");
        symlink("..data/api-key", folder.0.join("api-key")).expect("it can be linked");
        assert_eq!(folder.found(), Ok(vec!["api-key=old".into()]));
        state("..2", "new");
        symlink("..2", folder.0.join("..data_tmp")).expect("it can be linked");
        fs::rename(folder.0.join("..data_tmp"), folder.0.join("..data")).expect("it can be renamed");
        assert_eq!(folder.found(), Ok(vec!["api-key=new".into()]));
    }

    #[test]
    fn what_is_no_secret_is_said() {
        let told = |make: &dyn Fn(&Folder)| {
            let folder = Folder::new();
            make(&folder);
            folder.found().expect_err("it holds no secrets")
        };
        assert_eq!(
            told(&|_| {}),
            "the folder `…` holds no secret: each is a file in it, and the file's name is the key"
        );
        assert_eq!(told(&|folder| folder.put("empty", "\n")), "the secret in the file `…/empty` is empty");
        assert_eq!(
            told(&|folder| folder.put("a\nb", "x")),
            "the file `a\\nb` in the folder of secrets `…` can't be a secret's key: expected a name of 1 to 256 bytes \
             without control characters"
        );
        let nested = told(&|folder| fs::create_dir(folder.0.join("sub")).expect("it can be made"));
        assert!(nested.starts_with("`…/sub` in a folder of secrets is no file: "), "{nested}");
        let many = told(&|folder| (0..=MOST_FILES).for_each(|n| folder.put(&n.to_string(), "x")));
        assert_eq!(many, "the folder of secrets `…` holds more than 256 files, which is more than a service needs");
        let large = told(&|folder| (0..17).for_each(|n| folder.put(&n.to_string(), "x".repeat(64 << 10))));
        assert_eq!(large, "the folder of secrets `…` holds more than 1024 KiB, which is more than a service needs");
        let gone = SecretFolder("/nowhere/at/all".into()).resolve().expect_err("it is not there").to_string();
        assert!(gone.starts_with("the folder of secrets `/nowhere/at/all` cannot be read: No such file"), "{gone}");
    }
}
