//! What one store may use: memory, tables, and time on a processor.

use super::TICK;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use wasmtime::{Store, UpdateDeadline};

/// The limits of a service's instances. Each instance has a store of its own, so they hold for each alone.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes in all linear memories together.
    pub memory: usize,
    /// Elements in all tables together.
    pub tables: usize,
}

/// Counts what a store's instance has taken, and refuses what goes over the limits.
///
/// The sums are over all memories and tables of the store: wasmtime's own `StoreLimits` would hold for each one alone.
#[derive(Debug)]
pub struct StoreLimits {
    limits: Limits,
    memory: usize,
    tables: usize,
}

/// How long the guest has computed without a pause, counted in ticks of the epoch clock by the store's callback and set
/// back by whoever drives the store when the guest waits.
#[derive(Clone, Debug, Default)]
pub struct CpuBudget(Arc<AtomicU32>);

// === impl StoreLimits ===

impl StoreLimits {
    /// Limits for a new store.
    pub fn new(limits: Limits) -> Self {
        Self { limits, memory: 0, tables: 0 }
    }
}

impl wasmtime::ResourceLimiter for StoreLimits {
    // An `Err` traps with the cause named. `Ok(false)` would let `memory.grow` return -1, which nearly every guest
    // turns into an `unreachable` that says nothing.
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            // More than the memory's own type allows: nothing grows, so nothing is counted.
            return Ok(false);
        }
        let total = self.memory.saturating_add(desired.saturating_sub(current));
        if total > self.limits.memory {
            return Err(wasmtime::format_err!(
                "memory limit reached: it wanted {total} bytes, and `limits.memory` allows {}",
                self.limits.memory
            ));
        }
        self.memory = total;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let total = self.tables.saturating_add(desired.saturating_sub(current));
        if total > self.limits.tables {
            return Err(wasmtime::format_err!(
                "table limit reached: it wanted {total} elements, and `limits.tables` allows {}",
                self.limits.tables
            ));
        }
        self.tables = total;
        Ok(true)
    }
}

// === impl CpuBudget ===

impl CpuBudget {
    /// Makes `store` yield at each tick of the clock, and trap when its guest has computed for longer than `limit`
    /// without a pause.
    pub fn install<T>(&self, store: &mut Store<T>, limit: Duration) {
        let ticks = self.0.clone();
        let most = u32::try_from(limit.as_nanos().div_ceil(TICK.as_nanos())).unwrap_or(u32::MAX).max(1);
        store.epoch_deadline_callback(move |_| {
            if ticks.fetch_add(1, Ordering::Relaxed) >= most {
                wasmtime::bail!("cpu limit reached: it computed for {limit:?} without a pause (`limits.cpu`)");
            }
            Ok(UpdateDeadline::Yield(1))
        });
        store.set_epoch_deadline(1);
    }

    /// How many ticks the guest has been interrupted for since the last [`CpuBudget::reset`].
    #[inline]
    pub fn ticks(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// The guest paused: it starts anew.
    #[inline]
    pub fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasmtime::ResourceLimiter;

    #[test]
    fn limits_hold_for_all_memories_and_tables_together() {
        let mut limits = StoreLimits::new(Limits { memory: 100, tables: 10 });
        assert!(limits.memory_growing(0, 60, None).unwrap());
        assert!(limits.memory_growing(0, 40, None).unwrap());
        let refused = limits.memory_growing(60, 61, None).unwrap_err().to_string();
        assert_eq!(refused, "memory limit reached: it wanted 101 bytes, and `limits.memory` allows 100");
        assert!(limits.table_growing(0, 10, None).unwrap());
        let refused = limits.table_growing(0, 1, None).unwrap_err().to_string();
        assert_eq!(refused, "table limit reached: it wanted 11 elements, and `limits.tables` allows 10");
    }

    #[test]
    fn what_can_not_grow_is_not_counted() {
        let mut limits = StoreLimits::new(Limits { memory: 100, tables: 10 });
        assert!(!limits.memory_growing(10, 90, Some(50)).unwrap());
        assert!(!limits.table_growing(0, 9, Some(5)).unwrap());
        assert_eq!((limits.memory, limits.tables), (0, 0));
        assert!(limits.memory_growing(0, 100, Some(100)).unwrap(), "the whole limit is still there");
    }
}
