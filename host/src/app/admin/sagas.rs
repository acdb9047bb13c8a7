//! The part of the admin API about sagas.

use super::{json, problem};
use crate::{
    app::App,
    manifest::did_you_mean,
    saga::{Error, Filter, Page, Sagas, Status, Summary, View},
    service::Body,
};
use hyper::{Method, Response, StatusCode};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{borrow::Cow, cmp::Reverse};

/// How many are listed where nobody says how many.
const LISTED: usize = 100;
/// The most that are listed at once.
const MAX_LISTED: usize = 1_000;

/// Some sagas, the newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SagaList {
    /// The sagas.
    pub sagas: Vec<Summary>,
    /// What the next page begins after, where there may be more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<i64>,
}

/// Which saga an operator means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SagaOrder {
    /// Its service; where it is missing, the only one that has a saga of this id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The name of its definition; where it is missing, the only one of this id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saga: Option<String>,
    /// Its id.
    pub id: String,
    /// To compensate: a step that is left as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip: Option<String>,
}

/// A saga that an operator starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewSaga {
    /// The service.
    pub service: String,
    /// The name of the definition.
    pub saga: String,
    /// Its id.
    pub id: String,
    /// Its first state, a JSON object.
    #[serde(default)]
    pub input: serde_json::Map<String, serde_json::Value>,
}

