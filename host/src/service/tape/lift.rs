//! Recording: values out of a component.

use super::{
    NotCarried, Recorder, Tape,
    types::{BY_MEMORY, MOST_FLAT, case, each_field, is_number},
};
use std::slice::Iter;
use wasmtime::{
    ValRaw,
    component::{
        __internal::{
            CanonicalAbiInfo, ComponentTypes, InstanceType, InterfaceType, LiftContext,
            wasmtime_environ::component::StringEncoding,
        },
        ComponentNamedList, ComponentType, Lift,
    },
};

/// What a component sends: parameters when it calls, results when it was called. `FLAT` is the number of flat values
/// that they come in, or [`BY_MEMORY`].
pub(in crate::service) struct Sent<const FLAT: usize>(pub Result<Tape, NotCarried>);

struct Lifter<'a, 'b> {
    cx: &'a mut LiftContext<'b>,
    types: &'b ComponentTypes,
    tape: Recorder,
}

// === impl Sent ===

// SAFETY: wasmtime relies on three things here.
// - `Lower` is a sequence of `ValRaw`: it is an array of them.
// - `typecheck` accepts only what the rest handles. wasmtime gives `linear_lift_from_flat` a reference to `FLAT` values
//   that it took from a slice after asserting that there are so many. `FLAT` is just the number of flat values of the
//   type, or more than can come flat, so that none of them is one that nobody wrote.
// - `ABI` is used for nothing but to check that so many bytes at the given place are within the guest's memory, and to cut
//   them out. One byte is a lower bound for everything that lies in memory at all; the real size is checked here, and no
//   byte is ever read but through slices.
unsafe impl<const FLAT: usize> ComponentType for Sent<FLAT> {
    type Lower = [ValRaw; FLAT];

    const ABI: CanonicalAbiInfo = CanonicalAbiInfo::SCALAR1;

    fn typecheck(ty: &InterfaceType, types: &InstanceType<'_>) -> wasmtime::Result<()> {
        let flat = types.types.canonical_abi(ty).flat_count(MOST_FLAT).unwrap_or(BY_MEMORY);
        if matches!(ty, InterfaceType::Tuple(_)) && FLAT == flat {
            Ok(())
        } else {
            Err(wasmtime::format_err!("expected {FLAT} flat values, found {flat}"))
        }
    }
}

// SAFETY: it stands for a tuple, as all that `typecheck` accepts.
unsafe impl<const FLAT: usize> ComponentNamedList for Sent<FLAT> {}

// SAFETY: see `ComponentType`. Whatever the guest wrote is checked before it is used: pointers and lengths against its
// memory, discriminants against the cases, strings and characters for validity.
unsafe impl<const FLAT: usize> Lift for Sent<FLAT> {
    fn linear_lift_from_flat(cx: &mut LiftContext<'_>, ty: InterfaceType, src: &Self::Lower) -> wasmtime::Result<Self> {
        Self::record(cx, |lifter| lifter.flat(ty, &mut src.iter()))
    }

    fn linear_lift_from_memory(cx: &mut LiftContext<'_>, ty: InterfaceType, bytes: &[u8]) -> wasmtime::Result<Self> {
        // Not the values, which have more bytes than `ABI` says: only where they begin.
        let at = bytes.as_ptr().addr().wrapping_sub(cx.memory().as_ptr().addr());
        if !at.is_multiple_of(cx.types.canonical_abi(&ty).align32 as usize) {
            return Err(wasmtime::format_err!("pointer is not aligned"));
        }
        Self::record(cx, |lifter| lifter.memory(ty, at))
    }
}

impl<const FLAT: usize> Sent<FLAT> {
    fn record(
        cx: &mut LiftContext<'_>,
        values: impl FnOnce(&mut Lifter<'_, '_>) -> wasmtime::Result<()>,
    ) -> wasmtime::Result<Self> {
        let types = cx.types;
        let mut lifter = Lifter { cx, types, tape: Recorder::default() };
        match values(&mut lifter) {
            Ok(()) => Ok(Self(Ok(lifter.tape.finish()))),
            Err(error) => error.downcast().map(|not_carried| Self(Err(not_carried))),
        }
    }
}

