//! What a saga does next.
//!
//! A state machine without clock, database or calls: it is told what happened and when, and says which calls are to be made.
//! All that it knows is its [`Progress`] and its [`Heard`] events, which are written before the calls are made that it asks
//! for. So what is written says of each call that was made that it was begun; a call of which it does not say how it ended
//! may have had its effect.
//!
//! - Forward: a group of steps side by side begins when all steps before it are done.
//! - A step whose last try's effect nobody knows is tried again if it is repeatable, and else has failed.
//! - What fails turns the saga around. What is in the middle of a call is let end first, and then the steps that were begun
//!   are compensated, the last in the list first, each until it succeeds or an operator skips it.
//! - An action that says that it failed has done nothing, and is not compensated.

use super::{Awaited, Definition, Status, Step, standing::Standing};
use crate::{events::Event, policy::Backoff, telemetry::TraceContext};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// The longest reason that is kept, in characters.
const MAX_REASON: usize = 1024;

/// The longest wait before a try that a step can ask for.
const MAX_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// Milliseconds since 1970, by the wall clock: it goes on while no host runs.
pub(super) type Millis = i64;

/// How a step stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum At {
    /// It is not its turn, or it never was.
    #[default]
    Pending,
    /// It waits for an event or a time.
    Waiting,
    /// Its action is to be called, not before `not_before`.
    Ready,
    /// Its action is called.
    Acting,
    /// Its action has succeeded.
    Done,
    /// Its action said that it failed: nothing is to be undone.
    Failed,
    /// Its action was begun, and nobody knows what came of it.
    Unknown,
    /// Its compensation is to be called, not before `not_before`.
    Undo,
    /// Its compensation is called.
    Undoing,
    /// It is compensated.
    Undone,
    /// An operator decided that it is not compensated.
    Skipped,
}

/// How far a step is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct StepProgress {
    pub at: At,
    /// How often the action was called, calls excepted where nothing was begun.
    #[serde(skip_serializing_if = "is_zero")]
    pub attempts: u32,
    /// The same for the compensation.
    #[serde(skip_serializing_if = "is_zero")]
    pub undos: u32,
    /// How often in a row nothing was begun.
    #[serde(skip_serializing_if = "is_zero")]
    pub refused: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub not_before: Millis,
    /// An operator said that it is not compensated.
    #[serde(skip_serializing_if = "is_false")]
    pub skip: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reached: Option<Millis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub begun: Option<Millis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<Millis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undone: Option<Millis>,
}

/// How far a saga is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Progress {
    pub status: Status,
    /// When it is compensated unless it is complete.
    pub deadline: Millis,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Millis>,
    /// That of the call that started it, to which all its calls belong; `None` where an earlier version wrote none.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "traceparent")]
    pub traceparent: Option<TraceContext>,
    pub steps: Vec<StepProgress>,
}

/// How a trace is written: as in a header.
mod traceparent {
    use super::TraceContext;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(trace: &Option<TraceContext>, serializer: S) -> Result<S::Ok, S::Error> {
        match trace {
            Some(trace) => serializer.collect_str(trace),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<TraceContext>, D::Error> {
        // What the trace is worth is not worth a saga.
        Ok(Option::<String>::deserialize(deserializer)?.and_then(|text| text.parse().ok()))
    }
}

/// The events that a saga has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// By topic: the newest, which came before a step waited for it.
    pub kept: BTreeMap<String, Arc<Event>>,
    /// By the number of the step that had waited for it.
    pub taken: BTreeMap<usize, Arc<Event>>,
}

/// How often and when is tried again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tries {
    pub attempts: u32,
    pub backoff: Backoff,
}

/// One saga.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    definition: Arc<Definition>,
    tries: Tries,
    progress: Progress,
    heard: Heard,
    /// What is to be written.
    changed: Changed,
}

/// What changed since it was asked last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changed {
    pub progress: bool,
    pub heard: bool,
}

/// Which call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Side {
    Act,
    Compensate,
}

