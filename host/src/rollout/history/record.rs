//! The record of one service: its last revisions, and which of them serves.

use crate::service::RevisionInfo;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The format of the file. Another one is refused: what an older host made of it could be wrong.
const FORMAT: u32 = 1;

/// What is known of the revisions of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    format: u32,
    pub service: String,
    /// The number that was given out last.
    latest: u64,
    /// The hash of the component that the manifest named when it was last looked at.
    pub manifest: Option<String>,
    /// The revision that serves.
    current: Option<u64>,
    /// How often a revision began to serve.
    turns: u64,
    /// Oldest first.
    pub revisions: Vec<Kept>,
}

/// A revision in the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// What is known of it.
    #[serde(flatten)]
    pub revision: RevisionInfo,
    /// What became of it.
    pub standing: Standing,
    /// Why, where there is more to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The version of the schema that it brought: how many migrations it knows.
    #[serde(default)]
    pub schema: u32,
    /// Whether its database has migrations that it does not know: it was gone back to by force, or a later revision
    /// applied them and did not come to serve.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lags: bool,
    /// Which turn its last one was to begin to serve, counted from 1; 0: it never did.
    #[serde(default)]
    turn: u64,
}

/// Longer reasons are cut: a record is written often.
const LONGEST_REASON: usize = 2000;

fn bounded(why: String) -> String {
    match why.char_indices().nth(LONGEST_REASON) {
        Some((at, _)) => format!("{}…", &why[..at]),
        None => why,
    }
}

/// What became of a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It is being rolled out, and another one serves still.
    Coming,
    /// Calls go to it.
    Serving,
    /// A later one took its place.
    Replaced,
    /// It served and was taken back.
    Undone,
    /// It never came to serve.
    Failed,
}

// === impl Standing ===

impl Standing {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Coming => "coming",
            Self::Serving => "serving",
            Self::Replaced => "replaced",
            Self::Undone => "undone",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

// === impl Kept ===

impl Kept {
    /// Whether its component is kept, so that it can be gone back to.
    pub fn can_serve(&self) -> bool {
        self.turn > 0 || self.standing == Standing::Coming
    }
}

// === impl Record ===

impl Record {
    pub fn new(service: &str) -> Self {
        Self {
            format: FORMAT,
            service: service.to_owned(),
            latest: 0,
            manifest: None,
            current: None,
            turns: 0,
            revisions: Vec::new(),
        }
    }

    /// What is wrong with it, where something is: it was read from a file that people can edit.
    pub fn flaw(&self, service: &str) -> Option<String> {
        if self.format != FORMAT {
            return Some(format!("it has format {}, and this version of wharf reads format {FORMAT}", self.format));
        }
        if self.service != service {
            return Some(format!("it is the record of service `{}`", self.service));
        }
        if self.current.is_some() && self.current().is_none() {
            return Some("the revision that serves is not among those in it".into());
        }
        let is_hash = |hash: &str| hash.len() == 64 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let odd = self.revisions.iter().find(|kept| !is_hash(&kept.revision.hash));
        odd.map(|kept| format!("the hash of its revision {} is none", kept.revision.number))
    }

    pub fn current(&self) -> Option<&Kept> {
        self.find(self.current?)
    }

    pub fn find(&self, number: u64) -> Option<&Kept> {
        self.revisions.iter().find(|kept| kept.revision.number == number)
    }

    fn find_mut(&mut self, number: u64) -> Option<&mut Kept> {
        self.revisions.iter_mut().find(|kept| kept.revision.number == number)
    }

    /// The one that served before the current one.
    pub fn before_current(&self) -> Option<&Kept> {
        let others = self.revisions.iter().filter(|kept| Some(kept.revision.number) != self.current && kept.turn > 0);
        others.max_by_key(|kept| kept.turn)
    }

    /// A revision is coming; it gets the next number.
    pub fn begin(&mut self, mut revision: RevisionInfo) -> RevisionInfo {
        self.latest += 1;
        revision.number = self.latest;
        let (standing, why) = (Standing::Coming, None);
        self.revisions.push(Kept { revision: revision.clone(), standing, why, schema: 0, lags: false, turn: 0 });
        revision
    }

