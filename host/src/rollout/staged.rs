//! A rollout by stages, while it is under way.
//!
//! It goes on by itself while the new revision does as well as the old one, and goes back by itself when it does not. An
//! operator can say either before that. Nothing of it outlives the host: until it has come to its end, the old revision is
//! the one that serves, also after a crash.

use super::{DeployError, Member, Rollout, Serving, Standing, kept_in_mind};
use crate::{
    policy::{Account, Judgement, RolloutPolicy, Split, Stage, judge},
    service::{Revision, RevisionInfo, Shape, Trial},
};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::{
    sync::watch,
    time::{Duration, Instant, MissedTickBehavior, interval},
};

/// How often the new revision is judged.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A staged rollout of one service.
pub(super) struct Staged {
    pub revision: RevisionInfo,
    pub shape: Arc<Shape>,
    policy: RolloutPolicy,
    word: watch::Sender<Option<Word>>,
    now: Mutex<Now>,
}

/// What an operator says of a rollout that is under way.
#[derive(Clone, Debug)]
pub(super) enum Word {
    /// The new revision gets all calls now.
    Promote,
    /// It gets none any more; why.
    Undo(String),
}

struct Now {
    stage: usize,
    began: Instant,
    trial: Option<Arc<Trial>>,
    waits: Option<String>,
    end: Option<RolloutEnd>,
    /// What was counted last, when there is no trial any more.
    accounts: (Account, Account),
    differing: u64,
}

/// How a staged rollout ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub enum RolloutEnd {
    /// The new revision gets all calls.
    Completed,
    /// The old revision gets all calls again.
    Undone {
        /// Why.
        reason: String,
    },
}

/// A look at a staged rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutSnapshot {
    /// The service.
    pub service: String,
    /// The new revision.
    pub revision: RevisionInfo,
    /// Which stage it is in, counted from 1.
    pub stage: usize,
    /// How many there are.
    pub stages: usize,
    /// Which calls the new revision gets in this stage.
    pub split: String,
    /// How long the stage has lasted, in milliseconds.
    pub lasted_ms: u64,
    /// How long it lasts at least, in milliseconds.
    pub time_ms: u64,
    /// What it waits for besides, in words.
    pub waits: Option<String>,
    /// What came of the calls of the old revision in this stage.
    pub old: Account,
    /// What came of the calls of the new one.
    pub new: Account,
    /// Copies of requests that the new revision answered differently.
    pub differing: u64,
    /// How it ended; `None` while it is under way.
    pub end: Option<RolloutEnd>,
}

/// What a rollout needs to go on by itself.
pub(super) struct Ready {
    pub member: Arc<Member>,
    pub revision: Revision,
    /// What is recorded when it comes to serve.
    pub serving: Serving,
    /// The same component without the right to change anything, where copies of requests are to go to it.
    pub shadow: Option<Revision>,
}

// === impl Staged ===

impl Staged {
    pub fn new(revision: RevisionInfo, shape: Arc<Shape>, policy: RolloutPolicy) -> Arc<Self> {
        let now = Now {
            stage: 0,
            began: Instant::now(),
            trial: None,
            waits: None,
            end: None,
            accounts: Default::default(),
            differing: 0,
        };
        Arc::new(Self { revision, shape, policy, word: watch::Sender::new(None), now: Mutex::new(now) })
    }

    pub fn is_under_way(&self) -> bool {
        self.lock().end.is_none()
    }

    pub fn trial(&self) -> Option<Arc<Trial>> {
        self.lock().trial.clone()
    }

    /// Says it, if nothing was said before.
    pub fn say(&self, word: Word) {
        self.word.send_if_modified(|said| {
            let is_first = said.is_none();
            if is_first {
                *said = Some(word);
            }
            is_first
        });
    }

    pub fn snapshot(&self, service: &str) -> RolloutSnapshot {
        let now = self.lock();
        let stages = &self.policy.params().stages;
        let stage = stages.get(now.stage);
        let (old, new) = now.trial.as_ref().map_or(now.accounts, |trial| trial.accounts());
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        RolloutSnapshot {
            service: service.to_owned(),
            revision: self.revision.clone(),
            stage: (now.stage + 1).min(stages.len()),
            stages: stages.len(),
            split: stage.map(Stage::to_string).unwrap_or_default(),
            lasted_ms: millis(now.began.elapsed()),
            time_ms: stage.map(|stage| millis(stage.time)).unwrap_or_default(),
            waits: now.waits.clone(),
            old,
            new,
            differing: now.trial.as_ref().map_or(now.differing, |trial| trial.differing()),
            end: now.end.clone(),
        }
    }

