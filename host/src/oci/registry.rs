//! Requests to one registry, as the [distribution specification](https://github.com/opencontainers/distribution-spec) has
//! them.

use super::{
    LARGEST_COMPONENT,
    challenge::Challenge,
    credentials::{Credentials, docker_folder},
    reference::{Reference, is_loopback},
};
use crate::{
    outbound::{Authorities, AuthoritiesError, HttpClient},
    service::Body,
};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{AUTHORIZATION, LOCATION, USER_AGENT, WWW_AUTHENTICATE},
};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;
use std::{path::PathBuf, time::Duration};
use tokio::time::timeout;

/// A registry that says nothing for this long is away.
const SILENCE: Duration = Duration::from_secs(20);
/// No transfer takes longer.
pub(super) const LONGEST_TRANSFER: Duration = Duration::from_secs(15 * 60);
/// How often an answer may be that it is elsewhere.
const MOST_REDIRECTS: usize = 5;
/// The largest answer that is no component.
pub(super) const LARGEST_ANSWER: u64 = 4 << 20;
/// As much of what a registry says as is shown.
const LONGEST_SAYING: usize = 200;
/// Where Docker looks for the certificates of registries when the user has none.
const SYSTEM: &str = "/etc/docker";

/// Why a registry did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// It can't be reached, is silent, or has troubles of its own.
    #[error("the registry {registry} is away: {reason}")]
    Away {
        /// Its host.
        registry: String,
        /// What makes it so.
        reason: String,
    },
    /// It does not do it for whoever one is.
    #[error("the registry {registry} does not permit it{said}: {advice}")]
    Denied {
        /// Its host.
        registry: String,
        /// What it says, in parentheses, or nothing.
        said: String,
        /// What can be done.
        advice: String,
    },
    /// It has no such thing.
    #[error("the registry {registry} has no such component{said}")]
    NotFound {
        /// Its host.
        registry: String,
        /// What it says, in parentheses, or nothing.
        said: String,
    },
    /// It says no for another reason.
    #[error("the registry {registry} refuses it with {status}{said}")]
    Refused {
        /// Its host.
        registry: String,
        /// The status of the answer.
        status: StatusCode,
        /// What it says, in parentheses, or nothing.
        said: String,
    },
    /// What it says makes no sense.
    #[error("the registry {registry} answers what none should: {problem}")]
    Nonsense {
        /// Its host.
        registry: String,
        /// What is wrong.
        problem: String,
    },
    /// The certificates for it can't be read.
    #[error(transparent)]
    Certificates(#[from] AuthoritiesError),
}

/// A registry, as one client talks to it about one repository.
pub(super) struct Registry<'a> {
    client: HttpClient,
    credentials: &'a Credentials,
    /// As it is called in references.
    name: String,
    /// The URL of the repository.
    base: String,
    origin: Origin,
    /// What shows who one is, once the registry has asked for it.
    authorization: Option<HeaderValue>,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    scheme: String,
    authority: String,
}

/// What one request is.
pub(super) struct Asking<'a> {
    pub(super) method: Method,
    /// A path below the repository, or a URL that the registry has given.
    pub(super) target: &'a str,
    pub(super) header: Option<(HeaderName, &'a str)>,
    pub(super) body: Bytes,
}

/// An answer that may be large, piece by piece.
pub(super) struct Pieces<'a> {
    registry: &'a str,
    body: Incoming,
    left: u64,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

#[derive(Deserialize)]
struct Errors {
    #[serde(default)]
    errors: Vec<OneError>,
}

#[derive(Deserialize)]
struct OneError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

// === impl Registry ===

impl<'a> Registry<'a> {
    /// The registry of `reference`. Nothing is asked yet.
    pub(super) fn new(
        client: &HttpClient,
        credentials: &'a Credentials,
        reference: &Reference,
    ) -> Result<Self, RegistryError> {
        let certificate = certificate(&reference.registry);
        let base = reference.api(certificate.is_some());
        let client = match certificate {
            Some(file) => client.trusting(Authorities::read(&file)?),
            None => client.clone(),
        };
        let name = reference.registry.clone();
        // A reference holds what makes a URL.
        let origin = base.parse().ok().and_then(|uri| Origin::of(&uri)).ok_or_else(|| RegistryError::Nonsense {
            registry: name.clone(),
            problem: "its name makes no URL".into(),
        })?;
        Ok(Self { client, credentials, name, base, origin, authorization: None })
    }

