//! The retry budget of an edge.
//!
//! Each caller may retry with the best of reasons, and all of them together still turn a callee's bad minute into an
//! outage: three attempts for each call are three times the load, just when it can bear less. A budget ties the retries
//! of an edge to its calls: over the last ten seconds at most so many in a hundred of the calls, and a small number a
//! second beside that, so that an edge with few calls can retry at all. Finagle's `RetryBudget` is the model, whose
//! numbers (20 %, 10 a second) linkerd has too.
//!
//! `tower::retry::budget::TpsBudget` does the same sum. It is not used because it tells nobody its balance, and an
//! operator who wonders why nothing is retried any more must see it.

use super::{InvalidPolicy, bounds, invalid, ring::TimeRing};
use serde::{Deserialize, Serialize};
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Over which stretch of time calls and retries are set against each other.
const WINDOW: Duration = Duration::from_secs(10);

/// How many retries an edge may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetPolicy {
    percent: u32,
    min_per_second: u32,
}

/// The live budget of an edge.
#[derive(Debug)]
pub(super) struct Budget {
    policy: BudgetPolicy,
    ring: TimeRing<2>,
    spending: Mutex<()>,
}

/// A budget as people see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetSnapshot {
    /// Calls of the last ten seconds.
    pub calls: u32,
    /// Retries of the last ten seconds.
    pub retries: u32,
    /// How many more retries could be made now.
    pub left: u32,
}

// The counters of the ring.
const CALLS: usize = 0;
const RETRIES: usize = 1;

// === impl BudgetPolicy ===

impl BudgetPolicy {
    /// At most `percent` retries for a hundred calls (0 to 1,000) and `min_per_second` beside them (0 to 1,000,000).
    ///
    /// # Errors
    ///
    /// When a number is out of range, or both are zero: that is no retry, and `attempts` says it better.
    pub fn try_new(percent: u32, min_per_second: u32) -> Result<Self, InvalidPolicy> {
        invalid::check_count("retry.budget.percent", percent, bounds::BUDGET_PERCENT)?;
        invalid::check_count("retry.budget.min-per-second", min_per_second, bounds::BUDGET_MIN_PER_SECOND)?;
        if percent == 0 && min_per_second == 0 {
            let expected = "a budget that allows a retry (for none, say `attempts = 1`)";
            return Err(InvalidPolicy::new("retry.budget", expected, "zero for both numbers"));
        }
        Ok(Self { percent, min_per_second })
    }

    /// How many retries a hundred calls allow.
    pub fn percent(&self) -> u32 {
        self.percent
    }

    /// How many retries a second are allowed beside that.
    pub fn min_per_second(&self) -> u32 {
        self.min_per_second
    }

    /// How many retries so many calls of the window allow.
    fn allows(&self, calls: u32) -> u32 {
        let of_calls = u64::from(calls) * u64::from(self.percent) / 100;
        let beside = u64::from(self.min_per_second) * WINDOW.as_secs();
        u32::try_from(of_calls + beside).unwrap_or(u32::MAX)
    }
}

impl Default for BudgetPolicy {
    /// 20 in a hundred, and 10 a second.
    fn default() -> Self {
        Self { percent: 20, min_per_second: 10 }
    }
}

// === impl Budget ===

impl Budget {
    pub(super) fn new(policy: BudgetPolicy) -> Self {
        Self { policy, ring: TimeRing::new(WINDOW), spending: Mutex::new(()) }
    }

    pub(super) fn policy(&self) -> &BudgetPolicy {
        &self.policy
    }

    /// A call came.
    pub(super) fn deposit(&self, now: Instant) {
        self.ring.add(self.ring.tick(now), CALLS);
    }

    /// Whether a retry may be made. If so, it counts as made.
    pub(super) fn withdraw(&self, now: Instant) -> bool {
        let tick = self.ring.tick(now);
        // So that two don't share the last one.
        let _spending = self.spending.lock().unwrap_or_else(PoisonError::into_inner);
        let [calls, retries] = self.ring.sums(tick);
        let allowed = retries < self.policy.allows(calls);
        if allowed {
            self.ring.add(tick, RETRIES);
        }
        allowed
    }

