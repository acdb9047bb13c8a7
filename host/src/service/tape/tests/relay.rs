//! A component that hands a value of any type on, and hosts at both of its ends.

use crate::service::tape::{Given, MOST_FLAT, NotCarried, Sent, Tape, flat_count};
use std::sync::{Arc, LazyLock, Mutex};
use wasmtime::{
    AsContextMut, Config, Engine, Store, StoreContextMut,
    component::{
        Accessor, Component, Func, Instance, Linker, Val,
        types::{ComponentFunc, ComponentItem, Type},
    },
};

static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    let mut config = Config::new();
    config.wasm_component_model_async(true);
    Engine::new(&config).unwrap()
});

/// How a type travels: its definition, and core WebAssembly's types for a parameter of it.
#[derive(Clone, Copy)]
pub struct Kind {
    /// `(type $t …)` and whatever comes before it.
    pub definition: &'static str,
    /// The flat types, or those of a pointer where there are too many.
    pub flat: &'static str,
    /// Whether a result of it is one flat value.
    pub returned_flat: bool,
    pub encoding: &'static str,
}

/// A component with `g: func(p: t) -> t`, which calls the `f` that it imports. Where both are `async`, it waits for `f` by
/// blocking.
fn relay(kind: Kind, sync: &str) -> Component {
    let Kind { definition, flat, returned_flat, encoding } = kind;
    let count = flat.split_whitespace().count();
    let params: String = (0..count).map(|at| format!("(local.get {at}) ")).collect();
    let (imported, exported, call) = if returned_flat {
        let signature = format!("(param {flat}) (result {flat})");
        (signature.clone(), signature, format!("(call $f {params})"))
    } else {
        let import = format!("(param {flat} i32)");
        (import, format!("(param {flat}) (result i32)"), format!("(call $f {params} (i32.const 16)) (i32.const 16)"))
    };
    compile(&format!(
        r#"(component
          {definition}
          (import "f" (func $f {sync} (param "p" $t) (result $t)))
          {ROOM}
          (core func $f (canon lower (func $f)
            (memory (core memory $room "memory")) (realloc (core func $room "realloc")) string-encoding={encoding}))
          (core module $m
            (import "" "f" (func $f {imported}))
            (func (export "g") {exported} {call}))
          (core instance $i (instantiate $m (with "" (instance (export "f" (func $f))))))
          (func (export "g") {sync} (param "p" $t) (result $t)
            (canon lift (core func $i "g")
              (memory (core memory $room "memory")) (realloc (core func $room "realloc")) string-encoding={encoding})))"#
    ))
}

