//! Where a policy names functions.

/// A place in a policy at which functions are named. Each is to be one that the callee has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FunctionList {
    /// Those that may be called again whatever became of a call.
    Idempotent,
    /// Those whose results are remembered.
    Remembered,
    /// Those that have a fixed result.
    FixedResults,
}

// === impl FunctionList ===

impl FunctionList {
    /// Its key within the policy.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Idempotent => "retry.idempotent",
            Self::Remembered => "fallback.stale.functions",
            Self::FixedResults => "fallback.fixed-results",
        }
    }
}
