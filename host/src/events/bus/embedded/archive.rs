//! Dead letters and replays.

use super::{Embedded, cursor::Cursor, feeder, readers, row, writer::Page};
use crate::events::{ArchiveError, DeadLetter, DeadLetterFilter, DeadReason, ReplayFrom, archive::Archive};
use futures::future::BoxFuture;
use rusqlite::{Connection, OptionalExtension, params_from_iter, types::Value};
use std::{collections::BTreeMap, sync::Arc};

/// About how many bytes of events one answer lists.
const LISTED_BYTES: usize = 16 << 20;

/// Which letters, in the terms of the log.
#[derive(Clone)]
struct Which {
    condition: String,
    values: Vec<Value>,
    limit: usize,
}

// === impl Which ===

impl Which {
    fn new(filter: DeadLetterFilter) -> Result<Self, ArchiveError> {
        let limit = filter.most();
        let DeadLetterFilter { topic, service, reason, letters, after, .. } = filter;
        let number = |text: &str| {
            let number = text.parse::<i64>();
            number.map_err(|_| ArchiveError::Offset(text.chars().take(64).collect(), "the number of a dead letter"))
        };
        let mut which = Self { condition: "1".into(), values: Vec::new(), limit };
        if let Some(topic) = topic {
            which.and("t.name = ?", Value::Text(topic));
        }
        if let Some(service) = service {
            which.and("s.service = ?", Value::Text(service));
        }
        if let Some(reason) = reason {
            which.and("d.reason = ?", Value::Text(reason.name().to_owned()));
        }
        if let Some(after) = after {
            which.and("d.letter > ?", Value::Integer(number(&after)?));
        }
        if let Some(letters) = letters {
            let letters = letters.iter().map(|it| number(it)).collect::<Result<Vec<_>, _>>()?;
            let list = serde_json::to_string(&letters).unwrap_or_default();
            which.and("d.letter IN (SELECT value FROM json_each(?))", Value::Text(list));
        }
        Ok(which)
    }

    fn and(&mut self, condition: &str, value: Value) {
        self.condition.push_str(" AND ");
        self.condition.push_str(condition);
        self.values.push(value);
    }

    /// The rest of a query for what is there of them.
    fn from(&self) -> String {
        let Self { condition, limit, .. } = self;
        format!(
            "FROM dead d JOIN subscriptions s ON s.id = d.subscription JOIN topics t ON t.id = s.topic \
             WHERE {condition} ORDER BY d.letter LIMIT {limit}"
        )
    }

    fn read(&self, connection: &Connection) -> rusqlite::Result<Vec<DeadLetter>> {
        let sql =
            format!("SELECT d.letter, s.service, d.reason, d.error, d.attempts, d.at, d.seq, t.name {}", self.from());
        let mut statement = connection.prepare(&sql)?;
        let mut event = connection.prepare_cached(&format!(
            "SELECT {} FROM events e JOIN sources s ON s.id = e.source WHERE e.seq = ?1",
            row::COLUMNS
        ))?;
        let mut rows = statement.query(params_from_iter(&self.values))?;
        let (mut letters, mut bytes) = (Vec::new(), 0);
        while bytes < LISTED_BYTES
            && let Some(row) = rows.next()?
        {
            let topic: String = row.get(7)?;
            let topic = topic.into();
            let seq: i64 = row.get(6)?;
            // Retention keeps it, so it is gone only where somebody has dropped it by hand.
            let Some(event) = event.query_row([seq], |row| row::read(row, 0, &topic)).optional()? else { continue };
            bytes += event.data.len();
            letters.push(DeadLetter {
                letter: row.get::<_, i64>(0)?.to_string(),
                service: row.get::<_, String>(1)?.into(),
                reason: DeadReason::named(&row.get::<_, String>(2)?).unwrap_or(DeadReason::Malformed),
                error: row.get(3)?,
                attempts: row.get(4)?,
                at: row::time(row.get(5)?),
                event: Arc::new(event),
            });
        }
        Ok(letters)
    }

