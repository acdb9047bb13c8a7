//! Stale and fixed answers of an edge: which answers are remembered, and how one is given again.
//!
//! HTTP has a standard for shared caches (RFC 9111), which is followed where it forbids: nothing is kept of a request with
//! `Authorization`, `Cookie` or `Range`, nor of an answer that sets a cookie, says `no-store` or `private`, or varies by
//! more than its encoding. Its freshness does not matter here, because a stale answer is given only when there is no
//! other. The answer says so by `Age` and by `Cache-Status` (RFC 9211).

use super::{Body, BodyError, exports::FunctionKey, tape::Tape};
use crate::policy::{Failure, Fault, FaultKind, FixedAnswer, StaleCache, StaleParams};
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

/// What a call is answered, of the kinds of which an edge can give an earlier one again.
pub(super) trait Memorable: Sized {
    /// By what it is remembered.
    type Key;

    /// Its HTTP status, if it has one.
    fn status(&self) -> Option<u16>;

    /// Remembers it under `key`, if it may be.
    fn remember(&self, remembered: &Remembered, params: &StaleParams, key: Self::Key);

    /// What `key` was answered the last time, and how long ago that is, in place of this failure.
    fn recall(remembered: &Remembered, params: &StaleParams, key: &Self::Key, why: Failure)
    -> Option<(Self, Duration)>;
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

// === impl Memorable ===

impl Memorable for Response<Body> {
    type Key = String;

    fn status(&self) -> Option<u16> {
        Some(self.status().as_u16())
    }

    /// Only a complete answer, and none that HTTP forbids a shared cache to keep.
    fn remember(&self, remembered: &Remembered, params: &StaleParams, key: String) {
        let Some(body) = self.body().to_complete() else { return };
        if !may_be_remembered(self) {
            return;
        }
        let headers = self.headers();
        let head: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 64).sum();
        let size = OVERHEAD + (key.len() + head + body.len()) as u64;
        let stored = Stored { status: self.status(), headers: headers.clone(), body };
        remembered.responses.put(params, key, Arc::new(stored), size);
    }

    /// The answer says how old it is, and why it is given.
    fn recall(remembered: &Remembered, params: &StaleParams, key: &String, why: Failure) -> Option<(Self, Duration)> {
        let (stored, age) = remembered.responses.get(params, key)?;
        let mut response = Response::new(Body::complete(stored.body.clone()));
        *response.status_mut() = stored.status;
        *response.headers_mut() = stored.headers.clone();
        let headers = response.headers_mut();
        let before = headers.get(header::AGE).and_then(|age| age.to_str().ok()?.parse().ok()).unwrap_or(0);
        let seconds = age.as_secs().saturating_add(before);
        headers.insert(header::AGE, seconds.into());
        let detail = match why {
            Failure::Fault(kind) => kind.to_string(),
            Failure::Status(status) => format!("status-{status}"),
        };
        // A token and a number: always a valid value.
        if let Ok(status) = HeaderValue::try_from(format!("wharf; hit; ttl=-{seconds}; detail={detail}")) {
            headers.append(CACHE_STATUS, status);
        }
        Some((response, age))
    }
}

impl Memorable for Tape {
    type Key = CallKey;

    fn status(&self) -> Option<u16> {
        None
    }

    /// Only results that are no error.
    fn remember(&self, remembered: &Remembered, params: &StaleParams, key: CallKey) {
        if key.function.is_error(self) {
            return;
        }
        let size = OVERHEAD + (key.params.len() + self.as_bytes().len()) as u64;
        // NB: a copy. What is on its way counts against an instance as long as it is there.
        remembered.results.put(params, key, self.as_bytes().to_vec().into(), size);
    }

    fn recall(remembered: &Remembered, params: &StaleParams, key: &CallKey, _why: Failure) -> Option<(Self, Duration)> {
        remembered.results.get(params, key)
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
        response(201, &[("x-a", "1"), ("age", "5")]).remember(&remembered, &params, "/a".into());
        tokio::time::advance(Duration::from_secs(7)).await;
        let recall = |key: &str, why| <Response<Body>>::recall(&remembered, &params, &key.into(), why);
        let (answer, age) = recall("/a", Failure::Fault(FaultKind::CircuitOpen)).unwrap();
        assert_eq!((answer.status().as_u16(), age.as_secs()), (201, 7));
        assert_eq!(answer.headers()["x-a"], "1");
        assert_eq!(answer.headers()["age"], "12");
        assert_eq!(answer.headers()["cache-status"], "wharf; hit; ttl=-12; detail=circuit-open");
        assert_eq!(answer.body().as_complete().unwrap(), b"body");
        let (answer, _) = recall("/a", Failure::Status(503)).unwrap();
        assert_eq!(answer.headers()["cache-status"], "wharf; hit; ttl=-12; detail=status-503");
        assert!(recall("/b", Failure::Status(503)).is_none());
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
        ok.remember(&remembered, &params, key("find", "1", true));
        err.remember(&remembered, &params, key("find", "2", true));
        err.remember(&remembered, &params, key("count", "3", false));
        let why = Failure::Fault(FaultKind::Trapped);
        let recall = |key| Tape::recall(&remembered, &params, &key, why).map(|(results, _)| results);
        assert_eq!(recall(key("find", "1", true)), Some(ok));
        assert_eq!(recall(key("count", "3", false)), Some(err), "a number, not an error");
        for (name, id) in [("find", "2"), ("find", "3"), ("get", "1")] {
            assert_eq!(recall(key(name, id, true)), None, "{name} {id}");
        }
        let function = Arc::new(FunctionKey::made_up("a:b/c", "find", true));
        assert!(CallKey::new(&function, &vec![0; LARGEST_PARAMS + 1].into()).is_none());
    }
}
