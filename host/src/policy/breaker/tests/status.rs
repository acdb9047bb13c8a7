//! A breaker as people see it.

use super::*;

#[tokio::test(start_paused = true)]
async fn status_reads_it_as_json() {
    let breaker = of(BreakerParams { failures: Some(1), ..by_rate() });
    trip(&breaker);
    advance(Duration::from_millis(1500)).await;
    let json = serde_json::to_value(breaker.snapshot()).unwrap();
    let expected = serde_json::json!({
        "state": "open", "state_for_ms": 1500,
        "last_trip": { "kind": "consecutive-failures", "failures": 1, "last": "unreachable" },
        "consecutive_failures": 0, "window": { "calls": 1, "failed": 1, "slow": 0 },
        "retry_after_ms": 58_500, "probes": 0, "openings": 1,
    });
    assert_eq!(json, expected);
    assert_eq!(serde_json::from_value::<BreakerSnapshot>(json).unwrap(), breaker.snapshot());
}
