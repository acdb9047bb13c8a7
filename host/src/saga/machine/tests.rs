//! What a saga promises, each promise with a test that tries to break it.

use super::*;
use crate::saga::Wait;
use jiff::Timestamp;
use proptest::{prelude::*, sample::Index};
use std::collections::BTreeSet;

const TRIES: Tries = Tries {
    attempts: 3,
    backoff: Backoff { first: Duration::from_millis(10), max: Duration::from_millis(80), jitter: 0.0 },
};
/// No calls.
const NONE: [i32; 0] = [];
const TIMEOUT: Duration = Duration::from_secs(1);

fn step(name: &str) -> Step {
    Step { name: name.into(), beside: false, compensates: true, repeatable: true, wait: None }
}

fn beside(name: &str) -> Step {
    Step { beside: true, ..step(name) }
}

fn once(name: &str) -> Step {
    Step { repeatable: false, ..step(name) }
}

fn awaiting(name: &str, until: Awaited, timeout_ms: Option<u64>) -> Step {
    Step { wait: Some(Wait { until, timeout_ms }), ..step(name) }
}

fn machine<const N: usize>(steps: [Step; N]) -> Machine {
    let definition = Definition { name: "checkout".into(), steps: steps.into(), timeout_ms: None };
    definition.check().unwrap();
    Machine::start(definition.into(), TRIES, TIMEOUT, TraceContext::root(), 0)
}

fn event(topic: &str, id: &str, time: i64) -> Arc<Event> {
    let event = Event {
        topic: topic.into(),
        id: id.into(),
        source: "/services/payment".into(),
        subject: Some("1".into()),
        time: Timestamp::from_millisecond(time).unwrap(),
        datacontenttype: "application/json".into(),
        traceparent: None,
        data: "{}".into(),
    };
    Arc::new(event)
}

impl Machine {
    /// The calls that begin now: `+2` for an action, `-2` for a compensation, of steps counted from 1.
    fn begins(&mut self, now: Millis) -> Vec<i32> {
        let sign = |side| if side == Side::Act { 1 } else { -1 };
        let begin = self.advance(now, true);
        begin.into_iter().map(|begin| sign(begin.side) * (i32::try_from(begin.step).unwrap() + 1)).collect()
    }

    fn did(&mut self, call: i32, ended: Ended, now: Millis) {
        let side = if call > 0 { Side::Act } else { Side::Compensate };
        self.ended(usize::try_from(call.abs() - 1).unwrap(), side, ended, now);
    }

    fn done(&mut self, call: i32) {
        self.did(call, Ended::Done, 0);
    }

    /// As another host has it that reads what was written.
    fn rebuilt(&self) -> Self {
        let progress = serde_json::from_str(&serde_json::to_string(&self.progress).unwrap()).unwrap();
        Self::restore(self.definition.clone(), self.tries, progress, self.heard.clone()).unwrap()
    }
}

fn failed() -> Ended {
    Ended::Failed("no".into())
}

fn unknown() -> Ended {
    Ended::Unknown("trapped".into())
}

fn not_begun() -> Ended {
    Ended::NotBegun("away".into(), None)
}

#[test]
fn step_after_step_and_side_by_side() {
    let mut saga = machine([step("a"), step("b"), beside("c"), step("d")]);
    assert_eq!(saga.begins(0), [1]);
    assert_eq!(saga.begins(0), NONE);
    saga.done(1);
    assert_eq!(saga.begins(0), [2, 3]);
    saga.done(3);
    assert_eq!(saga.begins(0), NONE);
    saga.done(2);
    assert_eq!(saga.begins(0), [4]);
    saga.done(4);
    assert_eq!(saga.begins(7), NONE);
    assert_eq!((saga.status(), saga.progress.ended, saga.due()), (Status::Completed, Some(7), None));
}

#[test]
fn what_failed_is_taken_back_the_last_first_and_itself_not() {
    let mut saga = machine([step("a"), Step { compensates: false, ..step("b") }, step("c"), step("d"), step("e")]);
    for call in 1..=3 {
        assert_eq!(saga.begins(0), [call]);
        saga.done(call);
    }
    assert_eq!(saga.begins(0), [4]);
    saga.did(4, failed(), 0);
    assert_eq!(saga.begins(0), [-3]);
    assert_eq!(saga.progress.reason.as_deref(), Some("step `d` failed: no"));
    saga.done(-3);
    assert_eq!(saga.begins(0), [-1]);
    saga.done(-1);
    assert_eq!(saga.begins(0), NONE);
    assert_eq!(saga.status(), Status::Compensated);
}

