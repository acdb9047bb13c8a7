//! Key-value storage for components, by `wasi:keyvalue`.
//!
//! A service has the buckets that its manifest names, and no other service can open them. What a bucket holds is bytes by
//! key; the operations of `atomics` and `batch` are each all or nothing.
//!
//! Two backends, chosen by the operator and seen by no service: a SQLite file for each service, which needs nothing
//! beside the host, or Redis, which several hosts share. Both keep the promises of this module, with one difference: a
//! write to SQLite survives the end of the process, one to Redis what Redis' own persistence lets it survive.
//!
//! `wasmtime-wasi-keyvalue` is not used: its one backend is a map in memory.

mod binding;
mod redis;
mod sqlite;
#[cfg(test)]
mod tests;

pub use binding::{KeyValueView, add_to_linker};

use self::{redis::Redis, sqlite::Sqlite};
use crate::store::OpenError;
use std::{collections::BTreeSet, fmt, path::Path, sync::Arc};

/// The longest key, in bytes.
pub const MAX_KEY: usize = 1 << 10;
/// The largest value, in bytes.
pub const MAX_VALUE: usize = 1 << 20;
/// The most keys of one operation of `batch`.
pub const MAX_BATCH: usize = 1_000;
/// The most bytes that the keys and values of one operation of `batch` have together.
pub const MAX_BATCH_BYTES: usize = 8 << 20;
/// About how many keys one answer of `list-keys` has.
pub const PAGE: usize = 1_000;

/// Where buckets are kept.
#[derive(Clone)]
pub enum KeyValueConfig {
    /// In a SQLite file for each service: `<data>/kv/<service>.sqlite`.
    Sqlite,
    /// In Redis.
    Redis {
        /// `redis://[user:password@]host[:port][/database]`.
        url: String,
        /// The application's name, which keeps its buckets apart from those of others on the same Redis.
        app: String,
    },
}

/// Why buckets can't be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeyValueError {
    /// The file can't be used.
    #[error(transparent)]
    File(#[from] OpenError),
    /// Its table can't be made.
    #[error("the buckets of service {service} can't be used: {reason}")]
    Table {
        /// The service.
        service: String,
        /// What the database said.
        reason: String,
    },
    /// The URL is none that Redis is found by. The URL itself is not shown: it may hold a password.
    #[error("the URL for Redis is not usable: {0}; expected redis://[user:password@]host[:port][/database]")]
    Url(String),
    /// Redis did not answer.
    #[error("Redis can't be used for key-value storage: {0}; start it, or leave [key-value] out of the manifest")]
    Redis(String),
}

/// Where all buckets of an application are kept: opened once, and asked for each service's part.
pub struct KeyValue(Kept);

enum Kept {
    Sqlite,
    Redis(Redis),
}

/// The buckets of one service. Clones are the same.
#[derive(Clone, Debug)]
pub struct Buckets {
    service: Arc<str>,
    names: Arc<BTreeSet<String>>,
    backend: Backend,
    reads_only: bool,
}

#[derive(Clone, Debug)]
enum Backend {
    Sqlite(Sqlite),
    Redis(Redis),
}

/// Why an operation failed, as `wasi:keyvalue/store.error` tells it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The manifest names no such bucket for the service.
    #[error("the manifest names no such bucket for this service")]
    NoSuchStore,
    /// Anything else, in words.
    #[error("{0}")]
    Other(String),
}

/// Some keys of a bucket, and where those after them begin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// The keys.
    pub keys: Vec<String>,
    /// Where to go on; `None` at the end.
    pub cursor: Option<u64>,
}

/// One bucket of one service.
#[derive(Clone, Debug)]
pub struct Bucket {
    name: Arc<str>,
    backend: Backend,
    reads_only: bool,
}

// === impl KeyValue ===

impl KeyValue {
    /// Makes ready to open buckets. A server must answer now; later it may go and come.
    ///
    /// # Errors
    ///
    /// When Redis can't be reached by the URL.
    pub async fn start(config: KeyValueConfig) -> Result<Self, KeyValueError> {
        Ok(Self(match config {
            KeyValueConfig::Sqlite => Kept::Sqlite,
            KeyValueConfig::Redis { url, app } => Kept::Redis(Redis::connect(&url, &app).await?),
        }))
    }

