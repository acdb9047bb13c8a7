//! The part of a breaker that every call reads, in one atomic word.

use super::BreakerState;

/// State (3 bits), generation (29 bits) and failures in a row while all calls pass (32 bits).
///
/// The generation grows with each change of state, so that the outcome of an attempt is only counted in the state that
/// let the attempt pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word(u64);

/// In the order of their codes.
const STATES: [BreakerState; 6] = [
    BreakerState::Closed,
    BreakerState::Open,
    BreakerState::HalfOpen,
    BreakerState::ForcedOpen,
    BreakerState::Disabled,
    BreakerState::MetricsOnly,
];
const GENERATION_MASK: u32 = (1 << 29) - 1;

// === impl Word ===

impl Word {
    /// The beginning of the first state.
    pub(super) fn first(state: BreakerState) -> Self {
        Self::pack(state, 0, 0)
    }

    /// The beginning of another state.
    pub(super) fn next(self, state: BreakerState) -> Self {
        Self::pack(state, self.generation().wrapping_add(1), 0)
    }

    /// The same with another number of failures in a row.
    pub(super) fn with_failures(self, failures: u32) -> Self {
        Self::pack(self.state(), self.generation(), failures)
    }

    pub(super) fn state(self) -> BreakerState {
        // What was never packed does not occur; it would be the last one.
        STATES.get((self.0 >> 61) as usize).copied().unwrap_or(BreakerState::MetricsOnly)
    }

    pub(super) fn generation(self) -> u32 {
        (self.0 >> 32) as u32 & GENERATION_MASK
    }

    pub(super) fn failures(self) -> u32 {
        self.0 as u32
    }

    fn pack(state: BreakerState, generation: u32, failures: u32) -> Self {
        // The codes are the order of the declaration, which is that of `STATES`.
        Self((state as u64) << 61 | u64::from(generation & GENERATION_MASK) << 32 | u64::from(failures))
    }
}

impl From<u64> for Word {
    fn from(bits: u64) -> Self {
        Self(bits)
    }
}

impl From<Word> for u64 {
    fn from(word: Word) -> Self {
        word.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_word_stay_apart() {
        for state in STATES {
            let word = Word::pack(state, GENERATION_MASK, u32::MAX);
            assert_eq!((word.state(), word.generation(), word.failures()), (state, GENERATION_MASK, u32::MAX));
            let word = word.with_failures(7);
            assert_eq!((word.state(), word.generation(), word.failures()), (state, GENERATION_MASK, 7));
            // The generation wraps without touching the state.
            for next in STATES {
                let next_word = word.next(next);
                assert_eq!((next_word.state(), next_word.generation(), next_word.failures()), (next, 0, 0));
            }
        }
    }
}
