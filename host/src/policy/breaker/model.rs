//! The breaker against a plain model of it, driven by the same random steps.

use super::*;
use crate::policy::{Failure, FaultKind};
use proptest::prelude::*;

/// One step of a run. Numbers that choose an attempt are taken modulo how many are under way.
#[derive(Clone, Debug)]
enum Step {
    Begin,
    End(usize, Outcome),
    Drop(usize),
    Advance(u64),
    Replace(BreakerPolicy),
    Command(BreakerCommand),
}

/// What the module's documentation says, with no thought of cost: no atomics, no packing, no generations, no ring. An
/// attempt remembers the phase it began in, and of calls every one is kept.
struct Model {
    policy: BreakerPolicy,
    /// Which phase it is, counted from the beginning.
    number: usize,
    phase: Phase,
    since: Instant,
    openings: u32,
    last_trip: Option<TripReason>,
    row: u32,
    /// When the window was begun, and the calls that ended since.
    window: (Instant, Vec<(Instant, Outcome)>),
}

#[derive(Clone, Debug, PartialEq)]
enum Phase {
    /// Closed, disabled or metrics-only.
    Passing(BreakerState),
    Open,
    ForcedOpen,
    HalfOpen {
        under_way: u32,
        ended: Vec<Outcome>,
    },
}

/// An attempt that the model let pass.
#[derive(Clone, Copy, Debug)]
struct Begun {
    phase: usize,
    is_probe: bool,
}

/// What can be seen of a breaker.
type Seen = (BreakerState, u32, u32, u32, Option<TripReason>, Option<WindowSums>);

impl Model {
    fn new(policy: BreakerPolicy) -> Self {
        let phase = first(&policy);
        let (since, window) = (Instant::now(), (Instant::now(), Vec::new()));
        Self { policy, number: 0, phase, since, openings: 0, last_trip: None, row: 0, window }
    }

    fn enter(&mut self, phase: Phase) {
        (self.phase, self.since, self.row) = (phase, Instant::now(), 0);
        self.number += 1;
    }

    fn begin_window(&mut self) {
        self.window = (Instant::now(), Vec::new());
    }

    fn open_time(&self) -> Duration {
        let BreakerParams { open, max_open, .. } = *self.policy.params();
        let mut time = open;
        for _ in 1..self.openings {
            time = (time * 2).min(max_open.unwrap_or(open));
        }
        time
    }

    fn open(&mut self, reason: TripReason) {
        let is_half_open = matches!(self.phase, Phase::HalfOpen { .. });
        let flaps = self.openings > 0 && (is_half_open || self.since.elapsed() < self.open_time());
        self.openings = if flaps { self.openings + 1 } else { 1 };
        self.last_trip = Some(reason);
        self.enter(Phase::Open);
    }

    fn begin(&mut self) -> Result<Begun, Option<Duration>> {
        match self.phase {
            Phase::Passing(_) => return Ok(Begun { phase: self.number, is_probe: false }),
            Phase::ForcedOpen => return Err(None),
            Phase::Open if self.since.elapsed() < self.open_time() => {
                return Err(Some(self.open_time() - self.since.elapsed()));
            }
            Phase::Open => self.enter(Phase::HalfOpen { under_way: 0, ended: Vec::new() }),
            Phase::HalfOpen { .. } => {}
        }
        let half_open = self.policy.params().half_open;
        let Phase::HalfOpen { under_way, ended } = &mut self.phase else { unreachable!("it is half-open") };
        if *under_way + ended.len() as u32 == half_open {
            return Err(None);
        }
        *under_way += 1;
        Ok(Begun { phase: self.number, is_probe: true })
    }

    /// `outcome`: how it ended, or that it was dropped.
    fn end(&mut self, begun: Begun, outcome: Option<Outcome>) {
        if begun.phase != self.number {
            return;
        }
        if begun.is_probe {
            return self.end_probe(outcome);
        }
        let (Phase::Passing(state), Some(outcome)) = (self.phase.clone(), outcome) else { return };
        if state == BreakerState::Disabled {
            return;
        }
        self.window.1.push((Instant::now(), outcome));
        self.row = if outcome.failure.is_some() { self.row + 1 } else { 0 };
        match self.trip(outcome) {
            Some(reason) if state == BreakerState::Closed => self.open(reason),
            Some(reason) => self.last_trip = Some(reason),
            None => {}
        }
    }

