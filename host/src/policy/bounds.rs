//! What the numbers of policies may be: for the constructors, which refuse what is outside, and for whoever reads numbers
//! from people and wants to say so for all of them at once.

use std::ops::RangeInclusive;

/// Attempts of a call, the first included.
pub const ATTEMPTS: RangeInclusive<u32> = 1..=10;
/// Retries for a hundred calls.
pub const BUDGET_PERCENT: RangeInclusive<u32> = 0..=1_000;
/// Retries a second beside those.
pub const BUDGET_MIN_PER_SECOND: RangeInclusive<u32> = 0..=1_000_000;
/// Failures in a row that open a breaker.
pub const FAILURES: RangeInclusive<u32> = 1..=1_000_000;
/// A share in percent that is neither none nor more than all.
pub const PERCENT: RangeInclusive<u32> = 1..=100;
/// Calls in the window of a breaker: each takes a byte.
pub const WINDOW_CALLS: RangeInclusive<u32> = 1..=10_000;
/// Calls that a rate is formed from at least.
pub const MINIMUM: RangeInclusive<u32> = 1..=1_000_000;
/// Probes of a half-open breaker.
pub const HALF_OPEN: RangeInclusive<u32> = 1..=1_000;
/// Health probes in a row that decide.
pub const PROBES: RangeInclusive<u32> = 1..=1_000;
/// Calls under way in a bulkhead.
pub const CONCURRENT: RangeInclusive<u32> = 1..=1_000_000;
/// Calls that wait before a bulkhead; 0 is no waiting.
pub const QUEUE: RangeInclusive<u32> = 0..=1_000_000;
/// Answers that an edge remembers for stale ones.
pub const STALE_ENTRIES: RangeInclusive<u32> = 1..=1_000_000;
/// Bytes that they may take.
pub const STALE_SIZE: RangeInclusive<u64> = 1_024..=1 << 30;
/// The status of a fixed answer.
pub const ANSWER_STATUS: RangeInclusive<u32> = 200..=599;
/// Requests that a rate limit grants within its time.
pub const RATE: RangeInclusive<u32> = 1..=1_000_000;
/// Requests that a rate limit grants at once.
pub const BURST: RangeInclusive<u32> = 1..=1_000_000;
/// Percent points by which a new revision's share of failed calls may exceed the old one's.
pub const ERROR_POINTS: RangeInclusive<u32> = 0..=100;
/// What a new revision's latency may be, in percent of the old one's.
pub const LATENCY_PERCENT: RangeInclusive<u32> = 100..=10_000;
/// Traps of a new revision where the old one has none.
pub const TRAPS: RangeInclusive<u32> = 0..=1_000_000;
/// Calls that a stage of a rollout must have seen.
pub const STAGE_CALLS: RangeInclusive<u32> = 0..=1_000_000;
