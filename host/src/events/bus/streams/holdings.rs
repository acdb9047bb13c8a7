//! What this host holds of one subscription: leases of partitions, and entries in its hands.
//!
//! All of it is bookkeeping without Redis. A partition counts by *generations*: whenever this host may have missed
//! something of it (the lease was lost, or ran out unnoticed, or is to be given back) the next one begins, and what is in
//! hand of the one before is not tried any more, whatever becomes of it. So no event is tried after an earlier one of its
//! subject was put aside.

use super::ledger::Letter;
use std::collections::{HashMap, HashSet};
use tokio::time::Instant;

/// One of the two streams of a partition: the topic's, and the subscription's own for what is delivered again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Source(u16);

/// How far the reading of a source is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// What others left pending comes first. The next to look at, as `XPENDING` wants it.
    Pending(String),
    /// What is new comes next, after this id.
    New(String),
}

/// A source that is to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) source: Source,
    pub(super) generation: u64,
    pub(super) progress: Progress,
}

/// Leases and entries.
#[derive(Debug)]
pub(super) struct Holdings {
    partitions: Vec<Partition>,
    /// Until when the leases hold without another heartbeat, by the clock of this host and on the safe side.
    until: Option<Instant>,
    /// Entries that are settled, and Redis does not know yet; with a letter where they are to become one.
    finished: HashMap<(Source, String), Option<Letter>>,
}

#[derive(Debug)]
struct Partition {
    lease: Option<Lease>,
    generation: u64,
    /// How many of its entries are being tried, whatever generation they are of.
    trying: usize,
    progress: [Progress; 2],
    /// Entries in hand, and of which generation they are.
    held: [HashMap<String, u64>; 2],
}

#[derive(Debug)]
struct Lease {
    epoch: u64,
    /// To be given back as soon as nothing of it is being tried.
    draining: bool,
}

// === impl Source ===

impl Source {
    /// The topic's own stream of a partition.
    pub(super) const fn topic(partition: u16) -> Self {
        Self(partition * 2)
    }

    /// What the subscription gets again.
    pub(super) const fn again(partition: u16) -> Self {
        Self(partition * 2 + 1)
    }

    pub(super) const fn partition(self) -> u16 {
        self.0 / 2
    }

    /// Whether the stream is this subscription's alone.
    pub(super) const fn is_again(self) -> bool {
        self.0 % 2 == 1
    }

    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }

    const fn place(self) -> (usize, usize) {
        (self.partition() as usize, (self.0 % 2) as usize)
    }
}

// === impl Progress ===

impl Progress {
    /// Looks at all that is pending.
    pub(super) fn begin() -> Self {
        Self::Pending("-".into())
    }
}

// === impl Holdings ===

impl Holdings {
    pub(super) fn new(partitions: u16) -> Self {
        let partitions = (0..partitions).map(|_| Partition {
            lease: None,
            generation: 0,
            trying: 0,
            progress: [Progress::begin(), Progress::begin()],
            held: Default::default(),
        });
        Self { partitions: partitions.collect(), until: None, finished: HashMap::new() }
    }

    /// Takes over what a heartbeat said: how many partitions this host is to have, and those that it has, each with the
    /// epoch of its lease. Says whether anything is to be done now that was not before.
    pub(super) fn beaten(&mut self, until: Instant, share: usize, mine: &[(u16, u64)]) -> bool {
        self.until = Some(until);
        let mut changed = false;
        let mine: HashMap<u16, u64> = mine.iter().copied().collect();
        for (number, partition) in (0..).zip(&mut self.partitions) {
            match (mine.get(&number), &partition.lease) {
                (Some(epoch), Some(lease)) if lease.epoch == *epoch => {}
                (Some(epoch), _) => {
                    partition.next_generation();
                    partition.lease = Some(Lease { epoch: *epoch, draining: false });
                    changed = true;
                }
                (None, Some(_)) => {
                    partition.next_generation();
                    partition.lease = None;
                    changed = true;
                }
                (None, None) => {}
            }
        }
        let mut kept = 0;
        for lease in self.partitions.iter_mut().filter_map(|it| it.lease.as_mut()).filter(|it| !it.draining) {
            kept += 1;
            lease.draining = kept > share;
        }
        changed
    }

