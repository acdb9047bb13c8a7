//! The buckets of many keys, in bounded space and time.
//!
//! A table of sets, as in a processor's cache: the hash of a key says in which set it is, and a set has room for a few.
//! Looking for a key is looking at those, and so is looking for room, under a lock that only the keys of one set share.
//! In a set without room a stranger takes the place of a key whose bucket is full again, which forgets nothing. If there
//! is none, because all of them have asked something of late, the stranger shares one bucket with all other strangers of
//! its set until there is one. Known keys notice nothing of it.
//!
//! So a client that invents keys can neither make the table grow nor make it search; it can only fill it, with a
//! request for each key, and has to go on doing so. What it gains are the buckets of the table, so that a limit by
//! something that a client may choose freely, such as a header that nobody verifies, bounds all of its requests together
//! only by `SETS * (WAYS + 1)` times the limit. What it costs others is that newcomers share.
//!
//! Keys are known by a hash of 64 bits alone, keyed by a secret of this process: nobody can choose one that falls where
//! another is, and of ten thousand two are the same with a probability of 10^-12.

use super::{Quota, Tally};
use serde::{Deserialize, Serialize};
use std::{
    hash::{BuildHasher, Hash, RandomState},
    sync::{Mutex, PoisonError},
};

/// Together 16,384 keys. Of ten thousand that ask all at once, one in two hundred has to share.
const SETS: usize = 1024;
/// As many as a set holds: 256 bytes.
const WAYS: usize = 16;

/// The buckets of keys.
#[derive(Debug)]
pub(super) struct Keys {
    sets: Box<[Mutex<Set>]>,
    ways: usize,
    hash: RandomState,
}

/// How full a table of keys is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysSnapshot {
    /// Keys that have a place.
    pub held: u64,
    /// Those of them that have asked something of late; the place of another is free for whoever comes.
    pub active: u64,
    /// How many places there are.
    pub most: u64,
}

#[derive(Debug, Default)]
struct Set {
    /// Here, and not of the whole table, so that those who count are no more than those who wait for the lock anyway.
    tally: Tally,
    known: Vec<Known>,
    /// The bucket of those for whom there is no room.
    strangers: u64,
}

#[derive(Debug)]
struct Known {
    key: u64,
    full_at: u64,
}

// === impl Keys ===

impl Default for Keys {
    fn default() -> Self {
        Self::new(SETS, WAYS)
    }
}

impl Keys {
    pub(super) fn new(sets: usize, ways: usize) -> Self {
        Self { sets: (0..sets).map(|_| Mutex::default()).collect(), ways, hash: RandomState::new() }
    }

    /// Lets `take` have the bucket of a key, which is the moment at which it will be full, and counts what comes of it.
    pub(super) fn with_bucket(&self, key: &impl Hash, now: u64, take: impl FnOnce(&mut u64) -> Quota) -> Quota {
        let key = self.hash.hash_one(key);
        // The lower bits, whatever the number of sets.
        let set = &self.sets[(key % self.sets.len() as u64) as usize];
        let mut set = set.lock().unwrap_or_else(PoisonError::into_inner);
        let quota = take(set.bucket(key, now, self.ways));
        set.tally.count(&quota);
        quota
    }

    /// What all keys together were told, and how full the table is.
    pub(super) fn snapshot(&self, now: u64) -> (Tally, KeysSnapshot) {
        let most = self.most();
        self.sets.iter().fold(
            (Tally::default(), KeysSnapshot { most, ..KeysSnapshot::default() }),
            |(tally, keys), set| {
                let set = set.lock().unwrap_or_else(PoisonError::into_inner);
                let active = set.known.iter().filter(|known| known.full_at > now).count() as u64;
                let held = keys.held + set.known.len() as u64;
                (tally.plus(set.tally), KeysSnapshot { held, active: keys.active + active, most })
            },
        )
    }

    /// How many keys it has room for.
    fn most(&self) -> u64 {
        (self.sets.len() * self.ways) as u64
    }
}

// === impl KeysSnapshot ===

impl KeysSnapshot {
    /// A table that nobody is in.
    pub(super) fn empty() -> Self {
        Self { most: (SETS * WAYS) as u64, ..Self::default() }
    }
}

// === impl Set ===

impl Set {
    fn bucket(&mut self, key: u64, now: u64, ways: usize) -> &mut u64 {
        let at = self.known.iter().position(|known| known.key == key).or_else(|| self.admit(key, now, ways));
        match at {
            Some(at) => &mut self.known[at].full_at,
            None => &mut self.strangers,
        }
    }

    /// Finds a place for a stranger.
    fn admit(&mut self, key: u64, now: u64, ways: usize) -> Option<usize> {
        // NB: it may have been among those who share, so it begins with what they have left. Else one that got a place
        // in the end could use up a second burst right after the first.
        let known = Known { key, full_at: self.strangers };
        if self.known.len() < ways {
            self.known.push(known);
            return Some(self.known.len() - 1);
        }
        let (at, fullest) = self.known.iter_mut().enumerate().min_by_key(|(_, known)| known.full_at)?;
        if fullest.full_at > now {
            return None;
        }
        *fullest = known;
        Some(at)
    }
}
