//! Whose turn it is to relay, where several hosts have one database.
//!
//! The lease is a row with the name of its holder and a number, which the holder counts up every second. Another takes it
//! once it has seen the number stand still for [`SILENT`], by its own clock: so clocks need not agree. A holder that could
//! not count up for [`HELD`] stops by itself before that, and one that ends gives the lease back.
//!
//! A host that was killed and started again knows its own name in it, and that nobody counts under that one any more: there
//! is one host at a time with a data folder. So it takes the lease at once. Each run has a name of its own beside, so that
//! of two hosts which take themselves for one, as with a copied data folder, the one that started first gives way at its
//! next beat.

use super::rows;
use crate::store::{Database, Error};
use tokio::time::{Duration, Instant};

/// How often the holder counts up, and others look.
const BEAT: Duration = Duration::from_secs(1);

/// For how long it is the holder's after it has counted up.
const HELD: Duration = Duration::from_secs(3);

/// After how long without a beat another takes it. What its holder was about to do then has the difference to end.
const SILENT: Duration = Duration::from_secs(6);

/// One host's part in it.
pub(super) struct Lease {
    database: Database,
    name: String,
    /// How the names of this host's runs begin, until the first look: whoever has such a name then was killed.
    earlier: Option<String>,
    /// What was seen last, and since when it is so.
    seen: Option<(rows::Turn, Instant)>,
    held_until: Option<Instant>,
    next: Instant,
}

// === impl Lease ===

impl Lease {
    /// `host`: what this host was called when it ran before, if that is known.
    pub fn new(database: Database, host: Option<&str>) -> Self {
        let run = uuid::Uuid::new_v4().simple().to_string();
        let earlier = host.map(|host| format!("{host}/"));
        let name = format!("{}{run}", earlier.as_deref().unwrap_or_default());
        Self { database, name, earlier, seen: None, held_until: None, next: Instant::now() }
    }

    pub fn is_held(&self) -> bool {
        self.held_until.is_some_and(|until| Instant::now() < until)
    }

    /// When there is something to do for it.
    pub fn next(&self) -> Instant {
        self.next
    }

    /// Counts up, or looks whether it is to be had.
    pub async fn beat(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        self.next = now + BEAT;
        let turn = match self.seen.take() {
            Some((turn, since)) if turn.holder == self.name => {
                if self.take(&turn, now).await? {
                    return Ok(());
                }
                self.look(Some((turn, since))).await?
            }
            seen => self.look(seen).await?,
        };
        let left = self.earlier.take().is_some_and(|earlier| turn.holder.starts_with(&earlier));
        let free = turn.holder.is_empty() || turn.holder == self.name || left;
        let silent = self.seen.as_ref().is_some_and(|(_, since)| since.elapsed() >= SILENT);
        if free || silent {
            self.take(&turn, now).await?;
        }
        Ok(())
    }

    async fn look(&mut self, seen: Option<(rows::Turn, Instant)>) -> Result<rows::Turn, Error> {
        let turn = rows::turn(&self.database).await?;
        let since = match seen {
            Some((before, since)) if before == turn => since,
            _ => Instant::now(),
        };
        self.seen = Some((turn.clone(), since));
        if turn.holder != self.name {
            self.held_until = None;
        }
        Ok(turn)
    }

    async fn take(&mut self, turn: &rows::Turn, asked: Instant) -> Result<bool, Error> {
        let taken = rows::take_turn(&self.database, &self.name, turn).await?;
        if taken {
            let turn = rows::Turn { holder: self.name.clone(), beat: turn.beat + 1 };
            self.seen = Some((turn, Instant::now()));
            self.held_until = Some(asked + HELD);
        }
        Ok(taken)
    }

    /// Gives it back, if it is held.
    pub async fn release(&mut self) -> Result<(), Error> {
        if self.held_until.take().is_some() {
            rows::release_turn(&self.database, &self.name).await?;
        }
        Ok(())
    }
}
