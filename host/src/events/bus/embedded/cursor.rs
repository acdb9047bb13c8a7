//! How far a subscription has come.
//!
//! A cursor goes through the events of one topic. It has a *position*: what is not beyond it is settled, except what is
//! *pending*, one row each. Usually the position follows closely. An event that is tried again gets a row, with its tries,
//! and no longer holds the position; so does one that is not settled half a second after it was handed over, while later
//! ones are. A crash therefore has at most the last half second delivered again, and not what was settled since the
//! slowest.
//!
//! While a cursor is at the end of the log, it is handed new events from memory as they are committed. When the
//! subscription has no room for one, the cursor falls behind and is fed from the log, as far as there is room, until it is
//! at the end again. Of a subject that has many events in memory already, further ones are only set aside, by their
//! number: else the events behind a stuck one would take all the room, and stop the other subjects.

use super::row;
use crate::events::{
    Event,
    dispatcher::Delivery,
    meter::Meter,
    room::{Place, Room, Slot},
};
use jiff::Timestamp;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU32, Ordering::Relaxed},
    },
};
use tokio::{
    sync::{Notify, mpsc},
    time::{Duration, Instant},
};

/// The most events of one subject that are in memory, where the room allows it.
const SHARE: usize = 32;
/// The most events that are set aside; beyond that the subscription is not read on.
const ASIDE: usize = 100_000;
/// The most events that get their rows at a time for being slow.
const SLOW: usize = 2_000;

/// The most tries that are saved before they begin, after the host died.
const SUSPECTS: u32 = 1_000;

/// What is the same for all cursors of a subscription.
#[derive(Clone)]
pub(super) struct Seat {
    pub(super) topic: Arc<str>,
    pub(super) topic_id: i64,
    pub(super) service: Arc<str>,
    /// Its row in `subscriptions`.
    pub(super) subscription: i64,
    pub(super) room: Arc<Room>,
    pub(super) meter: Arc<Meter>,
    pub(super) inbox: mpsc::UnboundedSender<Delivery<Held>>,
    /// How many events of one subject may be in memory, where they go one after the other.
    pub(super) share: Option<usize>,
    /// Wakes whoever saves what cursors have come to.
    pub(super) dirty: Arc<Notify>,
}

pub(super) struct Cursor {
    /// Its row in `cursors`.
    pub(super) id: i64,
    pub(super) seat: Seat,
    /// The last event of a replay; without one, it follows the log.
    pub(super) until: Option<i64>,
    /// Wakes whoever feeds it.
    pub(super) wake: Notify,
    state: Mutex<State>,
    suspects: Suspects,
}

/// Events that may have been in hand when the host died, and may have been what it died of. Their tries are saved before
/// they begin, and so count also when the host dies of them again.
#[derive(Default)]
struct Suspects {
    /// The last that may be one.
    last: AtomicI64,
    /// How many tries are still saved before they begin. Bounded, since each costs a commit: who has come so far has also
    /// saved that, and what lies behind is near the beginning after the next death.
    tries: AtomicU32,
}

struct State {
    /// It is at the end of the log, and takes new events as they come.
    live: bool,
    /// The last event that was handed over or set aside.
    read: i64,
    /// The last event of the topic that is known to be in the log.
    tail: i64,
    /// How many there are from the one to the other.
    unread: u64,
    /// Handed over or set aside, not settled, and without a row; with their times.
    open: BTreeMap<i64, i64>,
    /// Those with a row, or about to have one.
    pending: BTreeMap<i64, Tries>,
    /// Those of the pending that have to be handed over again: they were before a restart, or are from a dead letter.
    recovered: VecDeque<i64>,
    subjects: HashMap<String, Subject>,
    /// The subjects that have room for some that were set aside.
    returning: VecDeque<String>,
    aside: usize,
    /// The last event that was settled.
    settled: i64,
    /// What was read a while ago, and the position that is saved.
    mark: i64,
    saved: i64,
    /// Up to here everything must have its row with the next saving.
    cover: i64,
    /// Rows that differ from those that are saved; `None` is one that must go.
    rows: BTreeMap<i64, Option<Row>>,
    dirty: bool,
    /// It is a replay that is through, and the log knows it.
    through: bool,
    /// It is a replay that was stopped: nothing of it is open any more, whatever becomes of what is in hand.
    stopped: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tries {
    pub(super) attempts: u32,
    pub(super) due: Option<i64>,
    time: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) attempts: u32,
    pub(super) due: Option<i64>,
    pub(super) error: Option<String>,
}