    pub(super) fn snapshot(&self) -> BudgetSnapshot {
        let [calls, retries] = self.ring.sums(self.ring.tick(Instant::now()));
        BudgetSnapshot { calls, retries, left: self.policy.allows(calls).saturating_sub(retries) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    fn budget(percent: u32, min_per_second: u32) -> Budget {
        Budget::new(BudgetPolicy::try_new(percent, min_per_second).unwrap())
    }

    fn deposit(budget: &Budget, calls: u32) {
        (0..calls).for_each(|_| budget.deposit(Instant::now()));
    }

    /// How many retries it grants in a row.
    fn withdraw_all(budget: &Budget) -> u32 {
        (0..).find(|_| !budget.withdraw(Instant::now())).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn calls_earn_their_share_of_retries() {
        let budget = budget(20, 0);
        assert_eq!(withdraw_all(&budget), 0);
        deposit(&budget, 4);
        assert_eq!(withdraw_all(&budget), 0, "four calls are no fifth of a retry");
        deposit(&budget, 96);
        assert_eq!(withdraw_all(&budget), 20);
        assert_eq!(budget.snapshot(), BudgetSnapshot { calls: 100, retries: 20, left: 0 });
    }

    #[tokio::test(start_paused = true)]
    async fn an_edge_with_few_calls_has_its_minimum() {
        let budget = budget(0, 3);
        assert_eq!(withdraw_all(&budget), 30);
        advance(WINDOW).await;
        assert_eq!(withdraw_all(&budget), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_earned_is_lost_after_the_window_as_is_what_was_spent() {
        let budget = budget(50, 0);
        deposit(&budget, 10);
        advance(WINDOW / 2).await;
        deposit(&budget, 10);
        assert_eq!(budget.snapshot().left, 10);
        advance(WINDOW / 2).await;
        assert_eq!(withdraw_all(&budget), 5);
        advance(WINDOW / 2).await;
        assert_eq!(withdraw_all(&budget), 0);
        assert_eq!(budget.snapshot().calls, 0);
    }

    /// Over any run of calls that all fail and would all be retried for ever, the retries stay within the share.
    #[tokio::test(start_paused = true)]
    async fn retries_never_exceed_their_share_of_an_outage() {
        let budget = budget(20, 0);
        let mut retries = 0;
        for _ in 0..5_000 {
            budget.deposit(Instant::now());
            retries += withdraw_all(&budget);
            advance(Duration::from_millis(3)).await;
        }
        // Each bucket that leaves the window takes its retries with it a little before their calls are all gone.
        assert!((950..=1_050).contains(&retries), "{retries} retries for 5000 calls");
    }

    /// Threads that withdraw together don't share a retry.
    #[test]
    fn threads_get_no_more_than_there_is() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let _entered = runtime.enter();
        let budget = budget(0, 100);
        let now = Instant::now();
        let granted: u32 = std::thread::scope(|scope| {
            let tasks: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..1_000).filter(|_| budget.withdraw(now)).count() as u32)).collect();
            tasks.into_iter().map(|task| task.join().unwrap()).sum()
        });
        assert_eq!(granted, 1_000);
    }

    #[test]
    fn nonsense_is_refused() {
        let refused = |percent, min| BudgetPolicy::try_new(percent, min).unwrap_err().to_string();
        assert_eq!(refused(1_001, 0), "`retry.budget.percent`: expected 0 to 1000, found 1001");
        assert_eq!(refused(0, 1_000_001), "`retry.budget.min-per-second`: expected 0 to 1000000, found 1000001");
        assert_eq!(
            refused(0, 0),
            "`retry.budget`: expected a budget that allows a retry (for none, say `attempts = 1`), found zero for both \
             numbers"
        );
    }
}
