//! The sagas of one service, as the rest of the host sees them.
//!
//! Whether a service has sagas is said by its component, which may be replaced by one that has some. So a service with a
//! database has a register from its start on, and what runs sagas is opened when the first component comes that has them, or
//! where an earlier one left some.

use super::{Definition, Error, OpenError, Sagas, Settings, Snapshot, Steps, Unmet, rows};
use crate::{
    events::{Event, Subscriber, Verdict},
    policy::Fault,
    store::Database,
    telemetry::TraceContext,
};
use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};
use tokio::{
    sync::{OnceCell, watch},
    time::{Duration, Instant, sleep},
};

/// How long after a failure a revision's definitions are written again.
const AGAIN: Duration = Duration::from_secs(1);

/// The sagas of one service.
pub struct Register {
    service: Arc<str>,
    database: Database,
    steps: Arc<dyn Steps>,
    settings: ArcSwap<Settings>,
    sagas: OnceCell<Sagas>,
    /// How many revisions have served.
    served: AtomicU64,
}

/// Hands events to the sagas that wait for them.
pub struct Awaiting {
    /// The sagas.
    pub register: Arc<Register>,
    /// Whether the services run: what is heard before finds no sagas.
    pub running: watch::Receiver<bool>,
}

/// Why a component's sagas can't be, if they can't: those of `service`, which may await the topics `awaits`.
///
/// # Errors
///
/// In words.
pub fn check(service: &str, definitions: &[Definition], awaits: &[String]) -> Result<(), String> {
    Definition::check_all(definitions).map_err(|invalid| invalid.to_string())?;
    for definition in definitions {
        for step in &definition.steps {
            if let Some(topic) = step.topic().filter(|topic| !awaits.iter().any(|it| it == topic)) {
                let (saga, step) = (&definition.name, &step.name);
                // The topic comes from the guest and may be of any length.
                let topic: String = topic.chars().take(200).flat_map(char::escape_debug).collect();
                return Err(format!(
                    "step `{step}` of saga `{saga}` waits for an event of `{topic}`, which the service may not await: \
                     add it to `awaits` in [services.{service}]"
                ));
            }
        }
    }
    Ok(())
}

// === impl Register ===

impl Register {
    /// The sagas in the database of `service`, whose steps are done by `steps`. None is run before the service has a
    /// component with sagas.
    pub fn new(
        service: impl Into<Arc<str>>,
        database: Database,
        steps: Arc<dyn Steps>,
        settings: Settings,
    ) -> Arc<Self> {
        let (service, sagas, served) = (service.into(), OnceCell::new(), AtomicU64::new(0));
        let settings = ArcSwap::from_pointee(settings);
        Arc::new(Self { service, database, steps, settings, sagas, served })
    }

    /// From now on the sagas are run so; see [`Sagas::set_settings`].
    pub fn set_settings(&self, settings: Settings) {
        self.settings.store(Arc::new(settings.clone()));
        if let Some(sagas) = self.sagas.get() {
            sagas.set_settings(settings);
        }
    }

    /// Makes ready for a component with sagas.
    ///
    /// # Errors
    ///
    /// When the database does not do its part.
    pub async fn open(&self) -> Result<(), OpenError> {
        let open = async || {
            let (database, steps) = (self.database.clone(), self.steps.clone());
            let settings = Settings::clone(&self.settings.load());
            Sagas::open(self.service.clone(), database, Vec::new(), steps, settings).await
        };
        self.sagas.get_or_try_init(open).await.map(|_| ())
    }

    /// Makes ready where sagas were started that are kept, though no component may know them any more: so they are shown, and
    /// not thought to be gone.
    ///
    /// # Errors
    ///
    /// When the database does not do its part.
    pub async fn open_kept(&self) -> Result<(), OpenError> {
        if self.sagas.get().is_some() {
            return Ok(());
        }
        match rows::has_some(&self.database).await {
            Ok(true) => self.open().await,
            Ok(false) => Ok(()),
            Err(error) => Err(OpenError::Database { service: self.service.clone(), reason: error.words().to_owned() }),
        }
    }

