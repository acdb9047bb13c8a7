//! From a manifest to a running application: builds the parts in the order in which they need each other.

mod document;
mod events;
mod sagas;
mod settings;
mod state;

pub(super) use self::{
    document::checked_document,
    events::{publishes, subscriptions},
    sagas::{Sagas, awaiting, saga_settings, sagas, subscriber},
    settings::{Settings, configuration, rotated},
    state::{Grounds, buckets, databases, has_outbox, outboxes},
};

use self::{
    document::{check_document, document},
    events::bus_config,
    sagas::access,
    state::server,
};
use super::{
    App, Edges, Parts, Ready,
    admin::{Admin, AdminAddress, AdminError, Token},
    audit::{Audit, Came, Deed, Who},
    lock::DataLock,
};
use crate::{
    engine::{Engine, Limits},
    events::{Bus, BusError, Schedule},
    gateway::{Aggregate, ApiDocument, BindError, Gateway, GatewayConfig, Part, Route, RouteError, Routes, Upstream},
    inbox::{self},
    keyvalue::KeyValueError,
    mail::{Login, MailSettings, Mailer, Post, SmtpSettings, Way},
    manifest::{self, GATEWAY, MAIL, Manifest, ManifestErrors},
    outbound::{Addresses, Authorities, External, ExternalSettings, HttpClient, Outbound},
    outbox::{self},
    policy::{Fault, FunctionList},
    rollout::{DeployError, History, HistoryError, Loaded, Member, Rollout, StartWith, Terms},
    saga::Register,
    service::{
        Body, CallContext, Concern, Edge, Endpoint, FixedResults, Grants, InstanceSettings, Marked, Misfit, Scope,
        Service, misfits,
    },
    store::OpenError,
    telemetry::AccessLog,
    trust::Trust,
};
use arc_swap::ArcSwap;
use futures::future::{BoxFuture, join_all, try_join_all};
use hyper::{Request, Response};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
};
use tokio::{sync::watch, time::Instant};

/// The component file of each service, by name.
pub type Components = BTreeMap<String, PathBuf>;