    /// Drops them, and returns those that can be delivered again where that is wanted: cursor, subscription and event.
    fn take(&self, page: &mut Page<'_>, revive: bool) -> rusqlite::Result<Taken> {
        let connection = page.connection();
        let cursor = "(SELECT c.id FROM cursors c WHERE c.subscription = s.id AND c.until IS NULL)";
        let sql = format!("SELECT d.letter, d.seq, {cursor}, s.service, t.name {}", self.from());
        let mut statement = connection.prepare(&sql)?;
        let mut rows = statement.query(params_from_iter(&self.values))?;
        let mut taken = Taken::default();
        while let Some(row) = rows.next()? {
            let (letter, seq, cursor): (i64, i64, Option<i64>) = (row.get(0)?, row.get(1)?, row.get(2)?);
            match cursor {
                Some(cursor) if revive => taken.revived.push((cursor, seq)),
                None if revive => {
                    taken.nobody = Some((row.get(4)?, row.get(3)?));
                    return Ok(taken);
                }
                _ => {}
            }
            taken.letters.push(letter);
        }
        for (cursor, seq) in &taken.revived {
            let insert = "INSERT OR IGNORE INTO pending (cursor, seq, attempts) VALUES (?1, ?2, 0)";
            connection.prepare_cached(insert)?.execute((cursor, seq))?;
        }
        for letter in &taken.letters {
            connection.prepare_cached("DELETE FROM dead WHERE letter = ?1")?.execute([letter])?;
        }
        taken.left = dead(connection)?;
        Ok(taken)
    }
}

#[derive(Default)]
struct Taken {
    letters: Vec<i64>,
    revived: Vec<(i64, i64)>,
    /// A subscription, by topic and service, that is not there any more to take one; then nothing was done.
    nobody: Option<(String, String)>,
    /// How many are left, by subscription.
    left: BTreeMap<i64, u64>,
}

/// How many dead letters there are, by subscription.
pub(super) fn dead(connection: &Connection) -> rusqlite::Result<BTreeMap<i64, u64>> {
    let mut count = connection.prepare_cached("SELECT subscription, count(*) FROM dead GROUP BY subscription")?;
    let rows = count.query_map([], |row| Ok((row.get(0)?, u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0))))?;
    rows.collect()
}

impl Embedded {
    async fn take(&self, filter: DeadLetterFilter, revive: bool) -> Result<u64, ArchiveError> {
        let which = Which::new(filter)?;
        // NB: a task of its own, so that the cursors hear of it also when nobody waits any more.
        let log = Arc::clone(&self.log);
        let taking = tokio::spawn(async move {
            let taken = log.write(move |page| which.take(page, revive)).await;
            let taken = taken.map_err(|fault| ArchiveError::Unavailable(fault.message().to_owned()))?;
            if let Some((topic, service)) = taken.nobody {
                return Err(ArchiveError::NoSubscription { topic, service });
            }
            for cursor in log.all_followers() {
                cursor.seat.meter.set_dead(Some(taken.left.get(&cursor.seat.subscription).copied().unwrap_or(0)));
                let its = taken.revived.iter().filter(|(id, _)| *id == cursor.id);
                its.for_each(|(_, seq)| cursor.revive(*seq));
            }
            Ok(taken.letters.len() as u64)
        });
        taking.await.unwrap_or_else(|error| Err(ArchiveError::Unavailable(error.to_string())))
    }

