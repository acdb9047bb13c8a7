//! What a service answers.

use crate::{
    Error,
    bindings::{wasi::http::types, wharf::http::messages},
};

/// A response whose body is complete.
///
/// It crosses to the host in one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

/// What a handler may return.
pub trait Respond {
    /// Makes a response of it.
    fn respond(self) -> Response;
}

// === impl Response ===

impl Response {
    /// A response without a body.
    pub fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    /// A response with a body of this media type.
    pub fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![("content-type".to_owned(), content_type.as_bytes().to_vec())];
        Self { status, headers, body: body.into() }
    }

    /// A response whose body is JSON text already.
    pub fn json_bytes(status: u16, body: Vec<u8>) -> Self {
        Self::new(status, "application/json", body)
    }

    /// Adds a header.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The first header of this name, as it was added.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| &value[..])
    }

    /// Hands the response to the host.
    pub(crate) fn send(self, head: bool) -> Result<types::Response, types::ErrorCode> {
        let Self { status, headers, mut body } = self;
        if head {
            body.clear();
        }
        messages::make_response(status, &headers, &body).map_err(|reason| types::ErrorCode::InternalError(Some(reason)))
    }
}

// === impl Respond ===

impl Respond for Response {
    fn respond(self) -> Response {
        self
    }
}

/// 204: done, nothing to say.
impl Respond for () {
    fn respond(self) -> Response {
        Response::empty(204)
    }
}

impl Respond for Error {
    fn respond(self) -> Response {
        self.into()
    }
}

impl<T: Respond, E: Into<Error>> Respond for Result<T, E> {
    fn respond(self) -> Response {
        match self {
            Ok(value) => value.respond(),
            Err(error) => error.into().into(),
        }
    }
}
