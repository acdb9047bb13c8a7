use super::*;
use crate::policy::{
    Answer, Attempt, BreakerParams, BreakerPolicy, BreakerState, Deadline, Ended, Guard, HealthParams, PolicyParams,
    Repeat, TripReason,
};
use proptest::prelude::*;
use std::{collections::BTreeMap, time::Duration};
use tokio::time::advance;

const SECOND: Duration = Duration::from_secs(1);
const OPEN: Duration = Duration::from_secs(30);

fn outlier(max_ejected: u32) -> Option<OutlierPolicy> {
    let params = BreakerParams { failures: Some(2), open: OPEN, ..BreakerParams::default() };
    Some(OutlierPolicy::try_new(BreakerPolicy::try_new(params).unwrap(), max_ejected).unwrap())
}

/// A balancer over endpoints `a`, `b`, … whose targets are their numbers.
fn over(count: usize, max_ejected: u32, balance: Balance) -> Balancer<usize> {
    let balancer = Balancer::new("pay", policy(max_ejected, balance));
    balancer.replace((0..count).map(|at| (name(at), at)));
    balancer
}

fn policy(max_ejected: u32, balance: Balance) -> BalancePolicy {
    let health = HealthPolicy::try_new(HealthParams { healthy: 1, unhealthy: 1, ..HealthParams::default() }).unwrap();
    BalancePolicy { balance, outlier: outlier(max_ejected), health: Some(health) }
}

fn name(at: usize) -> String {
    char::from(b'a' + at as u8).to_string()
}

const GOOD: Ended = Ended::Status(200);
const BAD: Ended = Ended::Status(500);

/// Calls of an edge with a deadline of ten seconds.
struct Caller(Policy);

impl Caller {
    fn new() -> Self {
        Self(Policy::try_new(PolicyParams { deadline: 10 * SECOND, ..PolicyParams::default() }).unwrap())
    }

    fn attempt(&self) -> AttemptAt<'_> {
        AttemptAt { policy: &self.0, deadline: Instant::now() + 10 * SECOND }
    }

    /// A call that ends at once, in the way that the endpoint decides. Where it went.
    fn call(&self, balancer: &Balancer<usize>, ended: impl Fn(usize) -> Ended) -> Result<usize> {
        let choice = balancer.choice();
        let picked = choice.pick(self.attempt(), &Tried::default())?;
        let at = *picked.target();
        drop(picked.end(ended(at)));
        Ok(at)
    }

    /// How many of so many calls went to each endpoint.
    fn spread(
        &self,
        balancer: &Balancer<usize>,
        calls: usize,
        ended: impl Fn(usize) -> Ended,
    ) -> BTreeMap<usize, usize> {
        let mut spread = BTreeMap::new();
        for _ in 0..calls {
            *spread.entry(self.call(balancer, &ended).unwrap()).or_default() += 1;
        }
        spread
    }
}

fn standings(balancer: &Balancer<usize>) -> Vec<Standing> {
    balancer.snapshot().into_iter().map(|endpoint| endpoint.standing).collect()
}

/// A failing endpoint among others, until it is out.
fn fail(balancer: &Balancer<usize>, at: usize) {
    let choice = balancer.choice();
    let caller = Caller::new();
    for _ in 0..2 {
        let picked = choice.members.endpoints[at].enter(false, caller.attempt()).unwrap();
        drop(picked.end(BAD));
    }
}

#[tokio::test(start_paused = true)]
async fn each_endpoint_has_its_turn() {
    let (caller, balancer) = (Caller::new(), over(3, 50, Balance::RoundRobin));
    let turns: Vec<_> = (0..7).map(|_| caller.call(&balancer, |_| GOOD).unwrap()).collect();
    assert_eq!(turns, [0, 1, 2, 0, 1, 2, 0]);
}

#[tokio::test(start_paused = true)]
async fn turns_stay_even_while_some_are_out() {
    let (caller, balancer) = (Caller::new(), over(4, 50, Balance::RoundRobin));
    fail(&balancer, 1);
    fail(&balancer, 3);
    assert_eq!(caller.spread(&balancer, 100, |_| GOOD), BTreeMap::from([(0, 50), (2, 50)]));
    use Standing::{Ejected, Healthy};
    assert_eq!(standings(&balancer), [Healthy, Ejected, Healthy, Ejected]);
}

