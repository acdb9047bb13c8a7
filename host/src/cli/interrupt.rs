//! Ctrl-C and SIGTERM.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask for the end. From its making on they end nothing by themselves.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// What a command says that was ended before its work was done.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum Interrupted {
    /// SIGINT, as by Ctrl-C.
    #[error("stopped by Ctrl-C before it was done")]
    Interrupt,
    /// SIGTERM.
    #[error("stopped by SIGTERM before it was done")]
    Terminate,
}

// === impl Signals ===

impl Signals {
    /// Must be called within a runtime.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for one of them.
    pub async fn next(&mut self) -> Interrupted {
        tokio::select! {
            _ = self.terminate.recv() => Interrupted::Terminate,
            _ = self.interrupt.recv() => Interrupted::Interrupt,
        }
    }
}

// === impl Interrupted ===

impl Interrupted {
    /// What shells make of a program that the signal has ended: 128 and its number.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}