#[test]
fn steps_side_by_side_end_before_anything_is_taken_back() {
    let mut saga = machine([step("a"), beside("b"), beside("c")]);
    assert_eq!(saga.begins(0), [1, 2, 3]);
    saga.did(2, failed(), 0);
    assert_eq!((saga.begins(0), saga.status()), (vec![], Status::Compensating));
    saga.did(1, Ended::Retry("later".into(), None), 0);
    assert_eq!(saga.begins(0), NONE);
    saga.done(3);
    // The first asked for another try, and nobody knows what it has done.
    assert_eq!(saga.begins(0), [-3]);
    saga.done(-3);
    assert_eq!(saga.begins(0), [-1]);
}

#[test]
fn an_action_is_tried_as_often_as_it_may_be() {
    let mut saga = machine([step("a"), step("b")]);
    assert_eq!(saga.begins(0), [1]);
    saga.did(1, unknown(), 0);
    assert_eq!((saga.begins(9), saga.due()), (vec![], Some(10)));
    assert_eq!(saga.begins(10), [1]);
    // Where nothing was begun, that is no try.
    for _ in 0..5 {
        saga.did(1, not_begun(), 10);
        assert_eq!(saga.begins(100), [1]);
    }
    saga.did(1, Ended::Retry("later".into(), Some(Duration::from_millis(30))), 100);
    assert_eq!((saga.begins(129), saga.begins(130)), (vec![], vec![1]));
    saga.did(1, unknown(), 130);
    assert_eq!(saga.begins(130), [-1]);
    assert_eq!(saga.progress.reason.as_deref(), Some("step `a` failed after 3 tries: trapped"));
}

#[test]
fn what_is_not_repeatable_is_called_again_only_where_nothing_was_begun() {
    for (ended, again) in
        [(not_begun(), true), (unknown(), false), (Ended::Retry("later".into(), None), false), (failed(), false)]
    {
        let undone = !again && !matches!(ended, Ended::Failed(_));
        let mut saga = machine([once("a")]);
        assert_eq!(saga.begins(0), [1]);
        saga.did(1, ended, 0);
        assert_eq!(
            saga.begins(50),
            if again {
                vec![1]
            } else if undone {
                vec![-1]
            } else {
                vec![]
            }
        );
    }
    // After the death of the host nobody knows either.
    let mut saga = machine([once("a")]);
    assert_eq!(saga.begins(0), [1]);
    saga = saga.rebuilt();
    saga.recover(0);
    assert_eq!(saga.begins(0), [-1]);
}

#[test]
fn a_compensation_is_tried_until_it_succeeds_and_called_stuck_meanwhile() {
    let mut saga = machine([step("a"), step("b")]);
    assert_eq!(saga.begins(0), [1]);
    saga.done(1);
    assert_eq!(saga.begins(0), [2]);
    saga.did(2, failed(), 0);
    let mut now = 0;
    for tries in 1..=20 {
        assert_eq!(saga.begins(now), [-1]);
        saga.did(-1, if tries % 2 == 0 { failed() } else { unknown() }, now);
        assert_eq!(saga.stuck(), (tries >= 3).then_some(0));
        assert_eq!(saga.begins(now), NONE);
        now = saga.due().unwrap();
    }
    // An operator need not wait.
    saga.told(Word::Retry, now - 79).unwrap();
    assert_eq!(saga.begins(now - 79), [-1]);
    saga.done(-1);
    assert_eq!(saga.begins(now), NONE);
    assert_eq!((saga.status(), saga.stuck()), (Status::Compensated, None));
    assert_eq!(saga.told(Word::Retry, now), Err("it has ended already: it is compensated".into()));
}

