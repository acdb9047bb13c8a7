//! Offers `probe:shapes` to a neighbour.
//!
//! It finds every key but `missing`, traps at `trap`, takes an hour for `wait`, and for `held-127.0.0.1:8080` as long as
//! that origin takes to answer `GET /held`.

use wasip3::{
    clocks::monotonic_clock::wait_for,
    http::types::{ErrorCode, Request, Response},
};

mod wit {
    wit_bindgen::generate!({
        path: ["../../../wit/wharf/platform", "../wit/shapes"],
        inline: "package probe:callee; world callee { export probe:shapes/shapes@0.1.0; }",
        world: "probe:callee/callee",
        generate_all,
    });
}
use wit::exports::probe::shapes::shapes::{Document, Everything, FindError, Guest, Point};

wasip3::http::service::export!(Callee);
wit::export!(Callee with_types_in wit);
struct Callee;

const HOUR: u64 = 3_600_000_000_000;

impl Guest for Callee {
    async fn echo(value: Everything) -> Everything {
        value
    }

    async fn points(count: u32) -> Vec<Point> {
        (0..count).map(|n| Point { x: n.into(), y: -1.5 }).collect()
    }

    async fn sum(bytes: Vec<u8>) -> u64 {
        bytes.into_iter().map(u64::from).sum()
    }

    async fn bytes(count: u32) -> Vec<u8> {
        (0..count).map(|n| (n % 251) as u8).collect()
    }

    async fn mirror(name: String, mut data: Vec<u8>) -> Result<Vec<u8>, FindError> {
        found(&name).await.ok_or(FindError::Missing)?;
        data.reverse();
        if name == "swell" {
            data.resize(20 << 20, 0);
        }
        Ok(data)
    }

    fn mirror_blocking(mut data: Vec<u8>) -> Vec<u8> {
        data.reverse();
        data
    }

    async fn bind(document: Document) -> Document {
        document
    }

    fn add(a: u32, b: u32) -> u32 {
        a.wrapping_add(b)
    }

    async fn nop() {}

    async fn find(key: String) -> Result<String, FindError> {
        found(&key).await.ok_or(FindError::Missing)
    }

    async fn find_plain(key: String) -> Result<String, String> {
        found(&key).await.ok_or_else(|| format!("{key} is not there"))
    }
}

async fn found(key: &str) -> Option<String> {
    match key {
        "trap" => panic!("asked to trap"),
        "wait" => wait_for(HOUR).await,
        "missing" => return None,
        _ => {}
    }
    if let Some(origin) = key.strip_prefix("held-") {
        reply::ask(origin, "/held", "").await.ok()?;
    }
    Some(format!("found {key}"))
}

impl wasip3::exports::http::handler::Guest for Callee {
    async fn handle(_request: Request) -> Result<Response, ErrorCode> {
        reply::text(200, "alive")
    }
}
