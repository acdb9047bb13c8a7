//! The sagas of one service, for those who start them, tell them something and look at them.

use super::{
    Counts, Definition, Error, Filter, MAX_ID, MAX_INPUT, MAX_WAIT, OpenError, Page, Settings, Snapshot, StepView,
    Steps, Summary, Unmet, View,
    lacking::lacking,
    machine::{At, Machine, Millis, Word},
    rows,
    runner::{
        self, Shared, Start, Started,
        saga::{Saga, rfc3339},
    },
};
use crate::{
    events::Event,
    policy::{Fault, FaultKind},
    store::{self, Database},
    telemetry::TraceContext,
};
use futures::future::join_all;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Duration, Instant, timeout_at},
};

/// The sagas of one service. Clones are the same sagas; when the last is dropped, those under way are given up, and go on
/// when they are opened again.
#[derive(Clone)]
pub struct Sagas(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    watch: Mutex<Option<JoinHandle<()>>>,
}

// === impl Sagas ===

impl Sagas {
    /// Opens the sagas in the database of `service`, whose component knows these definitions, and moves on those that are
    /// under way.
    ///
    /// # Errors
    ///
    /// When the definitions can't be, or the database can't be read or written.
    pub async fn open(
        service: impl Into<Arc<str>>,
        database: Database,
        definitions: Vec<Definition>,
        steps: Arc<dyn Steps>,
        settings: Settings,
    ) -> Result<Self, OpenError> {
        let service = service.into();
        let wrong =
            |error: store::Error| OpenError::Database { service: service.clone(), reason: error.words().to_owned() };
        Definition::check_all(&definitions)
            .map_err(|reason| OpenError::Definition { service: service.clone(), reason })?;
        rows::prepare(&database).await.map_err(wrong)?;
        let shared = Arc::new(Shared::new(service.clone(), database, settings, steps));
        // Without any, the first revision is still to come.
        if !definitions.is_empty() {
            shared.known.serve();
        }
        shared.known.set(&shared.database, definitions).await.map_err(wrong)?;
        let watch = shared.open().await.map_err(wrong)?;
        Ok(Self(Arc::new(Inner { shared, watch: Mutex::new(Some(watch)) })))
    }

    /// Starts a saga with its first state, a JSON object. When this returns, it is written: it will end. Where it was started
    /// before with the same input, this is how it stands.
    ///
    /// # Errors
    ///
    /// When there is no such saga, the id or the input is none, it was started with another input, as many as may be are
    /// under way, or the database did not do its part.
    pub async fn start(&self, saga: &str, id: &str, input: &[u8]) -> Result<Snapshot, Error> {
        self.start_in(TraceContext::root(), saga, id, input).await
    }

