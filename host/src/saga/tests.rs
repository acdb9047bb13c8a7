//! What the runner promises, each promise with a test that tries to break it.

mod crash;
mod hosts;

use super::*;
use crate::{
    events::Event,
    policy::{Backoff, Fault, FaultKind},
    store::{
        self, Database,
        tests::{Scratch, on_each_backend},
    },
    telemetry::TraceContext,
};
use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture, future::join_all};
use jiff::Timestamp;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
};
use tokio::{
    sync::watch,
    time::{Duration, Instant},
};

/// What a call comes to.
#[derive(Clone, Debug)]
enum Does {
    Done(&'static str),
    Failed,
    Fault(FaultKind),
    /// It does not end.
    Hangs,
    /// It ends when the script is opened.
    Waits,
}

/// A service that does as it is told, and everything else at once.
#[derive(Clone, Default)]
struct Script {
    /// By `act step` or `undo step`.
    does: Arc<Mutex<HashMap<String, VecDeque<Does>>>>,
    calls: watch::Sender<Vec<StepCall>>,
    open: watch::Sender<bool>,
    /// How many are under way now, and were at most.
    out: watch::Sender<(usize, usize)>,
}

fn step(name: &str) -> Step {
    Step { name: name.into(), beside: false, compensates: true, repeatable: true, wait: None }
}

fn awaiting(name: &str, topic: &str) -> Step {
    Step { wait: Some(Wait { until: Awaited::Event(topic.into()), timeout_ms: None }), ..step(name) }
}

fn saga(name: &str, steps: impl IntoIterator<Item = Step>) -> Definition {
    Definition { name: name.into(), steps: steps.into_iter().collect(), timeout_ms: None }
}

fn checkout() -> Definition {
    saga("checkout", [step("create"), step("pay"), Step { beside: true, ..step("reserve") }, step("confirm")])
}

fn settings() -> Settings {
    let backoff = Backoff { first: Duration::from_millis(1), max: Duration::from_millis(4), jitter: 0.0 };
    Settings { attempts: 3, backoff, look_every_shared: Duration::from_millis(10), ..Settings::default() }
}

async fn database(scratch: &Scratch) -> Database {
    scratch.of("order", store::Settings::default()).await
}

async fn opened(database: &Database, definitions: &[Definition], script: &Script, settings: Settings) -> Sagas {
    let steps = Arc::new(script.clone());
    let sagas = Sagas::open("order", database.clone(), definitions.to_vec(), steps, settings).await.unwrap();
    // On a server, the lease is taken first.
    while !sagas.leads() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    sagas
}

async fn ended(sagas: &Sagas, name: &str, id: &str) -> Snapshot {
    let snapshot = sagas.wait(name, id, Duration::from_secs(30)).await.unwrap();
    assert!(snapshot.status.has_ended(), "{snapshot:?}");
    snapshot
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn event(topic: &str, subject: &str, id: &str) -> Arc<Event> {
    Arc::new(Event {
        topic: topic.into(),
        id: id.into(),
        source: "/services/payment".into(),
        subject: Some(subject.into()),
        time: Timestamp::now(),
        datacontenttype: "application/json".into(),
        traceparent: None,
        data: r#"{"amount":7}"#.into(),
    })
}

// === impl Script ===

impl Script {
    fn new<const N: usize>(does: [(&str, Does); N]) -> Self {
        let script = Self::default();
        for (call, does) in does {
            script.does.lock().unwrap().entry(call.into()).or_default().push_back(does);
        }
        script
    }

    /// The calls that were made.
    fn calls(&self) -> Vec<String> {
        self.calls.borrow().iter().map(name).collect()
    }

    /// Waits until so many calls were made.
    async fn called(&self, count: usize) {
        self.calls.subscribe().wait_for(|calls| calls.len() >= count).await.unwrap();
    }

    fn call(&self, call: StepCall) -> BoxFuture<'_, Result<Outcome, Fault>> {
        let does = self.does.lock().unwrap().get_mut(&name(&call)).and_then(VecDeque::pop_front);
        self.out.send_modify(|(now, most)| (*now, *most) = (*now + 1, (*most).max(*now + 1)));
        self.calls.send_modify(|calls| calls.push(call));
        async move {
            let result = match does.unwrap_or(Does::Done("{}")) {
                Does::Done(patch) => Ok(Outcome::Done(patch.into())),
                Does::Failed => Ok(Outcome::Failed("no".into())),
                Does::Fault(kind) => Err(Fault::new(kind, "so it was told")),
                Does::Hangs => std::future::pending().await,
                Does::Waits => {
                    self.open.subscribe().wait_for(|open| *open).await.unwrap();
                    Ok(Outcome::Done(Bytes::from_static(b"{}")))
                }
            };
            self.out.send_modify(|(now, _)| *now -= 1);
            result
        }
        .boxed()
    }
}

impl Steps for Script {
    fn act(&self, call: StepCall) -> BoxFuture<'_, Result<Outcome, Fault>> {
        self.call(call)
    }

