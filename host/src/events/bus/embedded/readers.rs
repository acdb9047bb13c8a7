//! Connections that read, on the runtime's threads for blocking work. With a write-ahead log they never wait for the
//! writer, nor it for them.

use super::{row, schema};
use crate::events::Event;
use rusqlite::{Connection, OptionalExtension};
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{sync::Semaphore, task::spawn_blocking};

/// How many read at a time.
const READERS: usize = 4;

pub(super) struct Readers {
    file: PathBuf,
    permits: Semaphore,
    idle: Arc<Mutex<Vec<Connection>>>,
}

/// Events of the log, in order.
pub(super) struct Batch {
    pub(super) events: Vec<(i64, Event)>,
    /// There are no further ones after them.
    pub(super) last: bool,
}

// === impl Readers ===

impl Readers {
    pub(super) fn new(file: PathBuf) -> Self {
        Self { file, permits: Semaphore::new(READERS), idle: Arc::default() }
    }

    /// Reads, and says in words why it could not.
    pub(super) async fn read<A: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<A> + Send + 'static,
    ) -> Result<A, String> {
        let Ok(_permit) = self.permits.acquire().await else { return Err("the event log is closed".into()) };
        let (file, idle) = (self.file.clone(), Arc::clone(&self.idle));
        let reading = spawn_blocking(move || {
            let ready = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = ready.map_or_else(|| schema::open_to_read(&file), Ok);
            let connection = connection.map_err(|error| schema::failed(&file, error).to_string())?;
            let answer = read(&connection);
            // One that had trouble is not used again.
            if answer.is_ok() {
                idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            }
            answer.map_err(|error| schema::failed(&file, error).to_string())
        });
        reading.await.unwrap_or_else(|error| Err(error.to_string()))
    }

    /// Takes no further reads and closes the connections.
    pub(super) fn close(&self) {
        self.permits.close();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// The events of a topic after `seq` and up to `until`, at most so many and about so many bytes.
pub(super) fn after(
    connection: &Connection,
    (topic, name): (i64, &Arc<str>),
    seq: i64,
    until: i64,
    most: usize,
    bytes: usize,
) -> rusqlite::Result<Batch> {
    let columns = row::COLUMNS;
    let mut statement = connection.prepare_cached(&format!(
        "SELECT e.seq, {columns} FROM events e JOIN sources s ON s.id = e.source \
         WHERE e.topic = ?1 AND e.seq > ?2 AND e.seq <= ?3 ORDER BY e.seq"
    ))?;
    let mut rows = statement.query((topic, seq, until))?;
    let (mut events, mut size) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let event = row::read(row, 1, name)?;
        size += event.data.len();
        events.push((row.get(0)?, event));
        if events.len() >= most || size >= bytes {
            return Ok(Batch { events, last: false });
        }
    }
    Ok(Batch { events, last: true })
}

/// The events of a topic by their numbers.
pub(super) fn these(
    connection: &Connection,
    name: &Arc<str>,
    list: &[i64],
    bytes: usize,
) -> rusqlite::Result<Vec<(i64, Option<Event>)>> {
    let columns = row::COLUMNS;
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {columns} FROM events e JOIN sources s ON s.id = e.source WHERE e.seq = ?1"
    ))?;
    let (mut found, mut size) = (Vec::with_capacity(list.len()), 0);
    for &seq in list {
        let event = statement.query_row([seq], |row| row::read(row, 0, name)).optional()?;
        size += event.as_ref().map_or(0, |event| event.data.len());
        found.push((seq, event));
        if size >= bytes {
            break;
        }
    }
    Ok(found)
}

/// The first event that came into the log at this time or later; by halves, since times follow the numbers.
pub(super) fn first_at(connection: &Connection, at: i64) -> rusqlite::Result<Option<i64>> {
    let mut next = connection.prepare_cached("SELECT seq, at FROM events WHERE seq >= ?1 ORDER BY seq LIMIT 1")?;
    let ends =
        "SELECT min(seq), max(seq) FROM (SELECT min(seq) AS seq FROM events UNION ALL SELECT max(seq) FROM events)";
    let (low, high): (Option<i64>, Option<i64>) =
        connection.prepare_cached(ends)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let (Some(mut low), Some(last)) = (low, high) else { return Ok(None) };
    let mut high = last + 1;
    while low < high {
        let middle = low + (high - low) / 2;
        match next.query_row([middle], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))).optional()? {
            Some((seq, time)) if time < at => low = seq + 1,
            _ => high = middle,
        }
    }
    Ok((low <= last).then_some(low))
}
