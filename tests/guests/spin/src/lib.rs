//! Computes for ever on `GET /spin`, and for about as many million steps as asked on `GET /work?millions=…`.

use std::hint::black_box;
use wasip3::http::types::{ErrorCode, Request, Response};

wasip3::http::service::export!(Spin);
struct Spin;

impl wasip3::exports::http::handler::Guest for Spin {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let (path, query) = reply::target(&request);
        match path.as_str() {
            "/spin" => loop {
                black_box(());
            },
            "/work" => {
                let millions: u64 = reply::param(&query, "millions").parse().unwrap_or(1);
                let mut sum = 0u64;
                for step in 0..millions * 1_000_000 {
                    sum = black_box(sum.wrapping_add(step));
                }
                reply::text(200, sum.to_string())
            }
            _ => reply::text(200, "alive"),
        }
    }
}