    /// Gives up what was not renewed in time.
    pub(super) fn lapse(&mut self, now: Instant) {
        if self.until.is_some_and(|until| now >= until) {
            self.until = None;
            self.partitions.iter_mut().for_each(Partition::lose);
        }
    }

    /// Gives up one partition: Redis says that it is another's.
    pub(super) fn lose(&mut self, source: Source) {
        if let Some(partition) = self.partitions.get_mut(source.place().0) {
            partition.lose();
        }
    }

    /// Looks at everything pending once more: an answer of Redis was lost, and entries with it.
    pub(super) fn look_again(&mut self) {
        for partition in &mut self.partitions {
            partition.progress = [Progress::begin(), Progress::begin()];
        }
    }

    /// Gives up the partitions that are to be given back and of which nothing is being tried.
    pub(super) fn give_back(&mut self) -> Vec<u16> {
        let mut given = Vec::new();
        for (number, partition) in (0..).zip(&mut self.partitions) {
            if partition.trying == 0 && partition.lease.as_ref().is_some_and(|it| it.draining) {
                partition.lose();
                given.push(number);
            }
        }
        given
    }

    /// Whether a partition can be given back now.
    pub(super) fn has_drained(&self) -> bool {
        self.partitions.iter().any(|it| it.trying == 0 && it.lease.as_ref().is_some_and(|it| it.draining))
    }

    /// What is to be read.
    pub(super) fn plan(&mut self, now: Instant) -> Vec<Step> {
        self.lapse(now);
        let readable = (0..).zip(&self.partitions).filter(|(_, it)| it.lease.as_ref().is_some_and(|it| !it.draining));
        readable
            .flat_map(|(number, partition)| {
                [Source::topic(number), Source::again(number)].map(|source| Step {
                    source,
                    generation: partition.generation,
                    progress: partition.progress[source.place().1].clone(),
                })
            })
            .collect()
    }

    /// Notes how far the reading of a step has come, unless something has happened since that this is of no more use.
    pub(super) fn advance(&mut self, step: &Step, progress: Progress) {
        let (partition, kind) = step.source.place();
        if let Some(partition) = self.partitions.get_mut(partition)
            && partition.generation == step.generation
            && partition.progress[kind] == step.progress
        {
            partition.progress[kind] = progress;
        }
    }

    /// Takes an entry into the hands of this host; `false` where it is of no more use.
    pub(super) fn hold(&mut self, source: Source, generation: u64, id: &str) -> bool {
        let (partition, kind) = source.place();
        let Some(partition) = self.partitions.get_mut(partition).filter(|it| it.generation == generation) else {
            return false;
        };
        partition.held[kind].insert(id.to_owned(), generation);
        true
    }

    /// Whether a pending entry is in good hands: it is in ours, or is settled and Redis only does not know yet.
    pub(super) fn knows(&self, source: Source, id: &str) -> bool {
        let (partition, kind) = source.place();
        let held = self.partitions.get(partition).is_some_and(|it| it.held[kind].get(id) == Some(&it.generation));
        held || self.finished.contains_key(&(source, id.to_owned()))
    }

    /// How many entries of a source this host has to do with.
    pub(super) fn known(&self, source: Source) -> usize {
        let (partition, kind) = source.place();
        let held: HashSet<&str> = self
            .partitions
            .get(partition)
            .map(|it| it.held[kind].keys().map(String::as_str).collect())
            .unwrap_or_default();
        let finished = self.finished.keys().filter(|(it, id)| *it == source && !held.contains(id.as_str())).count();
        held.len() + finished
    }

