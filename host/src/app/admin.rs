//! The admin API: what an operator sees of a running host, and what he does with it.
//!
//! HTTP with JSON, on a Unix socket that only the host's own user can open, or on a loopback address with a token. Never
//! open to anybody else: whoever reaches it can replace code.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | [`Status`](super::Status) |
//! | `POST /v1/services/{service}/revisions` with the component as its body, and perhaps `x-rollout: {"stages": […]}` ([`RolloutOrder`]) | the revision that now runs, or is on its way: [`Deployment`](crate::rollout::Deployment) |
//! | `POST /v1/services/{service}/diff` with a component as its body | what it would change, and what would not fit: [`ServiceDiff`] |
//! | `GET /v1/services/{service}/rollout` | the staged rollout that is under way, or was the last: [`RolloutSnapshot`](crate::rollout::RolloutSnapshot) |
//! | `POST /v1/services/{service}/rollout` with `{"command": "promote"}` or `{"command": "undo"}` | the same |
//! | `GET /v1/services/{service}/revisions` | the last revisions: [`Revisions`](crate::rollout::Revisions) |
//! | `POST /v1/services/{service}/rollback` with `{"revision": 3, "force": false}`, both optional | the revision that now runs: [`Deployment`](crate::rollout::Deployment) |
//! | `POST /v1/breakers` with `{"edge": "order -> user", "command": "force-open"}` | the edge as it is then |
//! | `POST /v1/breakers` with `{"endpoint": "payment at http://10.0.0.1:8080", "command": "force-open"}` | the endpoint as it is then |
//! | `POST /v1/plan` with `{"manifest": "/srv/wharf.toml", "components": {"order": "/srv/order.wasm"}}` | what bringing the changed manifest about comes to ([`Plan`](super::Plan)) |
//! | `POST /v1/apply` with the same, and perhaps `"plan": "…"`, the plan's `id`, and `"force": true` | brings it about: [`Plan`](super::Plan); 409 where it is another one by now |
//! | `POST /v1/reload` | brings about what takes no other component and no other set of services: [`Plan`](super::Plan) |
//! | `POST /v1/hold` | an answer that ends after an hour, and until then, or until its connection does, the watch does not deploy what is built from sources |
//! | `GET /v1/events/dead-letters?topic=&service=&after=&limit=`, all of them optional | the oldest dead letters after a letter, without their payloads: [`Letters`] |
//! | `GET /v1/events/dead-letters/{letter}` | one with its event: [`WholeLetter`] |
//! | `POST /v1/events/dead-letters/replay` with `{"letters": ["17"]}`, or `{"all": true}` and perhaps `topic` and `service` | delivers them once more: [`Handled`] |
//! | `POST /v1/events/dead-letters/drop` with the same | forgets them: [`Handled`] |
//! | `POST /v1/events/replay` with `{"topic": "order.created", "service": "mail", "from": "2026-11-24T00:00:00Z"}`, or `offset` in place of `from` | delivers the past of a topic to one subscription once more: [`Handled`] |
//! | `GET /v1/sagas?service=&saga=&status=&after=&limit=`, all of them optional | sagas, the newest first: [`SagaList`] |
//! | `POST /v1/sagas/show` with `{"id": "17"}`, and perhaps `service` and `saga` ([`SagaOrder`]) | one with its steps: [`View`](crate::saga::View) |
//! | `POST /v1/sagas/start` with `{"service": "checkout", "saga": "checkout", "id": "17", "input": {…}}` ([`NewSaga`]) | starts one: the same |
//! | `POST /v1/sagas/retry` with a [`SagaOrder`] | makes its next try now: the same |
//! | `POST /v1/sagas/compensate` with the same, and perhaps `"skip": "refund"` | has it compensated: the same |

mod audited;
mod events;
mod revisions;
mod rollouts;
mod sagas;

pub use events::{Handled, Letter, Letters, WholeLetter};
pub use rollouts::{ROLLOUT, RolloutCommand, RolloutOrder, ServiceDiff, StageOrder};
pub use sagas::{NewSaga, SagaList, SagaOrder};

use super::{
    App, ApplyError, CommandError, Components, Plan, Request,
    assemble::refusal,
    audit::{Came, Who},
    hold::Hold,
};
use crate::{
    manifest::{Manifest, Secret},
    policy::BreakerCommand,
    rollout::{DeployError, Deployment, Past},
    service::Body,
};
use arc_swap::ArcSwap;
use audited::{Noted, noting_order};
use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::{
    Method, Request as HttpRequest, Response, StatusCode,
    body::{Frame, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener, UnixStream},
};

