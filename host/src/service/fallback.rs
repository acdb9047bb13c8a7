//! Stale and fixed answers of an edge: which answers are remembered, and how one is given again.
//!
//! HTTP has a standard for shared caches (RFC 9111), which is followed where it forbids: nothing is kept of a request with
//! `Authorization`, `Cookie` or `Range`, nor of an answer that sets a cookie, says `no-store` or `private`, or varies by
//! more than its encoding. Its freshness does not matter here, because a stale answer is given only when there is no
//! other. The answer says so by `Age` and by `Cache-Status` (RFC 9211).

use super::{Body, BodyError, exports::FunctionKey, tape::Tape};
use crate::policy::{Fault, FaultKind, FixedAnswer, StaleCache, StaleParams};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Body as _;
use std::{sync::Arc, time::Duration};

/// The largest body that is remembered, in bytes.
const LARGEST_BODY: u64 = 256 << 10;

/// The largest parameters whose results are remembered, in bytes.
const LARGEST_PARAMS: usize = 16 << 10;

/// What an entry takes beside its content, about.
const OVERHEAD: u64 = 200;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// The answers that an edge remembers.
#[derive(Default)]
pub(super) struct Remembered {
    responses: StaleCache<String, Arc<Stored>>,
    results: StaleCache<CallKey, Tape>,
}

/// By what the results of a call are remembered: the function and its parameters.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct CallKey {
    function: Arc<FunctionKey>,
    params: Box<[u8]>,
}

/// An HTTP answer that can be given again.
struct Stored {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

// === impl Remembered ===

impl Remembered {
    /// Remembers `response` under `key`, if it may be.
    pub fn put_response(&self, params: &StaleParams, key: String, response: &Response<Body>) {
        let Some(body) = response.body().to_complete() else { return };
        if !may_be_remembered(response) {
            return;
        }
        let headers = response.headers();
        let head: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 64).sum();
        let size = OVERHEAD + (key.len() + head + body.len()) as u64;
        let stored = Stored { status: response.status(), headers: headers.clone(), body };
        self.responses.put(params, key, Arc::new(stored), size);
    }

    /// The answer that `key` got the last time, and its age.
    pub fn response(&self, params: &StaleParams, key: &str, why: &str) -> Option<(Response<Body>, Duration)> {
        let (stored, age) = self.responses.get(params, key)?;
        let mut response = Response::new(Body::complete(stored.body.clone()));
        *response.status_mut() = stored.status;
        *response.headers_mut() = stored.headers.clone();
        let headers = response.headers_mut();
        let before = headers.get(header::AGE).and_then(|age| age.to_str().ok()?.parse().ok()).unwrap_or(0);
        let seconds = age.as_secs().saturating_add(before);
        headers.insert(header::AGE, seconds.into());
        // A token and a number: always a valid value.
        if let Ok(status) = HeaderValue::try_from(format!("wharf; hit; ttl=-{seconds}; detail={why}")) {
            headers.append(CACHE_STATUS, status);
        }
        Some((response, age))
    }

    /// Remembers the results of a function, unless they are an error.
    pub fn put_results(&self, params: &StaleParams, key: CallKey, results: &Tape) {
        if key.function.is_error(results) {
            return;
        }
        let size = OVERHEAD + (key.params.len() + results.as_bytes().len()) as u64;
        // NB: a copy. What is on its way counts against an instance as long as it is there.
        self.results.put(params, key, results.as_bytes().to_vec().into(), size);
    }

    /// The results that `key` got the last time, and their age.
    pub fn results(&self, params: &StaleParams, key: &CallKey) -> Option<(Tape, Duration)> {
        self.results.get(params, key)
    }
}

// === impl CallKey ===

impl CallKey {
    /// The key of this call; `None` if its parameters are too large.
    pub fn new(function: &Arc<FunctionKey>, params: &Tape) -> Option<Self> {
        let params = params.as_bytes();
        (params.len() <= LARGEST_PARAMS).then(|| Self { function: function.clone(), params: params.into() })
    }
}

/// By what an answer to this request is remembered; `None` if it may not be.
pub(super) fn key_of_request<B>(request: &Request<B>) -> Option<String> {
    let own = [header::AUTHORIZATION, header::COOKIE, header::RANGE];
    let is_safe = *request.method() == Method::GET;
    (is_safe && !own.iter().any(|name| request.headers().contains_key(name))).then(|| request.uri().to_string())
}