    /// As [`start`](Self::start), in a trace that there is: all calls of the saga belong to it, however often the host is
    /// started anew, and who tells it something.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn start_in(&self, trace: TraceContext, saga: &str, id: &str, input: &[u8]) -> Result<Snapshot, Error> {
        let shared = &self.0.shared;
        check_id(id)?;
        let input = read_input(input)?;
        let digest = input_digest(&input);
        let Some((definition_digest, definition)) = shared.known.current().get(saga).cloned() else {
            return Err(Error::NotFound(self.unknown(saga)));
        };
        if !shared.is_open() {
            return Err(Fault::new(FaultKind::Unreachable, "the host is about to end; no saga is started").into());
        }
        let before = |row: rows::Row| {
            if row.input == digest { Ok(runner::snapshot(&row)) } else { Err(Error::Conflict) }
        };
        let (service, settings) = (&shared.service, shared.settings());
        if shared.under_way() >= settings.max {
            // One that was started before is told of, however many there are.
            if let Some(row) = self.find(saga, id).await? {
                return before(row);
            }
            let full = format!("service `{service}` has {} sagas under way, and may have no more", settings.max);
            return Err(Fault::new(FaultKind::Overloaded, full).into());
        }
        let now = shared.now();
        let machine = Machine::start(definition, shared.tries(), settings.timeout, trace, now);
        let begun = Saga::new(shared.next_number(now), id, now, machine, input);
        let (reply, replied) = oneshot::channel();
        shared.start(Start { saga: begun, definition: definition_digest, input: digest, reply });
        match replied.await {
            Ok(Started::Now(snapshot)) => return Ok(snapshot),
            Ok(Started::Before) => {
                if let Some(row) = self.find(saga, id).await? {
                    return before(row);
                }
            }
            Ok(Started::Fault(error)) => return Err(shared.fault(&error).into()),
            Err(_) => {}
        }
        let unknown = "it is not known whether the saga was started; start it again with the same id and input";
        Err(Fault::new(FaultKind::Cancelled, unknown).into())
    }

    /// How a saga stands.
    ///
    /// # Errors
    ///
    /// When there is none, or the database did not do its part.
    pub async fn get(&self, saga: &str, id: &str) -> Result<Snapshot, Error> {
        Ok(runner::snapshot(&self.row(saga, id).await?))
    }

    /// How a saga stands when it has ended, or when this time has passed, of which at most [`MAX_WAIT`] counts.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get), and when too many wait.
    pub async fn wait(&self, saga: &str, id: &str, timeout: Duration) -> Result<Snapshot, Error> {
        let shared = &self.0.shared;
        let deadline = Instant::now() + timeout.min(MAX_WAIT);
        // NB: before it is read, so that no end comes in between.
        let Some(mut waiter) = shared.wait(saga, id) else {
            let many = format!("{} wait for the end of a saga already, and no more may", shared.settings().waiters);
            return Err(Fault::new(FaultKind::Overloaded, many).into());
        };
        loop {
            let snapshot = self.get(saga, id).await?;
            if snapshot.status.has_ended() || Instant::now() >= deadline || !shared.is_open() {
                return Ok(snapshot);
            }
            // Where another host moves it on, only the database tells of its end.
            let look = if shared.leads() { deadline } else { Instant::now() + shared.settings().look_every_shared };
            match timeout_at(look.min(deadline), &mut waiter.end).await {
                Ok(Ok(snapshot)) => return Ok(snapshot),
                Ok(Err(_)) => return self.get(saga, id).await,
                Err(_) => {}
            }
        }
    }

    /// An event came. Returns when it is written with each saga that it is about and that waits, or will wait, for its
    /// topic; one that is about none is not kept.
    ///
    /// # Errors
    ///
    /// When it could not be written with all of them: then it is to be delivered again.
    pub async fn deliver(&self, event: Arc<Event>) -> Result<(), Fault> {
        let shared = &self.0.shared;
        let Some(id) = event.subject.as_deref().filter(|id| check_id(id).is_ok()) else { return Ok(()) };
        let fault = |error: store::Error| shared.fault(&error);
        let mut told = Vec::new();
        for (number, digest) in rows::about(&shared.database, id).await.map_err(fault)? {
            let definition = shared.known.get(&shared.database, &digest).await.map_err(fault)?;
            if definition.topics().any(|topic| topic == &*event.topic) {
                told.push(shared.tell(number, Word::Event(event.clone())));
            }
        }
        for told in join_all(told).await {
            // One that has ended needs it no more.
            if let Err(Error::Fault(fault)) = told {
                return Err(fault);
            }
        }
        Ok(())
    }

    /// Some of the sagas, the newest first.
    ///
    /// # Errors
    ///
    /// When the database did not do its part.
    pub async fn list(&self, filter: &Filter) -> Result<Page, Error> {
        let shared = &self.0.shared;
        let limit = filter.limit.clamp(1, rows::MAX_PAGE);
        let listed = rows::list(&shared.database, filter, limit).await.map_err(|error| shared.fault(&error))?;
        let next = listed.last().filter(|_| listed.len() == limit).map(|last| last.number);
        let mut sagas = Vec::with_capacity(listed.len());
        for rows::Listed { number, saga, id, definition, started, progress } in listed {
            let definition =
                shared.known.get(&shared.database, &definition).await.map_err(|error| shared.fault(&error))?;
            let Some(machine) = Machine::restore(definition, shared.tries(), progress, Default::default()) else {
                continue;
            };
            sagas.push(self.summary(number, (&saga, &id), started, &machine));
        }
        Ok(Page { sagas, next })
    }

    /// All that is known of a saga. Without its name, it is the only one of this id.
    ///
    /// # Errors
    ///
    /// When there is none, or there are several of the id, or the database did not do its part.
    pub async fn show(&self, saga: Option<&str>, id: &str) -> Result<View, Error> {
        let saga = self.read(saga, id).await?;
        let (machine, progress) = (&saga.machine, saga.machine.progress());
        let steps = machine.definition().steps.iter().zip(&progress.steps).map(|(definition, step)| StepView {
            step: definition.name.clone(),
            status: step.at.as_str().to_owned(),
            waits_for: definition.wait.as_ref().filter(|_| step.at == At::Waiting).map(ToString::to_string),
            attempts: step.attempts,
            compensations: step.undos,
            error: step.error.clone(),
            reached_at: step.reached.map(rfc3339),
            begun_at: step.begun.map(rfc3339),
            ended_at: step.ended.map(rfc3339),
            compensated_at: step.undone.map(rfc3339),
        });
        let running = progress.status == super::Status::Running;
        Ok(View {
            summary: self.summary(saga.number, (&saga.saga, &saga.id), saga.started, machine),
            trace: progress.traceparent.map(|trace| trace.trace_id_text()),
            times_out_at: running.then(|| rfc3339(progress.deadline)),
            next_at: machine.due().filter(|_| !machine.is_calling()).map(rfc3339),
            state: serde_json::from_slice(saga.state()).unwrap_or_default(),
            steps: steps.collect(),
        })
    }

    /// Makes the next try of a saga now.
    ///
    /// # Errors
    ///
    /// As [`show`](Self::show), and when none of its steps waits for one.
    pub async fn retry(&self, saga: Option<&str>, id: &str) -> Result<(), Error> {
        self.tell(saga, id, Word::Retry).await
    }

    /// Has a saga compensated, but for the step `skip`, which is left as it is.
    ///
    /// # Errors
    ///
    /// As [`show`](Self::show), and when it has ended, or is being compensated and no step is to be skipped.
    pub async fn compensate(&self, saga: Option<&str>, id: &str, skip: Option<&str>) -> Result<(), Error> {
        self.tell(saga, id, Word::Compensate(skip.map(str::to_owned))).await
    }

    /// The steps that sagas under way may need and that these definitions lack.
    ///
    /// # Errors
    ///
    /// When the database did not do its part.
    pub async fn unmet(&self, new: &[Definition]) -> Result<Vec<Unmet>, Error> {
        let shared = &self.0.shared;
        let mut unmet = BTreeMap::<(String, String, bool), (usize, String)>::new();
        let named = |name: &str| new.iter().find(|new| new.name == name);
        let looked = lacking(shared, named, |it| {
            let (saga, step) = (it.definition.name.clone(), it.definition.steps[it.step].name.clone());
            unmet.entry((saga, step, it.compensation)).or_insert((0, it.id)).0 += 1;
        });
        looked.await.map_err(|error| Error::from(shared.fault(&error)))?;
        let unmet = unmet.into_iter();
        Ok(unmet
            .map(|((saga, step, compensation), (sagas, id))| Unmet { saga, step, compensation, sagas, id })
            .collect())
    }

    /// The definitions of the revision that serves from now on. Sagas under way that need what it lacks are halted, and shown
    /// as stuck; those that were so go on if it knows their steps.
    ///
    /// # Errors
    ///
    /// When the definitions can't be, or can't be written; then those before stay.
    pub async fn set_definitions(&self, definitions: Vec<Definition>) -> Result<(), OpenError> {
        let shared = &self.0.shared;
        let service = || shared.service.clone();
        Definition::check_all(&definitions).map_err(|reason| OpenError::Definition { service: service(), reason })?;
        let set = shared.known.set(&shared.database, definitions).await;
        set.map_err(|error| OpenError::Database { service: service(), reason: error.words().to_owned() })?;
        shared.known.serve();
        shared.revised().await;
        Ok(())
    }

    /// From now on they are run so, those under way too. When one times out is settled at its start.
    pub fn set_settings(&self, settings: Settings) {
        self.0.shared.set_settings(settings);
    }

    /// How many are under way and how they stand, as far as this host knows. From memory.
    pub fn counts(&self) -> Counts {
        self.0.shared.counts()
    }

    /// Makes no call any more, and waits for those under way until the deadline. What has not ended by then is found at the
    /// next start.
    pub async fn close(&self, deadline: Instant) {
        self.0.shared.close(deadline).await;
        let watch = self.0.watch.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(watch) = watch
            && watch.await.is_err()
        {
            tracing::error!(service = %self.0.shared.service, "the runner of the sagas ended by a panic");
        }
    }

    async fn tell(&self, saga: Option<&str>, id: &str, word: Word) -> Result<(), Error> {
        let shared = &self.0.shared;
        let mut saga = self.read(saga, id).await?;
        // Where another host runs it, this is all that can be said of what it will do.
        if !shared.leads() {
            saga.machine.told(word.clone(), shared.now()).map_err(Error::Refused)?;
        }
        shared.tell(saga.number, word).await
    }

    async fn read(&self, saga: Option<&str>, id: &str) -> Result<Saga, Error> {
        let shared = &self.0.shared;
        let named = match saga {
            Some(saga) => saga.to_owned(),
            None => {
                let mut all = rows::of_id(&shared.database, id).await.map_err(|error| shared.fault(&error))?;
                match (all.pop(), all.is_empty()) {
                    (Some(saga), true) => saga,
                    (Some(saga), false) => {
                        let others = all.join("`, `");
                        let several = format!("several sagas have the id `{id}`: `{others}` and `{saga}`; name one");
                        return Err(Error::Refused(several));
                    }
                    (None, _) => {
                        let none = format!("service `{}` has no saga with the id `{id}`", shared.service);
                        return Err(Error::NotFound(none));
                    }
                }
            }
        };
        let row = self.row(&named, id).await?;
        shared.saga(row).await.map_err(|reason| Fault::new(FaultKind::Trapped, reason).into())
    }

    async fn row(&self, saga: &str, id: &str) -> Result<rows::Row, Error> {
        let none = || format!("service `{}` has no saga `{saga}` with the id `{id}`", self.0.shared.service);
        self.find(saga, id).await?.ok_or_else(|| Error::NotFound(none()))
    }

    async fn find(&self, saga: &str, id: &str) -> Result<Option<rows::Row>, Error> {
        let shared = &self.0.shared;
        rows::named(&shared.database, saga, id).await.map_err(|error| shared.fault(&error).into())
    }

    fn summary(&self, place: i64, (saga, id): (&str, &str), started: Millis, machine: &Machine) -> Summary {
        let (progress, steps) = (machine.progress(), &machine.definition().steps);
        let current = self.0.shared.known.current();
        let lacks = machine.lacks(current.get(saga).map(|(_, definition)| &**definition));
        let lacks = lacks.map(|(step, compensation)| {
            let what = if compensation { "the compensation of step" } else { "step" };
            format!("the revision that serves lacks {what} `{}`", steps[step].name)
        });
        let errors = || machine.current().filter_map(|step| progress.steps[step].error.clone());
        Summary {
            place,
            service: (*self.0.shared.service).into(),
            saga: saga.to_owned(),
            id: id.to_owned(),
            status: progress.status,
            stuck: lacks.is_some() || machine.stuck().is_some(),
            halted: lacks.is_some(),
            at: machine.current().map(|step| steps[step].name.clone()).collect(),
            reason: progress.reason.clone(),
            error: lacks.or_else(|| errors().next()),
            started_at: rfc3339(started),
            ended_at: progress.ended.map(rfc3339),
        }
    }

    fn unknown(&self, saga: &str) -> String {
        /// The longest name that is shown, in characters.
        const LONGEST: usize = 64;
        let current = self.0.shared.known.current();
        let mut names = current.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>();
        names.sort();
        let knows = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let saga = saga.chars().take(LONGEST).collect::<String>();
        format!("service `{}` knows no saga `{saga}`; it knows {knows}", self.0.shared.service)
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.0.shared.held()
    }

    #[cfg(test)]
    pub(super) fn active(&self) -> usize {
        self.0.shared.active()
    }

    #[cfg(test)]
    pub(super) fn leads(&self) -> bool {
        self.0.shared.leads()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.kill();
    }
}