    /// What sagas under way need of a component that these definitions do not have.
    ///
    /// # Errors
    ///
    /// When the database does not do its part.
    pub async fn unmet(&self, definitions: &[Definition]) -> Result<Vec<Unmet>, Error> {
        match self.sagas.get() {
            Some(sagas) => sagas.unmet(definitions).await,
            None => Ok(Vec::new()),
        }
    }

    /// A revision serves that has these sagas: what is under way goes on with it, and these can be started. Where they can't
    /// be written now, that is tried until they are or another revision serves.
    pub async fn serve(self: &Arc<Self>, definitions: Vec<Definition>) {
        let Some(sagas) = self.sagas.get() else { return };
        let turn = self.served.fetch_add(1, SeqCst) + 1;
        let Err(error) = sagas.set_definitions(definitions.clone()).await else { return };
        tracing::error!(service = %self.service, %error, "the sagas of the new revision can't be written yet");
        let (sagas, register) = (sagas.clone(), Arc::downgrade(self));
        tokio::spawn(async move {
            loop {
                sleep(AGAIN).await;
                let is_last = register.upgrade().is_some_and(|register| register.served.load(SeqCst) == turn);
                if !is_last || sagas.set_definitions(definitions.clone()).await.is_ok() {
                    return;
                }
            }
        });
    }

    /// The sagas themselves, where a component has some, or had.
    ///
    /// # Errors
    ///
    /// When none had.
    pub fn sagas(&self) -> Result<&Sagas, Error> {
        let none = || Error::NotFound(format!("service `{}` has no sagas", self.service));
        self.sagas.get().ok_or_else(none)
    }

    /// Starts one; see [`Sagas::start_in`].
    ///
    /// # Errors
    ///
    /// When the service does not know it, or it can't be written.
    pub async fn start(&self, trace: TraceContext, saga: &str, id: &str, input: &[u8]) -> Result<Snapshot, Error> {
        self.sagas()?.start_in(trace, saga, id, input).await
    }

    /// How one stands.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub async fn get(&self, saga: &str, id: &str) -> Result<Snapshot, Error> {
        self.sagas()?.get(saga, id).await
    }

    /// How one stands when it has ended, or the time is over.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub async fn wait(&self, saga: &str, id: &str, time: Duration) -> Result<Snapshot, Error> {
        self.sagas()?.wait(saga, id, time).await
    }

    /// Runs none any more; steps under way end by the deadline. What has not ended goes on at the next start.
    pub async fn close(&self, deadline: Instant) {
        if let Some(sagas) = self.sagas.get() {
            sagas.close(deadline).await;
        }
    }
}

impl fmt::Debug for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Register").field(&self.service).finish()
    }
}

// === impl Awaiting ===

impl Subscriber for Awaiting {
    fn deliver(&self, event: Arc<Event>, _attempt: u32) -> BoxFuture<'_, Result<Verdict, Fault>> {
        Box::pin(async move {
            if self.running.clone().wait_for(|running| *running).await.is_err() {
                return Ok(Verdict::Retry(None));
            }
            match self.register.sagas() {
                // It is about no saga: there are none.
                Err(_) => Ok(Verdict::Ack),
                Ok(sagas) => sagas.deliver(event).await.map(|()| Verdict::Ack),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Awaited, Step, Wait},
        *,
    };

    #[test]
    fn what_is_awaited_must_be_granted() {
        let until = Awaited::Event("payment.settled".into());
        let wait = Some(Wait { until, timeout_ms: None });
        let step = Step { name: "settle".into(), beside: false, compensates: false, repeatable: true, wait };
        let all = [Definition { name: "trip".into(), steps: vec![step], timeout_ms: None }];
        assert_eq!(check("shop", &all, &["payment.settled".to_owned()]), Ok(()));
        let refused = "step `settle` of saga `trip` waits for an event of `payment.settled`, which the service may not \
                       await: add it to `awaits` in [services.shop]";
        assert_eq!(check("shop", &all, &["payment".to_owned()]), Err(refused.to_owned()));
        let nameless = [Definition { name: String::new(), ..all[0].clone() }];
        assert!(check("shop", &nameless, &[]).is_err());
    }
}
