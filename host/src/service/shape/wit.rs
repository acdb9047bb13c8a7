//! Types and functions in the words of WIT.

use std::fmt;
use wasmtime::component::types::{ComponentFunc, Type};

/// A function's type as WIT would write it, with records and variants written out.
pub(in crate::service) struct Signature<'a>(pub &'a ComponentFunc);

// === impl Signature ===

impl Signature<'_> {
    /// The types of its parameters and results, without whether it is async: that is each side's own business.
    pub fn types(&self) -> String {
        let params = self.0.params().map(|(name, ty)| format!("{name}: {}", wit(&ty)));
        let results = self.0.results().map(|ty| format!(" -> {}", wit(&ty)));
        format!("({}){}", params.collect::<Vec<_>>().join(", "), results.collect::<String>())
    }
}

impl fmt::Display for Signature<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.0.async_() { "async func" } else { "func" }, self.types())
    }
}

/// A type as WIT would write it, with records and variants written out.
pub(in crate::service) fn wit(ty: &Type) -> String {
    let all = |items: Vec<String>| items.join(", ");
    match ty {
        Type::Bool => "bool".into(),
        Type::S8 => "s8".into(),
        Type::U8 => "u8".into(),
        Type::S16 => "s16".into(),
        Type::U16 => "u16".into(),
        Type::S32 => "s32".into(),
        Type::U32 => "u32".into(),
        Type::S64 => "s64".into(),
        Type::U64 => "u64".into(),
        Type::Float32 => "f32".into(),
        Type::Float64 => "f64".into(),
        Type::Char => "char".into(),
        Type::String => "string".into(),
        Type::List(list) => format!("list<{}>", wit(&list.ty())),
        Type::FixedLengthList(list) => format!("list<{}, {}>", wit(&list.ty()), list.len()),
        Type::Map(map) => format!("map<{}, {}>", wit(&map.key()), wit(&map.value())),
        Type::Record(record) => {
            let fields = record.fields().map(|field| format!("{}: {}", field.name, wit(&field.ty))).collect();
            format!("record {{ {} }}", all(fields))
        }
        Type::Tuple(tuple) => format!("tuple<{}>", all(tuple.types().map(|ty| wit(&ty)).collect())),
        Type::Variant(variant) => {
            let case = |case: wasmtime::component::types::Case<'_>| match case.ty {
                Some(ty) => format!("{}({})", case.name, wit(&ty)),
                None => case.name.to_string(),
            };
            format!("variant {{ {} }}", all(variant.cases().map(case).collect()))
        }
        Type::Enum(names) => format!("enum {{ {} }}", all(names.names().map(Into::into).collect())),
        Type::Flags(names) => format!("flags {{ {} }}", all(names.names().map(Into::into).collect())),
        Type::Option(option) => format!("option<{}>", wit(&option.ty())),
        Type::Result(result) => match (result.ok(), result.err()) {
            (Some(ok), Some(err)) => format!("result<{}, {}>", wit(&ok), wit(&err)),
            (Some(ok), None) => format!("result<{}>", wit(&ok)),
            (None, Some(err)) => format!("result<_, {}>", wit(&err)),
            (None, None) => "result".into(),
        },
        Type::Own(_) | Type::Borrow(_) => "resource".into(),
        Type::Future(_) => "future".into(),
        Type::Stream(_) => "stream".into(),
        Type::ErrorContext => "error-context".into(),
    }
}
