//! The part of the admin API about rollouts: what a deploy says of its own, and what an operator says of one that is under
//! way.

use super::{audited::noting_order, component, json, order, problem};
use crate::{
    app::{App, assemble::refusal},
    policy::{InvalidPolicy, Mark, RolloutParams, RolloutPolicy, Split, Stage},
    rollout::{DeployError, Diff, Past, SchemaDiff},
    service::{Body, ShapeChanges},
};
use hyper::{Request, Response, StatusCode, body::Incoming};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The header of a deploy that says how it is to be rolled out: a [`RolloutOrder`] as JSON.
pub const ROLLOUT: &str = "x-rollout";

/// How a deploy differs from what the manifest says of the service's rollouts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RolloutOrder {
    /// Its stages; none of them: at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stages: Option<Vec<StageOrder>>,
    /// How long the old revision has to drain, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_ms: Option<u64>,
    /// Whether it may run on a newer schema than it knows.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// A stage: how long it lasts at least, and one of the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct StageOrder {
    /// How long, in milliseconds.
    pub for_ms: u64,
    /// So many calls in a hundred.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<u32>,
    /// Requests with this header, `NAME: VALUE`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// Requests with this cookie, `NAME=VALUE`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie: Option<String>,
    /// No calls, but copies of requests.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shadow: bool,
}

/// What a component would change in a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceDiff {
    /// SHA-256 of the component that runs, if one does.
    pub old: Option<String>,
    /// SHA-256 of the other.
    pub new: String,
    /// In what it offers and needs.
    #[serde(flatten)]
    pub changes: ShapeChanges,
    /// What would not fit, in words; empty: it fits.
    pub misfits: Vec<String>,
    /// In its schema; not there where it has no database, or the component does not fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<SchemaDiff>,
}

/// What an operator says of a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RolloutCommand {
    /// The new revision gets all calls now.
    Promote,
    /// The old revision gets all calls again.
    Undo,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Commanded {
    command: RolloutCommand,
}

// === impl RolloutOrder ===

impl RolloutOrder {
    fn read(text: &str) -> Result<Self, String> {
        let expected = r#"expected {"stages": [{"percent": 5, "for-ms": 30000}], "drain-ms": 10000} in `x-rollout`"#;
        serde_json::from_str(text).map_err(|error| format!("{expected}: {error}"))
    }

    /// The policy that it makes of that of the service.
    fn over(self, base: &RolloutPolicy) -> Result<RolloutPolicy, InvalidPolicy> {
        let mut params: RolloutParams = base.params().clone();
        if let Some(stages) = self.stages {
            params.stages = stages.into_iter().map(StageOrder::into_stage).collect::<Result<_, _>>()?;
        }
        if let Some(drain) = self.drain_ms {
            params.drain = Duration::from_millis(drain);
        }
        RolloutPolicy::try_new(params)
    }
}

// === impl StageOrder ===

impl StageOrder {
    fn into_stage(self) -> Result<Stage, InvalidPolicy> {
        let split = match self {
            Self { percent: Some(percent), header: None, cookie: None, shadow: false, .. } => Split::Percent(percent),
            Self { percent: None, header: Some(header), cookie: None, shadow: false, .. } => {
                Split::Marked(Mark::header(&header)?)
            }
            Self { percent: None, header: None, cookie: Some(cookie), shadow: false, .. } => {
                Split::Marked(Mark::cookie(&cookie)?)
            }
            Self { percent: None, header: None, cookie: None, shadow: true, .. } => Split::Shadow,
            _ => return Err(Stage::ambiguous()),
        };
        Ok(Stage { split, time: Duration::from_millis(self.for_ms) })
    }
}

/// How a deploy of a service is to be rolled out by the header of its request, `None` where it says nothing; and whether it
/// is forced.
pub(super) fn policy_of<B>(
    app: &App,
    service: &str,
    request: &Request<B>,
) -> Result<(Option<RolloutPolicy>, Past), Box<Response<Body>>> {
    let Some(header) = request.headers().get(ROLLOUT) else { return Ok((None, Past::Refused)) };
    let refused = |text: &str| Box::new(problem(StatusCode::BAD_REQUEST, text));
    let text = header.to_str().map_err(|_| refused("`x-rollout` is no text"))?;
    let order = RolloutOrder::read(text).map_err(|error| refused(&error))?;
    let manifest = app.manifest();
    let base = manifest.services.get(service).map(|service| service.rollout.clone()).unwrap_or_default();
    let past = Past::by(order.force);
    order.over(&base).map(|policy| (Some(policy), past)).map_err(|error| refused(&error.to_string()))
}

pub(super) async fn diff(app: &App, service: &str, request: Request<Incoming>) -> Response<Body> {
    let (origin, wasm) = match component(request).await {
        Ok(component) => component,
        Err(refused) => return refused,
    };
    match app.rollout().diff(service, wasm, origin).await {
        Ok(Diff { old, new, changes, misfits, schema }) => {
            let manifest = app.manifest();
            let misfits = misfits.into_iter().map(|it| refusal(&manifest, &DeployError::Misfit(vec![it])));
            json(StatusCode::OK, &ServiceDiff { old, new, changes, misfits: misfits.collect(), schema })
        }
        Err(error @ DeployError::UnknownService { .. }) => problem(StatusCode::NOT_FOUND, &error.to_string()),
        Err(error) => problem(StatusCode::UNPROCESSABLE_ENTITY, &error.to_string()),
    }
}

pub(super) fn progress(app: &App, service: &str) -> Response<Body> {
    answer(app.rollout().progress(service))
}

pub(super) async fn command(app: &App, service: &str, request: Request<Incoming>) -> Response<Body> {
    let body = match order(request).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let answer = match serde_json::from_slice(&body) {
        Ok(Commanded { command: RolloutCommand::Promote }) => answer(app.rollout().promote(service)),
        Ok(Commanded { command: RolloutCommand::Undo }) => {
            answer(app.rollout().undo(service, "an operator said so".into()))
        }
        Err(error) => {
            let expected = r#"expected {"command": "promote"} or {"command": "undo"}"#;
            problem(StatusCode::BAD_REQUEST, &format!("{expected}: {error}"))
        }
    };
    noting_order(answer, &body)
}

fn answer(result: Result<crate::rollout::RolloutSnapshot, DeployError>) -> Response<Body> {
    match result {
        Ok(snapshot) => json(StatusCode::OK, &snapshot),
        Err(error @ DeployError::NoRollout(_)) => problem(StatusCode::CONFLICT, &error.to_string()),
        Err(error) => problem(StatusCode::NOT_FOUND, &error.to_string()),
    }
}
