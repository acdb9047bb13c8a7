//! The bus in this process.
//!
//! Publishing reserves a place in every subscription first and hands the event over only when all have one: an event
//! reaches all its subscribers or none, and a publisher never waits for a subscriber.

use super::{Prepared, Stations, Transport, closed};
use crate::{
    events::{
        Connection, Event, InvalidPolicy, PublishError, Subscription,
        archive::Archive,
        dispatcher::{Delivery, Dispatcher, InMemory},
        meter::Meter,
        room::{Place, Room},
    },
    policy::{Fault, FaultKind},
};
use futures::future::BoxFuture;
use jiff::Timestamp;
use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};
use tokio::{sync::mpsc, time::Instant};

/// Carries events from publishers to subscribers of the same process.
pub(super) struct Embedded {
    /// `None` once the bus is closed. Publishing holds the lock for reading, so that closing it falls between two
    /// events and never into one.
    topics: RwLock<Option<HashMap<Arc<str>, Vec<Mailbox>>>>,
    stations: Stations,
}

/// Where the events of one subscription are put.
struct Mailbox {
    service: Arc<str>,
    room: Arc<Room>,
    inbox: mpsc::UnboundedSender<Delivery<Place>>,
}

// === impl Embedded ===

impl Embedded {
    /// Starts a dispatcher for each subscription.
    pub(super) fn start(subscriptions: Vec<Subscription>) -> Result<(Self, Vec<Arc<Meter>>), InvalidPolicy> {
        let (stations, mut meters) = (Stations::new(), Vec::new());
        let mut topics: HashMap<Arc<str>, Vec<Mailbox>> = HashMap::new();
        let ledger = Arc::new(InMemory);
        for subscription in subscriptions {
            subscription.policy.validate()?;
            let room = Arc::new(Room::new(&subscription.policy));
            let meter = Arc::new(Meter::new(&subscription, Arc::clone(&room), Some(0)));
            let (inbox, outbox) = mpsc::unbounded_channel();
            let mailbox = Mailbox { service: Arc::clone(&subscription.service), room, inbox };
            topics.entry(Arc::clone(&subscription.topic)).or_default().push(mailbox);
            meters.push(Arc::clone(&meter));
            let closing = stations.closing();
            stations.spawn(Dispatcher::new(subscription, meter, Arc::clone(&ledger), outbox, closing).run());
        }
        Ok((Self { topics: RwLock::new(Some(topics)), stations }, meters))
    }

    fn put(&self, event: &Arc<Event>) -> Result<(), Fault> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        let Some(mailboxes) = topics.as_ref().ok_or_else(closed)?.get(&event.topic) else {
            return Ok(());
        };
        let places: Vec<_> = mailboxes
            .iter()
            .map(|mailbox| mailbox.room.try_enter(&event.data).ok_or_else(|| full(event, &mailbox.service)))
            .collect::<Result<_, _>>()?;
        for (mailbox, place) in mailboxes.iter().zip(places) {
            // Dispatchers outlive the mailboxes, so there is always one that takes it.
            let _ = mailbox.inbox.send(Delivery { event: Arc::clone(event), attempt: 1, receipt: place });
        }
        Ok(())
    }
}

impl Transport for Embedded {
    fn publish(&self, prepared: Prepared) -> BoxFuture<'_, Result<(), PublishError>> {
        Box::pin(std::future::ready(self.put(&prepared.event).map_err(PublishError::Fault)))
    }

    fn fire(&self, _: Timestamp, event: Arc<Event>) -> BoxFuture<'_, Result<bool, PublishError>> {
        Box::pin(async move { self.publish(Prepared { event, due: None }).await.map(|()| true) })
    }

    fn last_fired<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<Timestamp>, PublishError>> {
        Box::pin(async { Ok(None) })
    }

    fn archive(&self) -> Option<&dyn Archive> {
        None
    }

    fn connection(&self) -> Connection {
        Connection::InProcess
    }

    fn shutdown(&self, deadline: Instant) -> BoxFuture<'_, ()> {
        // Without mailboxes the dispatchers end as soon as they are through.
        *self.topics.write().unwrap_or_else(PoisonError::into_inner) = None;
        Box::pin(self.stations.close(deadline))
    }
}

fn full(event: &Event, service: &str) -> Fault {
    let topic = &event.topic;
    Fault::new(FaultKind::Overloaded, format!("the subscription of {service} to {topic} has no room for another event"))
}

#[cfg(test)]
mod tests;