#[tokio::test(start_paused = true)]
async fn the_less_loaded_of_two_is_taken() {
    let (caller, balancer) = (Caller::new(), over(2, 50, Balance::LeastLoaded));
    let choice = balancer.choice();
    let first = choice.pick(caller.attempt(), &Tried::default()).unwrap();
    // Of two, always both are drawn.
    for _ in 0..100 {
        let second = choice.pick(caller.attempt(), &Tried::default()).unwrap();
        assert_ne!(first.target(), second.target());
        drop(second.end(GOOD));
    }
    assert_eq!(balancer.snapshot().iter().map(|it| it.in_flight).sum::<u64>(), 1);
    // An answer that streams keeps its place.
    let streaming = first.end(GOOD);
    assert_eq!(balancer.snapshot().iter().map(|it| it.in_flight).sum::<u64>(), 1);
    drop(streaming);
    assert_eq!(balancer.snapshot().iter().map(|it| it.in_flight).sum::<u64>(), 0);
}

#[tokio::test(start_paused = true)]
async fn least_loaded_never_starves_an_idle_endpoint() {
    let (caller, balancer) = (Caller::new(), over(5, 50, Balance::LeastLoaded));
    let spread = caller.spread(&balancer, 1000, |_| GOOD);
    assert!(spread.len() == 5 && spread.values().all(|calls| *calls > 100), "{spread:?}");
}

#[tokio::test(start_paused = true)]
async fn another_attempt_goes_elsewhere_while_there_is_somewhere_else() {
    let (caller, balancer) = (Caller::new(), over(3, 50, Balance::RoundRobin));
    for _ in 0..20 {
        let (choice, tried) = (balancer.choice(), Tried::default());
        let mut seen = Vec::new();
        for _ in 0..4 {
            let picked = choice.pick(caller.attempt(), &tried).unwrap();
            seen.push(*picked.target());
            drop(picked.end(GOOD));
        }
        let mut first_three = seen[..3].to_vec();
        first_three.sort_unstable();
        assert_eq!(first_three, [0, 1, 2], "{seen:?}");
    }
    // And takes nobody's turn: the first attempts alone are even.
    let firsts = caller.spread(&balancer, 30, |_| GOOD);
    assert!(firsts.values().all(|calls| *calls == 10), "{firsts:?}");
}

#[tokio::test(start_paused = true)]
async fn one_that_fails_is_out_for_its_open_time_and_back_after_a_probe() {
    let (caller, balancer) = (Caller::new(), over(2, 50, Balance::RoundRobin));
    let sick = |at| if at == 0 { BAD } else { GOOD };
    assert_eq!(caller.spread(&balancer, 4, sick), BTreeMap::from([(0, 2), (1, 2)]));
    assert_eq!(caller.spread(&balancer, 10, sick), BTreeMap::from([(1, 10)]));
    let shown = balancer.snapshot().remove(0);
    assert_eq!((shown.standing, shown.calls, shown.failures), (Standing::Ejected, 2, 2));
    assert_eq!(shown.reason.as_deref(), Some("2 failures in a row, the last: status 500"));

    // The probe fails, and it is out again.
    advance(OPEN).await;
    assert_eq!(standings(&balancer)[0], Standing::OnProbation);
    assert_eq!(caller.spread(&balancer, 10, sick)[&0], 1);
    assert_eq!(standings(&balancer)[0], Standing::Ejected);
    // The probe goes well.
    advance(OPEN).await;
    caller.spread(&balancer, 2, |_| GOOD);
    assert_eq!(standings(&balancer), [Standing::Healthy; 2]);
    assert_eq!(caller.spread(&balancer, 10, |_| GOOD), BTreeMap::from([(0, 5), (1, 5)]));
}