// === impl Lifter ===

impl<'b> Lifter<'_, 'b> {
    /// Records a value that comes as core WebAssembly's own values.
    fn flat(&mut self, ty: InterfaceType, src: &mut Iter<'_, ValRaw>) -> wasmtime::Result<()> {
        self.tape.value()?;
        match ty {
            InterfaceType::Bool => self.tape.data(&[u8::from(next(src)?.get_u32() != 0)])?,
            // Of the 32 bits, those above the number's own say nothing.
            InterfaceType::U8 | InterfaceType::S8 => self.tape.data(&next(src)?.get_u32().to_le_bytes()[..1])?,
            InterfaceType::U16 | InterfaceType::S16 => self.tape.data(&next(src)?.get_u32().to_le_bytes()[..2])?,
            InterfaceType::U32 | InterfaceType::S32 | InterfaceType::Float32 => {
                self.tape.data(&next(src)?.get_u32().to_le_bytes())?;
            }
            InterfaceType::U64 | InterfaceType::S64 | InterfaceType::Float64 => {
                self.tape.data(&next(src)?.get_u64().to_le_bytes())?;
            }
            InterfaceType::Char => self.char(next(src)?.get_u32())?,
            InterfaceType::String | InterfaceType::List(_) => {
                let (at, len) = (next(src)?.get_u32(), next(src)?.get_u32());
                self.elsewhere(ty, at, len)?;
            }
            InterfaceType::Flags(i) => {
                self.flags(self.types[i].names.len(), next(src)?.get_u32());
            }
            InterfaceType::Variant(_)
            | InterfaceType::Enum(_)
            | InterfaceType::Option(_)
            | InterfaceType::Result(_) => {
                let place = next(src)?.get_u32();
                let (_, payload) = case(self.types, ty, place)?;
                self.tape.mark(place);
                let mut left = self.flat_count(ty)? - 1;
                if let Some(payload) = payload {
                    self.flat(payload, src)?;
                    left -= self.flat_count(payload)?;
                }
                for _ in 0..left {
                    next(src)?;
                }
            }
            _ => each_field(self.types, ty, |ty, _| self.flat(ty, src))?,
        }
        Ok(())
    }

    fn flat_count(&self, ty: InterfaceType) -> wasmtime::Result<usize> {
        // What has more flat values is never passed flat.
        self.types.canonical_abi(&ty).flat_count(MOST_FLAT).ok_or_else(super::mismatch)
    }

    /// Records a value that lies in the guest's memory.
    fn memory(&mut self, ty: InterfaceType, at: usize) -> wasmtime::Result<()> {
        self.tape.value()?;
        match ty {
            InterfaceType::Bool => {
                let [byte] = self.read(at)?;
                self.tape.data(&[u8::from(byte != 0)])?;
            }
            InterfaceType::Char => {
                let code = self.read_u32(at)?;
                self.char(code)?;
            }
            InterfaceType::String | InterfaceType::List(_) => {
                let (begin, len) = (self.read_u32(at)?, self.read_u32(at + 4)?);
                self.elsewhere(ty, begin, len)?;
            }
            InterfaceType::Flags(i) => {
                let bits = self.read_up_to_u32(at, self.types[i].abi.size32)?;
                self.flags(self.types[i].names.len(), bits);
            }
            InterfaceType::Variant(_)
            | InterfaceType::Enum(_)
            | InterfaceType::Option(_)
            | InterfaceType::Result(_) => {
                let (info, _) = case(self.types, ty, 0)?;
                let place = self.read_up_to_u32(at, info.size.into())?;
                let (info, payload) = case(self.types, ty, place)?;
                self.tape.mark(place);
                if let Some(payload) = payload {
                    self.memory(payload, at + info.payload_offset32 as usize)?;
                }
            }
            number if is_number(number) => {
                let bytes = self.bytes(at, self.types.canonical_abi(&number).size32 as usize)?;
                self.tape.data(bytes)?;
            }
            _ => {
                let mut end = 0;
                each_field(self.types, ty, |ty, abi| self.memory(ty, at + abi.next_field32_size(&mut end)))?;
            }
        }
        Ok(())
    }

    /// Records a string or a list, of which only the place and the length have been passed.
    fn elsewhere(&mut self, ty: InterfaceType, at: u32, len: u32) -> wasmtime::Result<()> {
        match ty {
            InterfaceType::List(i) => self.list(self.types[i].element, at as usize, len),
            _ => self.string(at, len),
        }
    }

    fn list(&mut self, element: InterfaceType, at: usize, len: u32) -> wasmtime::Result<()> {
        let abi = self.types.canonical_abi(&element);
        let (size, align) = (abi.size32 as usize, abi.align32 as usize);
        if !at.is_multiple_of(align) {
            return Err(wasmtime::format_err!("list pointer is not aligned"));
        }
        let all = (len as usize).checked_mul(size).ok_or_else(out_of_bounds)?;
        let bytes = self.bytes(at, all)?;
        self.tape.mark(len);
        if is_number(element) {
            return Ok(self.tape.data(bytes)?);
        }
        (0..len as usize).try_for_each(|n| self.memory(element, at + n * size))
    }

    fn string(&mut self, at: u32, len: u32) -> wasmtime::Result<()> {
        if self.cx.options().string_encoding == StringEncoding::Utf8 {
            let bytes = self.bytes(at as usize, len as usize)?;
            if bytes.len() > super::MOST_BYTES {
                return Err(NotCarried::TooLarge.into());
            }
            self.tape.string(std::str::from_utf8(bytes)?)?;
        } else {
            let text = String::linear_lift_from_flat(self.cx, InterfaceType::String, &[at, len].map(ValRaw::u32))?;
            self.tape.string(&text)?;
        }
        Ok(())
    }

    fn char(&mut self, code: u32) -> wasmtime::Result<()> {
        Ok(self.tape.data(&u32::from(char::try_from(code)?).to_le_bytes())?)
    }

    /// Records flags, without the bits that are none. There are never more than 32.
    fn flags(&mut self, count: usize, bits: u32) {
        let unused = u32::BITS.saturating_sub(count as u32);
        self.tape.mark(bits & u32::MAX.checked_shr(unused).unwrap_or(0));
    }

    fn bytes(&self, at: usize, len: usize) -> wasmtime::Result<&'b [u8]> {
        self.cx.memory().get(at..).and_then(|rest| rest.get(..len)).ok_or_else(out_of_bounds)
    }

    fn read<const N: usize>(&self, at: usize) -> wasmtime::Result<[u8; N]> {
        let rest = self.cx.memory().get(at..).and_then(<[u8]>::first_chunk);
        rest.copied().ok_or_else(out_of_bounds)
    }

    /// A number of one, two or four bytes.
    fn read_up_to_u32(&self, at: usize, size: u32) -> wasmtime::Result<u32> {
        let mut number = [0; 4];
        let bytes = self.bytes(at, size as usize)?;
        number.get_mut(..bytes.len()).ok_or_else(super::mismatch)?.copy_from_slice(bytes);
        Ok(u32::from_le_bytes(number))
    }

    fn read_u32(&self, at: usize) -> wasmtime::Result<u32> {
        self.read(at).map(u32::from_le_bytes)
    }
}

fn next<'a>(src: &mut Iter<'a, ValRaw>) -> wasmtime::Result<&'a ValRaw> {
    src.next().ok_or_else(super::mismatch)
}

#[cold]
fn out_of_bounds() -> wasmtime::Error {
    wasmtime::format_err!("pointer or length is out of bounds of memory")
}
