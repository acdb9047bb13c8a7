//! Asks an origin over wasi:http 0.2, `GET /?origin=127.0.0.1:8080&path=/`, and passes on what it says: the other's
//! status and body, or 502 with the error code. Blocks while it waits, as 0.2 components do.

use wasip2::http::{
    outgoing_handler,
    types::{
        ErrorCode, Fields, IncomingRequest, OutgoingBody, OutgoingRequest, OutgoingResponse, ResponseOutparam, Scheme,
    },
};

wasip2::http::proxy::export!(Fetch);
struct Fetch;

impl wasip2::exports::http::incoming_handler::Guest for Fetch {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (status, body) = match get(param(&target, "origin"), param(&target, "path")) {
            Ok(answer) => answer,
            Err(error) => (502, format!("{error:?}").into_bytes()),
        };
        let response = OutgoingResponse::new(Fields::new());
        response.set_status_code(status).unwrap();
        let outgoing = response.body().unwrap();
        ResponseOutparam::set(out, Ok(response));
        let stream = outgoing.write().unwrap();
        for piece in body.chunks(4096) {
            stream.blocking_write_and_flush(piece).unwrap();
        }
        drop(stream);
        OutgoingBody::finish(outgoing, None).unwrap();
    }
}

/// The value of `name` in the query of a target.
fn param<'a>(target: &'a str, name: &str) -> &'a str {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)
        .map_or("", |(_, value)| value)
}

fn get(authority: &str, path: &str) -> Result<(u16, Vec<u8>), ErrorCode> {
    let request = OutgoingRequest::new(Fields::new());
    request.set_scheme(Some(&Scheme::Http)).map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
    request.set_authority(Some(authority)).map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
    request.set_path_with_query(Some(path)).map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
    let pending = outgoing_handler::handle(request, None)?;
    pending.subscribe().block();
    let response = pending.get().unwrap().unwrap()?;
    let status = response.status();
    let incoming = response.consume().unwrap();
    let stream = incoming.stream().unwrap();
    let mut body = Vec::new();
    while let Ok(piece) = stream.blocking_read(16 * 1024) {
        body.extend(piece);
    }
    Ok((status, body))
}
