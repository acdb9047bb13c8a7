//! Schedules: topics whose events nobody publishes but the clock.
//!
//! A firing is an event of the topic with the scheduled time as its `time`, and an id made of both, so that it is the same
//! event whichever host fires it. Every host of a system runs its schedules, and the bus takes each firing once: see
//! [`Firing::fire`].
//!
//! What was missed while no host ran is made up for at the start, once, by the latest of the missed firings: a report of
//! last night is wanted even if the host was down then, but not one for each night of a long holiday. A topic that never
//! fired before begins now. A firing that the bus does not take is tried again until the next one is due, which takes its
//! place.

mod cron;

pub use cron::{Cron, InvalidCron};

use super::{Event, InvalidEvent, NewEvent, PublishError};
use crate::policy::Backoff;
use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;
use tokio::time::{Duration, sleep};

/// The longest sleep. The wall clock may be set while a task sleeps by another clock, so it is looked at now and then.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
/// How long to wait before a firing that was not taken is tried again.
const AGAIN: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(60), jitter: 0.5 };

/// A topic whose events come by the clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// The topic.
    pub topic: Arc<str>,
    /// When.
    pub cron: Cron,
    /// What the events are about, if anything.
    pub subject: Option<String>,
    /// Their payload, JSON; `{"scheduledAt": "…"}` where there is none.
    pub data: Option<Bytes>,
}

/// Where firings go, and what is known of those before.
pub(super) trait Firing: Send + Sync + 'static {
    /// Publishes the firing for this time, unless it or a later one of the topic was published; says whether it was.
    fn fire(&self, at: Timestamp, event: Arc<Event>) -> BoxFuture<'_, Result<bool, PublishError>>;

    /// For which time the topic fired last.
    fn last_fired<'a>(&'a self, topic: &'a str) -> BoxFuture<'a, Result<Option<Timestamp>, PublishError>>;
}

/// The schedules of a bus.
pub(super) struct Scheduler<F, C> {
    firing: F,
    now: C,
    started: Timestamp,
    topics: Vec<Topic>,
}

/// A schedule and how far it is.
struct Topic {
    schedule: Schedule,
    /// The firings up to this time are done; `None` while that is not known.
    done: Option<Timestamp>,
    /// How often the bus failed since it last did not.
    failures: u32,
    /// Not tried again before.
    rest: Option<Timestamp>,
}

// === impl Schedule ===

impl Schedule {
    /// Refuses what can be no event.
    ///
    /// # Errors
    ///
    /// Says what is wrong with subject or data.
    pub fn validate(&self) -> Result<(), InvalidEvent> {
        let event = self.new_event(Timestamp::UNIX_EPOCH);
        event.validate(Timestamp::UNIX_EPOCH)?;
        self.event(Timestamp::UNIX_EPOCH).check_bare()
    }

    fn new_event(&self, at: Timestamp) -> NewEvent {
        let data = self.data.clone();
        NewEvent {
            topic: self.topic.to_string(),
            subject: self.subject.clone(),
            data: data.unwrap_or_else(|| format!(r#"{{"scheduledAt":"{at}"}}"#).into()),
            ..NewEvent::default()
        }
    }

    /// The firing for this time: the same event wherever it is made.
    fn event(&self, at: Timestamp) -> Event {
        let source = format!("/schedules/{}", self.topic).into();
        let event = Event::publish(self.new_event(at), Arc::clone(&self.topic), source, None);
        Event { id: format!("{}@{at}", self.topic), time: at, ..event }
    }
}

// === impl Scheduler ===

impl<F: Firing, C: Fn() -> Timestamp + Send + 'static> Scheduler<F, C> {
    pub(super) fn new(schedules: Vec<Schedule>, firing: F, now: C) -> Self {
        let topics = schedules.into_iter().map(|schedule| Topic { schedule, done: None, failures: 0, rest: None });
        Self { started: now(), topics: topics.collect(), firing, now }
    }

    /// Fires what is due, for ever.
    pub(super) async fn run(mut self) {
        loop {
            let now = (self.now)();
            let (firing, started) = (&self.firing, self.started);
            join_all(self.topics.iter_mut().map(|topic| topic.look(firing, started, now))).await;
            let now = (self.now)();
            let next = self.topics.iter().filter_map(Topic::next).min();
            let nap = next.map_or(LONGEST_SLEEP, |next| {
                Duration::try_from(next.duration_since(now)).unwrap_or_default().min(LONGEST_SLEEP)
            });
            // Never at once: a clock that is set back just now must not make this a busy loop.
            sleep(nap.max(Duration::from_millis(1))).await;
        }
    }
}

// === impl Topic ===

impl Topic {
    /// Fires what is due now.
    async fn look(&mut self, firing: &impl Firing, started: Timestamp, now: Timestamp) {
        // What waits for another try does so no longer than the clock says, also where that was set back.
        if self.rest.is_some_and(|rest| rest > now && rest.duration_since(now) < SignedDuration::from_mins(2)) {
            return;
        }
        match self.fire_due(firing, started, now).await {
            Ok(()) => (self.failures, self.rest) = (0, None),
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                let again = AGAIN.after(self.failures);
                self.rest = now.checked_add(again).ok();
                tracing::warn!(topic = %self.schedule.topic, %error, again_in = ?again, "a schedule could not fire");
            }
        }
    }

    async fn fire_due(&mut self, firing: &impl Firing, started: Timestamp, now: Timestamp) -> Result<(), PublishError> {
        let topic = &self.schedule.topic;
        let done = match self.done {
            Some(done) => done,
            None => *self.done.insert(firing.last_fired(topic).await?.unwrap_or(started)),
        };
        if let Some(at) = self.schedule.cron.last_between(done, now) {
            let event = Arc::new(self.schedule.event(at));
            if firing.fire(at, event).await? {
                tracing::debug!(%topic, %at, "a schedule fired");
            }
            self.done = Some(at);
        }
        Ok(())
    }

    /// When to look again.
    fn next(&self) -> Option<Timestamp> {
        self.rest.or_else(|| self.schedule.cron.next_after(self.done?))
    }
}

#[cfg(test)]
mod tests;
