//! The compiler gives way: compiling takes all cores for seconds, and calls that run meanwhile must not feel it.
//!
//! wasmtime compiles functions side by side on rayon's threads: those of the pool that it is called in. This pool's have
//! the lowest priority that there is. With nothing else to run they are as fast as any.

use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::LazyLock;

/// The lowest priority of Linux and POSIX: how nice a thread is to others.
const NICEST: i32 = 19;

/// One for the process, however many engines it has.
static POOL: LazyLock<Option<ThreadPool>> = LazyLock::new(|| {
    let threads = ThreadPoolBuilder::new().thread_name(|at| format!("compiler-{at}")).start_handler(|_| give_way());
    threads.build().inspect_err(|error| tracing::warn!(%error, "components are compiled at the priority of calls")).ok()
});

/// Of this thread alone: on Linux threads have priorities, whatever POSIX says of processes.
fn give_way() {
    if let Err(error) = rustix::process::setpriority_process(None, NICEST) {
        tracing::warn!(%error, "components are compiled at the priority of calls");
    }
}

/// Does `work` where the compiler gives way.
pub(super) fn aside<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    match &*POOL {
        Some(pool) => pool.install(work),
        None => work(),
    }
}
