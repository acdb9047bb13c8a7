//! Fixed results of functions, with real components and the rollout that puts them in place.

use super::{
    components::{bytes_leaf, bytes_relay, leaf, relay},
    house::{House, context, plan},
};
use crate::{
    policy::{
        FallbackParams, FallbackPolicy, Fault, FaultKind, FixedResult, Policy, PolicyParams, RetryPolicy, StaleParams,
        WaveText,
    },
    rollout::{DeployError, Past, Rollout},
    service::FixedResults,
};
use std::sync::Arc;

fn fallback(results: &[(&str, &str)]) -> FallbackParams {
    let fixed_results = results.iter().map(|(function, value)| FixedResult {
        function: (*function).into(),
        value: WaveText::try_new(*value).unwrap(),
    });
    FallbackParams { fixed_results: fixed_results.collect(), ..FallbackParams::default() }
}

fn policy(fallback: FallbackParams) -> Policy {
    let fallback = FallbackPolicy::try_new(fallback).unwrap();
    let (retry, breaker) = (RetryPolicy::never(), None);
    Policy::try_new(PolicyParams { retry, breaker, fallback, ..PolicyParams::default() }).unwrap()
}

/// `a`, which calls `b`, and a policy between them.
async fn house(a: String, b: &str, fallback: FallbackParams) -> House {
    let plans = [plan("a", a, &["b"]), plan("b", b.into(), &[])].map(|plan| plan.with_memory(96 << 20));
    let house = House::unstarted(&plans).await;
    house.edges[&("a", "b")].set_policy(policy(fallback));
    house
}

