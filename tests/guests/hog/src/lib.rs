//! Takes memory until there is none on `GET /hog`, and as many MiB as asked on `GET /take?mib=…`, which it keeps.

use std::{cell::RefCell, hint::black_box};
use wasip3::http::types::{ErrorCode, Request, Response};

wasip3::http::service::export!(Hog);
struct Hog;

const MIB: usize = 1 << 20;

thread_local! {
    static KEPT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

fn take() {
    // Written to, so that the pages are there and not only promised.
    KEPT.with_borrow_mut(|kept| kept.push(black_box(vec![0xff; MIB])));
}

impl wasip3::exports::http::handler::Guest for Hog {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let (path, query) = reply::target(&request);
        match path.as_str() {
            "/hog" => loop {
                take();
            },
            "/take" => {
                (0..reply::param(&query, "mib").parse().unwrap_or(1)).for_each(|_: u32| take());
                reply::text(200, format!("{} MiB", KEPT.with_borrow(Vec::len)))
            }
            _ => reply::text(200, "alive"),
        }
    }
}
