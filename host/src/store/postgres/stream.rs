//! A connection's bytes: a socket, TLS over it where that is wanted, and a bound on what comes in one piece.
//!
//! PostgreSQL has no limit for the size of a row below a gigabyte, and a client takes a row into memory before it can
//! look at it. So the frames of the protocol are watched on their way in, and one that is longer than any answer may
//! be breaks the connection before it is read.

use std::{
    io,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, pki_types::ServerName},
};

/// A socket.
pub(super) trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

/// A stream whose frames have a greatest length.
pub(super) struct Bounded<S> {
    inner: S,
    watch: Option<Frames>,
}

/// Where a stream is between its frames.
pub(super) struct Frames {
    max: usize,
    /// The head of a frame, as far as it has come: a byte for its type and four for its length.
    head: Vec<u8>,
    /// Bytes of the frame that are to come.
    left: usize,
    exceeded: Arc<AtomicBool>,
}

/// TLS by rustls; what it carries is watched by `watch`.
pub(super) struct Rustls {
    pub(super) config: Arc<ClientConfig>,
    pub(super) name: ServerName<'static>,
    pub(super) watch: Frames,
}

/// The name that a certificate must have for this host.
pub(super) fn server_name(host: &str) -> Option<ServerName<'static>> {
    match host.parse::<IpAddr>() {
        Ok(address) => Some(ServerName::IpAddress(address.into())),
        Err(_) => ServerName::try_from(host.to_owned()).ok(),
    }
}

// === impl Frames ===

impl Frames {
    /// `exceeded` becomes true when a frame is longer than `max`.
    pub(super) fn new(max: usize, exceeded: Arc<AtomicBool>) -> Self {
        Self { max, head: Vec::with_capacity(5), left: 0, exceeded }
    }

    fn see(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let within = self.left.min(bytes.len());
            self.left -= within;
            bytes = &bytes[within..];
            let Some((first, rest)) = bytes.split_first() else { break };
            self.head.push(*first);
            bytes = rest;
            if let [_, a, b, c, d] = self.head[..] {
                // The length counts itself.
                self.left = (u32::from_be_bytes([a, b, c, d]) as usize).saturating_sub(4);
                self.head.clear();
                if self.left > self.max {
                    self.exceeded.store(true, Ordering::Relaxed);
                    return Err(io::Error::other("the database sent more in one piece than it may"));
                }
            }
        }
        Ok(())
    }
}

// === impl Bounded ===

impl<S> Bounded<S> {
    pub(super) fn new(inner: S, watch: Option<Frames>) -> Self {
        Self { inner, watch }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        match (Pin::new(&mut this.inner).poll_read(cx, buf), &mut this.watch) {
            (Poll::Ready(Ok(())), Some(watch)) => Poll::Ready(watch.see(&buf.filled()[before..])),
            (polled, _) => polled,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Bounded<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

// === impl Rustls ===

impl<S: Socket + 'static> TlsConnect<S> for Rustls {
    type Stream = Bounded<tokio_rustls::client::TlsStream<S>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Stream>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            let stream = TlsConnector::from(self.config).connect(self.name, stream).await?;
            Ok(Bounded::new(stream, Some(self.watch)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(length: usize) -> Vec<u8> {
        let mut frame = vec![b'D'];
        frame.extend(u32::try_from(length + 4).unwrap().to_be_bytes());
        frame.extend(vec![7; length]);
        frame
    }

    #[test]
    fn a_frame_that_is_too_long_is_seen_however_it_comes() {
        for piece in [1, 2, 3, 7, 1_000] {
            let exceeded = Arc::new(AtomicBool::new(false));
            let mut frames = Frames::new(10, exceeded.clone());
            let fine = [frame(0), frame(10), frame(3)].concat();
            assert!(fine.chunks(piece).all(|bytes| frames.see(bytes).is_ok()));
            assert!(!exceeded.load(Ordering::Relaxed));
            assert!(frame(11).chunks(piece).any(|bytes| frames.see(bytes).is_err()));
            assert!(exceeded.load(Ordering::Relaxed));
        }
    }
}
