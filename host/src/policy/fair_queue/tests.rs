use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// One that waits: whose it is, and the how-manieth.
type Waiting = (u8, u32);

fn name(caller: u8) -> Arc<str> {
    format!("caller {caller}").into()
}

fn queue(places: usize, lengths: &[u32]) -> FairQueue<Waiting> {
    let mut queue = FairQueue::new(places);
    for (caller, length) in (0..).zip(lengths) {
        (0..*length).for_each(|number| assert_eq!(queue.push(&name(caller), (caller, number)), Pushed::Waits));
    }
    queue
}

fn pop_all(queue: &mut FairQueue<Waiting>) -> Vec<Waiting> {
    std::iter::from_fn(|| queue.pop(|_| false)).collect()
}

#[test]
fn callers_take_turns() {
    let mut queue = queue(10, &[4, 1, 2]);
    assert_eq!(pop_all(&mut queue), [(0, 0), (1, 0), (2, 0), (0, 1), (2, 1), (0, 2), (0, 3)]);
    assert!(queue.is_empty());
}

#[test]
fn who_has_less_than_its_share_gets_the_place_of_the_newest_of_who_has_most() {
    let mut queue = queue(6, &[4, 2]);
    let mut push = |caller, number| queue.push(&name(caller), (caller, number));
    assert_eq!(push(0, 9), Pushed::Refused((0, 9)));
    assert_eq!(push(1, 2), Pushed::InPlaceOf((0, 3)));
    assert_eq!(push(1, 9), Pushed::Refused((1, 9)), "it has half of the places now");
    assert_eq!(push(0, 9), Pushed::Refused((0, 9)));
    // A third: two places for each.
    assert!(matches!(push(2, 0), Pushed::InPlaceOf((0 | 1, 2))));
    assert!(matches!(push(2, 1), Pushed::InPlaceOf((0 | 1, 2))));
    assert_eq!(push(2, 9), Pushed::Refused((2, 9)));
    assert_eq!(pop_all(&mut queue), [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)]);
}

#[test]
fn without_places_nobody_waits() {
    assert_eq!(queue(0, &[]).push(&name(0), (0, 0)), Pushed::Refused((0, 0)));
    // Nor has one of more callers than places a share.
    assert_eq!(queue(1, &[1]).push(&name(1), (1, 0)), Pushed::Refused((1, 0)));
}

#[test]
fn what_is_put_back_is_next_as_if_it_had_not_been_taken() {
    let mut queue = queue(3, &[2, 1]);
    let first = queue.pop(|_| false).unwrap();
    let second = queue.pop(|_| false).unwrap();
    queue.push_front(&name(second.0), second);
    queue.push_front(&name(first.0), first);
    assert_eq!(pop_all(&mut queue), [(0, 0), (1, 0), (0, 1)]);
}

#[test]
fn who_is_gone_costs_its_caller_no_turn() {
    let mut first = queue(9, &[3, 3]);
    let gone = |waiting: &Waiting| matches!(waiting, (0, 0 | 1));
    assert_eq!(first.ahead_of(&name(1)), 6);
    assert_eq!(first.pop(gone), Some((0, 2)));
    assert_eq!(first.len(), 3);
    let mut second = queue(9, &[3, 3]);
    second.remove(gone);
    assert_eq!(second.len(), 4);
    assert_eq!(pop_all(&mut second), [(0, 2), (1, 0), (1, 1), (1, 2)]);
}

// === Against a model ===

#[derive(Clone, Debug)]
enum Step {
    Push(u8),
    Pop,
    /// Puts back the last that were taken out, in the order in which they had been.
    PutBack(usize),
    /// So many of the callers' calls are given up: those whose number divides by it.
    Remove(u32),
}

fn a_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u8..5).prop_map(Step::Push),
        4 => Just(Step::Pop),
        1 => (1usize..4).prop_map(Step::PutBack),
        1 => (2u32..6).prop_map(Step::Remove),
    ]
}

/// One list of all that wait, in the order in which they came, and one of callers, in the order of their turns.
#[derive(Default)]
struct Model {
    waiting: Vec<Waiting>,
    turns: Vec<u8>,
}

impl Model {
    fn count(&self, of: u8) -> usize {
        self.waiting.iter().filter(|(caller, _)| *caller == of).count()
    }

    fn tidy(&mut self) {
        let waiting = &self.waiting;
        self.turns.retain(|caller| waiting.iter().any(|(waits, _)| waits == caller));
    }

    fn pop(&mut self) -> Option<Waiting> {
        let caller = *self.turns.first()?;
        let at = self.waiting.iter().position(|(waits, _)| *waits == caller)?;
        let next = self.waiting.remove(at);
        self.turns.rotate_left(1);
        self.tidy();
        Some(next)
    }

