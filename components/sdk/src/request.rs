//! The request that a service was sent.
//!
//! Every look at a request is a call out of the component. So what every request needs (method and target) is read
//! in one, and headers and body only when they are asked for.

use crate::{
    Error, Result,
    bindings::{
        wasi::http::types,
        wharf::http::messages::{self, ReadError},
    },
};
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use std::fmt;

/// How much of a request's body is taken where the router does not say otherwise, in bytes.
pub const DEFAULT_BODY_LIMIT: usize = 256 * 1024;

/// The HTTP methods that routes are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// GET; also answers HEAD.
    Get,
    /// POST
    Post,
    /// PUT
    Put,
    /// PATCH
    Patch,
    /// DELETE
    Delete,
}

/// A request.
pub struct Request {
    pub(crate) method: Option<Method>,
    pub(crate) head: bool,
    target: String,
    path_len: usize,
    pub(crate) params: Vec<String>,
    pub(crate) body_limit: usize,
    source: Source,
}

/// Where headers and body come from.
enum Source {
    Host(types::Request),
    Memory(Vec<u8>),
    Taken,
}

/// An argument of a handler, taken out of the request.
#[allow(async_fn_in_trait, reason = "components have one thread, nothing needs Send")]
pub trait Extract: Sized {
    /// Takes it out, or says what is wrong with the request.
    async fn extract(request: &mut Request) -> Result<Self>;
}

/// The parameters of the path, percent-decoded: `Path(id): Path<String>`, `Path((a, b)): Path<(String, String)>`.
#[derive(Debug, Clone)]
pub struct Path<T>(pub T);

/// The query, deserialised: `Query(page): Query<Page>`.
#[derive(Debug, Clone)]
pub struct Query<T>(pub T);

/// The body as it came, within the router's limit.
#[derive(Debug, Clone)]
pub struct Bytes(pub Vec<u8>);

// === impl Method ===

impl Method {
    /// As written in HTTP.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

impl From<Method> for types::Method {
    fn from(method: Method) -> Self {
        match method {
            Method::Get => Self::Get,
            Method::Post => Self::Post,
            Method::Put => Self::Put,
            Method::Patch => Self::Patch,
            Method::Delete => Self::Delete,
        }
    }
}

// === impl Request ===

impl Request {
    /// A request out of thin air, for tests of routes.
    pub fn new(method: Method, target: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self::from_parts(Some(method), false, target.into(), Source::Memory(body.into()))
    }

    pub(crate) fn from_host(request: types::Request) -> Self {
        let messages::Head { method, target } = messages::read_head(&request);
        let (method, head) = match method {
            types::Method::Get => (Some(Method::Get), false),
            types::Method::Head => (Some(Method::Get), true),
            types::Method::Post => (Some(Method::Post), false),
            types::Method::Put => (Some(Method::Put), false),
            types::Method::Patch => (Some(Method::Patch), false),
            types::Method::Delete => (Some(Method::Delete), false),
            _ => (None, false),
        };
        let target = target.unwrap_or_else(|| "/".to_owned());
        Self::from_parts(method, head, target, Source::Host(request))
    }

    fn from_parts(method: Option<Method>, head: bool, target: String, source: Source) -> Self {
        let path_len = target.find('?').unwrap_or(target.len());
        Self { method, head, target, path_len, params: Vec::new(), body_limit: DEFAULT_BODY_LIMIT, source }
    }

    /// The path, as sent: not percent-decoded.
    pub fn path(&self) -> &str {
        &self.target[..self.path_len]
    }

    /// What follows the `?`, as sent; empty where nothing does.
    pub fn query(&self) -> &str {
        self.target.get(self.path_len + 1..).unwrap_or_default()
    }

    /// The first header of this name, where there is one and it is UTF-8. To be asked before the body is taken.
    pub fn header(&self, name: &str) -> Option<String> {
        match &self.source {
            Source::Host(request) => {
                request.get_headers().get(name).into_iter().next().and_then(|value| String::from_utf8(value).ok())
            }
            Source::Memory(_) | Source::Taken => None,
        }
    }

    /// Takes the whole body. A second time there is none.
    ///
    /// # Errors
    /// 413 where it exceeds the router's limit, 400 where the client went away in the middle of it.
    pub async fn body(&mut self) -> Result<Vec<u8>> {
        match std::mem::replace(&mut self.source, Source::Taken) {
            Source::Host(request) => match messages::read_body(request, self.body_limit as u64).await {
                Ok(body) => Ok(body),
                Err(ReadError::TooLarge) => Err(Error::too_large(self.body_limit)),
                Err(ReadError::Broken) => Err(Error::bad_request("The body ended before its end")),
            },
            Source::Memory(body) if body.len() > self.body_limit => Err(Error::too_large(self.body_limit)),
            Source::Memory(body) => Ok(body),
            Source::Taken => Ok(Vec::new()),
        }
    }

    /// Sets the parameters of the path from their percent-encoded form.
    pub(crate) fn set_params<'a>(&mut self, encoded: impl Iterator<Item = &'a str>) -> Result<()> {
        self.params = encoded
            .map(|value| percent_decode_str(value).decode_utf8().map(std::borrow::Cow::into_owned))
            .collect::<std::result::Result<_, _>>()
            .map_err(|_| Error::bad_request("The path is not UTF-8"))?;
        Ok(())
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("method", &self.method).field("target", &self.target).finish_non_exhaustive()
    }
}

// === impl Extract ===

impl Extract for Bytes {
    async fn extract(request: &mut Request) -> Result<Self> {
        request.body().await.map(Bytes)
    }
}

impl<T: DeserializeOwned> Extract for Query<T> {
    async fn extract(request: &mut Request) -> Result<Self> {
        serde_urlencoded::from_str(request.query())
            .map(Query)
            .map_err(|error| Error::bad_request(format!("Query is not the one expected: {error}")))
    }
}

impl Extract for Path<String> {
    async fn extract(request: &mut Request) -> Result<Self> {
        params::<1>(request).map(|[value]| Path(value))
    }
}

impl Extract for Path<(String, String)> {
    async fn extract(request: &mut Request) -> Result<Self> {
        params::<2>(request).map(|[a, b]| Path((a, b)))
    }
}

fn params<const N: usize>(request: &mut Request) -> Result<[String; N]> {
    std::mem::take(&mut request.params).try_into().map_err(|params: Vec<String>| {
        Error::internal(format_args!("the handler takes {N} parameters of the path, the route has {}", params.len()))
    })
}
