//! What a service answers.

use crate::{
    Error,
    bindings::{wasi::http::types, wit_future, wit_stream},
};

/// A response whose body is complete.
///
/// It crosses to the host in as few steps as can be: all headers in one list, the whole body in one write.
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
        // Room for content-length, which `send` adds.
        let mut headers = Vec::with_capacity(2);
        headers.push(("content-type".to_owned(), content_type.as_bytes().to_vec()));
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

    /// Hands the response to the host. The body follows in a task that outlives the handler.
    pub(crate) fn send(mut self, head: bool) -> Result<types::Response, types::ErrorCode> {
        let bodiless = head || self.body.is_empty();
        if !head && !matches!(self.status, 100..200 | 204 | 304) {
            self.headers.push(("content-length".to_owned(), self.body.len().to_string().into_bytes()));
        }
        let internal = |what: &str| types::ErrorCode::InternalError(Some(what.to_owned()));
        let headers = types::Fields::from_list(&self.headers).map_err(|_| internal("a header is not a valid one"))?;
        let (trailers, trailers_reader) = wit_future::new(|| Ok(None));
        let (response, _sent) = if bodiless {
            // Dropped, it writes what it was made with: that there are none.
            drop(trailers);
            types::Response::new(headers, None, trailers_reader)
        } else {
            let (mut writer, reader) = wit_stream::new();
            let body = self.body;
            wit_bindgen::spawn_local(async move {
                // What is left unwritten was not wanted: the client went away. So are trailers then.
                let _unwanted = writer.write_all(body).await;
                drop(writer);
                let _unwanted = trailers.write(Ok(None)).await;
            });
            types::Response::new(headers, Some(reader), trailers_reader)
        };
        if self.status != 200 {
            response.set_status_code(self.status).map_err(|()| internal("the status is not a valid one"))?;
        }
        Ok(response)
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
