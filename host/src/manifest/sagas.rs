//! `[services.<name>.sagas]`: how the sagas of a service are gone through.

use std::time::Duration;

use super::{
    reader::Table,
    values::{LONGEST, SHORTEST},
};

/// How the sagas of a service are gone through, and how many there may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sagas {
    /// How often an action is tried before its saga fails; at least 1.
    pub attempts: u32,
    /// The wait after the first try.
    pub backoff: Duration,
    /// The longest wait between two tries.
    pub max_backoff: Duration,
    /// How many sagas have steps under way at a time; at least 1.
    pub concurrency: usize,
    /// How many may be unfinished; at least 1.
    pub max: usize,
    /// When one that is not complete is compensated, counted from its start.
    pub timeout: Duration,
    /// How long one that has ended is kept.
    pub keep: Duration,
}

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Ten years: there are sagas of contracts and of guarantees.
const LONGEST_SAGA: Duration = Duration::from_secs(3660 * 24 * 3600);

// === impl Sagas ===

impl Sagas {
    pub(super) fn read(mut table: Table<'_>) -> Self {
        let base = Self::default();
        let backoff = table.or("backoff", base.backoff, |value| value.duration(SHORTEST..=LONGEST));
        let sagas = Self {
            attempts: table.or("attempts", base.attempts, |value| value.integer(1..=1_000)),
            backoff,
            // A default gives way to what is written.
            max_backoff: table
                .or("max-backoff", base.max_backoff.max(backoff), |value| value.duration(SHORTEST..=LONGEST)),
            concurrency: table.or("concurrency", base.concurrency, |value| value.integer(1..=100_000)),
            max: table.or("max", base.max, |value| value.integer(1..=100_000_000)),
            timeout: table.or("timeout", base.timeout, |value| value.duration(SHORTEST..=LONGEST_SAGA)),
            keep: table.or("keep", base.keep, |value| value.duration(Duration::ZERO..=LONGEST_SAGA)),
        };
        if sagas.max_backoff < sagas.backoff && !table.has_errors() {
            table.report_field("max-backoff", "expected no less than `backoff`");
        }
        table.finish();
        sagas
    }
}

impl Default for Sagas {
    fn default() -> Self {
        Self {
            attempts: 5,
            backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(60),
            concurrency: 128,
            max: 100_000,
            timeout: DAY,
            keep: 7 * DAY,
        }
    }
}
