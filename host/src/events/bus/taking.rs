//! A bus for tests of those who publish: a closure takes the events, and nobody is subscribed.

use super::{Bus, Prepared, Running, Transport};
use crate::events::{Connection, Event, PublishError, archive::Archive};
use futures::future::BoxFuture;
use jiff::Timestamp;
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::AtomicU64},
};
use tokio::time::Instant;

struct Taking<F>(F);

pub(crate) type Took = BoxFuture<'static, Result<(), PublishError>>;

impl Bus {
    /// A bus that asks `take` of every event, on which `service` may publish `topics`.
    pub(crate) fn taking<F>(service: &str, topics: &[&str], take: F) -> Self
    where
        F: Fn(&Prepared) -> Result<(), PublishError> + Send + Sync + 'static,
    {
        let take = move |prepared: Prepared| -> Took { Box::pin(std::future::ready(take(&prepared))) };
        Self::taking_in_time(service, topics, take)
    }

    /// The same, where it takes time.
    pub(crate) fn taking_in_time<F>(service: &str, topics: &[&str], take: F) -> Self
    where
        F: Fn(Prepared) -> Took + Send + Sync + 'static,
    {
        let topics: HashSet<Arc<str>> = topics.iter().map(|topic| Arc::from(*topic)).collect();
        let grant = super::Grant { source: format!("/services/{service}").into(), topics };
        Self(Arc::new(Running {
            name: "taking",
            transport: Box::new(Taking(take)),
            grants: HashMap::from([(service.to_owned(), grant)]),
            meters: Vec::new(),
            published: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            schedules: Default::default(),
        }))
    }
}

impl<F: Fn(Prepared) -> Took + Send + Sync> Transport for Taking<F> {
    fn publish(&self, prepared: Prepared) -> BoxFuture<'_, Result<(), PublishError>> {
        // NB: only when it is polled, as others do.
        Box::pin(async move { (self.0)(prepared).await })
    }

    fn fire(&self, _: Timestamp, event: Arc<Event>) -> BoxFuture<'_, Result<bool, PublishError>> {
        Box::pin(async move { (self.0)(Prepared { event, due: None }).await.map(|()| true) })
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

    fn shutdown(&self, _: Instant) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}
