//! Offers an interface with a resource, which is refused.

use std::cell::Cell;
use wasip3::http::types::{ErrorCode, Request, Response};

mod wit {
    wit_bindgen::generate!({
        path: ["../wit/handles"],
        inline: "package probe:owner; world owner { export probe:handles/handles@0.1.0; }",
        world: "probe:owner/owner",
        generate_all,
    });
}
use wit::exports::probe::handles::handles::{Guest, GuestCounter};

wasip3::http::service::export!(Owner);
wit::export!(Owner with_types_in wit);
struct Owner;

struct Counter(Cell<u32>);

impl Guest for Owner {
    type Counter = Counter;
}

impl GuestCounter for Counter {
    fn new() -> Self {
        Self(Cell::new(0))
    }

    fn next(&self) -> u32 {
        self.0.replace(self.0.get().wrapping_add(1))
    }
}

impl wasip3::exports::http::handler::Guest for Owner {
    async fn handle(_request: Request) -> Result<Response, ErrorCode> {
        reply::text(200, "alive")
    }
}