    /// Whether an entry may be tried now. Then it counts as being tried until [`Self::end`].
    pub(super) fn begin(&mut self, source: Source, generation: u64, now: Instant) -> bool {
        self.lapse(now);
        let Some(partition) = self.partitions.get_mut(source.place().0) else { return false };
        let may = partition.generation == generation && partition.lease.as_ref().is_some_and(|it| !it.draining);
        partition.trying += usize::from(may);
        may
    }

    /// Whether the lease is the one that an entry was taken under.
    pub(super) fn holds(&mut self, source: Source, generation: u64, now: Instant) -> bool {
        self.lapse(now);
        let partition = self.partitions.get(source.place().0);
        partition.is_some_and(|it| it.generation == generation && it.lease.is_some())
    }

    /// The try is over.
    pub(super) fn end(&mut self, source: Source) {
        if let Some(partition) = self.partitions.get_mut(source.place().0) {
            partition.trying = partition.trying.saturating_sub(1);
        }
    }

    /// An entry is out of the hands of this host.
    pub(super) fn let_go(&mut self, source: Source, generation: u64, id: &str) {
        let (partition, kind) = source.place();
        if let Some(partition) = self.partitions.get_mut(partition)
            && partition.held[kind].get(id) == Some(&generation)
        {
            partition.held[kind].remove(id);
        }
    }

    /// An entry is settled, and Redis is to be told.
    pub(super) fn finish(&mut self, source: Source, id: &str, letter: Option<Letter>) {
        self.finished.insert((source, id.to_owned()), letter);
    }

    /// Redis knows that an entry is settled.
    pub(super) fn told(&mut self, source: Source, id: &str) {
        self.finished.remove(&(source, id.to_owned()));
    }

    /// What Redis is to be told.
    pub(super) fn untold(&self) -> Vec<(Source, String, Option<Letter>)> {
        self.finished.iter().map(|((source, id), letter)| (*source, id.clone(), letter.clone())).collect()
    }
}

// === impl Partition ===

impl Partition {
    fn lose(&mut self) {
        if self.lease.take().is_some() {
            self.next_generation();
        }
    }

    fn next_generation(&mut self) {
        self.generation += 1;
        self.progress = [Progress::begin(), Progress::begin()];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::time::Duration;

    const LEASE: Duration = Duration::from_secs(10);

    fn reading(holdings: &mut Holdings, now: Instant) -> Vec<u16> {
        let mut all: Vec<_> = holdings.plan(now).iter().map(|step| step.source.partition()).collect();
        all.dedup();
        all
    }

    #[test]
    fn what_is_beyond_the_share_is_given_back_once_nothing_of_it_is_tried() {
        let now = Instant::now();
        let mut holdings = Holdings::new(4);
        assert!(holdings.beaten(now + LEASE, 4, &[(0, 1), (1, 1), (2, 1), (3, 1)]));
        assert!(holdings.hold(Source::topic(3), 1, "1-0") && holdings.begin(Source::topic(3), 1, now));
        assert!(!holdings.beaten(now + LEASE, 2, &[(0, 1), (1, 1), (2, 1), (3, 1)]));
        assert_eq!(reading(&mut holdings, now), [0, 1]);
        assert_eq!(holdings.give_back(), [2]);
        assert!(!holdings.begin(Source::topic(3), 1, now), "no further try begins");
        holdings.end(Source::topic(3));
        assert!(holdings.has_drained());
        assert_eq!(holdings.give_back(), [3]);
        assert!(!holdings.hold(Source::topic(3), 1, "2-0"), "what was read meanwhile is the next host's");
        assert!(!holdings.beaten(now + LEASE, 2, &[(0, 1), (1, 1)]));
    }

    #[test]
    fn a_lease_that_is_not_renewed_ends_and_all_pending_is_looked_at_with_the_next() {
        let now = Instant::now();
        let mut holdings = Holdings::new(1);
        holdings.beaten(now + LEASE, 1, &[(0, 1)]);
        let source = Source::topic(0);
        let step = holdings.plan(now)[0].clone();
        holdings.advance(&step, Progress::New("5-0".into()));
        holdings.look_again();
        holdings.advance(&step, Progress::New("5-0".into()));
        assert_eq!(holdings.plan(now)[0].progress, Progress::New("5-0".into()));
        // What is older than the order to look again does not revoke it.
        let step = holdings.plan(now)[0].clone();
        holdings.look_again();
        holdings.advance(&step, Progress::New("6-0".into()));
        assert_eq!(holdings.plan(now)[0].progress, Progress::begin());
        assert!(holdings.hold(source, 1, "5-0") && holdings.knows(source, "5-0"));
        assert!(!holdings.begin(source, 1, now + LEASE));
        assert_eq!(reading(&mut holdings, now), [0; 0]);
        // The same epoch: nobody had it in between, and what was put aside is to be found again all the same.
        assert!(holdings.beaten(now + 2 * LEASE, 1, &[(0, 1)]));
        let step = &holdings.plan(now + LEASE)[0];
        assert_eq!((&step.progress, step.generation), (&Progress::begin(), 3));
        assert!(!holdings.knows(source, "5-0") && !holdings.begin(source, 1, now + LEASE));
    }

    #[derive(Clone, Debug)]
    enum Act {
        Beat { share: usize, mine: Vec<(u16, u64)> },
        Pass(u64),
        Lose(u16),
        GiveBack,
        Read(u16),
        Begin(usize),
        End(usize),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            3 => (0..4_usize, proptest::collection::btree_map(0..3_u16, 1..3_u64, 0..4))
                .prop_map(|(share, mine)| Act::Beat { share, mine: mine.into_iter().collect() }),
            1 => (1..8_u64).prop_map(Act::Pass),
            1 => (0..3_u16).prop_map(Act::Lose),
            2 => Just(Act::GiveBack),
            6 => (0..3_u16).prop_map(Act::Read),
            8 => (0..32_usize).prop_map(Act::Begin),
            8 => (0..32_usize).prop_map(Act::End),
        ]
    }

