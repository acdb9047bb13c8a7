//! What recording and playing must know of types.

use wasmtime::component::{
    __internal::{CanonicalAbiInfo, ComponentTypes, InterfaceType, wasmtime_environ::component::VariantInfo},
    types::Type,
};

/// Up to how many flat values are passed as such; more lie in the guest's memory.
pub const MOST_FLAT: usize = 16;

/// In place of a count of flat values: they lie in the guest's memory.
pub const BY_MEMORY: usize = MOST_FLAT + 1;

/// How many flat values (core WebAssembly's own) types come to, or [`BY_MEMORY`].
pub fn flat_count(types: impl IntoIterator<Item = Type>) -> usize {
    types.into_iter().fold(0, |sum, ty| BY_MEMORY.min(sum + flat_count_of(&ty)))
}

fn flat_count_of(ty: &Type) -> usize {
    let most = |cases: &mut dyn Iterator<Item = Option<Type>>| {
        1 + cases.map(|case| case.map_or(0, |ty| flat_count_of(&ty))).max().unwrap_or(0)
    };
    let count = match ty {
        Type::String | Type::List(_) => 2,
        Type::Record(record) => flat_count(record.fields().map(|field| field.ty)),
        Type::Tuple(tuple) => flat_count(tuple.types()),
        Type::Variant(variant) => most(&mut variant.cases().map(|case| case.ty)),
        Type::Option(option) => most(&mut [None, Some(option.ty())].into_iter()),
        Type::Result(result) => most(&mut [result.ok(), result.err()].into_iter()),
        Type::Bool
        | Type::S8
        | Type::U8
        | Type::S16
        | Type::U16
        | Type::S32
        | Type::U32
        | Type::S64
        | Type::U64
        | Type::Float32
        | Type::Float64
        | Type::Char
        | Type::Enum(_)
        | Type::Flags(_)
        // What follows does not pass from one service to another, see `link::untransferable`.
        | Type::Own(_)
        | Type::Borrow(_)
        | Type::Future(_)
        | Type::Stream(_)
        | Type::ErrorContext
        | Type::Map(_)
        | Type::FixedLengthList(_) => 1,
    };
    count.min(BY_MEMORY)
}

/// The layout of a type with cases (a variant, an enum, an option or a result) and what is in the one at `place`.
pub fn case(
    types: &ComponentTypes,
    ty: InterfaceType,
    place: u32,
) -> wasmtime::Result<(&VariantInfo, Option<InterfaceType>)> {
    let at = place as usize;
    let (info, payload) = match ty {
        InterfaceType::Variant(i) => (&types[i].info, types[i].cases.get_index(at).map(|(_, payload)| *payload)),
        InterfaceType::Enum(i) => (&types[i].info, (at < types[i].names.len()).then_some(None)),
        InterfaceType::Option(i) => (&types[i].info, [None, Some(types[i].ty)].get(at).copied()),
        InterfaceType::Result(i) => (&types[i].info, [types[i].ok, types[i].err].get(at).copied()),
        _ => return Err(untransferable()),
    };
    match payload {
        Some(payload) => Ok((info, payload)),
        None => Err(wasmtime::format_err!("discriminant {place} is out of range")),
    }
}

/// Whether a list of them lies on a tape as it lies in memory: all bytes are valid, and there is no padding.
pub fn is_number(ty: InterfaceType) -> bool {
    matches!(
        ty,
        InterfaceType::U8
            | InterfaceType::S8
            | InterfaceType::U16
            | InterfaceType::S16
            | InterfaceType::U32
            | InterfaceType::S32
            | InterfaceType::U64
            | InterfaceType::S64
            | InterfaceType::Float32
            | InterfaceType::Float64
    )
}

/// Goes through the fields of a record or tuple.
pub fn each_field(
    types: &ComponentTypes,
    ty: InterfaceType,
    mut step: impl FnMut(InterfaceType, &CanonicalAbiInfo) -> wasmtime::Result<()>,
) -> wasmtime::Result<()> {
    let mut step = |ty| step(ty, types.canonical_abi(&ty));
    match ty {
        InterfaceType::Record(i) => types[i].fields.iter().try_for_each(|field| step(field.ty)),
        InterfaceType::Tuple(i) => types[i].types.iter().try_for_each(|ty| step(*ty)),
        _ => Err(untransferable()),
    }
}

/// Never seen: such types are refused when a component is loaded, see `link::untransferable`.
#[cold]
fn untransferable() -> wasmtime::Error {
    wasmtime::format_err!("a value of this type can't pass from one service to another")
}
