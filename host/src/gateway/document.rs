//! The OpenAPI document of what is behind the gateway, served by the gateway itself.
//!
//! It is a file that people write. What is looked at here is what would mislead its readers if it were wrong: that it is an
//! OpenAPI 3.1 document at all, and that each operation in it is routed. What requests and answers look like is the
//! services' to keep.

use crate::service::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use serde::{Deserialize, de::IgnoredAny};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, Read},
    path::Path,
};

/// The longest document.
const MAX_LENGTH: u64 = 4 << 20;
/// Stands for a parameter where it is asked whether a path is routed.
const SOME: &str = "x";

/// An OpenAPI document, ready to be served.
#[derive(Clone)]
pub struct ApiDocument {
    bytes: Bytes,
    etag: HeaderValue,
    operations: Vec<Operation>,
}

/// One operation of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Its method.
    pub method: Method,
    /// Its path as the document has it.
    pub path: String,
    /// A path that it matches, with what the document's server puts before it.
    pub(super) sample: String,
}

/// Why a file is no document.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It can't be read.
    #[error("the document can't be read: {0}")]
    Unreadable(#[from] io::Error),
    /// It is too long.
    #[error("the document is longer than {} MiB", MAX_LENGTH >> 20)]
    TooLong,
    /// It is no JSON, or not of the shape of an OpenAPI document.
    #[error("expected an OpenAPI document in JSON: {0}")]
    NoDocument(#[from] serde_json::Error),
    /// It is of another version.
    #[error("expected an OpenAPI document with `\"openapi\": \"3.1.x\"`, found {found}")]
    OtherVersion {
        /// What it says.
        found: String,
    },
    /// A path in it is none.
    #[error("`{0}` in the document's paths is no path: it starts with `/`, and its braces match")]
    NoPath(String),
}

/// What of it is looked at.
#[derive(Deserialize)]
struct Shape {
    openapi: serde_json::Value,
    #[serde(default)]
    servers: Vec<Server>,
    #[serde(default)]
    paths: BTreeMap<String, BTreeMap<String, IgnoredAny>>,
}

#[derive(Deserialize)]
struct Server {
    url: String,
}

// === impl ApiDocument ===

impl ApiDocument {
    /// Reads the document in a file.
    ///
    /// # Errors
    /// When it can't be read, or is none.
    pub fn read(path: &Path) -> Result<Self, DocumentError> {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_LENGTH + 1).read_to_end(&mut bytes)?;
        Self::new(bytes)
    }

    /// The document in these bytes.
    ///
    /// # Errors
    /// When it is none.
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, DocumentError> {
        let bytes = bytes.into();
        if bytes.len() as u64 > MAX_LENGTH {
            return Err(DocumentError::TooLong);
        }
        let Shape { openapi, servers, paths } = serde_json::from_slice(&bytes)?;
        if !openapi.as_str().is_some_and(|version| version.starts_with("3.1.")) {
            let found: String = openapi.to_string().chars().take(40).flat_map(char::escape_debug).collect();
            return Err(DocumentError::OtherVersion { found: format!("`{found}`") });
        }
        let base = servers.first().map_or("", |server| server.path());
        let mut operations = Vec::new();
        for (path, item) in paths {
            let sample = sample(base, &path).ok_or_else(|| DocumentError::NoPath(path.escape_debug().to_string()))?;
            // Beside methods there are parameters, summaries and extensions.
            let methods = [
                Method::GET,
                Method::PUT,
                Method::POST,
                Method::DELETE,
                Method::OPTIONS,
                Method::HEAD,
                Method::PATCH,
                Method::TRACE,
            ];
            let has = |method: &Method| item.contains_key(&method.as_str().to_ascii_lowercase());
            let of_path = methods.into_iter().filter(has);
            operations.extend(of_path.map(|method| Operation { method, path: path.clone(), sample: sample.clone() }));
        }
        let hash: String = format!("{:x}", Sha256::digest(&bytes)).chars().take(32).collect();
        // Digits and quotes are a valid value.
        let etag = HeaderValue::try_from(format!("\"{hash}\"")).unwrap_or(HeaderValue::from_static("\"\""));
        Ok(Self { bytes, etag, operations })
    }

    /// What it describes.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// The answer to a request with these headers.
    pub(super) fn answer(&self, headers: &HeaderMap) -> Response<Body> {
        let is_known = headers.get_all(header::IF_NONE_MATCH).iter().any(|value| self.is_in(value));
        let mut response = if is_known {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        } else {
            let mut response = Response::new(Body::complete(self.bytes.clone()));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        };
        response.headers_mut().insert(header::ETAG, self.etag.clone());
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    }

    /// Whether it is among the entity tags of an `If-None-Match`, which compares weakly (RFC 9110, 13.1.2).
    fn is_in(&self, tags: &HeaderValue) -> bool {
        // What it is made of here has no comma in it.
        let mut tags = tags.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        tags.any(|tag| tag == b"*" || tag.strip_prefix(b"W/").unwrap_or(tag) == self.etag.as_bytes())
    }
}

