//! Asks others over wasi:http 0.3 and passes on what they say.
//!
//! `GET /neighbour?name=user&path=/users/1` asks a neighbour by its name, `http://user.internal/users/1`;
//! `GET /outbound?origin=127.0.0.1:8080&path=/` an origin that the manifest may or may not allow. With `&body=…` it posts
//! that text. The answer's status is the other's, its body is passed on. What did not get an answer is 502 with the error
//! code.
//!
//! `GET /stream?origin=…&path=/` answers `first`, and only then asks the origin and adds what it says.

use wasip3::{
    http::types::{ErrorCode, Fields, Request, Response},
    wit_future, wit_stream,
};

wasip3::http::service::export!(Caller);
struct Caller;

impl wasip3::exports::http::handler::Guest for Caller {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let (path, query) = reply::target(&request);
        let authority = match path.as_str() {
            "/neighbour" => format!("{}.internal", reply::param(&query, "name")),
            "/outbound" => reply::param(&query, "origin").to_owned(),
            "/stream" => return Ok(stream(query)),
            _ => return reply::text(200, "alive"),
        };
        match reply::ask(&authority, reply::param(&query, "path"), reply::param(&query, "body")).await {
            Ok((status, body)) => reply::text(status, body),
            Err(error) => reply::text(502, format!("{error:?}")),
        }
    }
}

/// An answer whose first piece is there long before its last.
fn stream(query: String) -> Response {
    let (mut body, body_reader) = wit_stream::new();
    let (trailers, trailers_reader) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(Fields::new(), Some(body_reader), trailers_reader);
    drop(trailers);
    wit_bindgen::spawn_local(async move {
        body.write_all(b"first".to_vec()).await;
        let last = match reply::ask(reply::param(&query, "origin"), reply::param(&query, "path"), "").await {
            Ok((_, last)) => last,
            Err(error) => format!("{error:?}").into_bytes(),
        };
        body.write_all(last).await;
    });
    response
}
