//! What Redis keeps beyond the deliveries under way: dead letters, and the past of each topic as far as it was not trimmed.
//!
//! What is delivered once more goes to streams that are one subscription's alone, so that others do not get it twice.

use super::{
    Streams, entry,
    keys::{self, partition},
    schedule::first_of,
    scripts,
};
use crate::events::{
    ArchiveError, DeadLetter, DeadLetterFilter, DeadReason, Event, NewEvent, ReplayFrom, archive::Archive,
};
use ::redis::{FromRedisValue, RedisError, Value, cmd, from_redis_value};
use futures::future::BoxFuture;
use jiff::Timestamp;
use std::{collections::HashMap, sync::Arc};

/// How many letters to read at once.
const PAGE: usize = 50;
/// How many events of the past to copy, or copies to take back, in one step of Redis.
const BATCH: usize = 64;

const LETTER: &str = "the name of a dead letter, such as 1753000000007-0";
const OFFSET: &str = "the id of an entry, such as 1753000000007-0, or the milliseconds that it begins with";

type Entry = (String, Vec<(Vec<u8>, Vec<u8>)>);

// === impl Streams ===

impl Streams {
    async fn ask<T: FromRedisValue>(&self, command: &::redis::Cmd) -> Result<T, ArchiveError> {
        self.redis.query(command).await.map_err(unavailable)
    }

    async fn letters(&self, filter: &DeadLetterFilter) -> Result<Vec<DeadLetter>, ArchiveError> {
        let limit = filter.most();
        let matches = |letter: &DeadLetter| {
            filter.topic.as_deref().is_none_or(|it| it == &*letter.event.topic)
                && filter.service.as_deref().is_none_or(|it| it == &*letter.service)
                && filter.reason.is_none_or(|it| it == letter.reason)
        };
        let after = filter.after.as_deref().map(|it| id(it, LETTER)).transpose()?;
        let mut found = Vec::new();
        if let Some(named) = &filter.letters {
            let mut named: Vec<_> = named.iter().map(|it| Ok((id(it, LETTER)?, it))).collect::<Result<_, _>>()?;
            named.sort();
            named.dedup();
            for (at, letter) in named.into_iter().filter(|(at, _)| after.is_none_or(|after| *at > after)) {
                let range = self.range(letter, letter, 1).await?;
                found.extend(range.into_iter().filter_map(letter_of).filter(&matches));
                if found.len() >= limit || at == (u64::MAX, u64::MAX) {
                    break;
                }
            }
            return Ok(found);
        }
        let mut from = filter.after.as_ref().map_or_else(|| "-".to_owned(), |after| format!("({after}"));
        loop {
            let page = self.range(&from, "+", PAGE).await?;
            let Some((last, _)) = page.last() else { return Ok(found) };
            from = format!("({last}");
            found.extend(page.into_iter().filter_map(letter_of).filter(&matches));
            if found.len() >= limit {
                found.truncate(limit);
                return Ok(found);
            }
        }
    }

    async fn range(&self, from: &str, to: &str, count: usize) -> Result<Vec<Entry>, ArchiveError> {
        let mut range = cmd("XRANGE");
        range.arg(self.keys.dead()).arg(from).arg(to).arg("COUNT").arg(count);
        let entries: Vec<(String, Value)> = self.ask(&range).await?;
        let entries = entries.into_iter().map(|(id, fields)| Ok((id, from_redis_value(fields)?)));
        entries.collect::<Result<_, ::redis::ParsingError>>().map_err(|err| ArchiveError::Unavailable(err.to_string()))
    }

    async fn check_subscription(&self, topic: &str, service: &str) -> Result<(), ArchiveError> {
        let mut seen = cmd("HEXISTS");
        seen.arg(self.keys.seen()).arg(keys::subscription(topic, service));
        if self.ask(&seen).await? {
            return Ok(());
        }
        Err(ArchiveError::NoSubscription { topic: topic.to_owned(), service: service.to_owned() })
    }
}

