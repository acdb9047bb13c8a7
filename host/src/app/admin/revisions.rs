//! The part of the admin API about revisions: what there was, and back to it.

use super::{json, problem};
use crate::{
    app::App,
    rollout::{DeployError, Past},
    service::Body,
};
use hyper::{Response, StatusCode};
use serde::Deserialize;

/// Where to go back to.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RollbackOrder {
    revision: Option<u64>,
    #[serde(default)]
    force: bool,
}

/// What is said of a service outside.
pub(super) fn none_of_external(app: &App, service: &str) -> Option<Response<Body>> {
    let is_external = app.manifest().external.contains_key(service);
    let message = format!(
        "`{service}` is external and has no revisions; as a component it has a `source` or a `component` in the manifest, \
         and no `endpoints`"
    );
    is_external.then(|| problem(StatusCode::CONFLICT, &message))
}

/// The revisions of a service.
pub(super) async fn list(app: &App, service: &str) -> Response<Body> {
    if let Some(conflict) = none_of_external(app, service) {
        return conflict;
    }
    match app.rollout().revisions(service).await {
        Ok(revisions) => json(StatusCode::OK, &revisions),
        Err(error) => problem(StatusCode::NOT_FOUND, &error.to_string()),
    }
}

/// Goes back to a revision.
pub(super) async fn rollback(app: &App, service: &str, body: &[u8]) -> Response<Body> {
    // Without a body: to the one before.
    let order = if body.is_empty() { Ok(RollbackOrder::default()) } else { serde_json::from_slice(body) };
    let order: RollbackOrder = match order {
        Ok(order) => order,
        Err(error) => {
            let expected = r#"expected {"revision": 3, "force": false}, both of them optional"#;
            return problem(StatusCode::BAD_REQUEST, &format!("{expected}: {error}"));
        }
    };
    if let Some(conflict) = none_of_external(app, service) {
        return conflict;
    }
    let came = app.rollout().rollback(service, order.revision, Past::by(order.force)).await;
    super::deployment(&app.manifest(), came)
}

/// Which status a deploy that was refused has.
pub(super) fn status_of(error: &DeployError) -> StatusCode {
    match error {
        DeployError::UnknownService { .. } => StatusCode::NOT_FOUND,
        DeployError::UnderWay { .. } | DeployError::NoRollout(_) => StatusCode::CONFLICT,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    }
}
