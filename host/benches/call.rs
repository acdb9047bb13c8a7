//! What a call costs from the edge to the instance and back.
//!
//! The guests do next to nothing, so that what is measured is the way there. For HTTP, give the folder of `hello-p2.wasm`
//! and `hello-p3.wasm` (built from `tests/guests`) in `WHARF_BENCH_GUESTS`; else those benches are left out.

use criterion::{Criterion, criterion_group, criterion_main};
use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{runtime::Runtime, time::Instant};
use wasmtime::component::Component;
use wharf::{
    engine::{Engine, Limits},
    events::{Bus, BusConfig, BusKind, Durability, EmbeddedConfig, Retention},
    outbound::Outbound,
    policy::{Deadline, Policy},
    service::{
        Body, CallContext, Edge, Endpoint, FunctionKey, Grants, InstanceSettings, Revision, RevisionInfo, Scope,
        Service, Shape, Tape,
    },
    telemetry::TraceContext,
};

const LEAF: &str = r#"(component
  (core module $m
    (import "i" "return" (func $return (param i32)))
    (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
    (func (export "add-async") (param i32 i32) (result i32)
      (call $return (i32.add (local.get 0) (local.get 1)))
      (i32.const 0))
    (func (export "woken") (param i32 i32 i32) (result i32) unreachable))
  (core func $return (canon task.return (result u32)))
  (core instance $i (instantiate $m (with "i" (instance (export "return" (func $return))))))
  (func $add (param "a" u32) (param "b" u32) (result u32) (canon lift (core func $i "add")))
  (func $add-async async (param "a" u32) (param "b" u32) (result u32)
    (canon lift (core func $i "add-async") async (callback (core func $i "woken"))))
  (instance $work (export "add" (func $add)) (export "add-async" (func $add-async)))
  (export "t:leaf/work" (instance $work)))"#;

/// Calls its neighbour by a synchronous import.
const RELAY: &str = r#"(component
  (import "t:leaf/work" (instance $leaf
    (export "add" (func (param "a" u32) (param "b" u32) (result u32)))))
  (core func $add (canon lower (func $leaf "add")))
  (core module $m
    (import "i" "add" (func $add (param i32 i32) (result i32)))
    (func (export "add") (param i32 i32) (result i32) (call $add (local.get 0) (local.get 1)))
    ;; Does all but call.
    (func (export "idle") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1))))
  (core instance $i (instantiate $m (with "i" (instance (export "add" (func $add))))))
  (func $add-it (param "a" u32) (param "b" u32) (result u32) (canon lift (core func $i "add")))
  (func $idle (param "a" u32) (param "b" u32) (result u32) (canon lift (core func $i "idle")))
  (instance $work (export "add" (func $add-it)) (export "idle" (func $idle)))
  (export "t:relay/work" (instance $work)))"#;