impl Archive for Streams {
    fn dead_letters(&self, filter: DeadLetterFilter) -> BoxFuture<'_, Result<Vec<DeadLetter>, ArchiveError>> {
        Box::pin(async move { self.letters(&filter).await })
    }

    fn revive(&self, filter: DeadLetterFilter) -> BoxFuture<'_, Result<u64, ArchiveError>> {
        Box::pin(async move {
            let letters = self.letters(&filter).await?;
            let mut checked: Vec<(&str, &str)> = Vec::new();
            for letter in &letters {
                let subscription = (&*letter.event.topic, &*letter.service);
                if !checked.contains(&subscription) {
                    self.check_subscription(subscription.0, subscription.1).await?;
                    checked.push(subscription);
                }
            }
            if letters.is_empty() {
                return Ok(0);
            }
            let dead = self.keys.dead();
            let again =
                |it: &DeadLetter| self.keys.again(&it.event.topic, &it.service, partition(&it.event, self.partitions));
            let streams: Vec<String> = letters.iter().map(again).collect();
            let mut revive = scripts::REVIVE.on([&*dead].into_iter().chain(streams.iter().map(String::as_str)));
            for letter in &letters {
                revive.arg(&letter.letter).arg(&*letter.service);
            }
            self.ask(&revive).await
        })
    }

    fn discard(&self, filter: DeadLetterFilter) -> BoxFuture<'_, Result<u64, ArchiveError>> {
        Box::pin(async move {
            let letters = self.letters(&filter).await?;
            if letters.is_empty() {
                return Ok(0);
            }
            let mut delete = cmd("XDEL");
            delete.arg(self.keys.dead());
            for letter in &letters {
                delete.arg(&letter.letter);
            }
            self.ask(&delete).await
        })
    }

    fn replay(&self, topic: &str, service: &str, from: ReplayFrom) -> BoxFuture<'_, Result<u64, ArchiveError>> {
        let (topic, service) = (topic.to_owned(), service.to_owned());
        Box::pin(async move {
            let (topic, service) = (&*topic, &*service);
            self.check_subscription(topic, service).await?;
            let from = match from {
                ReplayFrom::Time(time) => first_of(time),
                ReplayFrom::Offset(offset) => {
                    id(&offset, OFFSET)?;
                    offset
                }
            };
            let mut copied = 0;
            for partition in 0..self.partitions {
                let stream = self.keys.stream(topic, partition);
                let again = self.keys.again(topic, service, partition);
                let mut newest = cmd("XREVRANGE");
                let newest: Vec<(String, Value)> =
                    self.ask(newest.arg(&stream).arg("+").arg("-").arg("COUNT").arg(1)).await?;
                let Some((newest, _)) = newest.first() else { continue };
                let mut from = from.clone();
                loop {
                    let mut replay = scripts::REPLAY.on([&*stream, &again]);
                    replay.arg(service).arg(&from).arg(newest).arg(BATCH);
                    let (count, last): (u64, String) = self.ask(&replay).await?;
                    copied += count;
                    if count < BATCH as u64 {
                        break;
                    }
                    from = format!("({last}");
                }
            }
            Ok(copied)
        })
    }

    fn stop_replays(&self, topic: &str, service: &str) -> BoxFuture<'_, Result<u64, ArchiveError>> {
        let (topic, service) = (topic.to_owned(), service.to_owned());
        Box::pin(async move {
            self.check_subscription(&topic, &service).await?;
            let mut stopped = 0;
            for partition in 0..self.partitions {
                let again = self.keys.again(&topic, &service, partition);
                let mut from = "0-0".to_owned();
                while !from.is_empty() {
                    let mut stop = scripts::STOP.on([&*again]);
                    stop.arg(&service).arg(&from).arg(BATCH);
                    let (count, next): (u64, String) = self.ask(&stop).await?;
                    stopped += count;
                    from = next;
                }
            }
            Ok(stopped)
        })
    }
}

fn unavailable(err: RedisError) -> ArchiveError {
    ArchiveError::Unavailable(err.to_string())
}

/// An id in its two parts, or the first of them.
fn id(text: &str, expected: &'static str) -> Result<(u64, u64), ArchiveError> {
    let (time, number) = text.split_once('-').unwrap_or((text, "0"));
    let parsed = time.parse().ok().zip(number.parse().ok());
    parsed.ok_or_else(|| ArchiveError::Offset(text.chars().take(64).collect(), expected))
}

/// The letter that an entry is. What others have written among them is none.
fn letter_of((letter, fields): Entry) -> Option<DeadLetter> {
    let mut about = HashMap::new();
    let mut event = Vec::new();
    for (name, value) in fields {
        match name.strip_prefix(b"dead-") {
            Some(name) => drop(about.insert(name.to_owned(), String::from_utf8_lossy(&value).into_owned())),
            None => event.push((name, value)),
        }
    }
    let mut take = |name: &str| about.remove(name.as_bytes());
    let reason = DeadReason::named(&take("reason")?).unwrap_or(DeadReason::Malformed);
    let topic: Arc<str> = take("topic")?.into();
    let event = entry::decode_fields(&topic, event.iter().cloned().collect())
        .unwrap_or_else(|_| as_it_lies(&topic, &letter, &event));
    Some(DeadLetter {
        service: take("service")?.into(),
        reason,
        error: take("error").unwrap_or_default(),
        attempts: take("attempts")?.parse().ok()?,
        at: take("at")?.parse().ok()?,
        event: Arc::new(event),
        letter,
    })
}

/// What is no event, shown as one: its fields are its data.
fn as_it_lies(topic: &Arc<str>, letter: &str, fields: &[(Vec<u8>, Vec<u8>)]) -> Event {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let fields: serde_json::Map<_, _> =
        fields.iter().map(|(name, value)| (text(name), serde_json::Value::String(text(value)))).collect();
    let new = NewEvent::json(&**topic, serde_json::Value::Object(fields).to_string());
    let mut event = Event::publish(new, Arc::clone(topic), format!("redis:{topic}").into(), None);
    event.id = letter.to_owned();
    let time = letter.split_once('-').and_then(|(time, _)| time.parse().ok());
    event.time = time.and_then(|it| Timestamp::from_millisecond(it).ok()).unwrap_or(Timestamp::UNIX_EPOCH);
    event
}
