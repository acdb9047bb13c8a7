//! The relay of a database that no other host has: it is told of what is committed, and reads what it could not hold.

use super::{
    super::rows::{Key, PAGE},
    Halt, Outgoing, Relay,
};
use std::convert::Infallible;
use tokio::time::Instant;

// === impl Relay ===

impl Relay {
    pub(super) async fn relay_alone(&mut self) -> Result<Infallible, Halt> {
        loop {
            while self.window.has_room()
                && let Some(Outgoing { key, prepared }) = self.shared.pop()
            {
                if !self.read.remove(&key.id) {
                    let bytes = prepared.event.data.len();
                    self.admit(key, prepared, bytes).await?;
                }
            }
            let room = self.window.has_room();
            if room && (self.shared.is_behind() || self.look_at <= Instant::now()) {
                self.catch_up().await?;
            } else {
                self.step(room.then_some(self.look_at), room).await?;
            }
        }
    }

    /// Publishes what lies in the table, until it is told again of what is committed and has read all from before.
    async fn catch_up(&mut self) -> Result<(), Halt> {
        self.look_at = Instant::now() + self.shared.settings.look_every;
        self.shared.fall_behind();
        self.delete_all().await?;
        // NB: as of now, when nothing is taken that has its row still: what comes out of the window from here on is taken
        // before its row is read, or its row was read already.
        let under_way = self.window.ids();
        let mut after = Key { at_least: i64::MIN, id: String::new() };
        let mut told = false;
        loop {
            let page = self.page(&after).await?;
            let is_last = page.len() < PAGE;
            if let Some(last) = page.last() {
                after = last.key.clone();
            }
            if !told {
                self.read.clear();
            }
            self.read.extend(page.iter().map(|row| row.key.id.clone()));
            self.admit_all(page, &under_way).await?;
            match (is_last, told) {
                (false, _) => {}
                // From here on it is told; what came between the last page and this is on the next.
                (true, false) => {
                    self.shared.catch_up();
                    told = true;
                }
                (true, true) => break,
            }
        }
        self.shared.set_oldest(self.window.oldest());
        Ok(())
    }
}