#[derive(Default)]
struct Subject {
    /// In memory.
    held: usize,
    aside: VecDeque<i64>,
    returning: bool,
}

/// An event in the hands of the dispatcher.
pub(super) struct Held {
    pub(super) cursor: Arc<Cursor>,
    pub(super) seq: i64,
    pub(super) event: Arc<Event>,
    pub(super) due: Option<Instant>,
    _place: Place,
}

/// What a cursor has to be fed with.
pub(super) enum Want {
    Nothing,
    /// It is a replay that is through.
    Through,
    /// These, by their numbers.
    These(Vec<i64>),
    /// What is in the log after this; its end is here or further on.
    After(i64, i64),
}

/// What is to be saved of a cursor.
#[derive(Debug)]
pub(super) struct Saving {
    pub(super) position: i64,
    pub(super) rows: BTreeMap<i64, Option<Row>>,
    /// It is a replay that is through.
    pub(super) finished: bool,
    before: i64,
}

/// What became of an event that a cursor was offered.
pub(super) enum Offered {
    /// It was handed over, or set aside.
    Taken,
    /// There must be a place for it first.
    NeedsPlace,
}

// === impl Cursor ===

impl Cursor {
    /// A cursor that goes on from `position`, with what was pending then and how many events follow.
    pub(super) fn new(
        id: i64,
        seat: Seat,
        until: Option<i64>,
        position: i64,
        tail: i64,
        unread: u64,
        pending: BTreeMap<i64, Row>,
    ) -> Self {
        let recovered: VecDeque<i64> = pending.range(..=position).map(|(seq, _)| *seq).collect();
        let tries = |row: Row| Tries { attempts: row.attempts, due: row.due, time: None };
        let tail = until.unwrap_or(tail).max(position);
        let state = State {
            // What is new comes behind what was there before.
            live: tail == position && recovered.is_empty(),
            read: position,
            tail,
            unread,
            open: BTreeMap::new(),
            pending: pending.into_iter().map(|(seq, row)| (seq, tries(row))).collect(),
            recovered,
            subjects: HashMap::new(),
            returning: VecDeque::new(),
            aside: 0,
            settled: 0,
            mark: position,
            saved: position,
            cover: 0,
            rows: BTreeMap::new(),
            dirty: until.is_some(),
            through: false,
            stopped: false,
        };
        let suspects = Suspects::default();
        let cursor = Self { id, seat, until, wake: Notify::new(), state: Mutex::new(state), suspects };
        cursor.note(&cursor.state());
        cursor
    }

    /// Holds what is in the log now, up to `last`, for what the host may have died of.
    pub(super) fn suspect(&self, last: i64) {
        self.suspects.last.store(last, Relaxed);
        self.suspects.tries.store(SUSPECTS, Relaxed);
    }

    /// Notes that a try is about to begin; says whether that must be saved before it does.
    pub(super) fn begins(&self, seq: i64, event: &Event, attempts: u32) -> bool {
        let Suspects { last, tries } = &self.suspects;
        if seq > last.load(Relaxed) || tries.try_update(Relaxed, Relaxed, |it| it.checked_sub(1)).is_err() {
            return false;
        }
        let mut state = self.state();
        state.open.remove(&seq);
        state.pending.insert(seq, Tries { attempts, due: None, time: Some(event.time.as_millisecond()) });
        let error = Some("there is no answer to it yet".to_owned());
        state.rows.insert(seq, Some(Row { attempts, due: None, error }));
        self.soil(&mut state);
        true
    }

    /// Takes a new event that has just come into the log, or falls behind.
    pub(super) fn announce(self: &Arc<Self>, seq: i64, event: &Arc<Event>) {
        let mut state = self.state();
        state.tail = state.tail.max(seq);
        if seq <= state.read {
            // Whoever feeds it has found it in the log already.
            return;
        }
        if state.live && state.aside < ASIDE {
            if self.sets_aside(&mut state, seq, event) {
                state.read = seq;
                return self.note(&state);
            }
            if let Some(place) = self.seat.room.try_enter(&event.data) {
                state.read = seq;
                return self.hand_over(&mut state, seq, Arc::clone(event), place);
            }
        }
        state.live = false;
        state.unread += 1;
        self.note(&state);
        drop(state);
        self.wake.notify_one();
    }

