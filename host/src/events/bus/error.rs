//! What a bus says when it can't.

use super::{LogError, RedisConfig};
use crate::{
    events::{InvalidEvent, InvalidPolicy},
    policy::Fault,
};
use std::sync::Arc;

/// Why a bus could not start.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The URL is none that Redis is found by. The URL itself is not shown: it may hold a password.
    #[error("the URL for Redis is not usable: {0}; expected redis://[user:password@]host[:port][/database]")]
    Url(String),
    /// Redis did not answer.
    #[error("Redis at {address} can't be used: {reason}; start it, or set `bus = \"embedded\"` under [events]")]
    Redis {
        /// Host and port.
        address: String,
        /// What happened.
        reason: String,
    },
    /// The embedded log can't be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The number of partitions is none, or not the one that the events in Redis are spread over.
    #[error("{}", partitions(*set, *found))]
    Partitions {
        /// What is set.
        set: u16,
        /// What Redis has noted.
        found: Option<u16>,
    },
    /// A subscription's delivery policy can't work.
    #[error(transparent)]
    Policy(#[from] InvalidPolicy),
    /// A subscription can't be entered.
    #[error("a subscription can't be entered: {0}")]
    Enter(String),
    /// One service has two subscriptions to one topic, which would share a consumer group.
    #[error("service {service} is subscribed to {topic} twice")]
    Twice {
        /// The service.
        service: Arc<str>,
        /// The topic.
        topic: Arc<str>,
    },
}

/// Why an event was not published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The service may not publish the topic.
    #[error("service {service} may not publish {topic}: add it to `publishes` of the service in the manifest")]
    Denied {
        /// The service.
        service: String,
        /// The topic.
        topic: String,
    },
    /// The event is not one.
    #[error(transparent)]
    Invalid(#[from] InvalidEvent),
    /// The bus did not take it.
    #[error(transparent)]
    Fault(#[from] Fault),
}

fn partitions(set: u16, found: Option<u16>) -> String {
    match found {
        None => format!("the number of partitions is {set}; expected 1 to {}", RedisConfig::MAX_PARTITIONS),
        Some(found) => format!(
            "the number of partitions is {set}, and the application's events in Redis are spread over {found}: hosts that \
             differ would break the order of events; set `partitions = {found}` under [events]"
        ),
    }
}
