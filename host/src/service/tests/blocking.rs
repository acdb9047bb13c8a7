//! Guests that wait in a synchronous import, and what becomes of the other calls in their instances.
//!
//! wasmtime lets nothing go on in a store meanwhile (its issues #11869 and #11870). What is promised all the same: nobody
//! waits beyond a deadline, no call is lost, and calls that have not begun go elsewhere where there is an elsewhere.

use super::{
    components::{leaf, relay},
    house::{House, Plan, context, plan, within},
};
use crate::policy::{Fault, FaultKind};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// One instance, for several calls at a time.
fn shared() -> Plan {
    plan("leaf", leaf("t:leaf/work"), &[]).with(|it| (it.max, it.concurrency) = (1, 4))
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

struct End {
    answer: Result<u32, Fault>,
    /// When it came, in milliseconds.
    at: u128,
}

/// Calls a function with a number, some milliseconds after `begun`.
async fn call(house: &House, begun: Instant, after: u64, limit: Duration, function: &str, param: &[u32]) -> End {
    sleep(begun + ms(after) - Instant::now()).await;
    let service = if house.services.contains_key("relay") { "relay" } else { "leaf" };
    let answer = house.call_within(within(limit), service, function, param).await;
    End { answer, at: begun.elapsed().as_millis() }
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn calls_beside_it_go_on_when_it_is_done() {
    let house = House::new(vec![shared()]).await;
    let begun = Instant::now();
    let (slept, held, late) = tokio::join!(
        call(&house, begun, 0, LONG, "sleep", &[50]),
        call(&house, begun, 10, LONG, "hold", &[200]),
        call(&house, begun, 20, LONG, "count", &[]),
    );
    assert!((210..220).contains(&held.at), "{}", held.at);
    assert!((210..220).contains(&slept.at), "it was ready at 50, in a store that was held: {}", slept.at);
    assert!((210..220).contains(&late.at), "there is no other instance: {}", late.at);
    assert_eq!(held.answer, Ok(0));
    assert!(slept.answer.is_ok(), "{:?}", slept.answer);
    assert_eq!(late.answer, Ok(2), "in the same instance, after the sleeper");
    house.quiet().await;
    assert_eq!(house.instances("leaf").at_rest, 1);
}

#[tokio::test(start_paused = true)]
async fn their_deadlines_hold_from_outside() {
    let house = House::new(vec![shared()]).await;
    let begun = Instant::now();
    let (slept, held, waited) = tokio::join!(
        call(&house, begun, 0, ms(100), "sleep", &[50]),
        call(&house, begun, 10, LONG, "hold", &[300]),
        call(&house, begun, 20, ms(40), "count", &[]),
    );
    for (end, at) in [(&slept, 100), (&waited, 60)] {
        let fault = end.answer.as_ref().unwrap_err();
        assert_eq!(fault.kind(), FaultKind::DeadlineExceeded, "{fault}");
        assert!((at..at + 10).contains(&end.at), "{at}: {}", end.at);
    }
    assert_eq!(held.answer, Ok(0), "whoever holds the store is not harmed");
    assert!((310..320).contains(&held.at), "{}", held.at);
    house.quiet().await;
    // Whether that instance still serves depends on whether the sleeper came to its end in the same poll as the holder.
    let next = house.call("leaf", "count", &[]).await;
    assert!(matches!(next, Ok(1 | 2)), "the call that gave up in the queue was never begun: {next:?}");
}

#[tokio::test(start_paused = true)]
async fn its_own_deadline_holds_and_takes_nobody_along() {
    let house = House::new(vec![shared()]).await;
    let begun = Instant::now();
    let (slept, held) =
        tokio::join!(call(&house, begun, 0, LONG, "sleep", &[50]), call(&house, begun, 10, ms(100), "hold", &[5000]),);
    assert_eq!(held.answer.unwrap_err().kind(), FaultKind::DeadlineExceeded);
    assert!((110..120).contains(&held.at), "{}", held.at);
    assert!(slept.answer.is_ok(), "{:?}", slept.answer);
    assert!((5010..5020).contains(&slept.at), "only the guest itself lets the store go: {}", slept.at);
    house.quiet().await;
}

/// As with any other call that was given up, the store goes as soon as nobody waits for anything in it.
#[tokio::test(start_paused = true)]
async fn a_held_store_goes_with_its_last_caller() {
    let house = House::new(vec![shared()]).await;
    let begun = Instant::now();
    let (slept, held, next) = tokio::join!(
        call(&house, begun, 0, ms(200), "sleep", &[50]),
        call(&house, begun, 10, ms(100), "hold", &[600_000]),
        call(&house, begun, 20, LONG, "count", &[]),
    );
    for (end, at) in [(slept, 200), (held, 110)] {
        assert_eq!(end.answer.unwrap_err().kind(), FaultKind::DeadlineExceeded);
        assert!((at..at + 10).contains(&end.at), "{at}: {}", end.at);
    }
    assert_eq!(next.answer, Ok(1), "in an instance of its own");
    assert!((200..210).contains(&next.at), "as soon as there was room for one: {}", next.at);
    house.quiet().await;
}

/// A typed link is a synchronous import as well, where its function is not async.
#[tokio::test(start_paused = true)]
async fn so_it_is_with_a_typed_link_that_blocks() {
    let chain = || {
        vec![
            plan("relay", relay("t:relay/work", "t:leaf/work"), &["leaf"]).with(|it| (it.max, it.concurrency) = (1, 4)),
            plan("leaf", leaf("t:leaf/work"), &[]),
        ]
    };
    let house = House::new(chain()).await;
    let begun = Instant::now();
    let (slept, held, late, expired) = tokio::join!(
        call(&house, begun, 0, LONG, "sleep", &[50]),
        call(&house, begun, 10, LONG, "hold", &[200]),
        call(&house, begun, 20, LONG, "add", &[40, 2]),
        call(&house, begun, 20, ms(40), "add", &[40, 2]),
    );
    assert_eq!((slept.answer.is_ok(), held.answer, late.answer), (true, Ok(0), Ok(42)), "{:?}", slept.answer);
    for at in [slept.at, held.at, late.at] {
        assert!((210..220).contains(&at), "{at}");
    }
    assert_eq!(expired.answer.unwrap_err().kind(), FaultKind::DeadlineExceeded);
    assert!((60..70).contains(&expired.at), "{}", expired.at);
    house.quiet().await;

    let house = House::new(chain()).await;
    let begun = Instant::now();
    let held = call(&house, begun, 0, ms(100), "hold", &[5000]).await;
    assert_eq!(held.answer.unwrap_err().kind(), FaultKind::DeadlineExceeded);
    assert!((100..110).contains(&held.at), "{}", held.at);
    house.quiet().await;
    for service in ["relay", "leaf"] {
        assert_eq!(house.instances(service).at_rest, 0, "{service} goes with the call");
    }
    assert_eq!(house.call_within(context(), "relay", "add", &[1, 1]).await, Ok(2));
}
