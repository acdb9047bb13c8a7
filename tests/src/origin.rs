//! A server outside, for guests that ask one.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinHandle};

/// A server that answers every request with `outside`, and `GET /held` only when it is let go.
pub struct Origin {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    traces: Arc<Mutex<Vec<String>>>,
    gate: Arc<Semaphore>,
    task: JoinHandle<()>,
}

// === impl Origin ===

impl Origin {
    /// Starts it on a free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there are free ports");
        let address = listener.local_addr().expect("it is bound");
        let asked = Arc::new(AtomicUsize::new(0));
        let traces = Arc::default();
        let gate = Arc::new(Semaphore::new(0));
        let task = tokio::spawn(serve(listener, asked.clone(), Arc::clone(&traces), gate.clone()));
        Self { address, asked, traces, gate, task }
    }

    /// `127.0.0.1:…`
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many requests have come.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// The `traceparent` of each request, in their order; empty where there was none.
    pub fn traces(&self) -> Vec<String> {
        self.traces.lock().expect("nobody panics with it").clone()
    }

    /// Lets all requests to `/held` go, those that come later too.
    pub fn let_go(&self) {
        self.gate.close();
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, asked: Arc<AtomicUsize>, traces: Arc<Mutex<Vec<String>>>, gate: Arc<Semaphore>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (asked, traces, gate) = (asked.clone(), traces.clone(), gate.clone());
        tokio::spawn(async move {
            let answer = service_fn(move |request: Request<Incoming>| {
                asked.fetch_add(1, Ordering::SeqCst);
                let trace = request.headers().get("traceparent").and_then(|value| value.to_str().ok());
                traces.lock().expect("nobody panics with it").push(trace.unwrap_or_default().to_owned());
                let gate = gate.clone();
                async move {
                    if request.uri().path() == "/held" {
                        // Only ever closed, so it ends with an error.
                        let _ = gate.acquire().await;
                    }
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"outside"))))
                }
            });
            // The host may close its connections as it likes.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}
