//! Which handler answers which request.
//!
//! Handlers are plain async functions and take what they need out of the request by type, as in axum, over the same
//! path matcher (`matchit`: `/users/{id}`, `/files/{*rest}`).
//!
//! Why not axum itself, without its server? It was measured with the same service, four routes, on both (axum 0.8.9,
//! default features off, `json` and `query` on; release profile of this workspace):
//!
//! | | this router | axum |
//! |---|---|---|
//! | component | 288 KB | 426 KB |
//! | clean build of a service, CPU | 96 s | 134 s |
//! | `GET /users/{id}`, routing and JSON only, native | 0.29 µs | 0.67 µs |
//! | `POST /users`, routing and JSON only, native | 0.32 µs | 1.02 µs |
//! | `GET /users/{id}`, whole request in wasmtime 48 | 10 µs | 14 µs |
//! | `POST /users`, whole request in wasmtime 48 | 23 µs | 35 µs |
//!
//! Most of the difference is the way there and back: axum wants an `http::Request` with its headers, and insists on the
//! content type of a JSON body, which are calls out of the component; here a request's headers stay with the host.

use crate::{Error, Extract, Method, Request, Respond, Response, Result, request::DEFAULT_BODY_LIMIT};
use std::{collections::BTreeMap, fmt, pin::Pin};

/// A handler's answer in the making.
type Answer<'a> = Pin<Box<dyn Future<Output = Response> + 'a>>;
type Call = Box<dyn Fn(Request) -> Answer<'static> + Send + Sync>;

/// An async function that answers requests; its arguments are [`Extract`], its result is [`Respond`].
pub trait Handler<Args>: Clone + Send + Sync + 'static {
    /// Answers one request.
    fn call(self, request: Request) -> impl Future<Output = Response> + 'static;
}

/// The routes of a service.
pub struct Router {
    /// The methods of each path, until the first request.
    routes: BTreeMap<&'static str, Vec<(Method, Call)>>,
    body_limit: usize,
}

/// The routes of a service, ready to answer.
pub struct Routes {
    paths: matchit::Router<Vec<(Method, Call)>>,
    body_limit: usize,
}

// === impl Router ===

impl Router {
    /// No routes.
    pub fn new() -> Self {
        Self { routes: BTreeMap::new(), body_limit: DEFAULT_BODY_LIMIT }
    }

    /// How large a request's body may be, in bytes; [`DEFAULT_BODY_LIMIT`] where it is not said.
    #[must_use]
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.body_limit = bytes;
        self
    }

    /// Routes requests with this method and path to a handler.
    #[must_use]
    pub fn route<A>(mut self, method: Method, path: &'static str, handler: impl Handler<A>) -> Self {
        self.routes
            .entry(path)
            .or_default()
            .push((method, Box::new(move |request| Box::pin(handler.clone().call(request)))));
        self
    }

    /// Routes GET, and HEAD with it.
    #[must_use]
    pub fn get<A>(self, path: &'static str, handler: impl Handler<A>) -> Self {
        self.route(Method::Get, path, handler)
    }

    /// Routes POST.
    #[must_use]
    pub fn post<A>(self, path: &'static str, handler: impl Handler<A>) -> Self {
        self.route(Method::Post, path, handler)
    }

    /// Routes PUT.
    #[must_use]
    pub fn put<A>(self, path: &'static str, handler: impl Handler<A>) -> Self {
        self.route(Method::Put, path, handler)
    }

    /// Routes PATCH.
    #[must_use]
    pub fn patch<A>(self, path: &'static str, handler: impl Handler<A>) -> Self {
        self.route(Method::Patch, path, handler)
    }

    /// Routes DELETE.
    #[must_use]
    pub fn delete<A>(self, path: &'static str, handler: impl Handler<A>) -> Self {
        self.route(Method::Delete, path, handler)
    }

    /// Makes the routes ready.
    ///
    /// # Panics
    /// On a path that is not one, or two that conflict: a mistake in the service's code, found by its first request
    /// and by any test that builds its routes.
    pub fn build(self) -> Routes {
        let mut paths = matchit::Router::new();
        for (path, methods) in self.routes {
            if let Err(error) = paths.insert(path, methods) {
                panic!("route {path}: {error}");
            }
        }
        Routes { paths, body_limit: self.body_limit }
    }
}

impl Default for Router {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.routes.keys()).finish()
    }
}

// === impl Routes ===

impl Routes {
    /// Answers a request: by its handler, or with 404 or 405.
    pub async fn respond(&self, mut request: Request) -> Response {
        request.body_limit = self.body_limit;
        match self.find(&mut request) {
            Ok(call) => call(request).await,
            Err(response) => response,
        }
    }

    fn find(&self, request: &mut Request) -> Result<&Call, Response> {
        let path = request.path().to_owned();
        let Ok(found) = self.paths.at(&path) else {
            return Err(Error::not_found("Not found").into());
        };
        let Some((_, call)) = found.value.iter().find(|(method, _)| Some(*method) == request.method) else {
            return Err(method_not_allowed(found.value.iter().map(|(method, _)| *method)));
        };
        request.set_params(found.params.iter().map(|(_, value)| value))?;
        Ok(call)
    }
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routes").finish_non_exhaustive()
    }
}

