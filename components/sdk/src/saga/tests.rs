use super::{definition::difference, *};
use crate::{
    Error as Answer, db,
    fault::{Fault, FaultKind},
};
use futures::FutureExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Serialize, Deserialize)]
struct Trip {
    city: String,
    flight: Option<u32>,
    #[serde(default)]
    rooms: Vec<u32>,
}

async fn book(step: &Step, trip: &mut Trip) -> Result {
    trip.flight = Some(step.attempt);
    Ok(())
}

async fn cancel(_: &Step, trip: &mut Trip) -> Result {
    trip.flight = None;
    Ok(())
}

async fn refuse(step: &Step, _: &mut Trip) -> Result {
    Err(failed(format_args!("no {}", step.name)))
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("it waits for nothing")
}

fn trip() -> Saga<Trip> {
    Saga::new("trip")
        .timeout(Duration::from_secs(600))
        .step("flight", book)
        .undo(cancel)
        .beside("hotel", refuse)
        .once()
        .step("pay", book)
        .wait_for_event("offer.accepted", Duration::from_secs(1))
        .step("fly", book)
        .wait(Duration::from_millis(5))
}

fn call(step: &str, state: &Value) -> Call {
    Call {
        saga: "trip".into(),
        id: "7".into(),
        step: step.into(),
        key: format!("trips/trip/7/{step}"),
        attempt: 3,
        started_at: "2026-11-24T09:00:00Z".into(),
        state: state.to_string().into_bytes(),
        event: None,
        reason: None,
    }
}

fn patch(outcome: Outcome) -> Value {
    match outcome {
        Outcome::Done(patch) => serde_json::from_slice(&patch).expect("it is JSON"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_definition_is_what_was_said() {
    let definition = trip().erase().definition;
    assert_eq!((definition.name.as_str(), definition.timeout_ms), ("trip", Some(600_000)));
    let said: Vec<_> =
        definition.steps.iter().map(|it| (it.name.as_str(), it.beside, it.compensates, it.repeatable)).collect();
    let expected = [
        ("flight", false, true, true),
        ("hotel", true, false, false),
        ("pay", false, false, true),
        ("fly", false, false, true),
    ];
    assert_eq!(said, expected);
    let event = types::Awaited::Event("offer.accepted".into());
    assert_eq!(definition.steps[2].wait, Some(types::Wait { until: event, timeout_ms: Some(1_000) }));
    let time = types::Awaited::Time(5);
    assert_eq!(definition.steps[3].wait, Some(types::Wait { until: time, timeout_ms: None }));
}

#[test]
fn a_step_gives_what_it_has_changed_and_nothing_else() {
    let sagas = Sagas::new([trip().erase()]);
    let state = json!({ "city": "Rome", "someone-else's": 1, "rooms": [1] });
    // What the type does not know, another revision may have left there.
    let done = patch(block_on(sagas.act(call("flight", &state))));
    assert_eq!(done, json!({ "flight": 3 }));
    let undone =
        patch(block_on(sagas.compensate(call("flight", &json!({ "city": "Rome", "flight": 3, "rooms": [] })))));
    assert_eq!(undone, json!({ "flight": null }));
    assert_eq!(block_on(sagas.act(call("hotel", &state))), Outcome::Failed("no hotel".into()));
}

#[test]
fn what_is_not_there_is_for_another_revision() {
    let sagas = Sagas::new([trip().erase()]);
    for outcome in
        [block_on(sagas.act(call("train", &json!({})))), block_on(sagas.compensate(call("hotel", &json!({}))))]
    {
        assert!(matches!(&outcome, Outcome::Retry(again) if again.reason.starts_with("this revision has no step")));
    }
    let outcome = block_on(sagas.act(call("flight", &json!({ "city": 1 }))));
    assert!(matches!(&outcome, Outcome::Failed(reason) if reason.contains("the state is not that of the saga")));
}

/// RFC 7396, section 2.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else { return *target = patch.clone() };
    if !target.is_object() {
        *target = json!({});
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

#[test]
fn a_difference_is_the_patch_that_makes_it() {
    for (before, after, expected) in [
        (json!({}), json!({}), json!({})),
        (json!({ "a": 1 }), json!({ "a": 1 }), json!({})),
        (json!({ "a": 1 }), json!({ "a": 2, "b": "x" }), json!({ "a": 2, "b": "x" })),
        (json!({ "a": 1, "b": 2 }), json!({ "b": 2 }), json!({ "a": null })),
        (json!({ "a": 1 }), json!({ "a": null }), json!({ "a": null })),
        (json!({}), json!({ "a": null }), json!({})),
        (json!({ "a": null }), json!({}), json!({})),
        (json!({ "a": { "b": 1, "c": 2 } }), json!({ "a": { "b": 1, "c": 3 } }), json!({ "a": { "c": 3 } })),
        (json!({ "a": { "b": 1 } }), json!({ "a": {} }), json!({ "a": { "b": null } })),
        (json!({ "a": { "b": 1 } }), json!({ "a": 5 }), json!({ "a": 5 })),
        (json!({ "a": 5 }), json!({ "a": {} }), json!({ "a": {} })),
        (json!({ "a": [1, 2] }), json!({ "a": [2, 1] }), json!({ "a": [2, 1] })),
    ] {
        let (Value::Object(from), Value::Object(to)) = (&before, after.clone()) else { panic!("objects") };
        let patch = Value::Object(difference(from, to));
        assert_eq!(patch, expected, "{before} -> {after}");
        let mut made = before.clone();
        merge(&mut made, &patch);
        let mut wanted = json!({});
        merge(&mut wanted, &after);
        let mut found = json!({});
        merge(&mut found, &made);
        assert_eq!(found, wanted, "{before} -> {after}");
    }
}

#[test]
fn question_marks_do_what_is_meant() {
    let fault = Fault { kind: FaultKind::Overloaded, message: "busy".into(), retry_after_ms: Some(1_500) };
    assert_eq!(Error::from(fault), retry_after(Duration::from_millis(1_500), "overloaded: busy"));
    assert_eq!(Error::from(Answer::conflict("sold out")), failed("sold out"));
    assert_eq!(Error::from(Answer::not_found("no such")), failed("no such"));
    assert_eq!(Error::from(Answer::unavailable("not now")), retry("not now"));
    assert!(matches!(Error::from(db::Error::Busy("full".into())), Error::Retry { .. }));
    assert_eq!(
        Error::from(Refused::Invalid("no".into())).to_string(),
        failed(Refused::Invalid("no".into())).to_string()
    );
    let again = Outcome::from(retry_after(Duration::from_secs(1), "later"));
    assert_eq!(again, Outcome::Retry(types::Again { reason: "later".into(), after_ms: Some(1_000) }));
}

#[test]
fn a_compensation_knows_the_key_of_its_action() {
    let mut call = call("flight", &json!({}));
    call.key = "trips/trip/7/compensate/compensate".into();
    call.reason = Some("no".into());
    assert_eq!(Step::from(call.clone()).key_of_action(), "trips/trip/7/compensate");
    (call.key, call.reason) = ("trips/trip/7/compensate".into(), None);
    assert_eq!(Step::from(call).key_of_action(), "trips/trip/7/compensate");
}

#[test]
#[should_panic(expected = "saga trip: this is said of the step before it, and there is none")]
fn what_is_said_of_no_step_is_a_mistake() {
    let _ = Saga::<Trip>::new("trip").once();
}
