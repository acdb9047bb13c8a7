//! Asks others over wasi:http 0.3 and passes on what they say.
//!
//! `GET /neighbour?name=user&path=/users/1` asks a neighbour by its name, `http://user.internal/users/1`;
//! `GET /outbound?origin=127.0.0.1:8080&path=/` an origin that the manifest may or may not allow.
//! The answer's status is the other's, its body is passed on. What did not get an answer is 502 with the error code.

use wasip3::{
    http::{
        client,
        types::{ErrorCode, Fields, Request, Response, Scheme},
    },
    wit_future,
};

wasip3::http::service::export!(Caller);
struct Caller;

impl wasip3::exports::http::handler::Guest for Caller {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let (path, query) = reply::target(&request);
        let authority = match path.as_str() {
            "/neighbour" => format!("{}.internal", reply::param(&query, "name")),
            "/outbound" => reply::param(&query, "origin").to_owned(),
            _ => return reply::text(200, "alive"),
        };
        match get(&authority, reply::param(&query, "path")).await {
            Ok((status, body)) => reply::text(status, body),
            Err(error) => reply::text(502, format!("{error:?}")),
        }
    }
}

async fn get(authority: &str, path: &str) -> Result<(u16, Vec<u8>), ErrorCode> {
    let (trailers, trailers_reader) = wit_future::new(|| Ok(None));
    drop(trailers);
    let (request, _sent) = Request::new(Fields::new(), None, trailers_reader, None);
    request.set_scheme(Some(&Scheme::Http)).map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
    request.set_authority(Some(authority)).map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
    request.set_path_with_query(Some(path)).map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
    let response = client::send(request).await?;
    let status = response.get_status_code();
    let (result, result_reader) = wit_future::new(|| Ok(()));
    drop(result);
    let (stream, trailers) = Response::consume_body(response, result_reader);
    let body = stream.collect().await;
    trailers.await?;
    Ok((status, body))
}
