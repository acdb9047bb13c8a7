//! A small HTTP client that hides nothing: one connection, one request at a time, no retries.

use crate::within;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{HeaderMap, Request, StatusCode, body::Incoming, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::{convert::Infallible, net::SocketAddr};
use tokio::net::TcpStream;

/// A body that a test sends.
pub type Body = BoxBody<Bytes, Infallible>;

/// A connection to a server.
pub struct Connection {
    address: SocketAddr,
    sender: SendRequest<Body>,
}

/// Why there is no answer: the connection could not be made, or broke.
pub type Failed = String;

/// An answer with its whole body.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

// === impl Connection ===

impl Connection {
    /// Connects.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub async fn open(address: SocketAddr) -> Result<Self, Failed> {
        let stream = TcpStream::connect(address).await.map_err(|error| format!("connect to {address}: {error}"))?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|error| format!("{error:?}"))?;
        tokio::spawn(connection);
        Ok(Self { address, sender })
    }

    /// Sends a request, and waits for the whole answer.
    ///
    /// # Errors
    ///
    /// When the connection breaks before the answer is whole.
    pub async fn send(&mut self, request: Request<Body>) -> Result<Answer, Failed> {
        Answer::of(self.begin(request).await?).await
    }

    /// Sends a request, and waits for the head of the answer.
    ///
    /// # Errors
    ///
    /// When the connection breaks before.
    pub async fn begin(&mut self, mut request: Request<Body>) -> Result<hyper::Response<Incoming>, Failed> {
        let address = self.address.to_string();
        let host = request.headers_mut().entry("host");
        host.or_insert_with(|| address.parse().expect("an address is a header's value"));
        self.sender.ready().await.map_err(|error| format!("{error:?}"))?;
        self.sender.send_request(request).await.map_err(|error| format!("{error:?}"))
    }

    /// `GET`s a path.
    ///
    /// # Errors
    ///
    /// As [`Connection::send`].
    pub async fn get(&mut self, path: &str) -> Result<Answer, Failed> {
        self.send(request("GET", path, "")).await
    }
}

/// A request with a body that is there.
pub fn request(method: &str, path: &str, body: impl Into<Bytes>) -> Request<Body> {
    let body = Full::new(body.into()).boxed();
    Request::builder().method(method).uri(path).body(body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
}

/// Sends one request over a connection of its own.
pub(crate) async fn once(address: SocketAddr, request: Request<Body>) -> Result<Answer, Failed> {
    within("the answer to a request", async { Connection::open(address).await?.send(request).await }).await
}

// === impl Answer ===

impl Answer {
    /// Takes the whole body.
    ///
    /// # Errors
    ///
    /// When it breaks off.
    pub async fn of(response: hyper::Response<Incoming>) -> Result<Self, Failed> {
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| format!("{error:?}"))?.to_bytes();
        Ok(Self { status: StatusCode::as_u16(&head.status), headers: head.headers, body })
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.body))
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// That it is `application/problem+json` for this fault with this status.
    #[track_caller]
    pub fn assert_fault(&self, status: u16, fault: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["fault"], fault, "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        assert_eq!(problem["type"], format!("urn:wharf:fault:{fault}"), "{problem}");
        problem
    }

    /// That it is this status with `{"error": message}`, as services answer themselves.
    #[track_caller]
    pub fn assert_error(&self, status: u16, message: &str) {
        assert_eq!((self.status, self.json()), (status, serde_json::json!({ "error": message })));
    }

    /// That it is this status with this text.
    #[track_caller]
    pub fn assert_text(&self, status: u16, text: &str) {
        assert_eq!((self.status, self.text()), (status, text));
    }
}
