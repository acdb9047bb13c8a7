//! Rollout: how a component becomes the revision that calls go to.
//!
//! ```text
//! compile aside  ->  check the fit  ->  link  ->  migrate  ->  warm  ->  swap  ->  drain
//! ```
//!
//! Until the swap nothing of the new revision is visible, and whatever goes wrong before it leaves the old one as it
//! was. The swap is one store of a pointer: a call that came before it ends on the old revision, one that comes after it
//! goes to the new one, and none finds nothing.

mod change;

pub use change::{Change, Changing};

use crate::{
    engine::{CacheError, CodeCache, Engine},
    manifest::did_you_mean,
    policy::FallbackPolicy,
    service::{
        Edge, FixedResults, Grants, InstanceSettings, Misfit, Revision, RevisionError, RevisionInfo, Scope, Service,
        Shape, misfits,
    },
    store::MigrateError,
};
use arc_swap::ArcSwap;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::timeout;
use wasmtime::component::Component;

/// A first instance that takes longer than this to come up is given up.
const WARM_LIMIT: Duration = Duration::from_secs(10);

/// All services of an application, and the way to replace them.
pub struct Rollout {
    engine: Arc<Engine>,
    members: ArcSwap<Members>,
    /// Locked for the whole of a deploy: two at a time could each fit what was there and not each other.
    deploying: tokio::sync::Mutex<()>,
    /// The shapes of what runs now. Locked while a revision or a policy is put in place, because what a policy says of
    /// functions must fit the component: see [`Running`].
    shapes: Mutex<Shapes>,
}

/// Services by name.
pub type Members = BTreeMap<String, Arc<Member>>;

/// What components need and offer, by the names of their services.
pub type Shapes = BTreeMap<String, Arc<Shape>>;

/// The components that run, and no other is put in their place as long as this is there.
pub struct Running<'a>(MutexGuard<'a, Shapes>);

/// What a rollout has to know of one service.
pub struct Member {
    /// Where calls come in.
    pub service: Arc<Service>,
    /// What it may do.
    pub scope: Arc<Scope>,
    /// What components must agree with of that.
    pub grants: Grants,
    /// How its instances are used.
    pub settings: InstanceSettings,
    /// The number of its latest revision.
    pub latest: Mutex<u64>,
}

/// A component, read and compiled.
pub struct Loaded {
    component: Component,
    hash: String,
    origin: String,
}

/// What a deploy that succeeded has done.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Deployment {
    /// The revision that runs.
    #[serde(flatten)]
    pub revision: RevisionInfo,
    /// How it came to.
    pub outcome: Outcome,
}

/// How a deployed component came to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It took the place of another.
    Deployed,
    /// It is the very component that ran already, so nothing was done.
    Unchanged,
}

/// Why a component did not become a revision.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// The manifest has no such service.
    #[error("there is no service `{service}`{meant}")]
    UnknownService {
        /// The name that was given.
        service: String,
        /// The name that was meant, in words; empty where none is near.
        meant: String,
    },
    /// It is no component, or can't be compiled.
    #[error("{origin} can't be loaded: {source}")]
    Load {
        /// Where it came from.
        origin: String,
        /// What is wrong.
        source: CacheError,
    },
    /// It does not fit the manifest or its neighbours.
    #[error("{}", listed(.0))]
    Misfit(Vec<Misfit>),
    /// It can't be linked or instantiated.
    #[error("service `{service}`: {source}")]
    Revision {
        /// The service.
        service: String,
        /// What is wrong.
        source: RevisionError,
    },
    /// Its schema can't be brought up to date.
    #[error("service `{service}`: {source}")]
    Migrate {
        /// The service.
        service: String,
        /// What is wrong.
        source: MigrateError,
    },
    /// It belongs to another service.
    #[error("service `{service}`: this is the component of service `{owner}`: its {source}")]
    Swapped {
        /// The service that it was meant for.
        service: String,
        /// The one that runs it.
        owner: String,
        /// How it shows.
        source: Box<MigrateError>,
    },
}