/// A call that is to be made once what is changed is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Begin {
    /// The number of the step.
    pub step: usize,
    pub side: Side,
    pub attempt: u32,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Done,
    /// It never will be, and nothing was.
    Failed(String),
    /// Not now.
    Retry(String, Option<Duration>),
    /// It was not begun.
    NotBegun(String, Option<Duration>),
    /// Nobody knows.
    Unknown(String),
}

/// What somebody tells a saga.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// An event came.
    Event(Arc<Event>),
    /// An operator wants the next try now.
    Retry,
    /// An operator wants it compensated, and this step left as it is.
    Compensate(Option<String>),
}

// === impl Machine ===

impl Machine {
    /// A saga that begins now, in this trace.
    pub fn start(
        definition: Arc<Definition>,
        tries: Tries,
        timeout: Duration,
        trace: TraceContext,
        now: Millis,
    ) -> Self {
        let timeout = definition.timeout_ms.map_or(timeout, Duration::from_millis);
        let progress = Progress {
            status: Status::Running,
            deadline: later(now, timeout),
            reason: None,
            ended: None,
            traceparent: Some(trace),
            steps: vec![StepProgress::default(); definition.steps.len()],
        };
        let changed = Changed { progress: true, heard: false };
        Self { definition, tries, progress, heard: Heard::default(), changed }
    }

    /// A saga as it was written. `None` where that is not one of this definition.
    pub fn restore(definition: Arc<Definition>, tries: Tries, progress: Progress, heard: Heard) -> Option<Self> {
        let fits = progress.steps.len() == definition.steps.len();
        fits.then(|| Self { definition, tries, progress, heard, changed: Changed::default() })
    }

    /// From now on it is tried again so.
    pub fn set_tries(&mut self, tries: Tries) {
        self.tries = tries;
    }

    pub fn definition(&self) -> &Arc<Definition> {
        &self.definition
    }

    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    pub fn heard(&self) -> &Heard {
        &self.heard
    }

    pub fn status(&self) -> Status {
        self.progress.status
    }

    /// The event that a step had waited for.
    pub fn event(&self, step: usize) -> Option<&Arc<Event>> {
        self.heard.taken.get(&step)
    }

    /// What is to be written; asked once for each write.
    pub fn take_changed(&mut self) -> Changed {
        std::mem::take(&mut self.changed)
    }

    /// Nobody knows any more of the calls that were begun: the host that made them is gone.
    pub fn recover(&mut self, now: Millis) {
        for step in 0..self.progress.steps.len() {
            let side = match self.progress.steps[step].at {
                At::Acting => Side::Act,
                At::Undoing => Side::Compensate,
                _ => continue,
            };
            self.ended(step, side, Ended::Unknown("the host ended before the call did".into()), now);
            // There was time enough.
            self.progress.steps[step].not_before = now;
        }
    }

    /// Goes on as far as it can. The calls are to be made once what changed is written; none where they may not be.
    pub fn advance(&mut self, now: Millis, may_begin: bool) -> Vec<Begin> {
        let mut begin = Vec::new();
        while match self.progress.status {
            Status::Running => self.forward(now, may_begin, &mut begin),
            Status::Compensating => self.backward(now, may_begin, &mut begin),
            Status::Completed | Status::Compensated => false,
        } {}
        begin
    }

    /// Whether it has turned around, and is to be looked at again.
    fn forward(&mut self, now: Millis, may_begin: bool, begin: &mut Vec<Begin>) -> bool {
        if now >= self.progress.deadline {
            self.turn_around("it timed out".into());
            return true;
        }
        let Some(first) = self.progress.steps.iter().position(|step| step.at != At::Done) else {
            self.end(Status::Completed, now);
            return false;
        };
        // A step side by side with those before it may be the first that is not done: its group began before it.
        let (from, to) = self.group(first);
        for index in from..to {
            let definition = &self.definition.steps[index];
            let step = &mut self.progress.steps[index];
            if step.at == At::Pending {
                self.changed.progress = true;
                step.reached = Some(now);
                step.at = if definition.wait.is_some() { At::Waiting } else { At::Ready };
            }
        }
        self.hear(from, to);
        for index in from..to {
            self.look_at_wait(index, now);
        }
        if self.progress.status != Status::Running {
            return true;
        }
        if may_begin {
            for index in from..to {
                let step = &mut self.progress.steps[index];
                if step.at == At::Ready && step.not_before <= now {
                    self.changed.progress = true;
                    step.at = At::Acting;
                    step.attempts = step.attempts.saturating_add(1);
                    step.begun.get_or_insert(now);
                    begin.push(Begin { step: index, side: Side::Act, attempt: step.attempts });
                }
            }
        }
        false
    }

