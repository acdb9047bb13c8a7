//! Waiting for conditions.

use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How long anything may take before a test gives it up: much longer than it takes on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks `condition` again and again until it is `Ok`.
///
/// # Panics
///
/// When it has not become so within [`PATIENCE`], with `what` and the last `Err`.
pub async fn eventually<T, E, F>(what: &str, mut condition: F) -> T
where
    E: std::fmt::Debug,
    F: AsyncFnMut() -> Result<T, E>,
{
    let end = Instant::now() + PATIENCE;
    loop {
        match condition().await {
            Ok(value) => return value,
            Err(last) if Instant::now() >= end => panic!("waited {PATIENCE:?} for this: {what}; at last: {last:?}"),
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// What `future` comes to.
///
/// # Panics
///
/// When it takes longer than [`PATIENCE`].
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} for this: {what}"),
    }
}
