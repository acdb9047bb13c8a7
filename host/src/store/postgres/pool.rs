//! Connections, as many as there may be and no more.
//!
//! Two bounds: each service has so many connections at most, and all services of an application together. A connection
//! that nobody uses stays open for the next call, unless another service is short of one. Who finds none free waits in
//! line, which is bounded in length and time.

use super::{
    connection::Connection,
    login::{Login, LoginError},
};
use crate::store::{Error, Settings};
use std::{
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// The connections of one application.
pub(super) struct Total {
    places: Arc<Semaphore>,
    limit: usize,
    /// How many wait for a place.
    hungry: AtomicUsize,
    pools: Mutex<Vec<Weak<Shared>>>,
}

/// The connections of one service by one login.
#[derive(Clone)]
pub(super) struct Pool(Arc<Shared>);

struct Shared {
    login: Login,
    settings: Arc<Settings>,
    total: Arc<Total>,
    limit: usize,
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
    /// Connections that nobody uses; the last to be used is taken first.
    idle: Mutex<Vec<Connection>>,
}

/// A connection in use; back in its pool when it is dropped.
pub(super) struct Lease {
    connection: Option<Connection>,
    shared: Arc<Shared>,
    _permit: OwnedSemaphorePermit,
}

// === impl Total ===

impl Total {
    pub(super) fn new(limit: usize) -> Self {
        let places = Arc::new(Semaphore::new(limit));
        Self { places, limit, hungry: AtomicUsize::new(0), pools: Mutex::default() }
    }

    /// A place for one more connection; one that another service doesn't use is closed for it.
    pub(super) async fn place(&self) -> Result<OwnedSemaphorePermit, Error> {
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            return Ok(place);
        }
        let _hungry = Counted::one(&self.hungry);
        self.close_an_idle_one();
        self.places.clone().acquire_owned().await.map_err(|_| closed())
    }

    fn close_an_idle_one(&self) {
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for pool in pools.iter().filter_map(Weak::upgrade) {
            let idle = pool.idle();
            // The longest unused one.
            if !idle.is_empty() {
                drop({ idle }.remove(0));
                return;
            }
        }
    }
}

// === impl Pool ===

impl Pool {
    pub(super) fn new(login: Login, settings: Arc<Settings>, total: Arc<Total>, limit: usize) -> Self {
        let permits = Arc::new(Semaphore::new(limit));
        let shared = Arc::new(Shared {
            login,
            settings,
            total: total.clone(),
            limit,
            permits,
            waiting: AtomicUsize::new(0),
            idle: Mutex::default(),
        });
        let mut pools = total.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(Arc::downgrade(&shared));
        drop(pools);
        Self(shared)
    }

    /// A connection, as soon as there may be one.
    pub(super) async fn take(&self) -> Result<Lease, Error> {
        let limit = self.0.settings.statement_time;
        match timeout(limit, self.wait()).await {
            Ok(lease) => lease,
            Err(_) => Err(Error::Busy(format!(
                "no connection to the database became free within {limit:?}; a service has {} of them, all together {}",
                self.0.limit, self.0.total.limit
            ))),
        }
    }

    /// A connection that was not used before.
    pub(super) async fn take_new(&self) -> Result<Lease, Error> {
        self.0.idle().clear();
        self.take().await
    }

    async fn wait(&self) -> Result<Lease, Error> {
        let shared = &self.0;
        let permit = match shared.permits.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let waiting = Counted::one(&shared.waiting);
                if waiting.before >= shared.settings.queue {
                    let queue = shared.settings.queue;
                    return Err(Error::Busy(format!("{queue} jobs are waiting for this database already")));
                }
                shared.permits.clone().acquire_owned().await.map_err(|_| closed())?
            }
        };
        let connection = match shared.idle_one() {
            Some(connection) => connection,
            None => {
                let place = shared.total.place().await?;
                shared.login.connect(shared.settings.clone(), place).await.map_err(|error| unavailable(&error))?
            }
        };
        Ok(Lease { connection: Some(connection), shared: shared.clone(), _permit: permit })
    }

    /// Lets what runs end, takes nothing further, and closes the connections.
    pub(super) async fn close(&self) {
        let all = u32::try_from(self.0.limit).unwrap_or(u32::MAX);
        if let Ok(permits) = self.0.permits.acquire_many(all).await {
            permits.forget();
        }
        self.0.permits.close();
        self.0.idle().clear();
    }
}

fn closed() -> Error {
    Error::Unavailable("the database is closed".into())
}

fn unavailable(error: &LoginError) -> Error {
    tracing::warn!(%error, "a connection to the database could not be opened");
    if error.is_busy() { Error::Busy(error.to_string()) } else { Error::Unavailable(error.to_string()) }
}

// === impl Shared ===

impl Shared {
    fn idle_one(&self) -> Option<Connection> {
        let mut idle = self.idle();
        while let Some(connection) = idle.pop() {
            if connection.is_sound() {
                return Some(connection);
            }
        }
        None
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        // No code that can panic runs under this lock, so a poisoned one is whole.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Lease ===

impl Deref for Lease {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("it is there until the lease is dropped")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let hungry = self.shared.total.hungry.load(Ordering::Relaxed) > 0;
        if let Some(connection) = self.connection.take()
            && connection.is_sound()
            && !hungry
        {
            self.shared.idle().push(connection);
        }
    }
}

/// One in a count, as long as it lives.
struct Counted<'a> {
    count: &'a AtomicUsize,
    before: usize,
}

impl<'a> Counted<'a> {
    fn one(count: &'a AtomicUsize) -> Self {
        Self { count, before: count.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}
