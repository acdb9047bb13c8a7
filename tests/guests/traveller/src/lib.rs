//! Has sagas, whose steps do what the saga's input says, and writes down what it was asked.
//!
//! | request | answer |
//! |---|---|
//! | `GET /start?saga=…&id=…&do=flight:fail,pay:trap-2` | 200 with how the saga stands, or 404, 409, 400, 403, 503 with the reason; with `&of=SERVICE` for another's |
//! | `GET /get?saga=…&id=…` | the same of one that is there |
//! | `GET /wait?saga=…&id=…&ms=…` | the same, when it has ended or the time is over |
//! | `GET /calls?id=…` | a line for each call of a step: `act` or `undo`, step, attempt, key |
//! | `GET /effects` | a line for each key with an effect: how many times it had it, id, step, key |
//! | `GET /pay?id=…&data=…` | publishes `trip.paid` about this saga |
//! | `GET /build` | which build this is: a text that a test replaces in another |
//!
//! How a saga stands is a line: status, the reason or `-`, the state.
//!
//! | saga | steps |
//! |---|---|
//! | `trip` | `flight`, `hotel` with `car` beside it, `pay` (not repeatable), `pack-the-suitcase` (no compensation) |
//! | `paid` | `flight`, `settle` after `trip.paid` came (for a minute at most), `fly` |
//! | `unpaid` | `flight`, `settle` after `trip.paid` came (for 200 ms at most) |
//! | `later` | `flight`, `fly` after two seconds |
//!
//! A step does what `do` says of it: `fail` fails, `retry` wants another try at once, `trap` traps, `hang` never answers,
//! `effect-trap` traps when it has had its effect; with `-2` behind it only the first two times. Else it is done. What is
//! said of `undo.flight` is so for the compensation of `flight`.

use wasip3::{
    clocks::monotonic_clock::wait_for,
    http::types::{ErrorCode, Request, Response},
};

mod wit {
    wit_bindgen::generate!({
        path: [
            "../../../wit/wharf/platform",
            "../../../wit/wharf/messaging",
            "../../../wit/wharf/store",
            "../../../wit/wharf/saga",
        ],
        inline: "
            package probe:traveller;
            world traveller {
                import wharf:messaging/publisher@0.1.0;
                import wharf:store/sql@0.1.0;
                import wharf:saga/sagas@0.1.0;
                export wharf:store/migrations@0.1.0;
                export wharf:saga/steps@0.1.0;
            }
        ",
        world: "probe:traveller/traveller",
        generate_all,
    });
}
use wit::{
    exports::wharf::{
        saga::steps::{self, Call, Definition, Outcome},
        store::migrations::{self, Migration},
    },
    wharf::{
        messaging::publisher::{self, NewEvent},
        saga::{
            sagas::{self, Error, Reference, Snapshot},
            types::{Again, Awaited, Status, Step, Wait},
        },
        store::sql::{self, Statement, Value},
    },
};

wasip3::http::service::export!(Traveller);
wit::export!(Traveller with_types_in wit);
struct Traveller;

const HOUR: u64 = 3_600_000_000_000;
const CALLS: &str = "CREATE TABLE calls (id TEXT, doing TEXT, step TEXT, attempt BIGINT, key TEXT, n BIGINT)";
const EFFECTS: &str = "CREATE TABLE effects (key TEXT PRIMARY KEY, id TEXT, step TEXT, times BIGINT)";

impl migrations::Guest for Traveller {
    fn migrations() -> Vec<Migration> {
        let migration = |version, name: &str, sql: &str| Migration { version, name: name.into(), sql: sql.into() };
        vec![migration(1, "calls", CALLS), migration(2, "effects", EFFECTS)]
    }
}

impl steps::Guest for Traveller {
    fn definitions() -> Vec<Definition> {
        let event = |ms| Wait { until: Awaited::Event("trip.paid".into()), timeout_ms: Some(ms) };
        let flight = || step("flight");
        let last = Step { compensates: false, ..step("pack-the-suitcase") };
        let beside = Step { beside: true, ..step("car") };
        let pay = Step { repeatable: false, ..step("pay") };
        vec![
            saga("trip", vec![flight(), step("hotel"), beside, pay, last]),
            saga("paid", vec![flight(), Step { wait: Some(event(60_000)), ..step("settle") }, step("fly")]),
            saga("unpaid", vec![flight(), Step { wait: Some(event(200)), ..step("settle") }]),
            saga(
                "later",
                vec![
                    flight(),
                    Step { wait: Some(Wait { until: Awaited::Time(2_000), timeout_ms: None }), ..step("fly") },
                ],
            ),
        ]
    }

    async fn act(call: Call) -> Outcome {
        do_it("act", &call.step, &call).await
    }

    async fn compensate(call: Call) -> Outcome {
        do_it("undo", &format!("undo.{}", call.step), &call).await
    }
}

fn step(name: &str) -> Step {
    Step { name: name.into(), beside: false, compensates: true, repeatable: true, wait: None }
}

fn saga(name: &str, steps: Vec<Step>) -> Definition {
    Definition { name: name.into(), steps, timeout_ms: None }
}

