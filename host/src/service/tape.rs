//! Tapes: values on their way from one service to another.
//!
//! A tape holds the parameters of one call, or its results, one after the other: what their types say needs not be on
//! it. It is recorded while wasmtime lifts the values out of one component, and played while it lowers them into the
//! other, each time along the types of that component. Both are known to have the same types, because these are part of
//! the name by which a function is looked up ([`super::FunctionKey`]). A fixed result is recorded from a text instead, along
//! the type that it has to be of.
//!
//! # Why not wasmtime's dynamic values
//!
//! A `Val` has 40 bytes, whatever it is, and names for fields and cases. A byte in a list costs 40 bytes, some 40 ns to
//! lower and as much to lift, and the fuel for copying ends at 800 KiB. Types known to the compiler would be as quick as a
//! tape, but they can't cover what people write: the error in `result<list<u8>, error>` is of a type that only the
//! components know. On a tape `list<u8>` and lists of other numbers are copied as they lie in memory, wherever they are in
//! a type, and nothing is allocated for records, variants and (in UTF-8) strings either.
//!
//! Measured: an echo that the host asks for over an edge, so each value is lowered once and lifted once (bench `call`,
//! group `lists`, with `CARGO_PROFILE_DEV_OPT_LEVEL=2` and `--profile dev`; the estimates of two rounds, taken in turn on a
//! busy machine):
//!
//! | | `Val` | tape |
//! |---|---|---|
//! | `list<u8>`, 16 bytes | 6.8 and 9.4 µs | 6.2 and 9.4 µs |
//! | 1 KiB | 104 and 94 µs | 7.2 and 11.6 µs |
//! | 64 KiB | 6.3 and 5.0 ms | 13 and 20 µs |
//! | 800 KiB | 97 and 97 ms | 0.09 and 0.14 ms |
//! | 4 MiB | beyond the fuel | 0.8 and 1.4 ms |
//! | 16 MiB | beyond the fuel | 9.7 and 9.7 ms |
//! | 100 tuples of `f64`, `f32`, `string` | 94 and 96 µs | 61 and 83 µs |
//!
//! # Limits
//!
//! What crosses in one direction of one call is bounded before it is copied: [`MOST_BYTES`] of strings and numbers, and
//! [`MOST_VALUES`], where a string and a list of numbers count as one value each. And since calls may wait, what all calls
//! of one instance have on their way is bounded as well, by [`MOST_UNDER_WAY`]. More is a fault of the call, which leaves
//! both instances alive.
//!
//! # On wasmtime's hidden parts
//!
//! `Lift` and `Lower` may be implemented outside of wasmtime (its derive macros do), but what they are made of is not
//! part of its stable interface. All of that is here and in `lift`, `lower` and `types`, and the tests beside it compare it
//! with wasmtime's own dynamic values, type by type: they are to be believed when wasmtime is changed for another version.

/// Evaluates an expression with a constant for a number of flat values.
macro_rules! by_flat_count {
    ($count:expr, $constant:ident => $then:expr) => {
        $crate::service::tape::by_flat_count!(
            @ $count, $constant => $then, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16
        )
    };
    (@ $count:expr, $constant:ident => $then:expr, $($flat:literal)*) => {
        match $count {
            $($flat => { const $constant: usize = $flat; $then })*
            _ => { const $constant: usize = $crate::service::tape::BY_MEMORY; $then }
        }
    };
}

mod lift;
mod lower;
mod types;
mod wave;

pub(super) use by_flat_count;
pub(super) use lift::Sent;
pub(super) use lower::Given;
pub(super) use types::{BY_MEMORY, MOST_FLAT, flat_count};
pub(super) use wave::written;

use bytes::Bytes;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// The most bytes of strings and numbers that cross in one direction of a call.
pub const MOST_BYTES: usize = 16 << 20;

/// The most values that cross in one direction of a call. Strings and lists of numbers count as one each, records, lists
/// and variants as one and what is in them.
pub const MOST_VALUES: usize = 1 << 20;

/// The most bytes that one instance may have on their way: parameters of calls that it made and results of calls that it
/// was asked for, until they have arrived.
pub const MOST_UNDER_WAY: usize = 64 << 20;