    fn put(&mut self, waiting: Waiting) {
        self.waiting.push(waiting);
        if !self.turns.contains(&waiting.0) {
            self.turns.push(waiting.0);
        }
    }
}

proptest! {
    #[test]
    fn it_is_what_the_model_says(places in 0usize..12, steps in prop::collection::vec(a_step(), 1..150)) {
        let (mut queue, mut model) = (FairQueue::new(places), Model::default());
        let mut taken = Vec::new();
        for (number, step) in (0..).zip(steps) {
            match step {
                Step::Push(caller) => {
                    let full = model.waiting.len() >= places;
                    let mut callers = model.turns.clone();
                    callers.extend((!callers.contains(&caller)).then_some(caller));
                    let has_share = model.count(caller) >= places / callers.len();
                    let most = callers.iter().map(|caller| model.count(*caller)).max().unwrap_or(0);
                    match queue.push(&name(caller), (caller, number)) {
                        Pushed::Waits => prop_assert!(!full),
                        Pushed::Refused(refused) => {
                            prop_assert_eq!(refused, (caller, number));
                            prop_assert!(full && has_share);
                            continue;
                        }
                        Pushed::InPlaceOf(displaced) => {
                            prop_assert!(full && !has_share);
                            prop_assert_eq!(model.count(displaced.0), most);
                            prop_assert!(most > model.count(caller) + 1, "it takes from one who has more than it will");
                            let newest = model.waiting.iter().rposition(|(waits, _)| *waits == displaced.0).unwrap();
                            prop_assert_eq!(model.waiting.remove(newest), displaced);
                        }
                    }
                    model.put((caller, number));
                    prop_assert!(model.waiting.len() <= places.max(queue.len()));
                    taken.clear();
                }
                Step::Pop => {
                    let next = queue.pop(|_| false);
                    prop_assert_eq!(next, model.pop());
                    taken.extend(next);
                }
                Step::PutBack(count) => {
                    for returned in taken.drain(taken.len().saturating_sub(count)..).rev() {
                        queue.push_front(&name(returned.0), returned);
                        model.waiting.insert(0, returned);
                        model.turns.retain(|caller| *caller != returned.0);
                        model.turns.insert(0, returned.0);
                    }
                }
                Step::Remove(every) => {
                    let gone = |waiting: &Waiting| waiting.1.is_multiple_of(every);
                    queue.remove(gone);
                    model.waiting.retain(|waiting| !gone(waiting));
                    model.tidy();
                    taken.clear();
                }
            }
            prop_assert_eq!(queue.len(), model.waiting.len());
            prop_assert_eq!(queue.is_empty(), model.waiting.is_empty());
        }
        // What is left comes out in each caller's own order.
        let mut last = BTreeMap::new();
        for (caller, number) in pop_all(&mut queue) {
            prop_assert!(last.insert(caller, number).is_none_or(|before| before < number));
        }
    }

    /// Where `k` callers wait, each is served at least once in any `k` turns, whatever comes in meanwhile.
    #[test]
    fn nobody_starves(
        lengths in prop::collection::vec(1u32..20, 1..6),
        comings in prop::collection::vec(prop::collection::vec(0u8..6, 0..4), 1..60),
    ) {
        let mut queue = queue(1_000, &lengths);
        // For each caller that waits: in how many turns it has not been served, and how many waited meanwhile.
        let mut patience: BTreeMap<u8, (usize, usize)> = (0..).zip(&lengths).map(|(it, _)| (it, (0, 0))).collect();
        let mut left: BTreeMap<u8, u32> = (0..).zip(lengths).collect();
        for (number, comings) in (100..).zip(comings) {
            for caller in comings {
                queue.push(&name(caller), (caller, number));
                *left.entry(caller).or_default() += 1;
                patience.entry(caller).or_default();
            }
            let callers = patience.len();
            let Some((served, _)) = queue.pop(|_| false) else { continue };
            for (caller, (turns, most)) in &mut patience {
                (*turns, *most) = (*turns + 1, (*most).max(callers));
                prop_assert!(turns <= most, "{} was not served in {} turns, with {} callers", caller, turns, most);
            }
            let more = left.get_mut(&served).unwrap();
            *more -= 1;
            if *more == 0 { patience.remove(&served) } else { patience.insert(served, (0, 0)) };
        }
    }

    /// What a newcomer is told of those before it is what happens.
    #[test]
    fn those_ahead_are_counted(
        lengths in prop::collection::vec(0u32..8, 1..6),
        turns in 0usize..10,
        caller in 0u8..6,
    ) {
        let mut queue = queue(100, &lengths);
        for _ in 0..turns {
            queue.pop(|_| false);
        }
        let ahead = queue.ahead_of(&name(caller));
        queue.push(&name(caller), (caller, 1_000));
        prop_assert_eq!(pop_all(&mut queue).iter().position(|waiting| *waiting == (caller, 1_000)), Some(ahead));
    }
}