/// The largest component that can be deployed.
const LARGEST_COMPONENT: usize = 256 << 20;
/// The largest request that is no component.
const LARGEST_ORDER: usize = 1 << 20;
/// How long a client may take for the head of its request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the watch of component files can be held in one go: for a build of all there is, and a question to a person.
const LONGEST_HOLD: Duration = Duration::from_secs(60 * 60);

/// Where the admin API listens.
#[derive(Clone, Debug)]
pub enum AdminAddress {
    /// A Unix socket: the file system says who may.
    Socket(PathBuf),
    /// A loopback address, and the token that each request must carry as `Authorization: Bearer …`.
    Loopback(SocketAddr, Token),
}

/// A secret that is never shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token(Secret);

/// The token of a running host, which may become another.
pub(super) type SharedToken = Arc<ArcSwap<Token>>;

/// The API, bound and not yet served.
pub struct Admin {
    listener: Listener,
    token: Option<SharedToken>,
}

enum Listener {
    Socket(UnixListener, PathBuf),
    Loopback(TcpListener),
}

/// Why the admin API can't listen.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Another host has this socket.
    #[error("another host runs with the admin socket {}: stop it, or give this one its own `app.data` folder", .0.display())]
    Taken(PathBuf),
    /// The socket or address can't be used.
    #[error("the admin API can't listen on {address}: {source}")]
    Listen {
        /// Where it was to listen.
        address: String,
        /// What the operating system said.
        source: io::Error,
    },
}

// === impl Token ===

impl Token {
    /// A token with this text.
    pub fn new(text: Secret) -> Self {
        Self(text)
    }

    /// The value of the header that carries it.
    pub fn bearer(&self) -> String {
        format!("Bearer {}", self.0.expose())
    }

    /// Compares in a time that says nothing about where they differ.
    fn admits(&self, header: Option<&HeaderValue>) -> bool {
        let given =
            header.map(HeaderValue::as_bytes).and_then(|value| value.strip_prefix(b"Bearer ")).unwrap_or_default();
        let expected = self.0.expose().as_bytes();
        let differing = given.iter().zip(expected).fold(0, |sum, (a, b)| sum | (a ^ b));
        given.len() == expected.len() && differing == 0
    }
}

// === impl Admin ===

impl Admin {
    /// Starts to listen. A socket that a dead host left behind is replaced; one that a living host listens on is not.
    ///
    /// # Errors
    ///
    /// [`AdminError`] with the address.
    pub async fn bind(address: &AdminAddress) -> Result<Self, AdminError> {
        match address {
            AdminAddress::Socket(path) => {
                if UnixStream::connect(path).await.is_ok() {
                    return Err(AdminError::Taken(path.clone()));
                }
                let listener = bind_socket(path)
                    .map_err(|source| AdminError::Listen { address: path.display().to_string(), source })?;
                Ok(Self { listener: Listener::Socket(listener, path.clone()), token: None })
            }
            AdminAddress::Loopback(address, token) => {
                let listener = TcpListener::bind(address).await;
                let listener =
                    listener.map_err(|source| AdminError::Listen { address: address.to_string(), source })?;
                let token = Some(Arc::new(ArcSwap::from_pointee(token.clone())));
                Ok(Self { listener: Listener::Loopback(listener), token })
            }
        }
    }

    /// What it is opened by, where it listens on an address.
    pub(super) fn token(&self) -> Option<SharedToken> {
        self.token.clone()
    }