    fn enter(&self, stage: usize, trial: Arc<Trial>) {
        let mut now = self.lock();
        (now.stage, now.began, now.trial, now.waits) = (stage, Instant::now(), Some(trial), None);
    }

    fn end(&self, end: RolloutEnd) {
        let mut now = self.lock();
        if let Some(trial) = now.trial.take() {
            (now.accounts, now.differing) = (trial.accounts(), trial.differing());
        }
        (now.waits, now.end) = (None, Some(end));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Now> {
        // Nothing panics while the lock is held.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until the stage is over: `Ok`, or with what is to be done in place of the next one.
    async fn stage(&self, stage: &Stage, trial: &Trial, before: &Account) -> Result<(), Word> {
        let params = self.policy.params();
        let mut word = self.word.subscribe();
        let began = Instant::now();
        let min_calls = if matches!(stage.split, Split::Percent(_)) { u64::from(params.min_calls) } else { 0 };
        let mut looks = interval(LOOK_EVERY.min(stage.time));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                said = word.wait_for(Option::is_some) => {
                    let undone = || Word::Undo("the host stops".into());
                    return Err(said.ok().and_then(|said| said.clone()).unwrap_or_else(undone));
                }
                _ = looks.tick() => {}
            }
            let (old, new) = trial.accounts();
            // Where the new revision has all calls, it is held against what the old one did when it had some.
            let old = if old.calls == 0 { *before } else { old };
            let waits = match judge(params, &old, &new, min_calls) {
                Judgement::Fails(why) => return Err(Word::Undo(why)),
                Judgement::Holds => None,
                Judgement::TooFew(more) => Some(format!("{more} more calls")),
            };
            if began.elapsed() >= stage.time && waits.is_none() {
                return Ok(());
            }
            self.lock().waits = waits;
        }
    }
}

// === impl Rollout ===

impl Rollout {
    /// Goes through the stages, and to the end that they come to.
    pub(super) async fn go_through(self: Arc<Self>, staged: Arc<Staged>, ready: Ready) {
        let Ready { member, revision, serving, shadow } = ready;
        let (revision, shadow) = (Arc::new(revision), shadow.map(Arc::new));
        let service = member.service.name();
        let number = staged.revision.number;
        let mut before = Account::default();
        let mut word = Word::Promote;
        for (at, stage) in staged.policy.params().stages.iter().enumerate() {
            let on_trial = if stage.split == Split::Shadow { shadow.as_ref() } else { None };
            let trial = Trial::new(on_trial.unwrap_or(&revision).clone(), stage.split.clone());
            member.service.try_out(Some(trial.clone()));
            staged.enter(at, trial.clone());
            self.note_marked();
            tracing::info!(%service, revision = number, stage = at + 1, split = %stage, "stage of a rollout");
            let over = staged.stage(stage, &trial, &before).await;
            let (old, _) = trial.accounts();
            if old.calls > 0 {
                before = old;
            }
            if let Err(said) = over {
                word = said;
                break;
            }
        }
        let reason = match word {
            Word::Promote => match self.complete(&member, &staged, &revision, serving).await {
                Ok(()) => None,
                Err(error) => Some(error.to_string()),
            },
            Word::Undo(reason) => Some(reason),
        };
        match reason {
            None => {
                staged.end(RolloutEnd::Completed);
                tracing::info!(%service, revision = number, "rollout completed");
            }
            Some(reason) => {
                member.service.try_out(None);
                kept_in_mind(self.history.end(service, number, Standing::Undone, reason.clone()).await);
                tracing::warn!(%service, revision = number, reason, "rollout undone; the old revision serves");
                staged.end(RolloutEnd::Undone { reason });
                Member::retire(&member, revision, staged.policy.params().drain);
            }
        }
        self.note_marked();
        // Nobody may be there who wants to know.
        let _ = self.ended.send(staged.snapshot(service));
        if let Some(shadow) = shadow {
            Member::retire(&member, shadow, staged.policy.params().drain);
        }
    }

    async fn complete(
        &self,
        member: &Arc<Member>,
        staged: &Staged,
        revision: &Arc<Revision>,
        serving: Serving,
    ) -> Result<(), DeployError> {
        let _deploying = self.deploying.lock().await;
        let service = member.service.name().to_string();
        let mut after = self.running().0.clone();
        after.insert(service, staged.shape.clone());
        self.check(&after)?;
        self.shift(member, revision.clone(), serving, after, staged.policy.params().drain).await
    }
}
