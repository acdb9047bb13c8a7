//! The connection to Redis that publishing and settling share.
//!
//! The `redis` crate's own connection manager does not tell whether a command that failed was ever sent, and keeps a
//! connection that has stopped answering. Both matter here: what was surely not sent is `unreachable` and safe to
//! repeat, and a publisher must not wait behind a dead connection. So this keeps one multiplexed connection, throws it
//! away at the first sign that it is broken, and makes the next one when a command needs it.

use super::BusError;
use crate::{
    events::Connection,
    policy::{Backoff, Fault, FaultKind},
};
use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, IntoConnectionInfo, RedisError, RedisResult,
    ServerErrorKind, aio,
};
use arc_swap::ArcSwap;
use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::time::{Duration, Instant, sleep_until, timeout_at};

/// How to reach and use Redis.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisConfig {
    /// `redis://[user:password@]host[:port][/database]`.
    pub url: String,
    /// The name of this host among those that share its subscriptions. No two hosts that run at the same time may have the
    /// same; one that starts again with the name it had goes on at once with what it left.
    pub consumer: String,
    /// How long publishing may take, reconnecting included.
    pub publish_timeout: Duration,
    /// Over how many streams the events of a topic are spread, and so how many hosts can share one subscription. All
    /// hosts must say the same, and it can't be changed while Redis holds events of the application.
    pub partitions: u16,
    /// How long a host keeps its partitions without being heard of. It is heard of three times as often.
    pub lease: Duration,
    /// How often to remove events of the past that need not be kept.
    pub trim: Duration,
}

/// Redis, connected or not.
pub(super) struct Redis {
    /// How the next connection is made.
    client: ArcSwap<Client>,
    address: String,
    state: Mutex<State>,
    /// Whoever holds it makes the next connection, the others wait for it.
    connecting: tokio::sync::Mutex<Attempts>,
}

struct State {
    connection: Option<aio::MultiplexedConnection>,
    /// Counts connections, so that one that broke is thrown away once and its successor is not.
    generation: u64,
    trouble: Option<String>,
}

#[derive(Default)]
struct Attempts {
    failed: u32,
    not_before: Option<Instant>,
}

/// Whether a command may be sent again when it is unknown what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Until it is confirmed: it may take effect twice.
    UntilConfirmed,
    /// Never: it may take no effect.
    Never,
}

/// How long Redis may take to answer before the connection counts as broken.
const RESPONSE: Duration = Duration::from_secs(2);
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(2);
/// How long to wait between tries to reach Redis.
pub(super) const RECONNECT: Backoff =
    Backoff { first: Duration::from_millis(50), max: Duration::from_secs(1), jitter: 0.5 };

// === impl RedisConfig ===

impl RedisConfig {
    /// The most partitions that make sense.
    pub const MAX_PARTITIONS: u16 = 256;

    /// The settings for Redis at `url`, with a consumer name of its own for each start.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            consumer: uuid::Uuid::new_v4().to_string(),
            publish_timeout: Duration::from_secs(3),
            partitions: 8,
            lease: Duration::from_secs(10),
            trim: Duration::from_secs(30),
        }
    }
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the URL: it may hold a password.
        f.debug_struct("RedisConfig").field("consumer", &self.consumer).finish_non_exhaustive()
    }
}

// === impl Redis ===

impl Redis {
    /// Connects, so that a wrong address shows at the start and not at the first event.
    pub(super) async fn open(config: &RedisConfig) -> Result<Arc<Self>, BusError> {
        let url = |err: RedisError| BusError::Url(err.category().to_owned());
        let info = config.url.as_str().into_connection_info().map_err(url)?;
        let client = Client::open(info).map_err(url)?;
        let redis = Arc::new(Self {
            address: client.get_connection_info().addr().to_string(),
            client: ArcSwap::from_pointee(client),
            state: Mutex::new(State { connection: None, generation: 0, trouble: None }),
            connecting: tokio::sync::Mutex::default(),
        });
        redis.query::<()>(&::redis::cmd("PING")).await.map_err(|err| redis.unusable(&err))?;
        Ok(redis)
    }

