//! How a service's sagas are run.

use crate::policy::Backoff;
use tokio::time::Duration;

/// The longest id of a saga, in bytes.
pub const MAX_ID: usize = 128;
/// The largest input, in bytes.
pub const MAX_INPUT: usize = 64 << 10;
/// The largest state, in bytes. A step whose result would make it larger has failed.
pub const MAX_STATE: usize = 256 << 10;
/// The longest that somebody may wait for a saga's end at once.
pub const MAX_WAIT: Duration = Duration::from_secs(60);

/// How a service's sagas are run.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// After how many tries an action fails; after how many a compensation is shown as stuck.
    pub attempts: u32,
    /// How long to wait after a try.
    pub backoff: Backoff,
    /// How many sagas are moved on at the same time.
    pub concurrency: usize,
    /// How many may be under way.
    pub max: usize,
    /// How long after its start a saga that is not complete is compensated, where its definition does not say.
    pub timeout: Duration,
    /// How long those that ended are kept.
    pub keep: Duration,
    /// How often those that ended long ago are looked for.
    pub forget_every: Duration,
    /// How many may be waiting for the end of a saga at the same time.
    pub waiters: usize,
    /// Where other hosts have the same database: how often the one that runs its sagas looks for what others were asked.
    pub look_every_shared: Duration,
    /// The name of this host among those with the same database: no other's, and the same when it is started again.
    pub host: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            attempts: 5,
            backoff: Backoff::default(),
            concurrency: 128,
            max: 100_000,
            timeout: Duration::from_secs(24 * 60 * 60),
            keep: Duration::from_secs(7 * 24 * 60 * 60),
            forget_every: Duration::from_secs(3600),
            waiters: 10_000,
            look_every_shared: Duration::from_millis(250),
            host: None,
        }
    }
}
