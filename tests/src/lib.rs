//! What the end-to-end tests are made of.
//!
//! They drive the real `wharf` binary over real sockets, as a user does: each test writes a manifest into a folder of its
//! own, starts a host on a port that the system picks, and asks it things. Nothing of the host is linked in here, so
//! nothing can be asked that a client could not ask.
//!
//! Tests run in parallel on a machine that may be busy. So nothing sleeps and hopes: whatever takes time is waited for
//! by its condition, with a generous deadline ([`eventually`]), and what is compared is outcomes and not times.

mod app;
mod build;
mod client;
mod host;
mod load;
mod openapi;
mod origin;
mod postgres;
mod redis;
mod registry;
mod scene;
mod smtp;
mod wait;
mod workshop;

pub use app::{App, Done};
pub use build::{component, patched, wharf};
pub use client::{Answer, Body, Connection, Failed, request};
pub use host::{Host, send_signal};
pub use load::{Load, Report};
pub use openapi::openapi_tool;
pub use origin::Origin;
pub use postgres::Postgres;
pub use redis::{Redis, Session};
pub use registry::Registry;
pub use scene::{Asking, BUYER, EDGE, HELLO, at, behind, below, caller, held, linked, outside, starting_with};
pub use smtp::{Smtp, header};
pub use wait::{PATIENCE, eventually, within};
pub use workshop::{crate_with, guest_saying, workspace};
