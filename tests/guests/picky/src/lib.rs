//! Says before it gets calls what its word is, and means it. Other words can be put in the place of this one.

use std::hint::black_box;
use wasip3::{
    clocks::monotonic_clock::wait_for,
    http::types::{ErrorCode, Request, Response},
};

wit_bindgen::generate!({
    path: "../../../wit/wharf/platform",
    inline: "
        package picky:picky;
        world picky { export wharf:platform/health@0.1.0; }
    ",
    world: "picky:picky/picky",
});

export!(Picky);
wasip3::http::service::export!(Picky);
struct Picky;

/// As long as `I am not ready` and `I do not wake.`
static WORD: &str = "I am ready now";

impl exports::wharf::platform::health::Guest for Picky {
    async fn ready() -> Result<(), String> {
        let word = black_box(WORD);
        if word.starts_with("I do not wake") {
            wait_for(3_600_000_000_000).await;
        }
        if word.starts_with("I am not") { Err(word.to_owned()) } else { Ok(()) }
    }
}

impl wasip3::exports::http::handler::Guest for Picky {
    async fn handle(_: Request) -> Result<Response, ErrorCode> {
        reply::text(200, black_box(WORD))
    }
}