    /// From now on this one serves.
    pub fn serve(&mut self, number: u64, schema: u32, lags: bool) {
        if self.current != Some(number) {
            if let Some(before) = self.current.and_then(|number| self.find_mut(number)) {
                (before.standing, before.why) = if before.revision.number < number {
                    (Standing::Replaced, Some(format!("by revision {number}")))
                } else {
                    (Standing::Undone, Some(format!("rolled back to revision {number}")))
                };
            }
            self.turns += 1;
            self.current = Some(number);
        }
        let turn = self.turns;
        if let Some(kept) = self.find_mut(number) {
            // Why it lags holds for as long as it does.
            let why = kept.why.take().filter(|_| lags && kept.lags && kept.turn == turn);
            *kept = Kept { standing: Standing::Serving, why, schema, lags, turn, ..kept.clone() };
        }
    }

    /// The one that comes does not come, and the one that serves goes on.
    pub fn end(&mut self, number: u64, standing: Standing, why: String) {
        if let Some(kept) = self.find_mut(number) {
            (kept.standing, kept.why) = (standing, Some(bounded(why)));
        }
    }

    /// Back to where it served before `of` was put in its place.
    pub fn put_back(&mut self, number: u64, before: &Self, why: String) {
        let of_before = before.find(number).filter(|kept| kept.turn > 0).cloned();
        let latest = self.latest;
        let new = self.find(number).cloned();
        *self = before.clone();
        self.latest = latest;
        if of_before.is_none()
            && let Some(mut new) = new
        {
            (new.turn, new.standing, new.why) = (0, Standing::Failed, Some(why));
            self.revisions.retain(|kept| kept.revision.number != number);
            self.revisions.push(new);
        }
    }

    /// As if that revision had never begun: nothing has seen it.
    pub fn forget(&mut self, number: u64) {
        // One that serves has been seen.
        if self.current == Some(number) {
            return;
        }
        self.revisions.retain(|kept| kept.revision.number != number);
        if self.latest == number {
            self.latest -= 1;
        }
    }

    /// The one that serves runs on a newer schema than it knows, with this said of it.
    pub fn lag(&mut self, why: String) {
        if let Some(kept) = self.current.and_then(|number| self.find_mut(number)) {
            (kept.lags, kept.why) = (true, Some(bounded(why)));
        }
    }

    /// The host that wrote this may have ended in the middle of a rollout: what was coming does not come. Whether there
    /// was any.
    pub fn recover(&mut self) -> bool {
        let mut interrupted = false;
        for kept in self.revisions.iter_mut().filter(|kept| kept.standing == Standing::Coming) {
            (kept.standing, kept.why) = (Standing::Failed, Some("the host ended before it served".into()));
            interrupted = true;
        }
        interrupted
    }

    /// Forgets all but the last `keep` that served, what serves and what comes among them, and as many that failed.
    pub fn prune(&mut self, keep: usize) {
        let served = {
            let mut turns: Vec<_> = self.revisions.iter().map(|kept| kept.turn).filter(|turn| *turn > 0).collect();
            turns.sort_unstable_by(|a, b| b.cmp(a));
            turns.get(keep.max(1) - 1).copied().unwrap_or(0)
        };
        let failed = {
            let failed = self.revisions.iter().rev().filter(|kept| !kept.can_serve());
            failed.map(|kept| kept.revision.number).nth(keep.max(1) - 1).unwrap_or(0)
        };
        let current = self.current;
        self.revisions.retain(|kept| {
            let number = kept.revision.number;
            match kept.standing {
                Standing::Coming => true,
                _ if Some(number) == current => true,
                _ if kept.turn > 0 => kept.turn >= served,
                _ => number >= failed,
            }
        });
    }

    /// The components that have to be there.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.revisions.iter().filter(|kept| kept.can_serve()).map(|kept| kept.revision.hash.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> RevisionInfo {
        RevisionInfo { hash: "a".repeat(64), ..RevisionInfo::default() }
    }

    /// Deploys so many.
    fn record(deploys: usize) -> Record {
        let mut record = Record::new("user");
        for _ in 0..deploys {
            let number = record.begin(info()).number;
            record.serve(number, 0, false);
        }
        record
    }

