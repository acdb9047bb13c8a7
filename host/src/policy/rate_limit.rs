//! How many requests somebody may make in a time.
//!
//! The measure is GCRA, the leaky bucket as a meter (see [`gcra`]): one number for each key, exact at any moment, with
//! neither windows at whose edges twice as much passes nor a task that refills buckets. Over any stretch of time,
//! wherever it begins, no key is granted more than `burst` requests and one more for each `per / requests` of it.
//!
//! Who asks is the client's to say, so a client could invent keys without end. What a limiter knows is therefore bounded,
//! and a stranger costs no more than a known key does, see [`keys`].
//!
//! Why not the `governor` crate, whose measure is the same: its keyed state is a map that grows with every key that was
//! ever seen until its owner sweeps all of it, and neither a bound nor what becomes of the key beyond it is part of it;
//! its clocks are not tokio's, so that nothing here could be tested on a paused one; and of what a client is told it
//! knows the wait, but of a refused key only. What is left then are the ten lines in [`gcra`].

mod gcra;
mod keys;

pub use self::keys::KeysSnapshot;

use self::{gcra::Meter, keys::Keys};
use super::{InvalidPolicy, MAX_DURATION, bounds, invalid};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Whose requests are counted together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RateLimitKey {
    /// Those of all clients.
    Route,
    /// Those from one address.
    Client,
    /// Those with the same value in the header of this name, in lower case. A request without it counts for its address.
    Header(String),
}

/// The parts of a [`RateLimitPolicy`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimitParams {
    /// How many requests are granted in the time `per`, in the long run.
    pub requests: u32,
    /// The time for that.
    pub per: Duration,
    /// How many are granted at once to one who was away long enough; `None`: as many as `requests`.
    pub burst: Option<u32>,
    /// Whose requests are counted together.
    pub key: RateLimitKey,
}

/// How many requests somebody may make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimitPolicy(RateLimitParams);

/// What a key has left after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Whether the request is granted.
    pub granted: bool,
    /// How many more would be granted now.
    pub left: u32,
    /// After what time there will be more than that. To one who was refused: when to come again.
    pub more_in: Duration,
}

/// The live state of a rate limit.
#[derive(Debug)]
pub struct RateLimiter {
    policy: RateLimitPolicy,
    meter: Meter,
    began: Instant,
    buckets: Buckets,
}

#[derive(Debug)]
enum Buckets {
    One(Mutex<One>),
    Keyed(Keys),
}

/// The one bucket of all.
#[derive(Debug, Default)]
struct One {
    full_at: u64,
    tally: Tally,
}

/// What requests were told.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    granted: u64,
    refused: u64,
}

/// A rate limit as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimitSnapshot {
    /// How many requests are granted in the time `per_ms`.
    pub requests: u32,
    /// That time, in milliseconds.
    pub per_ms: u64,
    /// How many are granted at once.
    pub burst: u32,
    /// Whose requests are counted together, as the manifest says it.
    pub key: String,
    /// Requests that were granted so far.
    pub granted: u64,
    /// Those that were refused.
    pub refused: u64,
    /// How many keys are known; not where all are one.
    pub keys: Option<KeysSnapshot>,
}

// === impl RateLimitKey ===

impl fmt::Display for RateLimitKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route => f.write_str("route"),
            Self::Client => f.write_str("client"),
            Self::Header(name) => write!(f, "header:{name}"),
        }
    }
}

// === impl RateLimitPolicy ===

impl RateLimitPolicy {
    /// A policy of these parts.
    ///
    /// # Errors
    ///
    /// When `requests` or `burst` is not 1 to 1,000,000, `per` is zero or longer than [`MAX_DURATION`], a spent burst
    /// would be longer than that in coming back, or no header can have the key's name.
    pub fn try_new(params: RateLimitParams) -> Result<Self, InvalidPolicy> {
        invalid::check_count("rate-limit.requests", params.requests, bounds::RATE)?;
        invalid::check_duration("rate-limit.per", params.per)?;
        let policy = Self(params);
        invalid::check_count("rate-limit.burst", policy.burst(), bounds::BURST)?;
        let Self(RateLimitParams { requests, per, ref key, .. }) = policy;
        if per.as_nanos() * u128::from(policy.burst()) > MAX_DURATION.as_nanos() * u128::from(requests) {
            let expected = "a burst that is there again within 24h of having been used up";
            let found = format_args!("{}, at {requests} per {per:?}", policy.burst());
            return Err(InvalidPolicy::new("rate-limit.burst", expected, found));
        }
        if let RateLimitKey::Header(name) = key
            && !is_header_name(name)
        {
            let found = format_args!("`{}`", name.escape_debug());
            return Err(InvalidPolicy::new("rate-limit.key", "the name of a header in lower case", found));
        }
        Ok(policy)
    }