    /// Serves until dropped.
    pub async fn serve(self, app: Arc<App>) {
        let token = self.token();
        loop {
            let accepted = match &self.listener {
                Listener::Socket(listener, _) => {
                    listener.accept().await.map(|(stream, _)| spawn(peer(&stream), stream, app.clone(), token.clone()))
                }
                Listener::Loopback(listener) => listener.accept().await.map(|(stream, from)| {
                    spawn(Who::Token { from: from.to_string() }, stream, app.clone(), token.clone());
                }),
            };
            if let Err(error) = accepted {
                // Mostly that too many files are open: others will be closed.
                tracing::warn!(%error, "the admin API could not accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Socket(_, path) = self {
            // A socket that stays behind does no harm: the next host replaces it.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn bind_socket(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Who is at the other end of the socket.
fn peer(stream: &UnixStream) -> Who {
    match stream.peer_cred() {
        Ok(peer) => Who::Socket { uid: peer.uid(), pid: peer.pid() },
        Err(error) => {
            tracing::warn!(%error, "the kernel does not say who is at the admin socket");
            Who::Socket { uid: u32::MAX, pid: None }
        }
    }
}

fn spawn<S>(who: Who, stream: S, app: Arc<App>, token: Option<SharedToken>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        let service = service_fn(move |request| {
            // What is begun is ended, also when the one who asked goes away.
            let answered = tokio::spawn(audited::answer(app.clone(), who.clone(), token.clone(), request));
            async move { Ok::<_, Infallible>(answered.await.unwrap_or_else(|panic| failed(&panic))) }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "a connection to the admin API ended early");
        }
    });
}

fn failed(panic: &tokio::task::JoinError) -> Response<Body> {
    problem(StatusCode::INTERNAL_SERVER_ERROR, &format!("the host failed at this: {panic}"))
}

async fn answer(app: &Arc<App>, request: HttpRequest<Incoming>) -> Response<Body> {
    let path: Vec<&str> = request.uri().path().split('/').skip(1).collect();
    match (request.method(), path.as_slice()) {
        (&Method::GET, ["v1", "status"]) => json(StatusCode::OK, &app.status()),
        (&Method::POST, ["v1", "services", service, "revisions"]) => {
            let service = service.to_string();
            deploy(app, &service, request).await
        }
        (&Method::POST, ["v1", "services", service, "diff"]) => {
            let service = service.to_string();
            rollouts::diff(app, &service, request).await
        }
        (&Method::GET, ["v1", "services", service, "rollout"]) => rollouts::progress(app, service),
        (&Method::POST, ["v1", "services", service, "rollout"]) => {
            let service = service.to_string();
            rollouts::command(app, &service, request).await
        }
        (&Method::GET, ["v1", "services", service, "revisions"]) => revisions::list(app, service).await,
        (&Method::POST, ["v1", "services", service, "rollback"]) => {
            let service = service.to_string();
            match order(request).await {
                Ok(body) => revisions::rollback(app, &service, &body).await,
                Err(refused) => refused,
            }
        }
        (&Method::POST, ["v1", "breakers"]) => command(app, request).await,
        (&Method::POST, ["v1", "hold"]) => hold(app),
        (&Method::POST, ["v1", "reload"]) => applied(app.apply(Request::Reload).await),
        (&Method::POST, ["v1", step @ ("plan" | "apply")]) => {
            let is_plan = *step == "plan";
            let body = match order(request).await {
                Ok(body) => body,
                Err(refused) => return refused,
            };
            match apply_order(app, &body) {
                Ok(Request::Apply { components, .. }) if is_plan => applied(app.plan(components).await),
                Ok(request) => applied(app.apply(request).await),
                Err((status, refused)) => problem(status, &refused),
            }
        }
        (method, ["v1", of @ ("events" | "sagas"), rest @ ..]) => {
            let (method, of_sagas) = (method.clone(), *of == "sagas");
            let rest = rest.iter().map(ToString::to_string).collect::<Vec<_>>();
            let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
            let query = request.uri().query().unwrap_or_default().to_string();
            let body = match order(request).await {
                Ok(body) => body,
                Err(refused) => return refused,
            };
            let answer = if of_sagas {
                sagas::answer(app, &method, &rest, &query, &body).await
            } else {
                events::answer(&app.bus, &method, &rest, &query, &body).await
            };
            noting_order(answer, &body)
        }
        (
            _,
            ["v1", "status" | "breakers" | "plan" | "apply" | "hold" | "reload"]
            | ["v1", "services", _, "revisions" | "rollback" | "rollout" | "diff"],
        ) => problem(StatusCode::METHOD_NOT_ALLOWED, "this path takes another method"),
        _ => problem(StatusCode::NOT_FOUND, "the admin API has no such path"),
    }
}

/// The watch is held for as long as somebody takes this answer.
fn hold(app: &Arc<App>) -> Response<Body> {
    let hold = Hold::new(app);
    let lease = stream::once(async move {
        tokio::time::sleep(LONGEST_HOLD).await;
        drop(hold);
        Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"\n")))
    });
    with_body(StatusCode::OK, "text/plain", Body::stream(StreamBody::new(lease)))
}

async fn deploy(app: &App, service: &str, request: HttpRequest<Incoming>) -> Response<Body> {
    if let Some(conflict) = revisions::none_of_external(app, service) {
        return conflict;
    }
    let (policy, past) = match rollouts::policy_of(app, service, &request) {
        Ok(policy) => policy,
        Err(refused) => return *refused,
    };
    let (origin, wasm) = match component(request).await {
        Ok(component) => component,
        Err(refused) => return refused,
    };
    deployment(&app.manifest(), app.rollout().deploy(service, wasm, origin, policy, past).await)
}

/// What came of a deploy or a rollback.
fn deployment(manifest: &Manifest, came: Result<Deployment, DeployError>) -> Response<Body> {
    match came {
        Ok(deployment) => {
            let mut response = json(StatusCode::OK, &deployment);
            let Deployment { revision, outcome } = deployment;
            let (revision, outcome) = (Some((revision.number, revision.hash)), Some(Came::from(outcome)));
            response.extensions_mut().insert(Noted { revision, outcome, ..Noted::default() });
            response
        }
        Err(error) => problem(revisions::status_of(&error), &refusal(manifest, &error)),
    }
}