    fn told(record: &Record) -> Vec<String> {
        let told = record.revisions.iter().map(|kept| {
            let why = kept.why.as_ref().map(|why| format!(" {why}")).unwrap_or_default();
            format!("{} {}{why}", kept.revision.number, kept.standing)
        });
        told.collect()
    }

    #[test]
    fn each_takes_the_place_of_the_one_before() {
        let record = record(3);
        assert_eq!(told(&record), ["1 replaced by revision 2", "2 replaced by revision 3", "3 serving"]);
        assert_eq!(record.before_current().map(|kept| kept.revision.number), Some(2));
    }

    #[test]
    fn going_back_keeps_numbers_and_knows_the_way_forward() {
        let mut record = record(3);
        record.serve(2, 0, false);
        assert_eq!(told(&record)[1..], ["2 serving", "3 undone rolled back to revision 2"]);
        assert_eq!(record.before_current().map(|kept| kept.revision.number), Some(3));
        assert_eq!(record.begin(info()).number, 4);
        record.serve(4, 0, false);
        assert_eq!(record.before_current().map(|kept| kept.revision.number), Some(2));
    }

    #[test]
    fn the_last_few_are_kept_and_whatever_serves_or_comes() {
        let mut record = record(8);
        record.serve(1, 0, false);
        let coming = record.begin(info()).number;
        for _ in 0..4 {
            let number = record.begin(info()).number;
            record.end(number, Standing::Failed, "of a trap".into());
        }
        record.prune(3);
        let numbers: Vec<_> = record.revisions.iter().map(|kept| kept.revision.number).collect();
        assert_eq!(numbers, [1, 7, 8, coming, 11, 12, 13]);
        assert_eq!(record.components().count(), 4);
        record.prune(1);
        let numbers: Vec<_> = record.revisions.iter().map(|kept| kept.revision.number).collect();
        assert_eq!(numbers, [1, coming, 13]);
    }

    #[test]
    fn what_was_coming_when_the_host_died_does_not_come() {
        let mut record = record(1);
        record.begin(info());
        assert!(record.recover());
        assert_eq!(told(&record), ["1 serving", "2 failed the host ended before it served"]);
        assert!(!record.recover());
        // The number was seen.
        assert_eq!(record.begin(info()).number, 3);
    }

    #[test]
    fn what_nobody_has_seen_can_be_forgotten_and_what_serves_can_not() {
        let mut record = record(1);
        let before = record.clone();
        let number = record.begin(info()).number;
        record.forget(number);
        assert_eq!(record, before);
        record.forget(1);
        assert_eq!(record, before);
    }

    #[test]
    fn a_long_reason_is_cut() {
        let mut record = record(1);
        let number = record.begin(info()).number;
        record.end(number, Standing::Failed, "ü".repeat(100_000));
        assert!(record.revisions[1].why.as_ref().is_some_and(|why| why.chars().count() == LONGEST_REASON + 1));
    }

    #[test]
    fn what_could_not_be_put_in_place_is_as_if_it_had_not_been() {
        let mut before = record(2);
        let coming = before.begin(info()).number;
        let mut record = before.clone();
        record.serve(coming, 0, false);
        record.put_back(coming, &before, "a policy".into());
        assert_eq!(told(&record), ["1 replaced by revision 2", "2 serving", "3 failed a policy"]);
        let before = record.clone();
        record.serve(1, 0, false);
        record.put_back(1, &before, "a policy".into());
        assert_eq!(record, before);
    }

    #[test]
    fn a_record_that_was_tampered_with_is_told() {
        let good = record(2);
        assert_eq!(good.flaw("user"), None);
        assert!(good.flaw("order").is_some_and(|flaw| flaw.contains("of service `user`")));
        let edits: [fn(&mut Record); 3] = [
            |record| record.format = 2,
            |record| record.current = Some(9),
            |record| {
                record.revisions[0].revision.hash = "../../etc/passwd".into();
            },
        ];
        for edit in edits {
            let mut bad = good.clone();
            edit(&mut bad);
            assert!(bad.flaw("user").is_some(), "{bad:?}");
        }
    }
}
