//! The outbox as a table of the service's database: `_wharf_outbox`, which the service may read and only the host writes.
//!
//! Every statement is one that SQLite and PostgreSQL both know (SQLite takes `BYTEA` for any type, and a blob stays one).

use crate::{
    events::{Event, Prepared},
    store::{Database, Error, Rows, Statement, Value},
};
use jiff::Timestamp;
use std::{borrow::Cow, sync::Arc};

/// How many rows are read at a time: as many of the largest as a query may return.
pub(super) const PAGE: usize = 16;

/// The position is that of the commit: each is larger than all that wait. With a database that lets transactions overlap,
/// two of them may have the same; then their ids decide.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS _wharf_outbox (
    position BIGINT NOT NULL,
    id TEXT NOT NULL,
    topic TEXT NOT NULL,
    source TEXT NOT NULL,
    subject TEXT,
    time TEXT NOT NULL,
    due TEXT,
    datacontenttype TEXT NOT NULL,
    traceparent TEXT,
    data BYTEA NOT NULL,
    PRIMARY KEY (position, id)
)";

const COUNT: &str =
    "SELECT COUNT(*), COALESCE(SUM(LENGTH(data)), 0), COALESCE(MAX(position), 0), MIN(time) FROM _wharf_outbox";

const INSERT: &str = "INSERT INTO _wharf_outbox \
    (position, id, topic, source, subject, time, due, datacontenttype, traceparent, data) VALUES \
    ((SELECT CASE WHEN MAX(position) >= $1 THEN MAX(position) + 1 ELSE $1 END FROM _wharf_outbox), \
    $2, $3, $4, $5, $6, $7, $8, $9, $10)";

const READ: &str = "SELECT position, id, topic, source, subject, time, due, datacontenttype, traceparent, data \
    FROM _wharf_outbox WHERE (position, id) > ($1, $2) ORDER BY position, id LIMIT $3";

const DELETE: &str = "DELETE FROM _wharf_outbox WHERE position >= $1 AND id = $2";

/// By what a row is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// Its position is this or larger.
    pub at_least: i64,
    /// The event's id.
    pub id: String,
}

/// What an earlier run left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub events: usize,
    pub bytes: usize,
    /// The largest position.
    pub last: i64,
    pub oldest: Option<Timestamp>,
}

/// A row, as far as it can be read.
pub(super) struct Row {
    pub key: Key,
    /// The bytes of its payload.
    pub bytes: usize,
    /// What it holds; `None` where that is no event.
    pub prepared: Option<Prepared>,
}

/// Makes the table where there is none, and looks what is in it.
pub(super) async fn prepare(database: &Database) -> Result<Found, Error> {
    database.host_execute(statement(TABLE, [])).await?;
    let rows = database.host_query(statement(COUNT, [])).await?;
    let mut row = rows.rows.into_iter().next().unwrap_or_default().into_iter();
    let mut number = || match row.next() {
        Some(Value::Integer(number)) => number,
        _ => 0,
    };
    let (events, bytes, last) = (number(), number(), number());
    let oldest = match row.next() {
        Some(Value::Text(time)) => time.parse().ok(),
        _ => None,
    };
    let count = |number: i64| usize::try_from(number).unwrap_or_default();
    Ok(Found { events: count(events), bytes: count(bytes), last, oldest })
}

/// Makes a row of an event.
pub(super) fn insert(key: &Key, Prepared { event, due }: &Prepared) -> Statement {
    let text = |text: &str| Value::Text(text.to_owned());
    let or_null = |text: Option<String>| text.map_or(Value::Null, Value::Text);
    let params = [
        Value::Integer(key.at_least),
        text(&event.id),
        text(&event.topic),
        text(&event.source),
        or_null(event.subject.clone()),
        Value::Text(event.time.to_string()),
        or_null(due.map(|due| due.to_string())),
        text(&event.datacontenttype),
        or_null(event.traceparent.as_ref().map(ToString::to_string)),
        Value::Blob(event.data.to_vec()),
    ];
    statement(INSERT, params)
}

/// The rows that come after this one, in their order, [`PAGE`] at most.
pub(super) async fn read(database: &Database, after: &Key) -> Result<Vec<Row>, Error> {
    let params = [
        Value::Integer(after.at_least),
        Value::Text(after.id.clone()),
        Value::Integer(i64::try_from(PAGE).unwrap_or(i64::MAX)),
    ];
    let Rows { rows, .. } = database.host_query(statement(READ, params)).await?;
    Ok(rows.into_iter().filter_map(row).collect())
}

/// Deletes rows.
pub(super) async fn delete(database: &Database, keys: &[Key]) -> Result<(), Error> {
    let delete = |key: &Key| statement(DELETE, [Value::Integer(key.at_least), Value::Text(key.id.clone())]);
    database.host_batch(keys.iter().map(delete).collect()).await.map(drop)
}

fn row(row: Vec<Value>) -> Option<Row> {
    let mut row = row.into_iter();
    // Both are of the table's key: a row without them is none.
    let (Some(Value::Integer(at_least)), Some(Value::Text(id))) = (row.next(), row.next()) else { return None };
    let bytes = match row.as_slice().last() {
        Some(Value::Blob(data)) => data.len(),
        _ => 0,
    };
    let prepared = event(id.clone(), row);
    Some(Row { key: Key { at_least, id }, bytes, prepared })
}

fn event(id: String, mut row: impl Iterator<Item = Value>) -> Option<Prepared> {
    let mut text = || match row.next() {
        Some(Value::Text(text)) => Some(Some(text)),
        Some(Value::Null) => Some(None),
        _ => None,
    };
    let (topic, source, subject, time, due) = (text()??, text()??, text()?, text()??, text()?);
    let (datacontenttype, traceparent) = (text()??, text()?);
    let Some(Value::Blob(data)) = row.next() else { return None };
    let event = Event {
        topic: topic.into(),
        id,
        source: source.into(),
        subject,
        time: time.parse().ok()?,
        datacontenttype: Cow::Owned(datacontenttype),
        // What the trace is worth is not worth an event.
        traceparent: traceparent.and_then(|text| text.parse().ok()),
        data: data.into(),
    };
    let due = due.map(|due| due.parse()).transpose().ok()?;
    Some(Prepared { event: Arc::new(event), due })
}

fn statement(sql: &str, params: impl IntoIterator<Item = Value>) -> Statement {
    Statement { sql: sql.to_owned(), params: params.into_iter().collect() }
}