/// What an operator wants to be brought about.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct ApplyOrder {
    manifest: Option<PathBuf>,
    components: Components,
    plan: Option<String>,
    #[serde(default)]
    force: bool,
}

fn apply_order(app: &App, body: &[u8]) -> Result<Request, (StatusCode, String)> {
    let ApplyOrder { manifest, components, plan, force } = serde_json::from_slice(body).map_err(|error| {
        let expected = r#"expected {"components": {"order": "/srv/order.wasm"}}"#;
        (StatusCode::BAD_REQUEST, format!("{expected}: {error}"))
    })?;
    let same = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let running = same(&app.manifest().path);
    match manifest {
        Some(given) if same(&given) != running => {
            Err((StatusCode::CONFLICT, ApplyError::OtherFile { running, given }.to_string()))
        }
        _ => Ok(Request::Apply { components, plan, past: Past::by(force) }),
    }
}

fn applied(applied: Result<Plan, ApplyError>) -> Response<Body> {
    match applied {
        Ok(plan) => json(StatusCode::OK, &plan),
        Err(error @ ApplyError::Stale) => problem(StatusCode::CONFLICT, &error.to_string()),
        Err(error) => problem(StatusCode::UNPROCESSABLE_ENTITY, &error.to_string()),
    }
}

/// What an operator says of a circuit breaker: that of an edge, or of an endpoint outside.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct BreakerOrder {
    edge: Option<String>,
    endpoint: Option<String>,
    command: BreakerCommand,
}

async fn command(app: &App, request: HttpRequest<Incoming>) -> Response<Body> {
    let body = match order(request).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let expected = |found: &str| {
        let expected = r#"expected {"edge": "order -> user", "command": "force-open"}, or the same of an "endpoint""#;
        problem(StatusCode::BAD_REQUEST, &format!("{expected}: {found}"))
    };
    let order: BreakerOrder = match serde_json::from_slice(&body) {
        Ok(order) => order,
        Err(error) => return expected(&error.to_string()),
    };
    let done = match (order.edge, order.endpoint) {
        (Some(edge), None) => app.command(&edge, order.command).map(|edge| json(StatusCode::OK, &edge)),
        (None, Some(endpoint)) => {
            app.command_endpoint(&endpoint, order.command).map(|endpoint| json(StatusCode::OK, &endpoint))
        }
        (Some(_), Some(_)) => return expected("found both"),
        (None, None) => return expected("found neither"),
    };
    let answer = done.unwrap_or_else(|error| {
        let status = match &error {
            CommandError::UnknownEdge { .. } | CommandError::UnknownEndpoint { .. } => StatusCode::NOT_FOUND,
            CommandError::NoBreaker(_) | CommandError::NoOutlier(_) => StatusCode::UNPROCESSABLE_ENTITY,
        };
        problem(status, &error.to_string())
    });
    noting_order(answer, &body)
}

/// A component and where it comes from.
async fn component(request: HttpRequest<Incoming>) -> Result<(String, Vec<u8>), Response<Body>> {
    let origin = request.headers().get("x-origin").and_then(|origin| origin.to_str().ok());
    let origin = origin.unwrap_or("the admin API").to_string();
    match Limited::new(request.into_body(), LARGEST_COMPONENT).collect().await {
        Ok(body) => Ok((origin, body.to_bytes().to_vec())),
        Err(error) => Err(problem(StatusCode::BAD_REQUEST, &format!("the component did not arrive whole: {error}"))),
    }
}

/// The body of a request that is no component.
async fn order(request: HttpRequest<Incoming>) -> Result<Bytes, Response<Body>> {
    match Limited::new(request.into_body(), LARGEST_ORDER).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => Err(problem(StatusCode::BAD_REQUEST, &format!("the request did not arrive whole: {error}"))),
    }
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(bytes) => with_type(status, "application/json", bytes.into()),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn problem(status: StatusCode, detail: &str) -> Response<Body> {
    let body = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or_default(),
        "status": status.as_u16(),
        "detail": detail,
    });
    let mut response = with_type(status, "application/problem+json", body.to_string().into());
    response.extensions_mut().insert(Noted { reason: Some(detail.to_owned()), ..Noted::default() });
    response
}

fn with_type(status: StatusCode, media_type: &'static str, body: Bytes) -> Response<Body> {
    with_body(status, media_type, Body::complete(body))
}

fn with_body(status: StatusCode, media_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}