    fn compensate(&self, call: StepCall) -> BoxFuture<'_, Result<Outcome, Fault>> {
        self.call(call)
    }
}

fn name(call: &StepCall) -> String {
    let side = if call.reason.is_some() { "undo" } else { "act" };
    format!("{side} {}", call.step)
}

on_each_backend! {
    it_goes_from_step_to_step,
    what_fails_is_taken_back,
    of_one_id_there_is_one,
    what_is_no_saga_is_refused,
    faults_are_tried_again_and_refusals_are_no_tries,
    an_event_is_written_when_it_is_delivered,
    a_stuck_compensation_is_shown_and_skipped,
    a_revision_that_lacks_steps_halts_sagas,
    it_is_counted_how_sagas_stand,
    all_calls_of_a_saga_are_of_one_trace,
    no_more_run_than_may_and_all_end,
    no_more_are_under_way_than_may,
    other_settings_take_effect_while_it_runs,
    what_is_under_way_at_the_end_is_let_end,
    pages_have_all_and_what_ended_is_forgotten,
    results_that_are_none_are_not_merged,
}

async fn it_goes_from_step_to_step(scratch: Scratch) {
    let script = Script::new([
        ("act create", Does::Done(r#"{"order":1}"#)),
        ("act pay", Does::Done(r#"{"payment":{"id":2}}"#)),
        ("act reserve", Does::Done(r#"{"items":null,"reserved":true}"#)),
    ]);
    let sagas = opened(&database(&scratch).await, &[checkout()], &script, settings()).await;
    let started = sagas.start("checkout", "a", br#"{"items":[1]}"#).await.unwrap();
    assert_eq!((started.status, &*started.state), (Status::Running, &br#"{"items":[1]}"#[..]));
    let end = ended(&sagas, "checkout", "a").await;
    assert_eq!(end.status, Status::Completed);
    assert_eq!(&*end.state, br#"{"order":1,"payment":{"id":2},"reserved":true}"#);
    assert_eq!(sagas.get("checkout", "a").await.unwrap(), end);
    assert_eq!(script.calls(), ["act create", "act pay", "act reserve", "act confirm"]);
    let last = script.calls.borrow()[3].clone();
    assert_eq!((&*last.key, last.attempt, &*last.state), ("order/checkout/a/confirm", 1, &*end.state));
    assert_eq!(last.started_at.parse::<Timestamp>().unwrap(), end.started_at);
    assert_eq!(sagas.counts().under_way(), 0);
    let shown = sagas.show(None, "a").await.unwrap();
    assert!(shown.steps.iter().all(|step| step.status == "done" && step.attempts == 1 && step.ended_at.is_some()));
    assert_eq!((shown.summary.status, shown.times_out_at, shown.next_at), (Status::Completed, None, None));
    sagas.close(soon()).await;
}

async fn what_fails_is_taken_back(scratch: Scratch) {
    let script = Script::new([("act confirm", Does::Failed), ("undo pay", Does::Fault(FaultKind::Trapped))]);
    let sagas = opened(&database(&scratch).await, &[checkout()], &script, settings()).await;
    sagas.start("checkout", "a", b"{}").await.unwrap();
    let end = ended(&sagas, "checkout", "a").await;
    assert_eq!((end.status, end.reason.as_deref()), (Status::Compensated, Some("step `confirm` failed: no")));
    assert_eq!(script.calls()[4..], ["undo reserve", "undo pay", "undo pay", "undo create"]);
    let calls = script.calls.borrow().clone();
    assert_eq!((&*calls[6].key, calls[6].attempt), ("order/checkout/a/pay/compensate", 2));
    assert_eq!(calls[6].reason.as_deref(), Some("step `confirm` failed: no"));
}

async fn of_one_id_there_is_one(scratch: Scratch) {
    let script = Script::default();
    let definitions = [checkout(), saga("refund", [step("pay-back")])];
    let sagas = opened(&database(&scratch).await, &definitions, &script, settings()).await;
    let starts = join_all((0..8).map(|_| sagas.start("checkout", "a", br#"{"b":[1,{}],"a":"x"}"#))).await;
    assert!(starts.iter().all(Result::is_ok), "{starts:?}");
    let end = ended(&sagas, "checkout", "a").await;
    // However it is spaced.
    assert_eq!(sagas.start("checkout", "a", br#"{ "a": "x", "b": [ 1, { } ] }"#).await, Ok(end));
    for other in [&br#"{"a":"x","b":[1]}"#[..], br#"{"a":"x","b":[[1],{}]}"#, b"{}"] {
        assert_eq!(sagas.start("checkout", "a", other).await, Err(Error::Conflict));
    }
    assert_eq!(script.calls().len(), 4);
    sagas.start("refund", "a", b"{}").await.unwrap();
    ended(&sagas, "refund", "a").await;
    let several = sagas.show(None, "a").await.unwrap_err().to_string();
    assert_eq!(several, "several sagas have the id `a`: `checkout` and `refund`; name one");
    assert!(sagas.show(Some("refund"), "a").await.is_ok());
}

async fn what_is_no_saga_is_refused(scratch: Scratch) {
    let sagas = opened(&database(&scratch).await, &[checkout()], &Script::default(), settings()).await;
    let unknown = sagas.start("chekout", "a", b"{}").await.unwrap_err().to_string();
    assert_eq!(unknown, "service `order` knows no saga `chekout`; it knows `checkout`");
    for (id, input) in [("", &b"{}"[..]), ("a b", b"{}"), (&"x".repeat(129), b"{}"), ("a", b"[]"), ("a", b"{")] {
        assert!(matches!(sagas.start("checkout", id, input).await, Err(Error::Invalid(_))), "{id}");
    }
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_INPUT));
    assert!(matches!(sagas.start("checkout", "a", large.as_bytes()).await, Err(Error::Invalid(_))));
    let none = sagas.get("checkout", "a").await.unwrap_err();
    assert_eq!(none, Error::NotFound("service `order` has no saga `checkout` with the id `a`".into()));
    assert!(matches!(sagas.retry(None, "a").await, Err(Error::NotFound(_))));
}

async fn faults_are_tried_again_and_refusals_are_no_tries(scratch: Scratch) {
    use FaultKind::{CircuitOpen, DeadlineExceeded, Trapped, Unreachable};
    let faults = [Unreachable, Unreachable, Trapped, CircuitOpen, CircuitOpen, DeadlineExceeded];
    let script = Script::new(faults.map(|kind| ("act create", Does::Fault(kind))));
    let sagas = opened(&database(&scratch).await, &[checkout()], &script, settings()).await;
    sagas.start("checkout", "a", b"{}").await.unwrap();
    assert_eq!(ended(&sagas, "checkout", "a").await.status, Status::Completed);
    let attempts = script.calls.borrow().iter().map(|call| call.attempt).collect::<Vec<_>>();
    assert_eq!(attempts, [1, 1, 1, 2, 2, 2, 3, 1, 1, 1]);
}

async fn an_event_is_written_when_it_is_delivered(scratch: Scratch) {
    let (database, script) = (database(&scratch).await, Script::new([("act a", Does::Waits)]));
    let definitions = [saga("pay", [step("a"), awaiting("b", "settled"), awaiting("c", "settled")])];
    let sagas = opened(&database, &definitions, &script, settings()).await;
    sagas.start("pay", "1", b"{}").await.unwrap();
    script.called(1).await;
    // Before its step; and one about no saga, and of a topic that none awaits.
    sagas.deliver(event("settled", "1", "x")).await.unwrap();
    sagas.deliver(event("settled", "2", "y")).await.unwrap();
    sagas.deliver(event("other", "1", "z")).await.unwrap();
    drop(sagas);
    script.open.send_replace(true);
    let sagas = opened(&database, &definitions, &script, settings()).await;
    script.called(3).await;
    assert_eq!(script.calls()[..3], ["act a", "act a", "act b"]);
    let heard = script.calls.borrow()[2].event.clone().unwrap();
    assert_eq!((&*heard.id, &*heard.data), ("x", &br#"{"amount":7}"#[..]));
    // The same again is not another, and the next is.
    sagas.deliver(event("settled", "1", "x")).await.unwrap();
    while sagas.show(None, "1").await.unwrap().summary.at != ["c"] {
        tokio::task::yield_now().await;
    }
    let waits = sagas.show(None, "1").await.unwrap().steps[2].waits_for.clone();
    assert_eq!(waits.as_deref(), Some("an event of `settled`"));
    sagas.deliver(event("settled", "1", "w")).await.unwrap();
    assert_eq!(ended(&sagas, "pay", "1").await.status, Status::Completed);
    assert_eq!(script.calls()[3..], ["act c"]);
}

async fn a_stuck_compensation_is_shown_and_skipped(scratch: Scratch) {
    let script = Script::new([("act b", Does::Failed)]);
    let fails = std::iter::repeat_n(Does::Failed, 10_000).collect();
    script.does.lock().unwrap().insert("undo a".into(), fails);
    let definitions = [saga("pay", [step("a"), step("b")])];
    let sagas = opened(&database(&scratch).await, &definitions, &script, settings()).await;
    sagas.start("pay", "1", b"{}").await.unwrap();
    script.called(6).await;
    let shown = sagas.show(None, "1").await.unwrap();
    assert!(shown.summary.stuck, "{shown:?}");
    assert_eq!((&*shown.summary.at, shown.summary.error.as_deref()), (&["a".to_owned()][..], Some("no")));
    let listed =
        sagas.list(&Filter { status: Some(Status::Compensating), limit: 9, ..Filter::default() }).await.unwrap();
    assert!(listed.sagas.len() == 1 && listed.sagas[0].stuck && listed.next.is_none(), "{listed:?}");
    assert!(matches!(sagas.compensate(None, "1", None).await, Err(Error::Refused(_))));
    assert!(matches!(sagas.compensate(None, "1", Some("x")).await, Err(Error::Refused(_))));
    sagas.compensate(None, "1", Some("a")).await.unwrap();
    assert_eq!(ended(&sagas, "pay", "1").await.status, Status::Compensated);
    assert_eq!(sagas.show(None, "1").await.unwrap().steps[0].status, "skipped");
    let over = sagas.retry(None, "1").await.unwrap_err().to_string();
    assert_eq!(over, "it has ended already: it is compensated");
}

async fn a_revision_that_lacks_steps_halts_sagas(scratch: Scratch) {
    let (database, script) = (database(&scratch).await, Script::default());
    let old = [saga("pay", [step("a"), awaiting("b", "settled"), step("c")])];
    let sagas = opened(&database, &old, &script, settings()).await;
    for id in ["1", "2"] {
        sagas.start("pay", id, b"{}").await.unwrap();
    }
    script.called(2).await;
    while sagas.list(&Filter { limit: 9, ..Filter::default() }).await.unwrap().sagas.iter().any(|it| it.at != ["b"]) {
        tokio::task::yield_now().await;
    }
    assert_eq!(sagas.unmet(&old).await.unwrap(), []);
    let other = [saga("pay", [step("c"), step("b"), step("a"), step("d")])];
    assert_eq!(sagas.unmet(&other).await.unwrap(), []);
    let lacks = [saga("pay", [step("a"), step("b")])];
    let unmet = sagas.unmet(&lacks).await.unwrap();
    assert_eq!(unmet.len(), 1);
    let said = "step `c` of saga `pay` is gone, which 2 under way may need, among them `1`";
    assert_eq!(unmet[0].to_string(), said);
    assert_eq!(sagas.unmet(&[]).await.unwrap().len(), 1);
    drop(sagas);
    // A host that starts with it: it starts, and those sagas stay where they are.
    let sagas = opened(&database, &lacks, &script, settings()).await;
    sagas.deliver(event("settled", "1", "x")).await.unwrap();
    let shown = sagas.show(None, "1").await.unwrap();
    assert!(shown.summary.stuck);
    assert_eq!(shown.summary.error.as_deref(), Some("the revision that serves lacks step `c`"));
    assert_eq!(script.calls().len(), 2);
    sagas.start("pay", "3", b"{}").await.unwrap();
    assert_eq!(ended(&sagas, "pay", "3").await.status, Status::Completed);
    sagas.set_definitions(other.to_vec()).await.unwrap();
    assert_eq!(ended(&sagas, "pay", "1").await.status, Status::Completed);
    assert!(!sagas.show(None, "2").await.unwrap().summary.stuck);
    let twice = vec![checkout(), checkout()];
    assert!(matches!(sagas.set_definitions(twice).await, Err(OpenError::Definition { .. })));
}

async fn it_is_counted_how_sagas_stand(scratch: Scratch) {
    let (database, script) = (database(&scratch).await, Script::default());
    let waits = std::iter::repeat_n(Does::Waits, 2);
    let fails = std::iter::repeat_n(Does::Failed, 10_000);
    script.does.lock().unwrap().extend([
        ("act a".into(), waits.clone().collect()),
        ("act c".into(), fails.clone().collect()),
        ("undo b".into(), fails.clone().collect()),
        ("act e".into(), fails.collect()),
        ("undo d".into(), waits.collect()),
    ]);
    let definitions = [
        saga("runs", [step("a")]),
        saga("waits", [awaiting("w", "settled")]),
        saga("sticks", [step("b"), step("c")]),
        saga("turns", [step("d"), step("e")]),
    ];
    let stand = async |sagas: &Sagas, counts: Counts| {
        let reached = async {
            while sagas.counts() != counts {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let reached = tokio::time::timeout(Duration::from_secs(20), reached).await;
        assert!(reached.is_ok(), "{:?} in place of {counts:?}", sagas.counts());
    };
    let counts = Counts { running: 1, waiting: 2, compensating: 1, stuck: 1, halted: 0 };
    let sagas = opened(&database, &definitions, &script, settings()).await;
    assert_eq!(sagas.counts(), Counts::default());
    for (name, id) in [("runs", "1"), ("waits", "1"), ("waits", "2"), ("sticks", "1"), ("turns", "1")] {
        sagas.start(name, id, b"{}").await.unwrap();
    }
    stand(&sagas, counts).await;
    for (status, count) in [(Status::Running, 3), (Status::Compensating, 2), (Status::Completed, 0)] {
        let filter = Filter { status: Some(status), limit: 9, ..Filter::default() };
        assert_eq!(sagas.list(&filter).await.unwrap().sagas.len(), count, "{status}");
    }
    drop(sagas);
    let sagas = opened(&database, &definitions, &script, settings()).await;
    stand(&sagas, counts).await;
    let twice = |calls: &Vec<StepCall>| {
        ["act a", "undo d"].iter().all(|it| calls.iter().filter(|call| name(call) == *it).count() == 2)
    };
    script.calls.subscribe().wait_for(twice).await.unwrap();
    // Calls under way are let end.
    sagas.set_definitions(Vec::new()).await.unwrap();
    stand(&sagas, Counts { running: 1, compensating: 1, halted: 3, ..Counts::default() }).await;
    let shown = sagas.show(Some("waits"), "1").await.unwrap().summary;
    assert!(shown.halted && shown.stuck, "{shown:?}");
    script.open.send_replace(true);
    stand(&sagas, Counts { halted: 3, ..Counts::default() }).await;
    sagas.deliver(event("settled", "2", "x")).await.unwrap();
    stand(&sagas, Counts { halted: 3, ..Counts::default() }).await;
    sagas.set_definitions(definitions.to_vec()).await.unwrap();
    stand(&sagas, Counts { waiting: 1, stuck: 1, ..Counts::default() }).await;
    assert_eq!(ended(&sagas, "waits", "2").await.status, Status::Completed);
}

async fn all_calls_of_a_saga_are_of_one_trace(scratch: Scratch) {
    let (database, trace) = (database(&scratch).await, TraceContext::root());
    let script = Script::new([("act a", Does::Fault(FaultKind::Trapped)), ("act c", Does::Hangs)]);
    let definitions = [saga("pay", [step("a"), awaiting("b", "settled"), step("c"), step("d")])];
    let sagas = opened(&database, &definitions, &script, settings()).await;
    sagas.start_in(trace, "pay", "1", b"{}").await.unwrap();
    script.called(2).await;
    // Who starts it again, or tells it something, leaves it where it is.
    sagas.start_in(TraceContext::root(), "pay", "1", b"{}").await.unwrap();
    sagas.deliver(event("settled", "1", "x")).await.unwrap();
    script.called(4).await;
    assert_eq!(sagas.show(None, "1").await.unwrap().trace, Some(trace.trace_id_text()));
    drop(sagas);
    let again = Script::new([("act d", Does::Failed), ("undo b", Does::Failed)]);
    let sagas = opened(&database, &definitions, &again, settings()).await;
    assert_eq!(ended(&sagas, "pay", "1").await.status, Status::Compensated);
    let calls = [script.calls.borrow().clone(), again.calls.borrow().clone()].concat();
    assert!(calls.len() >= 10, "{calls:?}");
    for call in &calls {
        assert_eq!(call.trace.trace_id(), trace.trace_id(), "{call:?}");
        assert!(call.trace != trace && calls.iter().filter(|it| it.trace == call.trace).count() == 1, "{call:?}");
    }
    // One that an earlier version wrote gets one, and keeps it.
    sagas.start("pay", "2", b"{}").await.unwrap();
    again.calls.subscribe().wait_for(|calls| calls.iter().any(|call| &*call.id == "2")).await.unwrap();
    while sagas.show(None, "2").await.unwrap().steps[1].status != "waiting" {
        tokio::task::yield_now().await;
    }
    sagas.close(soon()).await;
    rewrite(&database, "2", |progress| drop(progress.as_object_mut().unwrap().remove("traceparent").unwrap())).await;
    let sagas = opened(&database, &definitions, &Script::default(), settings()).await;
    assert_eq!(sagas.show(None, "2").await.unwrap().trace, None);
    sagas.close(soon()).await;
    let script = Script::new([("act c", Does::Hangs)]);
    let sagas = opened(&database, &definitions, &script, settings()).await;
    sagas.deliver(event("settled", "2", "x")).await.unwrap();
    script.called(2).await;
    drop(sagas);
    let sagas = opened(&database, &definitions, &script, settings()).await;
    assert_eq!(ended(&sagas, "pay", "2").await.status, Status::Completed);
    let traces = script.calls.borrow().iter().map(|call| call.trace.trace_id()).collect::<Vec<_>>();
    assert!(traces.len() == 4 && traces.iter().all(|trace| *trace == traces[0]), "{traces:?}");
}

/// Writes another progress of a saga than its host did.
async fn rewrite(database: &Database, id: &str, change: impl FnOnce(&mut serde_json::Value)) {
    let params = vec![store::Value::Text(id.into())];
    let sql = "SELECT progress FROM _wharf_sagas WHERE id = $1".to_owned();
    let rows = database.host_query(store::Statement { sql, params: params.clone() }).await.unwrap().rows;
    let store::Value::Text(text) = &rows[0][0] else { panic!("{rows:?}") };
    let mut progress = serde_json::from_str(text).unwrap();
    change(&mut progress);
    let sql = "UPDATE _wharf_sagas SET progress = $2 WHERE id = $1".to_owned();
    let params = [params, vec![store::Value::Text(progress.to_string())]].concat();
    assert_eq!(database.host_execute(store::Statement { sql, params }).await.unwrap(), 1);
}

async fn no_more_run_than_may_and_all_end(scratch: Scratch) {
    let waits = std::iter::repeat_n(Does::Waits, 4).collect();
    let script = Script::default();
    script.does.lock().unwrap().insert("act a".into(), waits);
    let definitions = [saga("pay", [step("a"), step("b")])];
    let settings = Settings { concurrency: 4, ..settings() };
    let sagas = opened(&database(&scratch).await, &definitions, &script, settings).await;
    let ids = (0..40).map(|id| id.to_string()).collect::<Vec<_>>();
    for start in join_all(ids.iter().map(|id| sagas.start("pay", id, b"{}"))).await {
        start.unwrap();
    }
    script.called(4).await;
    assert_eq!((script.out.borrow().0, sagas.counts().under_way()), (4, 40));
    script.open.send_replace(true);
    for id in &ids {
        assert_eq!(ended(&sagas, "pay", id).await.status, Status::Completed);
    }
    assert_eq!((script.out.borrow().1, script.calls().len(), sagas.counts().under_way()), (4, 80, 0));
}

async fn no_more_are_under_way_than_may(scratch: Scratch) {
    let script = Script::new([("act a", Does::Waits)]);
    let definitions = [saga("pay", [step("a")])];
    let sagas = opened(&database(&scratch).await, &definitions, &script, Settings { max: 1, ..settings() }).await;
    sagas.start("pay", "1", b"{}").await.unwrap();
    assert!(sagas.start("pay", "1", b"{}").await.is_ok());
    let Err(Error::Fault(full)) = sagas.start("pay", "2", b"{}").await else { panic!("it is full") };
    assert_eq!(full.kind(), FaultKind::Overloaded);
    script.open.send_replace(true);
    ended(&sagas, "pay", "1").await;
    sagas.start("pay", "2", b"{}").await.unwrap();
    ended(&sagas, "pay", "2").await;
}

async fn other_settings_take_effect_while_it_runs(scratch: Scratch) {
    let script = Script::new([("act b", Does::Fault(FaultKind::Trapped))]);
    script.does.lock().unwrap().insert("act a".into(), std::iter::repeat_n(Does::Waits, 4).collect());
    let definitions = [saga("pay", [step("a")]), saga("fails", [step("b")])];
    let few = Settings { concurrency: 1, max: 4, ..settings() };
    let sagas = opened(&database(&scratch).await, &definitions, &script, few).await;
    for id in ["1", "2", "3", "4"] {
        sagas.start("pay", id, b"{}").await.unwrap();
    }
    script.called(1).await;
    assert!(matches!(sagas.start("pay", "5", b"{}").await, Err(Error::Fault(_))));
    assert_eq!(script.calls().len(), 1);
    let more = Settings { concurrency: 4, max: 5, attempts: 1, ..settings() };
    sagas.set_settings(more.clone());
    script.called(4).await;
    sagas.start("pay", "5", b"{}").await.unwrap();
    script.open.send_replace(true);
    for id in ["1", "2", "3", "4", "5"] {
        assert_eq!(ended(&sagas, "pay", id).await.status, Status::Completed);
    }
    sagas.start("fails", "1", b"{}").await.unwrap();
    assert_eq!(ended(&sagas, "fails", "1").await.status, Status::Compensated);
    let all = Filter { limit: 9, ..Filter::default() };
    assert_eq!(sagas.list(&all).await.unwrap().sagas.len(), 6);
    let now = Timestamp::now();
    // What ended in this very millisecond is kept.
    while Timestamp::now().duration_since(now).as_millis() < 2 {
        tokio::task::yield_now().await;
    }
    sagas.set_settings(Settings { keep: Duration::ZERO, ..more });
    while !sagas.list(&all).await.unwrap().sagas.is_empty() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn what_is_under_way_at_the_end_is_let_end(scratch: Scratch) {
    let (database, script) = (database(&scratch).await, Script::new([("act a", Does::Waits), ("act b", Does::Hangs)]));
    let once = |name: &str| Step { repeatable: false, ..step(name) };
    let definitions = [saga("pay", [once("a"), once("b"), once("c")])];
    let sagas = opened(&database, &definitions, &script, settings()).await;
    sagas.start("pay", "1", b"{}").await.unwrap();
    script.called(1).await;
    let (closing, clone, opening) = (sagas.clone(), script.clone(), script.open.clone());
    let close = tokio::spawn(async move { closing.close(soon()).await });
    while sagas.start("pay", "1", b"{}").await.is_ok() {
        tokio::task::yield_now().await;
    }
    opening.send_replace(true);
    close.await.unwrap();
    assert_eq!(clone.calls().iter().filter(|call| *call == "act b").count(), 0, "{:?}", clone.calls());
    // It is known that the first is done. The second does not end in time, and nobody knows what it has done.
    let sagas = opened(&database, &definitions, &script, settings()).await;
    script
        .calls
        .subscribe()
        .wait_for(|calls| calls.iter().any(|call| call.id.as_ref() == "1" && call.step == "b"))
        .await
        .unwrap();
    sagas.close(Instant::now()).await;
    let sagas = opened(&database, &definitions, &script, settings()).await;
    let end = ended(&sagas, "pay", "1").await;
    assert_eq!(end.status, Status::Compensated);
    let calls = script.calls.borrow().iter().filter(|call| &*call.id == "1").map(name).collect::<Vec<_>>();
    assert_eq!(calls, ["act a", "act b", "undo b", "undo a"]);
}

async fn pages_have_all_and_what_ended_is_forgotten(scratch: Scratch) {
    let (database, script) = (database(&scratch).await, Script::default());
    let definitions = [saga("pay", [step("a")]), saga("wait", [awaiting("a", "settled")])];
    let sagas = opened(&database, &definitions, &script, settings()).await;
    for id in 0..7 {
        sagas.start("pay", &id.to_string(), b"{}").await.unwrap();
        ended(&sagas, "pay", &id.to_string()).await;
    }
    sagas.start("wait", "w", b"{}").await.unwrap();
    let (mut filter, mut ids) = (Filter { limit: 3, ..Filter::default() }, Vec::new());
    loop {
        let page = sagas.list(&filter).await.unwrap();
        assert!(page.sagas.len() <= 3);
        ids.extend(page.sagas.into_iter().map(|saga| saga.id));
        filter.after = page.next;
        if page.next.is_none() {
            break;
        }
    }
    assert_eq!(ids, ["w", "6", "5", "4", "3", "2", "1", "0"]);
    let running = Filter { status: Some(Status::Running), limit: 9, ..Filter::default() };
    assert_eq!(sagas.list(&running).await.unwrap().sagas.len(), 1);
    let named = Filter { saga: Some("pay".into()), limit: 9, ..Filter::default() };
    assert_eq!(sagas.list(&named).await.unwrap().sagas.len(), 7);
    drop(sagas);
    let settings = Settings { keep: Duration::ZERO, forget_every: Duration::from_millis(5), ..settings() };
    let sagas = opened(&database, &definitions, &script, settings).await;
    while !sagas.list(&named).await.unwrap().sagas.is_empty() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(sagas.get("wait", "w").await.unwrap().status, Status::Running);
}

async fn results_that_are_none_are_not_merged(scratch: Scratch) {
    let script = Script::new([("act a", Does::Done("[1]")), ("act a", Does::Done(r#"{"a":1}"#))]);
    let sagas = opened(&database(&scratch).await, &[saga("pay", [step("a")])], &script, settings()).await;
    sagas.start("pay", "1", b"{}").await.unwrap();
    let end = ended(&sagas, "pay", "1").await;
    assert_eq!((end.status, &*end.state), (Status::Completed, &br#"{"a":1}"#[..]));
    assert_eq!(script.calls().len(), 2);
}

/// What waits is a row, and next to nothing in memory.
#[tokio::test]
async fn ten_thousand_that_wait_take_little_memory() {
    const SAGAS: usize = 10_000;
    let scratch = Scratch::sqlite();
    let (database, script) = (database(&scratch).await, Script::default());
    let definitions = [saga("pay", [awaiting("a", "settled")])];
    let sagas = opened(&database, &definitions, &script, settings()).await;
    let input = format!("{{\"note\":\"{}\"}}", "x".repeat(4_000));
    let ids = (0..SAGAS).map(|id| id.to_string()).collect::<Vec<_>>();
    for ids in ids.chunks(500) {
        let starts = join_all(ids.iter().map(|id| sagas.start("pay", id, input.as_bytes()))).await;
        starts.into_iter().for_each(|start| drop(start.unwrap()));
    }
    while sagas.active() > 0 {
        tokio::task::yield_now().await;
    }
    let held = sagas.held();
    assert!(held < SAGAS * 150, "{held} bytes are held");
    // Also where they are taken up again.
    drop(sagas);
    let sagas = opened(&database, &definitions, &script, settings()).await;
    assert_eq!((sagas.counts().under_way(), sagas.active()), (SAGAS, 0));
    assert!(sagas.held() < SAGAS * 150, "{} bytes are held", sagas.held());
    sagas.deliver(event("settled", "7777", "x")).await.unwrap();
    assert_eq!(ended(&sagas, "pay", "7777").await.status, Status::Completed);
}