    proptest! {
        /// Whatever happens to the leases: once an entry of a partition was put aside, no later one that was in hand at
        /// that time is tried, and a partition is given back only while nothing of it is tried. What was read in a later
        /// generation was read from the beginning of what is pending, and so after what was put aside before.
        #[test]
        fn nothing_is_tried_past_what_was_put_aside(acts in proptest::collection::vec(act(), 1..80)) {
            let mut now = Instant::now();
            let mut holdings = Holdings::new(3);
            let mut queue: Vec<(u16, u64, u32)> = Vec::new();
            let mut trying: Vec<u16> = Vec::new();
            let (mut read, mut aside) = (0, HashMap::<(u16, u64), u32>::new());
            for act in acts {
                match act {
                    Act::Beat { share, mine } => drop(holdings.beaten(now + LEASE, share, &mine)),
                    Act::Pass(seconds) => now += Duration::from_secs(seconds),
                    Act::Lose(partition) => holdings.lose(Source::topic(partition)),
                    Act::GiveBack => {
                        for partition in holdings.give_back() {
                            prop_assert!(!trying.contains(&partition));
                        }
                    }
                    Act::Read(partition) => {
                        let step = holdings.plan(now).into_iter().find(|it| it.source == Source::topic(partition));
                        if let Some(step) = step {
                            read += 1;
                            let id = format!("{read}-0");
                            prop_assert!(holdings.hold(step.source, step.generation, &id));
                            queue.push((partition, step.generation, read));
                        }
                    }
                    Act::Begin(at) if at < queue.len() => {
                        let (partition, generation, number) = queue.remove(at);
                        if holdings.begin(Source::topic(partition), generation, now) {
                            trying.push(partition);
                            prop_assert!(aside.get(&(partition, generation)).is_none_or(|it| number > *it));
                            prop_assert!(aside.keys().all(|(of, later)| *of != partition || *later <= generation));
                        } else {
                            aside.insert((partition, generation), read);
                        }
                    }
                    Act::End(at) if at < trying.len() => holdings.end(Source::topic(trying.remove(at))),
                    Act::Begin(_) | Act::End(_) => {}
                }
            }
        }
    }
}