    /// Its parts.
    pub fn params(&self) -> &RateLimitParams {
        &self.0
    }

    /// How many requests are granted at once.
    pub fn burst(&self) -> u32 {
        self.0.burst.unwrap_or(self.0.requests)
    }

    /// A limit by this policy of whom nobody has asked anything yet, as people see it.
    pub fn snapshot(&self) -> RateLimitSnapshot {
        let keys = (self.0.key != RateLimitKey::Route).then(KeysSnapshot::empty);
        self.snapshot_of(Tally::default(), keys)
    }

    fn snapshot_of(&self, tally: Tally, keys: Option<KeysSnapshot>) -> RateLimitSnapshot {
        RateLimitSnapshot {
            requests: self.0.requests,
            per_ms: u64::try_from(self.0.per.as_millis()).unwrap_or(u64::MAX),
            burst: self.burst(),
            key: self.0.key.to_string(),
            granted: tally.granted,
            refused: tally.refused,
            keys,
        }
    }
}

/// RFC 9110, 5.1, and no longer than anybody would make one.
fn is_header_name(name: &str) -> bool {
    let may = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9') || b"!#$%&'*+-.^_`|~".contains(&b);
    (1..=256).contains(&name.len()) && name.bytes().all(may)
}

// === impl RateLimiter ===

impl RateLimiter {
    /// A limiter of whom nobody has asked anything yet.
    pub fn new(policy: RateLimitPolicy) -> Self {
        let buckets = match policy.0.key {
            RateLimitKey::Route => Buckets::One(Mutex::default()),
            RateLimitKey::Client | RateLimitKey::Header(_) => Buckets::Keyed(Keys::default()),
        };
        Self { meter: Meter::new(&policy), began: Instant::now(), policy, buckets }
    }

    /// Its policy.
    pub fn policy(&self) -> &RateLimitPolicy {
        &self.policy
    }

    /// Counts a request that `key` makes `now`. A refused one costs nothing: who keeps on asking is served as soon as
    /// one who waited.
    ///
    /// Where the policy's key is [`RateLimitKey::Route`], all keys are one.
    pub fn take(&self, key: &impl Hash, now: Instant) -> Quota {
        let now = self.nanos_at(now);
        match &self.buckets {
            Buckets::One(one) => {
                let mut one = one.lock().unwrap_or_else(PoisonError::into_inner);
                let quota = self.meter.take(&mut one.full_at, now);
                one.tally.count(&quota);
                quota
            }
            Buckets::Keyed(keys) => keys.with_bucket(key, now, |bucket| self.meter.take(bucket, now)),
        }
    }

    /// The limit as it is now.
    pub fn snapshot(&self) -> RateLimitSnapshot {
        match &self.buckets {
            Buckets::One(one) => {
                let tally = one.lock().unwrap_or_else(PoisonError::into_inner).tally;
                self.policy.snapshot_of(tally, None)
            }
            Buckets::Keyed(keys) => {
                let (tally, keys) = keys.snapshot(self.nanos_at(Instant::now()));
                self.policy.snapshot_of(tally, Some(keys))
            }
        }
    }

    fn nanos_at(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.began).as_nanos()).unwrap_or(u64::MAX)
    }
}

// === impl Tally ===

impl Tally {
    fn count(&mut self, quota: &Quota) {
        *(if quota.granted { &mut self.granted } else { &mut self.refused }) += 1;
    }

    fn plus(self, other: Self) -> Self {
        Self { granted: self.granted + other.granted, refused: self.refused + other.refused }
    }
}

#[cfg(test)]
mod tests;
