//! One connection: its socket, and the task that runs it.

use super::{
    ConfigError, GatewayConfig, SharedRoutes, handler,
    limit::client_of,
    watch::{Activity, Command, Membership},
};
use crate::telemetry::AccessLog;
use arc_swap::ArcSwap;
use http::{HeaderValue, Request};
use hyper::{
    body::Incoming,
    rt::{Read, ReadBuf, ReadBufCursor, Write},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};
use tokio::{
    net::TcpStream,
    time::{Duration, Sleep, sleep},
};

/// What the connections of a gateway share.
pub(super) struct Front {
    pub(super) terms: SharedTerms,
    pub(super) routes: SharedRoutes,
    pub(super) access_log: Option<AccessLog>,
    /// The caller's name in the context of every call.
    pub(super) caller: Arc<str>,
    /// Requests that were in flight on connections that were cut at a shutdown.
    pub(super) cut: AtomicUsize,
}

/// What a connection is granted, and how it speaks HTTP by that: from its beginning to its end.
pub struct Terms {
    pub(super) config: GatewayConfig,
    http: auto::Builder<TokioExecutor>,
}

/// What the connections of a running gateway are granted that begin from now on.
#[derive(Clone)]
pub struct SharedTerms(Arc<ArcSwap<Terms>>);

/// What the requests of a connection share.
pub(super) struct Connection {
    pub(super) front: Arc<Front>,
    pub(super) terms: Arc<Terms>,
    pub(super) activity: Arc<Activity>,
    /// The client's address, as `X-Forwarded-For` says it.
    pub(super) peer: HeaderValue,
    /// The client, as rate limits know it.
    pub(super) client: IpAddr,
}

// === impl SharedTerms ===

impl SharedTerms {
    pub(super) fn new(config: GatewayConfig) -> Self {
        let http = protocol(&config);
        Self(Arc::new(ArcSwap::from_pointee(Terms { config, http })))
    }

    pub(super) fn load(&self) -> Arc<Terms> {
        self.0.load_full()
    }

    /// Grants this to the connections that begin from now on, and its idle and other times also to those that are open.
    /// The address and the number of connections stay what they are.
    ///
    /// # Errors
    /// When a setting can't work; then nothing changes.
    pub fn replace(&self, config: GatewayConfig) -> Result<(), ConfigError> {
        config.validate()?;
        let http = protocol(&config);
        self.0.store(Arc::new(Terms { config, http }));
        Ok(())
    }
}

/// How a connection speaks HTTP.
fn protocol(config: &GatewayConfig) -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    // NB: no `pipeline_flush`: it holds an answer back while a part of the next request is in the buffer, so a client
    // that sends half a request would wait for the answer to the one before.
    http.http1()
        .timer(TokioTimer::new())
        // The watch does this without a timer for every request.
        .header_read_timeout(None)
        // Room for a target and headers of the largest size, so that what is a little too large gets an explanation.
        .max_buf_size((config.max_header_bytes + config.max_target_bytes()).max(8 * 1024) + 1024);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(128)
        .max_header_list_size(u32::try_from(config.max_header_bytes).unwrap_or(u32::MAX))
        // Rapid reset (CVE-2023-44487) and its relatives: few streams may be reset before they were served.
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(128)
        // What a client can make this host hold: unread request bodies, and answers that it does not take.
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .max_send_buf_size(64 * 1024);
    http
}

/// Runs a connection until it has ended or been told to.
pub(super) async fn run(
    front: Arc<Front>,
    stream: TcpStream,
    peer: SocketAddr,
    (activity, _membership): (Arc<Activity>, Membership),
) {
    // Answers are written whole; waiting for more to send would only delay them.
    let _ = stream.set_nodelay(true);
    let client = client_of(peer.ip());
    // An address is ASCII.
    let peer =
        HeaderValue::try_from(peer.ip().to_canonical().to_string()).unwrap_or(HeaderValue::from_static("unknown"));
    let terms = front.terms.load();
    let (of_connection, watched) = (terms.clone(), activity.clone());
    let connection =
        Arc::new(Connection { front: front.clone(), terms: of_connection, activity: watched, peer, client });
    let socket = Socket { io: TokioIo::new(stream), activity: activity.clone(), linger: None };
    let service = service_fn(move |request: Request<Incoming>| {
        let connection = connection.clone();
        async move { Ok::<_, Infallible>(handler::handle(connection, request).await) }
    });
    let mut http = pin!(terms.http.serve_connection(socket, service));
    let mut draining = false;
    let ended = poll_fn(|cx| {
        match activity.command(cx) {
            Command::Cut => return Poll::Ready(None),
            Command::Drain if !std::mem::replace(&mut draining, true) => http.as_mut().graceful_shutdown(),
            Command::Drain | Command::Run => {}
        }
        http.as_mut().poll(cx).map(Some)
    })
    .await;
    match ended {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!(error = %Causes(&*error), "a connection ended early"),
        None => {
            front.cut.fetch_add(activity.in_flight() as usize, Relaxed);
            tracing::debug!("a connection was cut off");
        }
    }
}

/// An error with everything that caused it, in one line.
struct Causes<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut error = self.0;
        while let Some(source) = error.source() {
            write!(f, ": {source}")?;
            error = source;
        }
        Ok(())
    }
}

/// How long a connection that ends early waits for the client to read the last answer.
const LINGER: Duration = Duration::from_secs(2);

/// A socket that counts for the watch.
struct Socket {
    io: TokioIo<TcpStream>,
    activity: Arc<Activity>,
    linger: Option<Pin<Box<Sleep>>>,
}

// === impl Socket ===

impl Socket {
    fn wrote(&self, polled: &Poll<io::Result<usize>>) {
        match polled {
            Poll::Ready(_) => self.activity.bytes_written(),
            Poll::Pending => self.activity.write_blocked(),
        }
    }

    /// Takes what the client still sends and throws it away, until it has closed its side too.
    ///
    /// Closing a socket with unread bytes makes the kernel send a reset, and a reset makes the client's kernel throw
    /// away the answer that it has not read: the 413 to an upload would be lost just when it is sent early.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.linger.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        if timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let mut bin = [MaybeUninit::uninit(); 8 * 1024];
        // Bounded, so that a fast sender does not keep the thread.
        for _ in 0..16 {
            let mut buf = ReadBuf::uninit(&mut bin);
            match ready!(Pin::new(&mut self.io).poll_read(cx, buf.unfilled())) {
                Ok(()) if !buf.filled().is_empty() => {}
                Ok(()) | Err(_) => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Read for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if polled.is_ready() {
            self.activity.bytes_read();
        }
        polled
    }
}

impl Write for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        self.wrote(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.wrote(&polled);
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
            if !self.activity.may_be_sending() {
                return Poll::Ready(Ok(()));
            }
        }
        self.poll_linger(cx).map(Ok)
    }
}
