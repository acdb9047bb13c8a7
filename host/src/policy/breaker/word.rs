//! The part of a breaker that every call reads, in one atomic word.

use super::BreakerState;

/// State (2 bits), generation (30 bits) and failures in a row while closed (32 bits).
///
/// The generation grows with each change of state, so that the outcome of an attempt is only counted in the state that
/// let the attempt pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word(u64);

const CLOSED: u64 = 0;
const OPEN: u64 = 1;
const HALF_OPEN: u64 = 2;
const GENERATION_MASK: u32 = (1 << 30) - 1;

// === impl Word ===

impl Word {
    pub(super) fn closed(generation: u32, failures: u32) -> Self {
        Self::pack(CLOSED, generation, failures)
    }

    /// The beginning of another state.
    pub(super) fn next(self, state: BreakerState) -> Self {
        let state = match state {
            BreakerState::Closed => CLOSED,
            BreakerState::Open => OPEN,
            BreakerState::HalfOpen => HALF_OPEN,
        };
        Self::pack(state, self.generation().wrapping_add(1), 0)
    }

    pub(super) fn state(self) -> BreakerState {
        match self.0 >> 62 {
            CLOSED => BreakerState::Closed,
            OPEN => BreakerState::Open,
            _ => BreakerState::HalfOpen,
        }
    }

    pub(super) fn generation(self) -> u32 {
        (self.0 >> 32) as u32 & GENERATION_MASK
    }

    pub(super) fn failures(self) -> u32 {
        self.0 as u32
    }

    fn pack(state: u64, generation: u32, failures: u32) -> Self {
        Self(state << 62 | u64::from(generation & GENERATION_MASK) << 32 | u64::from(failures))
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
        let word = Word::closed(GENERATION_MASK, u32::MAX);
        assert_eq!(
            (word.state(), word.generation(), word.failures()),
            (BreakerState::Closed, GENERATION_MASK, u32::MAX)
        );
        // The generation wraps without touching the state.
        for state in [BreakerState::Closed, BreakerState::Open, BreakerState::HalfOpen] {
            let next = word.next(state);
            assert_eq!((next.state(), next.generation(), next.failures()), (state, 0, 0));
        }
    }
}
