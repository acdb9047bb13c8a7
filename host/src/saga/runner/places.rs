//! What is in memory of each saga under way: where it is. What waits has two numbers here, and its row in the database.

use super::super::{
    Error,
    machine::{Millis, Word},
    standing::Standing,
};
use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{Notify, oneshot};

/// Something that a saga is told, and who hears when that is written.
pub(in super::super) struct Mail {
    pub word: Word,
    pub reply: Option<oneshot::Sender<Result<(), Error>>>,
}

/// The sagas under way that this host runs.
pub(super) struct Places {
    inner: Mutex<Inner>,
    /// The next time at which there is something to do is another.
    pub sooner: Notify,
    /// None is being moved on.
    pub idle: Notify,
}

struct Inner {
    all: HashMap<i64, Held>,
    /// How many go on and how many are halted, by how they stand.
    tally: (Tally, Tally),
    /// Those that sleep, by when they are to be woken.
    timers: BTreeSet<(Millis, i64)>,
    /// Those that could go on if there were room.
    queue: VecDeque<i64>,
    /// How many have room.
    running: usize,
    /// How many may have it.
    concurrency: usize,
    /// How many are active.
    active: usize,
    /// Whether calls may be made.
    open: bool,
}

/// A number for each [`Standing`].
type Tally = [usize; Standing::ALL.len()];

struct Held {
    place: Place,
    standing: Standing,
}

enum Place {
    /// Until then.
    Asleep(Millis),
    Queued,
    /// The revision that serves lacks what it needs.
    Halted,
    /// A task has it.
    Active(Box<Active>),
}

struct Active {
    mail: Vec<Mail>,
    wake: Arc<Notify>,
}

/// A saga that a task is to be made for.
pub(super) struct Waken {
    pub number: i64,
    /// Whether it has room to make calls.
    pub has_room: bool,
    pub wake: Arc<Notify>,
}

/// Where a saga is when its task ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaves {
    /// It sleeps until then.
    Asleep(Millis),
    /// It could go on and has no room.
    Queued,
    /// The revision that serves lacks what it needs.
    Halted,
    /// It has ended, or is not this host's.
    Gone,
}

// === impl Places ===

impl Places {
    pub fn new(concurrency: usize) -> Self {
        let inner = Inner {
            all: HashMap::new(),
            tally: Default::default(),
            timers: BTreeSet::new(),
            queue: VecDeque::new(),
            running: 0,
            concurrency,
            active: 0,
            open: true,
        };
        Self { inner: Mutex::new(inner), sooner: Notify::new(), idle: Notify::new() }
    }

    /// A saga that begins, and whose task is about to be made.
    pub fn begin(&self, number: i64) -> Waken {
        let mut inner = self.inner();
        // Those that wait for room were first.
        let has_room = inner.queue.is_empty() && inner.take_room();
        inner.activate(number, Vec::new(), has_room)
    }

    /// So many may have room from now on. Those that have some keep it.
    pub fn set_concurrency(&self, concurrency: usize) {
        self.inner().concurrency = concurrency;
        self.sooner.notify_one();
    }

    /// Sagas that are under way, when each is to be woken and how it stands.
    pub fn add(&self, all: Vec<(i64, Millis, Standing)>) {
        let mut inner = self.inner();
        for (number, due, standing) in all {
            if !inner.all.contains_key(&number) {
                inner.sleep(number, due, standing);
            }
        }
        drop(inner);
        self.sooner.notify_one();
    }

    /// Tells a saga something; `None` where a task has it.
    pub fn post(&self, number: i64, mail: Mail) -> Option<Waken> {
        let mut inner = self.inner();
        if let Some(Held { place: Place::Active(active), .. }) = inner.all.get_mut(&number) {
            active.mail.push(mail);
            active.wake.notify_one();
            return None;
        }
        let has_room = inner.queue.is_empty() && inner.take_room();
        Some(inner.activate(number, vec![mail], has_room))
    }

    /// Wakes those whose time has come; those for which there is no room queue up.
    pub fn wake_due(&self, now: Millis) -> Vec<Waken> {
        let mut inner = self.inner();
        while let Some((due, number)) = inner.timers.first().copied().filter(|(due, _)| *due <= now) {
            inner.timers.remove(&(due, number));
            let standing = inner.standing(number);
            inner.put(number, Place::Queued, standing);
            inner.queue.push_back(number);
        }
        let mut waken = Vec::new();
        while let Some(next) = inner.next() {
            waken.push(next);
        }
        waken
    }

    /// Wakes those that could not go on with the revision before.
    pub fn wake_halted(&self, now: Millis) {
        let mut inner = self.inner();
        let halted = inner.all.iter().filter(|(_, held)| matches!(held.place, Place::Halted));
        for (number, standing) in halted.map(|(number, held)| (*number, held.standing)).collect::<Vec<_>>() {
            inner.sleep(number, now, standing);
        }
        drop(inner);
        self.sooner.notify_one();
    }

    /// Wakes those of these that sleep.
    pub fn wake(&self, numbers: &[i64], now: Millis) {
        let mut inner = self.inner();
        for number in numbers {
            let Some(Held { place: Place::Asleep(due), standing }) = inner.all.get(number) else { continue };
            let (due, standing) = (*due, *standing);
            if due > now {
                inner.timers.remove(&(due, *number));
                inner.sleep(*number, now, standing);
            }
        }
        drop(inner);
        self.sooner.notify_one();
    }