/// Why an application can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Something that the manifest names can't be had; the error tells the place.
    #[error(transparent)]
    Manifest(#[from] ManifestErrors),
    /// A component can't run.
    #[error(transparent)]
    Deploy(#[from] DeployError),
    /// The history can't be read.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// A component can't run, and some of them are not those of the manifest.
    #[error("{source}\n{}", kept_note(kept))]
    Kept {
        /// What is wrong.
        source: Box<StartError>,
        /// The services that start with a revision that was deployed, and its number.
        kept: Vec<(String, u64)>,
    },
    /// The engine can't start.
    #[error("the WebAssembly engine can't start: {0}")]
    Engine(String),
    /// The bus can't start.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// Key-value storage can't be used.
    #[error(transparent)]
    KeyValue(#[from] KeyValueError),
    /// A database can't be opened.
    #[error(transparent)]
    Database(#[from] OpenError),
    /// An outbox can't be read.
    #[error(transparent)]
    Outbox(#[from] outbox::OpenError),
    /// An inbox can't be made.
    #[error(transparent)]
    Inbox(#[from] inbox::OpenError),
    /// The admin API can't listen.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The routes don't hold together.
    #[error(transparent)]
    Routes(#[from] RouteError),
}

fn kept_note(kept: &[(String, u64)]) -> String {
    let each: Vec<_> = kept.iter().map(|(name, number)| format!("`{name}` with its revision {number}")).collect();
    format!(
        "The host was to start {}, which served last and is not the component of the manifest; \
         `wharf up --from-manifest` starts with what the manifest names",
        each.join(", ")
    )
}

/// Where the admin API of this manifest's host listens.
///
/// # Errors
///
/// When the token can't be had.
pub fn admin_address(manifest: &Manifest) -> Result<AdminAddress, ManifestErrors> {
    match &manifest.admin {
        manifest::Admin::Socket(path) => Ok(AdminAddress::Socket(path.value.clone())),
        manifest::Admin::Listen { address, token } => {
            let secret = token.resolve().map_err(|error| manifest.error_at(token, error))?;
            Ok(AdminAddress::Loopback(address.value, Token::new(secret)))
        }
    }
}

/// Checks components against each other and against their manifest, without running any.
///
/// # Errors
///
/// When a component can't be read or compiled, and everything that does not fit, at its lines in the manifest.
pub async fn check(manifest: &Manifest, components: &Components) -> Result<(), StartError> {
    // Secrets need not be at hand where a manifest is checked; what is written in it can be looked at.
    if let manifest::Store::Server(store) = &manifest.store
        && matches!(store.url.value, manifest::ServerUrl::Written(_))
    {
        server(manifest, store)?;
    }
    checked_document(manifest)?;
    let engine = engine(manifest)?;
    let loaded = load(&engine, manifest, components, None).await?;
    all_external_settings(manifest)?;
    mail_settings(manifest)?;
    let shapes: BTreeMap<_, _> = loaded.into_iter().map(|(name, loaded)| (name, Arc::new(loaded.shape()))).collect();
    let mut found = misfits(&shapes, &grants(manifest));
    for manifest::Edge { caller, callee } in manifest.policies.functions.keys() {
        // The manifest's own check made sure that it is a service here.
        let Some(shape) = shapes.get(callee) else { continue };
        let fallback = &manifest.edge_policy(caller, callee).params().fallback;
        found.extend(FixedResults::new(caller, callee, fallback, shape).err().into_iter().flatten());
    }
    if found.is_empty() { Ok(()) } else { Err(misfits_at(manifest, &found).into()) }
}

/// Misfits, each at the line that says otherwise.
pub(super) fn misfits_at(manifest: &Manifest, found: &[Misfit]) -> ManifestErrors {
    let place = |misfit: &Misfit| {
        let service = manifest.services.get(&misfit.service)?;
        let list = match &misfit.concern {
            Concern::Component => None,
            Concern::Calls => service.calls.first(),
            Concern::Subscribes => service.subscribes.first().map(|subscription| &subscription.topic),
            Concern::Function { callee, list, function } => {
                let edge = manifest::Edge::new(&misfit.service, callee);
                let mut written = manifest.policies.functions.get(&edge).into_iter().flatten();
                written.find(|(of, name)| of == list && name.value == *function).map(|(_, name)| name)
            }
        };
        // A list that is not there has no line, but the component has.
        Some(list.map_or_else(|| service.component.place(), |entry| entry.with(())))
    };
    manifest.errors_at(found.iter().filter_map(|misfit| Some(place(misfit)?.with(misfit.to_string()))))
}

/// What an operator is told of a deploy that was refused: with the place in the manifest, where that is what the new
/// component does not agree with.
pub(super) fn refusal(manifest: &Manifest, error: &DeployError) -> String {
    let DeployError::Misfit(found) = error else { return error.to_string() };
    let each = found.iter().map(|misfit| match misfit.concern {
        Concern::Component => misfit.to_string(),
        _ => misfits_at(manifest, std::slice::from_ref(misfit)).to_string(),
    });
    each.collect::<Vec<_>>().join("\n")
}

/// The error at the line of the component that it is about.
pub(super) fn deploy_error_at(manifest: &Manifest, error: DeployError) -> StartError {
    let service = match &error {
        DeployError::Misfit(found) => return misfits_at(manifest, found).into(),
        DeployError::Untrusted(distrust) => manifest.services.get(distrust.service()),
        DeployError::Revision { service, .. }
        | DeployError::Sagas { service, .. }
        | DeployError::UnreadSagas { service, .. }
        | DeployError::Migrate { service, .. }
        | DeployError::Swapped { service, .. } => manifest.services.get(service),
        DeployError::History { service, .. } | DeployError::PastMigrations { service, .. } => {
            manifest.services.get(service)
        }
        DeployError::UnknownService { .. }
        | DeployError::Load { .. }
        | DeployError::AfterMigrating { .. }
        | DeployError::UnderWay { .. }
        | DeployError::NoRollout(_) => None,
    };
    match service {
        Some(service) => manifest.error_at(&service.component.place(), error).into(),
        None => error.into(),
    }
}

/// Who this host is to others with the same Redis or the same database: the same when it is started again, so that it finds
/// what it left.
fn host_id(manifest: &Manifest) -> Result<String, ManifestErrors> {
    let data = &manifest.app.data;
    let path = data.join("host-id");
    let wrong = |error: std::io::Error| manifest.error_at(data, format!("{} can't be used: {error}", path.display()));
    match std::fs::read_to_string(&path) {
        Ok(id) if uuid::Uuid::try_parse(id.trim()).is_ok() => Ok(id.trim().to_string()),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(wrong(error)),
        _ => {
            let id = uuid::Uuid::new_v4().to_string();
            std::fs::write(&path, &id).map_err(wrong)?;
            Ok(id)
        }
    }
}

pub(super) async fn start(
    manifest: Manifest,
    components: Components,
    with: StartWith,
    log: AccessLog,
) -> Result<Ready, StartError> {
    let data = &manifest.app.data;
    std::fs::create_dir_all(&data.value)
        .map_err(|error| manifest.error_at(data, format!("the folder {} can't be made: {error}", data.display())))?;
    // First what tells whether another host runs here already: nothing of it must be touched.
    let lock = DataLock::take(&data.value).map_err(|error| manifest.error_at(data, error))?;
    let admin = Admin::bind(&admin_address(&manifest)?).await?;
    let config = gateway_config(&manifest);
    let listener = Gateway::bind(config, Routes::builder().build()?)
        .map_err(|error: BindError| manifest.error_at(&manifest.gateway.listen, error))?;
    let address = listener.local_addr().map_err(|error| manifest.error_at(&manifest.gateway.listen, error))?;

    let document = document(&manifest)?;
    let engine = engine(&manifest)?;
    let audit = Audit::open(&data.value).map_err(|error| manifest.error_at(data, error))?;
    let history = History::open(&data.value.join("revisions"), manifest.app.revisions)?;
    let loaded = load(&engine, &manifest, &components, Some((&history, with))).await?;
    let kept: Vec<_> =
        loaded.iter().filter_map(|(name, loaded)| Some((name.clone(), loaded.is_not_the_manifests()?))).collect();
    let new: Vec<_> = loaded.iter().filter(|(_, loaded)| loaded.is_new()).map(|(name, _)| name.clone()).collect();

    let services: BTreeMap<String, Arc<Service>> =
        manifest.services.keys().map(|name| (name.clone(), Service::new(name.as_str()))).collect();
    let grounds = Grounds::new(&manifest)?;
    let external = external(&manifest, &grounds.client).await?;
    let edges = edges(&manifest, &services, &external, &grounds, &Edges::new());

    let all = |_: &str| true;
    let databases = databases(&manifest, &grounds, all).await?;
    let buckets = buckets(&manifest, &grounds, all).await?;
    let bus = bus_config(&manifest)?;
    let running = watch::Sender::new(false);
    let ready = running.subscribe();
    let sagas = sagas(&manifest, &databases, &edges, &Sagas::new())?;
    let mut subscriptions = subscriptions(&manifest, &edges, &databases, &ready, |_, _| true).await?;
    subscriptions.extend(awaiting(&manifest, &sagas, &ready, |_, _| true));
    let bus = Bus::start(bus, subscriptions).await?;
    let outboxes = outboxes(&manifest, &databases, &bus, all).await?;
    let manifest = Arc::new(manifest);
    let parts = Parts { manifest, components, document, edges, external, databases, buckets, outboxes, sagas };
    let manifest = &*parts.manifest;
    let grants = grants(manifest);
    let mut members = BTreeMap::new();
    for (name, service) in &manifest.services {
        let config = configuration(manifest, service)?;
        let scope = Arc::new(scope(&parts, &services[name], service, config, &bus));
        let grants = grants.get(name).cloned().unwrap_or_default();
        members.insert(
            name.clone(),
            Member::new(services[name].clone(), terms(service, scope, grants, parts.sagas.get(name))),
        );
    }
    let rollout = Rollout::new(engine, members, history);
    let routes = routes(manifest, parts.document.clone(), &parts.edges, &rollout.marked())?;
    rollout.start(loaded).await.map_err(|error| match deploy_error_at(manifest, error) {
        source if kept.is_empty() => source,
        source => StartError::Kept { source: source.into(), kept },
    })?;
    for name in new {
        let Some(revision) = services[&name].revision() else { continue };
        let (number, hash) = (revision.info().number, revision.info().hash.clone());
        let deed = Deed { revision: Some(number), hash: Some(hash), ..Deed::new("deploy").to(name) };
        audit.note(&Who::Start, &deed, Came::Done).await;
    }
    running.send_replace(true);

    bus.run_schedules(schedules(manifest));
    listener.routes().replace(routes);
    let app = Arc::new(App {
        parts: ArcSwap::from_pointee(parts),
        grounds,
        rollout,
        routes: listener.routes(),
        terms: listener.terms(),
        bus,
        address,
        started: Instant::now(),
        audit,
        token: admin.token(),
        applying: tokio::sync::Mutex::default(),
        identity: uuid::Uuid::new_v4().to_string(),
        applied: AtomicU64::new(0),
        other_files: tokio::sync::watch::Sender::new(()),
        holds: super::hold::Holds::new(),
        _lock: lock,
    });
    Ok(Ready { app, gateway: listener.with_access_log(log), admin })
}

/// All edges of a manifest. Those of `before` that end where they did are taken over, with all that is known on them.
pub(super) fn edges(
    manifest: &Manifest,
    services: &BTreeMap<String, Arc<Service>>,
    external: &BTreeMap<String, Arc<External>>,
    grounds: &Grounds,
    before: &Edges,
) -> Edges {
    let mut edges = Edges::new();
    for ends in manifest.edges() {
        let endpoint = match (services.get(&ends.callee), external.get(&ends.callee)) {
            (Some(service), _) => Some(Endpoint::Service(service.clone())),
            (None, Some(external)) => Some(Endpoint::External(external.clone())),
            (None, None) if ends.callee == MAIL => Some(Endpoint::Mail(grounds.post.clone())),
            (None, None) => None,
        };
        let present = before.get(&ends);
        let edge = match (endpoint, present) {
            (Some(endpoint), Some(present)) if present.ends_at(&endpoint) => present.clone(),
            // An origin outside is what its name says.
            (None, Some(present)) if !manifest.has_service(&ends.callee) => present.clone(),
            (Some(endpoint), _) => edge(manifest, &ends, endpoint),
            (None, _) => {
                let services = manifest.services.get(&ends.caller);
                let mut origins = services.into_iter().flat_map(|service| &service.outbound);
                let Some(origin) = origins.find(|origin| origin.to_string() == ends.callee) else { continue };
                let endpoint = Endpoint::External(External::origin(&origin.to_uri(), grounds.client.clone()));
                edge(manifest, &ends, endpoint)
            }
        };
        edges.insert(ends, edge);
    }
    edges
}

fn edge(manifest: &Manifest, ends: &manifest::Edge, endpoint: Endpoint) -> Arc<Edge> {
    let policy = manifest.edge_policy(&ends.caller, &ends.callee).clone();
    Edge::new(ends.caller.as_str(), &ends.callee, policy, endpoint)
}

/// What a service is and may do, made of the parts.
pub(super) fn scope(parts: &Parts, service: &Service, of: &manifest::Service, config: Settings, bus: &Bus) -> Scope {
    let name = &**service.name();
    let edge = |callee: &str| parts.edges.get(&manifest::Edge::new(name, callee));
    let neighbours = of.calls.iter().filter_map(|callee| Some((callee.value.clone(), edge(callee)?.clone())));
    let mut outbound = Outbound::default();
    for origin in &of.outbound {
        if let Some(edge) = edge(&origin.to_string()) {
            outbound.allow(&origin.to_uri(), edge.clone());
        }
    }
    let mailer = of.mail.as_ref().zip(edge(MAIL));
    let app = &parts.manifest.app.name;
    Scope {
        name: service.name().clone(),
        edges: neighbours.collect(),
        outbound,
        publisher: bus.publisher(name),
        database: parts.databases.get(name).cloned(),
        buckets: parts.buckets.get(name).cloned(),
        outbox: parts.outboxes.get(name).cloned(),
        mailer: mailer.map(|(from, edge)| Mailer::new(app, name, from.value.clone(), edge.clone())),
        sagas: access(&parts.manifest, &parts.sagas, service.name()),
        config,
        limits: limits(of),
    }
}

/// The topics whose events come by the clock.
pub(super) fn schedules(manifest: &Manifest) -> Vec<Schedule> {
    manifest.topics.values().filter_map(|topic| Some(topic.schedule.as_ref()?.value.clone())).collect()
}

/// The services outside, by name.
async fn external(manifest: &Manifest, client: &HttpClient) -> Result<BTreeMap<String, Arc<External>>, ManifestErrors> {
    let starting = all_external_settings(manifest)?
        .into_iter()
        .map(|settings| async move { (settings.name.clone(), External::start(settings, client.clone()).await) });
    Ok(join_all(starting).await.into_iter().collect())
}

pub(super) fn all_external_settings(manifest: &Manifest) -> Result<Vec<ExternalSettings>, ManifestErrors> {
    manifest.external.values().map(|external| external_settings(manifest, external)).collect()
}

/// What the manifest says of a service outside, with the certificates that it names.
pub(super) fn external_settings(
    manifest: &Manifest,
    external: &manifest::ExternalService,
) -> Result<ExternalSettings, ManifestErrors> {
    let addresses = match &external.addresses {
        manifest::Addresses::List(origins) => Addresses::List(origins.iter().map(|it| it.to_uri()).collect()),
        manifest::Addresses::Dns { origin, refresh } => {
            Addresses::Dns { origin: origin.to_uri(), port: origin.port, refresh: *refresh }
        }
    };
    let read = |ca: &manifest::Placed<PathBuf>| Authorities::read(ca).map_err(|error| manifest.error_at(ca, error));
    let authorities = external.ca.as_ref().map(read).transpose()?;
    let (name, probe) = (external.name.value.clone(), external.probe.clone());
    Ok(ExternalSettings { name, addresses, balance: external.balance, probe, authorities })
}

/// Where mail goes, with a look at the certificates that the manifest names.
fn mail_settings(manifest: &Manifest) -> Result<MailSettings, ManifestErrors> {
    let server = match &manifest.mail {
        manifest::Mail::Folder(folder) => return Ok(MailSettings::Folder(folder.value.clone())),
        manifest::Mail::Server(server) => server,
    };
    if let Some(ca) = &server.ca {
        Authorities::read(ca).map_err(|error| manifest.error_at(ca, error))?;
    }
    let login = |(username, password): &(String, manifest::Placed<manifest::SecretRef>)| Login {
        username: username.clone(),
        password: password.value.clone(),
    };
    Ok(MailSettings::Smtp(SmtpSettings {
        host: server.address.host.clone(),
        port: server.address.port,
        tls: server.tls,
        login: server.login.as_ref().map(login),
        ca: server.ca.as_ref().map(|ca| ca.value.clone()),
        timeout: server.timeout,
    }))
}

/// The way that mail goes, with all that it takes: a password that can't be had is told of now, and fetched again for each
/// connection.
pub(super) fn way_of_mail(manifest: &Manifest) -> Result<Way, ManifestErrors> {
    if let manifest::Mail::Server(manifest::MailServer { login: Some((_, password)), .. }) = &manifest.mail {
        password.resolve().map_err(|error| manifest.error_at(password, error))?;
    }
    let place = manifest.mail.place();
    Way::open(mail_settings(manifest)?)
        .map_err(|error| manifest.error_at(&place, format!("{} for mail can't be made: {error}", manifest.mail)))
}

fn engine(manifest: &Manifest) -> Result<Arc<Engine>, StartError> {
    let cache = manifest.app.data.value.join("cache");
    Engine::new(&cache).map(Arc::new).map_err(|error| StartError::Engine(format!("{error:#}")))
}

/// Reads and compiles all components, several at a time; with a history, what each service is to start with.
async fn load(
    engine: &Arc<Engine>,
    manifest: &Manifest,
    components: &Components,
    history: Option<(&History, StartWith)>,
) -> Result<BTreeMap<String, Loaded>, StartError> {
    let loading = components.iter().map(|(name, path)| async move {
        let wasm = read(manifest, name, path)?;
        let service = manifest.services.get(name).ok_or_else(|| unknown(name))?;
        let (trust, origin) = (trust(service), origin(service, path));
        let loaded = match history {
            Some((history, with)) => Loaded::at_start(engine, &trust, history, name, (wasm, origin), with).await,
            None => Loaded::new(engine, &trust, wasm, origin).await,
        };
        let loaded = loaded.map_err(|error| manifest.error_at(&service.component.place(), error))?;
        Ok::<_, StartError>((name.clone(), loaded))
    });
    Ok(try_join_all(loading).await?.into_iter().collect())
}

pub(super) fn read(manifest: &Manifest, name: &str, path: &Path) -> Result<Vec<u8>, StartError> {
    std::fs::read(path).map_err(|error| {
        let message = format!("the component {} can't be read: {error}", path.display());
        match manifest.services.get(name) {
            Some(service) => manifest.error_at(&service.component.place(), message).into(),
            None => unknown(name),
        }
    })
}

fn unknown(service: &str) -> StartError {
    StartError::Deploy(DeployError::UnknownService { service: service.to_string(), meant: String::new() })
}

/// Where a service's component comes from, in words.
pub(super) fn origin(service: &manifest::Service, path: &Path) -> String {
    match &service.component {
        manifest::Component::Registry(reference) => reference.to_string(),
        _ => path.display().to_string(),
    }
}

/// What the revisions of a service go by.
pub(super) fn terms(
    service: &manifest::Service,
    scope: Arc<Scope>,
    grants: Grants,
    sagas: Option<&Arc<Register>>,
) -> Terms {
    let (settings, policy, trust) = (instances(service), service.rollout.clone(), trust(service));
    Terms { scope, grants, settings, policy, trust, sagas: sagas.cloned() }
}

/// Whose signature the component of a service must carry.
pub(super) fn trust(service: &manifest::Service) -> Trust {
    let given_by = service.signed_by.first().map(|key| key.key.as_str()).unwrap_or_default();
    Trust::new(service.name.as_str(), service.signed_by.iter().map(|key| key.value).collect(), given_by)
}

pub(super) fn grants(manifest: &Manifest) -> BTreeMap<String, Grants> {
    let edges = manifest.edges();
    let grants = manifest.services.iter().map(|(name, service)| {
        let external = service.calls.iter().filter(|callee| manifest.external.contains_key(&callee.value));
        let grants = Grants {
            calls: service.calls.iter().map(|callee| callee.value.clone()).collect(),
            external: external.map(|callee| callee.value.clone()).collect(),
            database: service.database.is_some(),
            buckets: !service.buckets.is_empty(),
            subscribes: !service.subscribes.is_empty(),
            awaits: service.awaits.iter().map(|topic| topic.value.clone()).collect(),
            functions: functions(manifest, name),
            routed: edges.iter().any(|edge| edge.caller == GATEWAY && edge.callee == *name),
        };
        (name.clone(), grants)
    });
    grants.collect()
}

/// The functions that the policies at the edges of this caller name. Of fixed results the types are looked at too, elsewhere.
fn functions(manifest: &Manifest, caller: &str) -> Vec<(String, FunctionList, String)> {
    let edges = manifest.policies.functions.iter().filter(|(ends, _)| ends.caller == caller);
    let named = edges.flat_map(|(ends, written)| written.iter().map(|(list, name)| (&ends.callee, *list, name)));
    let named = named.filter(|(_, list, _)| *list != FunctionList::FixedResults);
    named.map(|(callee, list, name)| (callee.clone(), list, name.value.clone())).collect()
}

fn limits(service: &manifest::Service) -> Limits {
    let memory = usize::try_from(service.limits.memory).unwrap_or(usize::MAX);
    Limits { memory, tables: service.limits.tables }
}

pub(super) fn instances(service: &manifest::Service) -> InstanceSettings {
    let from = service.instances;
    InstanceSettings {
        max: from.max,
        concurrency: from.concurrency,
        reuse: from.reuse,
        queue: from.queue,
        cpu: service.limits.cpu,
    }
}

pub(super) fn gateway_config(manifest: &Manifest) -> GatewayConfig {
    let from = &manifest.gateway;
    GatewayConfig {
        listen: from.listen.value,
        max_header_bytes: usize::try_from(from.max_header_bytes).unwrap_or(usize::MAX),
        max_body_bytes: from.max_body_bytes,
        header_timeout: from.header_timeout,
        body_timeout: from.body_timeout,
        idle_timeout: from.idle_timeout,
        shutdown_grace: from.shutdown_grace,
        max_connections: from.max_connections,
    }
}

pub(super) fn routes(
    manifest: &Manifest,
    document: Option<Arc<ApiDocument>>,
    edges: &Edges,
    marked: &Arc<Marked>,
) -> Result<Routes, StartError> {
    routes_to(manifest, document, |service| {
        // The manifest's own check made sure that each route leads to a service, and so to an edge.
        let edge = edges[&manifest::Edge::new(GATEWAY, service)].clone();
        Arc::new(OverEdge { edge, marked: marked.clone() })
    })
}

/// The routes of a manifest to whatever stands for its services, and to the document.
fn routes_to(
    manifest: &Manifest,
    document: Option<Arc<ApiDocument>>,
    upstream: impl Fn(&str) -> Arc<dyn Upstream>,
) -> Result<Routes, StartError> {
    let mut builder = Routes::builder();
    for route in &manifest.gateway.routes {
        builder.route(Route {
            path: route.path.value.clone(),
            methods: route.methods.listed().to_vec(),
            service: route.service.value.as_str().into(),
            upstream: upstream(&route.service),
            strip_prefix: route.strip_prefix.clone(),
            max_body_bytes: Some(route.max_body_bytes),
            deadline: route.deadline,
            rate_limit: route.rate_limit.clone(),
            idempotent: route.idempotent,
        });
    }
    for aggregate in &manifest.gateway.aggregates {
        let parts = aggregate.parts.iter().map(|(name, part)| Part {
            name: name.clone(),
            service: part.service.value.as_str().into(),
            upstream: upstream(&part.service),
            path: part.path.value.clone(),
            deadline: part.deadline,
            optional: part.optional,
        });
        let rate_limit = aggregate.rate_limit.clone();
        builder.aggregate(Aggregate { path: aggregate.path.value.clone(), parts: parts.collect(), rate_limit });
    }
    if let (Some(named), Some(document)) = (&manifest.gateway.document, &document) {
        builder.document(named.path.value.clone(), document.clone());
    }
    let routes = builder.build()?;
    check_document(manifest, document.as_deref(), &routes)?;
    Ok(routes)
}

/// What the gateway calls by: an edge.
struct OverEdge {
    edge: Arc<Edge>,
    marked: Arc<Marked>,
}

impl Upstream for OverEdge {
    fn call(&self, context: CallContext, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, Fault>> {
        // Also where the mark is for a service that the request comes to only by way of others.
        self.marked.see(request.headers(), &context.trace);
        Box::pin(async move { self.edge.http(&context, request).await })
    }
}
