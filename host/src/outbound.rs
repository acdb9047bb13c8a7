//! HTTP requests that services make: to each other without leaving the process, and to the origins outside that the
//! manifest allows. Everything else is denied.

mod external;
mod hooks;

pub use external::{External, HttpClient};
pub use hooks::{Hooks, Outbound};

use crate::service::{State, current_call};
use wasmtime::{
    AsContextMut,
    component::{Accessor, Linker, Resource},
};
use wasmtime_wasi_http::{
    WasiHttp, WasiHttpView,
    p3::{self, bindings::http::client::HostWithStore},
};

/// Replaces `send` of `wasi:http/client@0.3.0` by one that first notes on behalf of which call the request is made.
///
/// wasmtime's hook for outgoing requests sees no store, so it can't tell one of several concurrent calls from another.
/// The 0.2 way needs nothing of the kind: there an instance runs one call at a time.
///
/// # Errors
///
/// When the linker does not know the interface.
pub fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    linker.instance("wasi:http/client@0.3.0")?.func_wrap_concurrent(
        "send",
        |accessor: &Accessor<State>, (request,): (Resource<p3::Request>,)| {
            Box::pin(async move {
                // NB: wasmtime's `send` calls the hook before it first waits, so no other call comes in between.
                accessor.with(|mut access| {
                    let context = current_call(access.as_context_mut());
                    access.data_mut().set_http_caller(context);
                });
                let accessor = &accessor.with_getter::<WasiHttp>(State::http);
                match <WasiHttp as HostWithStore<State>>::send(accessor, request).await {
                    Ok(response) => Ok((Ok(response),)),
                    Err(error) => error.downcast().map(|code| (Err(code),)),
                }
            })
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}