    fn backward(&mut self, now: Millis, may_begin: bool, begin: &mut Vec<Begin>) -> bool {
        if self.progress.steps.iter().any(|step| step.at == At::Acting) {
            return false;
        }
        for step in &mut self.progress.steps {
            let at = match step.at {
                At::Waiting | At::Ready if step.attempts == 0 => At::Pending,
                At::Ready => At::Unknown,
                at => at,
            };
            self.changed.progress |= at != step.at;
            step.at = at;
        }
        let Some(last) = (0..self.progress.steps.len()).rev().find(|step| self.is_to_undo(*step)) else {
            self.end(Status::Compensated, now);
            return false;
        };
        let step = &mut self.progress.steps[last];
        match step.at {
            At::Undoing => false,
            _ if step.skip => {
                self.changed.progress = true;
                step.at = At::Skipped;
                true
            }
            At::Undo if step.not_before > now || !may_begin => false,
            At::Undo => {
                self.changed.progress = true;
                step.at = At::Undoing;
                step.undos = step.undos.saturating_add(1);
                begin.push(Begin { step: last, side: Side::Compensate, attempt: step.undos });
                false
            }
            _ => {
                self.changed.progress = true;
                (step.at, step.not_before, step.refused) = (At::Undo, now, 0);
                true
            }
        }
    }

    /// Whether a step's compensation is still to be done.
    fn is_to_undo(&self, step: usize) -> bool {
        let at = self.progress.steps[step].at;
        self.definition.steps[step].compensates && matches!(at, At::Done | At::Unknown | At::Undo | At::Undoing)
    }

    /// The steps side by side to which this one belongs, from the first to the one behind the last.
    fn group(&self, step: usize) -> (usize, usize) {
        let steps = &self.definition.steps;
        let from = (0..=step).rev().find(|index| !steps[*index].beside).unwrap_or(0);
        let to = (step + 1..steps.len()).find(|index| !steps[*index].beside).unwrap_or(steps.len());
        (from, to)
    }

    /// Gives those of these steps that wait for it what was kept.
    fn hear(&mut self, from: usize, to: usize) {
        if self.heard.kept.is_empty() {
            return;
        }
        let mut heard = Vec::new();
        for index in from..to {
            let step = &mut self.progress.steps[index];
            let Some(topic) = self.definition.steps[index].topic().filter(|_| step.at == At::Waiting) else { continue };
            let Some(event) = self.heard.kept.get(topic) else { continue };
            step.at = At::Ready;
            self.heard.taken.insert(index, event.clone());
            heard.push(topic);
        }
        for topic in heard {
            self.changed = Changed { progress: true, heard: true };
            self.heard.kept.remove(topic);
        }
    }

    fn look_at_wait(&mut self, index: usize, now: Millis) {
        let step = &mut self.progress.steps[index];
        if step.at != At::Waiting {
            return;
        }
        let (over, fails) = wait_ends(&self.definition.steps[index], step);
        if over.is_some_and(|over| over <= now && fails.is_none_or(|fails| over <= fails)) {
            self.changed.progress = true;
            step.at = At::Ready;
        } else if fails.is_some_and(|fails| fails <= now) {
            let waited = "what it waits for did not come in time";
            (step.at, step.error) = (At::Pending, Some(waited.into()));
            let reason = format!("step `{}` failed: {waited}", self.definition.steps[index].name);
            self.turn_around(reason);
        }
    }