fn listed(misfits: &[Misfit]) -> String {
    misfits.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// What a guest does before it gets calls has a limit of its own: there is no caller with a deadline.
async fn in_time<T>(step: impl Future<Output = Result<T, RevisionError>>) -> Result<T, RevisionError> {
    timeout(WARM_LIMIT, step).await.unwrap_or(Err(RevisionError::Late(WARM_LIMIT)))
}

// === impl Loaded ===

impl Loaded {
    /// Compiles `wasm`, or finds it compiled. Takes its time on a thread of its own.
    ///
    /// # Errors
    ///
    /// [`DeployError::Load`] for what is no component.
    pub async fn new(engine: &Arc<Engine>, wasm: Vec<u8>, origin: String) -> Result<Self, DeployError> {
        let aside = engine.clone();
        let compiled = tokio::task::spawn_blocking(move || {
            let hash = CodeCache::content_hash(&wasm);
            let component = aside.cache().load(aside.wasmtime(), &wasm, &hash);
            component.map(|component| (component, hash))
        });
        match compiled.await {
            Ok(Ok((component, hash))) => Ok(Self { component, hash, origin }),
            Ok(Err(source)) => Err(DeployError::Load { origin, source }),
            Err(panic) => {
                let source = CacheError::Compile(format!("the compiler failed: {panic}"));
                Err(DeployError::Load { origin, source })
            }
        }
    }

    /// What a revision is of: to be linked otherwise.
    pub fn again(revision: &Revision) -> Self {
        let RevisionInfo { hash, origin, .. } = revision.info().clone();
        Self { component: revision.component().clone(), hash, origin }
    }

    /// Its shape.
    pub fn shape(&self) -> Shape {
        Shape::of(&self.component)
    }

    /// SHA-256 of the component.
    pub fn hash(&self) -> &str {
        &self.hash
    }
}

// === impl Member ===

impl Member {
    /// A service that has no revision yet.
    pub fn new(service: Arc<Service>, scope: Arc<Scope>, grants: Grants, settings: InstanceSettings) -> Self {
        Self { service, scope, grants, settings, latest: Mutex::new(0) }
    }

    /// The same service with another scope, other grants or settings. Its revisions are counted on.
    ///
    /// NB: while nobody deploys, see [`Rollout::changing`].
    #[must_use]
    pub fn changed(&self, scope: Arc<Scope>, grants: Grants, settings: InstanceSettings) -> Self {
        let latest = *self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        Self { service: self.service.clone(), scope, grants, settings, latest: Mutex::new(latest) }
    }

    fn next_number(&self) -> u64 {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        *latest += 1;
        *latest
    }
}

/// The fixed results that an edge has by this policy; none where it ends outside.
fn fixed_results(
    shapes: &Shapes,
    (caller, callee): (&str, &str),
    policy: &FallbackPolicy,
) -> Result<FixedResults, Vec<Misfit>> {
    let shape = shapes.get(callee);
    shape.map_or_else(|| Ok(FixedResults::default()), |shape| FixedResults::new(caller, callee, policy, shape))
}

// === impl Running ===

impl Running<'_> {
    /// The fixed results that the edge between these two has by this policy.
    ///
    /// # Errors
    ///
    /// Each that does not fit the component.
    pub fn fixed_results(
        &self,
        caller: &str,
        callee: &str,
        policy: &FallbackPolicy,
    ) -> Result<FixedResults, Vec<Misfit>> {
        fixed_results(&self.0, (caller, callee), policy)
    }
}

// === impl Rollout ===

impl Rollout {
    /// A rollout for these services, none of which runs yet.
    pub fn new(engine: Arc<Engine>, members: Members) -> Self {
        let members = ArcSwap::from_pointee(members);
        Self { engine, members, deploying: tokio::sync::Mutex::default(), shapes: Mutex::default() }
    }

    /// The services.
    pub fn members(&self) -> Arc<Members> {
        self.members.load_full()
    }

