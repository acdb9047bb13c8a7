//! `[topics.<name>]` and `[events]`: what events there are and what carries them.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use super::{
    error::Placed,
    reader::{Document, Table, Value, did_you_mean, quoted},
    server_url::ServerUrl,
    values::is_plain_name,
};
use crate::events::{Cron, Durability, Retention, Schedule};
use jiff::tz::TimeZone;

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name: at most 200 letters, digits, dots, hyphens and underscores.
    pub name: Placed<String>,
    /// What its events tell, for people.
    pub description: Option<String>,
    /// When its events come by the clock, if they do.
    pub schedule: Option<Schedule>,
}

/// What carries events from publishers to subscribers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bus {
    /// The log in this host's own data folder.
    Embedded(Durability),
    /// Redis Streams with consumer groups.
    RedisStreams(Placed<ServerUrl>),
    /// Plain Redis PUBLISH and SUBSCRIBE: interoperable, without any guarantee of delivery.
    RedisPubsub(Placed<ServerUrl>),
}

const NAME_LENGTH: usize = 200;
/// How long events of the past can be kept.
const AGE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3660 * 24 * 3600);
/// How many bytes they can take.
const SIZE: RangeInclusive<u64> = 0..=1 << 50;
/// How many bytes the log can take at all. With less than a few of the largest events it could not work.
const LIMIT: RangeInclusive<u64> = 4 << 20..=1 << 50;
const BUSES: &str = "\"embedded\", \"redis-streams\" or \"redis-pubsub\"";

pub(super) fn read_topics(table: Table<'_>, doc: &Document<'_>) -> BTreeMap<String, Topic> {
    let mut topics = BTreeMap::new();
    for (name, value) in table.entries() {
        if !is_plain_name(&name, NAME_LENGTH) {
            let rule =
                format!("expected a topic of at most {NAME_LENGTH} letters, digits, dots, hyphens and underscores");
            doc.report_at(&name, format!("{rule}, found {}", quoted(&name)));
        }
        let Some(mut table) = value.table() else { continue };
        let description = table.optional("description", Value::string);
        let schedule = read_schedule(&name, &mut table);
        table.finish();
        topics.insert(name.value.clone(), Topic { name, description, schedule });
    }
    topics
}

/// `[key-value]`, which says nothing but where Redis is.
pub(super) fn read_redis(mut table: Table<'_>) -> Option<Placed<ServerUrl>> {
    let redis = table.optional("redis", |value| Some(value.placed(redis_url(value)?)));
    table.finish();
    redis
}

fn read_schedule(topic: &str, table: &mut Table<'_>) -> Option<Schedule> {
    let (cron, zone) = (table.value("cron"), table.value("timezone"));
    let (subject, data) = (table.value("subject"), table.value("data"));
    let Some(cron) = cron else {
        for other in [zone, subject, data].iter().flatten() {
            other.report::<()>("this key goes with `cron`, which says when the events of the topic come by the clock");
        }
        return None;
    };
    let zone = zone.as_ref().map_or(Some(TimeZone::UTC), read_zone);
    let expression = cron.str("a cron expression such as \"0 3 * * *\"");
    // A zone that is wrong does not make the expression right.
    let read = Cron::parse(expression?, zone.clone().unwrap_or(TimeZone::UTC));
    let cron = read.map_or_else(|wrong| cron.report(wrong.to_string()), Some);
    let written = (subject.is_some(), data.is_some());
    let subject_read = subject.as_ref().and_then(Value::string);
    let data_read = data.as_ref().and_then(|value| {
        let text = value.str("JSON in a string, such as '{\"kind\": \"daily\"}'")?;
        match serde_json::from_str::<serde::de::IgnoredAny>(text) {
            Ok(_) => Some(text.to_owned().into()),
            Err(error) => value.report(format!("expected JSON in a string: {error}")),
        }
    });
    if written != (subject_read.is_some(), data_read.is_some()) || zone.is_none() {
        return None;
    }
    let schedule = Schedule { topic: topic.into(), cron: cron?, subject: subject_read, data: data_read };
    if let Err(wrong) = schedule.validate() {
        // Of these two keys, the one that it is about.
        let about = match wrong {
            crate::events::InvalidEvent::Subject => subject,
            _ => data,
        };
        about.map_or_else(|| table.report(wrong.to_string()), |value| _ = value.report::<()>(wrong.to_string()));
        return None;
    }
    Some(schedule)
}

