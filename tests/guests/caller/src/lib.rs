//! Asks others over wasi:http 0.3 and passes on what they say.
//!
//! `GET /neighbour?name=user&path=/users/1` asks a neighbour by its name, `http://user.internal/users/1`;
//! `GET /outbound?origin=127.0.0.1:8080&path=/` an origin that the manifest may or may not allow. With `&body=…` it posts
//! that text. The answer's status is the other's, its body is passed on. What did not get an answer is 502 with the error
//! code.
//!
//! `GET /stream?origin=…&path=/` answers `first`, and only then asks the origin and adds what it says.

use wasip3::{
    http::{
        client,
        types::{ErrorCode, Fields, Method, Request, Response, Scheme},
    },
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
        match ask(&authority, reply::param(&query, "path"), reply::param(&query, "body")).await {
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
        let last = match ask(reply::param(&query, "origin"), reply::param(&query, "path"), "").await {
            Ok((_, last)) => last,
            Err(error) => format!("{error:?}").into_bytes(),
        };
        body.write_all(last).await;
    });
    response
}

/// `GET`s a path, or `POST`s a body to it if there is one.
async fn ask(authority: &str, path: &str, body: &str) -> Result<(u16, Vec<u8>), ErrorCode> {
    let (trailers, trailers_reader) = wit_future::new(|| Ok(None));
    drop(trailers);
    let (mut writer, contents) = wit_stream::new();
    let contents = (!body.is_empty()).then_some(contents);
    let is_post = contents.is_some();
    let (request, _sent) = Request::new(Fields::new(), contents, trailers_reader, None);
    if is_post {
        request.set_method(&Method::Post).map_err(|()| ErrorCode::HttpRequestMethodInvalid)?;
        let body = body.as_bytes().to_vec();
        wit_bindgen::spawn_local(async move {
            writer.write_all(body).await;
        });
    }
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
