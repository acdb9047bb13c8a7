//! Talks to the admin API of a running host.

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use wharf::{app::AdminAddress, manifest::Manifest};

/// The largest answer that a client takes.
const LARGEST_ANSWER: usize = 64 << 20;

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
    let address = wharf::app::admin_address(manifest)?;
    let mut request = Request::builder().method(method).uri(path).header(header::HOST, "wharf");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = match &address {
        AdminAddress::Socket(socket) => {
            let stream = UnixStream::connect(socket).await;
            let stream = stream.map_err(|error| {
                anyhow!("no host answers on {}: {error}\nIs it running? `wharf up` starts it.", socket.display())
            })?;
            send(stream, request.body(Full::new(body))?).await
        }
        AdminAddress::Loopback(address, token) => {
            let stream = TcpStream::connect(address).await;
            let stream = stream.map_err(|error| {
                anyhow!("no host answers on {address}: {error}\nIs it running? `wharf up` starts it.")
            })?;
            let request = request.header(header::AUTHORIZATION, token.bearer()).body(Full::new(body))?;
            send(stream, request).await
        }
    };
    let (status, bytes) = answer.context("the host ended the connection before it answered")?;
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

async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> anyhow::Result<(hyper::StatusCode, Bytes)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await.map_err(|error| anyhow!(error))?;
    connection.abort();
    Ok((status, body.to_bytes()))
}
