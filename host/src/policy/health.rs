//! Health probes: what an endpoint says of itself, asked apart from the calls.
//!
//! An endpoint is in or out after several probes that agree, so that one lost packet changes nothing. Only the first
//! probe decides alone: of a new endpoint nothing is known, and whether it is there at all should not take three
//! intervals to find out. Until it has ended the endpoint counts as healthy, so that a host serves as soon as it runs.

use super::{InvalidPolicy, bounds, invalid};
use serde::{Deserialize, Serialize};
use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::Instant;

/// The parts of a [`HealthPolicy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthParams {
    /// From one probe to the next.
    pub interval: Duration,
    /// How long a probe may take.
    pub timeout: Duration,
    /// How many good probes in a row bring an unhealthy endpoint back (1 to 1,000).
    pub healthy: u32,
    /// How many bad probes in a row take a healthy one out (1 to 1,000).
    pub unhealthy: u32,
}

/// How often endpoints are probed, and how many probes decide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HealthPolicy(HealthParams);

/// What the probes of one endpoint came to.
#[derive(Debug)]
pub struct Health {
    is_healthy: AtomicBool,
    rest: Mutex<Rest>,
}

#[derive(Debug)]
struct Rest {
    since: Instant,
    probes: u64,
    /// Probes in a row that speak against the present state.
    against: u32,
    problem: Option<String>,
}

/// The health of an endpoint as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthSnapshot {
    /// Whether calls may go to it.
    pub healthy: bool,
    /// For how long that has been so, in milliseconds.
    pub for_ms: u64,
    /// Probes so far.
    pub probes: u64,
    /// What was wrong with the last probe, if anything.
    pub problem: Option<String>,
}

// === impl HealthPolicy ===

impl HealthPolicy {
    /// A policy of these parts.
    ///
    /// # Errors
    ///
    /// When a number or duration is out of range, or a probe could still be under way when the next is due.
    pub fn try_new(params: HealthParams) -> Result<Self, InvalidPolicy> {
        invalid::check_duration("health.interval", params.interval)?;
        invalid::check_duration("health.timeout", params.timeout)?;
        if params.timeout > params.interval {
            let expected = format!("at most `health.interval` ({:?})", params.interval);
            return Err(InvalidPolicy::new("health.timeout", expected, format_args!("{:?}", params.timeout)));
        }
        invalid::check_count("health.healthy", params.healthy, bounds::PROBES)?;
        invalid::check_count("health.unhealthy", params.unhealthy, bounds::PROBES)?;
        Ok(Self(params))
    }

    /// Its parts.
    pub fn params(&self) -> &HealthParams {
        &self.0
    }
}

impl Default for HealthParams {
    /// Every five seconds, one second for an answer; two good ones in, three bad ones out.
    fn default() -> Self {
        Self { interval: Duration::from_secs(5), timeout: Duration::from_secs(1), healthy: 2, unhealthy: 3 }
    }
}

// === impl Health ===

impl Health {
    /// An endpoint that was never probed.
    pub fn new() -> Self {
        let rest = Rest { since: Instant::now(), probes: 0, against: 0, problem: None };
        Self { is_healthy: AtomicBool::new(true), rest: Mutex::new(rest) }
    }

    /// Whether calls may go to it.
    pub fn is_healthy(&self) -> bool {
        // Nothing else is read on the strength of it.
        self.is_healthy.load(Relaxed)
    }

    /// Counts a probe that went well, or what was wrong with it. What the endpoint is from now on, if that has changed.
    pub fn record(&self, policy: &HealthPolicy, probe: Result<(), String>) -> Option<bool> {
        let mut rest = self.lock();
        let (was, is_good) = (self.is_healthy(), probe.is_ok());
        let is_first = rest.probes == 0;
        rest.probes += 1;
        rest.problem = probe.err();
        if is_good == was {
            rest.against = 0;
            return None;
        }
        rest.against += 1;
        let enough = if is_good { policy.params().healthy } else { policy.params().unhealthy };
        if rest.against < enough && !is_first {
            return None;
        }
        (rest.against, rest.since) = (0, Instant::now());
        self.is_healthy.store(is_good, Relaxed);
        Some(is_good)
    }

    /// What was wrong with the last probe, if anything.
    pub fn problem(&self) -> Option<String> {
        self.lock().problem.clone()
    }

    /// The health as it is now.
    pub fn snapshot(&self) -> HealthSnapshot {
        let rest = self.lock();
        HealthSnapshot {
            healthy: self.is_healthy(),
            for_ms: u64::try_from(rest.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            probes: rest.probes,
            problem: rest.problem.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Rest> {
        // Nothing that holds the lock can leave the rest half changed.
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    fn record(health: &Health, probes: &str) -> Vec<Option<bool>> {
        let policy = HealthPolicy::default();
        let one = |probe| if probe == '+' { Ok(()) } else { Err("status 503".into()) };
        probes.chars().map(|probe| health.record(&policy, one(probe))).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_probe_decides_alone() {
        let health = Health::new();
        assert!(health.is_healthy(), "until something is known");
        assert_eq!(record(&health, "-"), [Some(false)]);
        assert_eq!(record(&health, "++"), [None, Some(true)]);
        assert_eq!(record(&Health::new(), "+--"), [None, None, None]);
    }

    #[tokio::test(start_paused = true)]
    async fn later_as_many_as_the_policy_says_must_agree() {
        let health = Health::new();
        assert_eq!(record(&health, "+--+--+---"), [None, None, None, None, None, None, None, None, None, Some(false)]);
        advance(Duration::from_secs(3)).await;
        assert_eq!(
            health.snapshot(),
            HealthSnapshot { healthy: false, for_ms: 3000, probes: 10, problem: Some("status 503".into()) }
        );
        assert_eq!(record(&health, "+-+-+"), [None; 5]);
        assert_eq!(record(&health, "+"), [Some(true)]);
        assert_eq!(health.problem(), None);
    }

    #[test]
    fn nonsense_is_refused() {
        let refused = |params| HealthPolicy::try_new(params).unwrap_err().to_string();
        let good = HealthParams::default();
        let second = Duration::from_secs(1);
        assert_eq!(
            refused(HealthParams { interval: Duration::ZERO, ..good }),
            "`health.interval`: expected more than zero and at most 24h, found 0ns"
        );
        assert_eq!(
            refused(HealthParams { timeout: Duration::ZERO, ..good }),
            "`health.timeout`: expected more than zero and at most 24h, found 0ns"
        );
        assert_eq!(
            refused(HealthParams { interval: second, timeout: 2 * second, ..good }),
            "`health.timeout`: expected at most `health.interval` (1s), found 2s"
        );
        assert_eq!(refused(HealthParams { healthy: 0, ..good }), "`health.healthy`: expected 1 to 1000, found 0");
        assert_eq!(
            refused(HealthParams { unhealthy: 1001, ..good }),
            "`health.unhealthy`: expected 1 to 1000, found 1001"
        );
        assert_eq!(HealthPolicy::try_new(good), Ok(HealthPolicy::default()));
    }
}
