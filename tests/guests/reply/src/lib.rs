//! Answers of a few words, for guests that speak wasi:http 0.3.

use wasip3::{
    http::types::{ErrorCode, Fields, Request, Response},
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