    async fn begin_replay(&self, topic: &str, service: &str, from: ReplayFrom) -> Result<u64, ArchiveError> {
        let Some(main) = self.log.follower(topic, service).cloned() else {
            return Err(ArchiveError::NoSubscription { topic: topic.to_owned(), service: service.to_owned() });
        };
        let offset = match &from {
            ReplayFrom::Offset(text) => Some(text.parse::<i64>().ok().filter(|it| *it >= 0).ok_or_else(|| {
                ArchiveError::Offset(text.chars().take(64).collect(), "a number: the seq of an event in the log")
            })?),
            ReplayFrom::Time(_) => None,
        };
        let time = match from {
            ReplayFrom::Time(time) => time.as_millisecond(),
            ReplayFrom::Offset(_) => 0,
        };
        let log = Arc::clone(&self.log);
        let closing = self.stations.closing();
        let beginning = tokio::spawn(async move {
            // What it has not read yet comes to it anyway.
            let (until, seat) = (main.read(), main.seat.clone());
            let (topic, subscription) = (seat.topic_id, seat.subscription);
            let begun = log.write(move |page| {
                let connection = page.connection();
                let from = match offset {
                    Some(offset) => Some(offset),
                    None => readers::first_at(connection, time)?,
                };
                let Some(from) = from.filter(|from| *from <= until) else { return Ok((0, 0, 0)) };
                let count = "SELECT count(*) FROM events WHERE topic = ?1 AND seq >= ?2 AND seq <= ?3";
                let count: i64 = connection.query_row(count, (topic, from, until), |row| row.get(0))?;
                if count > 0 {
                    let insert = "INSERT INTO cursors (subscription, position, until) VALUES (?1, ?2, ?3)";
                    connection.execute(insert, (subscription, from - 1, until))?;
                }
                Ok((connection.last_insert_rowid(), from - 1, u64::try_from(count).unwrap_or(0)))
            });
            let (id, position, count) =
                begun.await.map_err(|fault| ArchiveError::Unavailable(fault.message().to_owned()))?;
            if count > 0 {
                let cursor = Cursor::new(id, seat, Some(until), position, until, count, BTreeMap::new());
                let cursor = Arc::new(cursor);
                log.add(&cursor);
                let log = Arc::clone(&log);
                tokio::spawn(feeder::run(cursor, log, closing));
            }
            Ok(count)
        });
        beginning.await.unwrap_or_else(|error| Err(ArchiveError::Unavailable(error.to_string())))
    }
}

impl Embedded {
    async fn end_replays(&self, topic: &str, service: &str) -> Result<u64, ArchiveError> {
        let Some(main) = self.log.follower(topic, service) else {
            return Err(ArchiveError::NoSubscription { topic: topic.to_owned(), service: service.to_owned() });
        };
        let replays = self.log.replays(main.seat.subscription);
        let count = replays.iter().map(|replay| replay.stop()).sum();
        // With this they leave the file, too.
        let saving = self.log.write(|page| {
            page.save_too();
            Ok(())
        });
        saving.await.map_err(|fault| ArchiveError::Unavailable(fault.message().to_owned()))?;
        Ok(count)
    }
}

impl Archive for Embedded {
    fn dead_letters(&self, filter: DeadLetterFilter) -> BoxFuture<'_, Result<Vec<DeadLetter>, ArchiveError>> {
        Box::pin(async move {
            let which = Which::new(filter)?;
            let read = self.log.readers.read(move |connection| which.read(connection)).await;
            read.map_err(ArchiveError::Unavailable)
        })
    }

    fn revive(&self, filter: DeadLetterFilter) -> BoxFuture<'_, Result<u64, ArchiveError>> {
        Box::pin(self.take(filter, true))
    }

    fn discard(&self, filter: DeadLetterFilter) -> BoxFuture<'_, Result<u64, ArchiveError>> {
        Box::pin(self.take(filter, false))
    }

    fn replay(&self, topic: &str, service: &str, from: ReplayFrom) -> BoxFuture<'_, Result<u64, ArchiveError>> {
        let (topic, service) = (topic.to_owned(), service.to_owned());
        Box::pin(async move { self.begin_replay(&topic, &service, from).await })
    }

    fn stop_replays(&self, topic: &str, service: &str) -> BoxFuture<'_, Result<u64, ArchiveError>> {
        let (topic, service) = (topic.to_owned(), service.to_owned());
        Box::pin(async move { self.end_replays(&topic, &service).await })
    }
}