    /// Sends a request, shows who one is where that is wanted, and goes where a `GET` is sent on to.
    ///
    /// The answer is one of success, or to `HEAD` any.
    pub(super) async fn ask(&mut self, asking: Asking<'_>) -> Result<Response<Incoming>, RegistryError> {
        let mut url = self.resolve(&self.base, asking.target)?;
        let (mut redirects, mut shown) = (0, false);
        loop {
            let response = self.send(&asking, &url).await?;
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED && !shown && Origin::of(&url).as_ref() == Some(&self.origin) {
                shown = true;
                if self.authorize(response.headers()).await? {
                    continue;
                }
            }
            let safe = asking.method == Method::GET || asking.method == Method::HEAD;
            if status.is_redirection() && safe {
                redirects += 1;
                if redirects > MOST_REDIRECTS {
                    return Err(self.nonsense(format!("it sends on more than {MOST_REDIRECTS} times")));
                }
                let location = location(&response).ok_or_else(|| self.nonsense("it sends on to nowhere"))?;
                url = self.resolve(&url.to_string(), &location)?;
                continue;
            }
            if status.is_success() || asking.method == Method::HEAD {
                return Ok(response);
            }
            return Err(self.refusal(response).await);
        }
    }

    /// An answer that is small, whole, with its headers.
    pub(super) async fn ask_small(&mut self, asking: Asking<'_>) -> Result<(HeaderMap, Bytes), RegistryError> {
        let response = self.ask(asking).await?;
        let headers = response.headers().clone();
        Ok((headers, whole(&self.name, response).await?))
    }

    /// The pieces of an answer, which has `size` bytes or is none.
    pub(super) fn pieces(&self, response: Response<Incoming>, size: u64) -> Pieces<'_> {
        Pieces { registry: &self.name, body: response.into_body(), left: size.min(LARGEST_COMPONENT) }
    }

    pub(super) fn nonsense(&self, problem: impl Into<String>) -> RegistryError {
        RegistryError::Nonsense { registry: self.name.clone(), problem: problem.into() }
    }

    async fn send(&self, asking: &Asking<'_>, url: &Uri) -> Result<Response<Incoming>, RegistryError> {
        let mut request = Request::builder().method(&asking.method).uri(url);
        request = request.header(USER_AGENT, concat!("wharf/", env!("CARGO_PKG_VERSION")));
        if let Some((name, value)) = &asking.header {
            request = request.header(name, *value);
        }
        // Whoever else the registry names must not learn who one is to it.
        if let Some(authorization) = &self.authorization
            && Origin::of(url).as_ref() == Some(&self.origin)
        {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request =
            request.body(Body::complete(asking.body.clone())).map_err(|error| self.nonsense(error.to_string()))?;
        // While much is on its way there, nothing comes back.
        let patience = if asking.body.len() as u64 > LARGEST_ANSWER { LONGEST_TRANSFER } else { SILENCE };
        answer(&self.client, &self.name, request, patience).await
    }

    /// Finds what shows who one is, as the registry wants it. `false` if there is nothing that would help.
    async fn authorize(&mut self, headers: &HeaderMap) -> Result<bool, RegistryError> {
        let values = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let mut challenges: Vec<_> = values.filter_map(Challenge::parse).collect();
        // A token opens one repository, a password all of them.
        challenges.sort_by_key(|challenge| *challenge == Challenge::Basic);
        let login = self.credentials.of(&self.name).and_then(|login| login.header());
        self.authorization = match challenges.into_iter().next() {
            Some(Challenge::Bearer { realm, service, scope }) => {
                Some(self.token(&realm, service.as_deref(), scope.as_deref(), login).await?)
            }
            Some(Challenge::Basic) => login,
            None => None,
        };
        Ok(self.authorization.is_some())
    }

    /// Gets a token, in the name of `login` or of nobody.
    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
        login: Option<HeaderValue>,
    ) -> Result<HeaderValue, RegistryError> {
        let mut url = realm.to_owned();
        for (name, value) in [("service", service), ("scope", scope)] {
            let Some(value) = value else { continue };
            url.push(if url.contains('?') { '&' } else { '?' });
            url += &format!("{name}={}", encoded(value));
        }
        let url = self.resolve("", &url)?;
        let mut request = Request::get(&url).header(USER_AGENT, concat!("wharf/", env!("CARGO_PKG_VERSION")));
        if let Some(login) = login {
            request = request.header(AUTHORIZATION, login);
        }
        let request = request.body(Body::empty()).map_err(|error| self.nonsense(error.to_string()))?;
        let response = answer(&self.client, &self.name, request, SILENCE).await?;
        if !response.status().is_success() {
            return Err(self.refusal(response).await);
        }
        let body = whole(&self.name, response).await?;
        let token: Option<Token> = serde_json::from_slice(&body).ok();
        let token = token.and_then(|it| it.token.or(it.access_token)).filter(|token| !token.is_empty());
        let header = token.and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok());
        let mut header = header.ok_or_else(|| self.nonsense(format!("{} gives no token", realm.escape_debug())))?;
        header.set_sensitive(true);
        Ok(header)
    }

    /// What is at `target`, seen from `from`. Only a registry on this machine may name others without TLS, and those on
    /// this machine only.
    fn resolve(&self, from: &str, target: &str) -> Result<Uri, RegistryError> {
        let shown = || target.chars().take(LONGEST_SAYING).collect::<String>().escape_debug().to_string();
        let wrong = || self.nonsense(format!("`{}` is not where a request can go", shown()));
        let origin = from.parse().ok().as_ref().and_then(Origin::of);
        let url = match origin {
            _ if target.starts_with("https://") || target.starts_with("http://") => target.to_owned(),
            Some(Origin { scheme, authority }) if target.starts_with('/') => format!("{scheme}://{authority}{target}"),
            _ => format!("{from}/{target}"),
        };
        let url: Uri = url.parse().map_err(|_| wrong())?;
        let origin = Origin::of(&url).ok_or_else(wrong)?;
        match origin.scheme.as_str() {
            "https" => Ok(url),
            "http" if self.origin.scheme == "http" && is_loopback(&origin.authority) => Ok(url),
            _ => Err(self.nonsense(format!("it sends on to `{}`, which is not spoken to by TLS", shown()))),
        }
    }

    /// What an answer that is no success means.
    async fn refusal(&self, response: Response<Incoming>) -> RegistryError {
        let (registry, status) = (self.name.clone(), response.status());
        let body = whole(&self.name, response).await.unwrap_or_default();
        let said = said(&body);
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let advice = self.credentials.advice(&registry);
                RegistryError::Denied { registry, said, advice }
            }
            StatusCode::NOT_FOUND => RegistryError::NotFound { registry, said },
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                RegistryError::Away { registry, reason: format!("it answers {status}{said}") }
            }
            status => RegistryError::Refused { registry, status, said },
        }
    }
}