#[tokio::test(start_paused = true)]
async fn while_a_probe_is_under_way_the_others_go_elsewhere() {
    let (caller, balancer) = (Caller::new(), over(2, 50, Balance::RoundRobin));
    fail(&balancer, 0);
    assert_eq!(standings(&balancer)[0], Standing::Ejected);
    advance(OPEN).await;
    let choice = balancer.choice();
    let picks: Vec<_> = (0..10).map(|_| choice.pick(caller.attempt(), &Tried::default()).unwrap()).collect();
    assert_eq!(picks.iter().filter(|picked| *picked.target() == 0).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn no_more_are_out_than_the_cap_says_and_those_that_went_first_stay_out() {
    let (caller, balancer) = (Caller::new(), over(4, 50, Balance::RoundRobin));
    use Standing::{Ejected, Healthy, KeptIn, OnProbation};
    for (at, expected) in [
        (2, [Healthy, Healthy, Ejected, Healthy]),
        (0, [Ejected, Healthy, Ejected, Healthy]),
        (3, [Ejected, Healthy, Ejected, KeptIn]),
        (1, [Ejected, KeptIn, Ejected, KeptIn]),
    ] {
        advance(SECOND).await;
        fail(&balancer, at);
        assert_eq!(standings(&balancer), expected);
    }
    assert_eq!(caller.spread(&balancer, 10, |_| BAD), BTreeMap::from([(1, 5), (3, 5)]));
    // The first comes back, and leaves its place to the one that is worst off.
    advance(OPEN - 3 * SECOND).await;
    assert_eq!(standings(&balancer)[2], OnProbation);
    let recovered = |at| if at == 2 { GOOD } else { BAD };
    caller.spread(&balancer, 4, recovered);
    assert_eq!(standings(&balancer), [Ejected, Ejected, Healthy, KeptIn]);
}

#[tokio::test(start_paused = true)]
async fn a_single_endpoint_is_never_ejected_unless_all_may_be() {
    let (caller, balancer) = (Caller::new(), over(1, 99, Balance::RoundRobin));
    fail(&balancer, 0);
    assert_eq!(standings(&balancer), [Standing::KeptIn]);
    assert_eq!(caller.spread(&balancer, 5, |_| BAD), BTreeMap::from([(0, 5)]));
    // Nor is one kept waiting beside its probe.
    advance(OPEN).await;
    let choice = balancer.choice();
    let picks: Vec<_> = (0..5).map(|_| choice.pick(caller.attempt(), &Tried::default()).unwrap()).collect();
    assert_eq!(picks.len(), 5);
}

#[tokio::test(start_paused = true)]
async fn when_all_are_ejected_the_call_ends_and_says_when_one_is_back() {
    let (caller, balancer) = (Caller::new(), over(2, 100, Balance::RoundRobin));
    fail(&balancer, 0);
    advance(10 * SECOND).await;
    fail(&balancer, 1);
    let fault = caller.call(&balancer, |_| GOOD).unwrap_err();
    assert_eq!(fault.kind(), FaultKind::CircuitOpen);
    assert_eq!(
        fault.message(),
        "no endpoint of `pay` is in: a is ejected (2 failures in a row, the last: status 500), \
         b is ejected (2 failures in a row, the last: status 500)"
    );
    assert_eq!(fault.retry_after(), Some(20 * SECOND));
    assert!(matches!(fault.trip(), Some(TripReason::ConsecutiveFailures { failures: 2, .. })));
}

#[tokio::test(start_paused = true)]
async fn the_unhealthy_are_out_whatever_the_cap_and_count_in_it() {
    let (caller, balancer) = (Caller::new(), over(3, 67, Balance::RoundRobin));
    balancer.probed("a", Err("status 503".into()));
    assert_eq!(caller.spread(&balancer, 10, |_| GOOD), BTreeMap::from([(1, 5), (2, 5)]));
    fail(&balancer, 1);
    fail(&balancer, 2);
    use Standing::{Ejected, KeptIn, Unhealthy};
    assert_eq!(standings(&balancer), [Unhealthy, Ejected, KeptIn]);
    // More of them, and even the ejected one comes back in.
    balancer.probed("c", Err("no answer within 1s".into()));
    assert_eq!(standings(&balancer), [Unhealthy, KeptIn, Unhealthy]);
    assert_eq!(caller.spread(&balancer, 3, |_| GOOD), BTreeMap::from([(1, 3)]));
    balancer.probed("b", Err("connection refused".into()));
    let fault = caller.call(&balancer, |_| GOOD).unwrap_err();
    assert_eq!(fault.kind(), FaultKind::Unreachable);
    assert_eq!(
        fault.message(),
        "no endpoint of `pay` is in: a is unhealthy (status 503), b is unhealthy (connection refused), \
         c is unhealthy (no answer within 1s)"
    );
    balancer.probed("a", Ok(()));
    assert_eq!(caller.spread(&balancer, 3, |_| GOOD), BTreeMap::from([(0, 3)]));
}

#[tokio::test(start_paused = true)]
async fn calls_flow_the_moment_an_endpoint_is_back_whatever_came_while_all_were_out() {
    let balancer = over(2, 50, Balance::RoundRobin);
    let breaker = BreakerParams { failures: Some(1), open: 3600 * SECOND, ..BreakerParams::default() };
    let breaker = Some(BreakerPolicy::try_new(breaker).unwrap());
    let policy = Policy::try_new(PolicyParams { breaker, ..PolicyParams::default() }).unwrap();
    let guard = Guard::new("order -> pay", policy);
    let deadline = Deadline { at: Instant::now() + 3600 * SECOND, of: "the test".into() };
    let call = async || {
        let tried = Tried::default();
        let attempt = |attempt: Attempt| {
            let choice = balancer.choice();
            let at = AttemptAt { policy: guard.policy(), deadline: attempt.deadline.at };
            let answer = choice.pick(at, &tried).map(|picked| {
                let at = *picked.target();
                drop(picked.end(GOOD));
                Answer { value: at, status: Some(200), retry_after: None }
            });
            async move { answer }
        };
        guard.run(&deadline, Repeat::Always, attempt).await
    };
    let standing = || (guard.snapshot().breaker.unwrap().state, guard.snapshot().retries);
    let began = Instant::now();
    for name in ["a", "b"] {
        balancer.probed(name, Err("status 503".into()));
    }
    for _ in 0..10 {
        assert_eq!(call().await.unwrap_err().kind(), FaultKind::Unreachable);
    }
    assert_eq!((standing(), began.elapsed()), ((BreakerState::Closed, 0), Duration::ZERO));
    balancer.probed("b", Ok(()));
    assert_eq!(call().await, Ok(1));
    // The same while no address is known.
    balancer.replace([]);
    assert_eq!(call().await.unwrap_err().message(), "no address of `pay` is known");
    balancer.replace([(name(0), 0)]);
    assert_eq!((call().await, standing()), (Ok(0), (BreakerState::Closed, 0)));
    assert_eq!(
        guard.snapshot().faults,
        BTreeMap::from([("unreachable".into(), 11)]),
        "its callers got them all the same"
    );
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_was_given_up_says_nothing_but_one_that_met_its_deadline_does() {
    let (caller, balancer) = (Caller::new(), over(2, 50, Balance::RoundRobin));
    let choice = balancer.choice();
    let failures = || balancer.snapshot().iter().map(|endpoint| endpoint.failures).sum::<u64>();
    drop(choice.pick(caller.attempt(), &Tried::default()).unwrap());
    assert_eq!(failures(), 0);
    // In haste, with less than half of what the edge gives.
    let hasty = AttemptAt { deadline: Instant::now() + 4 * SECOND, ..caller.attempt() };
    let picked = choice.pick(hasty, &Tried::default()).unwrap();
    advance(4 * SECOND).await;
    drop(picked);
    assert_eq!(failures(), 0);
    let picked = choice.pick(caller.attempt(), &Tried::default()).unwrap();
    advance(10 * SECOND).await;
    drop(picked);
    assert_eq!(failures(), 1);
    assert_eq!(balancer.snapshot().iter().map(|endpoint| endpoint.in_flight).sum::<u64>(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_keeps_its_state_when_the_others_change() {
    let (caller, balancer) = (Caller::new(), over(2, 50, Balance::RoundRobin));
    fail(&balancer, 0);
    balancer.replace([(name(2), 2), (name(0), 0)]);
    assert_eq!(standings(&balancer), [Standing::Healthy, Standing::Ejected]);
    balancer.replace([(name(2), 2), (name(1), 1)]);
    assert_eq!(standings(&balancer), [Standing::Healthy; 2]);
    assert_eq!(caller.spread(&balancer, 4, |_| GOOD), BTreeMap::from([(1, 2), (2, 2)]));
    balancer.replace([]);
    let fault = caller.call(&balancer, |_| GOOD).unwrap_err();
    assert_eq!(fault.to_string(), "unreachable: no address of `pay` is known");
}

#[tokio::test(start_paused = true)]
async fn what_is_known_of_an_endpoint_carries_on_under_another_policy() {
    use Standing::{Ejected, Healthy, KeptIn, Unhealthy};
    let (caller, balancer) = (Caller::new(), over(4, 50, Balance::RoundRobin));
    fail(&balancer, 0);
    balancer.probed("b", Err("status 503".into()));
    let choice = balancer.choice();
    let under_way = choice.pick(caller.attempt(), &Tried::default()).unwrap();
    let at = *under_way.target();
    // Of others it takes three failures in a row, half as many may be out, and there is one more.
    let params = BreakerParams { failures: Some(3), open: OPEN, ..BreakerParams::default() };
    let outlier = OutlierPolicy::try_new(BreakerPolicy::try_new(params).unwrap(), 25).unwrap();
    let changed = BalancePolicy { outlier: Some(outlier), ..policy(50, Balance::LeastLoaded) };
    let endpoints = || (0..5).map(|at| (name(at), at));
    balancer.change(changed, endpoints());
    assert_eq!(balancer.policy(), changed);
    assert_eq!(
        standings(&balancer),
        [KeptIn, Unhealthy, Healthy, Healthy, Healthy],
        "the unhealthy one takes the room"
    );
    balancer.probed("b", Ok(()));
    assert_eq!(standings(&balancer), [Ejected, Healthy, Healthy, Healthy, Healthy]);
    let in_flight = || balancer.snapshot().iter().map(|it| it.in_flight).collect::<Vec<_>>();
    assert_eq!(in_flight()[at], 1);
    drop(under_way.end(GOOD));
    assert_eq!(in_flight(), [0; 5]);
    assert_eq!(balancer.snapshot()[at].calls, 1);
    fail(&balancer, 4);
    assert_eq!(standings(&balancer)[4], Healthy, "two failures are no longer enough");
    // What no longer ejects, or no longer probes, holds nobody out.
    balancer.probed("b", Err("status 503".into()));
    balancer.change(BalancePolicy { outlier: None, ..changed }, endpoints());
    assert_eq!(standings(&balancer), [Healthy, Unhealthy, Healthy, Healthy, Healthy]);
    balancer.change(BalancePolicy::default(), endpoints());
    assert_eq!(standings(&balancer), [Healthy; 5]);
    balancer.change(changed, endpoints());
    assert_eq!(standings(&balancer), [Healthy; 5], "and is forgotten");
}

#[tokio::test(start_paused = true)]
async fn an_operators_word_takes_endpoints_out_and_puts_them_back() {
    use BreakerCommand::{Disable, ForceOpen, Reset};
    use Standing::{Healthy, KeptIn, TakenOut};
    let (caller, balancer) = (Caller::new(), over(3, 67, Balance::RoundRobin));
    let command = |at, command| balancer.command(&name(at), command).expect("it is there").expect("it has a breaker");
    let shown = command(0, ForceOpen);
    assert_eq!((shown.standing, shown.reason.as_deref()), (TakenOut, Some("by an operator")));
    command(1, ForceOpen);
    assert_eq!(caller.spread(&balancer, 4, |_| GOOD), BTreeMap::from([(2, 4)]));
    // They are as many as may be out, so that the last one stays whatever it does.
    fail(&balancer, 2);
    assert_eq!(standings(&balancer), [TakenOut, TakenOut, KeptIn]);
    // No time brings them back, nor other endpoints, nor another policy.
    advance(100 * OPEN).await;
    caller.spread(&balancer, 4, |_| GOOD);
    balancer.change(policy(1, Balance::LeastLoaded), (0..4).map(|at| (name(at), at)));
    assert_eq!(standings(&balancer), [TakenOut, TakenOut, Healthy, Healthy]);
    // And he may take out all.
    for at in [2, 3] {
        command(at, ForceOpen);
    }
    let fault = caller.call(&balancer, |_| GOOD).unwrap_err();
    assert_eq!((fault.kind(), fault.retry_after()), (FaultKind::CircuitOpen, None));
    assert_eq!(fault.trip(), Some(TripReason::Operator));
    assert!(
        fault.message().starts_with("no endpoint of `pay` is in: a was taken out by an operator, b was"),
        "{fault}"
    );
    // One that is to stay in whatever comes.
    let shown = command(0, Disable);
    assert_eq!((shown.standing, shown.reason.as_deref()), (Healthy, Some("its circuit breaker is disabled")));
    assert_eq!(caller.spread(&balancer, 9, |_| BAD), BTreeMap::from([(0, 9)]));
    for at in 0..4 {
        assert_eq!(command(at, Reset).standing, Healthy);
    }
    assert_eq!(balancer.command("x", Reset), None);
    balancer.change(BalancePolicy::default(), (0..4).map(|at| (name(at), at)));
    assert_eq!(balancer.command("a", ForceOpen), Some(None));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_reached_in_another_way_is_the_same_endpoint() {
    let (caller, balancer) = (Caller::new(), over(2, 50, Balance::RoundRobin));
    fail(&balancer, 0);
    balancer.replace([(name(0), 7), (name(1), 8)]);
    assert_eq!(standings(&balancer), [Standing::Ejected, Standing::Healthy]);
    assert_eq!(caller.spread(&balancer, 4, |_| GOOD), BTreeMap::from([(8, 4)]));
    advance(OPEN).await;
    assert_eq!(caller.spread(&balancer, 4, |_| GOOD), BTreeMap::from([(7, 2), (8, 2)]));
}

#[test]
fn words_are_the_same_in_json() {
    for balance in Balance::ALL {
        assert_eq!(serde_json::to_value(balance).unwrap(), balance.to_string());
    }
    for standing in [
        Standing::Healthy,
        Standing::OnProbation,
        Standing::KeptIn,
        Standing::Ejected,
        Standing::TakenOut,
        Standing::Unhealthy,
    ] {
        assert_eq!(serde_json::to_value(standing).unwrap(), standing.to_string());
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Calls that all begin before any ends.
    Calls(usize),
    /// An endpoint begins to fail, or to be well.
    Turn(usize),
    /// A probe says something else than the one before.
    Probe(usize),
    /// Other endpoints, for DNS says so.
    Resolve(Vec<bool>),
    /// An operator takes an endpoint out, or puts it back.
    Command(usize),
    /// Another policy, for the manifest says so.
    Change(u32, bool),
    Wait(Duration),
}

fn is_forced(endpoint: &EndpointSnapshot) -> bool {
    endpoint.breaker.as_ref().is_some_and(|breaker| breaker.state == BreakerState::ForcedOpen)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1_usize..6).prop_map(Step::Calls),
        2 => (0_usize..6).prop_map(Step::Turn),
        1 => (0_usize..6).prop_map(Step::Probe),
        1 => prop::collection::vec(any::<bool>(), 6).prop_map(Step::Resolve),
        1 => (0_usize..6).prop_map(Step::Command),
        1 => (1_u32..101, any::<bool>()).prop_map(|(cap, least_loaded)| Step::Change(cap, least_loaded)),
        2 => (0_u64..40).prop_map(|seconds| Step::Wait(SECOND * seconds as u32)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn whoever_is_out_gets_no_call_and_never_are_too_many_out(
        count in 1_usize..7,
        mut cap in 1_u32..101,
        least_loaded: bool,
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async move {
            let balance = |least_loaded| if least_loaded { Balance::LeastLoaded } else { Balance::RoundRobin };
            let (caller, balancer) = (Caller::new(), over(count, cap, balance(least_loaded)));
            let (mut failing, mut unhealthy, mut taken_out) = ([false; 6], [false; 6], [false; 6]);
            for step in steps {
                match step {
                    Step::Turn(at) => failing[at] ^= true,
                    Step::Probe(at) => {
                        unhealthy[at] ^= true;
                        balancer.probed(&name(at), if unhealthy[at] { Err("bad".into()) } else { Ok(()) });
                    }
                    Step::Resolve(there) => {
                        balancer.replace((0..6).filter(|at| there[*at]).map(|at| (name(at), at)));
                        (unhealthy, taken_out) = ([false; 6], [false; 6]);
                        for shown in balancer.snapshot() {
                            let at = usize::from(shown.endpoint.as_bytes()[0] - b'a');
                            unhealthy[at] = shown.standing == Standing::Unhealthy;
                            taken_out[at] = is_forced(&shown);
                        }
                    }
                    Step::Command(at) => {
                        let command = if taken_out[at] { BreakerCommand::Reset } else { BreakerCommand::ForceOpen };
                        if balancer.command(&name(at), command).is_some() {
                            taken_out[at] ^= true;
                        }
                    }
                    Step::Change(other, least_loaded) => {
                        cap = other;
                        let present: Vec<_> =
                            balancer.choice().targets().map(|(name, at)| (name.to_string(), *at)).collect();
                        balancer.change(policy(cap, balance(least_loaded)), present);
                    }
                    Step::Wait(time) => advance(time).await,
                    Step::Calls(calls) => {
                        let choice = balancer.choice();
                        let mut under_way = Vec::new();
                        for _ in 0..calls {
                            let before = balancer.snapshot();
                            let standing = |at: usize| before.iter().find(|it| it.endpoint == name(at)).unwrap().standing;
                            match choice.pick(caller.attempt(), &Tried::default()) {
                                Ok(picked) => {
                                    prop_assert!(standing(*picked.target()).takes_calls(), "{before:?}");
                                    under_way.push(picked);
                                }
                                Err(fault) => {
                                    prop_assert!(before.iter().all(|it| !it.standing.takes_calls()), "{fault} {before:?}");
                                    let refuses = |it: &EndpointSnapshot| matches!(it.standing, Standing::Ejected | Standing::TakenOut);
                                    let any = before.iter().any(refuses);
                                    let expected = if any { FaultKind::CircuitOpen } else { FaultKind::Unreachable };
                                    prop_assert_eq!(fault.kind(), expected);
                                }
                            }
                        }
                        for picked in under_way {
                            let at = *picked.target();
                            drop(picked.end(if failing[at] { BAD } else { GOOD }));
                        }
                    }
                }
                // Never too many out, and none out for nothing.
                let shown = balancer.snapshot();
                let out = |which| shown.iter().filter(|it| it.standing == which).count();
                let most = shown.len() * cap as usize / 100;
                let unwell = out(Standing::Unhealthy) + out(Standing::TakenOut);
                let ejected = out(Standing::Ejected);
                prop_assert!(ejected <= most.saturating_sub(unwell), "{shown:?}");
                if out(Standing::KeptIn) > 0 {
                    // What is on probation holds its place until it is back.
                    prop_assert!(ejected + out(Standing::OnProbation) >= most.saturating_sub(unwell), "{shown:?}");
                }
                for it in &shown {
                    let at = usize::from(it.endpoint.as_bytes()[0] - b'a');
                    prop_assert_eq!(it.standing == Standing::Unhealthy, unhealthy[at]);
                    prop_assert_eq!(is_forced(it), taken_out[at]);
                    if taken_out[at] && !unhealthy[at] {
                        prop_assert_eq!(it.standing, Standing::TakenOut);
                    }
                    if it.standing == Standing::Ejected {
                        prop_assert_ne!(it.breaker.as_ref().map(|breaker| breaker.state), Some(BreakerState::Closed));
                    }
                    prop_assert_eq!(it.in_flight, 0);
                }
            }
            Ok(())
        })?;
    }

    #[test]
    fn among_those_that_are_in_turns_are_even(count in 1_usize..7, out in prop::collection::vec(any::<bool>(), 6), rounds in 1_usize..20) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async move {
            let (caller, balancer) = (Caller::new(), over(count, 100, Balance::RoundRobin));
            let others: Vec<_> = (0..count).filter(|at| !out[*at]).collect();
            (0..count).filter(|at| out[*at]).for_each(|at| fail(&balancer, at));
            if others.is_empty() {
                prop_assert!(caller.call(&balancer, |_| GOOD).is_err());
                return Ok(());
            }
            let expected: BTreeMap<_, _> = others.iter().map(|at| (*at, rounds)).collect();
            prop_assert_eq!(caller.spread(&balancer, rounds * others.len(), |_| GOOD), expected);
            Ok(())
        })?;
    }
}
