//! Traps on `GET /trap`; answers everything else. `GET /wait` answers after 100 ms, so that there is something beside
//! it that a trap could hurt. After `GET /arm` the instance traps on `/armed`, which any other answers.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use wasip3::{
    clocks::monotonic_clock::wait_for,
    http::types::{ErrorCode, Request, Response},
};

wasip3::http::service::export!(Trap);
struct Trap;

static ARMED: AtomicBool = AtomicBool::new(false);

impl wasip3::exports::http::handler::Guest for Trap {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        match reply::target(&request).0.as_str() {
            "/trap" => trap(),
            "/arm" => {
                ARMED.store(true, Relaxed);
                reply::text(200, "armed")
            }
            "/armed" if ARMED.load(Relaxed) => trap(),
            "/wait" => {
                wait_for(100_000_000).await;
                reply::text(200, "waited")
            }
            _ => reply::text(200, "alive"),
        }
    }
}

fn trap() -> ! {
    #[cfg(target_arch = "wasm32")]
    std::arch::wasm32::unreachable();
    #[cfg(not(target_arch = "wasm32"))]
    std::process::abort();
}
