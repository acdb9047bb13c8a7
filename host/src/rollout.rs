//! Rollout: how a component becomes the revision that calls go to.
//!
//! ```text
//! compile aside  ->  check the fit  ->  link  ->  migrate  ->  warm, ask  ->  swap  ->  drain
//! ```
//!
//! Until the swap nothing of the new revision is visible, and whatever goes wrong before it leaves the old one as it
//! was. The swap is one store of a pointer: a call that came before it ends on the old revision, one that comes after it
//! goes to the new one, and none finds nothing. Where the service's policy has stages, the new revision gets some of the
//! calls before that, and is sent away when it does worse than the old one: see [`staged`].
//!
//! What serves is recorded by the [`History`] just before the swap.

mod change;
mod diff;
mod error;
mod fit;
mod history;
mod loaded;
mod member;
mod rollback;
mod staged;
mod steps;

pub use change::{Change, Changing, Entering};
pub use diff::{Diff, SchemaDiff};
pub use error::DeployError;
pub use fit::Running;
pub use history::{History, HistoryError, Kept, Reversal, Revisions, Serving, Standing};
pub use loaded::Loaded;
pub use member::{Member, Terms};
pub use rollback::{Past, StartWith};
pub use staged::{RolloutEnd, RolloutSnapshot};

use self::{
    error::named,
    staged::{Ready, Staged, Word},
    steps::{in_time, migrate, migrations_of, read_sagas, sagas_go_on, serve_sagas, unrecorded, warm, wrong},
};
use crate::{
    engine::Engine,
    manifest::did_you_mean,
    policy::{RolloutPolicy, Split},
    service::{Marked, Revision, RevisionInfo, Scope, Shape},
    store::MigrateError,
};
use arc_swap::ArcSwap;
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::broadcast;

/// How many rollouts may end before somebody who wants to know of them looks.
const ENDS: usize = 256;

/// All services of an application, and the way to replace them.
pub struct Rollout {
    engine: Arc<Engine>,
    members: ArcSwap<Members>,
    marked: Arc<Marked>,
    history: History,
    /// Told of each rollout by stages that has ended.
    ended: broadcast::Sender<RolloutSnapshot>,
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

/// What a component does that meets a database with migrations which it does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Newer {
    /// It is refused.
    Refused,
    /// It is refused, and the one who asked for it is told that it can be forced.
    Unforced,
    /// It runs all the same, and nothing is migrated.
    Allowed,
}

/// What a component does with which sagas under way can't go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unfit {
    /// It is refused.
    Refused,
    /// It runs all the same, and they are shown.
    Allowed,
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
    /// It gets some of the calls, and its rollout goes on by itself.
    Begun,
    /// It is the very component that ran already, so nothing was done.
    Unchanged,
    /// It had served before and was gone back to.
    RolledBack,
}

/// What is behind these locks is replaced as a whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A record that could not be written is right in memory, and on the disk as soon as another is written.
fn kept_in_mind(written: Result<(), HistoryError>) {
    if let Err(error) = written {
        tracing::error!(%error, "the history on the disk is behind");
    }
}

// === impl Rollout ===

impl Rollout {
    /// A rollout for these services, none of which runs yet.
    pub fn new(engine: Arc<Engine>, members: Members, history: History) -> Arc<Self> {
        let (deploying, shapes, marked) = (tokio::sync::Mutex::default(), Mutex::default(), Arc::default());
        let (members, ended) = (ArcSwap::from_pointee(members), broadcast::Sender::new(ENDS));
        Arc::new(Self { engine, members, marked, history, ended, deploying, shapes })
    }

    /// The rollouts by stages that end from now on.
    pub fn ended(&self) -> broadcast::Receiver<RolloutSnapshot> {
        self.ended.subscribe()
    }

    /// The revisions that there were.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The services.
    pub fn members(&self) -> Arc<Members> {
        self.members.load_full()
    }

    /// The trials that go by a mark of requests; to be asked where requests come in.
    pub fn marked(&self) -> Arc<Marked> {
        self.marked.clone()
    }