    /// The engine that all of them share.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Holds what runs as it is, for as long as policies are put in place.
    pub fn running(&self) -> Running<'_> {
        // What is in it is replaced as a whole.
        Running(self.shapes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Starts all services: none gets a call before all of them are ready.
    ///
    /// # Errors
    ///
    /// The first thing that keeps one from running. Then none runs.
    pub async fn start(&self, loaded: BTreeMap<String, Loaded>) -> Result<(), DeployError> {
        let _deploying = self.deploying.lock().await;
        let all: Shapes = loaded.iter().map(|(name, loaded)| (name.clone(), Arc::new(loaded.shape()))).collect();
        self.check(&all)?;
        let mut ready = Vec::new();
        for (name, loaded) in loaded {
            let member = self.member(&name)?;
            let revision = self.prepare(&member, loaded, &all).await?;
            ready.push((member, revision));
        }
        self.put_in_place(all, ready)
    }

    /// Replaces the revision of one service by `wasm`, while requests run. What runs already is left as it is.
    ///
    /// # Errors
    ///
    /// Why it was refused; then the old revision goes on.
    pub async fn deploy(&self, service: &str, wasm: Vec<u8>, origin: String) -> Result<Deployment, DeployError> {
        self.member(service)?;
        let loaded = Loaded::new(&self.engine, wasm, origin).await?;
        let _deploying = self.deploying.lock().await;
        // It may have been changed in between, or be no more.
        let member = self.member(service)?;
        let before = member.service.revision().map(|revision| revision.info().clone());
        if let Some(before) = before
            && before.hash == loaded.hash
        {
            return Ok(Deployment { revision: before, outcome: Outcome::Unchanged });
        }
        let mut after = self.running().0.clone();
        after.insert(service.to_string(), Arc::new(loaded.shape()));
        self.check(&after)?;
        let hash = loaded.hash.clone();
        let revision = self.prepare(&member, loaded, &after).await.map_err(|error| self.explained(error, &hash))?;
        let info = revision.info().clone();
        self.put_in_place(after, [(member, revision)])?;
        tracing::info!(service, revision = info.number, hash = &info.hash[..12], origin = info.origin, "deployed");
        Ok(Deployment { revision: info, outcome: Outcome::Deployed })
    }

    /// Ends all services: calls that come from now on find them `unreachable`, those in flight end as they would.
    pub fn stop(&self) {
        for member in self.members().values() {
            member.service.swap(None);
        }
    }

    /// Whether components of these shapes fit each other and what is granted and declared.
    fn check(&self, shapes: &Shapes) -> Result<(), DeployError> {
        let grants = self.members().iter().map(|(name, member)| (name.clone(), member.grants.clone())).collect();
        let mut found = misfits(shapes, &grants);
        found.extend(self.fixed_results(shapes).err().into_iter().flatten());
        if found.is_empty() { Ok(()) } else { Err(DeployError::Misfit(found)) }
    }

    /// The fixed results of all edges, for components of these shapes.
    fn fixed_results(&self, shapes: &Shapes) -> Result<Vec<(Arc<Edge>, FixedResults)>, Vec<Misfit>> {
        let (mut results, mut found) = (Vec::new(), Vec::new());
        for (caller, member) in &*self.members() {
            let edges: BTreeMap<_, _> = member.scope.edges.iter().collect();
            for (callee, edge) in edges {
                match fixed_results(shapes, (caller, callee), &edge.fallback()) {
                    Ok(of_edge) => results.push((edge.clone(), of_edge)),
                    Err(more) => found.extend(more),
                }
            }
        }
        if found.is_empty() { Ok(results) } else { Err(found) }
    }

    /// The swap. Should a policy have changed since the shapes were checked, so that it does not fit them any more, nothing
    /// is done.
    fn put_in_place(
        &self,
        shapes: Shapes,
        revisions: impl IntoIterator<Item = (Arc<Member>, Revision)>,
    ) -> Result<(), DeployError> {
        let mut running = self.running();
        for (edge, results) in self.fixed_results(&shapes).map_err(DeployError::Misfit)? {
            edge.set_fixed_results(results);
        }
        for (member, revision) in revisions {
            member.service.swap(Some(Arc::new(revision)));
        }
        *running.0 = shapes;
        Ok(())
    }

    fn member(&self, service: &str) -> Result<Arc<Member>, DeployError> {
        let members = self.members.load();
        members.get(service).cloned().ok_or_else(|| {
            let meant = did_you_mean(service, members.keys().map(String::as_str));
            DeployError::UnknownService { service: service.to_string(), meant }
        })
    }

    /// A component whose migrations are strange to the database is mostly one that was deployed on the wrong service.
    fn explained(&self, error: DeployError, hash: &str) -> DeployError {
        let runs = |member: &Member| member.service.revision().is_some_and(|revision| revision.info().hash == hash);
        match error {
            DeployError::Migrate { service, source: source @ MigrateError::Foreign { .. } } => {
                match self.members().iter().find(|(_, member)| runs(member)) {
                    Some((owner, _)) => DeployError::Swapped { service, owner: owner.clone(), source: source.into() },
                    None => DeployError::Migrate { service, source },
                }
            }
            other => other,
        }
    }

    /// Everything that comes before the swap.
    async fn prepare(&self, member: &Member, loaded: Loaded, shapes: &Shapes) -> Result<Revision, DeployError> {
        let revision = self.link(member, loaded, shapes)?;
        if let Some(database) = &member.scope.database {
            let migrations = in_time(revision.migrations()).await.map_err(|source| wrong(member, source))?;
            let migrated = database.migrate(&migrations).await;
            migrated.map_err(|source| not_migrated(member, source))?;
        }
        in_time(revision.warm()).await.map_err(|source| wrong(member, source))?;
        Ok(revision)
    }

    /// A new revision, not yet to be called.
    fn link(&self, member: &Member, loaded: Loaded, shapes: &Shapes) -> Result<Revision, DeployError> {
        let info = RevisionInfo {
            number: member.next_number(),
            hash: loaded.hash,
            origin: loaded.origin,
            loaded: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        };
        let (scope, grants) = (&member.scope, &member.grants);
        Revision::link(&self.engine, &loaded.component, info, scope, grants, shapes, member.settings)
            .map_err(|source| wrong(member, source))
    }
}

fn wrong(member: &Member, source: RevisionError) -> DeployError {
    DeployError::Revision { service: member.service.name().to_string(), source }
}

fn not_migrated(member: &Member, source: MigrateError) -> DeployError {
    DeployError::Migrate { service: member.service.name().to_string(), source }
}