async fn answer(
    client: &HttpClient,
    registry: &str,
    request: Request<Body>,
    patience: Duration,
) -> Result<Response<Incoming>, RegistryError> {
    let away = |reason| RegistryError::Away { registry: registry.to_owned(), reason };
    match timeout(patience, client.send(request)).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(no_answer)) => Err(away(no_answer.message)),
        Err(_) => Err(away(format!("it says nothing for {} seconds", patience.as_secs()))),
    }
}

async fn whole(registry: &str, response: Response<Incoming>) -> Result<Bytes, RegistryError> {
    let mut pieces = Pieces { registry, body: response.into_body(), left: LARGEST_ANSWER };
    let mut all = Vec::new();
    while let Some(piece) = pieces.next().await? {
        all.extend_from_slice(&piece);
    }
    Ok(all.into())
}

/// What a registry says of an error, in parentheses.
fn said(body: &[u8]) -> String {
    let errors = serde_json::from_slice(body).map(|it: Errors| it.errors).unwrap_or_default();
    let Some(OneError { code, message }) = errors.into_iter().next() else { return String::new() };
    let text = if message.is_empty() { code } else { message };
    let text: String = text.chars().take(LONGEST_SAYING).collect();
    if text.is_empty() { text } else { format!(" (it says: {})", text.escape_debug()) }
}

/// The file of the authorities that this registry's certificate must be from, where there is one.
fn certificate(registry: &str) -> Option<PathBuf> {
    let folders = docker_folder().into_iter().chain([PathBuf::from(SYSTEM)]);
    folders.map(|folder| folder.join("certs.d").join(registry).join("ca.crt")).find(|file| file.is_file())
}

/// Where an answer sends on to.
pub(super) fn location(response: &Response<Incoming>) -> Option<String> {
    Some(response.headers().get(LOCATION)?.to_str().ok()?.to_owned())
}

/// As a part of a query.
pub(super) fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'.' | b'_' | b'~' | b':' | b'/' | b',' => {
            char::from(byte).to_string()
        }
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

// === impl Origin ===

impl Origin {
    fn of(url: &Uri) -> Option<Self> {
        Some(Self { scheme: url.scheme_str()?.to_owned(), authority: url.authority()?.as_str().to_ascii_lowercase() })
    }
}

// === impl Asking ===

impl<'a> Asking<'a> {
    pub(super) fn new(method: Method, target: &'a str) -> Self {
        Self { method, target, header: None, body: Bytes::new() }
    }
}

// === impl Pieces ===

impl Pieces<'_> {
    /// The next piece; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        let registry = || self.registry.to_owned();
        let away = |reason: String| RegistryError::Away { registry: registry(), reason };
        loop {
            match timeout(SILENCE, self.body.frame()).await {
                Err(_) => return Err(away(format!("it says nothing for {} seconds", SILENCE.as_secs()))),
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => return Err(away(format!("the connection broke: {error}"))),
                Ok(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else { continue };
                    self.left = self.left.checked_sub(data.len() as u64).ok_or_else(|| RegistryError::Nonsense {
                        registry: registry(),
                        problem: "it sends more than it should".into(),
                    })?;
                    return Ok(Some(data));
                }
            }
        }
    }
}
