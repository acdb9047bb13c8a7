//! What a policy's constructor says when it refuses.

use super::MAX_DURATION;
use std::{fmt::Display, ops::RangeInclusive, time::Duration};

/// A value that no policy can work with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}`: expected {expected}, found {found}")]
pub struct InvalidPolicy {
    field: &'static str,
    expected: String,
    found: String,
}

// === impl InvalidPolicy ===

impl InvalidPolicy {
    pub(super) fn new(field: &'static str, expected: impl Into<String>, found: impl Display) -> Self {
        Self { field, expected: expected.into(), found: found.to_string() }
    }

    /// The same of another field: for constructors that serve several.
    #[must_use]
    pub fn of(self, field: &'static str) -> Self {
        Self { field, ..self }
    }

    /// The field, as the manifest writes it below an edge: `deadline`, `retry.attempts`.
    pub fn field(&self) -> &'static str {
        self.field
    }

    /// What would have been accepted.
    pub fn expected(&self) -> &str {
        &self.expected
    }

    /// What was given.
    pub fn found(&self) -> &str {
        &self.found
    }
}

pub(super) fn check_duration(field: &'static str, found: Duration) -> Result<(), InvalidPolicy> {
    if found.is_zero() || found > MAX_DURATION {
        return Err(InvalidPolicy::new(field, "more than zero and at most 24h", format_args!("{found:?}")));
    }
    Ok(())
}

pub(super) fn check_count(field: &'static str, found: u32, accepted: RangeInclusive<u32>) -> Result<(), InvalidPolicy> {
    if !accepted.contains(&found) {
        return Err(InvalidPolicy::new(field, format!("{} to {}", accepted.start(), accepted.end()), found));
    }
    Ok(())
}

/// Names of functions: none empty, none twice.
pub(super) fn check_functions(field: &'static str, names: &[String]) -> Result<(), InvalidPolicy> {
    for (at, name) in names.iter().enumerate() {
        if name.is_empty() {
            return Err(InvalidPolicy::new(field, "the names of functions", "an empty one"));
        }
        if names[..at].contains(name) {
            let found = format_args!("`{}` twice", name.escape_debug());
            return Err(InvalidPolicy::new(field, "each function once", found));
        }
    }
    Ok(())
}
