//! What a component offers, found once when it is loaded and looked up once for each instance.

use super::{callee::Callee, health::HEALTH, shape::Signature, state::State, tape::Tape};
use crate::{
    events::binding::{HANDLER, WitEvent, WitVerdict},
    saga::binding::{STEPS, WitCall, WitOutcome},
    store::MIGRATIONS,
};
use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
};
use wasmtime::{
    AsContextMut, Store, StoreContextMut,
    component::{
        Component, ComponentExportIndex, Func, Instance, InstancePre, TypedFunc,
        types::{ComponentFunc, ComponentItem, Type},
    },
};
use wasmtime_wasi_http::{p2, p3};

/// The name of a function of a typed interface, with the types of its parameters and results.
///
/// These are part of it because an old revision may still call while a new revision of its callee, which no longer knows
/// it, has taken over. Then the function is not found.
#[derive(Debug, PartialEq, Eq, Hash, Clone)]
pub struct FunctionKey {
    /// The interface, with package and version: `shop:users/users@0.1.0`.
    pub interface: String,
    /// The function.
    pub function: String,
    /// A digest of its types.
    types: u64,
    /// Whether it gives a `result`, which may be an error.
    is_fallible: bool,
}

/// Which version of `wasi:http` a component handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    /// `wasi:http/incoming-handler@0.2.x`: one request at a time in an instance.
    P2,
    /// `wasi:http/handler@0.3.x`: concurrent.
    P3,
}

// === impl FunctionKey ===

impl FunctionKey {
    /// The key of the function of this name and type.
    pub fn new(interface: impl Into<String>, function: impl Into<String>, ty: &ComponentFunc) -> Self {
        let mut types = DefaultHasher::new();
        Signature(ty).types().hash(&mut types);
        let mut results = ty.results();
        let is_fallible = matches!((results.next(), results.next()), (Some(Type::Result(_)), None));
        Self { interface: interface.into(), function: function.into(), types: types.finish(), is_fallible }
    }

    /// Whether these results of it are an error of its own.
    pub(super) fn is_error(&self, results: &Tape) -> bool {
        // A result begins with the place of its case: 0 is `ok`.
        self.is_fallible && !results.as_bytes().starts_with(&0_u32.to_le_bytes())
    }

    /// The key of a function that is nowhere.
    #[cfg(test)]
    pub(super) fn made_up(interface: &str, function: &str, is_fallible: bool) -> Self {
        Self { interface: interface.into(), function: function.into(), types: 0, is_fallible }
    }
}

// === impl HttpVersion ===

impl HttpVersion {
    /// As people write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::P2 => "0.2",
            Self::P3 => "0.3",
        }
    }
}

/// What a component exports.
pub(super) struct Exports {
    http: Option<Http>,
    functions: HashMap<FunctionKey, usize>,
    indices: Vec<(ComponentExportIndex, Callee)>,
    handler: Option<ComponentExportIndex>,
    steps: Steps<Option<ComponentExportIndex>>,
    migrations: bool,
    health: bool,
}

/// The functions of a component with sagas.
#[derive(Default)]
pub(super) struct Steps<T> {
    pub act: T,
    pub compensate: T,
}

enum Http {
    P2(p2::bindings::ProxyIndices),
    P3(p3::bindings::ServiceIndices),
}

/// The exports of one instance, ready to be called.
pub(super) struct InstanceExports {
    pub http: Option<InstanceHttp>,
    pub functions: Vec<(Func, Callee)>,
    pub handler: Option<TypedFunc<(WitEvent,), (WitVerdict,)>>,
    pub steps: Steps<Option<StepFunction>>,
}

/// Does a step, or takes it back.
pub(super) type StepFunction = TypedFunc<(WitCall,), (WitOutcome,)>;

pub(super) enum InstanceHttp {
    P2(p2::bindings::Proxy),
    P3(p3::bindings::Service),
}

// === impl Exports ===

