//! An edge as people see it.

use super::*;

#[tokio::test(start_paused = true)]
async fn status_reads_it_as_json() {
    let guard = with_bulkhead(2, 1);
    trip(&guard).await;
    let _refused = hang(&guard, patient()).await;
    let json = serde_json::to_value(guard.snapshot()).unwrap();
    let expected = serde_json::json!({
        "edge": "order -> user",
        "breaker": {
            "state": "open", "state_for_ms": 0,
            "last_trip": { "kind": "consecutive-failures", "failures": 3, "last": "trapped" },
            "consecutive_failures": 0, "window": null, "retry_after_ms": 60_000, "probes": 0, "openings": 1,
        },
        "in_flight": 0, "queued": 0, "calls": 4,
        "faults": { "trapped": 3, "circuit-open": 1 },
        "failed_answers": 0, "retries": 0, "budget": { "calls": 4, "retries": 0, "left": 100 }, "refused_retries": 0,
        "rejected": 1, "stale_answers": 0, "fixed_answers": 0, "inject": null, "injected": 0,
    });
    assert_eq!(json, expected);
    assert_eq!(serde_json::from_value::<GuardSnapshot>(json).unwrap(), guard.snapshot());
}