    /// A call ended.
    pub fn ended(&mut self, index: usize, side: Side, ended: Ended, now: Millis) {
        let definition = &self.definition.steps[index];
        let step = &mut self.progress.steps[index];
        self.changed.progress = true;
        match side {
            Side::Act if step.at == At::Acting => match ended {
                Ended::Done => {
                    (step.at, step.error, step.refused) = (At::Done, None, 0);
                    step.ended = Some(now);
                }
                Ended::Failed(reason) => {
                    let reason = shortened(reason);
                    let why = format!("step `{}` failed: {reason}", definition.name);
                    (step.at, step.error, step.ended) = (At::Failed, Some(reason), Some(now));
                    self.turn_around(why);
                }
                Ended::NotBegun(reason, after) => {
                    step.attempts = step.attempts.saturating_sub(1);
                    if step.attempts == 0 {
                        step.begun = None;
                    }
                    step.refused = step.refused.saturating_add(1);
                    (step.at, step.error) = (At::Ready, Some(shortened(reason)));
                    let wait = self.tries.backoff.after(step.refused);
                    // A caller that is told when to come again comes no sooner.
                    step.not_before = later(now, wait.max(after.unwrap_or_default().min(self.tries.backoff.max)));
                }
                Ended::Retry(reason, after) => self.try_again(index, reason, after, now),
                Ended::Unknown(reason) => self.try_again(index, reason, None, now),
            },
            Side::Compensate if step.at == At::Undoing => match ended {
                Ended::Done => {
                    (step.at, step.error, step.refused) = (At::Undone, None, 0);
                    step.undone = Some(now);
                }
                Ended::NotBegun(reason, after) => {
                    step.undos = step.undos.saturating_sub(1);
                    step.refused = step.refused.saturating_add(1);
                    (step.at, step.error) = (At::Undo, Some(shortened(reason)));
                    let wait = self.tries.backoff.after(step.refused);
                    step.not_before = later(now, wait.max(after.unwrap_or_default().min(self.tries.backoff.max)));
                }
                Ended::Failed(reason) | Ended::Unknown(reason) => self.undo_again(index, reason, None, now),
                Ended::Retry(reason, after) => self.undo_again(index, reason, after, now),
            },
            _ => {}
        }
    }

    /// A try of an action came to nothing, as far as anybody knows.
    fn try_again(&mut self, index: usize, reason: String, after: Option<Duration>, now: Millis) {
        let Tries { attempts, backoff } = self.tries;
        let definition = &self.definition.steps[index];
        let step = &mut self.progress.steps[index];
        let reason = shortened(reason);
        let spent = step.attempts >= attempts;
        step.refused = 0;
        if definition.repeatable && !spent && self.progress.status == Status::Running {
            let wait = after.map_or_else(|| backoff.after(step.attempts), |after| after.min(MAX_AFTER));
            (step.at, step.error, step.not_before) = (At::Ready, Some(reason), later(now, wait));
            return;
        }
        let why = if definition.repeatable {
            format!("step `{}` failed after {} tries: {reason}", definition.name, step.attempts)
        } else {
            format!("step `{}`, which is not repeatable, came to no known end: {reason}", definition.name)
        };
        (step.at, step.error, step.ended) = (At::Unknown, Some(reason), Some(now));
        self.turn_around(why);
    }

    fn undo_again(&mut self, index: usize, reason: String, after: Option<Duration>, now: Millis) {
        let step = &mut self.progress.steps[index];
        let wait = after.map_or_else(|| self.tries.backoff.after(step.undos), |after| after.min(MAX_AFTER));
        (step.at, step.error, step.not_before) = (At::Undo, Some(shortened(reason)), later(now, wait));
        step.refused = 0;
    }

    /// From now on it is compensated; the first reason is the one.
    fn turn_around(&mut self, reason: String) {
        if self.progress.status == Status::Running {
            self.changed.progress = true;
            self.progress.status = Status::Compensating;
            self.progress.reason = Some(reason);
        }
    }

