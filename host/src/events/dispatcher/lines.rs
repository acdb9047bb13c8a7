//! Who may go next: the events of a subscription that wait for their first try.
//!
//! They go as they came, except that an event whose subject is in hand stands in that subject's line, where it keeps
//! nobody else waiting. When its turn comes it goes before all that came after it.

use super::Delivery;
use crate::events::{DeliveryOrder, Event};
use std::collections::{BTreeMap, HashMap, VecDeque};

/// The place in which an event came.
type Turn = u64;

pub(super) struct Lines<R> {
    order: DeliveryOrder,
    /// Those that nobody is before.
    ready: BTreeMap<Turn, Delivery<R>>,
    /// The subjects that are in hand or among the ready, and who stands behind.
    behind: HashMap<String, VecDeque<(Turn, Delivery<R>)>>,
    next: Turn,
}

// === impl Lines ===

impl<R> Lines<R> {
    pub(super) fn new(order: DeliveryOrder) -> Self {
        Self { order, ready: BTreeMap::new(), behind: HashMap::new(), next: 0 }
    }

    /// Takes one that came.
    pub(super) fn push(&mut self, delivery: Delivery<R>) {
        let turn = self.next;
        self.next += 1;
        if let Some(subject) = subject(self.order, &delivery.event) {
            if let Some(line) = self.behind.get_mut(subject) {
                line.push_back((turn, delivery));
                return;
            }
            self.behind.insert(subject.to_owned(), VecDeque::new());
        }
        self.ready.insert(turn, delivery);
    }

    /// The next that may be tried. Its subject is in hand until it [is done](Self::done).
    pub(super) fn pop(&mut self) -> Option<Delivery<R>> {
        self.ready.pop_first().map(|(_, delivery)| delivery)
    }

    /// An event that was taken needs no further try: the next of its subject may go.
    pub(super) fn done(&mut self, event: &Event) {
        let Some(subject) = subject(self.order, event) else { return };
        match self.behind.get_mut(subject).map(VecDeque::pop_front) {
            Some(Some((turn, delivery))) => {
                self.ready.insert(turn, delivery);
            }
            Some(None) => {
                self.behind.remove(subject);
            }
            None => {}
        }
    }

    /// Gives back all that wait.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Delivery<R>> {
        let behind = std::mem::take(&mut self.behind).into_values().flatten();
        std::mem::take(&mut self.ready).into_iter().chain(behind).map(|(_, delivery)| delivery)
    }
}

/// What an event is about, where that says which others it waits for.
fn subject(order: DeliveryOrder, event: &Event) -> Option<&str> {
    match order {
        DeliveryOrder::Subject => event.subject.as_deref(),
        DeliveryOrder::None => None,
    }
}
