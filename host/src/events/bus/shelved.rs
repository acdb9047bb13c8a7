//! A bus that takes nothing and keeps what a test has put on its shelf.

use super::{Bus, Prepared, Running, Transport, closed};
use crate::events::{
    Connection, Event, PublishError,
    archive::{Archive, Shelf},
};
use futures::future::BoxFuture;
use jiff::Timestamp;
use std::sync::Arc;
use tokio::time::Instant;

impl Bus {
    /// A bus with this archive.
    pub(crate) fn of_shelf(shelf: Shelf) -> Self {
        Self(Arc::new(Running {
            name: "embedded",
            transport: Box::new(shelf),
            grants: Default::default(),
            meters: Vec::new(),
            published: Default::default(),
            refused: Default::default(),
            schedules: Default::default(),
        }))
    }
}

impl Transport for Shelf {
    fn publish(&self, _: Prepared) -> BoxFuture<'_, Result<(), PublishError>> {
        Box::pin(async { Err(closed().into()) })
    }

    fn fire(&self, _: Timestamp, _: Arc<Event>) -> BoxFuture<'_, Result<bool, PublishError>> {
        Box::pin(async { Err(closed().into()) })
    }

    fn last_fired<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<Timestamp>, PublishError>> {
        Box::pin(async { Err(closed().into()) })
    }

    fn archive(&self) -> Option<&dyn Archive> {
        Some(self)
    }

    fn connection(&self) -> Connection {
        Connection::InProcess
    }

    fn shutdown(&self, _: Instant) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}
