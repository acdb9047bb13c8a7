//! A server outside, for guests that ask one, and for services that are outside.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU16, AtomicUsize, Ordering::SeqCst},
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

/// A server that answers every request with `outside` and 200 unless told otherwise, and `GET /held` only when it is let
/// go. Dropped, it is gone with all its connections.
pub struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    asked: AtomicUsize,
    probed: AtomicUsize,
    status: AtomicU16,
    health: AtomicU16,
    host: Mutex<String>,
    traces: Mutex<Vec<String>>,
    gate: Semaphore,
}

// === impl Origin ===

impl Origin {
    /// Starts it on a free port.
    pub async fn start() -> Self {
        Self::bind(None).await
    }

    /// Starts it on a free port, to be spoken to by TLS.
    pub async fn start_tls(config: ServerConfig) -> Self {
        Self::bind(Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn bind(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there are free ports");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            asked: AtomicUsize::new(0),
            probed: AtomicUsize::new(0),
            status: AtomicU16::new(200),
            health: AtomicU16::new(200),
            host: Mutex::default(),
            traces: Mutex::default(),
            gate: Semaphore::new(0),
        });
        let task = tokio::spawn(serve(listener, tls, shared.clone()));
        Self { address, shared, task }
    }

    /// `127.0.0.1:…`
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many requests have come, probes of `/health` not counted.
    pub fn asked(&self) -> usize {
        self.shared.asked.load(SeqCst)
    }

    /// How often it was asked for `/health`.
    pub fn probed(&self) -> usize {
        self.shared.probed.load(SeqCst)
    }

    /// The `Host` of the last request that was no probe.
    pub fn host(&self) -> String {
        self.shared.host.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Answers with this status from now on.
    pub fn answer(&self, status: u16) {
        self.shared.status.store(status, SeqCst);
    }

    /// Answers probes of `/health` with this status from now on.
    pub fn answer_probes(&self, status: u16) {
        self.shared.health.store(status, SeqCst);
    }

    /// The `traceparent` of each request, in their order; empty where there was none.
    pub fn traces(&self) -> Vec<String> {
        self.shared.traces.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets all requests to `/held` go, those that come later too.
    pub fn let_go(&self) {
        self.shared.gate.close();
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (shared, tls) = (shared.clone(), tls.clone());
        connections.spawn(async move {
            match tls {
                None => converse(stream, shared).await,
                // A client that does not trust us leaves here.
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => converse(stream, shared).await,
                    Err(_) => drop(shared),
                },
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>) {
    let answer = service_fn(move |request| answer(shared.clone(), request));
    // The host may close its connections as it likes.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"outside")));
    let status = if request.uri().path() == "/health" {
        shared.probed.fetch_add(1, SeqCst);
        shared.health.load(SeqCst)
    } else {
        let trace = request.headers().get("traceparent").and_then(|value| value.to_str().ok()).unwrap_or_default();
        shared.traces.lock().unwrap_or_else(PoisonError::into_inner).push(trace.to_owned());
        let host = request.headers().get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
        *shared.host.lock().unwrap_or_else(PoisonError::into_inner) = host.to_owned();
        shared.asked.fetch_add(1, SeqCst);
        if request.uri().path() == "/held" {
            // Only ever closed, so it ends with an error.
            let _ = shared.gate.acquire().await;
        }
        shared.status.load(SeqCst)
    };
    // Whoever still sends is heard to the end, so that the connection can be used again.
    let _ = request.into_body().collect().await;
    *response.status_mut() = status.try_into().expect("tests know their statuses");
    Ok(response)
}