async fn do_it(doing: &str, named: &str, call: &Call) -> Outcome {
    let values =
        vec![text(&call.id), text(doing), text(&call.step), Value::Integer(call.attempt.into()), text(&call.key)];
    let count = "INSERT INTO calls SELECT $1, $2, $3, $4, $5, COUNT(*) FROM calls";
    if let Err(error) = sql::execute(Statement { sql: count.into(), params: values }).await {
        return again(format!("{error:?}"));
    }
    let state = String::from_utf8_lossy(&call.state).into_owned();
    let said = state.split_once(&format!("\"{named}\":\"")).and_then(|(_, rest)| rest.split('"').next());
    let said = said.unwrap_or("done").to_owned();
    let (what, times) = match said.rsplit_once('-') {
        Some((what, times)) if times.parse::<u32>().is_ok() => (what, times.parse().unwrap_or(0)),
        _ => (said.as_str(), u32::MAX),
    };
    match what {
        _ if call.attempt > times => effect(doing, call).await,
        "fail" => Outcome::Failed(format!("no {}", call.step)),
        "retry" => again("not now".into()),
        "trap" => trap(),
        "hang" => {
            wait_for(HOUR).await;
            trap()
        }
        "effect-trap" => {
            let _ = effect(doing, call).await;
            trap()
        }
        _ => effect(doing, call).await,
    }
}

async fn effect(doing: &str, call: &Call) -> Outcome {
    // Where a step is called again with its key, it has its effect once: that is what keys are for.
    let sql = "INSERT INTO effects (key, id, step, times) VALUES ($1, $2, $3, 1) ON CONFLICT (key) DO NOTHING";
    let params = vec![text(&call.key), text(&call.id), text(&format!("{doing} {}", call.step))];
    if let Err(error) = sql::execute(Statement { sql: sql.into(), params }).await {
        return again(format!("{error:?}"));
    }
    let told =
        call.event.as_ref().map_or_else(|| "true".into(), |event| String::from_utf8_lossy(&event.data).into_owned());
    let value = if doing == "act" { told } else { "null".into() };
    Outcome::Done(format!("{{\"{}\":{value}}}", call.step).into_bytes())
}

fn again(reason: String) -> Outcome {
    Outcome::Retry(Again { reason, after_ms: Some(1) })
}

fn text(value: &str) -> Value {
    Value::Text(value.to_owned())
}

impl wasip3::exports::http::handler::Guest for Traveller {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let (path, query) = reply::target(&request);
        let given = |name| reply::param(&query, name).to_owned();
        let of = Some(given("of")).filter(|of| !of.is_empty());
        let reference = Reference { service: of, saga: given("saga"), id: given("id") };
        match path.as_str() {
            "/start" => stands(sagas::start(reference, input(&given("do"))).await),
            "/get" => stands(sagas::get(reference).await),
            "/wait" => stands(sagas::wait(reference, given("ms").parse().unwrap_or(10_000)).await),
            "/calls" => {
                let sql = "SELECT doing, step, attempt, key FROM calls WHERE id = $1 ORDER BY n";
                rows(sql, vec![text(&given("id"))]).await
            }
            "/effects" => rows("SELECT times, id, step, key FROM effects ORDER BY key", Vec::new()).await,
            "/pay" => {
                let data = format!("{:?}", given("data")).into_bytes();
                let (topic, subject) = ("trip.paid".to_owned(), Some(given("id")));
                match publisher::publish(NewEvent { topic, subject, datacontenttype: None, data, due: None }).await {
                    Ok(id) => reply::text(200, id),
                    Err(error) => reply::text(503, format!("{error:?}")),
                }
            }
            "/build" => reply::text(200, "the traveller as it was built"),
            _ => reply::text(200, "alive"),
        }
    }
}

/// `flight:fail,pay:trap` as the first state of a saga.
fn input(what: &str) -> Vec<u8> {
    let each = what.split(',').filter_map(|pair| pair.split_once(':'));
    let each: Vec<_> = each.map(|(step, what)| format!("\"{step}\":\"{what}\"")).collect();
    format!("{{\"do\":{{{}}}}}", each.join(",")).into_bytes()
}

fn stands(found: Result<Snapshot, Error>) -> Result<Response, ErrorCode> {
    match found {
        Ok(Snapshot { status, state, reason, .. }) => {
            let status = match status {
                Status::Running => "running",
                Status::Compensating => "compensating",
                Status::Completed => "completed",
                Status::Compensated => "compensated",
            };
            let (reason, state) = (reason.unwrap_or_else(|| "-".into()), String::from_utf8_lossy(&state).into_owned());
            reply::text(200, format!("{status}\n{reason}\n{state}"))
        }
        Err(Error::NotFound(reason)) => reply::text(404, reason),
        Err(Error::Conflict) => reply::text(409, "conflict"),
        Err(Error::Invalid(reason)) => reply::text(400, reason),
        Err(Error::Denied(reason)) => reply::text(403, reason),
        Err(Error::Fault(fault)) => reply::text(503, fault.message),
    }
}

async fn rows(sql: &str, params: Vec<Value>) -> Result<Response, ErrorCode> {
    match sql::query(Statement { sql: sql.into(), params }).await {
        Ok(found) => {
            let shown = |value: &Value| match value {
                Value::Text(text) => text.clone(),
                Value::Integer(number) => number.to_string(),
                _ => "-".to_owned(),
            };
            let line = |row: &Vec<Value>| row.iter().map(shown).collect::<Vec<_>>().join(" ") + "\n";
            reply::text(200, found.rows.iter().map(line).collect::<String>())
        }
        Err(error) => reply::text(503, format!("{error:?}")),
    }
}

fn trap() -> ! {
    #[cfg(target_arch = "wasm32")]
    std::arch::wasm32::unreachable();
    #[cfg(not(target_arch = "wasm32"))]
    std::process::abort();
}
