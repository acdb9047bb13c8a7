//! That requests really leave by the functions above: they replace wasmtime's by their names, and a name that wasmtime
//! gives to something else in its next version would leave the caller's deadline and trace behind without a word.

use super::{CLIENT, OUTGOING_HANDLER};
use crate::service::State;
use std::sync::LazyLock;
use wasmtime::component::{Component, Linker};

static ENGINE: LazyLock<wasmtime::Engine> = LazyLock::new(|| {
    let mut config = wasmtime::Config::new();
    config.wasm_component_model_async(true);
    wasmtime::Engine::new(&config).unwrap()
});

/// What wasmtime itself links.
fn wasmtimes_own() -> Linker<State> {
    let mut linker = Linker::new(&ENGINE);
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker).unwrap();
    wasmtime_wasi_http::p3::add_to_linker(&mut linker).unwrap();
    linker
}

#[test]
fn the_names_are_those_that_wasmtime_uses() {
    for (interface, function) in [(CLIENT, "send"), (OUTGOING_HANDLER, "handle")] {
        let mut linker = wasmtimes_own();
        let again = linker.instance(interface).unwrap().func_new(function, |_, _, _, _| Ok(()));
        assert!(
            again.is_err(),
            "wasmtime does not link `{function}` of `{interface}`, so nothing replaces what it links instead: look up the \
             version in wasmtime-wasi-http's WIT, and change the constants in outbound.rs"
        );
    }
}

/// A component gets the newest definition that is compatible with the version it was compiled against. It must be ours.
#[test]
fn components_of_all_versions_get_what_is_put_in_its_place() {
    let mut linker = wasmtimes_own();
    linker.allow_shadowing(true);
    // Of another type than wasmtime's, so that the two can be told apart.
    linker.instance(CLIENT).unwrap().func_wrap("send", |_, ()| Ok((7_u32,))).unwrap();
    linker.instance(OUTGOING_HANDLER).unwrap().func_wrap("handle", |_, ()| Ok((7_u32,))).unwrap();
    let old = (0..=20).map(|patch| (format!("wasi:http/outgoing-handler@0.2.{patch}"), "handle"));
    let new = (0..=5).map(|patch| (format!("wasi:http/client@0.3.{patch}"), "send"));
    for (interface, function) in old.chain(new) {
        let text =
            format!(r#"(component (import "{interface}" (instance (export "{function}" (func (result u32))))))"#);
        let component = Component::new(&ENGINE, wat::parse_str(text).unwrap()).unwrap();
        if let Err(error) = linker.instantiate_pre(&component) {
            panic!("a component that imports `{interface}` gets wasmtime's `{function}` and not ours: {error:?}");
        }
    }
}
