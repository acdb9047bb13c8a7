//! What no breaker can work with.

use super::*;

#[test]
fn nonsense_is_refused() {
    let good = BreakerParams::default();
    let calls = |calls| WindowSize::Calls(calls);
    let time = WindowSize::Time;
    for (params, expected) in [
        (
            BreakerParams { failures: None, ..good },
            "`breaker`: expected `failures`, `failure-rate` or `slow-rate`, so that something opens it, found none of them",
        ),
        (BreakerParams { failures: Some(0), ..good }, "`breaker.failures`: expected 1 to 1000000, found 0"),
        (
            BreakerParams { failures: Some(1_000_001), ..good },
            "`breaker.failures`: expected 1 to 1000000, found 1000001",
        ),
        (BreakerParams { failure_rate: Some(0), ..good }, "`breaker.failure-rate`: expected 1 to 100, found 0"),
        (BreakerParams { failure_rate: Some(101), ..good }, "`breaker.failure-rate`: expected 1 to 100, found 101"),
        (BreakerParams { slow_rate: Some(0), ..good }, "`breaker.slow-rate`: expected 1 to 100, found 0"),
        (BreakerParams { slow_rate: Some(101), ..good }, "`breaker.slow-rate`: expected 1 to 100, found 101"),
        (BreakerParams { window: calls(0), ..good }, "`breaker.window`: expected 1 to 10000, found 0"),
        (BreakerParams { window: calls(10_001), ..good }, "`breaker.window`: expected 1 to 10000, found 10001"),
        (
            BreakerParams { window: time(Duration::ZERO), ..good },
            "`breaker.window`: expected more than zero and at most 24h, found 0ns",
        ),
        (
            BreakerParams { window: time(Duration::from_millis(9)), ..good },
            "`breaker.window`: expected at least 10ms, found 9ms",
        ),
        (BreakerParams { minimum: Some(0), ..good }, "`breaker.minimum`: expected 1 to 1000000, found 0"),
        (
            BreakerParams { minimum: Some(101), ..good },
            "`breaker.minimum`: expected at most `breaker.window` (100 calls), found 101",
        ),
        (
            BreakerParams { open: Duration::ZERO, ..good },
            "`breaker.open`: expected more than zero and at most 24h, found 0ns",
        ),
        (
            BreakerParams { max_open: Some(OPEN / 2), ..good },
            "`breaker.max-open`: expected at least `breaker.open` (60s), found 30s",
        ),
        (
            BreakerParams { max_open: Some(Duration::MAX), ..good },
            "`breaker.max-open`: expected more than zero and at most 24h, found 18446744073709551615.999999999s",
        ),
        (BreakerParams { half_open: 0, ..good }, "`breaker.half-open`: expected 1 to 1000, found 0"),
        (BreakerParams { half_open: 1_001, ..good }, "`breaker.half-open`: expected 1 to 1000, found 1001"),
    ] {
        assert_eq!(BreakerPolicy::try_new(params).unwrap_err().to_string(), expected);
    }
    assert_eq!(BreakerPolicy::try_new(good), Ok(BreakerPolicy::default()));
}
