//! The window: the events that are offered to the bus at the same time.
//!
//! They are offered as they came, so a bus that takes them in the order in which it is asked has them so. But for
//! that nobody waits: what the bus must not mix up are the events of one *line*, and of these one is offered at a time, and
//! the next when the bus has taken it. A line is a subject, whatever the topic: that an order was confirmed never leaves
//! before that it was created. Events without a subject have the line of their topic.
//!
//! One that the bus refuses is offered again after a pause, and holds up its own line and no other, as long as the window
//! has room: what stands in a line takes room too, for it is held in memory.

use super::super::rows::Key;
use crate::events::{Bus, Event, Prepared, PublishError};
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use jiff::Timestamp;
use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
};
use tokio::time::Instant;

/// When the payloads in it have as many bytes together, it is full.
const BYTES: usize = 4 << 20;

/// The place in which an event came.
type Turn = u64;

pub(super) struct Window {
    bus: Bus,
    most: usize,
    next: Turn,
    bytes: usize,
    /// How many the bus has refused.
    failed: usize,
    ids: HashSet<String>,
    /// When the events were published that are in it, in the order in which they came.
    times: BTreeMap<Turn, Timestamp>,
    /// The lines of which one is under way, and who stands behind.
    lines: HashMap<Line, VecDeque<Item>>,
    /// Those that may be offered now.
    ready: BTreeMap<Turn, Item>,
    /// Those that the bus refused, until they are offered again.
    paused: BTreeMap<(Instant, Turn), Item>,
    tries: FuturesUnordered<BoxFuture<'static, Ended>>,
}

/// An event in the window.
pub(super) struct Item {
    pub key: Key,
    pub bytes: usize,
    /// How often the bus has refused it.
    pub failed: u32,
    prepared: Prepared,
    turn: Turn,
}

/// A try, and what came of it.
pub(super) struct Ended {
    pub item: Item,
    pub result: Result<(), PublishError>,
}

/// Which events must not overtake each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Line {
    Subject(String),
    Topic(Arc<str>),
}

// === impl Window ===

impl Window {
    /// One for so many events.
    pub fn new(bus: Bus, most: usize) -> Self {
        Self {
            bus,
            // One that takes nothing would never end.
            most: most.max(1),
            next: 0,
            bytes: 0,
            failed: 0,
            ids: HashSet::new(),
            times: BTreeMap::new(),
            lines: HashMap::new(),
            ready: BTreeMap::new(),
            paused: BTreeMap::new(),
            tries: FuturesUnordered::new(),
        }
    }

    pub fn has_room(&self) -> bool {
        self.times.len() < self.most && self.bytes < BYTES
    }

    /// Whether there is one that the bus has not answered yet, or that it is to be asked about at once.
    pub fn is_trying(&self) -> bool {
        !self.tries.is_empty() || !self.ready.is_empty()
    }

    /// Whether the bus refused one that is in it.
    pub fn has_failed(&self) -> bool {
        self.failed > 0
    }

    /// The ids of the events that are in it.
    pub fn ids(&self) -> HashSet<String> {
        self.ids.clone()
    }

    /// When the one was published that has waited longest.
    pub fn oldest(&self) -> Option<Timestamp> {
        self.times.first_key_value().map(|(_, time)| *time)
    }

    /// When the next one is to be offered again.
    pub fn due(&self) -> Option<Instant> {
        self.paused.first_key_value().map(|((due, _), _)| *due)
    }

    /// Takes one in, to be offered when no other of its line is before it.
    pub fn push(&mut self, key: Key, prepared: Prepared, bytes: usize) {
        let turn = self.next;
        self.next += 1;
        self.bytes += bytes;
        self.ids.insert(key.id.clone());
        self.times.insert(turn, prepared.event.time);
        let line = Line::of(&prepared.event);
        let item = Item { key, bytes, failed: 0, prepared, turn };
        if let Some(behind) = self.lines.get_mut(&line) {
            behind.push_back(item);
        } else {
            self.lines.insert(line, VecDeque::new());
            self.ready.insert(turn, item);
        }
    }

    /// Offers all that may be offered now.
    pub fn begin(&mut self, now: Instant) {
        while let Some(entry) = self.paused.first_entry()
            && entry.key().0 <= now
        {
            let item = entry.remove();
            self.ready.insert(item.turn, item);
        }
        while let Some((_, item)) = self.ready.pop_first() {
            let (bus, prepared) = (self.bus.clone(), item.prepared.clone());
            self.tries.push(Box::pin(async move {
                let result = bus.publish_prepared(prepared).await;
                Ended { item, result }
            }));
        }
    }

    /// The next try that ends. Waits forever where there is none.
    pub async fn ended(&mut self) -> Ended {
        match self.tries.next().await {
            Some(ended) => ended,
            None => std::future::pending().await,
        }
    }

    /// Takes one out: the next of its line may go.
    pub fn remove(&mut self, item: &Item) {
        self.bytes -= item.bytes;
        self.failed -= usize::from(item.failed > 0);
        self.ids.remove(&item.key.id);
        self.times.remove(&item.turn);
        let line = Line::of(&item.prepared.event);
        match self.lines.get_mut(&line).map(VecDeque::pop_front) {
            Some(Some(next)) => drop(self.ready.insert(next.turn, next)),
            Some(None) => drop(self.lines.remove(&line)),
            None => {}
        }
    }

    /// Has one offered again, not before then.
    pub fn pause(&mut self, mut item: Item, until: Instant) {
        self.failed += usize::from(item.failed == 0);
        item.failed += 1;
        self.paused.insert((until, item.turn), item);
    }

    /// Offers nothing more, and forgets what is not under way; of that, the tries that are end, one with each call.
    pub async fn settle(&mut self) -> Option<Ended> {
        self.lines.clear();
        self.ready.clear();
        self.paused.clear();
        let ended = self.tries.next().await;
        if ended.is_none() {
            *self = Self::new(self.bus.clone(), self.most);
        }
        ended
    }
}

// === impl Line ===

impl Line {
    fn of(event: &Event) -> Self {
        match &event.subject {
            Some(subject) => Self::Subject(subject.clone()),
            None => Self::Topic(event.topic.clone()),
        }
    }
}
