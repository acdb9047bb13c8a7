//! Keeps the leases of a subscription, and tells Redis what it could not be told before.

use super::group::Group;
use crate::events::{bus::redis::RECONNECT, dispatcher::Closing};
use std::sync::Arc;
use tokio::{
    sync::mpsc,
    time::{Duration, sleep},
};

/// One subscription's heartbeat.
pub(super) struct Keeper {
    group: Arc<Group>,
    closing: Closing,
    /// Ends when nobody works on the subscription any more.
    working: mpsc::Receiver<()>,
}

// === impl Keeper ===

impl Keeper {
    pub(super) fn new(group: Arc<Group>, closing: Closing, working: mpsc::Receiver<()>) -> Self {
        Self { group, closing, working }
    }

    /// Beats while there is something to keep, and then lets other hosts have it.
    pub(super) async fn run(mut self) {
        let group = Arc::clone(&self.group);
        tokio::select! {
            _ = self.working.recv() => {}
            () = beat_on(&group) => {}
        }
        // Without the word to close, this host is gone and not leaving: the others find out by its silence.
        if self.closing.borrow().is_some() {
            if let Err(err) = group.tell_all().await {
                group.redis.trouble(&err);
            }
            group.release().await;
        }
    }
}

async fn beat_on(group: &Group) {
    let mut failed = 0;
    loop {
        let beaten = async {
            group.beat().await?;
            group.tell_all().await
        };
        let next = match beaten.await {
            Ok(()) => {
                failed = 0;
                group.lease / 3
            }
            Err(err) => {
                failed += 1;
                group.redis.trouble(&err);
                RECONNECT.after(failed).min(group.lease / 3)
            }
        };
        tokio::select! {
            () = sleep(next.max(Duration::from_millis(5))) => {}
            () = group.drained.notified() => {}
        }
    }
}