type Refused = (StatusCode, Cow<'static, str>);

/// Answers a request for a path below `/v1/sagas`.
pub(super) async fn answer(app: &App, method: &Method, path: &[&str], query: &str, body: &[u8]) -> Response<Body> {
    let answered = match (method, path) {
        (&Method::GET, []) => list(app, query).await.map(|list| json(StatusCode::OK, &list)),
        (&Method::POST, ["show"]) => show(app, &read::<SagaOrder>(body)).await,
        (&Method::POST, ["start"]) => start(app, body).await,
        (&Method::POST, ["retry"]) => tell(app, body, Word::Retry).await,
        (&Method::POST, ["compensate"]) => tell(app, body, Word::Compensate).await,
        (_, [] | ["show" | "start" | "retry" | "compensate"]) => {
            Err((StatusCode::METHOD_NOT_ALLOWED, "this path takes another method".into()))
        }
        _ => Err((StatusCode::NOT_FOUND, "the admin API has no such path".into())),
    };
    answered.unwrap_or_else(|(status, detail)| problem(status, &detail))
}

/// What an operator says of a saga.
#[derive(Clone, Copy)]
enum Word {
    Retry,
    Compensate,
}

async fn list(app: &App, query: &str) -> Result<SagaList, Refused> {
    let (mut filter, mut service) = (Filter { limit: LISTED, ..Filter::default() }, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match name {
            "service" => service = Some(value),
            "saga" => filter.saga = Some(value.to_owned()),
            "status" => {
                let names = Status::ALL.map(Status::as_str).join(", ");
                let expected = || bad(format!("status must be one of {names}"));
                filter.status = Some(Status::parse(value).ok_or_else(expected)?);
            }
            "after" => filter.after = Some(value.parse().map_err(|_| bad("after must be a number".into()))?),
            "limit" => {
                let number = value.parse().ok().filter(|number| (1..=MAX_LISTED).contains(number));
                filter.limit = number.ok_or_else(|| bad(format!("limit must be a number from 1 to {MAX_LISTED}")))?;
            }
            _ => {
                let name = name.escape_debug();
                let there = "there are service, saga, status, after and limit";
                return Err(bad(format!("unknown parameter `{name}`; {there}")));
            }
        }
    }
    if let Some(service) = service {
        let Page { sagas, next } = of_service(app, service)?.list(&filter).await.map_err(refused)?;
        return Ok(SagaList { sagas, next });
    }
    let (mut all, mut more) = (Vec::new(), false);
    for (_, sagas) in every(app) {
        let Page { sagas, next } = sagas.list(&filter).await.map_err(refused)?;
        more |= next.is_some();
        all.extend(sagas);
    }
    // All give out places by the time, so they are in one order.
    all.sort_by_key(|summary| Reverse(summary.place));
    more |= all.len() > filter.limit;
    all.truncate(filter.limit);
    let next = all.last().filter(|_| more).map(|last| last.place);
    Ok(SagaList { sagas: all, next })
}

async fn show(app: &App, order: &Result<SagaOrder, Refused>) -> Result<Response<Body>, Refused> {
    let (_, view) = find(app, order.as_ref().map_err(Clone::clone)?).await?;
    Ok(json(StatusCode::OK, &view))
}

async fn start(app: &App, body: &[u8]) -> Result<Response<Body>, Refused> {
    let NewSaga { service, saga, id, input } = read(body)?;
    let sagas = of_service(app, &service)?;
    let input = serde_json::to_vec(&input).map_err(|error| bad(error.to_string()))?;
    sagas.start(&saga, &id, &input).await.map_err(refused)?;
    let view = sagas.show(Some(&saga), &id).await.map_err(refused)?;
    Ok(json(StatusCode::OK, &view))
}

async fn tell(app: &App, body: &[u8], word: Word) -> Result<Response<Body>, Refused> {
    let order: SagaOrder = read(body)?;
    let (sagas, View { summary, .. }) = find(app, &order).await?;
    let saga = Some(summary.saga.as_str());
    let told = match (word, &order.skip) {
        (Word::Retry, Some(_)) => return Err(bad("`skip` is for `compensate`".into())),
        (Word::Retry, None) => sagas.retry(saga, &order.id).await,
        (Word::Compensate, skip) => sagas.compensate(saga, &order.id, skip.as_deref()).await,
    };
    told.map_err(refused)?;
    let view = sagas.show(saga, &order.id).await.map_err(refused)?;
    Ok(json(StatusCode::OK, &view))
}

/// The saga that is meant, with those of its service.
async fn find(app: &App, order: &SagaOrder) -> Result<(Sagas, View), Refused> {
    let SagaOrder { service, saga, id, .. } = order;
    if let Some(service) = service {
        let sagas = of_service(app, service)?;
        let view = sagas.show(saga.as_deref(), id).await.map_err(refused)?;
        return Ok((sagas, view));
    }
    let mut found: Option<(Sagas, View)> = None;
    for (_, sagas) in every(app) {
        match sagas.show(saga.as_deref(), id).await {
            Ok(view) => {
                if let Some((_, other)) = &found {
                    let (one, two) = (&other.summary.service, &view.summary.service);
                    let several = format!("services `{one}` and `{two}` both have a saga of this id: name the service");
                    return Err((StatusCode::CONFLICT, several.into()));
                }
                found = Some((sagas, view));
            }
            Err(Error::NotFound(_)) => {}
            Err(error) => return Err(refused(error)),
        }
    }
    found.ok_or_else(|| {
        let id: String = id.chars().take(128).flat_map(char::escape_debug).collect();
        let none =
            format!("there is no saga `{id}`; `wharf saga list` shows all, and those that ended are kept for a while");
        (StatusCode::NOT_FOUND, none.into())
    })
}

/// The sagas of all services that have some.
fn every(app: &App) -> Vec<(String, Sagas)> {
    let parts = app.parts.load();
    let all = parts.sagas.iter().filter_map(|(name, register)| Some((name.clone(), register.sagas().ok()?.clone())));
    all.collect()
}

fn of_service(app: &App, service: &str) -> Result<Sagas, Refused> {
    let all = every(app);
    let found = all.iter().find(|(name, _)| name == service).map(|(_, sagas)| sagas.clone());
    found.ok_or_else(|| {
        let meant = did_you_mean(service, all.iter().map(|(name, _)| name.as_str()));
        let service: String = service.chars().take(64).flat_map(char::escape_debug).collect();
        (StatusCode::NOT_FOUND, format!("there is no service `{service}` with sagas{meant}").into())
    })
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refused> {
    serde_json::from_slice(body).map_err(|error| {
        bad(format!(
            r#"expected {{"service": "checkout", "saga": "checkout", "id": "17"}}, and to start "input": {error}"#
        ))
    })
}

fn bad(message: String) -> Refused {
    (StatusCode::BAD_REQUEST, message.into())
}

fn refused(error: Error) -> Refused {
    let status = match &error {
        Error::NotFound(_) => StatusCode::NOT_FOUND,
        Error::Conflict | Error::Refused(_) => StatusCode::CONFLICT,
        Error::Invalid(_) => StatusCode::BAD_REQUEST,
        Error::Fault(fault) => StatusCode::from_u16(fault.kind().http_status()).unwrap_or(StatusCode::BAD_GATEWAY),
    };
    (status, error.to_string().into())
}
