//! What a breaker does, step by step. Time stands still unless a test moves it.

mod half_open;
mod live_changes;
mod open;
mod operator;
mod params;
mod rates;
mod row;
mod status;

use super::*;
use crate::policy::{Failure, FaultKind};
use tokio::time::advance;

const SECOND: Duration = Duration::from_secs(1);
const OPEN: Duration = Duration::from_secs(60);
const UNREACHABLE: Failure = Failure::Fault(FaultKind::Unreachable);
const TRAPPED: Failure = Failure::Fault(FaultKind::Trapped);

fn policy(failures: u32, open: Duration, half_open: u32) -> BreakerPolicy {
    let params = BreakerParams { failures: Some(failures), open, half_open, ..BreakerParams::default() };
    BreakerPolicy::try_new(params).unwrap()
}

fn breaker(failures: u32, half_open: u32) -> Breaker {
    of(*policy(failures, OPEN, half_open).params())
}

fn of(params: BreakerParams) -> Breaker {
    Breaker::new("order -> user".into(), BreakerPolicy::try_new(params).unwrap())
}

/// One that goes by the rate of failures alone: 50 % of the last ten calls, five at least.
fn by_rate() -> BreakerParams {
    BreakerParams {
        failures: None,
        failure_rate: Some(50),
        window: WindowSize::Calls(10),
        minimum: Some(5),
        ..BreakerParams::default()
    }
}

/// One that goes by the rate of slow calls alone.
fn by_slowness() -> BreakerParams {
    BreakerParams { failure_rate: None, slow_rate: Some(50), ..by_rate() }
}

fn end(admission: Admission<'_>, outcome: Outcome) {
    admission.end(outcome, Instant::now());
}

fn slow(breaker: &Breaker) {
    end(admit(breaker), Outcome { failure: None, slow: true });
}

fn admit(breaker: &Breaker) -> Admission<'_> {
    breaker.admit().unwrap_or_else(|rejected| panic!("not admitted: {rejected}"))
}

fn succeed(breaker: &Breaker) {
    end(admit(breaker), Outcome::GOOD);
}

fn fail(breaker: &Breaker) {
    end(admit(breaker), Outcome::failed(UNREACHABLE));
}

fn trip(breaker: &Breaker) {
    while state(breaker) == BreakerState::Closed {
        fail(breaker);
    }
}

/// To where the next call can be a probe.
async fn advance_to_probation() {
    advance(OPEN).await;
}

fn state(breaker: &Breaker) -> BreakerState {
    breaker.snapshot().state
}
