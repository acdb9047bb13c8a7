//! What the relay does with the table: it reads on until it can, and deletes what the bus has taken.

use super::{
    super::rows::{self, Key, Row},
    BACKOFF, Halt, Relay,
};
use crate::store::Error;
use tokio::time::Instant;

// === impl Relay ===

impl Relay {
    /// The rows after this one, as soon as they can be read.
    pub(super) async fn page(&mut self, after: &Key) -> Result<Vec<Row>, Halt> {
        for failed in 1.. {
            match rows::read(&self.shared.database, after).await {
                Ok(page) => return Ok(page),
                Err(error) => self.unreadable(&error, failed).await?,
            }
        }
        Err(Halt::Closing)
    }

    /// The ids of the first rows, as soon as they can be read.
    pub(super) async fn ids(&mut self) -> Result<Vec<String>, Halt> {
        for failed in 1.. {
            match rows::ids(&self.shared.database).await {
                Ok(ids) => return Ok(ids),
                Err(error) => self.unreadable(&error, failed).await?,
            }
        }
        Err(Halt::Closing)
    }

    async fn unreadable(&mut self, error: &Error, failed: u32) -> Result<(), Halt> {
        self.trouble(format!("the database can't be read: {}", error.words()), failed == 1);
        self.pause(failed).await
    }

    /// What is published already must not be read again.
    pub(super) async fn delete_all(&mut self) -> Result<(), Halt> {
        while !self.taken.is_empty() {
            self.delete().await;
            if !self.taken.is_empty() {
                self.pause(1).await?;
            }
        }
        Ok(())
    }

    /// Deletes the rows whose events the bus has taken. Where that fails they stay on the list.
    pub(super) async fn delete(&mut self) {
        self.delete_at = None;
        while !self.taken.is_empty() {
            let group = self.taken.len().min(self.shared.settings.group.max(1));
            match rows::delete(&self.shared.database, &self.taken[..group]).await {
                Ok(()) => drop(self.taken.drain(..group)),
                Err(error) => {
                    let service = &self.shared.service;
                    tracing::warn!(%service, ?error, "published events could not be deleted from the outbox; it is tried again");
                    self.delete_at = Some(Instant::now() + BACKOFF.max);
                    return;
                }
            }
        }
    }
}
