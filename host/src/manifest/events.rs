//! `[topics.<name>]` and `[events]`: what events there are and what carries them.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use super::{
    error::Placed,
    reader::{Document, Table, Value, did_you_mean, quoted},
    server_url::ServerUrl,
    values::is_plain_name,
};
use crate::events::{Cron, Durability, RedisConfig, Retention, Schedule};
use jiff::tz::TimeZone;

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name: at most 200 letters, digits, dots, hyphens and underscores.
    pub name: Placed<String>,
    /// What its events tell, for people.
    pub description: Option<String>,
    /// When its events come by the clock, if they do; at the place of its `cron`.
    pub schedule: Option<Placed<Schedule>>,
}

/// What carries events from publishers to subscribers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bus {
    /// The log in this host's own data folder.
    Embedded(Durability),
    /// Redis Streams with consumer groups.
    RedisStreams(Placed<ServerUrl>, Sharing),
    /// Plain Redis PUBLISH and SUBSCRIBE: interoperable, without any guarantee of delivery.
    RedisPubsub(Placed<ServerUrl>),
}

/// How hosts share the streams in Redis. What is not written is as [`RedisConfig`] has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sharing {
    /// Over how many streams the events of a topic are spread: so many hosts can share one subscription.
    pub partitions: u16,
    /// How long a host keeps its partitions without being heard of.
    pub lease: Duration,
    /// How often events of the past are removed that need not be kept.
    pub trim: Duration,
}

const NAME_LENGTH: usize = 200;
/// How long events of the past can be kept.
const AGE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3660 * 24 * 3600);
/// How many bytes they can take.
const SIZE: RangeInclusive<u64> = 0..=1 << 50;
/// How many bytes the log can take at all. With less than a few of the largest events it could not work.
const LIMIT: RangeInclusive<u64> = 4 << 20..=1 << 50;
/// A heartbeat goes out three times in a lease, and a host that is busy for a moment must not lose its partitions by it.
const LEASE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(300);
/// How often streams are trimmed. Each time looks at every partition of every topic.
const TRIM: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
/// What is said of [`Sharing`]'s keys, and of no other bus.
const SHARING: [&str; 3] = ["partitions", "lease", "trim"];
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

fn read_schedule(topic: &str, table: &mut Table<'_>) -> Option<Placed<Schedule>> {
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
    let at = cron.placed(());
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
    Some(at.with(schedule))
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
    match bus {
        Bus::Embedded(_) => {}
        Bus::RedisStreams(..) => table.refuse(
            "limit",
            "this is about the embedded log: how much Redis may take is its own `maxmemory`, and what is kept of the past is \
             `keep`; drop this key",
        ),
        Bus::RedisPubsub(_) => {
            for key in ["keep", "limit"] {
                table.refuse(
                    key,
                    "the bus \"redis-pubsub\" keeps no events; drop this key, or set bus to \"redis-streams\"",
                );
            }
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
        let sharing = Sharing::read(table, !matches!(kind, Some(Some("embedded" | "redis-pubsub"))) && redis.is_some());
        let carried: Option<Box<dyn FnOnce(Placed<ServerUrl>) -> Self>> = match kind {
            None if redis.is_none() => None,
            None | Some(Some("redis-streams")) => Some(Box::new(|url| Self::RedisStreams(url, sharing))),
            Some(Some("redis-pubsub")) => Some(Box::new(Self::RedisPubsub)),
            Some(Some("embedded")) => {
                if let Some(redis) = &redis {
                    redis
                        .report::<()>("the embedded bus uses no Redis; drop this key, or set bus to \"redis-streams\"");
                }
                None
            }
            Some(_) => bus.as_ref().and_then(|value| value.expected(BUSES)),
        };
        if let (Some(bus), Some(_), None) = (&bus, &carried, &redis) {
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

// === impl Sharing ===

impl Sharing {
    /// Reads its keys, which only a bus that has streams takes.
    fn read(table: &mut Table<'_>, streams: bool) -> Self {
        let mut sharing = Self::default();
        if !streams {
            for key in SHARING {
                table.refuse(key, "this is about the streams in Redis; drop this key, or set bus to \"redis-streams\"");
            }
            return sharing;
        }
        let partitions = 1..=RedisConfig::MAX_PARTITIONS;
        sharing.partitions = table.or(SHARING[0], sharing.partitions, |value| value.integer(partitions));
        sharing.lease = table.or(SHARING[1], sharing.lease, |value| value.duration(LEASE));
        sharing.trim = table.or(SHARING[2], sharing.trim, |value| value.duration(TRIM));
        sharing
    }
}

impl Default for Sharing {
    fn default() -> Self {
        let RedisConfig { partitions, lease, trim, .. } = RedisConfig::new("");
        Self { partitions, lease, trim }
    }
}