/// Reads a body to its end that says how long it is and is short enough to be remembered. Others stream on.
pub(super) async fn complete(response: Response<Body>) -> Result<Response<Body>, Fault> {
    let size = response.body().size_hint().exact();
    if response.body().as_complete().is_some() || size.is_none_or(|size| size > LARGEST_BODY) {
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let limited = Limited::new(body, LARGEST_BODY as usize).collect().await;
    let body = limited.map_err(|error: BodyError| {
        Fault::new(FaultKind::Trapped, format!("the body of the answer broke off: {error}"))
    })?;
    Ok(Response::from_parts(parts, Body::complete(body.to_bytes())))
}

/// The fixed answer.
pub(super) fn fixed(answer: &FixedAnswer) -> Response<Body> {
    let mut response = Response::new(Body::complete(answer.body.clone()));
    // The policy's constructor let only valid ones through.
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    if let Ok(media_type) = HeaderValue::try_from(&answer.content_type) {
        response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    }
    response
}

fn may_be_remembered<B>(response: &Response<B>) -> bool {
    let headers = response.headers();
    let says = |name, words: &[&str]| {
        let values = headers.get_all(name).iter().flat_map(|value| value.to_str().unwrap_or_default().split(','));
        values
            .map(|value| value.split('=').next().unwrap_or_default().trim().to_ascii_lowercase())
            .any(|value| words.contains(&&*value))
    };
    let varies =
        headers.get_all(header::VARY).iter().any(|value| !value.as_bytes().eq_ignore_ascii_case(b"accept-encoding"));
    response.status().is_success()
        && response.status() != StatusCode::PARTIAL_CONTENT
        && !headers.contains_key(header::SET_COOKIE)
        && !says(header::CACHE_CONTROL, &["no-store", "private"])
        && !varies
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(build: impl FnOnce(http::request::Builder) -> http::request::Builder) -> Request<()> {
        build(Request::get("/users/1?full")).body(()).unwrap()
    }

    fn response(status: u16, headers: &[(&str, &str)]) -> Response<Body> {
        let mut builder = Response::builder().status(status);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(Body::complete("body")).unwrap()
    }

    #[test]
    fn only_questions_that_are_nobodys_own_have_a_key() {
        assert_eq!(key_of_request(&request(|it| it)).as_deref(), Some("/users/1?full"));
        for method in ["HEAD", "POST", "PUT", "DELETE"] {
            assert_eq!(key_of_request(&request(|it| it.method(method))), None, "{method}");
        }
        for name in ["authorization", "cookie", "range"] {
            assert_eq!(key_of_request(&request(|it| it.header(name, "x"))), None, "{name}");
        }
    }

    #[test]
    fn only_good_answers_for_everybody_are_remembered() {
        for (status, headers, remembered) in [
            (200, &[][..], true),
            (204, &[], true),
            (206, &[], false),
            (304, &[], false),
            (404, &[], false),
            (500, &[], false),
            (200, &[("cache-control", "max-age=60, public")], true),
            (200, &[("cache-control", "No-Store")], false),
            (200, &[("cache-control", "max-age=0, private=\"x\"")], false),
            (200, &[("cache-control", "max-age=0"), ("cache-control", "no-store")], false),
            (200, &[("set-cookie", "a=b")], false),
            (200, &[("vary", "Accept-Encoding")], true),
            (200, &[("vary", "*")], false),
            (200, &[("vary", "accept-language")], false),
        ] {
            assert_eq!(may_be_remembered(&response(status, headers)), remembered, "{status} {headers:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stale_answer_is_the_answer_with_its_age() {
        let (remembered, params) = (Remembered::default(), StaleParams::default());
        remembered.put_response(&params, "/a".into(), &response(201, &[("x-a", "1"), ("age", "5")]));
        tokio::time::advance(Duration::from_secs(7)).await;
        let (answer, age) = remembered.response(&params, "/a", "circuit-open").unwrap();
        assert_eq!((answer.status().as_u16(), age.as_secs()), (201, 7));
        assert_eq!(answer.headers()["x-a"], "1");
        assert_eq!(answer.headers()["age"], "12");
        assert_eq!(answer.headers()["cache-status"], "wharf; hit; ttl=-12; detail=circuit-open");
        assert_eq!(answer.body().as_complete().unwrap(), b"body");
        assert!(remembered.response(&params, "/b", "").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn results_are_remembered_by_function_and_parameters_unless_they_are_an_error() {
        let (remembered, params) = (Remembered::default(), StaleParams::default());
        let key = |name: &str, id: &str, is_fallible| {
            let function = FunctionKey::made_up("shop:users/users@0.1.0", name, is_fallible);
            CallKey::new(&Arc::new(function), &id.as_bytes().to_vec().into()).unwrap()
        };
        let tape = |bytes: &[u8]| Tape::from(bytes.to_vec());
        let (ok, err) = (tape(&[0, 0, 0, 0, 7]), tape(&[1, 0, 0, 0, 7]));
        remembered.put_results(&params, key("find", "1", true), &ok);
        remembered.put_results(&params, key("find", "2", true), &err);
        remembered.put_results(&params, key("count", "3", false), &err);
        assert_eq!(remembered.results(&params, &key("find", "1", true)).unwrap().0, ok);
        assert_eq!(remembered.results(&params, &key("count", "3", false)).unwrap().0, err, "a number, not an error");
        for (name, id) in [("find", "2"), ("find", "3"), ("get", "1")] {
            assert!(remembered.results(&params, &key(name, id, true)).is_none(), "{name} {id}");
        }
        let function = Arc::new(FunctionKey::made_up("a:b/c", "find", true));
        assert!(CallKey::new(&function, &vec![0; LARGEST_PARAMS + 1].into()).is_none());
    }
}
