//! `[topics.<name>]` and `[events]`: what events there are and what carries them.

use std::collections::BTreeMap;

use super::{
    error::Placed,
    reader::{Document, Table, Value, quoted},
    secret::{Secret, SecretError, SecretRef},
};

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name: at most 200 letters, digits, dots, hyphens and underscores.
    pub name: Placed<String>,
    /// What its events tell, for people.
    pub description: Option<String>,
}

/// What carries events from publishers to subscribers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bus {
    /// The log in this host's own data folder.
    Embedded,
    /// Redis Streams with consumer groups.
    RedisStreams(Placed<RedisUrl>),
    /// Plain Redis PUBLISH and SUBSCRIBE: interoperable, without any guarantee of delivery.
    RedisPubsub(Placed<RedisUrl>),
}

/// Where Redis is. A URL may hold a password, so it is treated as a secret wherever it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisUrl {
    /// Written in the manifest.
    Written(Secret),
    /// Kept elsewhere.
    Kept(SecretRef),
}

const NAME_LENGTH: usize = 200;
const BUSES: &str = "\"embedded\", \"redis-streams\" or \"redis-pubsub\"";

pub(super) fn read_topics(table: Table<'_>, doc: &Document<'_>) -> BTreeMap<String, Topic> {
    let mut topics = BTreeMap::new();
    for (name, value) in table.entries() {
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if name.is_empty() || name.len() > NAME_LENGTH || !name.bytes().all(good) {
            let rule =
                format!("expected a topic of at most {NAME_LENGTH} letters, digits, dots, hyphens and underscores");
            doc.report_at(&name, format!("{rule}, found {}", quoted(&name)));
        }
        let Some(mut table) = value.table() else { continue };
        let description = table.optional("description", Value::string);
        table.finish();
        topics.insert(name.value.clone(), Topic { name, description });
    }
    topics
}

/// `[key-value]`, which says nothing but where Redis is.
pub(super) fn read_redis(mut table: Table<'_>) -> Option<Placed<RedisUrl>> {
    let redis = table.optional("redis", |value| Some(value.placed(RedisUrl::read(value)?)));
    table.finish();
    redis
}

// === impl Bus ===

impl Bus {
    pub(super) fn read(mut table: Table<'_>) -> Self {
        let (bus, redis) = (table.value("bus"), table.value("redis"));
        let url = redis.as_ref().and_then(|value| Some(value.placed(RedisUrl::read(value)?)));
        let kind = bus.as_ref().map(|value| value.as_str());
        let carried: Option<fn(Placed<RedisUrl>) -> Self> = match kind {
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
        table.finish();
        carried.zip(url).map_or(Self::Embedded, |(carried, url)| carried(url))
    }
}

// === impl RedisUrl ===

impl RedisUrl {
    /// The URL, fetched from where it is kept.
    ///
    /// # Errors
    /// When it is kept as a secret that cannot be had; see [`SecretRef::resolve`].
    pub fn resolve(&self) -> Result<Secret, SecretError> {
        match self {
            Self::Written(url) => Ok(url.clone()),
            Self::Kept(reference) => reference.resolve(),
        }
    }

    /// What stands in its place is not shown: it may hold a password.
    fn read(value: &Value<'_>) -> Option<Self> {
        let text = value.as_str().unwrap_or_default();
        if ["redis://", "rediss://"].iter().any(|scheme| text.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()))
        {
            return Some(Self::Written(Secret::new(text)));
        }
        if text.starts_with("env:") || text.starts_with("file:") {
            return SecretRef::read(value).map(Self::Kept);
        }
        value.report("expected a URL such as \"redis://127.0.0.1:6379\", or a reference to a secret that holds one")
    }
}
