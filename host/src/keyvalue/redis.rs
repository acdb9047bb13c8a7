//! Buckets in Redis: a bucket is a hash, `wharf:<app>:kv:<service>:<bucket>`, each key one of its fields.

use super::{Failure, KeyValueError, Keys, MAX_BATCH_BYTES, PAGE};
use ::redis::{
    Client, Cmd, ConnectionInfo, FromRedisValue, RedisError, RedisResult, Script,
    aio::{ConnectionManager, ConnectionManagerConfig},
    cmd,
};
use arc_swap::ArcSwap;
use std::{
    fmt,
    sync::{Arc, LazyLock},
    time::Duration,
};

/// How long Redis may take to answer. A guest waits for it with its whole instance, since `wasi:keyvalue` is not async.
const ANSWER: Duration = Duration::from_secs(2);
/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(2);
/// How often a connection is tried before a command is given up.
const TRIES: usize = 1;

/// Keys without their values: `HSCAN` gives both, and the values may be large.
static LIST: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local page = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
         local keys = {}
         for at = 1, #page[2], 2 do keys[#keys + 1] = page[2][at] end
         return {page[1], keys}",
    )
});

/// Values, unless they are more than may be answered.
static GET: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local bytes = 0
         for at = 2, #ARGV do bytes = bytes + redis.call('HSTRLEN', KEYS[1], ARGV[at]) end
         if bytes > tonumber(ARGV[1]) then return redis.error_reply('TOOLARGE ' .. bytes) end
         local values = {}
         for at = 2, #ARGV do values[at - 1] = redis.call('HGET', KEYS[1], ARGV[at]) end
         return values",
    )
});

/// `HINCRBY` for numbers that are none of WASI's too: it takes negative ones, and Lua's own would lose the last digits.
static INCREMENT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local value = redis.call('HGET', KEYS[1], ARGV[1])
         if value and not string.match(value, '^%d+$') then return false end
         local sum = redis.pcall('HINCRBY', KEYS[1], ARGV[1], ARGV[2])
         if type(sum) == 'table' then return false end
         return redis.call('HGET', KEYS[1], ARGV[1])",
    )
});

/// The buckets of one service, or, before a service is named, of all.
#[derive(Clone)]
pub(super) struct Redis {
    /// Shared by all services.
    link: Arc<ArcSwap<Link>>,
    /// What the names of its hashes begin with.
    prefix: Arc<str>,
}

/// How Redis is reached.
struct Link {
    info: ConnectionInfo,
    connection: ConnectionManager,
}

fn config() -> ConnectionManagerConfig {
    ConnectionManagerConfig::new()
        .set_connection_timeout(Some(CONNECT))
        .set_response_timeout(Some(ANSWER))
        .set_number_of_retries(TRIES)
}

// === impl Redis ===

impl Redis {
    pub(super) async fn connect(url: &str, app: &str) -> Result<Self, KeyValueError> {
        // NB: the crate's own words for a wrong URL may repeat it.
        let client = Client::open(url).map_err(|error| KeyValueError::Url(error.category().to_owned()))?;
        let info = client.get_connection_info().clone();
        let connecting = ConnectionManager::new_with_config(client, config()).await;
        let connection = connecting.map_err(|error| KeyValueError::Redis(error.to_string()))?;
        let link = Arc::new(ArcSwap::from_pointee(Link { info, connection }));
        Ok(Self { link, prefix: format!("wharf:{app}:kv").into() })
    }

    /// Reaches it by another user or password from now on. `false`, and nothing is done, where the URL is of another place,
    /// or none.
    pub(super) fn log_in_by(&self, url: &str) -> bool {
        let Ok(client) = Client::open(url) else { return false };
        let info = client.get_connection_info().clone();
        let before = self.link.load();
        if before.info.addr() != info.addr() || before.info.redis_settings().db() != info.redis_settings().db() {
            return false;
        }
        let Ok(connection) = ConnectionManager::new_lazy_with_config(client, config()) else { return false };
        self.link.store(Arc::new(Link { info, connection }));
        true
    }

    fn connection(&self) -> ConnectionManager {
        self.link.load().connection.clone()
    }

    pub(super) fn of_service(&self, service: &str) -> Self {
        Self { link: self.link.clone(), prefix: format!("{}:{service}", self.prefix).into() }
    }

    pub(super) async fn exists(&self, bucket: &str, key: &str) -> Result<bool, Failure> {
        self.query(self.command("HEXISTS", bucket).arg(key)).await.map_err(failure)
    }

    pub(super) async fn list_keys(&self, bucket: &str, cursor: Option<u64>) -> Result<Keys, Failure> {
        let mut connection = self.connection();
        let mut list = LIST.key(self.hash(bucket));
        list.arg(cursor.unwrap_or_default()).arg(PAGE);
        let (next, keys): (u64, Vec<Vec<u8>>) = list.invoke_async(&mut connection).await.map_err(failure)?;
        // Others may have written to the hash: what is no text can't be a key of WASI's.
        let keys = keys.into_iter().filter_map(|key| String::from_utf8(key).ok());
        Ok(Keys { keys: keys.collect(), cursor: (next != 0).then_some(next) })
    }

    /// `None` where what is there is no number, or the sum would be none.
    pub(super) async fn increment(&self, bucket: &str, key: &str, delta: i64) -> Result<Option<i64>, Failure> {
        let mut connection = self.connection();
        let mut increment = INCREMENT.key(self.hash(bucket));
        increment.arg(key).arg(delta).invoke_async(&mut connection).await.map_err(failure)
    }

    pub(super) async fn get_many(&self, bucket: &str, keys: Vec<String>) -> Result<Vec<Option<Vec<u8>>>, Failure> {
        if let [key] = &keys[..] {
            return Ok(vec![self.query(self.command("HGET", bucket).arg(key)).await.map_err(failure)?]);
        }
        let mut connection = self.connection();
        let mut get = GET.key(self.hash(bucket));
        get.arg(MAX_BATCH_BYTES);
        for key in keys {
            get.arg(key);
        }
        get.invoke_async(&mut connection).await.map_err(failure)
    }

    pub(super) async fn set_many(&self, bucket: &str, entries: Vec<(String, Vec<u8>)>) -> Result<(), Failure> {
        let mut set = self.command("HSET", bucket);
        for (key, value) in entries {
            set.arg(key).arg(value);
        }
        self.query(&set).await.map_err(failure)
    }

    pub(super) async fn delete_many(&self, bucket: &str, keys: Vec<String>) -> Result<(), Failure> {
        self.query(self.command("HDEL", bucket).arg(keys)).await.map_err(failure)
    }

    fn hash(&self, bucket: &str) -> String {
        format!("{}:{bucket}", self.prefix)
    }

    fn command(&self, name: &str, bucket: &str) -> Cmd {
        let mut command = cmd(name);
        command.arg(self.hash(bucket));
        command
    }

    async fn query<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        command.query_async(&mut self.connection()).await
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

fn failure(error: RedisError) -> Failure {
    match error.code() {
        Some("TOOLARGE") => Failure::Other(format!(
            "values of {} bytes at once, more than {MAX_BATCH_BYTES}",
            error.detail().unwrap_or("many")
        )),
        _ => Failure::Other(format!("Redis did not do it: {error}")),
    }
}
