//! What a store holds beside its instance: the service's side of every capability.

use super::{CallContext, messages, scope::Scope, tape::UnderWay};
use crate::{
    engine::StoreLimits,
    events::Publisher,
    keyvalue::KeyValueView,
    mail::Mailer,
    outbound::Hooks,
    outbox::OutboxView,
    store::{OfCall, SqlCtx, SqlView, Unit},
    telemetry::{GuestOutput, LastWords},
};
use std::sync::Arc;
use wasmtime::{
    StoreContextMut,
    component::{GuestTaskId, Linker, ResourceTable},
};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_config::{WasiConfig, WasiConfigVariables};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

/// How many resources of the host (bodies, headers, transactions, …) an instance may hold at a time. wasmtime's own
/// default would let a guest that forgets to drop them take gigabytes of the host.
const MOST_RESOURCES: usize = 20_000;

/// The data of a service's stores.
pub struct State {
    pub(super) scope: Arc<Scope>,
    pub(super) calls: Calls,
    pub(super) under_way: UnderWay,
    pub(super) limits: StoreLimits,
    pub(super) table: ResourceTable,
    last_words: LastWords,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    pub(super) hooks: Hooks,
    config: WasiConfigVariables,
    sql: SqlCtx,
}

/// Which calls run in a store, so that what a guest does is done on behalf of the right one.
#[derive(Default)]
pub(super) struct Calls {
    running: Vec<(GuestTaskId, CallContext)>,
}

// === impl Calls ===

impl Calls {
    pub fn insert(&mut self, task: GuestTaskId, context: CallContext) {
        self.running.push((task, context));
    }

    pub fn remove(&mut self, task: GuestTaskId) {
        if let Some(at) = self.running.iter().position(|(id, _)| *id == task) {
            self.running.swap_remove(at);
        }
    }

    fn have_units(&self) -> bool {
        self.running.iter().any(|(_, context)| context.unit.is_some())
    }

    fn get(&self, task: GuestTaskId) -> Option<&CallContext> {
        self.running.iter().find(|(id, _)| *id == task).map(|(_, context)| context)
    }
}

// === impl State ===

impl State {
    /// The data of a new store of the service that `scope` describes.
    pub(super) fn new(scope: Arc<Scope>, output: &GuestOutput) -> Self {
        let last_words = LastWords::default();
        let wasi = WasiCtxBuilder::new()
            .stdout(output.clone())
            .stderr(output.standard_error(last_words.clone()))
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .build();
        let mut table = ResourceTable::new();
        table.set_max_capacity(MOST_RESOURCES);
        Self {
            calls: Calls::default(),
            under_way: UnderWay::default(),
            limits: StoreLimits::new(scope.limits),
            table,
            last_words,
            wasi,
            http: WasiHttpCtx::new(),
            hooks: Hooks::new(scope.clone()),
            config: scope.config.iter().map(|(key, value)| (key.clone(), value.expose().to_owned())).collect(),
            sql: SqlCtx::new(scope.database.clone()),
            scope,
        }
    }

    /// What the instance writes to its standard error.
    pub(super) fn last_words(&self) -> LastWords {
        self.last_words.clone()
    }

    /// Everything that the host itself offers: WASI 0.2 and 0.3, and Wharf's own capabilities. What a service may do
    /// with it is its scope's to say.
    pub(super) fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<Self>> {
        let mut linker = Linker::new(engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        wasmtime_wasi::p3::add_to_linker(&mut linker)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
        wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
        crate::outbound::add_to_linker(&mut linker)?;
        messages::add_to_linker(&mut linker)?;
        wasmtime_wasi_config::add_to_linker(&mut linker, |state| WasiConfig::new(&state.config))?;
        crate::store::add_to_linker(&mut linker, State::sql)?;
        crate::keyvalue::add_to_linker(&mut linker, |state| KeyValueView {
            buckets: state.scope.buckets.as_ref(),
            table: &mut state.table,
        })?;
        crate::events::binding::add_to_linker(&mut linker, State::publisher, |store| Some(current_call(store)))?;
        crate::outbox::add_to_linker(&mut linker, State::outbox, current_call)?;
        crate::mail::add_to_linker(&mut linker, State::sender, current_call)?;
        crate::saga::binding::add_to_linker(&mut linker, |state| state.scope.sagas.clone(), current_call)?;
        Ok(linker)
    }

    /// The next HTTP request that the guest sends is made on behalf of this call.
    pub(crate) fn set_http_caller(&mut self, context: CallContext) {
        // NB: kept beyond the call; its unit of work must end with it.
        self.hooks.set_caller(CallContext { unit: None, ..context });
    }

    fn publisher(&mut self) -> Publisher {
        self.scope.publisher.clone()
    }

    fn sender(&mut self) -> (Arc<str>, Option<Mailer>) {
        (self.scope.name.clone(), self.scope.mailer.clone())
    }

    fn sql(&mut self) -> SqlView<'_> {
        SqlView { ctx: &mut self.sql, table: &mut self.table }
    }

    fn outbox(&mut self) -> OutboxView<'_> {
        let sql = SqlView { ctx: &mut self.sql, table: &mut self.table };
        OutboxView { outbox: self.scope.outbox.as_ref(), sql }
    }
}

impl OfCall for State {
    fn unit(store: StoreContextMut<'_, Self>) -> Option<Unit> {
        // Few calls have one, and to find out whose call it is costs more than a look at all of them.
        if store.data().calls.have_units() { current_call(store).unit } else { None }
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.hooks }
    }
}

/// On behalf of which call the guest code runs that has just called the host.
///
/// NB: to be asked at the very beginning of a host function, while the guest that called it is the current one.
pub(crate) fn current_call(mut store: StoreContextMut<'_, State>) -> CallContext {
    let root = store.async_call_stack().ok().and_then(Iterator::last);
    let state = store.data();
    let call = root.and_then(|task| state.calls.get(task)).cloned();
    call.unwrap_or_else(|| CallContext::background(&state.scope.name))
}