    /// How a saga stands from now on.
    pub fn stands(&self, number: i64, standing: Standing) {
        let mut inner = self.inner();
        if inner.standing(number) != standing
            && let Some(held) = inner.remove(number)
        {
            inner.put(number, held.place, standing);
        }
    }

    /// How many go on and how many are halted, by how they stand.
    pub fn tally(&self) -> (Tally, Tally) {
        self.inner().tally
    }

    /// When the first of those that sleep is to be woken.
    pub fn next_due(&self) -> Option<Millis> {
        self.inner().timers.first().map(|(due, _)| *due)
    }

    /// What a saga was told since its task asked last.
    pub fn mail(&self, number: i64) -> Vec<Mail> {
        match self.inner().all.get_mut(&number) {
            Some(Held { place: Place::Active(active), .. }) => mem::take(&mut active.mail),
            _ => Vec::new(),
        }
    }

    /// Room for a saga whose task has none.
    pub fn take_room(&self) -> bool {
        let mut inner = self.inner();
        inner.queue.is_empty() && inner.take_room()
    }

    /// Whether calls may be made.
    pub fn is_open(&self) -> bool {
        self.inner().open
    }

    /// A saga's task would end. `None` where it was told something and goes on; else the one that has its room now.
    pub fn leave(&self, number: i64, leaves: Leaves, has_room: bool) -> Option<Option<Waken>> {
        let mut inner = self.inner();
        let standing = inner.standing(number);
        if let Some(Held { place: Place::Active(active), .. }) = inner.all.get(&number) {
            if !active.mail.is_empty() && leaves != Leaves::Gone {
                return None;
            }
            inner.active -= 1;
            inner.remove(number);
        }
        if has_room {
            inner.running -= 1;
        }
        let mut sooner = false;
        // What is not this host's any more is forgotten.
        match leaves {
            Leaves::Asleep(due) if inner.open => {
                sooner = inner.timers.first().is_none_or(|(first, _)| due < *first);
                inner.sleep(number, due, standing);
            }
            Leaves::Queued if inner.open => {
                inner.put(number, Place::Queued, standing);
                inner.queue.push_back(number);
            }
            Leaves::Halted if inner.open => drop(inner.put(number, Place::Halted, standing)),
            _ => {}
        }
        let next = inner.next();
        let idle = inner.active == 0;
        drop(inner);
        if sooner {
            self.sooner.notify_one();
        }
        if idle {
            self.idle.notify_waiters();
        }
        Some(next)
    }

    /// Whether no task has a saga.
    pub fn is_idle(&self) -> bool {
        self.inner().active == 0
    }

    /// Sagas are run from now on.
    pub fn open(&self) {
        self.inner().open = true;
    }

    /// No calls are made any more, and what no task has is forgotten.
    pub fn shut(&self) {
        let mut inner = self.inner();
        inner.open = false;
        inner.timers.clear();
        inner.queue.clear();
        inner.tally = Default::default();
        for (number, held) in mem::take(&mut inner.all) {
            if let Place::Active(active) = &held.place {
                active.wake.notify_one();
                inner.put(number, held.place, held.standing);
            }
        }
    }

    /// About how many bytes this takes.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        let inner = self.inner();
        // The control bytes of the map; and the nodes of the set are half full at worst.
        inner.all.capacity() * (size_of::<(i64, Held)>() + 1) + inner.timers.len() * 2 * size_of::<(Millis, i64)>()
    }

    /// How many are in the hands of tasks.
    #[cfg(test)]
    pub fn active(&self) -> usize {
        self.inner().active
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing that can panic runs under this lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Inner ===

impl Inner {
    fn take_room(&mut self) -> bool {
        let room = self.open && self.running < self.concurrency;
        self.running += usize::from(room);
        room
    }

    fn activate(&mut self, number: i64, mail: Vec<Mail>, has_room: bool) -> Waken {
        let wake = Arc::new(Notify::new());
        let active = Box::new(Active { mail, wake: wake.clone() });
        let standing = self.standing(number);
        match self.put(number, Place::Active(active), standing) {
            Some(Place::Asleep(due)) => drop(self.timers.remove(&(due, number))),
            Some(Place::Queued) => self.queue.retain(|other| *other != number),
            _ => {}
        }
        self.active += 1;
        Waken { number, has_room, wake }
    }

    fn sleep(&mut self, number: i64, due: Millis, standing: Standing) {
        self.put(number, Place::Asleep(due), standing);
        self.timers.insert((due, number));
    }

    /// How a saga stands, as far as is known.
    fn standing(&self, number: i64) -> Standing {
        self.all.get(&number).map_or_else(Standing::default, |held| held.standing)
    }

    /// Puts a saga into this place; the one where it was.
    fn put(&mut self, number: i64, place: Place, standing: Standing) -> Option<Place> {
        let before = self.remove(number);
        *self.counter(&place, standing) += 1;
        self.all.insert(number, Held { place, standing });
        before.map(|held| held.place)
    }

    fn remove(&mut self, number: i64) -> Option<Held> {
        let held = self.all.remove(&number)?;
        *self.counter(&held.place, held.standing) -= 1;
        Some(held)
    }

    fn counter(&mut self, place: &Place, standing: Standing) -> &mut usize {
        let tally = if matches!(place, Place::Halted) { &mut self.tally.1 } else { &mut self.tally.0 };
        &mut tally[standing as usize]
    }

    /// The next of those that wait for room, if there is some.
    fn next(&mut self) -> Option<Waken> {
        let number = *self.queue.front()?;
        if !self.take_room() {
            return None;
        }
        self.queue.pop_front();
        Some(self.activate(number, Vec::new(), true))
    }
}