    fn trip(&self, outcome: Outcome) -> Option<TripReason> {
        let BreakerParams { failures, failure_rate, slow_rate, window, minimum, .. } = *self.policy.params();
        if let Some(last) = outcome.failure
            && failures.is_some_and(|limit| self.row >= limit)
        {
            return Some(TripReason::ConsecutiveFailures { failures: self.row, last });
        }
        let WindowSums { calls, failed, slow } = self.sums();
        let least = match window {
            WindowSize::Calls(size) => size.min(20),
            WindowSize::Time(_) => 20,
        };
        if calls < minimum.unwrap_or(least) {
            return None;
        }
        let rate = |part: u32| f64::from(part) / f64::from(calls) * 100.0;
        match (failure_rate, slow_rate) {
            (Some(threshold), _) if rate(failed) >= f64::from(threshold) => {
                Some(TripReason::FailureRate { failed, calls, threshold })
            }
            (_, Some(threshold)) if rate(slow) >= f64::from(threshold) => {
                Some(TripReason::SlowRate { slow, calls, threshold })
            }
            _ => None,
        }
    }

    fn sums(&self) -> WindowSums {
        let (began, calls) = &self.window;
        let counted: Vec<_> = match self.policy.params().window {
            WindowSize::Calls(size) => calls.iter().rev().take(size as usize).collect(),
            WindowSize::Time(time) => {
                let tenth = |at: Instant| (at - *began).as_nanos() / (time / 10).as_nanos();
                let now = tenth(Instant::now());
                calls.iter().filter(|(at, _)| tenth(*at) + 10 > now).collect()
            }
        };
        let count = |of: fn(&Outcome) -> bool| counted.iter().filter(|(_, outcome)| of(outcome)).count() as u32;
        let (failed, slow) = (count(|outcome| outcome.failure.is_some()), count(|outcome| outcome.slow));
        WindowSums { calls: counted.len() as u32, failed, slow }
    }

    fn end_probe(&mut self, outcome: Option<Outcome>) {
        let BreakerParams { failure_rate, slow_rate, half_open: of, .. } = *self.policy.params();
        let Phase::HalfOpen { under_way, ended } = &mut self.phase else { return };
        *under_way -= 1;
        let Some(outcome) = outcome else { return };
        ended.push(outcome);
        let failed = ended.iter().filter(|outcome| outcome.failure.is_some()).count() as u32;
        let slow = ended.iter().filter(|outcome| outcome.slow).count() as u32;
        // How it would end if those that are left all went well, or all badly.
        let opens = |part: u32, rate: u32| f64::from(part) / f64::from(of) * 100.0 >= f64::from(rate);
        let all = |left: u32| {
            let failed = opens(failed + left, failure_rate.unwrap_or(50));
            let slow = slow_rate.is_some_and(|rate| opens(slow + left, rate));
            (failed, slow)
        };
        match (all(0), all(of - ended.len() as u32)) {
            ((true, _), _) => {
                let last = outcome.failure.expect("only a failure brings it there");
                self.open(TripReason::ProbesFailed { failed, of, last });
            }
            ((false, true), _) => self.open(TripReason::ProbesSlow { slow, of }),
            (_, (false, false)) => {
                self.begin_window();
                self.enter(Phase::Passing(BreakerState::Closed));
            }
            _ => {}
        }
    }

    fn replace(&mut self, policy: BreakerPolicy) {
        let old = std::mem::replace(&mut self.policy, policy);
        let is_operators = matches!(self.phase, Phase::ForcedOpen | Phase::Passing(BreakerState::Disabled));
        let begins = old.params().mode != policy.params().mode && !is_operators;
        if begins {
            self.enter(first(&policy));
        }
        if begins || old.params().window != policy.params().window || !old.has_rates() {
            self.begin_window();
        }
        if let Phase::HalfOpen { under_way, ended } = &mut self.phase {
            *under_way = 0;
            ended.clear();
        }
    }

    fn command(&mut self, command: BreakerCommand) {
        let phase = match command {
            BreakerCommand::ForceOpen => {
                self.last_trip = Some(TripReason::Operator);
                Phase::ForcedOpen
            }
            BreakerCommand::Disable => Phase::Passing(BreakerState::Disabled),
            BreakerCommand::MetricsOnly => Phase::Passing(BreakerState::MetricsOnly),
            BreakerCommand::Reset => {
                (self.last_trip, self.openings) = (None, 0);
                first(&self.policy)
            }
        };
        self.begin_window();
        self.enter(phase);
    }

    fn seen(&self) -> Seen {
        let (state, probes) = match &self.phase {
            Phase::Passing(state) => (*state, 0),
            Phase::Open => (BreakerState::Open, 0),
            Phase::ForcedOpen => (BreakerState::ForcedOpen, 0),
            Phase::HalfOpen { under_way, .. } => (BreakerState::HalfOpen, *under_way),
        };
        let window = self.policy.has_rates().then(|| self.sums());
        (state, self.row, probes, self.openings, self.last_trip, window)
    }
}

