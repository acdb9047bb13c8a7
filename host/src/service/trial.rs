//! A new revision that gets some of the calls: which of them, and what came of them.
//!
//! Which calls they are is decided by the id of the trace that a call belongs to, for all kinds of call alike: a request,
//! the typed calls that it leads to and the events that these publish go the same way, and nothing has to be carried with
//! them for it. By percent it is a hash of that id; where requests are marked, the traces of those that were are remembered.

use super::revision::Revision;
use crate::{
    policy::{Account, CallEnd, Fault, FaultKind, Mark, Split, Tally},
    telemetry::TraceContext,
};
use arc_swap::ArcSwap;
use hyper::{HeaderMap, header::COOKIE};
use lru::LruCache;
use std::{
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::{sync::Semaphore, time::Instant};

/// How many traces of marked requests are remembered: the events of one may come a while later.
const TRACES: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();
/// How many copies of requests may be under way at a time; beyond, none is made.
const MOST_COPIES: usize = 64;

/// A revision on trial beside the one that serves.
pub struct Trial {
    /// The new revision.
    pub revision: Arc<Revision>,
    split: Split,
    /// Calls of the new revision, and of the old one in the same time.
    new: Tally,
    old: Tally,
    marked: Mutex<LruCache<u128, ()>>,
    copies: Arc<Semaphore>,
    differing: AtomicU64,
}

/// The trials of all services whose requests are marked: asked wherever requests come in.
#[derive(Default)]
pub struct Marked(ArcSwap<Vec<Arc<Trial>>>);

/// Which revision a call goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Old,
    New,
}

/// Counts what comes of a call, once.
pub(super) struct Counting {
    trial: Arc<Trial>,
    side: Side,
    began: Instant,
}

// === impl Trial ===

impl Trial {
    /// A trial of `revision` with these calls.
    pub fn new(revision: Arc<Revision>, split: Split) -> Arc<Self> {
        Arc::new(Self {
            revision,
            split,
            new: Tally::default(),
            old: Tally::default(),
            marked: Mutex::new(LruCache::new(TRACES)),
            copies: Arc::new(Semaphore::new(MOST_COPIES)),
            differing: AtomicU64::new(0),
        })
    }

    /// Which calls it gets.
    pub fn split(&self) -> &Split {
        &self.split
    }

    /// What came of the calls of the old revision and of the new one, since the trial began.
    pub fn accounts(&self) -> (Account, Account) {
        (self.old.account(), self.new.account())
    }

    /// How many answers to copies were not those that the old revision gave.
    pub fn differing(&self) -> u64 {
        self.differing.load(Relaxed)
    }

    /// Remembers the trace of a request that carries the mark.
    pub(super) fn see(&self, headers: &HeaderMap, trace: &TraceContext) {
        if let Split::Marked(mark) = &self.split
            && carries(headers, mark)
        {
            self.lock().put(trace.trace_id(), ());
        }
    }

    pub(super) fn side(&self, trace: &TraceContext) -> Side {
        let is_new = match &self.split {
            Split::Percent(percent) => u128::from(*percent) * (u128::MAX / 100) >= scattered(trace.trace_id()),
            Split::Marked(_) => self.lock().get(&trace.trace_id()).is_some(),
            Split::Shadow => false,
        };
        if is_new { Side::New } else { Side::Old }
    }

    pub(super) fn count(self: &Arc<Self>, side: Side) -> Counting {
        Counting { trial: self.clone(), side, began: Instant::now() }
    }

    /// Room for a copy of a request, where it is to be made.
    pub(super) fn copy(&self) -> Option<tokio::sync::OwnedSemaphorePermit> {
        if self.split == Split::Shadow { self.copies.clone().try_acquire_owned().ok() } else { None }
    }

    /// An answer to a copy differs.
    pub(super) fn differs(&self) {
        self.differing.fetch_add(1, Relaxed);
    }