#[test]
fn an_operator_turns_it_around_and_skips() {
    let mut saga = machine([step("a"), step("b"), step("c")]);
    for call in 1..=2 {
        assert_eq!(saga.begins(0), [call]);
        saga.done(call);
    }
    assert_eq!(saga.told(Word::Retry, 0), Err("no step of it waits for another try".into()));
    assert_eq!(saga.told(Word::Compensate(Some("x".into())), 0), Err("it has no step `x`".into()));
    saga.told(Word::Compensate(Some("a".into())), 0).unwrap();
    assert_eq!(saga.begins(0), [-2]);
    // Also one whose compensation is under way: it is let end.
    saga.told(Word::Compensate(Some("b".into())), 0).unwrap();
    saga.did(-2, unknown(), 0);
    assert_eq!(saga.begins(0), NONE);
    assert_eq!(saga.status(), Status::Compensated);
    assert_eq!(
        saga.progress.steps.iter().map(|step| step.at).collect::<Vec<_>>(),
        [At::Skipped, At::Skipped, At::Pending]
    );
}

#[test]
fn it_waits_for_events_and_takes_one_that_came_before() {
    let settled = || Awaited::Event("payment.settled".into());
    let mut saga = machine([step("a"), awaiting("b", settled(), Some(100)), awaiting("c", settled(), None)]);
    assert_eq!(saga.begins(0), [1]);
    saga.told(Word::Event(event("payment.settled", "2", 2)), 0).unwrap();
    saga.told(Word::Event(event("payment.settled", "1", 1)), 0).unwrap();
    saga.told(Word::Event(event("other", "3", 3)), 0).unwrap();
    saga.take_changed();
    saga.done(1);
    assert_eq!(saga.begins(0), [2]);
    assert_eq!(saga.take_changed(), Changed { progress: true, heard: true });
    assert_eq!(saga.event(1).unwrap().id, "2");
    // The same once more is not another.
    saga.told(Word::Event(event("payment.settled", "2", 2)), 0).unwrap();
    saga.done(2);
    assert_eq!((saga.begins(0), saga.due()), (vec![], Some(1_000)));
    saga.told(Word::Event(event("payment.settled", "4", 4)), 0).unwrap();
    assert_eq!(saga.begins(0), [3]);
    saga.done(3);
    saga.begins(0);
    assert_eq!((saga.status(), &saga.heard), (Status::Completed, &Heard::default()));
}

#[test]
fn waits_have_their_time_and_fail_by_it() {
    let mut saga = machine([awaiting("a", Awaited::Time(50), None), step("b")]);
    assert_eq!((saga.begins(0), saga.due()), (vec![], Some(50)));
    assert_eq!((saga.begins(49), saga.begins(50)), (vec![], vec![1]));
    saga.done(1);
    assert_eq!(saga.begins(50), [2]);

    let mut saga = machine([step("a"), awaiting("b", Awaited::Event("x".into()), Some(50))]);
    assert_eq!(saga.begins(0), [1]);
    saga.done(1);
    assert_eq!((saga.begins(10), saga.due()), (vec![], Some(60)));
    assert_eq!(saga.begins(60), [-1]);
    assert_eq!(saga.progress.reason.as_deref(), Some("step `b` failed: what it waits for did not come in time"));
}

#[test]
fn what_is_not_complete_in_time_is_taken_back() {
    let mut saga = machine([step("a"), step("b")]);
    assert_eq!(saga.begins(0), [1]);
    saga.done(1);
    assert_eq!(saga.begins(0), [2]);
    assert_eq!(saga.due(), Some(1_000));
    assert_eq!((saga.begins(1_000), saga.due()), (vec![], None));
    saga.done(2);
    assert_eq!(saga.begins(1_001), [-2]);
    assert_eq!(saga.progress.reason.as_deref(), Some("it timed out"));
}

#[test]
fn what_a_revision_has_to_know() {
    let mut saga = machine([step("a"), step("b")]);
    let with = |steps: Vec<Step>| Definition { name: "checkout".into(), steps, timeout_ms: None };
    assert_eq!(saga.lacks(None), Some((0, false)));
    assert_eq!(saga.begins(0), [1]);
    saga.done(1);
    let plain = |name: &str| Step { compensates: false, ..step(name) };
    assert_eq!(saga.lacks(Some(&with(vec![step("b"), step("a")]))), None);
    assert_eq!(saga.lacks(Some(&with(vec![step("a")]))), Some((1, false)));
    assert_eq!(saga.lacks(Some(&with(vec![step("b")]))), Some((0, true)));
    assert_eq!(saga.lacks(Some(&with(vec![plain("a"), step("b")]))), Some((0, true)));
    assert_eq!(saga.begins(0), [2]);
    saga.did(2, failed(), 0);
    saga.begins(0);
    assert_eq!(saga.lacks(Some(&with(vec![step("a")]))), None);
    saga.done(-1);
    saga.begins(0);
    assert_eq!(saga.lacks(None), None);
}

