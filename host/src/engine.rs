//! The WebAssembly engine: wasmtime's configuration, compiled code on disk, limits and the epoch clock.
//!
//! One engine serves all services. The choices here follow from measurements: pooled memories with
//! copy-on-write images and `pagemap_scan` make a fresh instance three times cheaper than the defaults, and memory that
//! stays resident spares the kernel's work between two calls.

mod cache;
mod clock;
mod compiler;
mod limits;

pub use cache::{CacheError, CodeCache};
pub use clock::{EpochClock, TICK};
pub use compiler::{compile_with, serve_compiler};
pub use limits::{CpuBudget, Limits, StoreLimits};

use std::path::Path;
use wasmtime::{Enabled, InstanceAllocationStrategy, PoolingAllocationConfig, RegallocAlgorithm};

/// How many component instances all services together may have.
const TOTAL_INSTANCES: u32 = 1000;

/// The engine that all services share, with the cache of its compiled code and the clock that interrupts its guests.
pub struct Engine {
    wasmtime: wasmtime::Engine,
    cache: CodeCache,
    clock: EpochClock,
}

/// What compiled code depends on: the same for who compiles it and who runs it.
fn configuration() -> wasmtime::Config {
    let mut config = wasmtime::Config::new();
    config
        .wasm_component_model_async(true)
        .epoch_interruption(true)
        .cranelift_regalloc_algorithm(RegallocAlgorithm::Backtracking)
        .memory_init_cow(true);
    config
}

/// Where instances live.
fn pool() -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    // A Rust component is one memory, but several core instances and tables.
    pool.total_component_instances(TOTAL_INSTANCES)
        .total_core_instances(TOTAL_INSTANCES * 8)
        .total_memories(TOTAL_INSTANCES * 2)
        .total_tables(TOTAL_INSTANCES * 8)
        .total_stacks(TOTAL_INSTANCES * 4)
        .table_elements(100_000)
        .max_memory_size(4 << 30)
        .max_unused_warm_slots(64)
        .linear_memory_keep_resident(2 << 20)
        .table_keep_resident(128 << 10)
        .async_stack_keep_resident(128 << 10)
        .pagemap_scan(Enabled::Auto);
    pool
}

// === impl Engine ===

impl Engine {
    /// An engine whose compiled code is kept in `cache`, a folder that only this host writes to.
    ///
    /// # Errors
    ///
    /// When the operating system does not give the address space that the pool reserves, or `cache` can't be made.
    pub fn new(cache: &Path) -> wasmtime::Result<Self> {
        let mut config = configuration();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool()));
        let wasmtime = wasmtime::Engine::new(&config)?;
        let cache = CodeCache::open(&wasmtime, cache).map_err(wasmtime::Error::from)?;
        let clock = EpochClock::start(&wasmtime);
        Ok(Self { wasmtime, cache, clock })
    }

    /// The engine itself, for linkers and stores.
    pub fn wasmtime(&self) -> &wasmtime::Engine {
        &self.wasmtime
    }

    /// The compiled code on disk.
    pub fn cache(&self) -> &CodeCache {
        &self.cache
    }

    /// The clock that interrupts guests which compute for too long.
    pub fn clock(&self) -> &EpochClock {
        &self.clock
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::{DefaultHasher, Hash, Hasher};

    #[test]
    fn what_one_engine_compiles_another_can_run() {
        let hash = |config: &wasmtime::Config| {
            let mut hasher = DefaultHasher::new();
            wasmtime::Engine::new(config).unwrap().precompile_compatibility_hash().hash(&mut hasher);
            hasher.finish()
        };
        let mut pooled = configuration();
        pooled.allocation_strategy(InstanceAllocationStrategy::Pooling(pool()));
        assert_eq!(hash(&configuration()), hash(&pooled));
    }
}
