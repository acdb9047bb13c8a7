//! A host without gateway and manifest: services made of a few lines of WebAssembly text, and edges between them.

use crate::{
    engine::{CodeCache, Engine, Limits},
    events::{Bus, BusConfig, BusKind},
    outbound::Outbound,
    outbox::Outbox,
    policy::{Deadline, Fault, Policy, PolicyParams, RetryPolicy, RolloutPolicy},
    rollout::{History, Loaded, Member, Rollout, Terms},
    service::{
        CallContext, Edge, Endpoint, FunctionKey, Grants, InstanceSettings, PoolSnapshot, Revision, RevisionError,
        RevisionInfo, Scope, Service, Shape, Tape,
    },
    store::Database,
    telemetry::TraceContext,
    trust::Trust,
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, LazyLock},
    time::Duration,
};
use tokio::time::Instant;
use wasmtime::component::Component;

/// One for all tests: an engine reserves terabytes of address space, and what one test compiled serves the others.
static ENGINE: LazyLock<Arc<Engine>> = LazyLock::new(|| {
    let cache = std::env::temp_dir().join(format!("wharf-service-tests-{}", std::process::id()));
    Arc::new(Engine::new(&cache).unwrap())
});

pub const DEFAULTS: InstanceSettings =
    InstanceSettings { max: 2, concurrency: 16, reuse: 1000, queue: 16, cpu: Duration::from_millis(100) };

/// A service that is to be: its name, its component, whom it may call.
pub struct Plan {
    pub name: &'static str,
    pub wat: String,
    pub calls: &'static [&'static str],
    pub settings: InstanceSettings,
    pub memory: usize,
}

pub struct House {
    pub services: BTreeMap<&'static str, Arc<Service>>,
    pub edges: HashMap<(&'static str, &'static str), Arc<Edge>>,
    scopes: BTreeMap<&'static str, Arc<Scope>>,
    grants: BTreeMap<String, Grants>,
    shapes: BTreeMap<String, Arc<Shape>>,
    bus: Bus,
}