    /// Reaches its server by the user and the password of this URL from now on. `false`, and nothing is done, where the URL is
    /// of another place, or there is no server.
    pub fn log_in_by(&self, url: &str) -> bool {
        match &self.0 {
            Kept::Sqlite => false,
            Kept::Redis(redis) => redis.log_in_by(url),
        }
    }

    /// The buckets of a service; `data` is the application's folder.
    ///
    /// # Errors
    ///
    /// When its file can't be used.
    pub async fn buckets(
        &self,
        data: &Path,
        service: &str,
        names: impl IntoIterator<Item = String>,
    ) -> Result<Buckets, KeyValueError> {
        let backend = match &self.0 {
            Kept::Sqlite => Backend::Sqlite(Sqlite::open(data, service).await?),
            Kept::Redis(redis) => Backend::Redis(redis.of_service(service)),
        };
        Ok(Buckets {
            service: service.into(),
            names: Arc::new(names.into_iter().collect()),
            backend,
            reads_only: false,
        })
    }
}

// === impl Buckets ===

impl Buckets {
    /// Opens a bucket.
    ///
    /// # Errors
    ///
    /// [`Failure::NoSuchStore`] when the manifest does not name it.
    pub fn open(&self, name: &str) -> Result<Bucket, Failure> {
        let name = self.names.get(name).ok_or(Failure::NoSuchStore)?;
        Ok(Bucket { name: name.as_str().into(), backend: self.backend.clone(), reads_only: self.reads_only })
    }

    /// What the same service has under other names: the file, if there is one, is the same.
    #[must_use]
    pub fn renamed(&self, names: impl IntoIterator<Item = String>) -> Self {
        Self { names: Arc::new(names.into_iter().collect()), ..self.clone() }
    }

    /// The same for somebody who may not change them.
    #[must_use]
    pub fn read_only(&self) -> Self {
        Self { reads_only: true, ..self.clone() }
    }

    /// Finishes what is under way, and closes the file, if there is one.
    pub async fn close(&self) {
        if let Backend::Sqlite(sqlite) = &self.backend {
            sqlite.close().await;
        }
    }

    /// The service's name.
    pub fn service(&self) -> &str {
        &self.service
    }
}

// === impl Bucket ===

impl Bucket {
    /// What the key has.
    ///
    /// # Errors
    ///
    /// When the backend can't be read.
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Failure> {
        check_key(key)?;
        let mut values = self.get_many(vec![key.to_owned()]).await?;
        Ok(values.pop().flatten())
    }

    /// Gives the key a value in place of the one that it had.
    ///
    /// # Errors
    ///
    /// When key or value is too large, or the backend can't be written.
    pub async fn set(&self, key: String, value: Vec<u8>) -> Result<(), Failure> {
        self.set_many(vec![(key, value)]).await
    }

    /// Forgets the key, if it is there.
    ///
    /// # Errors
    ///
    /// When the backend can't be written.
    pub async fn delete(&self, key: String) -> Result<(), Failure> {
        self.delete_many(vec![key]).await
    }

    /// Whether the key has a value.
    ///
    /// # Errors
    ///
    /// When the backend can't be read.
    pub async fn exists(&self, key: &str) -> Result<bool, Failure> {
        check_key(key)?;
        match &self.backend {
            Backend::Sqlite(it) => it.exists(&self.name, key).await,
            Backend::Redis(it) => it.exists(&self.name, key).await,
        }
    }

    /// About [`PAGE`] keys, from the beginning or from where the answer before ended. In no order that means anything; a key
    /// that is there all the time is listed, at Redis perhaps twice.
    ///
    /// # Errors
    ///
    /// When the backend can't be read.
    pub async fn list_keys(&self, cursor: Option<u64>) -> Result<Keys, Failure> {
        match &self.backend {
            Backend::Sqlite(it) => it.list_keys(&self.name, cursor).await,
            Backend::Redis(it) => it.list_keys(&self.name, cursor).await,
        }
    }

