//! Bounds how many events, and how many bytes of them, a subscription may have unsettled.
//!
//! An event takes its place when it is accepted and leaves it when it is settled, so that what waits for another try
//! counts like what waits for its first. No queue behind this needs a bound of its own.

use super::DeliveryPolicy;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The room that a subscription has.
#[derive(Debug)]
pub(super) struct Room {
    slots: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    /// Shared with every place, so that its count tells how many there are. The semaphore can't tell: slots that
    /// wait for an event are taken from it too.
    places: Arc<()>,
}

/// A place without a size yet, for an event that is about to be read.
#[derive(Debug)]
pub(super) struct Slot {
    _permit: OwnedSemaphorePermit,
}

/// The place of one event; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Place {
    _slot: Slot,
    _bytes: OwnedSemaphorePermit,
    _counted: Arc<()>,
}

// === impl Room ===

impl Room {
    pub(super) fn new(policy: &DeliveryPolicy) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(policy.capacity)),
            bytes: Arc::new(Semaphore::new(policy.capacity_bytes)),
            places: Arc::default(),
        }
    }

    /// A place for an event with this payload, where there is one now.
    pub(super) fn try_enter(&self, data: &[u8]) -> Option<Place> {
        let slot = Slot { _permit: Arc::clone(&self.slots).try_acquire_owned().ok()? };
        let bytes = Arc::clone(&self.bytes).try_acquire_many_owned(count(data.len())).ok()?;
        Some(Place { _slot: slot, _bytes: bytes, _counted: Arc::clone(&self.places) })
    }

    /// From one to `max` slots, as soon as there is one.
    pub(super) async fn slots(&self, max: usize) -> Vec<Slot> {
        let mut slots = Vec::new();
        // The semaphore is never closed, so there is no other error; an empty answer would only mean another turn.
        if let Ok(permit) = Arc::clone(&self.slots).acquire_owned().await {
            slots.push(Slot { _permit: permit });
        }
        while slots.len() < max
            && let Ok(permit) = Arc::clone(&self.slots).try_acquire_owned()
        {
            slots.push(Slot { _permit: permit });
        }
        slots
    }

    /// Turns a slot into a place as soon as there is room for the payload.
    pub(super) async fn enter(&self, slot: Slot, data: &[u8]) -> Option<Place> {
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(count(data.len())).await.ok()?;
        Some(Place { _slot: slot, _bytes: bytes, _counted: Arc::clone(&self.places) })
    }

    /// How many events have a place.
    pub(super) fn taken(&self) -> usize {
        Arc::strong_count(&self.places) - 1
    }
}

/// Payloads have at most [`MAX_DATA`](super::event::MAX_DATA) bytes, far from the limit of the type.
fn count(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