/// A memory from which room is given and never taken back.
pub const ROOM: &str = r#"
  (core module $room
    (memory (export "memory") 1000)
    (global $next (mut i32) (i32.const 4096))
    (func (export "realloc") (param $old i32) (param $size i32) (param i32) (param $new i32) (result i32) (local $at i32)
      (if (i32.ge_u (local.get $size) (local.get $new)) (then
        (if (local.get $old) (then (return (local.get $old))))))
      (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
      (global.set $next (i32.add (local.get $at) (local.get $new)))
      (memory.copy (local.get $at) (local.get $old) (local.get $size))
      (local.get $at)))
  (core instance $room (instantiate $room))"#;

pub fn compile(wat: &str) -> Component {
    let wasm = wat::parse_str(wat).unwrap_or_else(|error| panic!("{error}\n{wat}"));
    Component::new(&ENGINE, wasm).unwrap_or_else(|error| panic!("{error:?}\n{wat}"))
}

fn type_of_f(component: &Component) -> ComponentFunc {
    let ty = component.component_type().imports(&ENGINE).find_map(|(name, item)| match item.ty {
        ComponentItem::ComponentFunc(ty) if name == "f" => Some(ty),
        _ => None,
    });
    ty.expect("it imports `f`")
}

/// The type that a definition of `$t` is about.
pub fn type_of(definition: &str) -> Type {
    let component = compile(&format!(r#"(component {definition} (import "f" (func (result $t))))"#));
    type_of_f(&component).results().next().expect("it has a result")
}

/// What came to `f`.
pub type Seen = Arc<Mutex<Option<Result<Tape, NotCarried>>>>;

fn echo<const PARAMS: usize, const RESULTS: usize>(linker: &mut Linker<()>, sync: bool, seen: Seen) {
    let answer = move |params: Result<Tape, NotCarried>| {
        *seen.lock().unwrap() = Some(params.clone());
        let params = params?;
        Ok(Given::<RESULTS>(if RESULTS == 0 { Tape::default() } else { params }))
    };
    let mut root = linker.root();
    let defined = if sync {
        root.func_wrap_async("f", move |_: StoreContextMut<'_, ()>, Sent(params): Sent<PARAMS>| {
            let answer = answer(params);
            Box::new(async { answer })
        })
    } else {
        root.func_wrap_concurrent("f", move |_: &Accessor<()>, Sent(params): Sent<PARAMS>| {
            let answer = answer(params);
            Box::pin(async { answer })
        })
    };
    defined.unwrap();
}

/// `component`, with an `f` that takes and gives tapes.
pub async fn with_tapes(component: &Component) -> (Store<()>, Instance, Seen) {
    let mut linker = Linker::new(&ENGINE);
    let seen = Seen::default();
    let ty = type_of_f(component);
    let (params, results) = (flat_count(ty.params().map(|(_, ty)| ty)), flat_count(ty.results()).min(1));
    by_flat_count!(params, PARAMS => match results {
        0 => echo::<PARAMS, 0>(&mut linker, !ty.async_(), seen.clone()),
        _ => echo::<PARAMS, 1>(&mut linker, !ty.async_(), seen.clone()),
    });
    let mut store = Store::new(&ENGINE, ());
    let instance = linker.instantiate_async(&mut store, component).await.unwrap();
    (store, instance, seen)
}

async fn run<const FLAT: usize>(accessor: &Accessor<()>, function: Func, params: Tape) -> wasmtime::Result<Tape> {
    let (function, call) = accessor.with(|mut access| {
        let mut store = access.as_context_mut();
        let function = function.typed::<Given<MOST_FLAT>, Sent<FLAT>>(&store)?;
        let call = function.start_call_concurrent(&mut store, Given(params))?;
        wasmtime::error::Ok((function, call))
    })?;
    let Sent(results) = function.finish_call_concurrent(accessor, call).await?;
    Ok(results?)
}

/// Sends `value` through a component: to `g` as a dynamic value and from there as a tape; then to `g` as a tape and from
/// there as a dynamic value. Says what came back, each time as it comes, and what had been on the tape.
pub async fn send(kind: Kind, sync: &str, value: Val) -> wasmtime::Result<(Val, Tape, Tape)> {
    let component = relay(kind, sync);

    let (mut store, instance, seen) = with_tapes(&component).await;
    let g = instance.get_func(&mut store, "g").unwrap();
    let mut results = [Val::Bool(false)];
    g.call_async(&mut store, &[value], &mut results).await?;
    let [back] = results;
    let tape = seen.lock().unwrap().take().expect("`f` was called")?;

    let mut linker = Linker::new(&ENGINE);
    if sync.is_empty() {
        linker.root().func_new("f", |_, _, params, results| {
            results.clone_from_slice(params);
            Ok(())
        })?;
    } else {
        linker.root().func_new_concurrent("f", |_, _, params, results| {
            results.clone_from_slice(params);
            Box::pin(async { Ok(()) })
        })?;
    }
    let mut store = Store::new(&ENGINE, ());
    let instance = linker.instantiate_async(&mut store, &component).await?;
    let g = instance.get_func(&mut store, "g").unwrap();
    let flat = flat_count(g.ty(&store).results());
    let params = tape.clone();
    let results = store
        .run_concurrent(async |accessor| by_flat_count!(flat, FLAT => run::<FLAT>(accessor, g, params).await))
        .await??;
    Ok((back, tape, results))
}