    /// What to feed it with next, at most so many.
    pub(super) fn want(&self, most: usize) -> Want {
        let state = self.state();
        if !state.recovered.is_empty() {
            return Want::These(state.recovered.iter().take(most).copied().collect());
        }
        if let Some(subject) = state.returning.front().and_then(|subject| state.subjects.get(subject)) {
            let most = most.min(self.seat.share.unwrap_or(1).saturating_sub(subject.held));
            return Want::These(subject.aside.iter().take(most).copied().collect());
        }
        if state.through {
            return Want::Through;
        }
        if state.live || state.aside >= ASIDE { Want::Nothing } else { Want::After(state.read, state.tail) }
    }

    /// Offers the next event from the log.
    pub(super) fn offer(&self, seq: i64, event: &Arc<Event>) -> Offered {
        let mut state = self.state();
        if seq > state.read && !self.sets_aside(&mut state, seq, event) {
            return Offered::NeedsPlace;
        }
        Self::advance(&mut state, seq);
        self.note(&state);
        Offered::Taken
    }

    /// Hands the next event from the log over.
    pub(super) fn take(self: &Arc<Self>, seq: i64, event: Arc<Event>, place: Place) {
        let mut state = self.state();
        Self::advance(&mut state, seq);
        self.hand_over(&mut state, seq, event, place);
    }

    /// Nothing of the topic is in the log after what it has read, up to `tail`.
    pub(super) fn reached(&self, tail: i64) {
        let mut state = self.state();
        state.read = state.read.max(tail);
        if state.read >= state.tail {
            state.live = true;
            state.unread = 0;
        }
        if self.until.is_some() {
            state.dirty = true;
            self.seat.dirty.notify_one();
        }
        self.note(&state);
    }

    /// Hands an event over that it [asked for by its number](Want::These); `None` where the log has it no more.
    pub(super) async fn take_again(self: &Arc<Self>, seq: i64, event: Option<Event>, slot: Slot) {
        let Some(event) = event.map(Arc::new) else {
            tracing::error!(topic = %self.seat.topic, service = %self.seat.service, seq,
                "event lost: it is not in the log any more");
            return self.forget(seq);
        };
        let subject = self.subject(&event).map(str::to_owned);
        {
            let mut state = self.state();
            // A recovered one stands behind those of its subject that came before.
            if state.recovered.front() == Some(&seq)
                && let Some(subject) = &subject
                && self.is_over_share(&state, subject)
            {
                state.recovered.pop_front();
                state.aside += 1;
                state.subjects.entry(subject.clone()).or_default().aside.push_back(seq);
                return self.note(&state);
            }
        }
        let Some(place) = self.seat.room.enter(slot, &event.data).await else { return };
        let mut state = self.state();
        if state.recovered.front() == Some(&seq) {
            state.recovered.pop_front();
        } else if let Some(name) = subject
            && let Some(subject) = state.subjects.get_mut(&name)
        {
            let was_aside = subject.aside.pop_front_if(|first| *first == seq).is_some();
            let through = subject.aside.is_empty() || subject.held + 1 >= self.seat.share.unwrap_or(1);
            subject.returning &= !through;
            state.aside -= usize::from(was_aside);
            if through {
                state.returning.pop_front_if(|first| *first == name);
            }
        }
        self.hand_over(&mut state, seq, event, place);
    }

    /// Notes that an event needs no further try. `cover` where that must be saved for sure with what is saved next.
    pub(super) fn settle(&self, seq: i64, event: &Event, cover: bool) {
        let mut state = self.state();
        if state.open.remove(&seq).is_none() && state.pending.remove(&seq).is_some() {
            state.rows.insert(seq, None);
        }
        state.settled = state.settled.max(seq);
        if cover {
            state.cover = state.cover.max(seq);
        }
        self.release(&mut state, event);
        self.soil(&mut state);
    }

    /// Ends a replay: nothing of it is handed over or tried from now on, and it is through with what is saved next. Returns
    /// how many of its events are not settled.
    pub(super) fn stop(&self) -> u64 {
        let count = self.behind().0;
        let mut guard = self.state();
        let state = &mut *guard;
        let Some(until) = self.until.filter(|_| !state.stopped) else { return 0 };
        (state.stopped, state.live, state.read, state.unread, state.aside) = (true, true, until, 0, 0);
        state.open.clear();
        state.pending.clear();
        state.recovered.clear();
        state.subjects.clear();
        state.returning.clear();
        self.soil(state);
        count
    }

    /// Whether it is a replay that was stopped.
    pub(super) fn is_stopped(&self) -> bool {
        self.until.is_some() && self.state().stopped
    }

