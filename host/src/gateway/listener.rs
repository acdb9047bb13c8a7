//! The listening socket, from bind to drained.

use super::{
    ConfigError, GatewayConfig, Routes, SharedRoutes,
    connection::{self, Front, SharedTerms},
    watch::{Command, Registry, sweep_interval},
};
use crate::telemetry::AccessLog;
use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Duration, Instant, Interval, MissedTickBehavior, interval, sleep, sleep_until},
};

/// Connections that the kernel holds for us in a burst. The usual 128 makes the 129th wait a second for its next SYN.
const BACKLOG: u32 = 4096;
/// How long to leave accepting alone when the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A gateway that listens, and answers once it is [served](Self::serve).
pub struct Gateway {
    listener: TcpListener,
    /// How many may be open.
    connections: usize,
    terms: SharedTerms,
    routes: SharedRoutes,
    access_log: Option<AccessLog>,
}

/// What a shutdown came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Requests that were still in flight when the grace was over, and were cut off.
    pub cut: usize,
}

/// The gateway cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A setting with which it could not work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Somebody else has the port.
    #[error(
        "cannot listen on {address}: the port is in use; stop the program that uses it, or set gateway.listen to another one"
    )]
    InUse {
        /// The address.
        address: SocketAddr,
    },
    /// The port needs a privilege, or the sandbox around the process forbids it.
    #[error(
        "cannot listen on {address}: not permitted; ports below 1024 need a privilege, set gateway.listen to a higher one"
    )]
    NotPermitted {
        /// The address.
        address: SocketAddr,
    },
    /// The address belongs to no interface of this machine.
    #[error(
        "cannot listen on {address}: this machine has no such address; set gateway.listen to one that it has, or to 0.0.0.0"
    )]
    NoSuchAddress {
        /// The address.
        address: SocketAddr,
    },
    /// Anything else that the system says.
    #[error("cannot listen on {address}: {source}")]
    Io {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

// === impl Gateway ===

impl Gateway {
    /// Takes the port. Connections are answered from [`serve`](Self::serve) on; until then they wait.
    ///
    /// # Errors
    /// When a setting can't work or the address can't be had.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn bind(config: GatewayConfig, routes: Routes) -> Result<Self, BindError> {
        config.validate()?;
        let listener = listen(config.listen).map_err(|source| bind_error(config.listen, source))?;
        let connections = config.max_connections;
        let (terms, routes) = (SharedTerms::new(config), SharedRoutes::new(routes));
        Ok(Self { listener, connections, terms, routes, access_log: None })
    }

    /// Notes every request in `log`.
    #[must_use]
    pub fn with_access_log(mut self, log: AccessLog) -> Self {
        self.access_log = Some(log);
        self
    }

    /// The address that it listens on, with the port that was found where 0 was asked for.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The handle by which routes are replaced while the gateway serves.
    pub fn routes(&self) -> SharedRoutes {
        self.routes.clone()
    }

    /// The handle by which settings are replaced while the gateway serves.
    pub fn terms(&self) -> SharedTerms {
        self.terms.clone()
    }

    /// Answers requests until `shutdown` is ready; then takes no new ones, lets those in flight finish for as long as
    /// the grace, and cuts off what is left.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) -> Drained {
        let Self { listener, connections: limit, terms, routes, access_log } = self;
        let places = Arc::new(Semaphore::new(limit));
        let registry = Arc::new(Registry::default());
        let front = Arc::new(Front { terms, routes, access_log, caller: "gateway".into(), cut: AtomicUsize::new(0) });
        let mut terms = front.terms.load();
        let mut sweep = sweeping(&terms.config);

        let mut shutdown = pin!(shutdown);
        let mut failing = false;
        loop {
            let accepted = tokio::select! {
                () = &mut shutdown => break,
                _ = sweep.tick() => {
                    let now = front.terms.load();
                    if !Arc::ptr_eq(&now, &terms) {
                        terms = now;
                        sweep = sweeping(&terms.config);
                    }
                    registry.sweep(&terms.config);
                    continue;
                }
                accepted = accept(&listener, &places) => accepted,
            };
            match accepted {
                Ok((place, stream, peer)) => {
                    failing = false;
                    let run = connection::run(front.clone(), stream, peer, registry.join());
                    tokio::spawn(async move {
                        run.await;
                        drop(place);
                    });
                }
                // The client gave up while it waited in the backlog.
                Err(error) if is_of_the_client(&error) => {}
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "no connection can be accepted; trying again until one can");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);

        registry.tell_all(Command::Drain);
        let terms = front.terms.load();
        let over = Instant::now() + terms.config.shutdown_grace;
        // The limit was validated to fit.
        let mut drained = pin!(places.acquire_many(u32::try_from(limit).unwrap_or(u32::MAX)));
        loop {
            tokio::select! {
                biased;
                _ = &mut drained => return Drained { cut: 0 },
                () = sleep_until(over) => break,
                _ = sweep.tick() => registry.sweep(&terms.config),
            }
        }
        front.cut.store(0, Relaxed);
        registry.tell_all(Command::Cut);
        // A connection ends at the next poll of its task; nothing of a client can delay that.
        let _ = drained.await;
        Drained { cut: front.cut.load(Relaxed) }
    }
}

/// When to look for clients that have had their time.
fn sweeping(config: &GatewayConfig) -> Interval {
    let mut sweep = interval(sweep_interval(config));
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    sweep
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Connections of the process before may linger; they must not keep its successor from the port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn bind_error(address: SocketAddr, source: io::Error) -> BindError {
    match source.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse { address },
        io::ErrorKind::PermissionDenied => BindError::NotPermitted { address },
        io::ErrorKind::AddrNotAvailable => BindError::NoSuchAddress { address },
        _ => BindError::Io { address, source },
    }
}

/// Waits for a free place, then for a connection: what is too much waits in the backlog.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(OwnedSemaphorePermit, TcpStream, SocketAddr)> {
    // The semaphore is never closed.
    let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((place, stream, peer))
}

fn is_of_the_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}
