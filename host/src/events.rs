//! Events between services: publish and subscribe.
//!
//! A publisher says that something has happened and does not know who listens. What carries the events is a choice of
//! the operator ([`BusKind`]) that no service sees: this process, Redis Streams, or plain Redis publish/subscribe.
//!
//! - **An event whose publish returned is delivered at least once to every subscription**, through crashes of the host and
//!   of the subscriber. A handler may see an event again, always with the same source and id. Only the publish/subscribe
//!   bus delivers at most once, as its server does.
//! - **Publishing never waits for a subscriber**, and fails for none: one that is slow falls behind in the log, where it
//!   takes no memory. What it has in memory is bounded by its subscription's capacity.
//! - **A slow subscriber slows nobody else**, since each subscription has its own dispatcher and its own position.
//! - **A handler answers with a [`Verdict`]**, so that "not now" and "never" are told apart from "done". A fault of the
//!   platform counts as "not now". After so many tries an event becomes a [dead letter](DeadLetter), with the reason, the
//!   last error and the number of tries, and only by that is it settled.
//! - **Events of one subject come in order**, one after the other: see [`DeliveryOrder`]. One that is tried again holds up
//!   its own subject and no other.
//!
//! Left out on purpose: an order over all subjects, and any filtering other than by topic.

pub mod binding;

mod archive;
mod bus;
mod dispatcher;
mod event;
mod meter;
mod room;
mod schedule;
mod subscription;
#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
pub(crate) use archive::Shelf;
pub use archive::{ArchiveError, DeadLetter, DeadLetterFilter, DeadReason, MAX_LISTED, ReplayFrom};
pub use bus::{
    Bus, BusConfig, BusError, BusKind, Durability, EmbeddedConfig, Entered, LogError, Prepared, PublishError,
    Publisher, Publishes, RedisConfig, Retention,
};
pub use event::{Event, InvalidEvent, MAX_CONTENT_TYPE, MAX_DATA, MAX_DELAY, MAX_SUBJECT, MAX_TOPIC, NewEvent};
pub use meter::{BusSnapshot, Connection, LogSnapshot, SubscriptionSnapshot};
pub use schedule::{Cron, InvalidCron, Schedule};
pub use subscription::{DeliveryOrder, DeliveryPolicy, InvalidPolicy, Subscriber, Subscription, Verdict};