pub fn plan(name: &'static str, wat: String, calls: &'static [&'static str]) -> Plan {
    Plan { name, wat, calls, settings: DEFAULTS, memory: 4 << 20 }
}

pub fn component(wat: &str) -> Component {
    let wasm = wat::parse_str(wat).unwrap_or_else(|error| panic!("{error}"));
    let hash = CodeCache::content_hash(&wasm);
    ENGINE.cache().load(ENGINE.wasmtime(), &wasm, &hash).unwrap_or_else(|error| panic!("{error}"))
}

pub fn context() -> CallContext {
    within(Duration::from_secs(60))
}

pub fn within(limit: Duration) -> CallContext {
    CallContext {
        caller: "test".into(),
        deadline: Deadline { at: Instant::now() + limit, of: "test".into() },
        trace: TraceContext::root(),
        unit: None,
    }
}

impl Plan {
    pub fn with(self, change: impl FnOnce(&mut InstanceSettings)) -> Self {
        let mut settings = self.settings;
        change(&mut settings);
        Self { settings, ..self }
    }

    pub fn with_memory(self, memory: usize) -> Self {
        Self { memory, ..self }
    }
}

impl House {
    /// Builds all services and starts them.
    pub async fn new(plans: Vec<Plan>) -> Self {
        let house = Self::unstarted(&plans).await;
        for plan in &plans {
            let revision = house.revision(plan).unwrap();
            house.services[plan.name].swap(Some(Arc::new(revision)));
        }
        house
    }

    /// Builds all services, none of which has a revision.
    pub async fn unstarted(plans: &[Plan]) -> Self {
        let config = BusConfig {
            app: "test".into(),
            kind: BusKind::Embedded(crate::events::EmbeddedConfig::scratch()),
            publishes: HashMap::new(),
            retention: crate::events::Retention::default(),
        };
        Self::on(Bus::start(config, Vec::new()).await.unwrap(), plans)
    }

    fn on(bus: Bus, plans: &[Plan]) -> Self {
        let services: BTreeMap<_, _> = plans.iter().map(|plan| (plan.name, Service::new(plan.name))).collect();
        let mut edges = HashMap::new();
        for plan in plans {
            let policy = || {
                Policy::try_new(PolicyParams {
                    deadline: Duration::from_secs(60),
                    retry: RetryPolicy::never(),
                    breaker: None,
                    bulkhead: None,
                    ..PolicyParams::default()
                })
                .unwrap()
            };
            let ends = |name: &str| Endpoint::Service(services[name].clone());
            edges.insert(("test", plan.name), Edge::new("test", plan.name, policy(), ends(plan.name)));
            for callee in plan.calls {
                edges.insert((plan.name, *callee), Edge::new(plan.name, callee, policy(), ends(callee)));
            }
        }
        let scope = |plan: &Plan| {
            let own = plan.calls.iter().map(|callee| (callee.to_string(), edges[&(plan.name, *callee)].clone()));
            Arc::new(Scope {
                name: plan.name.into(),
                edges: own.collect(),
                outbound: Outbound::default(),
                publisher: bus.publisher(plan.name),
                database: None,
                buckets: None,
                outbox: None,
                mailer: None,
                sagas: crate::saga::Access::default(),
                config: BTreeMap::new(),
                limits: Limits { memory: plan.memory, tables: 10_000 },
            })
        };
        let grants =
            |plan: &Plan| Grants { calls: plan.calls.iter().map(ToString::to_string).collect(), ..Grants::default() };
        Self {
            scopes: plans.iter().map(|plan| (plan.name, scope(plan))).collect(),
            grants: plans.iter().map(|plan| (plan.name.into(), grants(plan))).collect(),
            shapes: plans.iter().map(|plan| (plan.name.into(), Arc::new(Shape::of(&component(&plan.wat))))).collect(),
            services,
            edges,
            bus,
        }
    }

    /// Starts one service that has a database and an outbox.
    pub async fn with_state(plan: Plan, bus: Bus, database: Database, outbox: Outbox) -> Self {
        let mut house = Self::on(bus, std::slice::from_ref(&plan));
        let scope = Scope {
            name: plan.name.into(),
            edges: HashMap::new(),
            outbound: Outbound::default(),
            publisher: house.bus.publisher(plan.name),
            database: Some(database),
            buckets: None,
            outbox: Some(outbox),
            mailer: None,
            sagas: crate::saga::Access::default(),
            config: BTreeMap::new(),
            limits: Limits { memory: plan.memory, tables: 10_000 },
        };
        house.scopes.insert(plan.name, Arc::new(scope));
        house.services[plan.name].swap(Some(Arc::new(house.revision(&plan).unwrap())));
        house
    }

    /// A fresh revision after `plan`.
    pub fn revision(&self, plan: &Plan) -> Result<Revision, RevisionError> {
        let info = RevisionInfo { number: 1, hash: String::new(), origin: "test".into(), ..RevisionInfo::default() };
        let (scope, grants) = (&self.scopes[plan.name], &self.grants[plan.name]);
        Revision::link(&ENGINE, &component(&plan.wat), info, scope, grants, &self.shapes, plan.settings)
    }

    /// A rollout of the same services, none of which it has started.
    pub fn rollout(&self) -> Arc<Rollout> {
        let member = |(name, scope): (&&str, &Arc<Scope>)| {
            let (grants, policy) = (self.grants[*name].clone(), RolloutPolicy::default());
            let (scope, settings, trust) = (scope.clone(), DEFAULTS, Trust::everybody());
            let terms = Terms { scope, grants, settings, policy, trust, sagas: None };
            let member = Member::new(self.services[name].clone(), terms);
            (name.to_string(), member)
        };
        Rollout::new(ENGINE.clone(), self.scopes.iter().map(member).collect(), History::new())
    }

    /// Components, ready for a rollout.
    pub async fn loaded(&self, components: &[(&str, &str)]) -> BTreeMap<String, Loaded> {
        let mut all = BTreeMap::new();
        for (name, wat) in components {
            let wasm = wat::parse_str(wat).unwrap_or_else(|error| panic!("{error}"));
            all.insert(
                (*name).to_string(),
                Loaded::new(&ENGINE, &Trust::everybody(), wasm, "test".into()).await.unwrap(),
            );
        }
        all
    }

    /// Calls a function of `service`'s interface, which goes by `t:<service>/work`.
    pub async fn call(&self, service: &str, function: &str, params: &[u32]) -> Result<u32, Fault> {
        self.call_within(context(), service, function, params).await
    }

    pub async fn call_within(
        &self,
        context: CallContext,
        service: &str,
        function: &str,
        params: &[u32],
    ) -> Result<u32, Fault> {
        let params: Vec<u8> = params.iter().flat_map(|param| param.to_le_bytes()).collect();
        let results = self.call_with(context, service, function, params.into()).await?;
        match results.as_bytes() {
            [] => Ok(0),
            value => Ok(u32::from_le_bytes(value.try_into().unwrap())),
        }
    }

    /// As `call_within`, with any values.
    pub async fn call_with(
        &self,
        context: CallContext,
        service: &str,
        function: &str,
        params: Tape,
    ) -> Result<Tape, Fault> {
        let interface = format!("t:{service}/work");
        let ty = &self.shapes[service].exports[&interface][function];
        let key = Arc::new(FunctionKey::new(interface, function, ty));
        self.edges[&("test", self.services[service].name().as_ref())].function(&context, &key, params).await
    }

    pub fn instances(&self, service: &str) -> PoolSnapshot {
        self.services[service].revision().unwrap().instances()
    }

    /// Waits until nothing is under way any more.
    pub async fn quiet(&self) {
        let limit = Instant::now() + Duration::from_secs(20);
        for service in self.services.keys() {
            while self.instances(service).under_way + self.instances(service).queued > 0 {
                assert!(Instant::now() < limit, "{service} is not at rest: {:?}", self.instances(service));
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}