fn read_zone(value: &Value<'_>) -> Option<TimeZone> {
    let name = value.str("a time zone such as \"Europe/Berlin\"")?;
    TimeZone::get(name).ok().or_else(|| {
        let known: Vec<String> = jiff::tz::db().available().map(|name| name.to_string()).collect();
        let meant = did_you_mean(name, known.iter().map(String::as_str));
        value.report(format!(
            "expected the name of a time zone such as \"Europe/Berlin\", found {}{meant}",
            quoted(name)
        ))
    })
}

/// Reads `[events]`: what carries events, and how long it keeps them.
pub(super) fn read(mut table: Table<'_>) -> (Bus, Retention) {
    let bus = Bus::read(&mut table);
    if matches!(bus, Bus::RedisPubsub(_)) {
        for key in ["keep", "limit"] {
            table.refuse(
                key,
                "the bus \"redis-pubsub\" keeps no events; drop this key, or set bus to \"redis-streams\"",
            );
        }
    }
    let base = Retention::default();
    let limit = table.value("limit");
    let size_limit = limit.as_ref().and_then(|value| value.size(LIMIT));
    let mut keep = table.table("keep");
    let age = keep.or("age", base.age, |value| value.duration(AGE));
    let size = keep.value("size");
    let kept = size.as_ref().and_then(|value| value.size(SIZE));
    keep.finish();
    // A default gives way to what is written.
    let retention = Retention {
        age,
        size: kept.unwrap_or_else(|| base.size.min(size_limit.unwrap_or(base.limit))),
        limit: size_limit.unwrap_or_else(|| base.limit.max(kept.unwrap_or(0))),
    };
    if let Some(value) = size.filter(|_| retention.size > retention.limit) {
        value.report::<()>("expected no more than `limit`, which is what the whole log may take");
    }
    table.finish();
    (bus, retention)
}

fn redis_url(value: &Value<'_>) -> Option<ServerUrl> {
    ServerUrl::read(value, ["redis://", "rediss://"], "redis://127.0.0.1:6379")
}

// === impl Bus ===

impl Bus {
    fn read(table: &mut Table<'_>) -> Self {
        let (bus, redis) = (table.value("bus"), table.value("redis"));
        let url = redis.as_ref().and_then(|value| Some(value.placed(redis_url(value)?)));
        let kind = bus.as_ref().map(|value| value.as_str());
        let carried: Option<fn(Placed<ServerUrl>) -> Self> = match kind {
            None if redis.is_none() => None,
            None | Some(Some("redis-streams")) => Some(Self::RedisStreams),
            Some(Some("redis-pubsub")) => Some(Self::RedisPubsub),
            Some(Some("embedded")) => {
                if let Some(redis) = &redis {
                    redis
                        .report::<()>("the embedded bus uses no Redis; drop this key, or set bus to \"redis-streams\"");
                }
                None
            }
            Some(_) => bus.as_ref().and_then(|value| value.expected(BUSES)),
        };
        if let (Some(bus), Some(_), None) = (&bus, carried, &redis) {
            let example = "redis = \"redis://127.0.0.1:6379\"";
            bus.report::<()>(format!("this bus needs to know where Redis is: add {example} or a secret reference"));
        }
        if carried.is_some() {
            let whose = "Redis has settings of its own for that (appendonly, appendfsync)";
            table.refuse("durability", format!("this is about the embedded bus: {whose}; drop this key"));
            return carried.zip(url).map_or(Self::Embedded(Durability::Os), |(carried, url)| carried(url));
        }
        Self::Embedded(table.or("durability", Durability::Os, |value| match value.as_str() {
            Some("os") => Some(Durability::Os),
            Some("fsync") => Some(Durability::Fsync),
            _ => value.expected("\"os\" or \"fsync\""),
        }))
    }
}