impl PartialEq for ApiDocument {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl fmt::Debug for ApiDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ApiDocument").field(&self.etag).finish()
    }
}

/// A path that a path of a document matches.
fn sample(base: &str, path: &str) -> Option<String> {
    let mut sample = base.to_owned();
    let mut rest = path.starts_with('/').then_some(path)?;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}')?;
        if name.is_empty() || name.contains(['{', '/']) || before.contains('}') {
            return None;
        }
        sample.push_str(before);
        sample.push_str(SOME);
        rest = after;
    }
    if rest.contains('}') {
        return None;
    }
    sample.push_str(rest);
    Some(sample)
}

// === impl Server ===

impl Server {
    /// What it puts before each path.
    fn path(&self) -> &str {
        let path = match self.url.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("", |at| &rest[at..]),
            None => &self.url,
        };
        path.trim_end_matches('/')
    }
}

// === impl Operation ===

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{} {}`", self.method, self.path.escape_debug())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ApiDocument, String> {
        ApiDocument::new(text.to_owned()).map_err(|error| error.to_string())
    }

    fn samples(servers: &str) -> Vec<String> {
        let text = format!(
            r#"{{"openapi": "3.1.1", "servers": [{servers}], "paths": {{
                "/a/{{id}}/b": {{"parameters": [], "get": {{}}, "post": {{}}, "x-more": 1}}, "/": {{"head": {{}}}}}}}}"#
        );
        let document = read(&text).expect("it is one");
        document.operations().iter().map(|it| format!("{} {}", it.method, it.sample)).collect()
    }

    #[test]
    fn operations_are_those_of_the_paths_behind_what_the_server_has() {
        for (servers, base) in [
            ("", ""),
            (r#"{"url": "/"}"#, ""),
            (r#"{"url": "/api"}, {"url": "/other"}"#, "/api"),
            (r#"{"url": "https://example.com/api/"}"#, "/api"),
            (r#"{"url": "https://example.com"}"#, ""),
        ] {
            let expected = [format!("HEAD {base}/"), format!("GET {base}/a/x/b"), format!("POST {base}/a/x/b")];
            assert_eq!(samples(servers), expected, "{servers}");
        }
    }

    #[test]
    fn what_is_no_document_is_refused() {
        for (text, expected) in [
            ("", "expected an OpenAPI document in JSON: EOF"),
            ("[]", "expected an OpenAPI document in JSON: invalid"),
            ("{}", "expected an OpenAPI document in JSON: missing field `openapi`"),
            (r#"{"openapi": "3.0.3"}"#, "expected an OpenAPI document with `\"openapi\": \"3.1.x\"`, found `\\\"3.0.3"),
            (r#"{"openapi": 3.1}"#, "expected an OpenAPI document with `\"openapi\": \"3.1.x\"`, found `3.1`"),
            (r#"{"openapi": "3.1.0", "paths": []}"#, "expected an OpenAPI document in JSON: invalid type"),
            (r#"{"openapi": "3.1.0", "paths": {"a": {}}}"#, "`a` in the document's paths is no path"),
            (r#"{"openapi": "3.1.0", "paths": {"/{a": {}}}"#, "`/{a` in the document's paths is no path"),
            (r#"{"openapi": "3.1.0", "paths": {"/a}": {}}}"#, "`/a}` in the document's paths is no path"),
        ] {
            let told = read(text).expect_err(text);
            assert!(told.starts_with(expected), "{text}: {told}");
        }
        assert!(matches!(ApiDocument::new(vec![b' '; (4 << 20) + 1]), Err(DocumentError::TooLong)));
        assert!(matches!(ApiDocument::read(Path::new("/nowhere/at/all")), Err(DocumentError::Unreadable(_))));
        assert!(read(r#"{"openapi": "3.1.0"}"#).is_ok_and(|document| document.operations().is_empty()));
    }

    #[test]
    fn who_has_it_need_not_get_it_again() {
        let document = read(r#"{"openapi": "3.1.0"}"#).expect("it is one");
        let etag = document.etag.to_str().expect("it is text").to_owned();
        for (sent, status) in [
            (None, 200),
            (Some(etag.clone()), 304),
            (Some(format!("W/{etag}")), 304),
            (Some(format!("\"a\" , {etag}")), 304),
            (Some("*".into()), 304),
            (Some("\"a\"".into()), 200),
            (Some(etag.trim_matches('"').into()), 200),
        ] {
            let mut headers = HeaderMap::new();
            headers.extend(sent.iter().map(|sent| (header::IF_NONE_MATCH, sent.parse().expect("a value"))));
            let answer = document.answer(&headers);
            assert_eq!(
                (answer.status().as_u16(), &answer.headers()[header::ETAG]),
                (status, &document.etag),
                "{sent:?}"
            );
            assert_eq!(answer.headers().contains_key(header::CONTENT_TYPE), status == 200);
        }
        assert_ne!(document.etag, read(r#"{"openapi": "3.1.1"}"#).expect("it is one").etag);
    }
}
