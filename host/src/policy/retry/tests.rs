use super::*;
use proptest::prelude::*;

const HOUR: Duration = Duration::from_secs(3600);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn policy() -> RetryPolicy {
    RetryPolicy::try_new(5, ms(50), ms(300)).unwrap()
}

fn fault(kind: FaultKind) -> Fault {
    Fault::new(kind, "it failed")
}

/// The longest pause.
fn ceiling() -> Jitter {
    Jitter::with(|ceiling| ceiling)
}

#[test]
fn the_ceiling_doubles_up_to_the_maximum() {
    let ceilings: Vec<_> = (1..=5).map(|number| policy().ceiling(number)).collect();
    assert_eq!(ceilings, [ms(50), ms(100), ms(200), ms(300), ms(300)]);
    assert_eq!(policy().ceiling(u32::MAX), ms(300));
    let longest = RetryPolicy::try_new(10, super::super::MAX_DURATION, super::super::MAX_DURATION).unwrap();
    assert_eq!(longest.ceiling(10), super::super::MAX_DURATION);
}

#[test]
fn only_what_is_safe_and_may_help_is_retried() {
    let retried = |idempotent| {
        let kinds = FaultKind::ALL.into_iter();
        let retried = kinds.filter(|kind| policy().pause(1, &fault(*kind), idempotent, HOUR, &Jitter::FULL).is_some());
        retried.collect::<Vec<_>>()
    };
    assert_eq!(retried(false), [FaultKind::Unreachable, FaultKind::Overloaded]);
    use FaultKind::{DeadlineExceeded, Overloaded, Trapped, Unreachable};
    assert_eq!(retried(true), [Unreachable, Overloaded, DeadlineExceeded, Trapped]);
    for kind in retried(false) {
        assert!(kind.nothing_begun(), "{kind}");
    }
}

#[test]
fn the_attempts_are_counted() {
    let pause = |number| policy().pause(number, &fault(FaultKind::Unreachable), true, HOUR, &ceiling());
    assert_eq!((1..=6).map(pause).filter(Option::is_some).count(), 4);
    assert_eq!(pause(4), Some(ms(300)));
    assert_eq!(pause(5), None);
    let never = RetryPolicy::never().pause(1, &fault(FaultKind::Unreachable), true, HOUR, &ceiling());
    assert_eq!(never, None);
}

#[test]
fn what_the_callee_said_comes_before_the_jitter() {
    let fault = fault(FaultKind::Overloaded).with_retry_after(ms(700));
    assert_eq!(policy().pause(1, &fault, false, HOUR, &ceiling()), Some(ms(750)));
    assert_eq!(policy().pause(1, &fault, false, HOUR, &Jitter::with(|_| Duration::ZERO)), Some(ms(700)));
    let never = fault.with_retry_after(Duration::MAX);
    assert_eq!(policy().pause(1, &never, false, HOUR, &ceiling()), None);
}

#[test]
fn a_pause_that_reaches_the_deadline_is_not_begun() {
    let fault = fault(FaultKind::Unreachable);
    assert_eq!(policy().pause(1, &fault, false, ms(51), &ceiling()), Some(ms(50)));
    assert_eq!(policy().pause(1, &fault, false, ms(50), &ceiling()), None);
    assert_eq!(policy().pause(1, &fault, false, Duration::ZERO, &Jitter::with(|_| Duration::ZERO)), None);
}

#[test]
fn jitter_is_drawn_evenly_from_the_whole_interval() {
    fastrand::seed(7);
    let draws: Vec<_> = (0..10_000).map(|_| Jitter::FULL.draw(ms(100))).collect();
    let mut tenths = [0_u32; 10];
    for draw in draws {
        tenths[(draw.as_micros() / 10_000) as usize] += 1;
    }
    // A thousand each, give or take five standard deviations.
    for tenth in tenths {
        assert!((850..=1150).contains(&tenth), "{tenths:?}");
    }
}

#[test]
fn nonsense_is_refused() {
    let refused = |attempts, backoff, max| RetryPolicy::try_new(attempts, backoff, max).unwrap_err().to_string();
    assert_eq!(refused(0, ms(1), ms(1)), "`retry.attempts`: expected 1 to 10, found 0");
    assert_eq!(refused(11, ms(1), ms(1)), "`retry.attempts`: expected 1 to 10, found 11");
    assert_eq!(refused(3, ms(0), ms(1)), "`retry.backoff`: expected more than zero and at most 24h, found 0ns");
    assert_eq!(
        refused(3, ms(1), Duration::from_secs(86_401)),
        "`retry.max-backoff`: expected more than zero and at most 24h, found 86401s"
    );
    assert_eq!(refused(3, ms(20), ms(10)), "`retry.max-backoff`: expected at least `retry.backoff` (20ms), found 10ms");
}

proptest! {
    #[test]
    fn no_pause_leaves_its_bounds(
        attempts in 1..=10_u32, number in 1..=12_u32, backoff in 1..86_400_000_u64, more in 0..86_400_000_u64,
        remaining in 0..u64::MAX, told in proptest::option::of(0..u64::MAX),
    ) {
        let max_backoff = ms(backoff + more).min(super::super::MAX_DURATION);
        let policy = RetryPolicy::try_new(attempts, ms(backoff), max_backoff).unwrap();
        let mut fault = fault(FaultKind::Unreachable);
        if let Some(told) = told {
            fault = fault.with_retry_after(ms(told));
        }
        if let Some(pause) = policy.pause(number, &fault, false, ms(remaining), &Jitter::FULL) {
            let told = ms(told.unwrap_or(0));
            prop_assert!(number < attempts);
            prop_assert!(pause < ms(remaining));
            prop_assert!(told <= pause && pause - told <= max_backoff);
            prop_assert!(pause - told <= ms(backoff) * 2_u32.pow(number - 1));
        }
    }
}