/// Starts `a` and `b`; what is wrong, if anything.
async fn start(house: &House, a: &str, b: &str) -> Result<Arc<Rollout>, Vec<String>> {
    let rollout = house.rollout();
    let started = rollout.start(house.loaded(&[("a", a), ("b", b)]).await).await;
    match started {
        Ok(()) => Ok(rollout),
        Err(DeployError::Misfit(found)) => Err(found.iter().map(ToString::to_string).collect()),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_fixed_result_takes_the_place_of_a_fault_and_comes_after_a_stale_one() {
    let (a, b) = (relay("t:a/work", "t:b/work"), leaf("t:b/work"));
    let stale = StaleParams { functions: vec!["add".into()], ..StaleParams::default() };
    let fallback = FallbackParams { stale: Some(stale), ..fallback(&[("add", "7"), ("t:b/work.sleep", "8")]) };
    let house = house(a.clone(), &b, fallback).await;
    let _rollout = start(&house, &a, &b).await.unwrap();
    assert_eq!(house.call("a", "add", &[1, 2]).await, Ok(3));
    house.services["b"].swap(None);
    assert_eq!(house.call("a", "add", &[1, 2]).await, Ok(3), "the stale one");
    assert_eq!(house.call("a", "add", &[5, 6]).await, Ok(7), "by a synchronous import");
    assert_eq!(house.call("a", "sleep", &[1]).await, Ok(8), "by an asynchronous import");
    assert!(house.call("a", "hold", &[1]).await.is_err(), "there is none for it");
    let edge = house.edges[&("a", "b")].snapshot();
    assert_eq!((edge.stale_answers, edge.fixed_answers), (1, 2));
}

#[tokio::test]
async fn bytes_are_given_too_as_often_as_they_are_asked_for() {
    let (a, b) = (bytes_relay("t:a/work", "t:b/work"), bytes_leaf("t:b/work"));
    let house = house(a.clone(), &b, fallback(&[("echo", "[1, 2, 255]")])).await;
    let _rollout = start(&house, &a, &b).await.unwrap();
    house.services["b"].swap(None);
    for _ in 0..3 {
        let given = house.call_with(context(), "a", "echo", vec![1, 0, 0, 0, 9].into()).await.unwrap();
        assert_eq!(given.as_bytes(), [3, 0, 0, 0, 1, 2, 255]);
    }
}

#[tokio::test]
async fn what_the_callee_would_not_give_is_refused_before_anything_runs() {
    let (a, b) = (relay("t:a/work", "t:b/work"), leaf("t:b/work"));
    for (result, expected) in [
        (
            ("add", "-1"),
            "service `a` has a fixed result for `add` of `t:b/work`, which is not what the function gives: expected `u32`, \
             found `-1` (character 1)\n  its type:   u32\n  the result: `-1`",
        ),
        (("trap", "1"), "service `a` has a fixed result for `trap` of `t:b/work`, which gives none: leave it out"),
        (
            ("sleeep", "1"),
            "service `a` has a fixed result for `sleeep`, a function that `b` does not export (did you mean `sleep`?)",
        ),
        (
            ("t:c/work.add", "1"),
            "service `a` has a fixed result for `t:c/work.add`, a function that `b` does not export (did you mean \
             `t:b/work.add`?)",
        ),
        (
            ("everything", "1"),
            "service `a` has a fixed result for `everything`, a function that `b` does not export; its functions are `add`, \
             `compute`, `count`, `grow`, `hold`, `sleep`, `spin`, `trap`",
        ),
    ] {
        let house = house(a.clone(), &b, fallback(&[result])).await;
        assert_eq!(start(&house, &a, &b).await.err(), Some(vec![expected.to_string()]));
        assert!(house.services["b"].revision().is_none());
    }
}

#[tokio::test]
async fn the_full_name_of_a_function_comes_before_its_short_one() {
    let (a, b) = (relay("t:a/work", "t:b/work"), leaf("t:b/work"));
    let house = house(a.clone(), &b, fallback(&[("t:b/work.add", "1"), ("add", "2")])).await;
    let _rollout = start(&house, &a, &b).await.unwrap();
    house.services["b"].swap(None);
    assert_eq!(house.call("a", "add", &[5, 6]).await, Ok(1));
}

/// A component with `f`, which gives a value of this type, and calls nobody.
fn gives(ty: &str) -> String {
    format!(
        r#"(component
             (core module $m (func (export "f") (result i32) (i32.const 1)))
             (core instance $i (instantiate $m))
             (func $f (result {ty}) (canon lift (core func $i "f")))
             (instance $out (export "f" (func $f)))
             (export "t:b/work" (instance $out)))"#
    )
}

#[tokio::test]
async fn a_deploy_is_refused_where_the_new_component_gives_something_else() {
    let alone = "(component)";
    let house = house(alone.into(), &gives("u32"), fallback(&[("f", "7")])).await;
    let rollout = start(&house, alone, &gives("u32")).await.unwrap();
    let wasm = |wat: &str| wat::parse_str(wat).unwrap();
    let error = rollout.deploy("b", wasm(&gives("bool")), "test".into(), None, Past::Refused).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "service `a` has a fixed result for `f` of `t:b/work`, which is not what the function gives: expected `bool`, found \
         `7` (character 1)\n  its type:   bool\n  the result: `7`"
    );
    assert_eq!(house.services["b"].revision().unwrap().info().number, 1, "the old one goes on");
    rollout.deploy("b", wasm(&gives("u8")), "test".into(), None, Past::Refused).await.unwrap();
    // And a policy is held against what runs now.
    let edge = &house.edges[&("a", "b")];
    let found = |value: &str| {
        let policy = FallbackPolicy::try_new(fallback(&[("f", value)])).unwrap();
        rollout.running().fixed_results("a", "b", &policy).map(|_: FixedResults| ()).map_err(|found| found.len())
    };
    assert_eq!((found("255"), found("256")), (Ok(()), Err(1)));
    edge.set_policy(policy(fallback(&[])));
    rollout.deploy("b", wasm(&gives("bool")), "test".into(), None, Past::Refused).await.unwrap();
}

/// An old revision of the caller may still be there when its callee has other types.
#[tokio::test]
async fn who_expects_another_type_gets_the_fault() {
    let (a, b) = (relay("t:a/work", "t:b/work"), leaf("t:b/work"));
    let house = house(a.clone(), &b, fallback(&[("add", "7")])).await;
    let _rollout = start(&house, &a, &b).await.unwrap();
    let other = crate::service::Shape::of(&super::house::component(&gives("u8").replace("\"f\"", "\"add\"")));
    let edge = &house.edges[&("a", "b")];
    edge.set_fixed_results(FixedResults::new("a", "b", &edge.fallback(), &other).unwrap());
    house.services["b"].swap(None);
    let fault: Fault = house.call("a", "add", &[1, 2]).await.unwrap_err();
    assert_eq!(fault.kind(), FaultKind::Trapped);
    assert!(fault.message().contains("unreachable: service `b` is not running"), "{fault}");
}
