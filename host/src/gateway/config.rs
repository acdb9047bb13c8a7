//! What an operator sets about the listener.

use std::{net::SocketAddr, time::Duration};

/// Where the gateway listens and what it grants to clients. The values of `[gateway]` in the manifest.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// The address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The largest sum of a request's header names and values in bytes, beyond which the answer is 431. The request
    /// target may take half as much, beyond which it is 414.
    pub max_header_bytes: usize,
    /// The largest request body in bytes where the route sets none, beyond which the answer is 413.
    pub max_body_bytes: u64,
    /// How long a client may take for the head of a request, and a new connection until its first request.
    pub header_timeout: Duration,
    /// The longest wait for the next piece of a request body (408), and for a client to take the next piece of an
    /// answer (cut off).
    pub body_timeout: Duration,
    /// How long a connection may stay open without a request.
    pub idle_timeout: Duration,
    /// How long requests in flight may take to finish at a shutdown.
    pub shutdown_grace: Duration,
    /// How many connections may be open; further ones wait in the listen backlog.
    pub max_connections: usize,
}

/// A setting with which no gateway can work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A timeout of zero would end every request.
    #[error("gateway.{0} must be longer than zero")]
    ZeroTimeout(&'static str),
    /// Not even the headers of an ordinary browser would fit.
    #[error("gateway.max-header-bytes is {0}; between 1024 and 1048576 bytes are possible")]
    HeaderBytes(usize),
    /// Nobody could connect, or more than can be counted.
    #[error("gateway.max-connections is {0}; between 1 and 1000000 are possible")]
    Connections(usize),
}

// === impl GatewayConfig ===

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 3000)),
            max_header_bytes: 16 * 1024,
            max_body_bytes: 1024 * 1024,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            shutdown_grace: Duration::from_secs(30),
            max_connections: 10_000,
        }
    }
}

impl GatewayConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let timeouts = [
            ("header-timeout", self.header_timeout),
            ("body-timeout", self.body_timeout),
            ("idle-timeout", self.idle_timeout),
        ];
        if let Some((name, _)) = timeouts.iter().find(|(_, timeout)| timeout.is_zero()) {
            return Err(ConfigError::ZeroTimeout(name));
        }
        if !(1024..=1024 * 1024).contains(&self.max_header_bytes) {
            return Err(ConfigError::HeaderBytes(self.max_header_bytes));
        }
        if !(1..=1_000_000).contains(&self.max_connections) {
            return Err(ConfigError::Connections(self.max_connections));
        }
        Ok(())
    }

    /// The longest request target in bytes.
    pub(super) fn max_target_bytes(&self) -> usize {
        self.max_header_bytes / 2
    }
}
