//! The far end of a typed link: calls a function that a component exports.

use super::{
    CallContext,
    state::State,
    tape::{Given, MOST_FLAT, NotCarried, Sent, Tape, by_flat_count, flat_count},
};
use futures::future::BoxFuture;
use wasmtime::{
    AsContextMut,
    component::{Accessor, Func, types::ComponentFunc},
};

/// How a function of some type is called.
#[derive(Clone, Copy)]
pub(super) struct Callee(Run);

type Run = for<'a> fn(&'a Accessor<State>, Func, CallContext, Tape) -> BoxFuture<'a, wasmtime::Result<Results>>;

type Results = Result<Tape, NotCarried>;

// === impl Callee ===

impl Callee {
    /// How a function of this type is called.
    pub fn of(ty: &ComponentFunc) -> Self {
        Self(by_flat_count!(flat_count(ty.results()), FLAT => run::<FLAT>))
    }

    /// Calls `function`, which must be of that type. An error is the end of the whole store.
    pub async fn call(
        self,
        accessor: &Accessor<State>,
        function: Func,
        context: CallContext,
        params: Tape,
    ) -> wasmtime::Result<Results> {
        (self.0)(accessor, function, context, params).await
    }
}

fn run<const FLAT: usize>(
    accessor: &Accessor<State>,
    function: Func,
    context: CallContext,
    params: Tape,
) -> BoxFuture<'_, wasmtime::Result<Results>> {
    Box::pin(async move {
        let (function, call, task) = accessor.with(|mut access| {
            let mut store = access.as_context_mut();
            let function = function.typed::<Given<MOST_FLAT>, Sent<FLAT>>(&store)?;
            let call = function.start_call_concurrent(&mut store, Given(params))?;
            let task = call.task();
            store.data_mut().calls.insert(task, context);
            wasmtime::error::Ok((function, call, task))
        })?;
        let ended = function.finish_call_concurrent(accessor, call).await;
        let under_way = accessor.with(|mut access| {
            access.data_mut().calls.remove(task);
            access.data_mut().under_way.clone()
        });
        ended.map(|Sent(results)| results.and_then(|results| under_way.count(results)))
    })
}
