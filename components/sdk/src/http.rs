//! Requests to others: neighbours by their names (`http://user.internal/users/1`) and the origins that the manifest
//! allows. Deadline, retries and circuit breaker are the platform's.

use crate::{
    Method,
    bindings::{
        wasi::http::{client, types},
        wit_future, wit_stream,
    },
    json,
};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt;
use wit_bindgen::{StreamReader, StreamResult};

/// How much of a reply's body is taken, in bytes.
pub const REPLY_LIMIT: usize = 1024 * 1024;

/// A request to another service, in the making.
#[derive(Debug, Clone)]
pub struct Call {
    method: Method,
    url: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

/// What it answered.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, Clone)]
pub enum SendError {
    /// The URL or a header is not one.
    Invalid(String),
    /// The platform could not get an answer.
    Failed(String),
    /// The answer is larger than [`REPLY_LIMIT`] or not the JSON expected.
    Unusable(String),
}

/// Asks for this URL.
///
/// # Errors
/// Where no answer came; an answer with an error status is an answer.
pub async fn get(url: impl Into<String>) -> Result<Reply, SendError> {
    Call::new(Method::Get, url).send().await
}

/// Posts a value as JSON.
///
/// # Errors
/// As [`get`].
pub async fn post<T: Serialize + ?Sized>(url: impl Into<String>, body: &T) -> Result<Reply, SendError> {
    Call::new(Method::Post, url).json(body)?.send().await
}

// === impl Call ===

impl Call {
    /// A request without headers or body.
    pub fn new(method: Method, url: impl Into<String>) -> Self {
        Self { method, url: url.into(), headers: Vec::new(), body: Vec::new() }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets the body to a value as JSON.
    ///
    /// # Errors
    /// Where the value cannot be written as JSON.
    pub fn json<T: Serialize + ?Sized>(self, value: &T) -> Result<Self, SendError> {
        let body = json::to_vec(value).map_err(|error| SendError::Invalid(error.to_string()))?;
        Ok(self.header("content-type", "application/json").body(body))
    }

    /// Sends it and takes the whole answer.
    ///
    /// # Errors
    /// Where no answer came.
    pub async fn send(mut self) -> Result<Reply, SendError> {
        let (scheme, authority, target) = split(&self.url)?;
        self.headers.push(("content-length".to_owned(), self.body.len().to_string().into_bytes()));
        let headers =
            types::Fields::from_list(&self.headers).map_err(|error| SendError::Invalid(format!("headers: {error}")))?;
        let (trailers, trailers_reader) = wit_future::new(|| Ok(None));
        let (writer, contents) = if self.body.is_empty() {
            (None, None)
        } else {
            let (writer, reader) = wit_stream::new();
            (Some(writer), Some(reader))
        };
        let (request, _sent) = types::Request::new(headers, contents, trailers_reader, None);
        let invalid = |()| SendError::Invalid(format!("not a URL that can be asked: {}", self.url));
        request.set_method(&self.method.into()).map_err(invalid)?;
        request.set_scheme(Some(&scheme)).map_err(invalid)?;
        request.set_authority(Some(authority)).map_err(invalid)?;
        request.set_path_with_query(Some(target)).map_err(invalid)?;
        drop(trailers);
        if let Some(mut writer) = writer {
            let body = std::mem::take(&mut self.body);
            wit_bindgen::spawn_local(async move {
                // What is left unwritten was not wanted; the answer tells why.
                let _unwanted = writer.write_all(body).await;
            });
        }
        let failed = |error: types::ErrorCode| SendError::Failed(format!("{authority}: {error:?}"));
        let response = client::send(request).await.map_err(failed)?;
        let status = response.get_status_code();
        let (result, result_reader) = wit_future::new(|| Ok(()));
        drop(result);
        let (stream, trailers) = types::Response::consume_body(response, result_reader);
        let body = read_body(stream, REPLY_LIMIT)
            .await
            .ok_or_else(|| SendError::Unusable(format!("{authority}: the answer exceeds {REPLY_LIMIT} bytes")))?;
        trailers.await.map_err(failed)?;
        Ok(Reply { status, body })
    }
}

/// Reads a stream to its end, `limit` bytes at most; `None` where there is more.
async fn read_body(mut stream: StreamReader<u8>, limit: usize) -> Option<Vec<u8>> {
    let mut body = Vec::with_capacity(2048);
    loop {
        if body.len() == body.capacity() {
            body.reserve(body.len());
        }
        let result;
        (result, body) = stream.read(body).await;
        if body.len() > limit {
            return None;
        }
        match result {
            StreamResult::Complete(_) => {}
            StreamResult::Dropped | StreamResult::Cancelled => return Some(body),
        }
    }
}

/// Scheme, authority and target of a URL.
fn split(url: &str) -> Result<(types::Scheme, &str, &str), SendError> {
    let invalid = || SendError::Invalid(format!("not a http or https URL: {url}"));
    let (scheme, rest) = match url.split_once("://").ok_or_else(invalid)? {
        ("http", rest) => (types::Scheme::Http, rest),
        ("https", rest) => (types::Scheme::Https, rest),
        _ => return Err(invalid()),
    };
    let rest = rest.split('#').next().unwrap_or(rest);
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    if authority.is_empty() {
        return Err(invalid());
    }
    Ok((scheme, authority, if target.is_empty() { "/" } else { target }))
}

// === impl Reply ===

impl Reply {
    /// The body as a `T`.
    ///
    /// # Errors
    /// Where it is not the JSON of one.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, SendError> {
        serde_json::from_slice(&self.body).map_err(|error| SendError::Unusable(error.to_string()))
    }
}

// === impl SendError ===

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(text) | Self::Failed(text) | Self::Unusable(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for SendError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_split_into_what_the_component_model_wants() {
        let parts =
            |url| split(url).map(|(scheme, authority, target)| (scheme == types::Scheme::Https, authority, target));
        assert_eq!(parts("http://user.internal/users/1?x=y").unwrap(), (false, "user.internal", "/users/1?x=y"));
        assert_eq!(parts("https://example.com#top").unwrap(), (true, "example.com", "/"));
        for wrong in ["user.internal/users", "ftp://x/", "http:///x", ""] {
            assert!(parts(wrong).is_err(), "{wrong}");
        }
    }
}
