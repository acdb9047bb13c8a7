//! The admin API and the audit log: the one place where what is asked of the host is written down.

use super::{SharedToken, problem};
use crate::{
    app::{
        App,
        audit::{Came, Deed, Who},
    },
    service::Body,
};
use hyper::{Request, Response, StatusCode, body::Incoming, header::AUTHORIZATION};
use std::sync::Arc;

/// What an answer says to the audit log.
#[derive(Clone, Default)]
pub(super) struct Noted {
    pub revision: Option<(u64, String)>,
    pub outcome: Option<Came>,
    pub detail: Option<String>,
    pub reason: Option<String>,
}

/// Answers a request. Whatever it changes, or would have, is in the audit log before the answer is given.
pub(super) async fn answer(
    app: Arc<App>,
    who: Who,
    token: Option<SharedToken>,
    request: Request<Incoming>,
) -> Response<Body> {
    if let Some(token) = token
        && !token.load().admits(request.headers().get(AUTHORIZATION))
    {
        return problem(StatusCode::UNAUTHORIZED, "the admin API wants its token: `Authorization: Bearer …`");
    }
    if request.method().is_safe() || only_asks(request.uri().path()) {
        return super::answer(&app, request).await;
    }
    let mut deed = deed(request.uri().path());
    // Before what can end with the host.
    if deed.service.is_some()
        && let Err(error) = app.audit().write(&who, &deed, Came::Begun).await
    {
        return problem(StatusCode::INSUFFICIENT_STORAGE, &format!("nothing was done: {error}"));
    }
    let response = super::answer(&app, request).await;
    if let Some(came) = response.extensions().get::<Noted>() {
        deed.detail.clone_from(&came.detail);
        deed.reason.clone_from(&came.reason);
        if let Some((revision, hash)) = &came.revision {
            (deed.revision, deed.hash) = (Some(*revision), Some(hash.clone()));
        }
    }
    let outcome = match response.extensions().get::<Noted>() {
        _ if !response.status().is_success() => Came::Refused,
        Some(Noted { outcome: Some(outcome), .. }) => *outcome,
        _ => Came::Done,
    };
    app.audit().note(&who, &deed, outcome).await;
    response
}

/// Whether a request to this path changes nothing of what runs, though it is no `GET`.
fn only_asks(path: &str) -> bool {
    ["/diff", "/plan"].iter().any(|end| path.ends_with(end)) || ["/v1/hold", "/v1/sagas/show"].contains(&path)
}

/// What a request to this path does.
fn deed(path: &str) -> Deed {
    let path: Vec<&str> = path.split('/').skip(2).collect();
    match path.as_slice() {
        ["services", service, "revisions"] => Deed::new("deploy").to(*service),
        ["services", service, what] => Deed::new(*what).to(*service),
        ["breakers"] => Deed::new("breaker"),
        ["sagas", what] => Deed::new(format!("{what} saga")),
        ["events", "dead-letters", what] => Deed::new(format!("{what} dead letters")),
        ["events", what] => Deed::new(format!("{what} events")),
        other => Deed::new(other.join(" ")),
    }
}

/// The audit log says what was asked for.
pub(super) fn noting_order(mut response: Response<Body>, body: &[u8]) -> Response<Body> {
    let mut noted = response.extensions_mut().remove::<Noted>().unwrap_or_default();
    noted.detail = Some(String::from_utf8_lossy(body).into_owned()).filter(|body| !body.is_empty());
    response.extensions_mut().insert(noted);
    response
}