/// Tapes up to this size are not counted as under way: the number of calls bounds them well enough.
const SMALL: usize = 4 << 10;

/// The parameters or the results of a call.
///
/// Numbers lie there in their own width, in little-endian order and without padding; `bool` has one byte, `char` four;
/// strings and lists begin with their length, and variants, enums, options and results with the place of the case, as
/// `u32`; flags are a `u32`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tape(Bytes);

/// Why values are not carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotCarried {
    #[error("more than a call carries in one direction ({} MiB, {MOST_VALUES} values)", MOST_BYTES >> 20)]
    TooLarge,
    #[error("more than one instance may have on its way at a time ({} MiB)", MOST_UNDER_WAY >> 20)]
    TooMuchUnderWay,
}

/// What an instance has on its way.
#[derive(Clone, Default)]
pub(super) struct UnderWay(Arc<AtomicUsize>);

/// Bytes that are counted as long as they are there.
struct Counted {
    bytes: Bytes,
    account: UnderWay,
}

/// Records a tape.
#[derive(Default)]
pub(super) struct Recorder {
    bytes: Vec<u8>,
    /// Of [`MOST_BYTES`].
    data: usize,
    /// Of [`MOST_VALUES`].
    values: usize,
}

/// Plays a tape.
struct Player<'a>(&'a [u8]);

// === impl Tape ===

impl Tape {
    /// What is on it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Tape {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

// === impl UnderWay ===

impl UnderWay {
    /// Counts a tape from now on until it and its clones are gone.
    pub fn count(&self, tape: Tape) -> Result<Tape, NotCarried> {
        let size = tape.0.len();
        if size <= SMALL {
            return Ok(tape);
        }
        let counted = Counted { bytes: tape.0, account: self.clone() };
        // A count and nothing else: no other memory depends on it.
        if self.0.fetch_add(size, Ordering::Relaxed).saturating_add(size) > MOST_UNDER_WAY {
            return Err(NotCarried::TooMuchUnderWay);
        }
        Ok(Tape(Bytes::from_owner(counted)))
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.account.0.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

// === impl Recorder ===

impl Recorder {
    /// Counts one more value.
    fn value(&mut self) -> Result<(), NotCarried> {
        self.values += 1;
        if self.values > MOST_VALUES { Err(NotCarried::TooLarge) } else { Ok(()) }
    }

    /// Records data, or refuses it before anything is copied.
    fn data(&mut self, bytes: &[u8]) -> Result<(), NotCarried> {
        self.data = self.data.saturating_add(bytes.len());
        if self.data > MOST_BYTES {
            return Err(NotCarried::TooLarge);
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Records a length, or the place of a case.
    pub fn mark(&mut self, number: u32) {
        self.bytes.extend_from_slice(&number.to_le_bytes());
    }

    /// Records a string.
    pub fn string(&mut self, text: &str) -> Result<(), NotCarried> {
        // NB: a string that does not fit is refused, so a length that does not is never on a tape.
        self.mark(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.data(text.as_bytes())
    }

    /// Records a number.
    pub fn u64(&mut self, number: u64) -> Result<(), NotCarried> {
        self.data(&number.to_le_bytes())
    }

    /// The tape.
    pub fn finish(self) -> Tape {
        self.bytes.into()
    }
}

// === impl Player ===

impl<'a> Player<'a> {
    fn take(&mut self, count: usize) -> wasmtime::Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(mismatch)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> wasmtime::Result<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk().ok_or_else(mismatch)?;
        self.0 = rest;
        Ok(*taken)
    }

    /// A length, or the place of a case.
    fn mark(&mut self) -> wasmtime::Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn string(&mut self) -> wasmtime::Result<&'a str> {
        let length = self.mark()? as usize;
        Ok(std::str::from_utf8(self.take(length)?)?)
    }

    /// That all was played.
    fn finish(self) -> wasmtime::Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(mismatch()) }
    }
}

/// Never seen as long as both sides of a link have the same types.
#[cold]
fn mismatch() -> wasmtime::Error {
    wasmtime::format_err!("the values of a call are not of the types that its receiver expects")
}

#[cfg(test)]
mod tests;