    /// Refuses a Redis that is too old.
    pub(super) async fn check_version(&self, oldest: u32) -> Result<(), BusError> {
        let info: String = self.query(::redis::cmd("INFO").arg("server")).await.map_err(|err| self.unusable(&err))?;
        let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or_default();
        match version.split('.').next().and_then(|major| major.parse::<u32>().ok()) {
            Some(major) if major < oldest => Err(BusError::Redis {
                address: self.address.clone(),
                reason: format!("its version is {version}, and Redis Streams need {oldest}.0 or newer"),
            }),
            _ => Ok(()),
        }
    }

    /// The error of a start that Redis stood in the way of.
    pub(super) fn unusable(&self, err: &RedisError) -> BusError {
        BusError::Redis { address: self.address.clone(), reason: err.to_string() }
    }

    pub(super) fn connection(&self) -> Connection {
        match &self.state().trouble {
            Some(reason) => Connection::Disconnected { reason: reason.clone() },
            None => Connection::Connected,
        }
    }

    /// A connection for reads that wait up to `block` for something to come.
    pub(super) async fn reader(&self, block: Duration) -> RedisResult<aio::MultiplexedConnection> {
        self.connect(Some(block + RESPONSE)).await
    }

    /// A connection that receives published messages.
    pub(super) async fn pubsub(&self) -> RedisResult<aio::PubSub> {
        let client = self.client.load_full();
        timeout_at(Instant::now() + CONNECT, client.get_async_pubsub()).await.unwrap_or_else(|_| Err(timed_out()))
    }

    /// Makes connections by another user or password from now on. `false`, and nothing is done, where the URL is of another
    /// place, or none.
    pub(super) fn log_in_by(&self, url: &str) -> bool {
        let Ok(client) = Client::open(url) else { return false };
        let (before, now) = (self.client.load(), client.get_connection_info());
        let before = before.get_connection_info();
        let same = before.addr() == now.addr() && before.redis_settings().db() == now.redis_settings().db();
        if same {
            self.client.store(Arc::new(client));
        }
        same
    }