    fn end(&mut self, status: Status, now: Millis) {
        self.changed.progress = true;
        self.progress.status = status;
        self.progress.ended = Some(now);
        if self.heard != Heard::default() {
            self.heard = Heard::default();
            self.changed.heard = true;
        }
    }

    /// Somebody tells it something.
    ///
    /// # Errors
    ///
    /// Says why it can't be done.
    pub fn told(&mut self, word: Word, now: Millis) -> Result<(), String> {
        match word {
            Word::Event(event) => {
                self.came(event);
                Ok(())
            }
            _ if self.status().has_ended() => Err(format!("it has ended already: it is {}", self.status())),
            Word::Retry => {
                let compensating = self.status() == Status::Compensating;
                let mut found = false;
                for step in &mut self.progress.steps {
                    let waits = step.at == At::Undo || (step.at == At::Ready && !compensating);
                    if waits && step.not_before > now {
                        (step.not_before, found) = (now, true);
                    }
                }
                self.changed.progress |= found;
                if found { Ok(()) } else { Err("no step of it waits for another try".into()) }
            }
            Word::Compensate(skip) => {
                if let Some(name) = &skip {
                    let index = self.definition.steps.iter().position(|step| step.name == *name);
                    let Some(index) = index else { return Err(format!("it has no step `{name}`")) };
                    let step = &mut self.progress.steps[index];
                    if matches!(step.at, At::Undone | At::Skipped) {
                        return Err(format!("step `{name}` is compensated or skipped already"));
                    }
                    if !self.definition.steps[index].compensates {
                        return Err(format!("step `{name}` has no compensation"));
                    }
                    step.skip = true;
                    self.changed.progress = true;
                }
                if self.status() == Status::Compensating && skip.is_none() {
                    return Err("it is being compensated already; `retry` makes the next try at once".into());
                }
                self.turn_around("an operator decided so".into());
                Ok(())
            }
        }
    }

    /// An event came whose subject is the saga's id.
    fn came(&mut self, event: Arc<Event>) {
        let same = |other: &Arc<Event>| other.id == event.id && other.source == event.source;
        if self.status() != Status::Running || self.heard.taken.values().any(same) {
            return;
        }
        let awaits = |(definition, step): (&Step, &StepProgress)| {
            matches!(step.at, At::Pending | At::Waiting) && definition.topic() == Some(&*event.topic)
        };
        if !self.definition.steps.iter().zip(&self.progress.steps).any(awaits) {
            return;
        }
        if self.heard.kept.get(&*event.topic).is_some_and(|kept| same(kept) || kept.time > event.time) {
            return;
        }
        // The step that waits for it takes it as it goes on.
        self.heard.kept.insert(event.topic.to_string(), event);
        self.changed.heard = true;
    }

    /// When there is something to do for it that no call and nobody's word tells of.
    pub fn due(&self) -> Option<Millis> {
        match self.status() {
            Status::Running => {
                let steps = self.definition.steps.iter().zip(&self.progress.steps);
                let due = steps.filter_map(|(definition, step)| match step.at {
                    At::Ready => Some(step.not_before),
                    At::Waiting => {
                        let (over, fails) = wait_ends(definition, step);
                        over.into_iter().chain(fails).min()
                    }
                    _ => None,
                });
                due.chain([self.progress.deadline]).min()
            }
            Status::Compensating if self.progress.steps.iter().any(|step| step.at == At::Acting) => None,
            Status::Compensating => {
                self.progress.steps.iter().filter(|step| step.at == At::Undo).map(|step| step.not_before).min()
            }
            Status::Completed | Status::Compensated => None,
        }
    }

    /// The trace that its calls belong to. One that an earlier version began without gets one, which is written before its
    /// next call, as all that it knows.
    pub fn trace(&mut self) -> TraceContext {
        *self.progress.traceparent.get_or_insert_with(TraceContext::root)
    }

    /// Whether a call is under way, as far as is written.
    pub fn is_calling(&self) -> bool {
        self.progress.steps.iter().any(|step| matches!(step.at, At::Acting | At::Undoing))
    }

