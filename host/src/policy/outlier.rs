//! Outlier ejection: when one of several endpoints is left out.

use super::{BreakerParams, BreakerPolicy, InvalidPolicy, bounds, invalid};
use std::time::Duration;

/// When an endpoint that fails is left out, for how long, and how many may be out at a time.
///
/// Each endpoint has a circuit breaker of its own; one that is open puts its endpoint out, so that the calls go to the
/// others. There must be others: when half of the endpoints fail, it is seldom the endpoints, and the rest would fall
/// under the load of all. So at most a share of them is ever out, and one that fails beyond it stays in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutlierPolicy {
    breaker: BreakerPolicy,
    max_ejected: u32,
}

// === impl OutlierPolicy ===

impl OutlierPolicy {
    /// Endpoints out by this breaker, at most `max_ejected` (1 to 100) in a hundred at a time, rounded down.
    ///
    /// # Errors
    ///
    /// When `max_ejected` is out of range.
    pub fn try_new(breaker: BreakerPolicy, max_ejected: u32) -> Result<Self, InvalidPolicy> {
        invalid::check_count("outlier.max-ejected", max_ejected, bounds::PERCENT)?;
        Ok(Self { breaker, max_ejected })
    }

    /// The breaker of each endpoint.
    pub fn breaker(&self) -> &BreakerPolicy {
        &self.breaker
    }

    /// How many in a hundred may be out.
    pub fn max_ejected(&self) -> u32 {
        self.max_ejected
    }

    /// How many of so many endpoints may be out.
    pub fn most_out(&self, of: usize) -> usize {
        of.saturating_mul(self.max_ejected as usize) / 100
    }
}

impl Default for OutlierPolicy {
    /// Five failures in a row, half a minute, up to five minutes for one that goes on failing; half of the endpoints.
    fn default() -> Self {
        let params = BreakerParams {
            open: Duration::from_secs(30),
            max_open: Some(Duration::from_secs(300)),
            ..BreakerParams::default()
        };
        Self { breaker: BreakerPolicy::try_new(params).unwrap_or_default(), max_ejected: 50 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_rounded_down() {
        let most = |percent, of| OutlierPolicy::try_new(BreakerPolicy::default(), percent).unwrap().most_out(of);
        assert_eq!([1, 2, 3, 4].map(|of| most(50, of)), [0, 1, 1, 2]);
        assert_eq!([1, 2, 3, 4].map(|of| most(100, of)), [1, 2, 3, 4]);
        assert_eq!([1, 99, 100].map(|of| most(1, of)), [0, 0, 1]);
        assert_eq!(most(100, usize::MAX), usize::MAX / 100);
    }

    #[test]
    fn nonsense_is_refused() {
        for percent in [0, 101] {
            let refused = OutlierPolicy::try_new(BreakerPolicy::default(), percent).unwrap_err().to_string();
            assert_eq!(refused, format!("`outlier.max-ejected`: expected 1 to 100, found {percent}"));
        }
        let default = OutlierPolicy::default();
        assert_eq!(OutlierPolicy::try_new(default.breaker, default.max_ejected), Ok(default));
        assert_eq!(default.breaker.params().open, Duration::from_secs(30));
    }
}
