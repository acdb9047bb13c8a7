//! The inbox: the effect of an event happens once.
//!
//! Events are delivered at least once. A subscription with `deduplicate` recognises those that it has had, by their source
//! and id, in the service's own database: the *mark* of an event is a row that is written in the same transaction as what
//! the handler writes. The handler's code knows nothing of it; its statements run in a [`Unit`] of work.
//!
//! ```text
//! marked? ──yes──► acknowledged
//!    │no
//! handler, in a unit of work that begins with the mark ──ack──► commit ──► acknowledged
//!    └── retry, reject, fault: rolled back whole
//! ```
//!
//! - **Of two deliveries at the same time one has its effect**: the mark's key lets one of them have it; the other writes
//!   nothing, and is acknowledged.
//! - **A commit that fails is a fault**, and the event comes again.
//! - **Marks go** once no redelivery can come, which is some time after the log has forgotten the event. That time counts
//!   while the host runs: the first ones go when it has run for a while, so that whatever was left to be delivered while it
//!   was down finds its mark.
//!
//! What a handler does outside of its database is not undone and may happen again. Its transaction holds up the other
//! writers of its service from its first write to its verdict, and has the store's time limit; a handler that writes and
//! then calls a neighbour which calls back and writes too waits for itself, until that limit. On a server, where transactions
//! overlap, it holds up only who writes the same; one that loses against another is a fault, and its event comes again.

use crate::{
    events::{Event, Verdict},
    policy::{Fault, FaultKind},
    store::{Database, Ended, Error, Statement, Unit, Value},
};
use jiff::Timestamp;
use std::{fmt, sync::Arc};
use tokio::{
    task::JoinHandle,
    time::{Duration, sleep},
};

const TABLE: &str = "CREATE TABLE IF NOT EXISTS _wharf_inbox (
    source TEXT NOT NULL,
    id TEXT NOT NULL,
    topic TEXT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (source, id)
)";
const INDEX: &str = "CREATE INDEX IF NOT EXISTS _wharf_inbox_at ON _wharf_inbox (at)";
const FIND: &str = "SELECT 1 FROM _wharf_inbox WHERE source = $1 AND id = $2";
const MARK: &str = "INSERT INTO _wharf_inbox (source, id, topic, at) VALUES ($1, $2, $3, $4)";
const FORGET: &str = "DELETE FROM _wharf_inbox WHERE (source, id) IN \
    (SELECT source, id FROM _wharf_inbox WHERE at < $1 ORDER BY at LIMIT 1000)";

/// How often old marks are looked for.
const FORGET_EVERY: Duration = Duration::from_secs(3600);

/// What one service has had. Clones are the same inbox.
#[derive(Clone)]
pub struct Inbox(Arc<Inner>);

struct Inner {
    service: Arc<str>,
    database: Database,
    forgetting: JoinHandle<()>,
}

/// An inbox could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("the inbox of service `{service}` can't be made in its database: {reason}")]
pub struct OpenError {
    /// The service.
    pub service: Arc<str>,
    /// What the database said.
    pub reason: String,
}

// === impl Inbox ===

impl Inbox {
    /// Opens the inbox in the database of `service`, in which marks are kept for at least so long.
    ///
    /// # Errors
    ///
    /// When the database can't be written.
    pub async fn open(service: impl Into<Arc<str>>, database: Database, keep: Duration) -> Result<Self, OpenError> {
        let service = service.into();
        for sql in [TABLE, INDEX] {
            let made = database.host_execute(statement(sql, [])).await;
            made.map_err(|error| OpenError { service: service.clone(), reason: error.words().to_owned() })?;
        }
        let forgetting = tokio::spawn(forget(service.clone(), database.clone(), keep));
        Ok(Self(Arc::new(Inner { service, database, forgetting })))
    }

    /// Handles an event that may have been handled before: then it is acknowledged, and `handle` is not asked. What the
    /// handler writes belongs to the unit of work that `handle` is given.
    ///
    /// # Errors
    ///
    /// The handler's fault, or that the database did not do its part; then nothing was written.
    pub async fn once<F>(&self, event: &Event, handle: impl FnOnce(Unit) -> F) -> Result<Verdict, Fault>
    where
        F: Future<Output = Result<Verdict, Fault>>,
    {
        let Inner { service, database, .. } = &*self.0;
        let identity = [Value::Text((*event.source).to_owned()), Value::Text(event.id.clone())];
        let found = database.host_query(statement(FIND, identity.clone())).await;
        if !found.map_err(|error| self.fault("read", &error))?.rows.is_empty() {
            tracing::debug!(%service, topic = %event.topic, id = event.id, "an event came again: acknowledged");
            return Ok(Verdict::Ack);
        }
        let [source, id] = identity;
        let at = Value::Integer(Timestamp::now().as_microsecond());
        let mark = statement(MARK, [source, id, Value::Text((*event.topic).to_owned()), at]);
        let unit = Unit::new(database.clone(), mark);
        let answer = handle(unit.clone()).await;
        match answer {
            Ok(Verdict::Ack) => match unit.commit().await {
                Ok(Ended::Committed | Ended::Claimed) => Ok(Verdict::Ack),
                Err(error) => Err(self.fault("commit", &error)),
            },
            // Another delivery was faster, and what this one says of it comes from having been refused.
            answer => {
                if unit.rollback().await {
                    Ok(Verdict::Ack)
                } else {
                    answer
                }
            }
        }
    }

    fn fault(&self, what: &str, error: &Error) -> Fault {
        let kind = match error {
            Error::Busy(_) => FaultKind::Overloaded,
            Error::Unavailable(_) => FaultKind::Unreachable,
            _ => FaultKind::Trapped,
        };
        let Inner { service, .. } = &*self.0;
        Fault::new(kind, format!("the database of service `{service}` did not {what}: {}", error.words()))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.forgetting.abort();
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Inbox").field(&self.0.service).finish()
    }
}

/// Drops marks that are old enough, a thousand at a time: the service's own writers come in between.
async fn forget(service: Arc<str>, database: Database, keep: Duration) {
    loop {
        sleep(FORGET_EVERY).await;
        let before = Timestamp::now().as_microsecond() - i64::try_from(keep.as_micros()).unwrap_or(i64::MAX);
        loop {
            match database.host_execute(statement(FORGET, [Value::Integer(before)])).await {
                Ok(1_000) => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(%service, ?error, "old marks could not be dropped from the inbox; it is tried again");
                    break;
                }
            }
        }
    }
}

fn statement(sql: &str, params: impl IntoIterator<Item = Value>) -> Statement {
    Statement { sql: sql.to_owned(), params: params.into_iter().collect() }
}

#[cfg(test)]
mod tests;
