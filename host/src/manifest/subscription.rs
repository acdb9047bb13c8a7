//! The entries of a service's `subscribes`: a topic's name, or a table that also says how its events are delivered.

use std::{collections::BTreeSet, ops::RangeInclusive, time::Duration};

use super::{
    error::Placed,
    reader::{Table, Value, quoted},
    values::SHORTEST,
};
use crate::{
    events::{DeliveryOrder, DeliveryPolicy, InvalidPolicy},
    policy::Backoff,
};

/// A topic whose events are delivered to a service, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Subscription {
    /// The topic; it is declared.
    pub topic: Placed<String>,
    /// How its events are delivered.
    pub policy: DeliveryPolicy,
}

const ATTEMPTS: RangeInclusive<u32> = 1..=1_000;
/// Events of one subscription that may be unsettled in one host.
const IN_FLIGHT: RangeInclusive<usize> = 1..=100_000;
/// What a subscriber can put an event off by is at most this too.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60 * 60);
const ENTRIES: &str = "an array of topics, or of tables such as { topic = \"order.created\", attempts = 10 }";

// === impl Subscription ===

impl Subscription {
    /// Reads a whole `subscribes`. No topic is in it twice.
    pub(super) fn read_all(value: &Value<'_>) -> Option<Vec<Self>> {
        let mut seen = BTreeSet::new();
        let mut all = Vec::new();
        for (at, item) in value.items(ENTRIES)?.iter().enumerate() {
            let Some(subscription) = Self::read(item, at) else { continue };
            if seen.insert(subscription.topic.value.clone()) {
                all.push(subscription);
            } else {
                let topic = &subscription.topic;
                value.doc().report_at(topic, format!("{} is listed twice", quoted(topic)));
            }
        }
        Some(all)
    }

    fn read(item: &Value<'_>, at: usize) -> Option<Self> {
        if let Some(topic) = item.as_str() {
            return Some(Self { topic: item.placed(topic.to_owned()), policy: DeliveryPolicy::default() });
        }
        if !item.is_table() {
            return item.expected("a topic, or a table such as { topic = \"order.created\", attempts = 10 }");
        }
        let mut table = item.nth(at).table()?;
        let topic =
            table.required("topic", "the topic's name", |value| Some(value.placed(value.str("a topic")?.to_owned())));
        let policy = read_policy(&mut table);
        table.finish();
        Some(Self { topic: topic?, policy })
    }
}

fn read_policy(table: &mut Table<'_>) -> DeliveryPolicy {
    let base = DeliveryPolicy::default();
    let capacity = table.or("in-flight", base.capacity, |v| v.integer(IN_FLIGHT));
    let first = table.or("backoff", base.backoff.first, |v| v.duration(SHORTEST..=LONGEST_BACKOFF));
    // A default gives way to what is written.
    let policy = DeliveryPolicy {
        concurrency: table.or("concurrency", base.concurrency.min(capacity), |v| v.integer(IN_FLIGHT)),
        capacity,
        max_attempts: table.or("attempts", base.max_attempts, |v| v.integer(ATTEMPTS)),
        backoff: Backoff {
            first,
            max: table.or("max-backoff", base.backoff.max.max(first), |v| v.duration(SHORTEST..=LONGEST_BACKOFF)),
            ..base.backoff
        },
        order: table.or("order", base.order, |value| match value.as_str() {
            Some("subject") => Some(DeliveryOrder::Subject),
            Some("none") => Some(DeliveryOrder::None),
            _ => value.expected("\"subject\" or \"none\""),
        }),
        deduplicate: table.or("deduplicate", base.deduplicate, Value::boolean),
        ..base.clone()
    };
    let Err(refused) = policy.validate() else { return policy };
    // What could not be read might have been what fits.
    if !table.has_errors() {
        match refused {
            InvalidPolicy::Concurrency => table.report_field("concurrency", "expected no more than `in-flight`"),
            InvalidPolicy::Backoff => table.report_field("max-backoff", "expected no less than `backoff`"),
            InvalidPolicy::Capacity | InvalidPolicy::Attempts => table.report(refused.to_string()),
        }
    }
    base
}
