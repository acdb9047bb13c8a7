//! What an edge has counted since it was made.

use super::FaultKind;
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// The counters of an edge. They only grow.
#[derive(Debug, Default)]
pub(super) struct Totals {
    // The two that every call touches stand together, so that a call costs other cores one cache line and not two.
    begun: AtomicU64,
    ended: AtomicU64,
    retries: AtomicU64,
    refused_retries: AtomicU64,
    rejected: AtomicU64,
    failed_answers: AtomicU64,
    injected: AtomicU64,
    stale_answers: AtomicU64,
    fixed_answers: AtomicU64,
    faults: [AtomicU64; FaultKind::ALL.len()],
}

/// A call under way. Dropped before its end was told, it was given up by its caller.
#[derive(Debug)]
pub(super) struct Call<'a> {
    totals: &'a Totals,
    end: End,
}

#[derive(Debug)]
enum End {
    Answer,
    Fault(FaultKind),
}

// === impl Totals ===

impl Totals {
    pub(super) fn begin(&self) -> Call<'_> {
        self.begun.fetch_add(1, Relaxed);
        Call { totals: self, end: End::Fault(FaultKind::Cancelled) }
    }

    pub(super) fn count_retry(&self) {
        self.retries.fetch_add(1, Relaxed);
    }

    pub(super) fn count_refused_retry(&self) {
        self.refused_retries.fetch_add(1, Relaxed);
    }

    pub(super) fn count_failed_answer(&self) {
        self.failed_answers.fetch_add(1, Relaxed);
    }

    pub(super) fn count_injected(&self) {
        self.injected.fetch_add(1, Relaxed);
    }

    pub(super) fn count_fallback(&self, is_stale: bool) {
        let counter = if is_stale { &self.stale_answers } else { &self.fixed_answers };
        counter.fetch_add(1, Relaxed);
    }

    pub(super) fn count_rejected(&self) {
        self.rejected.fetch_add(1, Relaxed);
    }

    /// How many calls came, and how many of them have ended.
    pub(super) fn begun_and_ended(&self) -> (u64, u64) {
        // In this order: a call that begins and ends between the two loads makes the edge look busier, never less
        // than idle.
        let ended = self.ended.load(Relaxed);
        let begun = self.begun.load(Relaxed).max(ended);
        (begun, ended)
    }

    pub(super) fn retries(&self) -> u64 {
        self.retries.load(Relaxed)
    }

    pub(super) fn refused_retries(&self) -> u64 {
        self.refused_retries.load(Relaxed)
    }

    pub(super) fn failed_answers(&self) -> u64 {
        self.failed_answers.load(Relaxed)
    }

    pub(super) fn injected(&self) -> u64 {
        self.injected.load(Relaxed)
    }

    pub(super) fn stale_answers(&self) -> u64 {
        self.stale_answers.load(Relaxed)
    }

    pub(super) fn fixed_answers(&self) -> u64 {
        self.fixed_answers.load(Relaxed)
    }

    pub(super) fn rejected(&self) -> u64 {
        self.rejected.load(Relaxed)
    }

    /// The kinds of fault that calls ended with, and how often.
    pub(super) fn faults(&self) -> BTreeMap<String, u64> {
        FaultKind::ALL
            .iter()
            .zip(&self.faults)
            .map(|(kind, count)| (kind.as_str().to_owned(), count.load(Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}

// === impl Call ===

impl Call<'_> {
    /// Tells how the call ended.
    pub(super) fn end<T>(mut self, result: &super::Result<T>) {
        self.end = match result {
            Ok(_) => End::Answer,
            Err(fault) => End::Fault(fault.kind()),
        };
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if let End::Fault(kind) = self.end {
            // The order of `FaultKind::ALL` is that of the declaration.
            self.totals.faults[kind as usize].fetch_add(1, Relaxed);
        }
        self.totals.ended.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Fault;

    #[test]
    fn each_kind_is_counted_under_its_own_name() {
        for kind in FaultKind::ALL {
            let totals = Totals::default();
            totals.begin().end(&Err::<(), _>(Fault::new(kind, "")));
            assert_eq!(totals.faults(), BTreeMap::from([(kind.as_str().to_owned(), 1)]));
        }
    }

    #[test]
    fn a_call_dropped_untold_was_cancelled() {
        let totals = Totals::default();
        drop(totals.begin());
        assert_eq!(totals.faults(), BTreeMap::from([("cancelled".to_owned(), 1)]));
        assert_eq!(totals.begun_and_ended(), (1, 1));
    }
}