    fn tally(&self, side: Side) -> &Tally {
        if side == Side::New { &self.new } else { &self.old }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LruCache<u128, ()>> {
        // Nothing panics while the lock is held.
        self.marked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ids of traces are random to begin with, or should be: who makes them may count them up.
fn scattered(id: u128) -> u128 {
    // The finalizer of SplitMix64 (Steele, Lea and Flood, 2014), over both halves.
    let mix = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let high = mix((id >> 64) as u64 ^ mix(id as u64));
    (u128::from(high) << 64) | u128::from(mix(high))
}

fn carries(headers: &HeaderMap, mark: &Mark) -> bool {
    match mark {
        Mark::Header(name, value) => headers.get_all(name.as_str()).iter().any(|found| found == value.as_str()),
        Mark::Cookie(name, value) => {
            let pairs =
                headers.get_all(COOKIE).iter().filter_map(|found| found.to_str().ok()).flat_map(|it| it.split(';'));
            pairs.filter_map(|pair| pair.trim().split_once('=')).any(|pair| pair == (name.as_str(), value.as_str()))
        }
    }
}

// === impl Marked ===

impl Marked {
    /// Remembers the trace of a request that carries the mark of a trial.
    pub fn see(&self, headers: &HeaderMap, trace: &TraceContext) {
        for trial in self.0.load().iter() {
            trial.see(headers, trace);
        }
    }

    /// These are the trials now.
    pub fn set<'a>(&self, trials: impl Iterator<Item = &'a Arc<Trial>>) {
        let marked = trials.filter(|trial| matches!(trial.split, Split::Marked(_))).cloned();
        self.0.store(Arc::new(marked.collect()));
    }
}

// === impl Counting ===

impl Counting {
    /// The call has ended: with an answer, which perhaps has a status, or with a fault.
    pub fn ended(self, result: Result<Option<u16>, &Fault>) {
        match result {
            Ok(Some(500..)) => self.record(CallEnd::Failed),
            Ok(_) => self.record(CallEnd::Answered),
            Err(fault) if fault.kind() == FaultKind::Trapped => self.record(CallEnd::Trapped),
            Err(fault) if fault.kind().counts_as_failure() => self.record(CallEnd::Failed),
            // The caller's own doing.
            Err(_) => {}
        }
    }

    fn record(&self, end: CallEnd) {
        self.trial.tally(self.side).record(end, self.began.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(percent: u32, ids: impl Iterator<Item = u128>) -> usize {
        ids.filter(|id| u128::from(percent) * (u128::MAX / 100) >= scattered(*id)).count()
    }

    #[test]
    fn a_share_is_what_it_says_also_of_ids_that_count_up() {
        for percent in [1, 5, 50, 99] {
            for found in [share(percent, 1..=100_000), share(percent, (1..=100_000).map(|id| id << 64))] {
                let expected = percent as usize * 1_000;
                assert!(found.abs_diff(expected) < 500, "{percent} %: {found}");
            }
        }
        assert_eq!(share(100, 1..=100_000), 100_000);
    }

    #[test]
    fn who_is_in_a_share_is_in_every_larger_one() {
        for id in 1..=10_000_u128 {
            let first = (1..=100).find(|percent| share(*percent, std::iter::once(id)) == 1).expect("all are in 100 %");
            assert!((first..=100).all(|percent| share(percent, std::iter::once(id)) == 1));
        }
    }

    #[test]
    fn marks_are_found_where_they_are() {
        let mut headers = HeaderMap::new();
        headers.append("x-preview", "no".parse().unwrap());
        headers.append("x-preview", "yes".parse().unwrap());
        headers.append("cookie", "a=b; preview=yes".parse().unwrap());
        headers.append("cookie", "c=d".parse().unwrap());
        let header = |value: &str| carries(&headers, &Mark::Header("x-preview".into(), value.into()));
        assert_eq!([header("yes"), header("no"), header("ye")], [true, true, false]);
        let cookie = |name: &str, value: &str| carries(&headers, &Mark::Cookie(name.into(), value.into()));
        assert_eq!([cookie("preview", "yes"), cookie("c", "d"), cookie("c", "b")], [true, true, false]);
    }
}
