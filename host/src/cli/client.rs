//! Talks to the admin API of a running host.

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, Response, body::Incoming, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    task::JoinHandle,
};
use wharf::{app::AdminAddress, manifest::Manifest};

/// The largest answer that a client takes.
const LARGEST_ANSWER: usize = 64 << 20;
const BROKEN: &str = "the host ended the connection before it answered";

/// Asks the running host of `manifest`.
pub async fn ask<T: DeserializeOwned>(
    manifest: &Manifest,
    method: &str,
    path: &str,
    origin: Option<&str>,
    body: Bytes,
) -> anyhow::Result<T> {
    let headers: Vec<_> = origin.map(|origin| ("x-origin", origin)).into_iter().collect();
    ask_with(manifest, method, path, &headers, body).await
}

/// The same with headers.
pub async fn ask_with<T: DeserializeOwned>(
    manifest: &Manifest,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> anyhow::Result<T> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (answer, connection) = begin(manifest, request, body).await?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), LARGEST_ANSWER).collect().await;
    let bytes = body.map_err(|error| anyhow!(error)).context(BROKEN)?.to_bytes();
    drop(connection);
    if !status.is_success() {
        let problem: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        match problem["detail"].as_str() {
            Some(detail) => bail!("{detail}"),
            None => bail!("the host answered {status}"),
        }
    }
    serde_json::from_slice(&bytes).context("the host's answer is not what this version of wharf expects")
}

/// The name of a service as it goes into a path. No service has other characters.
pub fn plain(service: &str) -> anyhow::Result<&str> {
    let is_plain = service.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if is_plain && !service.is_empty() {
        Ok(service)
    } else {
        bail!("there is no service `{}`", service.escape_debug())
    }
}

/// Keeps the running host of `manifest` from deploying what is built from sources until it is dropped, or an hour is over.
/// `None` where no host runs.
///
/// # Errors
///
/// When there is a host, and it does not do so.
pub async fn hold(manifest: &Manifest) -> anyhow::Result<Option<Hold>> {
    let Ok(stream) = connect(&wharf::app::admin_address(manifest)?).await else { return Ok(None) };
    let request = Request::builder().method("POST").uri("/v1/hold");
    let (answer, connection) = exchange(stream, request, Bytes::new()).await?;
    if !answer.status().is_success() {
        bail!("the running host would deploy what is built now: asked to wait, it answered {}", answer.status());
    }
    Ok(Some(Hold { _answer: answer, _connection: connection }))
}

/// See [`hold`].
pub struct Hold {
    _answer: Response<Incoming>,
    _connection: Connection,
}

/// What an answer comes by. It ends when this is dropped.
struct Connection(JoinHandle<hyper::Result<()>>);

/// A stream of either kind, with what each request over it must carry.
struct Stream {
    stream: Box<dyn Duplex>,
    bearer: Option<String>,
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn begin(
    manifest: &Manifest,
    request: http::request::Builder,
    body: Bytes,
) -> anyhow::Result<(Response<Incoming>, Connection)> {
    let stream = connect(&wharf::app::admin_address(manifest)?).await?;
    exchange(stream, request, body).await
}

async fn connect(address: &AdminAddress) -> anyhow::Result<Stream> {
    let nobody = |at: &dyn std::fmt::Display, error| {
        anyhow!("no host answers on {at}: {error}\nIs it running? `wharf up` starts it.")
    };
    match address {
        AdminAddress::Socket(socket) => {
            let stream = UnixStream::connect(socket).await.map_err(|error| nobody(&socket.display(), error))?;
            Ok(Stream { stream: Box::new(stream), bearer: None })
        }
        AdminAddress::Loopback(address, token) => {
            let stream = TcpStream::connect(address).await.map_err(|error| nobody(address, error))?;
            Ok(Stream { stream: Box::new(stream), bearer: Some(token.bearer()) })
        }
    }
}

/// Sends a request, and comes back with the head of the answer.
async fn exchange(
    stream: Stream,
    mut request: http::request::Builder,
    body: Bytes,
) -> anyhow::Result<(Response<Incoming>, Connection)> {
    let Stream { stream, bearer } = stream;
    if let Some(bearer) = bearer {
        request = request.header(header::AUTHORIZATION, bearer);
    }
    let request = request.header(header::HOST, "wharf").body(Full::new(body))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.context(BROKEN)?;
    let connection = Connection(tokio::spawn(connection));
    let answer = sender.send_request(request).await.context(BROKEN)?;
    Ok((answer, connection))
}