/// What happens to a saga next.
#[derive(Clone, Debug)]
enum Happens {
    /// A call that is under way ends.
    Ends(Index, Ended),
    /// The host dies; what was not written is lost if the flag says so.
    Crash(bool),
    Passes(i64),
    Comes(bool),
    Retry,
    Compensate(Option<Index>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let wait = prop_oneof![
        4 => Just(None),
        1 => (prop_oneof![Just("x"), Just("y")], proptest::option::of(1..300u64)).prop_map(|(topic, timeout_ms)| {
            Some(Wait { until: Awaited::Event(topic.into()), timeout_ms })
        }),
        1 => (1..300u64, proptest::option::of(1..300u64)).prop_map(|(ms, timeout_ms)| {
            Some(Wait { until: Awaited::Time(ms), timeout_ms })
        }),
    ];
    let step = (proptest::bool::weighted(0.4), proptest::bool::weighted(0.7), proptest::bool::weighted(0.6), wait);
    proptest::collection::vec(step, 1..7).prop_map(|steps| {
        let step = |(index, (beside, compensates, repeatable, wait))| Step {
            name: format!("s{index}"),
            beside: beside && index > 0,
            compensates,
            repeatable,
            wait,
        };
        steps.into_iter().enumerate().map(step).collect()
    })
}

fn happens() -> impl Strategy<Value = Happens> {
    let ended = prop_oneof![
        6 => Just(Ended::Done),
        1 => Just(failed()),
        1 => Just(unknown()),
        1 => Just(not_begun()),
        1 => proptest::option::of(0..200u64)
            .prop_map(|after| Ended::Retry("later".into(), after.map(Duration::from_millis))),
    ];
    prop_oneof![
        12 => (any::<Index>(), ended).prop_map(|(which, ended)| Happens::Ends(which, ended)),
        2 => any::<bool>().prop_map(Happens::Crash),
        4 => (1..200i64).prop_map(Happens::Passes),
        2 => any::<bool>().prop_map(Happens::Comes),
        1 => Just(Happens::Retry),
        1 => proptest::option::weighted(0.7, any::<Index>()).prop_map(Happens::Compensate),
    ]
}

/// What the service sees of one step.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// How often its action was called, but where nothing was begun.
    acts: u32,
    /// How its last action ended, while that is known; none while it is under way or the host died meanwhile.
    last: Option<Ended>,
    /// It was done, and that is written.
    done: bool,
    undos: u32,
    undone: bool,
}

/// A saga, and all that anybody outside of it sees.
struct World {
    machine: Machine,
    written: Machine,
    now: Millis,
    out: BTreeSet<(usize, Side)>,
    seen: Vec<Seen>,
    events: i64,
}

impl World {
    fn new(steps: Vec<Step>) -> Self {
        let seen = vec![Seen::default(); steps.len()];
        let definition = Definition { name: "checkout".into(), steps, timeout_ms: None };
        let machine = Machine::start(definition.into(), TRIES, TIMEOUT, TraceContext::root(), 0);
        let mut world = Self { written: machine.clone(), machine, now: 0, out: BTreeSet::new(), seen, events: 0 };
        world.goes_on();
        world
    }

    /// Advances, writes, and makes the calls, which are looked at.
    fn goes_on(&mut self) {
        let begin = self.machine.advance(self.now, true);
        self.machine.take_changed();
        let rebuilt = self.machine.rebuilt();
        assert_eq!(rebuilt.progress, self.machine.progress);
        self.written = rebuilt;
        for Begin { step, side, .. } in begin {
            self.called(step, side);
        }
        assert!(self.machine.advance(self.now, true).is_empty(), "it goes on as far as it can at once");
        if !self.machine.status().has_ended() && self.out.is_empty() {
            assert!(self.machine.due().is_some_and(|due| due > self.now), "something leads on: {:?}", self.machine);
        }
    }