    /// Adds to the number that the key has, 0 if it has none, and returns the sum. A number is kept as its decimal digits.
    ///
    /// # Errors
    ///
    /// When it has something that is no such number, the sum would be larger than 2^63 − 1, or the backend can't be written.
    pub async fn increment(&self, key: String, delta: u64) -> Result<u64, Failure> {
        self.check_write()?;
        check_key(&key)?;
        let delta = i64::try_from(delta).map_err(|_| Failure::not_a_number(&key))?;
        let sum = match &self.backend {
            Backend::Sqlite(it) => it.increment(&self.name, &key, delta).await?,
            Backend::Redis(it) => it.increment(&self.name, &key, delta).await?,
        };
        sum.and_then(|sum| u64::try_from(sum).ok()).ok_or_else(|| Failure::not_a_number(&key))
    }

    /// What each of the keys has, in their order.
    ///
    /// # Errors
    ///
    /// When there are too many, the answer would be too large, or the backend can't be read.
    pub async fn get_many(&self, keys: Vec<String>) -> Result<Vec<Option<Vec<u8>>>, Failure> {
        check_batch(keys.iter().map(|key| (key, 0)))?;
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        match &self.backend {
            Backend::Sqlite(it) => it.get_many(&self.name, keys).await,
            Backend::Redis(it) => it.get_many(&self.name, keys).await,
        }
    }

    /// Gives each key its value, all or none. Of a key that comes twice the last value stays.
    ///
    /// # Errors
    ///
    /// When there are too many, they are too large, or the backend can't be written.
    pub async fn set_many(&self, entries: Vec<(String, Vec<u8>)>) -> Result<(), Failure> {
        self.check_write()?;
        if let Some((key, value)) = entries.iter().find(|(_, value)| value.len() > MAX_VALUE) {
            let (key, bytes) = (key.escape_debug(), value.len());
            return Err(Failure::Other(format!("the value for `{key}` has {bytes} bytes, more than {MAX_VALUE}")));
        }
        check_batch(entries.iter().map(|(key, value)| (key, value.len())))?;
        if entries.is_empty() {
            return Ok(());
        }
        match &self.backend {
            Backend::Sqlite(it) => it.set_many(&self.name, entries).await,
            Backend::Redis(it) => it.set_many(&self.name, entries).await,
        }
    }

    /// Forgets the keys, all or none.
    ///
    /// # Errors
    ///
    /// When there are too many, or the backend can't be written.
    pub async fn delete_many(&self, keys: Vec<String>) -> Result<(), Failure> {
        self.check_write()?;
        check_batch(keys.iter().map(|key| (key, 0)))?;
        if keys.is_empty() {
            return Ok(());
        }
        match &self.backend {
            Backend::Sqlite(it) => it.delete_many(&self.name, keys).await,
            Backend::Redis(it) => it.delete_many(&self.name, keys).await,
        }
    }
}

impl Bucket {
    fn check_write(&self) -> Result<(), Failure> {
        if self.reads_only {
            let reason = "buckets are only read here: this revision answers copies of requests";
            return Err(Failure::Other(reason.into()));
        }
        Ok(())
    }
}

// === impl Failure ===

impl Failure {
    fn not_a_number(key: &str) -> Self {
        let key = key.escape_debug();
        Self::Other(format!(
            "the value of `{key}` is no number that can be added to: decimal digits, below 2^63 with the sum"
        ))
    }
}

// === impl KeyValueConfig ===

impl fmt::Debug for KeyValueConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite => f.write_str("Sqlite"),
            // The URL may hold a password.
            Self::Redis { app, .. } => f.debug_struct("Redis").field("app", app).finish_non_exhaustive(),
        }
    }
}

fn check_key(key: &str) -> Result<(), Failure> {
    if (1..=MAX_KEY).contains(&key.len()) {
        return Ok(());
    }
    Err(Failure::Other(format!("the key has {} bytes, expected 1 to {MAX_KEY}", key.len())))
}

fn check_batch<'a>(entries: impl Iterator<Item = (&'a String, usize)>) -> Result<(), Failure> {
    let (mut count, mut bytes) = (0, 0);
    for (key, value) in entries {
        check_key(key)?;
        count += 1;
        bytes += key.len() + value;
    }
    if count > MAX_BATCH {
        return Err(Failure::Other(format!("{count} keys at once, more than {MAX_BATCH}")));
    }
    if bytes > MAX_BATCH_BYTES {
        return Err(Failure::Other(format!("keys and values of {bytes} bytes at once, more than {MAX_BATCH_BYTES}")));
    }
    Ok(())
}
