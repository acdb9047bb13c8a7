//! Reads settings by wasi:config, and shows that it has them without showing them. Knows nothing of Wharf.

use wasi::config::store;
use wasip3::http::types::{ErrorCode, Request, Response};

wit_bindgen::generate!({
    path: "../../../wit/deps/config",
    world: "wasi:config/imports",
    generate_all,
});

wasip3::http::service::export!(Confidant);
struct Confidant;

impl wasip3::exports::http::handler::Guest for Confidant {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let (path, query) = reply::target(&request);
        match path.rsplit('/').next().unwrap_or_default() {
            // The hash of a value.
            "hash" => match store::get(reply::param(&query, "key")) {
                Ok(Some(value)) => reply::text(200, hash(&value)),
                Ok(None) => reply::text(404, "nothing"),
                Err(_) => reply::text(500, "it can't be read"),
            },
            // All keys.
            "keys" => {
                let mut all = store::get_all().unwrap_or_default();
                all.sort();
                reply::text(200, all.into_iter().map(|(key, _)| key).collect::<Vec<_>>().join(","))
            }
            // With all values in its memory.
            "trap" => {
                let all = store::get_all().unwrap_or_default();
                assert!(all.is_empty(), "it knows {} secrets", all.len());
                reply::text(200, "it knows none")
            }
            _ => reply::text(404, "nothing"),
        }
    }
}

/// FNV-1a: enough to tell one value from another.
fn hash(text: &str) -> String {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    format!("{:016x}", text.bytes().fold(0xcbf2_9ce4_8422_2325, step))
}
