//! Whether a new revision does as well as the old one.
//!
//! Both are judged by what came of their calls in the same stage. What is small is left to chance: that a share of failed
//! calls is too large is said only when it would be seen less than once in a hundred times if it were not, by the exact
//! binomial test ([Clopper and Pearson, 1934]). So a revision that fails always is caught at its second or third call, and
//! one that fails a little more often than it may is caught when there is evidence for it.
//!
//! [Clopper and Pearson, 1934]: https://doi.org/10.1093/biomet/26.4.404

use super::RolloutParams;
use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// How rarely a finding may be wrong.
const SIGNIFICANCE: f64 = 0.01;
/// From so many calls on, the slowest hundredth of them is more than one call.
const ENOUGH_FOR_LATENCY: u64 = 200;
/// What is slower by less than this is as fast: instances that are new, and other noise.
const LATENCY_FLOOR: Duration = Duration::from_millis(5);
/// Buckets for each doubling of a time.
const STEPS: usize = 8;
/// Buckets in all: from one microsecond to days.
const BUCKETS: usize = 40 * STEPS;

/// Counts what comes of calls. Shared by all who make them.
#[derive(Debug)]
pub struct Tally {
    calls: AtomicU64,
    failures: AtomicU64,
    traps: AtomicU64,
    times: Box<[AtomicU64; BUCKETS]>,
}

/// What came of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallEnd {
    /// It has its answer, be it a domain error.
    Answered,
    /// It failed: a fault that is the callee's, or a status of 500 or more.
    Failed,
    /// The callee's instance trapped.
    Trapped,
}

/// What was counted up to a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Account {
    /// Calls that ended.
    pub calls: u64,
    /// Those of them that failed, traps included.
    pub failures: u64,
    /// Those of them that met a trap.
    pub traps: u64,
    /// What 99 in a hundred of them took at most, in microseconds; 0 where there were none.
    pub p99_us: u64,
}

/// What is said of a new revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It does as well.
    Holds,
    /// Nothing speaks against it, and too few calls for it: so many more are to be seen.
    TooFew(u64),
    /// It does worse; why.
    Fails(String),
}

// === impl Tally ===

impl Tally {
    /// Counts a call.
    pub fn record(&self, end: CallEnd, time: Duration) {
        self.calls.fetch_add(1, Relaxed);
        if end != CallEnd::Answered {
            self.failures.fetch_add(1, Relaxed);
        }
        if end == CallEnd::Trapped {
            self.traps.fetch_add(1, Relaxed);
        }
        self.times[bucket(time)].fetch_add(1, Relaxed);
    }

    /// What was counted so far.
    pub fn account(&self) -> Account {
        let times: Vec<u64> = self.times.iter().map(|count| count.load(Relaxed)).collect();
        let calls: u64 = times.iter().sum();
        let rank = calls - calls / 100;
        let mut seen = 0;
        let at = times.iter().position(|count| {
            seen += count;
            calls > 0 && seen >= rank
        });
        Account {
            calls,
            failures: self.failures.load(Relaxed).min(calls),
            traps: self.traps.load(Relaxed).min(calls),
            p99_us: at.map_or(0, upper_bound),
        }
    }
}

impl Default for Tally {
    fn default() -> Self {
        let times = Box::new([const { AtomicU64::new(0) }; BUCKETS]);
        Self { calls: AtomicU64::new(0), failures: AtomicU64::new(0), traps: AtomicU64::new(0), times }
    }
}

/// Times in the same bucket differ by an eighth at most.
fn bucket(time: Duration) -> usize {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
    let doublings = micros.ilog2() as usize;
    // The three bits after the first.
    let step = if doublings >= 3 { (micros >> (doublings - 3)) & 7 } else { (micros << (3 - doublings)) & 7 };
    (doublings * STEPS + step as usize).min(BUCKETS - 1)
}

/// The longest time of a bucket, in microseconds.
fn upper_bound(bucket: usize) -> u64 {
    let (doublings, step) = (bucket / STEPS, (bucket % STEPS) as u64);
    (((9 + step) << doublings) >> 3).max(1)
}