    /// How it stands while it is under way.
    pub fn standing(&self) -> Standing {
        let compensating = self.status() == Status::Compensating;
        let waits = || {
            let mut current = self.current().map(|step| self.progress.steps[step].at).peekable();
            current.peek().is_some() && current.all(|at| at == At::Waiting)
        };
        match (compensating, self.stuck()) {
            (true, Some(_)) => Standing::Stuck,
            (true, None) => Standing::Compensating,
            (false, _) if waits() => Standing::Waiting,
            (false, _) => Standing::Running,
        }
    }

    /// The word that is written of how it stands.
    pub fn word(&self) -> &'static str {
        if self.status().has_ended() { self.status().as_str() } else { self.standing().as_str() }
    }

    /// The step whose compensation fails and fails.
    pub fn stuck(&self) -> Option<usize> {
        let fails = |step: &StepProgress| {
            matches!(step.at, At::Undo | At::Undoing)
                && step.error.is_some()
                && step.undos.saturating_add(step.refused) >= self.tries.attempts
        };
        self.progress.steps.iter().position(fails)
    }

    /// Whether the compensation of this step has just failed as often as makes it stuck. It is more often from then on.
    pub fn gets_stuck(&self, step: usize) -> bool {
        self.progress
            .steps
            .get(step)
            .is_some_and(|step| step.at == At::Undo && step.undos.saturating_add(step.refused) == self.tries.attempts)
    }

    /// The steps that it is at.
    pub fn current(&self) -> impl Iterator<Item = usize> {
        let at = |step: &StepProgress| matches!(step.at, At::Waiting | At::Ready | At::Acting | At::Undo | At::Undoing);
        self.progress.steps.iter().enumerate().filter(move |(_, step)| at(step)).map(|(index, _)| index)
    }

    /// The first step that it may need, or whose compensation, and that this definition lacks; and whether it is the
    /// compensation.
    pub fn lacks(&self, definition: Option<&Definition>) -> Option<(usize, bool)> {
        let compensating = self.status() == Status::Compensating;
        let lacks = |index: usize| {
            let (needed, step) = (&self.definition.steps[index], &self.progress.steps[index]);
            let acts = !compensating && !matches!(step.at, At::Done);
            let undoes = needed.compensates
                && !step.skip
                && if compensating { self.is_to_undo(index) || step.at == At::Acting } else { true };
            let found = definition.and_then(|definition| definition.step(&needed.name));
            match found {
                None if acts || undoes => Some((index, !acts)),
                Some(found) if undoes && !found.compensates => Some((index, true)),
                _ => None,
            }
        };
        let ended = self.status().has_ended();
        (0..self.progress.steps.len()).filter(|_| !ended).find_map(lacks)
    }
}

// === impl At ===

impl At {
    /// The word for it that operators see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Waiting => "waiting",
            Self::Ready => "ready",
            Self::Acting => "acting",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
            Self::Undo | Self::Undoing => "compensating",
            Self::Undone => "compensated",
            Self::Skipped => "skipped",
        }
    }
}

/// When a step's wait is over by itself, and when it has taken too long.
fn wait_ends(definition: &Step, step: &StepProgress) -> (Option<Millis>, Option<Millis>) {
    let (Some(wait), Some(reached)) = (&definition.wait, step.reached) else { return (None, None) };
    let after = |ms: u64| later(reached, Duration::from_millis(ms));
    let over = match wait.until {
        Awaited::Time(ms) => Some(after(ms)),
        Awaited::Event(_) => None,
    };
    (over, wait.timeout_ms.map(after))
}

/// So much later, or when time ends.
pub(super) fn later(now: Millis, after: Duration) -> Millis {
    // Up to the next whole one: what is due then is never early.
    let after = after.as_nanos().div_ceil(1_000_000);
    now.saturating_add(Millis::try_from(after).unwrap_or(Millis::MAX))
}

/// Texts of a guest's may be of any length.
fn shortened(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(MAX_REASON) {
        text.truncate(end);
    }
    text
}

fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

fn is_false(it: &bool) -> bool {
    !it
}

#[cfg(test)]
mod tests;
