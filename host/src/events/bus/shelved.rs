//! A bus that takes nothing and keeps what a test has put on its shelf.

use super::{Before, Bus, BusError, Prepared, Running, Transport, closed};
use crate::events::{
    Connection, Event, PublishError, Subscription,
    archive::{Archive, Shelf},
    meter::Meter,
    room::Room,
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
            meters: Default::default(),
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

    fn enter<'a>(&'a self, subscription: &'a Subscription) -> BoxFuture<'a, Result<Before, BusError>> {
        let (service, topic) = (subscription.service.clone(), subscription.topic.clone());
        Box::pin(async { Err(BusError::Twice { service, topic }) })
    }

    fn strike<'a>(&'a self, _: &'a Subscription, _: Before) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    fn begin(&self, subscription: Subscription, _: Instant) -> BoxFuture<'_, Arc<Meter>> {
        let room = Arc::new(Room::new(&subscription.policy));
        Box::pin(async move { Arc::new(Meter::new(&subscription, room, None)) })
    }

    fn end<'a>(&'a self, _: &'a str, _: &'a str, _: Instant) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    fn shutdown(&self, _: Instant) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}
