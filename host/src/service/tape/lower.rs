//! Playing: values into a component.

use super::{
    Player, Tape, mismatch,
    types::{BY_MEMORY, MOST_FLAT, case, each_field, is_number},
};
use std::{mem::MaybeUninit, slice::IterMut};
use wasmtime::{
    ValRaw,
    component::{
        __internal::{
            CanonicalAbiInfo, ComponentTypes, InstanceType, InterfaceType, LowerContext,
            wasmtime_environ::component::StringEncoding,
        },
        ComponentNamedList, ComponentType, Lower,
    },
};

/// What a component is given: results when it called, parameters when it is called. `FLAT` is the number of flat values
/// there is room for: [`MOST_FLAT`] for parameters, and 0 or 1 for results, which are never more. What does not fit goes by
/// the guest's memory.
pub struct Given<const FLAT: usize>(pub Tape);

struct Lowerer<'a, 'b, 'c, T: 'static> {
    cx: &'a mut LowerContext<'b, T>,
    types: &'b ComponentTypes,
    tape: Player<'c>,
}

// === impl Given ===

// SAFETY: wasmtime relies on three things here.
// - `Lower` is a sequence of `ValRaw`: it is an array of them.
// - `typecheck` accepts only what the rest handles. Of parameters, wasmtime hands all `MOST_FLAT` values on to code that
//   reads as many as the function has (its own dynamic calls do the same). Of results it takes one value where the type
//   has one, and else none. All values are written, with zeros where there is nothing to say.
// - `ABI` would be used for parameters of more flat values than can be passed, which there never are: `FLAT` is not larger
//   than `MOST_FLAT`. Results come to a place in the guest's memory that wasmtime has checked by their real type, and
//   nothing is written there but through slices.
unsafe impl<const FLAT: usize> ComponentType for Given<FLAT> {
    type Lower = [ValRaw; FLAT];

    const ABI: CanonicalAbiInfo = CanonicalAbiInfo::SCALAR1;

    fn typecheck(ty: &InterfaceType, types: &InstanceType<'_>) -> wasmtime::Result<()> {
        let flat = types.types.canonical_abi(ty).flat_count(MOST_FLAT).unwrap_or(BY_MEMORY);
        if matches!(ty, InterfaceType::Tuple(_)) && (FLAT == MOST_FLAT || FLAT == flat.min(1)) {
            Ok(())
        } else {
            Err(wasmtime::format_err!("expected room for {flat} flat values, found it for {FLAT}"))
        }
    }
}

// SAFETY: it stands for a tuple, as all that `typecheck` accepts.
unsafe impl<const FLAT: usize> ComponentNamedList for Given<FLAT> {}

// SAFETY: see `ComponentType`. What is on the tape is checked again as it is played, so a tape of other types is an error.
unsafe impl<const FLAT: usize> Lower for Given<FLAT> {
    fn linear_lower_to_flat<T>(
        &self,
        cx: &mut LowerContext<'_, T>,
        ty: InterfaceType,
        dst: &mut MaybeUninit<Self::Lower>,
    ) -> wasmtime::Result<()> {
        let mut flat = [ValRaw::u64(0); FLAT];
        let abi = cx.types.canonical_abi(&ty);
        if abi.flat_count(FLAT).is_some() {
            self.play(cx, |lowerer| lowerer.flat(ty, &mut flat.iter_mut()))?;
        } else {
            // The one flat value is where in memory they are.
            let at = cx.realloc(0, 0, abi.align32, abi.size32 as usize)?;
            self.play(cx, |lowerer| lowerer.memory(ty, at))?;
            *flat.first_mut().ok_or_else(mismatch)? = ValRaw::u64(at as u64);
        }
        dst.write(flat);
        Ok(())
    }

    fn linear_lower_to_memory<T>(
        &self,
        cx: &mut LowerContext<'_, T>,
        ty: InterfaceType,
        at: usize,
    ) -> wasmtime::Result<()> {
        self.play(cx, |lowerer| lowerer.memory(ty, at))
    }
}

impl<const FLAT: usize> Given<FLAT> {
    fn play<'b, T>(
        &self,
        cx: &mut LowerContext<'b, T>,
        values: impl FnOnce(&mut Lowerer<'_, 'b, '_, T>) -> wasmtime::Result<()>,
    ) -> wasmtime::Result<()> {
        let types = cx.types;
        let mut lowerer = Lowerer { cx, types, tape: Player(self.0.as_bytes()) };
        values(&mut lowerer)?;
        lowerer.tape.finish()
    }
}

// === impl Lowerer ===

