use super::*;
use proptest::prelude::*;

const HOUR: Duration = Duration::from_secs(3600);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn retry(attempts: u32, backoff: Duration, max_backoff: Duration) -> Result<RetryPolicy, InvalidPolicy> {
    RetryPolicy::try_new(RetryParams { attempts, backoff, max_backoff, ..RetryParams::default() })
}

fn policy() -> RetryPolicy {
    retry(5, ms(50), ms(300)).unwrap()
}

fn fault(kind: FaultKind) -> (Ended, Option<Duration>) {
    (Ended::Fault(kind), None)
}

const UNREACHABLE: (Ended, Option<Duration>) = (Ended::Fault(FaultKind::Unreachable), None);

/// The longest pause.
fn ceiling() -> Jitter {
    Jitter::with(|ceiling| ceiling)
}

#[test]
fn the_ceiling_doubles_up_to_the_maximum() {
    let ceilings: Vec<_> = (1..=5).map(|number| policy().ceiling(number)).collect();
    assert_eq!(ceilings, [ms(50), ms(100), ms(200), ms(300), ms(300)]);
    assert_eq!(policy().ceiling(u32::MAX), ms(300));
    let longest = retry(10, super::super::MAX_DURATION, super::super::MAX_DURATION).unwrap();
    assert_eq!(longest.ceiling(10), super::super::MAX_DURATION);
}

#[test]
fn only_what_is_safe_and_may_help_is_retried() {
    let retried = |repeat| {
        let kinds = FaultKind::ALL.into_iter();
        let retried = kinds.filter(|kind| policy().pause(1, fault(*kind), repeat, HOUR, &Jitter::FULL).is_some());
        retried.collect::<Vec<_>>()
    };
    use FaultKind::{DeadlineExceeded, Overloaded, Trapped, Unreachable};
    assert_eq!(retried(Repeat::Never), []);
    assert_eq!(retried(Repeat::IfNothingBegun), [Unreachable, Overloaded]);
    assert_eq!(retried(Repeat::Always), [Unreachable, Overloaded, DeadlineExceeded, Trapped]);
    for kind in retried(Repeat::IfNothingBegun) {
        assert!(kind.nothing_begun(), "{kind}");
    }
}

#[test]
fn of_answers_those_that_the_policy_names_are_retried_and_only_where_the_call_is_idempotent() {
    let retried = |status, repeat| policy().pause(1, (Ended::Status(status), None), repeat, HOUR, &Jitter::FULL);
    for status in 100..600 {
        assert_eq!(retried(status, Repeat::Always).is_some(), (502..=504).contains(&status), "{status}");
        assert_eq!(retried(status, Repeat::IfNothingBegun), None);
        assert_eq!(retried(status, Repeat::Never), None);
    }
}

#[test]
fn the_attempts_are_counted() {
    let pause = |number| policy().pause(number, UNREACHABLE, Repeat::Always, HOUR, &ceiling());
    assert_eq!((1..=6).map(pause).filter(Option::is_some).count(), 4);
    assert_eq!(pause(4), Some(ms(300)));
    assert_eq!(pause(5), None);
    assert_eq!(RetryPolicy::never().pause(1, UNREACHABLE, Repeat::Always, HOUR, &ceiling()), None);
    assert!(policy().retries() && !RetryPolicy::never().retries());
}

#[test]
fn what_the_callee_said_comes_before_the_jitter() {
    let told = |after| (Ended::Fault(FaultKind::Overloaded), Some(after));
    let pause = |after, jitter| policy().pause(1, told(after), Repeat::IfNothingBegun, HOUR, &jitter);
    assert_eq!(pause(ms(700), ceiling()), Some(ms(750)));
    assert_eq!(pause(ms(700), Jitter::with(|_| Duration::ZERO)), Some(ms(700)));
    assert_eq!(pause(Duration::MAX, ceiling()), None);
}

#[test]
fn a_pause_that_reaches_the_deadline_is_not_begun() {
    let pause = |remaining, jitter| policy().pause(1, UNREACHABLE, Repeat::IfNothingBegun, remaining, &jitter);
    assert_eq!(pause(ms(51), ceiling()), Some(ms(50)));
    assert_eq!(pause(ms(50), ceiling()), None);
    assert_eq!(pause(Duration::ZERO, Jitter::with(|_| Duration::ZERO)), None);
}

#[test]
fn a_function_is_named_by_its_name_or_its_full_name() {
    let params = |names: &[&str]| RetryParams {
        idempotent: names.iter().map(|name| String::from(*name)).collect(),
        ..RetryParams::default()
    };
    let policy = RetryPolicy::try_new(params(&["find", "shop:users/directory.get", "shop:users/admin@0.1.0.ban"]));
    let policy = policy.unwrap();
    for (interface, function, named) in [
        ("shop:users/directory@0.1.0", "find", true),
        ("shop:catalog/products", "find", true),
        ("shop:users/directory@0.1.0", "get", true),
        ("shop:users/directory", "get", true),
        ("shop:catalog/products@0.1.0", "get", false),
        ("shop:users/admin@0.1.0", "ban", true),
        ("shop:users/admin@0.2.0", "ban", false),
        ("shop:users/directory@0.1.0", "finder", false),
        ("shop:users/directory@0.1.0", "nd", false),
        ("shop:users/directory-of-all@0.1.0", "get", false),
    ] {
        assert_eq!(policy.is_idempotent(interface, function), named, "{interface} {function}");
    }
    let refused = |names| RetryPolicy::try_new(params(names)).unwrap_err().to_string();
    assert_eq!(refused(&["a", ""]), "`retry.idempotent`: expected the names of functions, found an empty one");
    assert_eq!(refused(&["a", "a"]), "`retry.idempotent`: expected each function once, found `a` twice");
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
    let refused = |attempts, backoff, max| retry(attempts, backoff, max).unwrap_err().to_string();
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
        let policy = retry(attempts, ms(backoff), max_backoff).unwrap();
        let ended = (Ended::Fault(FaultKind::Unreachable), told.map(ms));
        if let Some(pause) = policy.pause(number, ended, Repeat::IfNothingBegun, ms(remaining), &Jitter::FULL) {
            let told = ms(told.unwrap_or(0));
            prop_assert!(number < attempts);
            prop_assert!(pause < ms(remaining));
            prop_assert!(told <= pause && pause - told <= max_backoff);
            prop_assert!(pause - told <= ms(backoff) * 2_u32.pow(number - 1));
        }
    }
}