    /// The engine that all of them share.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
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
        let mut begun = Vec::new();
        let started = self.start_all(loaded, all, &mut begun).await;
        if started.is_err() {
            for (service, number) in begun {
                // Nobody has seen it, so its number is free again.
                kept_in_mind(self.history.forget(&service, number).await);
            }
        }
        self.tidy().await;
        started
    }

    async fn start_all(
        &self,
        loaded: BTreeMap<String, Loaded>,
        all: Shapes,
        begun: &mut Vec<(String, u64)>,
    ) -> Result<(), DeployError> {
        let mut ready = Vec::new();
        for (name, mut loaded) in loaded {
            let member = self.member(&name)?;
            // What served when the host ended did so on the schema that there was.
            let newer = if loaded.kept.is_some() { Newer::Allowed } else { Newer::Refused };
            let info = self.begin(&member, &mut loaded).await?;
            if loaded.kept.is_none() {
                begun.push((name.clone(), info.number));
            }
            let before = member.applied().await.ok();
            match self.prepare(&member, &loaded, info, &all, (newer, Unfit::Allowed)).await {
                Ok(prepared) => ready.push((member, prepared)),
                Err(error) => {
                    // With the component of before, the next start must find what it needs.
                    self.note_migrations(&member, before, &error.to_string()).await;
                    return Err(error);
                }
            }
        }
        let mut revisions = Vec::new();
        for (member, (revision, serving)) in ready {
            let recorded = self.history.serve(member.service.name(), revision.info().number, serving).await;
            recorded.map_err(|source| unrecorded(&member, source))?;
            revisions.push((member, Arc::new(revision)));
        }
        self.put_in_place(all, revisions.clone(), Duration::ZERO)?;
        for (member, revision) in revisions {
            serve_sagas(&member, &revision).await;
        }
        Ok(())
    }

    /// Replaces the revision of one service by `wasm`, while requests run: by the stages of `policy`, or by those of the
    /// service's own where it is `None`. What runs already is left as it is. `past` says what becomes of one that does not
    /// know all migrations of the database.
    ///
    /// # Errors
    ///
    /// Why it was refused; then the old revision goes on.
    pub async fn deploy(
        self: &Arc<Self>,
        service: &str,
        wasm: impl Into<Bytes>,
        origin: String,
        policy: Option<RolloutPolicy>,
        past: Past,
    ) -> Result<Deployment, DeployError> {
        let member = self.member(service)?;
        let loaded = Loaded::new(&self.engine, &member.terms.trust, wasm, origin).await?;
        let _deploying = self.deploying.lock().await;
        // It may have been changed in between, or be no more.
        let member = self.member(service)?;
        if let Some(staged) = member.under_way() {
            return Err(DeployError::UnderWay { service: service.to_string(), revision: staged.revision.number });
        }
        let before = member.service.revision().map(|revision| revision.info().clone());
        if let Some(before) = before
            && before.hash == loaded.hash
        {
            return Ok(Deployment { revision: before, outcome: Outcome::Unchanged });
        }
        let policy = policy.unwrap_or_else(|| member.terms.policy.clone());
        if !policy.params().stages.is_empty() {
            let info = self.begin_stages(member, loaded, policy, past.into()).await?;
            return Ok(Deployment { revision: info, outcome: Outcome::Begun });
        }
        let info = self.replace(&member, loaded, past.into(), policy.params().drain).await?;
        tracing::info!(service, revision = info.number, hash = &info.hash[..12], origin = info.origin, "deployed");
        Ok(Deployment { revision: info, outcome: Outcome::Deployed })
    }

    /// Begins a rollout by stages, which goes on by itself.
    async fn begin_stages(
        self: &Arc<Self>,
        member: Arc<Member>,
        mut loaded: Loaded,
        policy: RolloutPolicy,
        newer: Newer,
    ) -> Result<RevisionInfo, DeployError> {
        let shape = Arc::new(loaded.shape());
        let mut after = self.running().0.clone();
        after.insert(member.service.name().to_string(), shape.clone());
        self.check(&after)?;
        let info = self.begin(&member, &mut loaded).await?;
        let before = member.applied().await.ok();
        let prepared = async {
            let prepared = self.prepare(&member, &loaded, info.clone(), &after, (newer, Unfit::Refused)).await;
            let (revision, serving) = prepared?;
            let has_shadow = policy.params().stages.iter().any(|stage| stage.split == Split::Shadow);
            let shadow = if has_shadow {
                // The schema is up to date, and the revision has been asked whether it is ready.
                let scope = Arc::new(member.terms.scope.without_effects());
                let shadow = self.link(&member, &loaded, info.clone(), &scope, &after)?;
                in_time(shadow.warm()).await.map_err(|source| wrong(&member, source))?;
                Some(shadow)
            } else {
                None
            };
            Ok((revision, serving, shadow))
        };
        let (revision, serving, shadow) = match prepared.await {
            Ok(prepared) => prepared,
            Err(error) => return Err(self.failed(&member, &loaded, info.number, before, error).await),
        };
        let staged = Staged::new(info.clone(), shape, policy);
        *lock(&member.staged) = Some(staged.clone());
        tokio::spawn(self.clone().go_through(staged, Ready { member, revision, serving, shadow }));
        Ok(info)
    }

    /// Ends a staged rollout before its time: the new revision gets all calls.
    ///
    /// # Errors
    ///
    /// When none is under way.
    pub fn promote(&self, service: &str) -> Result<RolloutSnapshot, DeployError> {
        self.say(service, Word::Promote)
    }

    /// Ends a staged rollout before its time: the old revision gets all calls again.
    ///
    /// # Errors
    ///
    /// When none is under way.
    pub fn undo(&self, service: &str, reason: String) -> Result<RolloutSnapshot, DeployError> {
        self.say(service, Word::Undo(reason))
    }

    fn say(&self, service: &str, word: Word) -> Result<RolloutSnapshot, DeployError> {
        let member = self.member(service)?;
        let staged = member.under_way().ok_or_else(|| DeployError::NoRollout(service.to_string()))?;
        staged.say(word);
        Ok(staged.snapshot(service))
    }

    /// The staged rollout of a service that is under way, or was the last.
    ///
    /// # Errors
    ///
    /// When there was none since the start.
    pub fn progress(&self, service: &str) -> Result<RolloutSnapshot, DeployError> {
        self.member(service)?.rollout().ok_or_else(|| DeployError::NoRollout(service.to_string()))
    }

    /// Takes account of which trials go by a mark.
    fn note_marked(&self) {
        let trials: Vec<_> =
            self.members().values().filter_map(|member| lock(&member.staged).as_ref()?.trial()).collect();
        self.marked.set(trials.iter());
    }

    /// Puts a component in the place of what serves, and keeps a record of how that went.
    async fn replace(
        &self,
        member: &Arc<Member>,
        mut loaded: Loaded,
        newer: Newer,
        drain: Duration,
    ) -> Result<RevisionInfo, DeployError> {
        let name = member.service.name();
        let mut after = self.running().0.clone();
        after.insert(name.to_string(), Arc::new(loaded.shape()));
        self.check(&after)?;
        let info = self.begin(member, &mut loaded).await?;
        let before = member.applied().await.ok();
        let shifted = match self.prepare(member, &loaded, info.clone(), &after, (newer, Unfit::Refused)).await {
            Ok((revision, serving)) => self.shift(member, Arc::new(revision), serving, after, drain).await,
            Err(error) => Err(error),
        };
        match shifted {
            Ok(()) => Ok(info),
            Err(error) => Err(self.failed(member, &loaded, info.number, before, error).await),
        }
    }

    /// A component did not come to serve: what is said of that, and recorded.
    async fn failed(
        &self,
        member: &Member,
        loaded: &Loaded,
        number: u64,
        before: Option<Vec<String>>,
        error: DeployError,
    ) -> DeployError {
        let error = self.explained(error, &loaded.hash);
        let error = match self.note_migrations(member, before, &error.to_string()).await {
            Some((number, known, applied)) => {
                DeployError::AfterMigrating { source: error.into(), number, known, applied }
            }
            None => error,
        };
        if loaded.kept.is_none() {
            let (name, why) = (member.service.name(), error.to_string());
            kept_in_mind(self.history.end(name, number, Standing::Failed, why).await);
        }
        error
    }

    /// The record says that it serves, and then it does.
    async fn shift(
        &self,
        member: &Arc<Member>,
        revision: Arc<Revision>,
        serving: Serving,
        after: Shapes,
        drain: Duration,
    ) -> Result<(), DeployError> {
        let (name, number) = (member.service.name(), revision.info().number);
        // Others may have been started since it was prepared.
        sagas_go_on(member, &revision).await?;
        let recorded = self.history.serve(name, number, serving).await;
        let reversal = recorded.map_err(|source| unrecorded(member, source))?;
        let placed = self.put_in_place(after, [(member.clone(), revision.clone())], drain);
        match &placed {
            Ok(()) => serve_sagas(member, &revision).await,
            Err(error) => kept_in_mind(self.history.put_back(name, reversal, error.to_string()).await),
        }
        self.tidy().await;
        placed
    }

    /// Lets compiled code go that no revision is of any more. That goes on by itself: nobody waits for it.
    async fn tidy(&self) {
        let (engine, needed) = (self.engine.clone(), self.history.components().await);
        tokio::task::spawn_blocking(move || engine.cache().tidy(&needed));
    }

    /// Numbers a component and keeps it; one that is kept has its number.
    async fn begin(&self, member: &Member, loaded: &mut Loaded) -> Result<RevisionInfo, DeployError> {
        if let Some(kept) = &loaded.kept {
            return Ok(kept.revision.clone());
        }
        let name = member.service.name();
        let info = RevisionInfo {
            number: 0,
            hash: loaded.hash.clone(),
            origin: loaded.origin.clone(),
            loaded: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            metadata: loaded.metadata.clone(),
        };
        let begun = self.history.begin(name, std::mem::take(&mut loaded.wasm), info).await;
        begun.map_err(|source| unrecorded(member, source))
    }

    /// After a component failed: whether it had migrated by then. If so the revision that goes on lags, and that is
    /// recorded; gives its number, how many migrations there were before, and the names of the new ones.
    async fn note_migrations(
        &self,
        member: &Member,
        before: Option<Vec<String>>,
        error: &str,
    ) -> Option<(u64, u32, Vec<String>)> {
        let (name, before) = (member.service.name(), before?);
        let mut applied = member.applied().await.ok()?;
        let current = self.history.current(name).await?.revision.number;
        let new = (applied.len() > before.len()).then(|| applied.split_off(before.len()))?;
        let known = u32::try_from(before.len()).unwrap_or(u32::MAX);
        let why = format!("{} was applied for a revision that failed: {error}", named(known, &new));
        kept_in_mind(self.history.lag(name, why).await);
        Some((current, known, new))
    }

    /// Ends all services: calls that come from now on find them `unreachable`, those in flight end as they would.
    pub fn stop(&self) {
        for member in self.members().values() {
            if let Some(staged) = member.under_way() {
                staged.say(Word::Undo("the host stops".into()));
            }
            member.service.swap(None);
        }
    }

    /// The swap. Should a policy have changed since the shapes were checked, so that it does not fit them any more, nothing
    /// is done. What is replaced may finish what it has begun within `drain`.
    fn put_in_place(
        &self,
        shapes: Shapes,
        revisions: impl IntoIterator<Item = (Arc<Member>, Arc<Revision>)>,
        drain: Duration,
    ) -> Result<(), DeployError> {
        let mut running = self.running();
        for (edge, results) in self.fixed_results(&shapes).map_err(DeployError::Misfit)? {
            edge.set_fixed_results(results);
        }
        for (member, revision) in revisions {
            if let Some(before) = member.service.swap(Some(revision)) {
                member.retire(before, drain);
            }
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
        let runs =
            |member: &Arc<Member>| member.service.revision().is_some_and(|revision| revision.info().hash == hash);
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
    async fn prepare(
        &self,
        member: &Member,
        loaded: &Loaded,
        info: RevisionInfo,
        shapes: &Shapes,
        (newer, unfit): (Newer, Unfit),
    ) -> Result<(Revision, Serving), DeployError> {
        let revision = self.link(member, loaded, info, &member.terms.scope, shapes)?;
        read_sagas(member, &revision).await?;
        if unfit == Unfit::Refused {
            sagas_go_on(member, &revision).await?;
        }
        let migrations = migrations_of(member, &revision).await?;
        let serving = migrate(member, loaded, &revision, &migrations, newer).await?;
        warm(member, &revision).await?;
        Ok((revision, serving))
    }

    /// A new revision, not yet to be called.
    fn link(
        &self,
        member: &Member,
        loaded: &Loaded,
        info: RevisionInfo,
        scope: &Arc<Scope>,
        shapes: &Shapes,
    ) -> Result<Revision, DeployError> {
        let (component, grants) = (&loaded.component, &member.terms.grants);
        Revision::link(&self.engine, component, info, scope, grants, shapes, member.terms.settings)
            .map_err(|source| wrong(member, source))
    }
}
