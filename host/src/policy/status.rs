//! Sets of HTTP statuses, as policies name them: `5xx`, `429`.

use super::InvalidPolicy;
use std::fmt;

/// The statuses that there can be in a set: 100 to 599 (RFC 9110, section 15).
const LEAST: u16 = 100;
const STATUSES: usize = 500;
const WORDS: usize = STATUSES.div_ceil(64);

/// A set of HTTP statuses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StatusSet([u64; WORDS]);

// === impl StatusSet ===

impl StatusSet {
    /// 500 to 599.
    pub const SERVER_ERRORS: Self = Self::EMPTY.with(500, 599);
    /// Answers of somebody before the callee that could not get one from it: 502, 503 and 504.
    pub const GATEWAY_ERRORS: Self = Self::EMPTY.with(502, 504);
    /// None.
    pub const EMPTY: Self = Self([0; WORDS]);

    /// The statuses that the patterns name: each a status, such as `429`, or a class, such as `5xx`.
    ///
    /// # Errors
    ///
    /// When a pattern is neither. The field is the empty string: it is the caller's to say.
    pub fn try_new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, InvalidPolicy> {
        let mut set = Self::EMPTY;
        for pattern in patterns {
            let status = || pattern.parse().ok().filter(|status| (100..600).contains(status) && pattern.len() == 3);
            let class = || match pattern.as_bytes() {
                [class @ b'1'..=b'5', b'x', b'x'] => Some(u16::from(class - b'0') * 100),
                _ => None,
            };
            set = match (status(), class()) {
                (Some(status), _) => set.with(status, status),
                (None, Some(first)) => set.with(first, first + 99),
                (None, None) => {
                    let found = format_args!("`{}`", pattern.escape_debug());
                    return Err(InvalidPolicy::new("", "a status such as `503` or a class such as `5xx`", found));
                }
            };
        }
        Ok(set)
    }

    /// Whether the status is in it.
    pub fn contains(&self, status: u16) -> bool {
        let Some(at) = status.checked_sub(LEAST).map(usize::from).filter(|at| *at < STATUSES) else { return false };
        self.0[at / 64] & (1 << (at % 64)) != 0
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        *self == Self::EMPTY
    }

    const fn with(mut self, first: u16, last: u16) -> Self {
        let mut status = first;
        while status <= last {
            let at = (status - LEAST) as usize;
            self.0[at / 64] |= 1 << (at % 64);
            status += 1;
        }
        self
    }
}

impl fmt::Debug for StatusSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries((LEAST..600).filter(|status| self.contains(*status))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_and_classes() {
        let set = StatusSet::try_new(["404", "5xx", "100"]).unwrap();
        for status in 0..=1000 {
            assert_eq!(
                set.contains(status),
                status == 404 || status == 100 || (500..600).contains(&status),
                "{status}"
            );
        }
        assert_eq!(StatusSet::try_new(["5xx"]).unwrap(), StatusSet::SERVER_ERRORS);
        assert_eq!(StatusSet::try_new(["502", "503", "504"]).unwrap(), StatusSet::GATEWAY_ERRORS);
        assert!(StatusSet::try_new([]).unwrap().is_empty());
    }

    #[test]
    fn nonsense_is_refused() {
        for pattern in ["", "5", "50x", "5XX", "6xx", "0xx", "99", "600", "+50", "0503", "5xx ", "päf"] {
            let error = StatusSet::try_new([pattern]).unwrap_err();
            assert_eq!(error.expected(), "a status such as `503` or a class such as `5xx`", "{pattern}");
            assert_eq!(error.found(), format!("`{pattern}`"));
        }
    }
}
