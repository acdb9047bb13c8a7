//! Events between services: publish and subscribe.
//!
//! A publisher says that something has happened and does not know who listens. What carries the events is a choice of
//! the operator ([`BusKind`]) that no service sees: this process, Redis Streams, or plain Redis publish/subscribe.
//!
//! - **Publishing never waits for a subscriber.** Every subscription has room for so many unsettled events; where
//!   there is none left, publishing answers `overloaded`, and the event reaches nobody.
//! - **A slow subscriber slows nobody else**, since each subscription has its own dispatcher.
//! - **A handler answers with a [`Verdict`]**, so that "not now" and "never" are told apart from "done". A fault of the
//!   platform counts as "not now". After so many tries an event is rejected, loudly.
//! - **Delivery is at least once**, so a handler may see an event again, always with the same id. Only the
//!   publish/subscribe bus delivers at most once, as its server does.
//!
//! Left out on purpose: ordering beyond that of first tries, and any filtering other than by topic.

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
mod testing;

#[cfg(test)]
pub(crate) use archive::Shelf;
pub use archive::{ArchiveError, DeadLetter, DeadLetterFilter, DeadReason, MAX_LISTED, ReplayFrom};
pub use bus::{
    Bus, BusConfig, BusError, BusKind, Durability, EmbeddedConfig, Prepared, PublishError, Publisher, RedisConfig,
    Retention,
};
pub use event::{Event, InvalidEvent, MAX_CONTENT_TYPE, MAX_DATA, MAX_DELAY, MAX_SUBJECT, MAX_TOPIC, NewEvent};
pub use meter::{BusSnapshot, Connection, SubscriptionSnapshot};
pub use schedule::{Cron, InvalidCron, Schedule};
pub use subscription::{DeliveryOrder, DeliveryPolicy, InvalidPolicy, Subscriber, Subscription, Verdict};