impl Exports {
    /// Reads what `component` exports.
    pub fn of(component: &Component, pre: &InstancePre<State>) -> Self {
        let http = match p3::bindings::ServiceIndices::new(pre) {
            Ok(indices) => Some(Http::P3(indices)),
            Err(_) => p2::bindings::ProxyIndices::new(pre).ok().map(Http::P2),
        };
        let mut exports = Self {
            http,
            functions: HashMap::new(),
            indices: Vec::new(),
            handler: None,
            steps: Steps::default(),
            migrations: false,
            health: false,
        };
        let engine = component.engine();
        for (interface, item) in component.component_type().exports(engine) {
            let ComponentItem::ComponentInstance(instance) = item.ty else { continue };
            let Some(parent) = component.get_export_index(None, interface) else { continue };
            for (function, item) in instance.exports(engine) {
                let ComponentItem::ComponentFunc(ty) = item.ty else { continue };
                let Some(index) = component.get_export_index(Some(&parent), function) else { continue };
                match interface {
                    HANDLER => exports.handler = Some(index),
                    STEPS if function == "act" => exports.steps.act = Some(index),
                    STEPS if function == "compensate" => exports.steps.compensate = Some(index),
                    STEPS => {}
                    MIGRATIONS => exports.migrations = true,
                    HEALTH => exports.health = true,
                    // The handlers of wasi:http have resources in their types, and ways of their own above.
                    _ if interface.starts_with("wasi:") => {}
                    _ => {
                        let key = FunctionKey::new(interface, function, &ty);
                        exports.functions.insert(key, exports.indices.len());
                        exports.indices.push((index, Callee::of(&ty)));
                    }
                }
            }
        }
        exports
    }

    pub fn http(&self) -> Option<HttpVersion> {
        self.http.as_ref().map(|http| match http {
            Http::P2(_) => HttpVersion::P2,
            Http::P3(_) => HttpVersion::P3,
        })
    }

    /// Whether it can be asked whether it is ready.
    pub fn has_health(&self) -> bool {
        self.health
    }

    /// Whether it declares a schema.
    pub fn has_migrations(&self) -> bool {
        self.migrations
    }

    /// Whether it has sagas.
    pub fn has_steps(&self) -> bool {
        self.steps.act.is_some()
    }

    /// The place of a function in [`InstanceExports::functions`].
    pub fn position(&self, key: &FunctionKey) -> Option<usize> {
        self.functions.get(key).copied()
    }

    /// Looks them all up in `instance`, so that no call has to.
    pub fn of_instance(&self, store: &mut Store<State>, instance: &Instance) -> wasmtime::Result<InstanceExports> {
        let http = match &self.http {
            Some(Http::P3(indices)) => Some(InstanceHttp::P3(indices.load(&mut *store, instance)?)),
            Some(Http::P2(indices)) => Some(InstanceHttp::P2(indices.load(&mut *store, instance)?)),
            None => None,
        };
        let functions = self
            .indices
            .iter()
            .map(|(index, callee)| Ok((lookup(store.as_context_mut(), instance, index)?, *callee)))
            .collect::<wasmtime::Result<_>>()?;
        let handler = match &self.handler {
            Some(index) => Some(instance.get_typed_func(&mut *store, index)?),
            None => None,
        };
        let mut step = |index: &Option<ComponentExportIndex>| {
            index.as_ref().map(|index| instance.get_typed_func(&mut *store, index)).transpose()
        };
        let steps = Steps { act: step(&self.steps.act)?, compensate: step(&self.steps.compensate)? };
        Ok(InstanceExports { http, functions, handler, steps })
    }
}

fn lookup(
    store: StoreContextMut<'_, State>,
    instance: &Instance,
    index: &ComponentExportIndex,
) -> wasmtime::Result<Func> {
    instance.get_func(store, index).ok_or_else(|| wasmtime::format_err!("an export of the component is no function"))
}
