//! Rollout: how a component becomes the revision that calls go to.
//!
//! ```text
//! compile aside  ->  check the fit  ->  link  ->  migrate  ->  warm  ->  swap  ->  drain
//! ```
//!
//! Until the swap nothing of the new revision is visible, and whatever goes wrong before it leaves the old one as it
//! was. The swap is one store of a pointer: a call that came before it ends on the old revision, one that comes after it
//! goes to the new one, and none finds nothing.

use crate::{
    engine::{CacheError, CodeCache, Engine},
    manifest::did_you_mean,
    policy::FallbackPolicy,
    service::{
        Edge, FixedResults, Grants, InstanceSettings, Misfit, Revision, RevisionError, RevisionInfo, Scope, Service,
        Shape, misfits,
    },
    store::MigrateError,
    trust::{Distrust, Trust},
};
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
    members: BTreeMap<String, Member>,
    grants: BTreeMap<String, Grants>,
    /// Locked for the whole of a deploy: two at a time could each fit what was there and not each other.
    deploying: tokio::sync::Mutex<()>,
    /// The shapes of what runs now. Locked while a revision or a policy is put in place, because what a policy says of
    /// functions must fit the component: see [`Running`].
    shapes: Mutex<Shapes>,
}

type Shapes = BTreeMap<String, Arc<Shape>>;

/// The components that run, and no other is put in their place as long as this is there.
pub struct Running<'a>(MutexGuard<'a, Shapes>);

/// What a rollout has to know of one service.
pub struct Member {
    /// Where calls come in.
    pub service: Arc<Service>,
    /// What it may do.
    pub scope: Arc<Scope>,
    /// How its instances are used.
    pub settings: InstanceSettings,
    /// Whose signature its component must carry.
    pub trust: Trust,
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
    /// Nobody has signed it who would have to.
    #[error(transparent)]
    Untrusted(#[from] Distrust),
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
    /// Compiles `wasm`, or finds it compiled, if it is to be trusted. Takes its time on a thread of its own.
    ///
    /// # Errors
    ///
    /// [`DeployError::Untrusted`] for what the right people did not sign, [`DeployError::Load`] for what is no component.
    pub async fn new(engine: &Arc<Engine>, trust: &Trust, wasm: Vec<u8>, origin: String) -> Result<Self, DeployError> {
        let (aside, trust) = (engine.clone(), trust.clone());
        let compiled = tokio::task::spawn_blocking(move || {
            // Before anything else: the compiler is large, and what is not trusted must not come near it.
            trust.check(&wasm)?;
            let hash = CodeCache::content_hash(&wasm);
            let component = aside.cache().load(aside.wasmtime(), &wasm, &hash);
            Ok::<_, Distrust>(component.map(|component| (component, hash)))
        });
        match compiled.await {
            Ok(Ok(Ok((component, hash)))) => Ok(Self { component, hash, origin }),
            Ok(Err(distrust)) => Err(DeployError::Untrusted(distrust)),
            Ok(Ok(Err(source))) => Err(DeployError::Load { origin, source }),
            Err(panic) => {
                let source = CacheError::Compile(format!("the compiler failed: {panic}"));
                Err(DeployError::Load { origin, source })
            }
        }
    }

    /// Its shape.
    pub fn shape(&self) -> Shape {
        Shape::of(&self.component)
    }
}

// === impl Member ===

impl Member {
    /// A service that has no revision yet.
    pub fn new(service: Arc<Service>, scope: Arc<Scope>, settings: InstanceSettings) -> Self {
        Self { service, scope, settings, trust: Trust::everybody(), latest: Mutex::new(0) }
    }

    /// The same service, which takes only components that these have signed.
    pub fn trusting(self, trust: Trust) -> Self {
        Self { trust, ..self }
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
    pub fn new(engine: Arc<Engine>, members: BTreeMap<String, Member>, grants: BTreeMap<String, Grants>) -> Self {
        Self { engine, members, grants, deploying: tokio::sync::Mutex::default(), shapes: Mutex::default() }
    }

    /// The services.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
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
            ready.push((member, self.prepare(member, loaded, &all).await?));
        }
        self.put_in_place(all, ready)
    }

