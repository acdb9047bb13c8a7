//! Typed links between components.

use super::{
    components::{bytes_leaf, bytes_relay, leaf, relay},
    house::{House, component, context, plan, within},
};
use crate::{
    policy::{FaultKind, FunctionList},
    service::{Grants, MOST_BYTES, Shape, Tape, misfits},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

fn chain() -> Vec<super::house::Plan> {
    vec![
        plan("a", relay("t:a/work", "t:b/work"), &["b"]),
        plan("b", relay("t:b/work", "t:c/work"), &["c"]),
        plan("c", leaf("t:c/work"), &[]),
    ]
}

#[tokio::test(start_paused = true)]
async fn calls_nest() {
    let house = House::new(chain()).await;
    assert_eq!(house.call("a", "add", &[20, 22]).await, Ok(42), "by synchronous imports");
    assert_eq!(house.call("a", "sleep", &[10]).await, Ok(1), "by asynchronous imports");
    house.quiet().await;
    for service in ["a", "b", "c"] {
        assert_eq!(house.instances(service).at_rest, 1, "{service}");
    }
}

#[tokio::test]
async fn calls_that_wait_for_nothing_take_one_poll() {
    let house = House::new(chain()).await;
    let mut answers = Vec::new();
    // A guest that is just running when the epoch clock ticks yields, so not every call gets there.
    for _ in 0..200 {
        answers.push(futures::future::poll_immediate(house.call("a", "add", &[1, 2])).await);
    }
    assert!(answers.contains(&Some(Ok(3))), "three services in one poll of one task: {answers:?}");
}

#[tokio::test(start_paused = true)]
async fn the_deadline_travels_with_the_call() {
    let house = House::new(chain()).await;
    let begun = tokio::time::Instant::now();
    let fault = house.call_within(within(Duration::from_millis(30)), "a", "sleep", &[1000]).await.unwrap_err();
    assert_eq!(fault.kind(), FaultKind::DeadlineExceeded);
    assert_eq!(begun.elapsed().as_millis() / 10, 3);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_too_late_traps_nobody() {
    let [a, b, c] = <[_; 3]>::try_from(chain()).ok().unwrap();
    let house = House::new(vec![a.with(|it| it.max = 1), b, c]).await;
    let (late, other) = tokio::join!(
        house.call_within(within(Duration::from_millis(30)), "a", "sleep", &[1000]),
        house.call("a", "sleep", &[100]),
    );
    assert_eq!(late.unwrap_err().kind(), FaultKind::DeadlineExceeded);
    assert!(other.is_ok(), "{other:?}");
}

#[tokio::test]
async fn a_fault_without_a_place_in_the_result_fails_the_caller() {
    let house = House::new(chain()).await;
    let fault = house.call("a", "trap", &[]).await.unwrap_err();
    assert_eq!(fault.kind(), FaultKind::Trapped);
    assert_eq!(
        fault.message(),
        "service `a` trapped: `trap` of `t:b/work` failed on `a -> b`, and its result has no case `fault(fault)` to say \
         so: trapped: service `b` trapped: `trap` of `t:c/work` failed on `b -> c`, and its result has no case \
         `fault(fault)` to say so: trapped: service `c` trapped: wasm trap: wasm `unreachable` instruction executed"
    );
    assert_eq!(house.call("a", "add", &[1, 1]).await, Ok(2));
}

fn bytes_chain() -> Vec<super::house::Plan> {
    vec![
        plan("a", bytes_relay("t:a/work", "t:b/work"), &["b"]).with_memory(96 << 20),
        plan("b", bytes_leaf("t:b/work"), &[]).with_memory(64 << 20),
    ]
}

fn list_of(bytes: &[u8]) -> Tape {
    [&u32::try_from(bytes.len()).unwrap().to_le_bytes(), bytes].concat().into()
}

#[tokio::test]
async fn bytes_come_back_as_they_went_up_to_the_limit() {
    let house = House::new(bytes_chain()).await;
    for count in [0, 1, 64 << 10, 4 << 20, MOST_BYTES] {
        let bytes: Vec<u8> = (0..count).map(|n| (n % 251) as u8).collect();
        let back = house.call_with(context(), "a", "echo", list_of(&bytes)).await.unwrap();
        assert!(back == list_of(&bytes), "{count} bytes came back as others");
    }
    house.quiet().await;
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_a_fault_that_leaves_its_instance_alive() {
    let house = House::new(bytes_chain()).await;
    assert_eq!(house.call("b", "count", &[]).await, Ok(1));
    let flood = |bytes: usize| {
        let bytes = u32::try_from(bytes).unwrap().to_le_bytes();
        house.call_with(context(), "b", "flood", bytes.to_vec().into())
    };
    assert_eq!(flood(MOST_BYTES).await.unwrap().as_bytes().len(), 4 + MOST_BYTES);
    let fault = flood(MOST_BYTES + 1).await.unwrap_err();
    assert_eq!(fault.kind(), FaultKind::Trapped);
    assert_eq!(
        fault.message(),
        "service `b` answered `flood` of `t:b/work` with more than a call carries in one direction (16 MiB, 1048576 \
         values)"
    );
    assert_eq!(house.call("b", "count", &[]).await, Ok(4), "in the same instance");
    let fault =
        house.call_with(context(), "a", "flood", 17_000_000_u32.to_le_bytes().to_vec().into()).await.unwrap_err();
    assert!(fault.message().contains("`flood` of `t:b/work` failed on `a -> b`"), "{fault}");
}

#[tokio::test]
async fn parameters_that_are_too_large_are_not_sent() {
    let house = House::new(bytes_chain()).await;
    // The host's own calls are not bounded.
    let fault = house.call_with(context(), "a", "echo", list_of(&vec![7; MOST_BYTES + 1])).await.unwrap_err();
    let expected = "so: denied: `echo` of `t:b/work` was called with more than a call carries in one direction (16 MiB, \
                    1048576 values)";
    assert!(fault.message().ends_with(expected), "{fault}");
    assert_eq!(house.call("b", "count", &[]).await, Ok(1), "nothing came");
}

/// Whoever does not take what it asked for can't make the host keep any amount of it.
#[tokio::test]
async fn what_an_instance_has_on_its_way_is_bounded() {
    let house = House::new(bytes_chain()).await;
    let flood = || {
        let bytes = u32::try_from(MOST_BYTES).unwrap().to_le_bytes();
        house.call_with(context(), "b", "flood", bytes.to_vec().into())
    };
    let mut taken = vec![flood().await.unwrap(), flood().await.unwrap(), flood().await.unwrap()];
    let fault = flood().await.unwrap_err();
    assert_eq!(
        fault.message(),
        "service `b` answered `flood` of `t:b/work` with more than one instance may have on its way at a time (64 MiB)"
    );
    taken.pop();
    assert!(flood().await.is_ok());
    assert_eq!(house.call("b", "count", &[]).await, Ok(6), "in the same instance");
}

/// An old revision may still call while a new one of its callee has taken over.
#[tokio::test]
async fn a_callee_that_has_changed_its_types_is_not_called() {
    let house = House::new(chain()).await;
    let other = plan("c", offers("t:c/work", r#"(param "n" u32) (result u32)"#).replace("\"f\"", "\"add\""), &[]);
    house.services["c"].swap(Some(Arc::new(house.revision(&other).unwrap())));
    let fault = house.call("b", "add", &[1, 2]).await.unwrap_err();
    assert!(
        fault
            .message()
            .ends_with("unreachable: service `c` exports no function `add` of `t:c/work` with the types of this call"),
        "{fault}"
    );
}

fn misfits_of(services: &[(&str, String, &[&str])]) -> Vec<String> {
    let shapes: BTreeMap<_, _> =
        services.iter().map(|(name, wat, _)| (name.to_string(), Arc::new(Shape::of(&component(wat))))).collect();
    let grants = services.iter().map(|(name, _, calls)| {
        let calls = calls.iter().map(ToString::to_string).collect();
        (name.to_string(), Grants { calls, ..Grants::default() })
    });
    misfits(&shapes, &grants.collect()).into_iter().map(|it| format!("{} {}", it.service, it.message)).collect()
}

#[test]
fn functions_that_a_policy_names_are_held_against_the_callee() {
    let shape = |wat: &str| Arc::new(Shape::of(&component(wat)));
    let function = "(param \"n\" s32) (result s32)";
    let found = |callee: &str, names: &[&str]| {
        let shapes = [("a".to_owned(), shape("(component)")), ("b".to_owned(), shape(callee))].into();
        let functions = names.iter().map(|name| ("b".into(), FunctionList::Idempotent, (*name).into())).collect();
        let grants = [("a".to_owned(), Grants { functions, ..Grants::default() })].into();
        misfits(&shapes, &grants).into_iter().map(|it| it.to_string()).collect::<Vec<_>>()
    };
    let b = offers("t:b/work@1.0.0", function);
    assert_eq!(found(&b, &["f", "t:b/work.f", "t:b/work@1.0.0.f"]), [""; 0]);
    let has = "service `a` has";
    assert_eq!(
        found(&b, &["x", "place", "t:b/work.g\n"]),
        [
            format!("{has} `x` in `retry.idempotent`, a function that `b` does not export; its functions are `f`"),
            format!("{has} `place` in `retry.idempotent`, a function that `b` does not export; its functions are `f`"),
            format!(
                "{has} `t:b/work.g\\n` in `retry.idempotent`, a function that `b` does not export (did you mean \
                 `t:b/work.f`?)"
            ),
        ]
    );
    let none = "and `b` exports no functions for its neighbours";
    assert_eq!(found("(component)", &["f"]), [format!("{has} `f` in `retry.idempotent`, {none}")]);
}

fn offers(interface: &str, function: &str) -> String {
    format!(
        r#"(component
             (core module $m (func (export "f") (param i32) (result i32) (local.get 0)))
             (core instance $i (instantiate $m))
             (func $f {function} (canon lift (core func $i "f")))
             (instance $out (export "f" (func $f)))
             (export "{interface}" (instance $out)))"#
    )
}

fn wants(interface: &str, function: &str) -> String {
    format!(r#"(component (import "{interface}" (instance (export "f" (func {function})))))"#)
}

#[test]
fn what_does_not_fit_is_told_with_both_sides() {
    let u32s = r#"(param "n" u32) (result u32)"#;
    let bool = r#"(param "n" u32) (result bool)"#;
    assert_eq!(misfits_of(&[("a", wants("t:b/x", u32s), &["b"]), ("b", offers("t:b/x", u32s), &[])]), [""; 0]);
    assert_eq!(
        misfits_of(&[("a", wants("t:b/x", bool), &["b"]), ("b", offers("t:b/x", u32s), &[])]),
        ["a `f` of `t:b/x` is not what `b` exports\n  \
          result: expected `bool`, found `u32`\n  \
          expected: func(n: u32) -> bool\n  \
          found:    func(n: u32) -> u32"]
    );
    assert_eq!(
        misfits_of(&[("a", wants("t:b/x", u32s), &[]), ("b", offers("t:b/x", u32s), &[])]),
        ["a imports `t:b/x`, which `b` exports, but `services.a.calls` does not name it"]
    );
    assert_eq!(
        misfits_of(&[("a", wants("t:b/x", u32s), &["b"]), ("b", offers("t:b/y", u32s), &[])]),
        ["a imports `t:b/x`, which neither the host nor any service of the manifest offers"]
    );
    assert_eq!(
        misfits_of(&[
            ("a", wants("t:b/x", u32s), &["b", "c"]),
            ("b", offers("t:b/x", u32s), &[]),
            ("c", offers("t:b/x", u32s), &[])
        ]),
        ["a imports `t:b/x`, and `b` and `c` all export it: leave one of them in `services.a.calls`"]
    );
}

#[test]
fn resources_do_not_travel() {
    let importer = r#"(component (import "t:b/x" (instance
        (export "r" (type $r (sub resource)))
        (export "f" (func (param "r" (own $r)))))))"#;
    let found =
        misfits_of(&[("a", importer.into(), &["b"]), ("b", offers("t:b/x", r#"(param "n" u32) (result u32)"#), &[])]);
    assert_eq!(
        found,
        [
            "a `f` of `t:b/x` has a resource in its type, which can't pass from one service to another: use plain values \
          (records, variants, lists, options, results)"
        ]
    );
}