impl fmt::Debug for Sagas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sagas").field(&self.0.shared.service).finish()
    }
}

fn check_id(id: &str) -> Result<(), Error> {
    if (1..=MAX_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    Err(Error::Invalid(format!("the id of a saga must be 1 to {MAX_ID} visible characters of ASCII")))
}

fn read_input(input: &[u8]) -> Result<Map<String, Value>, Error> {
    if input.len() > MAX_INPUT {
        let large = format!("the input has {} bytes; expected at most {MAX_INPUT}", input.len());
        return Err(Error::Invalid(large));
    }
    serde_json::from_slice(input).map_err(|error| Error::Invalid(format!("the input is no JSON object: {error}")))
}

/// What an input is known by: the same however it is spaced, and in which order its fields are.
fn input_digest(input: &Map<String, Value>) -> [u8; 32] {
    fn add(hash: &mut Sha256, value: &Value) {
        match value {
            Value::Object(object) => add_object(hash, object),
            Value::Array(all) => {
                hash.update(b"[");
                all.iter().for_each(|value| add(hash, value));
                hash.update(b"]");
            }
            value => {
                hash.update(value.to_string());
                hash.update(b",");
            }
        }
    }
    fn add_object(hash: &mut Sha256, object: &Map<String, Value>) {
        hash.update(b"{");
        let mut fields = object.iter().collect::<Vec<_>>();
        fields.sort_by_key(|(name, _)| *name);
        for (name, value) in fields {
            add(hash, &Value::from(name.as_str()));
            add(hash, value);
        }
        hash.update(b"}");
    }
    let mut hash = Sha256::new();
    add_object(&mut hash, input);
    hash.finalize().into()
}
