//! wasi:http 0.3 hello: knows nothing of Wharf.

use wasip3::http::types::{ErrorCode, Request, Response};

wasip3::http::service::export!(Hello);
struct Hello;

impl wasip3::exports::http::handler::Guest for Hello {
    async fn handle(_request: Request) -> Result<Response, ErrorCode> {
        reply::text(200, "Hello, world!")
    }
}
