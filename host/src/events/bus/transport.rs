//! What a bus asks of whatever carries its events.

use super::{BusError, PublishError, Retention};
use crate::events::{Connection, Event, InvalidEvent, LogSnapshot, Subscription, archive::Archive, meter::Meter};
use futures::future::BoxFuture;
use jiff::Timestamp;
use std::{collections::BTreeSet, sync::Arc};
use tokio::time::Instant;

/// An event that may be published: who publishes it was found to have the right, and it has its id. Publishing it twice,
/// because nobody knows whether the first time was one, is to subscribers a redelivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The event.
    pub event: Arc<Event>,
    /// When it is to be delivered at the earliest.
    pub due: Option<Timestamp>,
}

/// What was known of a subscription before it was entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// It is there.
    Present,
    /// It was there, and its place is kept.
    Left,
    /// Nothing. It was entered then, in milliseconds since 1970 by the clock of whoever keeps it.
    Unknown(i64),
}

/// What carries events.
pub(super) trait Transport: Send + Sync {
    /// Refuses what it can't carry, though it is an event.
    fn check(&self, _: &Event) -> Result<(), InvalidEvent> {
        Ok(())
    }

    /// Takes one event, to be delivered to all subscriptions to its topic once it is due. Ends within a bounded time.
    /// When this returns, the event is kept as well as the bus promises.
    fn publish(&self, prepared: Prepared) -> BoxFuture<'_, Result<(), PublishError>>;

    /// Publishes an event of a schedule for this time, unless one of the same topic was published for it or for a later
    /// time already, by whichever host; says whether it was.
    fn fire(&self, at: Timestamp, event: Arc<Event>) -> BoxFuture<'_, Result<bool, PublishError>>;

    /// For which time an event of this topic's schedule was published last, where that is known.
    fn last_fired<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<Option<Timestamp>, PublishError>>;

    /// What it keeps, if it keeps anything.
    fn archive(&self) -> Option<&dyn Archive>;

    /// Whether it can be reached now.
    fn connection(&self) -> Connection;

    /// What its log takes here, if it has one here.
    fn log(&self) -> Option<LogSnapshot> {
        None
    }

    /// Keeps events of the past for so long from now on.
    fn keep(&self, _retention: &Retention) {}

    /// Reaches its server by another user or password from now on; `false` where that is not to be had.
    fn log_in_by(&self, _url: &str) -> bool {
        false
    }

    /// Makes ready for events of these topics.
    fn declare(&self, _topics: BTreeSet<String>) -> BoxFuture<'_, Result<(), BusError>> {
        Box::pin(async { Ok(()) })
    }

    /// Enters a subscription, so that what is published from now on waits for it as far as anything is kept. One that is
    /// known goes on where it was.
    fn enter<'a>(&'a self, subscription: &'a Subscription) -> BoxFuture<'a, Result<Before, BusError>>;

    /// Takes back that a subscription was entered.
    fn strike<'a>(&'a self, subscription: &'a Subscription, before: Before) -> BoxFuture<'a, ()>;

    /// Begins to deliver to a subscription that was entered, in place of the present one of its topic and service, which
    /// ends by the deadline. Nothing can go wrong any more: what does is tried again.
    fn begin(&self, subscription: Subscription, deadline: Instant) -> BoxFuture<'_, Arc<Meter>>;

    /// Begins no more deliveries to a subscription that is no more, and ends those under way by the deadline. As far as
    /// anything is kept, its place is, like that of one which is missing at a start.
    fn end<'a>(&'a self, topic: &'a str, service: &'a str, deadline: Instant) -> BoxFuture<'a, ()>;

    /// Takes no more events, and delivers until the deadline those that would be lost otherwise.
    fn shutdown(&self, deadline: Instant) -> BoxFuture<'_, ()>;
}
