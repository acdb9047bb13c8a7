//! `wharf:http/messages` for components: HTTP messages in one piece.

use super::{Body, state::State};
use http_body_util::BodyExt;
use hyper::{
    HeaderMap, Response, StatusCode,
    http::uri::{Authority, PathAndQuery, Scheme},
};
use wasmtime::{
    StoreContextMut,
    component::{Accessor, ComponentType, Linker, Lower, Resource},
};
use wasmtime_wasi_http::{
    Error, FieldMap, WasiBody, WasiHttpView,
    p3::{self, bindings::http::types::Method},
};

/// The interface.
const MESSAGES: &str = "wharf:http/messages@0.1.0";

/// The largest body that is read for a guest in one piece: the host holds it meanwhile, whatever the guest may.
const LARGEST_BODY: u64 = 32 << 20;

/// How much the headers of a response may take in the host; as much as `wasi:http` grants.
const MOST_HEADERS: usize = 128 << 10;

#[derive(ComponentType, Lower)]
#[component(record)]
struct Head {
    method: Method,
    target: Option<String>,
}

#[derive(ComponentType, Lower, Clone, Copy)]
#[component(enum)]
#[repr(u8)]
enum ReadError {
    #[component(name = "too-large")]
    TooLarge,
    #[component(name = "broken")]
    Broken,
}

/// Offers `wharf:http/messages`.
///
/// # Errors
///
/// When the linker has the interface already.
pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut instance = linker.instance(MESSAGES)?;
    instance.func_wrap("read-head", |store: StoreContextMut<'_, State>, (request,): (Resource<p3::Request>,)| {
        let request = store.data().table.get(&request)?;
        let target = request.path_with_query.as_ref().map(|target| target.as_str().to_owned());
        Ok((Head { method: (&request.method).into(), target },))
    })?;
    instance.func_wrap_concurrent(
        "read-body",
        |accessor: &Accessor<State>, (request, limit): (Resource<p3::Request>, u64)| {
            Box::pin(async move {
                let body = accessor.with(|mut access| {
                    let mut request = access.data_mut().table.delete(request)?;
                    // Only the body matters, but it comes with a URI, which must be a whole one.
                    request.scheme = Some(Scheme::HTTP);
                    request.authority = Some(Authority::from_static("unknown"));
                    request.path_with_query = Some(PathAndQuery::from_static("/"));
                    match request.into_http_with_getter(&mut access, async { Ok(()) }, State::http) {
                        Ok((request, _)) => Ok(Some(request.into_body())),
                        // A request of the guest's own making.
                        Err(error) => error.downcast().map(|_| None),
                    }
                })?;
                let Some(body) = body else { return Ok((Err(ReadError::Broken),)) };
                Ok((read(body, limit.min(LARGEST_BODY)).await,))
            })
        },
    )?;
    instance.func_wrap("make-response", |mut store: StoreContextMut<'_, State>, message: Message| {
        let view = store.data_mut().http();
        let response = match response(view.hooks, message) {
            Ok(response) => response,
            Err(reason) => return Ok((Err(reason),)),
        };
        let response = response.map(|body| body.map_err(|error| Error::InternalError(Some(error.to_string()))));
        let (response, _sent) = p3::Response::from_http(view.hooks, response);
        Ok((Ok(view.table.push(response)?),))
    })
}

/// Status, headers and body.
type Message = (u16, Vec<(String, Vec<u8>)>, Vec<u8>);

fn response(
    hooks: &mut dyn wasmtime_wasi_http::WasiHttpHooks,
    (status, headers, body): Message,
) -> Result<Response<Body>, String> {
    let mut fields = FieldMap::new_mutable(MOST_HEADERS);
    for (name, value) in headers {
        if let Err(error) = fields.append(hooks, name.clone(), value) {
            return Err(format!("header {name:?}: {error}"));
        }
    }
    let mut response = Response::new(Body::complete(body));
    *response.status_mut() = StatusCode::from_u16(status).map_err(|_| format!("{status} is not an HTTP status"))?;
    *response.headers_mut() = HeaderMap::from(fields);
    Ok(response)
}

async fn read(mut body: WasiBody, limit: u64) -> Result<Vec<u8>, ReadError> {
    let fits = |length: usize| u64::try_from(length).is_ok_and(|length| length <= limit);
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| ReadError::Broken)?.into_data() else { continue };
        if !fits(whole.len() + data.len()) {
            return Err(ReadError::TooLarge);
        }
        if whole.is_empty() {
            whole = Vec::from(data);
        } else {
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use wasmtime_wasi_http::{DEFAULT_FORBIDDEN_HEADERS, ForbiddenHeaderFilter, RequestOptions, WasiHttpHooks};

    struct NoClient;

    type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;

    impl WasiHttpHooks for NoClient {
        fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
            std::sync::Arc::new(|name| DEFAULT_FORBIDDEN_HEADERS.contains(name))
        }

        fn send_request(
            &mut self,
            _: hyper::Request<WasiBody>,
            _: Option<RequestOptions>,
            _: Io,
        ) -> Box<dyn Future<Output = Result<(Response<WasiBody>, Io), Error>> + Send> {
            Box::new(async { Err(Error::HttpRequestDenied) })
        }
    }

    fn message(status: u16, headers: &[(&str, &str)]) -> Message {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()));
        (status, headers.collect(), b"hello".to_vec())
    }

    #[test]
    fn a_response_is_what_it_was_made_of() {
        let made = response(&mut NoClient, message(201, &[("content-type", "text/plain"), ("x-a", "1")])).unwrap();
        assert_eq!((made.status(), made.headers().len()), (StatusCode::CREATED, 2));
        assert_eq!(made.headers()["content-type"], "text/plain");
        let body = made.into_body().collect().now_or_never().expect("it is complete").unwrap();
        assert_eq!(body.to_bytes(), "hello");
    }

    #[test]
    fn what_is_not_http_is_refused_with_a_reason() {
        for (message, reason) in [
            (message(1000, &[]), "1000 is not an HTTP status"),
            (message(200, &[("a b", "")]), "header \"a b\": invalid header name"),
            (message(200, &[("a", "1\r\nb: 2")]), "header \"a\": invalid header value"),
            (message(200, &[("connection", "close")]), "header \"connection\": forbidden header name"),
        ] {
            assert_eq!(response(&mut NoClient, message).err().as_deref(), Some(reason));
        }
    }

    #[test]
    fn a_body_is_read_up_to_the_limit() {
        let body = |bytes: &'static [u8]| super::super::into_wasi(Body::complete(bytes));
        assert_eq!(read(body(b"12345"), 5).now_or_never().unwrap().ok(), Some(b"12345".to_vec()));
        assert!(matches!(read(body(b"123456"), 5).now_or_never().unwrap(), Err(ReadError::TooLarge)));
        let broken =
            Body::begun([Ok(hyper::body::Frame::data("12".into())), Err("it broke off".into())].into(), Body::empty());
        assert!(matches!(read(super::super::into_wasi(broken), 5).now_or_never().unwrap(), Err(ReadError::Broken)));
    }
}