    /// Takes a [`settle`](Self::settle) back that could not be saved. The event is still held.
    pub(super) fn unsettle(&self, seq: i64, event: &Event, attempts: u32) {
        let mut state = self.state();
        if state.stopped {
            return;
        }
        let tries = Tries { attempts, due: None, time: Some(event.time.as_millisecond()) };
        state.pending.insert(seq, tries);
        state.rows.insert(seq, Some(Row { attempts, ..Row::default() }));
        if let Some(subject) = self.subject(event) {
            state.subjects.entry(subject.to_owned()).or_default().held += 1;
        }
        self.soil(&mut state);
    }

    /// Notes that a try failed.
    pub(super) fn failed(&self, seq: i64, event: &Event, attempts: u32, due: Timestamp, error: &str) {
        let mut state = self.state();
        if state.stopped {
            return;
        }
        let due = Some(due.as_millisecond());
        state.open.remove(&seq);
        state.pending.insert(seq, Tries { attempts, due, time: Some(event.time.as_millisecond()) });
        state.rows.insert(seq, Some(Row { attempts, due, error: Some(error.to_owned()) }));
        self.soil(&mut state);
    }

    /// Takes an event up again that is pending in the log since now: a dead letter that lives once more.
    pub(super) fn revive(&self, seq: i64) {
        let mut state = self.state();
        if state.pending.insert(seq, Tries::default()).is_none() {
            state.recovered.push_back(seq);
        }
        self.note(&state);
        drop(state);
        self.wake.notify_one();
    }

    /// What must be saved, if anything. `slow` where what has been open since the last such call gets rows.
    pub(super) fn save(&self, slow: bool) -> Option<Saving> {
        let mut state = self.state();
        if !state.dirty {
            return None;
        }
        if slow {
            let mark = state.mark.min(state.settled - 1).max(state.cover);
            state.give_rows(mark, SLOW);
            state.mark = state.read;
        }
        let cover = state.cover;
        state.give_rows(cover, usize::MAX);
        let first = state.open.first_key_value().map(|(seq, _)| seq - 1);
        let position = first.unwrap_or(state.read).max(state.saved);
        let rows = std::mem::take(&mut state.rows);
        let through = self.until.is_some_and(|until| state.read >= until);
        let finished = through && state.open.is_empty() && state.pending.is_empty();
        // Those that are slow get their rows when they have been so for long enough, whether or not anything happens.
        state.dirty = state.open.first_key_value().is_some_and(|(first, _)| *first < state.settled);
        if position == state.saved && rows.is_empty() && !finished {
            return None;
        }
        let before = std::mem::replace(&mut state.saved, position);
        Some(Saving { position, rows, finished, before })
    }

    /// Whether there is something that [`save`](Self::save) might have to save.
    pub(super) fn is_dirty(&self) -> bool {
        self.state().dirty
    }

    /// It was saved.
    pub(super) fn saved(&self, saving: &Saving) {
        let mut state = self.state();
        if state.cover <= saving.position {
            state.cover = 0;
        }
        if saving.finished {
            state.through = true;
            self.wake.notify_one();
        }
    }

    /// It could not be saved.
    pub(super) fn unsaved(&self, saving: Saving) {
        let mut state = self.state();
        state.saved = saving.before;
        for (seq, row) in saving.rows {
            state.rows.entry(seq).or_insert(row);
        }
        self.soil(&mut state);
    }

    /// How many events are not settled, and the first of them.
    pub(super) fn behind(&self) -> (u64, i64) {
        let state = self.state();
        let first = [state.open.keys().next(), state.pending.keys().next()].into_iter().flatten().min().copied();
        let known = state.open.len() + state.pending.range(..=state.read).count();
        (state.unread + known as u64, first.unwrap_or(state.read + 1))
    }

    /// The last event that was handed over or set aside.
    pub(super) fn read(&self) -> i64 {
        self.state().read
    }

    fn advance(state: &mut State, seq: i64) {
        if seq > state.read {
            state.read = seq;
            if seq <= state.tail {
                state.unread = state.unread.saturating_sub(1);
            }
        }
    }

    /// Sets an event aside whose subject has as many in memory as it may, or others that were set aside before.
    fn sets_aside(&self, state: &mut State, seq: i64, event: &Event) -> bool {
        let Some(subject) = self.subject(event) else { return false };
        if !self.is_over_share(state, subject) {
            return false;
        }
        if !state.pending.contains_key(&seq) {
            state.open.insert(seq, event.time.as_millisecond());
        }
        state.aside += 1;
        if let Some(subject) = state.subjects.get_mut(subject) {
            subject.aside.push_back(seq);
        }
        true
    }