    fn called(&mut self, index: usize, side: Side) {
        let steps = self.machine.definition.steps.clone();
        assert!(self.out.insert((index, side)), "one call of a step at a time");
        match side {
            Side::Act => {
                let (from, _) = self.machine.group(index);
                assert!(self.seen[..from].iter().all(|seen| seen.done), "what comes before is done");
                assert!(self.seen.iter().all(|seen| seen.undos == 0), "nothing is begun once something is undone");
                let seen = &mut self.seen[index];
                assert!(!seen.done, "what is done is not done again");
                assert!(seen.acts == 0 || steps[index].repeatable, "what is not repeatable is not repeated");
                seen.acts += 1;
                assert!(seen.acts <= TRIES.attempts, "no more tries than may be");
                seen.last = None;
            }
            Side::Compensate => {
                assert!(self.out.iter().all(|(_, side)| *side == Side::Compensate), "all actions have ended before");
                assert_eq!(self.out.len(), 1, "one after the other");
                assert!(steps[index].compensates);
                assert!(self.seen[index].acts > 0, "what was never begun is not taken back");
                assert!(self.seen[index].last != Some(failed()), "nor what did nothing");
                for later in index + 1..steps.len() {
                    assert!(self.is_settled(later), "the last first");
                }
                self.seen[index].undos += 1;
            }
        }
    }

    /// Whether nothing is left to be undone of a step that was begun.
    fn is_settled(&self, index: usize) -> bool {
        let (seen, step) = (&self.seen[index], &self.machine.progress.steps[index]);
        let nothing = matches!(seen.last, Some(Ended::Failed(_)));
        seen.undone || step.skip || !self.machine.definition.steps[index].compensates || seen.acts == 0 || nothing
    }

    fn happens(&mut self, happens: Happens) {
        match happens {
            Happens::Ends(which, ended) => {
                let out = self.out.iter().copied().collect::<Vec<_>>();
                if out.is_empty() {
                    return;
                }
                let (step, side) = *which.get(&out);
                self.ends(step, side, ended, false);
            }
            // A call ends, and the host dies before it has written that.
            Happens::Crash(lost) => {
                if let Some((step, side)) = self.out.first().copied().filter(|_| lost) {
                    self.ends(step, side, Ended::Done, true);
                }
                self.out.clear();
                self.machine = self.written.rebuilt();
                self.machine.recover(self.now);
            }
            Happens::Passes(ms) => self.now += ms,
            Happens::Comes(x) => {
                self.events += 1;
                let event = event(if x { "x" } else { "y" }, &self.events.to_string(), self.events);
                self.machine.told(Word::Event(event), self.now).unwrap();
            }
            Happens::Retry => drop(self.machine.told(Word::Retry, self.now)),
            Happens::Compensate(skip) => {
                let skip = skip.map(|skip| skip.get(&self.machine.definition.steps).name.clone());
                drop(self.machine.told(Word::Compensate(skip), self.now));
            }
        }
        self.goes_on();
    }

    fn ends(&mut self, index: usize, side: Side, ended: Ended, forgotten: bool) {
        self.out.remove(&(index, side));
        let seen = &mut self.seen[index];
        match side {
            Side::Act => {
                if matches!(ended, Ended::NotBegun(..)) {
                    seen.acts -= 1;
                }
                seen.done |= ended == Ended::Done && !forgotten;
                seen.last = (!forgotten).then(|| ended.clone());
            }
            Side::Compensate => seen.undone |= ended == Ended::Done && !forgotten,
        }
        if !forgotten {
            self.machine.ended(index, side, ended, self.now);
        }
    }

    /// All calls succeed from now on, and time passes.
    fn is_left_alone(&mut self) {
        for _ in 0..1_000 {
            if self.machine.status().has_ended() {
                return;
            }
            match self.out.first().copied() {
                Some((step, side)) => self.ends(step, side, Ended::Done, false),
                None => self.now = self.machine.due().expect("something leads on"),
            }
            self.goes_on();
        }
        panic!("it does not end: {:?}", self.machine);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_it_ends_completed_or_compensated(
        steps in steps(),
        all in proptest::collection::vec(happens(), 0..60),
    ) {
        let mut world = World::new(steps);
        for happens in all {
            world.happens(happens);
        }
        world.is_left_alone();
        match world.machine.status() {
            Status::Completed => {
                prop_assert!(world.seen.iter().all(|seen| seen.done && seen.undos == 0));
            }
            Status::Compensated => {
                prop_assert!((0..world.seen.len()).all(|step| world.is_settled(step)));
                prop_assert!(world.machine.progress.reason.is_some());
            }
            status => prop_assert!(false, "it is {status}"),
        }
        prop_assert_eq!(world.machine.due(), None);
        prop_assert!(world.out.is_empty());
    }
}
