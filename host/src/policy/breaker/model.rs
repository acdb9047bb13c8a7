//! The breaker against a plain model of it, driven by the same random steps.

use super::*;
use proptest::prelude::*;

/// One step of a run. Numbers that choose an attempt are taken modulo how many are under way.
#[derive(Clone, Debug)]
enum Step {
    Begin,
    Succeed(usize),
    Fail(usize, FaultKind),
    Drop(usize),
    Advance(u64),
    Replace(u32, u64, u32),
}

/// What the module's documentation says, with no thought of cost: no atomics, no packing, no generations. An attempt
/// remembers the phase it began in, phases are counted in a list.
struct Model {
    policy: BreakerPolicy,
    phases: Vec<Phase>,
    now: Instant,
}

#[derive(Clone, Debug, PartialEq)]
enum Phase {
    Closed { row: Vec<FaultKind> },
    Open { since: Instant },
    HalfOpen { outcomes: Vec<Option<bool>> },
}

/// An attempt that the model let pass.
#[derive(Clone, Copy, Debug)]
struct Begun {
    phase: usize,
    /// Its place among the probes.
    probe: Option<usize>,
}

impl Model {
    fn phase(&mut self) -> &mut Phase {
        self.phases.last_mut().unwrap()
    }

    fn begin(&mut self) -> Result<Begun, Option<Duration>> {
        let (now, open, half_open) = (self.now, self.policy.open(), self.policy.half_open() as usize);
        if let Phase::Open { since } = *self.phase() {
            if now < since + open {
                return Err(Some(since + open - now));
            }
            self.phases.push(Phase::HalfOpen { outcomes: Vec::new() });
        }
        let phase = self.phases.len() - 1;
        let Phase::HalfOpen { outcomes } = self.phase() else { return Ok(Begun { phase, probe: None }) };
        // `Some(false)` is a place given back.
        if outcomes.iter().filter(|outcome| **outcome != Some(false)).count() == half_open {
            return Err(None);
        }
        outcomes.push(None);
        let probe = Some(outcomes.len() - 1);
        Ok(Begun { phase, probe })
    }

    /// `outcome`: success, failure, or dropped.
    fn end(&mut self, begun: Begun, outcome: Option<Result<(), FaultKind>>) {
        let (now, limit, half_open) = (self.now, self.policy.failures() as usize, self.policy.half_open() as usize);
        let is_current = begun.phase == self.phases.len() - 1;
        match (self.phase(), outcome) {
            (Phase::Closed { row }, Some(Ok(()))) if begun.probe.is_none() => row.clear(),
            (Phase::Closed { row }, Some(Err(fault))) if is_current => {
                row.push(fault);
                if row.len() >= limit {
                    self.phases.push(Phase::Open { since: now });
                }
            }
            (Phase::HalfOpen { outcomes }, outcome) if is_current => match (begun.probe, outcome) {
                (Some(_), Some(Err(_))) => self.phases.push(Phase::Open { since: now }),
                (Some(probe), outcome) => {
                    outcomes[probe] = Some(outcome.is_some());
                    if outcomes.iter().filter(|outcome| **outcome == Some(true)).count() == half_open {
                        self.phases.push(Phase::Closed { row: Vec::new() });
                    }
                }
                (None, _) => {}
            },
            _ => {}
        }
    }

    fn replace(&mut self, policy: BreakerPolicy) {
        self.policy = policy;
        if let Phase::HalfOpen { outcomes } = self.phase() {
            outcomes.clear();
        }
    }

    fn state(&mut self) -> (BreakerState, u32, u32) {
        match self.phase() {
            Phase::Closed { row } => (BreakerState::Closed, row.len() as u32, 0),
            Phase::Open { .. } => (BreakerState::Open, 0, 0),
            Phase::HalfOpen { outcomes } => {
                (BreakerState::HalfOpen, 0, outcomes.iter().filter(|outcome| outcome.is_none()).count() as u32)
            }
        }
    }
}

fn policy() -> impl Strategy<Value = (u32, u64, u32)> {
    (1..5_u32, 1..100_u64, 1..4_u32)
}

fn step() -> impl Strategy<Value = Step> {
    let kind = proptest::sample::select(&FaultKind::ALL[..]);
    prop_oneof![
        8 => Just(Step::Begin),
        3 => any::<usize>().prop_map(Step::Succeed),
        5 => (any::<usize>(), kind).prop_map(|(which, kind)| Step::Fail(which, kind)),
        2 => any::<usize>().prop_map(Step::Drop),
        3 => (0..120_u64).prop_map(Step::Advance),
        1 => policy().prop_map(|(failures, open, half_open)| Step::Replace(failures, open, half_open)),
    ]
}

fn breaker_policy((failures, open, half_open): (u32, u64, u32)) -> BreakerPolicy {
    BreakerPolicy::try_new(failures, Duration::from_millis(open), half_open).unwrap()
}

async fn run(first: (u32, u64, u32), steps: Vec<Step>) -> Result<(), TestCaseError> {
    // Attempts borrow the breaker, and a run has more than one. What leaks is a few bytes of a test.
    let new = |breaker: Breaker| -> &'static Breaker { Box::leak(Box::new(breaker)) };
    let mut breaker = new(Breaker::new("a -> b".into(), breaker_policy(first)));
    let mut model =
        Model { policy: breaker_policy(first), phases: vec![Phase::Closed { row: Vec::new() }], now: Instant::now() };
    let mut under_way: Vec<(Admission<'static>, Begun)> = Vec::new();

    for step in steps {
        match step {
            Step::Begin => match (breaker.admit(), model.begin()) {
                (Ok(admission), Ok(begun)) => under_way.push((admission, begun)),
                (Err(rejected), Err(retry_after)) => prop_assert_eq!(rejected.retry_after, retry_after),
                (real, model) => prop_assert!(false, "the breaker says {real:?}, the model {model:?}"),
            },
            Step::Succeed(which) | Step::Fail(which, _) | Step::Drop(which) if !under_way.is_empty() => {
                let (admission, begun) = under_way.swap_remove(which % under_way.len());
                match step {
                    Step::Succeed(_) => {
                        admission.succeed();
                        model.end(begun, Some(Ok(())));
                    }
                    Step::Fail(_, kind) => {
                        admission.fail(kind);
                        model.end(begun, Some(Err(kind)));
                    }
                    _ => {
                        drop(admission);
                        model.end(begun, None);
                    }
                }
            }
            Step::Advance(ms) => {
                tokio::time::advance(Duration::from_millis(ms)).await;
                model.now = Instant::now();
            }
            Step::Replace(failures, open, half_open) => {
                let policy = breaker_policy((failures, open, half_open));
                under_way.clear();
                breaker = new(breaker.with_policy(policy.clone()));
                model.replace(policy);
            }
            Step::Succeed(_) | Step::Fail(..) | Step::Drop(_) => {}
        }
        let snapshot = breaker.snapshot();
        prop_assert_eq!((snapshot.state, snapshot.consecutive_failures, snapshot.probes), model.state());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn does_what_the_model_does(policy in policy(), steps in proptest::collection::vec(step(), 0..200)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(run(policy, steps))?;
    }
}
