//! Readers: sessions that only read, and where they run.
//!
//! A query by key takes a few microseconds; handing it to another thread and back takes as long again and two system
//! calls. So a statement that was quick the last time runs at once, on the async thread that asks, under a budget that
//! keeps it quick: a few thousand instructions of SQLite's machine, after which it is stopped and starts over on a
//! blocking thread. A statement that nobody knows yet, or that was slow, goes to a blocking thread from the start.

use super::{
    closed,
    session::{Role, Session},
};
use crate::store::{Authority, Error, OpenError, Rows, Settings, Statement};
use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError},
    task,
    time::Duration,
};

/// What became of a query.
pub(super) enum Read {
    Done(Result<Rows, Error>),
    /// It changes something, so the writer has to run it.
    Writes(Statement),
}

pub(super) struct Readers {
    shared: Arc<Shared>,
    /// How many queries may run at once.
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
}

struct Shared {
    file: PathBuf,
    settings: Arc<Settings>,
    /// Sessions that nobody uses; the last to be used, whose caches are warm, is taken first.
    idle: Mutex<Vec<Session>>,
}

// === impl Readers ===

impl Readers {
    pub(super) fn new(file: PathBuf, settings: Arc<Settings>) -> Self {
        let permits = Arc::new(Semaphore::new(settings.readers));
        Self {
            shared: Arc::new(Shared { file, settings, idle: Mutex::default() }),
            permits,
            waiting: AtomicUsize::new(0),
        }
    }

    /// Runs a query, if it is one.
    pub(super) async fn read(&self, statement: Statement, authority: Authority) -> Read {
        let permit = match self.permit().await {
            Ok(permit) => permit,
            Err(error) => return Read::Done(Err(error)),
        };
        let mut session = self.shared.take();
        if let Some(ready) = session.take() {
            match ready.query_if_quick(&statement, authority) {
                Some(result) => {
                    self.shared.put_back(ready);
                    return Read::Done(result);
                }
                None => session = Some(ready),
            }
        }
        let shared = self.shared.clone();
        let run = move || {
            // NB: held until the session is back, also when nobody waits any more, or there would be more of them.
            let _permit = permit;
            shared.read(session, statement, authority)
        };
        task::spawn_blocking(run).await.unwrap_or_else(|error| Read::Done(Err(Error::Unavailable(error.to_string()))))
    }

    /// Lets running queries end, takes no further ones, and closes the connections.
    pub(super) async fn close(&self) {
        let all = u32::try_from(self.shared.settings.readers).unwrap_or(u32::MAX);
        if let Ok(permits) = self.permits.acquire_many(all).await {
            permits.forget();
        }
        self.permits.close();
        self.shared.idle().clear();
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit, Error> {
        match self.permits.clone().try_acquire_owned() {
            Ok(permit) => return Ok(permit),
            Err(TryAcquireError::Closed) => return Err(closed()),
            Err(TryAcquireError::NoPermits) => {}
        }
        let _place = Place::take(&self.waiting, self.shared.settings.queue)?;
        self.permits.clone().acquire_owned().await.map_err(|_| closed())
    }
}

// === impl Shared ===

impl Shared {
    /// Runs a query on a thread that may block.
    fn read(&self, session: Option<Session>, statement: Statement, authority: Authority) -> Read {
        let session = match session.or_else(|| self.take()).map_or_else(|| self.open(), Ok) {
            Ok(session) => session,
            Err(error) => return Read::Done(Err(error)),
        };
        let outcome = match session.reads(&statement.sql, authority) {
            Ok(true) => Read::Done(self.read_patiently(&session, &statement, authority)),
            Ok(false) => Read::Writes(statement),
            Err(error) => Read::Done(Err(error)),
        };
        self.put_back(session);
        outcome
    }

    /// Waits for locks, which only a recovery or another process holds; on an async thread nobody waits for any.
    fn read_patiently(&self, session: &Session, statement: &Statement, authority: Authority) -> Result<Rows, Error> {
        session.wait_for_locks(self.settings.lock_wait)?;
        let result = session.query(statement, authority);
        session.wait_for_locks(Duration::ZERO)?;
        result
    }

    fn open(&self) -> Result<Session, Error> {
        Session::open(&self.file, Role::Reader, self.settings.clone()).map_err(|error: OpenError| {
            tracing::error!(%error, "a further connection could not be opened");
            Error::Unavailable("the database could not be opened for reading".into())
        })
    }

    fn take(&self) -> Option<Session> {
        self.idle().pop()
    }

    fn put_back(&self, session: Session) {
        self.idle().push(session);
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Session>> {
        // No code that can panic runs under this lock, so a poisoned one is whole.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among those that wait.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize, limit: usize) -> Result<Self, Error> {
        let place = Self(waiting);
        if waiting.fetch_add(1, Ordering::Relaxed) >= limit {
            return Err(Error::Busy(format!("{limit} queries are waiting for this database already")));
        }
        Ok(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
