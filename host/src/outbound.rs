//! HTTP requests that services make: to each other without leaving the process, and to the origins outside that the
//! manifest allows. Everything else is denied.

mod address;
mod authorities;
mod client;
mod dns;
mod external;
mod health;
mod hooks;
mod target;
mod validity;

pub use authorities::{Authorities, AuthoritiesError};
pub use client::HttpClient;
pub use external::{Addresses, External, ExternalChange, ExternalSettings, ExternalSnapshot};
pub use hooks::{Hooks, Outbound};

use crate::service::{State, current_call};
use wasmtime::{
    AsContextMut,
    component::{Accessor, Linker, Resource},
};
use wasmtime_wasi_http::{
    WasiHttp, WasiHttpView,
    p2::{
        bindings::http::{outgoing_handler::Host, types::RequestOptions},
        types::HostOutgoingRequest,
    },
    p3::{self, bindings::http::client::HostWithStore},
};

/// The interfaces that requests leave by, under the names that wasmtime gives them in a linker.
const CLIENT: &str = "wasi:http/client@0.3.0";
const OUTGOING_HANDLER: &str = "wasi:http/outgoing-handler@0.2.12";

/// Replaces `send` of `wasi:http/client` and `handle` of `wasi:http/outgoing-handler` by ones that first note on behalf of
/// which call the request is made.
///
/// wasmtime's hook for outgoing requests sees no store, so it can't tell one of several calls from another.
///
/// # Errors
///
/// When the linker takes no more definitions.
pub fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    linker.instance(CLIENT)?.func_wrap_concurrent(
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
    linker.instance(OUTGOING_HANDLER)?.func_wrap("handle", |mut store, (request, options): Outgoing| {
        let context = current_call(store.as_context_mut());
        let state = store.data_mut();
        state.set_http_caller(context);
        match state.http().handle(request, options) {
            Ok(response) => Ok((Ok(response),)),
            Err(error) => error.downcast().map(|code| (Err(code),)),
        }
    })?;
    linker.allow_shadowing(false);
    Ok(())
}

type Outgoing = (Resource<HostOutgoingRequest>, Option<Resource<RequestOptions>>);

#[cfg(test)]
mod tests;
