//! An archive in memory, for tests of what is above the bus.

use super::{Archive, ArchiveError, DeadLetter, DeadLetterFilter, DeadReason, ReplayFrom};
use crate::events::{Event, NewEvent};
use futures::future::BoxFuture;
use jiff::Timestamp;
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
};

/// Dead letters that are named from `1` on.
#[derive(Default)]
pub(crate) struct Shelf {
    letters: Mutex<Vec<DeadLetter>>,
    named: AtomicUsize,
    dies_again: AtomicBool,
}

// === impl Shelf ===

impl Shelf {
    /// One more dead letter, after three tries.
    pub(crate) fn bury(&self, service: &str, event: NewEvent) {
        let topic: Arc<str> = event.topic.as_str().into();
        let event = Event::publish(event, topic, "/services/order".into(), None);
        self.add(service.into(), Arc::new(event));
    }

    /// From now on whatever is replayed dies at once.
    pub(crate) fn die_again(&self) {
        self.dies_again.store(true, Relaxed);
    }

    fn add(&self, service: Arc<str>, event: Arc<Event>) {
        let letter = (self.named.fetch_add(1, Relaxed) + 1).to_string();
        let (reason, error, at) = (DeadReason::Rejected, "no".into(), Timestamp::now());
        self.letters.lock().unwrap().push(DeadLetter { letter, service, reason, error, attempts: 3, at, event });
    }

    fn chosen(&self, filter: &DeadLetterFilter) -> Vec<DeadLetter> {
        let number = |letter: &str| letter.parse::<usize>().unwrap();
        let has = |wanted: &Option<String>, is: &str| wanted.as_ref().is_none_or(|wanted| wanted == is);
        let letters = self.letters.lock().unwrap();
        let chosen = letters.iter().filter(|it| {
            has(&filter.topic, &it.event.topic)
                && has(&filter.service, &it.service)
                && filter.reason.is_none_or(|wanted| wanted == it.reason)
                && filter.letters.as_ref().is_none_or(|wanted| wanted.contains(&it.letter))
                && filter.after.as_ref().is_none_or(|after| number(&it.letter) > number(after))
        });
        chosen.take(filter.limit).cloned().collect()
    }

    fn take(&self, filter: &DeadLetterFilter) -> Vec<DeadLetter> {
        let chosen = self.chosen(filter);
        self.letters.lock().unwrap().retain(|letter| !chosen.contains(letter));
        chosen
    }
}

impl Archive for Shelf {
    fn dead_letters(&self, filter: DeadLetterFilter) -> BoxFuture<'_, Result<Vec<DeadLetter>, ArchiveError>> {
        Box::pin(async move { Ok(self.chosen(&filter)) })
    }

    fn revive(&self, filter: DeadLetterFilter) -> BoxFuture<'_, Result<u64, ArchiveError>> {
        Box::pin(async move {
            let revived = self.take(&filter);
            if self.dies_again.load(Relaxed) {
                revived.iter().for_each(|it| self.add(it.service.clone(), it.event.clone()));
            }
            Ok(revived.len() as u64)
        })
    }

    fn discard(&self, filter: DeadLetterFilter) -> BoxFuture<'_, Result<u64, ArchiveError>> {
        Box::pin(async move { Ok(self.take(&filter).len() as u64) })
    }

    fn replay(&self, topic: &str, service: &str, from: ReplayFrom) -> BoxFuture<'_, Result<u64, ArchiveError>> {
        let result = match from {
            _ if service != "mail" => {
                Err(ArchiveError::NoSubscription { topic: topic.into(), service: service.into() })
            }
            ReplayFrom::Offset(offset) if offset.parse::<u64>().is_err() => {
                Err(ArchiveError::Offset(offset, "a number"))
            }
            ReplayFrom::Offset(_) | ReplayFrom::Time(_) => Ok(7),
        };
        Box::pin(async { result })
    }

    fn stop_replays(&self, topic: &str, service: &str) -> BoxFuture<'_, Result<u64, ArchiveError>> {
        let known = service == "mail";
        let nobody = ArchiveError::NoSubscription { topic: topic.into(), service: service.into() };
        Box::pin(async move { if known { Ok(4) } else { Err(nobody) } })
    }
}