    /// Replaces the revision of one service by `wasm`, while requests run. What runs already is left as it is.
    ///
    /// # Errors
    ///
    /// Why it was refused; then the old revision goes on.
    pub async fn deploy(&self, service: &str, wasm: Vec<u8>, origin: String) -> Result<Deployment, DeployError> {
        let member = self.member(service)?;
        let loaded = Loaded::new(&self.engine, &member.trust, wasm, origin).await?;
        let _deploying = self.deploying.lock().await;
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
        let revision = self.prepare(member, loaded, &after).await.map_err(|error| self.explained(error, &hash))?;
        let info = revision.info().clone();
        self.put_in_place(after, [(member, revision)])?;
        tracing::info!(service, revision = info.number, hash = &info.hash[..12], origin = info.origin, "deployed");
        Ok(Deployment { revision: info, outcome: Outcome::Deployed })
    }

    /// Ends all services: calls that come from now on find them `unreachable`, those in flight end as they would.
    pub fn stop(&self) {
        for member in self.members.values() {
            member.service.swap(None);
        }
    }

    /// Whether components of these shapes fit each other and what is granted and declared.
    fn check(&self, shapes: &Shapes) -> Result<(), DeployError> {
        let mut found = misfits(shapes, &self.grants);
        found.extend(self.fixed_results(shapes).err().into_iter().flatten());
        if found.is_empty() { Ok(()) } else { Err(DeployError::Misfit(found)) }
    }

    /// The fixed results of all edges, for components of these shapes.
    fn fixed_results(&self, shapes: &Shapes) -> Result<Vec<(&Arc<Edge>, FixedResults)>, Vec<Misfit>> {
        let (mut results, mut found) = (Vec::new(), Vec::new());
        for (caller, member) in &self.members {
            let edges: BTreeMap<_, _> = member.scope.edges.iter().collect();
            for (callee, edge) in edges {
                match fixed_results(shapes, (caller, callee), &edge.fallback()) {
                    Ok(of_edge) => results.push((edge, of_edge)),
                    Err(more) => found.extend(more),
                }
            }
        }
        if found.is_empty() { Ok(results) } else { Err(found) }
    }

    /// The swap. Should a policy have changed since the shapes were checked, so that it does not fit them any more, nothing
    /// is done.
    fn put_in_place<'a>(
        &self,
        shapes: Shapes,
        revisions: impl IntoIterator<Item = (&'a Member, Revision)>,
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

    fn member(&self, service: &str) -> Result<&Member, DeployError> {
        self.members.get(service).ok_or_else(|| {
            let meant = did_you_mean(service, self.members.keys().map(String::as_str));
            DeployError::UnknownService { service: service.to_string(), meant }
        })
    }

    /// A component whose migrations are strange to the database is mostly one that was deployed on the wrong service.
    fn explained(&self, error: DeployError, hash: &str) -> DeployError {
        let runs = |member: &Member| member.service.revision().is_some_and(|revision| revision.info().hash == hash);
        match error {
            DeployError::Migrate { service, source: source @ MigrateError::Foreign { .. } } => {
                match self.members.iter().find(|(_, member)| runs(member)) {
                    Some((owner, _)) => DeployError::Swapped { service, owner: owner.clone(), source: source.into() },
                    None => DeployError::Migrate { service, source },
                }
            }
            other => other,
        }
    }

    /// Everything that comes before the swap.
    async fn prepare(
        &self,
        member: &Member,
        loaded: Loaded,
        shapes: &BTreeMap<String, Arc<Shape>>,
    ) -> Result<Revision, DeployError> {
        let service = member.service.name().to_string();
        let wrong = |source| DeployError::Revision { service: service.clone(), source };
        let info = RevisionInfo {
            number: member.next_number(),
            hash: loaded.hash,
            origin: loaded.origin,
            loaded: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        };
        let grants = self.grants.get(&service).cloned().unwrap_or_default();
        let revision =
            Revision::link(&self.engine, &loaded.component, info, &member.scope, &grants, shapes, member.settings)
                .map_err(wrong)?;
        if let Some(database) = &member.scope.database {
            let migrations = in_time(revision.migrations()).await.map_err(wrong)?;
            let migrated = database.migrate(&migrations).await;
            migrated.map_err(|source| DeployError::Migrate { service: service.clone(), source })?;
        }
        in_time(revision.warm()).await.map_err(wrong)?;
        Ok(revision)
    }
}
