//! Typed links: what one component imports and another exports, joined without host code for the interface.
//!
//! For each function of such an import the linker gets a host function that takes any parameters as dynamic values,
//! sends them over the caller's edge, and gives back what comes. Neither side knows where the other runs.
//!
//! A platform fault has a place in the result where the function's error type is a variant with the case
//! `fault(fault)` (see `wharf:platform/faults`): then the caller gets it as a value. Else it fails the caller's own call.

use super::{
    CallContext,
    edge::Edge,
    exports::FunctionKey,
    state::{State, current_call},
};
use crate::policy::{Fault, FaultKind};
use std::sync::Arc;
use tokio::time::{Duration, sleep};
use wasmtime::component::{
    LinkerInstance, Val,
    types::{ComponentFunc, Type},
};

/// How long a guest whose time is over may hold its store, so that the one who waits for it can be the first to go.
const GRACE: Duration = Duration::from_millis(10);

/// Whether a function's result has a place for a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FaultPlace {
    /// `result<_, variant { fault(fault), … }>`
    ErrorCase,
    Nowhere,
}

/// Offers `key` in `linker` as a call over `edge`.
pub(super) fn define(
    linker: &mut LinkerInstance<'_, State>,
    key: FunctionKey,
    ty: &ComponentFunc,
    edge: Arc<Edge>,
) -> wasmtime::Result<()> {
    let place = FaultPlace::of(ty);
    let key = Arc::new(key);
    let name = key.function.clone();
    if ty.async_() {
        linker.func_new_concurrent(&name, move |accessor, _, params, results| {
            let (edge, key) = (edge.clone(), key.clone());
            Box::pin(async move {
                let context = accessor.with(|mut access| {
                    use wasmtime::AsContextMut;
                    current_call(access.as_context_mut())
                });
                let answer = edge.function(&context, &key, params.into()).await;
                if place == FaultPlace::Nowhere && is_too_late(&answer, &context) {
                    return std::future::pending().await;
                }
                settle(answer, place, &key, &edge, results)
            })
        })
    } else {
        linker.func_new_async(&name, move |store, _, params, results| {
            let (edge, key) = (edge.clone(), key.clone());
            let context = current_call(store);
            Box::new(async move {
                let answer = edge.function(&context, &key, params.into()).await;
                if place == FaultPlace::Nowhere && is_too_late(&answer, &context) {
                    // Others in this instance can't go on while a synchronous import holds the store.
                    sleep(GRACE).await;
                }
                settle(answer, place, &key, &edge, results)
            })
        })
    }
}

/// Whether the time of the caller's own call is over. Whoever made that call drops it in this very moment, and the
/// instance goes once nobody else waits for it; a trap would take the calls of all others along.
fn is_too_late(answer: &Result<Vec<Val>, Fault>, context: &CallContext) -> bool {
    let late = answer.as_ref().is_err_and(|fault| fault.kind() == FaultKind::DeadlineExceeded);
    late && context.remaining().is_zero()
}

fn settle(
    answer: Result<Vec<Val>, Fault>,
    place: FaultPlace,
    key: &FunctionKey,
    edge: &Edge,
    results: &mut [Val],
) -> wasmtime::Result<()> {
    match (answer, place) {
        (Ok(values), _) => {
            results.iter_mut().zip(values).for_each(|(to, value)| *to = value);
            Ok(())
        }
        (Err(fault), FaultPlace::ErrorCase) => {
            let case = Val::Variant("fault".into(), Some(Box::new(fault_value(&fault))));
            results[0] = Val::Result(Err(Some(Box::new(case))));
            Ok(())
        }
        (Err(fault), FaultPlace::Nowhere) => Err(wasmtime::format_err!(
            "`{}` of `{}` failed on `{}`, and its result has no case `fault(fault)` to say so: {fault}",
            key.function,
            key.interface,
            edge.name()
        )),
    }
}

fn fault_value(fault: &Fault) -> Val {
    let after = fault.retry_after().map(|after| Box::new(Val::U64(after.as_millis().try_into().unwrap_or(u64::MAX))));
    Val::Record(vec![
        ("kind".into(), Val::Enum(fault.kind().as_str().into())),
        ("message".into(), Val::String(fault.message().into())),
        ("retry-after-ms".into(), Val::Option(after)),
    ])
}

// === impl FaultPlace ===

impl FaultPlace {
    fn of(ty: &ComponentFunc) -> Self {
        let mut results = ty.results();
        let (Some(Type::Result(result)), None) = (results.next(), results.next()) else { return Self::Nowhere };
        let Some(Type::Variant(error)) = result.err() else { return Self::Nowhere };
        let case = error.cases().find(|case| case.name == "fault").and_then(|case| case.ty);
        match case {
            Some(Type::Record(record)) if is_fault(&record) => Self::ErrorCase,
            _ => Self::Nowhere,
        }
    }
}

fn is_fault(record: &wasmtime::component::types::Record) -> bool {
    let fields: Vec<_> = record.fields().collect();
    let [kind, message, after] = fields.as_slice() else { return false };
    let kinds = match &kind.ty {
        Type::Enum(kinds) => kinds.names().eq(FaultKind::ALL.iter().map(|kind| kind.as_str())),
        _ => false,
    };
    kinds
        && kind.name == "kind"
        && (message.name, &message.ty) == ("message", &Type::String)
        && after.name == "retry-after-ms"
        && matches!(&after.ty, Type::Option(ty) if ty.ty() == Type::U64)
}

/// Why a type can't travel between two stores, if so: what it is, in WIT's words.
pub(super) fn untransferable(ty: &Type) -> Option<&'static str> {
    match ty {
        Type::Own(_) | Type::Borrow(_) => Some("a resource"),
        Type::Future(_) => Some("a future"),
        Type::Stream(_) => Some("a stream"),
        Type::ErrorContext => Some("an error-context"),
        Type::List(list) => untransferable(&list.ty()),
        Type::FixedLengthList(list) => untransferable(&list.ty()),
        Type::Map(map) => untransferable(&map.key()).or_else(|| untransferable(&map.value())),
        Type::Record(record) => record.fields().find_map(|field| untransferable(&field.ty)),
        Type::Tuple(tuple) => tuple.types().find_map(|ty| untransferable(&ty)),
        Type::Variant(variant) => variant.cases().find_map(|case| untransferable(&case.ty?)),
        Type::Option(option) => untransferable(&option.ty()),
        Type::Result(result) => {
            result.ok().and_then(|ty| untransferable(&ty)).or_else(|| result.err().and_then(|ty| untransferable(&ty)))
        }
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
        | Type::String
        | Type::Enum(_)
        | Type::Flags(_) => None,
    }
}
