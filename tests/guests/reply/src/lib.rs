//! Answers of a few words, and questions of a few, for guests that speak wasi:http 0.3.

use wasip3::{
    http::{
        client,
        types::{ErrorCode, Fields, Method, Request, Response, Scheme},
    },
    wit_future, wit_stream,
};

/// A text as the answer.
pub fn text(status: u16, text: impl Into<Vec<u8>>) -> Result<Response, ErrorCode> {
    let text: Vec<u8> = text.into();
    let headers = Fields::from_list(&[
        ("content-type".to_owned(), b"text/plain".to_vec()),
        ("content-length".to_owned(), text.len().to_string().into_bytes()),
    ])
    .map_err(|error| ErrorCode::InternalError(Some(error.to_string())))?;
    let (mut body, body_reader) = wit_stream::new();
    let (trailers, trailers_reader) = wit_future::new(|| Ok(None));
    let (response, _sent) = Response::new(headers, Some(body_reader), trailers_reader);
    drop(trailers);
    wit_bindgen::spawn_local(async move {
        body.write_all(text).await;
    });
    let _ = response.set_status_code(status);
    Ok(response)
}

/// Path and query of a request.
pub fn target(request: &Request) -> (String, String) {
    let target = request.get_path_with_query().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    (path.to_owned(), query.to_owned())
}

/// The value of `name` in a query of plain words, `a=1&b=2`.
pub fn param<'a>(query: &'a str, name: &str) -> &'a str {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)
        .map_or("", |(_, value)| value)
}

/// `GET`s a path, or `POST`s a body to it if there is one.
pub async fn ask(authority: &str, path: &str, body: &str) -> Result<(u16, Vec<u8>), ErrorCode> {
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
