//! A running gateway, services made of closures, and a client that speaks bytes.

use crate::{
    gateway::{Aggregate, Drained, Gateway, GatewayConfig, Part, Route, Routes, RoutesBuilder, SharedRoutes, Upstream},
    policy::Fault,
    service::{Body, CallContext},
    telemetry::{AccessFormat, AccessLog},
};
use futures::future::BoxFuture;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Duration, timeout},
};

/// The longest that any wait of a test may take; reaching it is a failure.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for what must happen.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("this must happen soon")
}

// === Services ===

struct Service<F>(F);

impl<F, Fut> Upstream for Service<F>
where
    F: Fn(CallContext, Request<Body>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Response<Body>, Fault>> + Send + 'static,
{
    fn call(&self, ctx: CallContext, request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, Fault>> {
        Box::pin((self.0)(ctx, request))
    }
}

pub fn service<F, Fut>(call: F) -> Arc<dyn Upstream>
where
    F: Fn(CallContext, Request<Body>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Response<Body>, Fault>> + Send + 'static,
{
    Arc::new(Service(call))
}

/// A service that always answers so.
pub fn answers(status: u16, body: &'static str) -> Arc<dyn Upstream> {
    service(move |_, _| async move { Ok(json(status, body)) })
}

/// A service that always meets this fault.
pub fn fails(fault: Fault) -> Arc<dyn Upstream> {
    service(move |_, _| std::future::ready(Err(fault.clone())))
}

pub fn json(status: u16, body: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::complete(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response.headers_mut().insert("content-type", "application/json".parse().unwrap());
    response
}

/// What a service was asked.
#[derive(Debug)]
pub struct Seen {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub ctx: CallContext,
    /// Whether the body was complete when the call was made.
    pub complete: bool,
    /// The body, or why it broke off.
    pub body: Result<Vec<u8>, String>,
}

/// A service that tells what it was asked, and answers "ok".
pub fn witness() -> (Arc<dyn Upstream>, mpsc::UnboundedReceiver<Seen>) {
    let (tell, seen) = mpsc::unbounded_channel();
    let upstream = service(move |ctx, request: Request<Body>| {
        let tell = tell.clone();
        async move {
            let (head, body) = request.into_parts();
            let complete = body.as_complete().is_some();
            let body = body.collect().await.map(|body| body.to_bytes().to_vec()).map_err(|error| error.to_string());
            let _ = tell.send(Seen { method: head.method, uri: head.uri, headers: head.headers, ctx, complete, body });
            Ok(Response::new(Body::complete("ok")))
        }
    });
    (upstream, seen)
}

// === Routes ===

pub fn route(path: &str, upstream: Arc<dyn Upstream>) -> Route {
    Route {
        path: path.parse().unwrap(),
        methods: Vec::new(),
        service: "test".into(),
        upstream,
        strip_prefix: None,
        max_body_bytes: None,
        deadline: None,
        rate_limit: None,
        idempotent: false,
    }
}

pub fn part(name: &str, path: &str, upstream: Arc<dyn Upstream>) -> Part {
    Part {
        name: name.to_owned(),
        service: name.into(),
        upstream,
        path: path.parse().unwrap(),
        deadline: None,
        optional: false,
    }
}

pub fn routes(list: impl IntoIterator<Item = Route>) -> RoutesBuilder {
    let mut builder = Routes::builder();
    for route in list {
        builder.route(route);
    }
    builder
}

pub fn aggregate(path: &str, parts: Vec<Part>) -> RoutesBuilder {
    let mut builder = Routes::builder();
    builder.aggregate(Aggregate { path: path.parse().unwrap(), parts, rate_limit: None });
    builder
}

// === Server ===

pub struct Server {
    pub address: SocketAddr,
    pub routes: SharedRoutes,
    log: AccessLog,
    paper: Paper,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<Drained>,
}

/// A configuration with any free port, and no timeout that a test would meet by accident.
pub fn config() -> GatewayConfig {
    GatewayConfig { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..GatewayConfig::default() }
}

impl Server {
    pub fn start(routes: RoutesBuilder) -> Self {
        Self::with(config(), routes)
    }

    pub fn with(config: GatewayConfig, routes: RoutesBuilder) -> Self {
        let paper = Paper::default();
        let log = AccessLog::new(AccessFormat::Json, paper.clone()).unwrap();
        let gateway = Gateway::bind(config, routes.build().unwrap()).unwrap().with_access_log(log.clone());
        let (stop, stopped) = oneshot::channel();
        let (address, routes) = (gateway.local_addr().unwrap(), gateway.routes());
        let served = tokio::spawn(gateway.serve(async move {
            let _ = stopped.await;
        }));
        Self { address, routes, log, paper, stop: Some(stop), served }
    }

    /// Begins the shutdown.
    pub fn stop(&mut self) {
        self.stop.take().expect("stopped once").send(()).expect("the gateway serves until it is told");
    }

    /// Waits for the shutdown's end.
    pub async fn drained(self) -> Drained {
        soon(self.served).await.unwrap()
    }

    /// The access log's lines, once there are `count`.
    pub async fn logged(&self, count: usize) -> Vec<serde_json::Value> {
        let read = || async {
            loop {
                let log = self.log.clone();
                tokio::task::spawn_blocking(move || log.flush()).await.unwrap();
                let text = String::from_utf8(self.paper.0.lock().unwrap().clone()).unwrap();
                if text.lines().count() >= count {
                    return text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
                }
                tokio::task::yield_now().await;
            }
        };
        soon(read()).await
    }

    pub async fn connect(&self) -> Client {
        Client { stream: TcpStream::connect(self.address).await.unwrap(), buffer: Vec::new() }
    }

    /// Sends one request on a connection of its own.
    pub async fn ask(&self, request: impl AsRef<[u8]>) -> Answer {
        let mut client = self.connect().await;
        client.send(request).await;
        client.answer().await
    }

    pub async fn get(&self, target: &str) -> Answer {
        self.ask(format!("GET {target} HTTP/1.1\r\nhost: shop\r\n\r\n")).await
    }
}

#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl io::Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// === Client ===

/// A client that sends exactly the bytes it is given.
pub struct Client {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Client {
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        soon(self.stream.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Reads until `end` has come; the bytes up to and with it.
    pub async fn read_to(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|window| window == end.as_bytes()) {
                let taken: Vec<u8> = self.buffer.drain(..at + end.len()).collect();
                return String::from_utf8_lossy(&taken).into_owned();
            }
            let read = soon(self.stream.read_buf(&mut self.buffer)).await.unwrap();
            assert!(read > 0, "ended before {end:?}: {:?}", String::from_utf8_lossy(&self.buffer));
        }
    }

    /// Reads one answer to a request that is not HEAD.
    pub async fn answer(&mut self) -> Answer {
        let head = self.head().await;
        let mut body = Vec::new();
        if let Some(length) = head.header("content-length") {
            let length = length.parse().unwrap();
            while self.buffer.len() < length {
                assert!(soon(self.stream.read_buf(&mut self.buffer)).await.unwrap() > 0, "the body ended early");
            }
            body.extend(self.buffer.drain(..length));
        } else if head.header("transfer-encoding").is_some() {
            loop {
                let line = self.read_to("\r\n").await;
                let length = usize::from_str_radix(line.trim(), 16).unwrap();
                while self.buffer.len() < length + 2 {
                    assert!(soon(self.stream.read_buf(&mut self.buffer)).await.unwrap() > 0, "the body ended early");
                }
                body.extend(self.buffer.drain(..length));
                self.buffer.drain(..2);
                if length == 0 {
                    break;
                }
            }
        }
        Answer { body, ..head }
    }

    /// Reads the head of an answer.
    pub async fn head(&mut self) -> Answer {
        let head = self.read_to("\r\n\r\n").await;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head, body: Vec::new() }
    }

    /// Waits until the gateway has closed the connection, and gives what came before. A reset is an end too.
    pub async fn rest(mut self) -> Vec<u8> {
        while let Ok(1..) = soon(self.stream.read_buf(&mut self.buffer)).await {}
        self.buffer
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// Asserts that it is a problem of this status, and gives its document.
    #[track_caller]
    pub fn problem(&self, status: u16) -> serde_json::Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let document = self.json();
        assert_eq!(document["status"], status);
        document
    }
}

/// Speaks HTTP/2 with prior knowledge.
pub async fn http2<B>(address: SocketAddr) -> hyper::client::conn::http2::SendRequest<B>
where
    B: hyper::body::Body<Data = bytes::Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}
