//! Typed links: what one component imports and another exports, joined without host code for the interface.
//!
//! For each function of such an import the linker gets a host function that takes the parameters as a [`Tape`], sends it
//! over the caller's edge, and gives back what comes. Neither side knows where the other runs.
//!
//! A platform fault has a place in the result where the function's error type is a variant with the case
//! `fault(fault)` (see `wharf:platform/faults`): then the caller gets it as a value. Else it fails the caller's own call.

use super::{
    CallContext,
    edge::Edge,
    exports::FunctionKey,
    state::{State, current_call},
    tape::{Given, NotCarried, Recorder, Sent, Tape, UnderWay, by_flat_count, flat_count},
};
use crate::policy::{Fault, FaultKind};
use std::sync::Arc;
use tokio::time::{Duration, sleep};
use wasmtime::{
    AsContextMut, StoreContextMut,
    component::{
        Accessor, LinkerInstance,
        types::{ComponentFunc, Type},
    },
};

/// How long a guest whose time is over may hold its store, so that the one who waits for it can be the first to go.
const GRACE: Duration = Duration::from_millis(10);

/// Whether a function's result has a place for a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FaultPlace {
    /// `result<_, variant { fault(fault), … }>`, with the place of that case among the others.
    ErrorCase(u32),
    Nowhere,
}

/// One function, from the side that calls it.
struct Link {
    key: Arc<FunctionKey>,
    edge: Arc<Edge>,
    place: FaultPlace,
}

/// Offers `key` in `linker` as a call over `edge`.
pub(super) fn define(
    linker: &mut LinkerInstance<'_, State>,
    key: FunctionKey,
    ty: &ComponentFunc,
    edge: Arc<Edge>,
) -> wasmtime::Result<()> {
    let link = Arc::new(Link { key: Arc::new(key), edge, place: FaultPlace::of(ty) });
    // NB: the same for async imports. A component may also wait for them by blocking, and then passes as many values flat.
    // Results come flat only where they are one value.
    let (params, results) = (flat_count(ty.params().map(|(_, ty)| ty)), flat_count(ty.results()).min(1));
    by_flat_count!(params, PARAMS => match (ty.async_(), results) {
        (true, 0) => define_async::<PARAMS, 0>(linker, link),
        (true, _) => define_async::<PARAMS, 1>(linker, link),
        (false, 0) => define_sync::<PARAMS, 0>(linker, link),
        (false, _) => define_sync::<PARAMS, 1>(linker, link),
    })
}

fn define_async<const PARAMS: usize, const RESULTS: usize>(
    linker: &mut LinkerInstance<'_, State>,
    link: Arc<Link>,
) -> wasmtime::Result<()> {
    let name = link.key.function.clone();
    linker.func_wrap_concurrent(&name, move |accessor: &Accessor<State>, Sent(params): Sent<PARAMS>| {
        let link = link.clone();
        Box::pin(async move {
            let (context, under_way) = accessor
                .with(|mut access| (current_call(access.as_context_mut()), access.data_mut().under_way.clone()));
            let answer = link.call(&context, params, &under_way).await;
            if link.place == FaultPlace::Nowhere && is_too_late(&answer, &context) {
                return std::future::pending().await;
            }
            link.settle(answer).map(Given::<RESULTS>)
        })
    })
}

fn define_sync<const PARAMS: usize, const RESULTS: usize>(
    linker: &mut LinkerInstance<'_, State>,
    link: Arc<Link>,
) -> wasmtime::Result<()> {
    let name = link.key.function.clone();
    linker.func_wrap_async(&name, move |mut store: StoreContextMut<'_, State>, Sent(params): Sent<PARAMS>| {
        let link = link.clone();
        let context = current_call(store.as_context_mut());
        let under_way = store.data().under_way.clone();
        Box::new(async move {
            let answer = link.call(&context, params, &under_way).await;
            if link.place == FaultPlace::Nowhere && is_too_late(&answer, &context) {
                // Others in this instance can't go on while a synchronous import holds the store.
                sleep(GRACE).await;
            }
            link.settle(answer).map(Given::<RESULTS>)
        })
    })
}

/// Whether the time of the caller's own call is over. Whoever made that call drops it in this very moment, and the
/// instance goes once nobody else waits for it; a trap would take the calls of all others along.
fn is_too_late(answer: &Result<Tape, Fault>, context: &CallContext) -> bool {
    let late = answer.as_ref().is_err_and(|fault| fault.kind() == FaultKind::DeadlineExceeded);
    late && context.remaining().is_zero()
}

// === impl Link ===

impl Link {
    async fn call(
        &self,
        context: &CallContext,
        params: Result<Tape, NotCarried>,
        under_way: &UnderWay,
    ) -> Result<Tape, Fault> {
        match params.and_then(|params| under_way.count(params)) {
            Ok(params) => self.edge.function(context, &self.key, params).await,
            Err(reason) => {
                let kind = match reason {
                    NotCarried::TooLarge => FaultKind::Denied,
                    NotCarried::TooMuchUnderWay => FaultKind::Overloaded,
                };
                let FunctionKey { interface, function, .. } = &*self.key;
                Err(Fault::new(kind, format!("`{function}` of `{interface}` was called with {reason}")))
            }
        }
    }

    fn settle(&self, answer: Result<Tape, Fault>) -> wasmtime::Result<Tape> {
        match (answer, self.place) {
            (Ok(results), _) => Ok(results),
            (Err(fault), FaultPlace::ErrorCase(case)) => Ok(fault_results(case, &fault)?),
            (Err(fault), FaultPlace::Nowhere) => Err(wasmtime::format_err!(
                "`{}` of `{}` failed on `{}`, and its result has no case `fault(fault)` to say so: {fault}",
                self.key.function,
                self.key.interface,
                self.edge.name()
            )),
        }
    }
}

/// `err(fault({ kind, message, retry-after-ms }))`, as [`is_fault`] has made sure it may be.
fn fault_results(case: u32, fault: &Fault) -> Result<Tape, NotCarried> {
    let mut tape = Recorder::default();
    tape.mark(1);
    tape.mark(case);
    let kind = FaultKind::ALL.iter().position(|kind| *kind == fault.kind());
    tape.mark(kind.and_then(|at| at.try_into().ok()).unwrap_or_default());
    tape.string(fault.message())?;
    match fault.retry_after() {
        Some(after) => {
            tape.mark(1);
            tape.u64(after.as_millis().try_into().unwrap_or(u64::MAX))?;
        }
        None => tape.mark(0),
    }
    Ok(tape.finish())
}

// === impl FaultPlace ===

impl FaultPlace {
    fn of(ty: &ComponentFunc) -> Self {
        let mut results = ty.results();
        let (Some(Type::Result(result)), None) = (results.next(), results.next()) else { return Self::Nowhere };
        let Some(Type::Variant(error)) = result.err() else { return Self::Nowhere };
        let found = error.cases().enumerate().find(|(_, case)| case.name == "fault");
        match found.map(|(at, case)| (u32::try_from(at), case.ty)) {
            Some((Ok(at), Some(Type::Record(record)))) if is_fault(&record) => Self::ErrorCase(at),
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
        // The engine does not take these yet.
        Type::FixedLengthList(_) => Some("a list of fixed length"),
        Type::Map(_) => Some("a map"),
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
