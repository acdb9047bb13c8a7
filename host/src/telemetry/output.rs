//! What guests write to their standard output and error: lines of the host's log.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};

/// A longer line is logged in pieces: a guest must not make the host keep what it writes.
const LONGEST_LINE: usize = 8 << 10;

/// The output of one service.
#[derive(Clone)]
pub struct GuestOutput {
    service: Arc<str>,
}

struct Lines {
    service: Arc<str>,
    begun: Vec<u8>,
}

// === impl GuestOutput ===

impl GuestOutput {
    /// The output of an instance of `service`.
    pub fn new(service: Arc<str>) -> Self {
        Self { service }
    }
}

impl IsTerminal for GuestOutput {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for GuestOutput {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(Lines { service: self.service.clone(), begun: Vec::new() })
    }
}

// === impl Lines ===

impl Lines {
    fn log(&mut self) {
        let line = String::from_utf8_lossy(&self.begun);
        let line = line.trim_end();
        if !line.is_empty() {
            tracing::info!(target: "guest", service = %self.service, "{line}");
        }
        self.begun.clear();
    }
}

impl AsyncWrite for Lines {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            for piece in piece.chunks(LONGEST_LINE) {
                if self.begun.len() + piece.len() > LONGEST_LINE {
                    self.log();
                }
                self.begun.extend_from_slice(piece);
            }
            if self.begun.ends_with(b"\n") {
                self.log();
            }
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.log();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.log();
    }
}