    /// Sends a command once over the shared connection.
    pub(super) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        let (generation, mut connection) = self.shared().await?;
        let answer = command.query_async(&mut connection).await;
        self.examine(generation, answer)
    }

    /// Sends commands together, once.
    pub(super) async fn pipeline(&self, pipeline: &::redis::Pipeline) -> RedisResult<()> {
        let (generation, mut connection) = self.shared().await?;
        let answer = pipeline.query_async(&mut connection).await;
        self.examine(generation, answer)
    }

    /// Sends a command, over as many connections as it takes, until it is answered or the time is over.
    ///
    /// # Errors
    ///
    /// The fault says whether the command may have had its effect.
    pub(super) async fn execute<T: FromRedisValue>(
        &self,
        command: &Cmd,
        limit: Duration,
        repeat: Repeat,
    ) -> Result<T, Fault> {
        let deadline = Instant::now() + limit;
        let (mut unconfirmed, mut failed, mut last) = (false, 0, String::from("it did not answer in time"));
        loop {
            let shared = timeout_at(deadline, self.shared()).await;
            let err = match shared {
                Err(_) => break,
                Ok(Err(err)) => err,
                Ok(Ok((generation, mut connection))) => {
                    let answer = timeout_at(deadline, command.query_async::<T>(&mut connection)).await;
                    match answer.map(|answer| self.examine(generation, answer)) {
                        Ok(Ok(answer)) => return Ok(answer),
                        Ok(Err(err)) if is_broken(&err) => {
                            unconfirmed = true;
                            err
                        }
                        Ok(Err(err)) if is_starting(&err) => err,
                        Ok(Err(err)) => return Err(self.refused(&err)),
                        Err(_) => {
                            unconfirmed = true;
                            break;
                        }
                    }
                }
            };
            last = err.to_string();
            failed += 1;
            let next = Instant::now() + RECONNECT.after(failed);
            if next >= deadline || (unconfirmed && repeat == Repeat::Never) {
                break;
            }
            sleep_until(next).await;
        }
        let address = &self.address;
        Err(if unconfirmed {
            let text = format!("Redis at {address} did not confirm the event, which may have been published: {last}");
            Fault::new(FaultKind::DeadlineExceeded, text)
        } else {
            Fault::new(FaultKind::Unreachable, format!("Redis at {address} can't be reached: {last}"))
        })
    }

    fn refused(&self, err: &RedisError) -> Fault {
        // Redis answers OOM when its memory is full; every other refusal is one that waiting does not mend.
        let kind = if err.code() == Some("OOM") { FaultKind::Overloaded } else { FaultKind::Unreachable };
        Fault::new(kind, format!("Redis at {} refused the event: {err}", self.address))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> Option<(u64, aio::MultiplexedConnection)> {
        let state = self.state();
        state.connection.clone().map(|connection| (state.generation, connection))
    }

    /// The shared connection, made anew where there is none.
    async fn shared(&self) -> RedisResult<(u64, aio::MultiplexedConnection)> {
        if let Some(current) = self.current() {
            return Ok(current);
        }
        let mut attempts = self.connecting.lock().await;
        if let Some(current) = self.current() {
            return Ok(current);
        }
        if let Some(not_before) = attempts.not_before {
            sleep_until(not_before).await;
        }
        match self.connect(Some(RESPONSE)).await {
            Ok(connection) => {
                *attempts = Attempts::default();
                let mut state = self.state();
                state.generation += 1;
                state.connection = Some(connection.clone());
                Ok((state.generation, connection))
            }
            Err(err) => {
                attempts.failed += 1;
                attempts.not_before = Some(Instant::now() + RECONNECT.after(attempts.failed));
                self.trouble(&err);
                Err(err)
            }
        }
    }

    async fn connect(&self, response: Option<Duration>) -> RedisResult<aio::MultiplexedConnection> {
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(response);
        self.client.load_full().get_multiplexed_async_connection_with_config(&config).await
    }

    /// Looks whether an answer says that its connection is broken.
    fn examine<T>(&self, generation: u64, answer: RedisResult<T>) -> RedisResult<T> {
        match &answer {
            Err(err) if is_broken(err) => {
                let mut state = self.state();
                if state.generation == generation {
                    state.connection = None;
                }
                drop(state);
                self.trouble(err);
            }
            _ => self.recovered(),
        }
        answer
    }

    /// Notes that Redis answers.
    pub(super) fn recovered(&self) {
        if let Some(trouble) = self.state().trouble.take() {
            tracing::info!(address = %self.address, %trouble, "Redis answers again");
        }
    }

    /// Notes that Redis could not be reached, or did not answer.
    pub(super) fn trouble(&self, err: &RedisError) {
        let reason = err.to_string();
        if self.state().trouble.replace(reason.clone()).is_none() {
            tracing::warn!(address = %self.address, %reason, "Redis does not answer; trying again until it does");
        }
    }
}

/// Whether the connection is of no more use, and whatever was sent over it last may have arrived or not.
pub(super) fn is_broken(err: &RedisError) -> bool {
    err.is_io_error() || err.is_unrecoverable_error() || err.kind() == ErrorKind::Parse
}

/// Whether Redis is there, and can't take it yet: it loads what it has kept, is a replica that is about to be a master, or
/// runs a script.
fn is_starting(err: &RedisError) -> bool {
    use ServerErrorKind::{BusyLoading, ClusterDown, MasterDown, ReadOnly, TryAgain};
    matches!(err.kind(), ErrorKind::Server(BusyLoading | ClusterDown | MasterDown | ReadOnly | TryAgain))
        || err.code() == Some("BUSY")
}

/// Whether the same command may be answered otherwise later, without anyone having changed the keys.
pub(super) fn may_pass(err: &RedisError) -> bool {
    is_broken(err) || is_starting(err) || matches!(err.code(), Some("OOM" | "MISCONF" | "NOREPLICAS" | "NOAUTH"))
}

fn timed_out() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}