/// Holds what came of calls at the new revision against what came of those at the old one, in a stage that is to see
/// `min_calls`.
pub fn judge(limits: &RolloutParams, old: &Account, new: &Account, min_calls: u64) -> Judgement {
    let rate = |part: u64, account: &Account| if account.calls == 0 { 0.0 } else { part as f64 / account.calls as f64 };
    let said = |part: u64, account: &Account| {
        format!("{part} of {} calls ({:.1} %)", account.calls, 100.0 * rate(part, account))
    };
    let traps = rate(old.traps, old);
    if new.traps > u64::from(limits.max_traps) && at_least(new.traps, new.calls, traps) < SIGNIFICANCE {
        let (new, old) = (said(new.traps, new), said(old.traps, old));
        return Judgement::Fails(format!("traps: {new}, the old revision {old}"));
    }
    let allowed = rate(old.failures, old) + f64::from(limits.max_errors) / 100.0;
    if new.failures > 0 && at_least(new.failures, new.calls, allowed) < SIGNIFICANCE {
        let (new, old) = (said(new.failures, new), said(old.failures, old));
        let points = limits.max_errors;
        return Judgement::Fails(format!(
            "failed calls: {new}, the old revision {old}, and at most {points} percent points more are allowed"
        ));
    }
    let slowest = Duration::from_micros(old.p99_us) * limits.max_latency / 100 + LATENCY_FLOOR;
    let enough = new.calls >= ENOUGH_FOR_LATENCY && old.calls >= ENOUGH_FOR_LATENCY;
    if enough && Duration::from_micros(new.p99_us) > slowest {
        let time = |account: &Account| Duration::from_micros(account.p99_us);
        let (new, old, percent) = (time(new), time(old), limits.max_latency);
        return Judgement::Fails(format!(
            "latency: its p99 is {new:?}, that of the old revision {old:?}, and {percent} % of that is allowed"
        ));
    }
    if new.calls < min_calls { Judgement::TooFew(min_calls - new.calls) } else { Judgement::Holds }
}

/// How likely at least `hits` of `calls` hit if each does with this probability: the upper tail of the binomial
/// distribution.
fn at_least(hits: u64, calls: u64, probability: f64) -> f64 {
    if hits == 0 || probability >= 1.0 {
        return 1.0;
    }
    if probability <= 0.0 {
        return 0.0;
    }
    let (hits, calls) = (hits.min(calls) as f64, calls as f64);
    if hits <= calls * probability {
        // Fewer than are to be expected; the sum would only be long.
        return 1.0;
    }
    // From the first term on each is a multiple of the one before, and smaller. Logarithms, since the first may be tiny.
    let mut term = ln_choose(calls, hits) + hits * probability.ln() + (calls - hits) * (-probability).ln_1p();
    let odds = (probability / (1.0 - probability)).ln();
    let (mut sum, mut k) = (0.0, hits);
    while k <= calls {
        let value = term.exp();
        sum += value;
        if value < sum * 1e-9 {
            break;
        }
        term += ((calls - k) / (k + 1.0)).ln() + odds;
        k += 1.0;
    }
    sum.min(1.0)
}

fn ln_choose(n: f64, k: f64) -> f64 {
    ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k)
}