fn first(policy: &BreakerPolicy) -> Phase {
    Phase::Passing(match policy.params().mode {
        BreakerMode::Enforce => BreakerState::Closed,
        BreakerMode::MetricsOnly => BreakerState::MetricsOnly,
    })
}

fn policy() -> impl Strategy<Value = BreakerPolicy> {
    let mode = prop_oneof![9 => Just(BreakerMode::Enforce), 1 => Just(BreakerMode::MetricsOnly)];
    let rate = || proptest::option::of(proptest::sample::select(&[1, 20, 50, 75, 100][..]));
    let window = prop_oneof![
        (1..12_u32).prop_map(WindowSize::Calls),
        (1..20_u64).prop_map(|ms| WindowSize::Time(Duration::from_millis(ms * 10))),
    ];
    let (failures, minimum) = (proptest::option::of(1..5_u32), proptest::option::of(1..6_u32));
    (mode, failures, rate(), rate(), window, minimum, 1..100_u64, proptest::option::of(1..9_u32), 1..5_u32)
        .prop_filter_map(
            "nothing would open it",
            |(mode, failures, failure_rate, slow_rate, window, minimum, open, max_open, half_open)| {
                let open = Duration::from_millis(open);
                let max_open = max_open.map(|times| open * times);
                let minimum = minimum.map(|minimum| match window {
                    WindowSize::Calls(calls) => minimum.min(calls),
                    WindowSize::Time(_) => minimum,
                });
                BreakerPolicy::try_new(BreakerParams {
                    mode,
                    failures,
                    failure_rate,
                    slow_rate,
                    window,
                    minimum,
                    open,
                    max_open,
                    half_open,
                })
                .ok()
            },
        )
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let failure = prop_oneof![
        proptest::sample::select(&FaultKind::ALL[..]).prop_map(Failure::Fault),
        (500..505_u16).prop_map(Failure::Status),
    ];
    (proptest::option::weighted(0.4, failure), proptest::bool::weighted(0.3))
        .prop_map(|(failure, slow)| Outcome { failure, slow })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        80 => Just(Step::Begin),
        75 => (any::<usize>(), outcome()).prop_map(|(which, outcome)| Step::End(which, outcome)),
        8 => any::<usize>().prop_map(Step::Drop),
        30 => (0..120_u64).prop_map(Step::Advance),
        2 => policy().prop_map(Step::Replace),
        2 => proptest::sample::select(&BreakerCommand::ALL[..]).prop_map(Step::Command),
        2 => Just(Step::Command(BreakerCommand::Reset)),
    ]
}

async fn run(first: BreakerPolicy, steps: Vec<Step>) -> Result<(), TestCaseError> {
    // Attempts borrow the breaker, and a run has more than one. What leaks is a few bytes of a test.
    let new = |breaker: Breaker| -> &'static Breaker { Box::leak(Box::new(breaker)) };
    let mut breaker = new(Breaker::new("a -> b".into(), first));
    let mut model = Model::new(first);
    let mut under_way: Vec<(Admission<'static>, Begun)> = Vec::new();

    for step in steps {
        match step {
            Step::Begin => match (breaker.admit(), model.begin()) {
                (Ok(admission), Ok(begun)) => under_way.push((admission, begun)),
                (Err(rejected), Err(retry_after)) => prop_assert_eq!(rejected.retry_after, retry_after),
                (real, model) => prop_assert!(false, "the breaker says {real:?}, the model {model:?}"),
            },
            Step::End(which, _) | Step::Drop(which) if !under_way.is_empty() => {
                let (admission, begun) = under_way.swap_remove(which % under_way.len());
                if let Step::End(_, outcome) = step {
                    admission.end(outcome, Instant::now());
                    model.end(begun, Some(outcome));
                } else {
                    drop(admission);
                    model.end(begun, None);
                }
            }
            Step::End(..) | Step::Drop(_) => {}
            Step::Advance(ms) => tokio::time::advance(Duration::from_millis(ms)).await,
            Step::Replace(policy) => {
                under_way.clear();
                breaker = new(breaker.with_policy(policy));
                model.replace(policy);
            }
            Step::Command(command) => {
                breaker.command(command);
                model.command(command);
            }
        }
        let seen = breaker.snapshot();
        let seen: Seen =
            (seen.state, seen.consecutive_failures, seen.probes, seen.openings, seen.last_trip, seen.window);
        prop_assert_eq!(seen, model.seen());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn does_what_the_model_does(policy in policy(), steps in proptest::collection::vec(step(), 0..300)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(run(policy, steps))?;
    }
}