fn method_not_allowed(methods: impl Iterator<Item = Method>) -> Response {
    let mut allow = Vec::new();
    for method in methods {
        allow.push(method.as_str());
        if method == Method::Get {
            allow.push("HEAD");
        }
    }
    Response::json_bytes(405, br#"{"error":"Method not allowed"}"#.to_vec()).with_header("allow", allow.join(", "))
}

// === impl Handler ===

macro_rules! handler {
    ($($arg:ident),*) => {
        #[allow(non_snake_case, unused_mut, unused_variables, reason = "one shape for every number of arguments")]
        impl<F, Fut, R, $($arg),*> Handler<($($arg,)*)> for F
        where
            F: Fn($($arg),*) -> Fut + Clone + Send + Sync + 'static,
            Fut: Future<Output = R> + 'static,
            R: Respond + 'static,
            $($arg: Extract + 'static,)*
        {
            async fn call(self, mut request: Request) -> Response {
                $(
                    let $arg = match $arg::extract(&mut request).await {
                        Ok(value) => value,
                        Err(error) => return error.into(),
                    };
                )*
                self($($arg),*).await.respond()
            }
        }
    };
}

handler!();
handler!(A);
handler!(A, B);
handler!(A, B, C);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Json, Path, Query};
    use serde::Deserialize;
    use std::task::{Context, Poll, Waker};

    #[derive(Deserialize)]
    struct Page {
        limit: u32,
    }

    fn routes() -> Routes {
        async fn thing(Path(id): Path<String>) -> Json<String> {
            Json(id)
        }
        async fn things(Query(page): Query<Page>) -> Json<u32> {
            Json(page.limit)
        }
        async fn add(Json(name): Json<String>) -> Result<Json<String>> {
            if name.is_empty() { Err(Error::bad_request("Name missing")) } else { Ok(Json(name)) }
        }
        async fn part(Path((thing, part)): Path<(String, String)>) -> Json<String> {
            Json(format!("{thing}/{part}"))
        }
        Router::new()
            .get("/things", things)
            .post("/things", add)
            .get("/things/{id}", thing)
            .get("/things/{id}/parts/{part}", part)
            .delete("/things/{id}", async |Path(_): Path<String>| ())
            .body_limit(64)
            .build()
    }

    fn send(method: Method, target: &str, body: &[u8]) -> (u16, String) {
        let (status, body, _) = send_with_allow(method, target, body);
        (status, body)
    }

    fn send_with_allow(method: Method, target: &str, body: &[u8]) -> (u16, String, Option<String>) {
        let routes = routes();
        let mut answer = std::pin::pin!(routes.respond(Request::new(method, target, body)));
        let Poll::Ready(response) = answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("the handlers here never wait");
        };
        let allow = response.header("allow").map(|value| String::from_utf8_lossy(value).into_owned());
        (response.status(), String::from_utf8_lossy(response.body()).into_owned(), allow)
    }

    #[test]
    fn parameters_are_percent_decoded() {
        assert_eq!(send(Method::Get, "/things/a%20b%2Fc", b""), (200, r#""a b/c""#.into()));
        assert_eq!(send(Method::Get, "/things/1/parts/2", b""), (200, r#""1/2""#.into()));
    }

    #[test]
    fn a_path_that_is_not_utf8_is_a_bad_request() {
        assert_eq!(send(Method::Get, "/things/%ff", b"").0, 400);
    }

    #[test]
    fn a_query_is_deserialised_or_refused() {
        assert_eq!(send(Method::Get, "/things?limit=7", b""), (200, "7".into()));
        assert_eq!(send(Method::Get, "/things?limit=x", b"").0, 400);
        assert_eq!(send(Method::Get, "/things", b"").0, 400);
    }

    #[test]
    fn bodies_are_json_within_the_limit() {
        assert_eq!(send(Method::Post, "/things", br#""x""#), (200, r#""x""#.into()));
        assert_eq!(send(Method::Post, "/things", br#""""#), (400, r#"{"error":"Name missing"}"#.into()));
        assert_eq!(send(Method::Post, "/things", b"not json").0, 400);
        assert_eq!(send(Method::Post, "/things", b"\"\xff\"").0, 400);
        assert_eq!(send(Method::Post, "/things", &[b' '; 65]).0, 413);
    }

    #[test]
    fn unknown_paths_are_404_and_unknown_methods_405_with_allow() {
        assert_eq!(send(Method::Get, "/nothing", b"").0, 404);
        assert_eq!(send(Method::Get, "/things/", b"").0, 404);
        let (status, _, allow) = send_with_allow(Method::Put, "/things", b"");
        assert_eq!((status, allow.as_deref()), (405, Some("GET, HEAD, POST")));
    }

    #[test]
    fn nothing_to_say_is_204() {
        assert_eq!(send(Method::Delete, "/things/1", b""), (204, String::new()));
    }
}