/// Exact for small numbers, by Stirling's series beyond.
fn ln_factorial(n: f64) -> f64 {
    if n < 32.0 {
        return (1..=n as u32).map(|i| f64::from(i).ln()).sum();
    }
    n * n.ln() - n + 0.5 * (std::f64::consts::TAU * n).ln() + 1.0 / (12.0 * n) - 1.0 / (360.0 * n.powi(3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn account(calls: u64, failures: u64) -> Account {
        Account { calls, failures, ..Account::default() }
    }

    fn judged(old: Account, new: Account) -> Judgement {
        judge(&RolloutParams::default(), &old, &new, 20)
    }

    fn fails(old: Account, new: Account, by: &str) {
        match judged(old, new) {
            Judgement::Fails(why) => assert!(why.starts_with(by), "{why}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_revision_that_always_fails_is_caught_at_once() {
        fails(account(100, 0), account(2, 2), "failed calls: 2 of 2 calls (100.0 %), the old revision 0 of 100 calls");
        // And one failure is not evidence enough.
        assert_eq!(judged(account(100, 0), account(1, 1)), Judgement::TooFew(19));
        assert_eq!(judged(account(100, 0), account(20, 1)), Judgement::Holds);
    }

    #[test]
    fn a_revision_that_fails_no_more_often_than_the_old_one_holds() {
        assert_eq!(judged(account(1000, 500), account(1000, 510)), Judgement::Holds);
        fails(account(1000, 500), account(1000, 580), "failed calls");
        assert_eq!(judged(account(10_000, 0), account(10_000, 110)), Judgement::Holds);
        fails(account(10_000, 0), account(10_000, 130), "failed calls");
    }

    #[test]
    fn one_trap_is_one_too_many_unless_the_old_one_has_them_too() {
        let trapped = |calls, traps| Account { calls, failures: traps, traps, p99_us: 0 };
        fails(account(1000, 0), trapped(500, 1), "traps: 1 of 500 calls (0.2 %), the old revision 0 of 1000 calls");
        assert_eq!(judged(trapped(1000, 10), trapped(1000, 12)), Judgement::Holds);
        fails(trapped(1000, 10), trapped(1000, 40), "traps");
    }

    #[test]
    fn latency_counts_once_there_are_enough_calls() {
        let slow = |calls, p99_us| Account { calls, p99_us, ..Account::default() };
        fails(slow(1000, 20_000), slow(200, 45_001), "latency: its p99 is 45.001ms, that of the old revision 20ms");
        assert_eq!(judged(slow(1000, 20_000), slow(200, 45_000)), Judgement::Holds);
        assert_eq!(judged(slow(1000, 20_000), slow(199, 900_000)), Judgement::Holds);
        // A few milliseconds are noise.
        assert_eq!(judged(slow(1000, 100), slow(1000, 5_000)), Judgement::Holds);
    }

    #[test]
    fn the_tail_is_that_of_the_binomial_distribution() {
        // By the sum of all terms.
        let exact = |hits: u64, calls: u64, p: f64| -> f64 {
            let choose = |k: u64| (0..k).map(|i| (calls - i) as f64 / (i + 1) as f64).product::<f64>();
            (hits..=calls).map(|k| choose(k) * p.powi(k as i32) * (1.0 - p).powi((calls - k) as i32)).sum()
        };
        for (hits, calls, p) in [(1, 1, 0.01), (2, 20, 0.01), (5, 40, 0.05), (30, 60, 0.3), (60, 60, 0.9)] {
            let (found, exact) = (at_least(hits, calls, p), exact(hits, calls, p));
            assert!((found - exact).abs() < 1e-9 + exact * 1e-6, "{hits} of {calls} at {p}: {found}, {exact}");
        }
        assert!(at_least(1_000_000, 1_000_000, 0.5) < 1e-300);
    }

    #[test]
    fn a_tally_says_what_was_counted() {
        let tally = Tally::default();
        assert_eq!(tally.account(), Account::default());
        for micros in 1..=1_000 {
            tally.record(CallEnd::Answered, Duration::from_micros(micros));
        }
        tally.record(CallEnd::Failed, Duration::ZERO);
        tally.record(CallEnd::Trapped, Duration::MAX);
        let account = tally.account();
        assert_eq!((account.calls, account.failures, account.traps), (1_002, 2, 1));
        assert!((990..=1_120).contains(&account.p99_us), "{account:?}");
    }

    proptest! {
        #[test]
        fn a_time_is_in_its_bucket(micros in 1_u64..1 << 39) {
            let most = upper_bound(bucket(Duration::from_micros(micros)));
            prop_assert!(micros <= most && most <= micros + micros / 8 + 1, "{micros} {most}");
        }

        #[test]
        fn more_failures_never_make_it_better(
            old in (1_u64..5_000, 0_u64..100), calls in 1_u64..5_000, failures in 0_u64..5_000
        ) {
            let old = account(old.0, old.1.min(old.0));
            let failed = |failures: u64| matches!(judged(old, account(calls, failures.min(calls))), Judgement::Fails(_));
            prop_assert!(!failed(failures) || failed(failures + 1));
        }
    }
}