impl<T> Lowerer<'_, '_, '_, T> {
    /// Plays a value that goes as core WebAssembly's own values.
    fn flat(&mut self, ty: InterfaceType, dst: &mut IterMut<'_, ValRaw>) -> wasmtime::Result<()> {
        let value = match ty {
            InterfaceType::Bool | InterfaceType::U8 => ValRaw::u32(u8::from_le_bytes(self.tape.array()?).into()),
            InterfaceType::S8 => ValRaw::i32(i8::from_le_bytes(self.tape.array()?).into()),
            InterfaceType::U16 => ValRaw::u32(u16::from_le_bytes(self.tape.array()?).into()),
            InterfaceType::S16 => ValRaw::i32(i16::from_le_bytes(self.tape.array()?).into()),
            InterfaceType::U32 | InterfaceType::S32 | InterfaceType::Float32 | InterfaceType::Char => {
                ValRaw::u32(u32::from_le_bytes(self.tape.array()?))
            }
            InterfaceType::U64 | InterfaceType::S64 | InterfaceType::Float64 => {
                ValRaw::u64(u64::from_le_bytes(self.tape.array()?))
            }
            InterfaceType::String | InterfaceType::List(_) => {
                let (at, len) = self.elsewhere(ty)?;
                *next(dst)? = ValRaw::u64(at as u64);
                ValRaw::u64(len as u64)
            }
            InterfaceType::Flags(_) => ValRaw::u32(self.tape.mark()?),
            InterfaceType::Variant(_)
            | InterfaceType::Enum(_)
            | InterfaceType::Option(_)
            | InterfaceType::Result(_) => {
                let place = self.tape.mark()?;
                let (_, payload) = case(self.types, ty, place)?;
                *next(dst)? = ValRaw::u32(place);
                let mut left = self.flat_count(ty)? - 1;
                if let Some(payload) = payload {
                    self.flat(payload, dst)?;
                    left -= self.flat_count(payload)?;
                }
                for _ in 0..left {
                    *next(dst)? = ValRaw::u64(0);
                }
                return Ok(());
            }
            _ => return each_field(self.types, ty, |ty, _| self.flat(ty, dst)),
        };
        *next(dst)? = value;
        Ok(())
    }

    fn flat_count(&self, ty: InterfaceType) -> wasmtime::Result<usize> {
        // What has more flat values is never passed flat.
        self.types.canonical_abi(&ty).flat_count(MOST_FLAT).ok_or_else(mismatch)
    }

    /// Plays a value to a place in the guest's memory.
    fn memory(&mut self, ty: InterfaceType, at: usize) -> wasmtime::Result<()> {
        match ty {
            InterfaceType::Bool | InterfaceType::Char => self.number(ty, at),
            number if is_number(number) => self.number(ty, at),
            InterfaceType::String | InterfaceType::List(_) => {
                let (begin, len) = self.elsewhere(ty)?;
                self.write(at, &u32::try_from(begin)?.to_le_bytes())?;
                self.write(at + 4, &u32::try_from(len)?.to_le_bytes())
            }
            InterfaceType::Flags(i) => {
                let bits = self.tape.mark()?.to_le_bytes();
                self.write(at, bits.get(..self.types[i].abi.size32 as usize).ok_or_else(mismatch)?)
            }
            InterfaceType::Variant(_)
            | InterfaceType::Enum(_)
            | InterfaceType::Option(_)
            | InterfaceType::Result(_) => {
                let place = self.tape.mark()?;
                let (info, payload) = case(self.types, ty, place)?;
                self.write(at, &place.to_le_bytes()[..u32::from(info.size) as usize])?;
                match payload {
                    Some(payload) => self.memory(payload, at + info.payload_offset32 as usize),
                    None => Ok(()),
                }
            }
            _ => {
                let mut end = 0;
                each_field(self.types, ty, |ty, abi| self.memory(ty, at + abi.next_field32_size(&mut end)))
            }
        }
    }

    fn number(&mut self, ty: InterfaceType, at: usize) -> wasmtime::Result<()> {
        let bytes = self.tape.take(self.types.canonical_abi(&ty).size32 as usize)?;
        self.write(at, bytes)
    }

    /// Plays a string or a list to a place that the guest gives for it. Says where that is and how long.
    fn elsewhere(&mut self, ty: InterfaceType) -> wasmtime::Result<(usize, usize)> {
        match ty {
            InterfaceType::List(i) => self.list(self.types[i].element),
            _ => self.string(),
        }
    }

    fn list(&mut self, element: InterfaceType) -> wasmtime::Result<(usize, usize)> {
        let abi = self.types.canonical_abi(&element);
        let len = self.tape.mark()? as usize;
        let size = abi.size32 as usize;
        let all = len.checked_mul(size).ok_or_else(mismatch)?;
        let at = self.cx.realloc(0, 0, abi.align32, all)?;
        if is_number(element) {
            let bytes = self.tape.take(all)?;
            self.write(at, bytes)?;
        } else {
            (0..len).try_for_each(|n| self.memory(element, at + n * size))?;
        }
        Ok((at, len))
    }

    fn string(&mut self) -> wasmtime::Result<(usize, usize)> {
        let text = self.tape.string()?;
        if self.cx.options().string_encoding == StringEncoding::Utf8 {
            let at = self.cx.realloc(0, 0, 1, text.len())?;
            self.write(at, text.as_bytes())?;
            return Ok((at, text.len()));
        }
        let mut flat = MaybeUninit::new([ValRaw::u64(0); 2]);
        text.linear_lower_to_flat(self.cx, InterfaceType::String, &mut flat)?;
        // SAFETY: it was made with a value, and is only written to.
        let [at, len] = unsafe { flat.assume_init() };
        Ok((at.get_u32() as usize, len.get_u32() as usize))
    }

    fn write(&mut self, at: usize, bytes: &[u8]) -> wasmtime::Result<()> {
        let to = self.cx.as_slice_mut().get_mut(at..).and_then(|rest| rest.get_mut(..bytes.len()));
        to.ok_or_else(mismatch)?.copy_from_slice(bytes);
        Ok(())
    }
}

fn next<'a>(dst: &mut IterMut<'a, ValRaw>) -> wasmtime::Result<&'a mut ValRaw> {
    dst.next().ok_or_else(mismatch)
}