/// Gives back the bytes that it gets, from where they came to lie.
const ECHO: &str = r#"(component
  (core module $m
    (memory (export "memory") 400)
    ;; One list at a time.
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 16))
    (func (export "echo") (param i32 i32) (result i32)
      (i32.store (i32.const 0) (local.get 0))
      (i32.store (i32.const 4) (local.get 1))
      (i32.const 0)))
  (core instance $i (instantiate $m))
  (func $echo (param "data" (list u8)) (result (list u8))
    (canon lift (core func $i "echo") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
  (instance $work (export "echo" (func $echo)))
  (export "t:echo/work" (instance $work)))"#;

/// The same for a list of structured values.
const RECORDS: &str = r#"(component
  (core module $m
    (memory (export "memory") 400)
    (global $next (mut i32) (i32.const 16))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (global.set $next (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
      (global.get $next)
      (global.set $next (i32.add (global.get $next) (local.get 3))))
    (func (export "echo") (param i32 i32) (result i32)
      (global.set $next (i32.const 16))
      (i32.store (i32.const 0) (local.get 0))
      (i32.store (i32.const 4) (local.get 1))
      (i32.const 0)))
  (core instance $i (instantiate $m))
  (func $echo (param "data" (list (tuple f64 f32 string))) (result (list (tuple f64 f32 string)))
    (canon lift (core func $i "echo") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
  (instance $work (export "echo" (func $echo)))
  (export "t:records/work" (instance $work)))"#;

struct House {
    engine: Arc<Engine>,
    bus: Bus,
}

impl House {
    async fn new() -> Self {
        let cache = std::env::temp_dir().join(format!("wharf-bench-{}", std::process::id()));
        let file = cache.with_extension("sqlite");
        let config = BusConfig {
            app: "bench".into(),
            kind: BusKind::Embedded(EmbeddedConfig { file, durability: Durability::Os }),
            publishes: HashMap::new(),
            retention: Retention::default(),
        };
        let bus = Bus::start(config, Vec::new()).await.expect("an embedded bus");
        Self { engine: Arc::new(Engine::new(&cache).expect("an engine")), bus }
    }

    /// A running service, that may call the ones given.
    fn service(&self, name: &str, wasm: &[u8], reuse: u64, neighbours: &[(&str, &[u8], &Arc<Edge>)]) -> Arc<Service> {
        let component = |wasm: &[u8]| Component::new(self.engine.wasmtime(), wasm).expect("a component");
        let this = component(wasm);
        let mut shapes = BTreeMap::from([(name.to_string(), Arc::new(Shape::of(&this)))]);
        for (callee, wasm, _) in neighbours {
            shapes.insert((*callee).into(), Arc::new(Shape::of(&component(wasm))));
        }
        let calls = neighbours.iter().map(|(callee, ..)| (*callee).to_string()).collect();
        let scope = Arc::new(Scope {
            name: name.into(),
            edges: neighbours.iter().map(|(callee, _, edge)| ((*callee).to_string(), Arc::clone(edge))).collect(),
            outbound: Outbound::default(),
            publisher: self.bus.publisher(name),
            database: None,
            buckets: None,
            outbox: None,
            mailer: None,
            sagas: wharf::saga::Access::default(),
            config: BTreeMap::new(),
            limits: Limits { memory: 64 << 20, tables: 10_000 },
        });
        let info = RevisionInfo { number: 1, hash: String::new(), origin: "bench".into(), ..RevisionInfo::default() };
        let grants = Grants { calls, ..Grants::default() };
        let settings = InstanceSettings { max: 4, concurrency: 16, reuse, queue: 1024, cpu: Duration::from_secs(1) };
        let revision = Revision::link(&self.engine, &this, info, &scope, &grants, &shapes, settings).expect("it links");
        let service = Service::new(name);
        service.swap(Some(Arc::new(revision)));
        service
    }
}

fn edge(caller: &str, callee: &Arc<Service>) -> Arc<Edge> {
    Edge::new(caller, callee.name(), Policy::default(), Endpoint::Service(Arc::clone(callee)))
}

fn context() -> CallContext {
    CallContext {
        caller: "bench".into(),
        deadline: Deadline { at: Instant::now() + Duration::from_secs(3), of: "bench".into() },
        trace: TraceContext::root(),
        unit: None,
    }
}

fn key(wasm: &[u8], interface: &str, function: &str) -> Arc<FunctionKey> {
    let component = Component::new(&wasmtime::Engine::default(), wasm).expect("a component");
    Arc::new(FunctionKey::new(interface, function, &Shape::of(&component).exports[interface][function]))
}

fn params() -> Tape {
    [40_u32, 2].iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>().into()
}

fn typed(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let (leaf_wasm, relay_wasm) = (wat::parse_str(LEAF).expect("text"), wat::parse_str(RELAY).expect("text"));
    let (leaf, fresh, relay) = runtime.block_on(async {
        let house = House::new().await;
        let leaf = house.service("leaf", &leaf_wasm, u64::MAX, &[]);
        let fresh = house.service("leaf", &leaf_wasm, 1, &[]);
        let neighbour = edge("relay", &leaf);
        let relay = house.service("relay", &relay_wasm, u64::MAX, &[("leaf", &leaf_wasm, &neighbour)]);
        (leaf, fresh, relay)
    });
    let direct = |service: &Arc<Service>, key: &Arc<FunctionKey>| {
        let (service, key) = (Arc::clone(service), Arc::clone(key));
        async move { service.function(context(), key, params()).await.expect("an answer") }
    };
    let over = |edge: &Arc<Edge>, key: &Arc<FunctionKey>| {
        let (edge, key) = (Arc::clone(edge), Arc::clone(key));
        async move { edge.function(&context(), &key, params()).await.expect("an answer") }
    };

    let mut group = c.benchmark_group("typed");
    let (add, add_async) = (key(&leaf_wasm, "t:leaf/work", "add"), key(&leaf_wasm, "t:leaf/work", "add-async"));
    group.bench_function("host to service, no edge", |b| b.to_async(&runtime).iter(|| direct(&leaf, &add)));
    group.bench_function("host to service, no edge, async export", |b| {
        b.to_async(&runtime).iter(|| direct(&leaf, &add_async));
    });
    let outer = edge("bench", &leaf);
    group.bench_function("host to service over an edge", |b| b.to_async(&runtime).iter(|| over(&outer, &add)));
    let outer = edge("bench", &relay);
    let (idle, relayed) = (key(&relay_wasm, "t:relay/work", "idle"), key(&relay_wasm, "t:relay/work", "add"));
    group.bench_function("over an edge, to a service that makes no call", |b| {
        b.to_async(&runtime).iter(|| over(&outer, &idle));
    });
    group.bench_function("over an edge, to a service that calls another over its edge", |b| {
        b.to_async(&runtime).iter(|| over(&outer, &relayed));
    });
    group.bench_function("a fresh instance for each call, no edge", |b| {
        b.to_async(&runtime).iter(|| direct(&fresh, &add));
    });
    group.finish();
}

fn http(c: &mut Criterion) {
    let Some(folder) = std::env::var_os("WHARF_BENCH_GUESTS").map(PathBuf::from) else {
        eprintln!("WHARF_BENCH_GUESTS is not set: no benches of HTTP");
        return;
    };
    let runtime = Runtime::new().expect("a runtime");
    let read = |name: &str| std::fs::read(Path::new(&folder).join(name)).expect("a component");
    let mut group = c.benchmark_group("http");
    for (version, wasm) in [("0.2", read("hello-p2.wasm")), ("0.3", read("hello-p3.wasm"))] {
        for (name, reuse) in [("warm", u64::MAX), ("fresh instance for each", 1)] {
            let service = runtime.block_on(async { House::new().await.service("hello", &wasm, reuse, &[]) });
            let edge = edge("gateway", &service);
            let get = || async {
                let request = hyper::Request::get("http://hello.internal/").body(Body::empty()).expect("a request");
                let response = edge.http(&context(), request).await.expect("an answer");
                http_body_util::BodyExt::collect(response.into_body()).await.map(drop).expect("a body");
            };
            group.bench_function(format!("{version}, {name}"), |b| b.to_async(&runtime).iter(get));
        }
    }
    group.finish();
}

fn lists(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let [echo, records] = [ECHO, RECORDS].map(|text| wat::parse_str(text).expect("text"));
    let (echo_key, records_key) = (key(&echo, "t:echo/work", "echo"), key(&records, "t:records/work", "echo"));
    let (echo, records) = runtime.block_on(async {
        let house = House::new().await;
        (house.service("echo", &echo, u64::MAX, &[]), house.service("records", &records, u64::MAX, &[]))
    });
    let mut group = c.benchmark_group("lists");
    let outer = edge("bench", &echo);
    for size in [16_usize, 1024, 65_536, 800 << 10, 4 << 20, 16 << 20] {
        let length = u32::try_from(size).expect("it is small").to_le_bytes();
        let params = Tape::from([length.as_slice(), &vec![7; size]].concat());
        group.bench_function(format!("echo of {size} bytes over an edge"), |b| {
            b.to_async(&runtime)
                .iter(|| async { outer.function(&context(), &echo_key, params.clone()).await.expect("an answer") });
        });
    }
    let outer = edge("bench", &records);
    let record = [&1.5_f64.to_le_bytes()[..], &2.5_f32.to_le_bytes(), &4_u32.to_le_bytes(), b"name"].concat();
    let params = Tape::from([100_u32.to_le_bytes().to_vec(), record.repeat(100)].concat());
    group.bench_function("echo of 100 records over an edge", |b| {
        b.to_async(&runtime)
            .iter(|| async { outer.function(&context(), &records_key, params.clone()).await.expect("an answer") });
    });
    group.finish();
}

criterion_group!(benches, typed, lists, http);
criterion_main!(benches);
