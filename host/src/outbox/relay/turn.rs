//! The relay of a database that other hosts have too: it reads what all of them wrote, while it is this host's turn.

use super::{
    super::rows::{Key, PAGE},
    Halt, Lease, Relay, Step,
};
use std::{collections::HashSet, convert::Infallible};
use tokio::time::{Instant, sleep_until};

// === impl Relay ===

impl Relay {
    /// Relays what all hosts wrote, while it is this one's turn.
    pub(super) async fn relay_in_turn(&mut self) -> Result<Infallible, Halt> {
        let (mut heard, mut sweep_at) = (true, Instant::now());
        loop {
            self.look_after_turn().await;
            if !self.is_its_turn() {
                let next = self.lease.as_ref().map_or(self.look_at, Lease::next);
                tokio::select! {
                    biased;
                    _ = self.closing.wait_for(|closing| *closing) => return Err(Halt::Closing),
                    () = sleep_until(next) => {}
                }
                heard = true;
                continue;
            }
            if heard || sweep_at <= Instant::now() {
                self.sweep().await?;
                sweep_at = Instant::now() + self.shared.settings.look_every_shared;
            }
            let quiet = !self.window.is_trying();
            if quiet && self.miscounted {
                self.delete().await;
                self.recount().await;
            }
            // While the bus has not answered, the same rows would be read again: but one that it never answers for must not
            // hold up the others, so that is done now and then.
            heard = self.step(Some(sweep_at), quiet).await? == Step::Heard;
        }
    }

    /// Takes all that is in the table into the window.
    async fn sweep(&mut self) -> Result<(), Halt> {
        if self.look_at <= Instant::now() {
            self.look_at = Instant::now() + self.shared.settings.look_every;
            self.aside.clear();
        }
        self.delete_all().await?;
        // NB: as of now, see `catch_up`.
        let under_way = self.window.ids();
        let start = Key { at_least: i64::MIN, id: String::new() };
        let page = self.page(&start).await?;
        self.miscounted |= !page.is_empty() || self.shared.any_waits();
        if page.len() < PAGE {
            return self.admit_all(page, &under_way).await;
        }
        // NB: where transactions overlap, a row may come before those that were read already, and one that tells of what
        // happened after it behind them. At one moment there is not the latter without the former: so only rows are
        // published that were there at one moment, in their order.
        let mut left: HashSet<String> = self.ids().await?.into_iter().collect();
        let any = left.iter().any(|id| !self.aside.contains(id) && !under_way.contains(id));
        let mut after = start;
        while !left.is_empty() {
            let mut page = self.page(&after).await?;
            let Some(last) = page.last() else { break };
            after = last.key.clone();
            page.retain(|row| left.remove(&row.key.id));
            self.admit_all(page, &under_way).await?;
        }
        if any {
            // There may be more.
            self.shared.arrived.notify_one();
        }
        Ok(())
    }

    /// Does what there is to do for its turn, where that is due, and counts.
    pub(super) async fn look_after_turn(&mut self) {
        let Some(lease) = &mut self.lease else { return };
        if Instant::now() < lease.next() {
            return;
        }
        if let Err(error) = lease.beat().await {
            let service = &self.shared.service;
            tracing::warn!(%service, ?error, "the database can't say which host is to empty the outbox; it is asked again");
        }
        self.delete().await;
        self.recount().await;
    }

    pub(super) fn is_its_turn(&self) -> bool {
        self.lease.as_ref().is_none_or(Lease::is_held)
    }

    async fn recount(&mut self) {
        self.miscounted = false;
        match self.shared.recount().await {
            Err(error) => self.shared.set_error(Some(format!("the database can't be read: {}", error.words()))),
            // What is wrong with the bus is known to the host whose turn it is.
            Ok(()) if !self.is_its_turn() => self.shared.set_error(None),
            Ok(()) => {}
        }
    }
}