    fn is_over_share(&self, state: &State, subject: &str) -> bool {
        let over =
            |subject: &Subject| !subject.aside.is_empty() || self.seat.share.is_some_and(|share| subject.held >= share);
        state.subjects.get(subject).is_some_and(over)
    }

    fn hand_over(self: &Arc<Self>, state: &mut State, seq: i64, event: Arc<Event>, place: Place) {
        if state.stopped {
            return;
        }
        let time = event.time.as_millisecond();
        let tries = match state.pending.get_mut(&seq) {
            Some(tries) => {
                tries.time = Some(time);
                *tries
            }
            None => {
                state.open.insert(seq, time);
                Tries::default()
            }
        };
        if let Some(subject) = self.subject(&event) {
            state.subjects.entry(subject.to_owned()).or_default().held += 1;
        }
        let due = tries.due.and_then(until_then).map(|wait| Instant::now() + wait);
        let receipt = Held { cursor: Arc::clone(self), seq, event: Arc::clone(&event), due, _place: place };
        // Where the dispatcher has ended the bus is closing, and the event stays unsettled in the log.
        let _ = self.seat.inbox.send(Delivery { event, attempt: tries.attempts + 1, receipt });
        self.note(state);
    }

    /// Gives up an event that is not there any more.
    fn forget(&self, seq: i64) {
        let mut guard = self.state();
        let state = &mut *guard;
        if state.recovered.front() == Some(&seq) {
            state.recovered.pop_front();
        } else if let Some(name) = state.returning.front().cloned()
            && let Some(subject) = state.subjects.get_mut(&name)
        {
            let was_aside = subject.aside.pop_front_if(|first| *first == seq).is_some();
            state.aside -= usize::from(was_aside);
            if subject.aside.is_empty() {
                subject.returning = false;
                state.returning.pop_front();
            }
        }
        if state.open.remove(&seq).is_none() {
            state.pending.remove(&seq);
            state.rows.insert(seq, None);
        }
        self.soil(state);
    }

    /// One of the subject is no longer in memory.
    fn release(&self, state: &mut State, event: &Event) {
        let (Some(share), Some(name)) = (self.seat.share, self.subject(event)) else { return };
        let Some(subject) = state.subjects.get_mut(name) else { return };
        subject.held = subject.held.saturating_sub(1);
        if subject.aside.is_empty() {
            if subject.held == 0 {
                state.subjects.remove(name);
            }
        } else if subject.held <= share / 2 && !subject.returning {
            subject.returning = true;
            state.returning.push_back(name.to_owned());
            self.wake.notify_one();
        }
    }

    fn soil(&self, state: &mut State) {
        self.note(state);
        if !std::mem::replace(&mut state.dirty, true) {
            self.seat.dirty.notify_one();
        }
    }

    /// Tells the meter.
    fn note(&self, state: &State) {
        if self.until.is_some() {
            return;
        }
        let meter = &self.seat.meter;
        meter.set_behind(Some(state.unread + state.aside as u64 + state.recovered.len() as u64));
        let pending = state.pending.first_key_value().and_then(|(_, tries)| tries.time);
        let open = state.open.first_key_value().map(|(_, time)| *time);
        meter.set_oldest([pending, open].into_iter().flatten().min());
    }

    /// What the event is about, where that decides which others it waits for.
    fn subject<'a>(&self, event: &'a Event) -> Option<&'a str> {
        self.seat.share.and(event.subject.as_deref())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What runs under this lock does not panic half-way, so a poisoned one is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    /// Gives rows to what is open up to `last`, so that it does not hold the position, but to at most so many.
    fn give_rows(&mut self, last: i64, most: usize) {
        for _ in 0..most {
            let Some(first) = self.open.first_entry().filter(|first| *first.key() <= last) else { return };
            let (seq, time) = first.remove_entry();
            self.pending.insert(seq, Tries { time: Some(time), ..Tries::default() });
            self.rows.insert(seq, Some(Row::default()));
        }
    }
}

/// How many events of one subject may be in memory.
pub(super) fn share(capacity: usize) -> usize {
    (capacity / 16).clamp(1, SHARE)
}

/// How long it is until then, if that is not over.
fn until_then(due: i64) -> Option<Duration> {
    Duration::try_from(row::time(due).duration_since(Timestamp::now())).ok().filter(|wait| !wait.is_zero())
}
