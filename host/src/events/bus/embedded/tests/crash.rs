//! A host that is killed at any point, over and over, under load: nothing that was acknowledged is missing afterwards.

use super::Folder;
use crate::events::{
    BusKind, DeadLetterFilter, DeliveryPolicy, Durability, EmbeddedConfig, Event, MAX_LISTED, NewEvent, Subscription,
    Verdict,
    testing::{probe, start, until},
};
use crate::policy::Backoff;
use futures::future::join_all;
use std::{
    collections::{HashMap, HashSet},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};
use tokio::time::Duration;

const FILE: &str = "WHARF_EVENTS_CRASH_FILE";
const ROUND: &str = "WHARF_EVENTS_CRASH_ROUND";
/// How often it is killed; the variable of the same name asks for more.
const KILLS: &str = "WHARF_EVENTS_CRASH_KILLS";

pub(super) const PUBLISHERS: u64 = 8;
const SUBSCRIBERS: [&str; 2] = ["audit", "notification"];

/// Says a line in one piece; one that a kill cut short lacks its end.
pub(super) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(format!("\n{line} .\n").as_bytes());
    let _ = out.flush();
}

/// Whether one of the subscribers will never take this event.
fn is_poison(service: &str, n: u64) -> bool {
    service == SUBSCRIBERS[0] && n % 23 == 5
}

pub(super) fn subscriptions() -> Vec<Subscription> {
    let subscription = |service: &'static str| {
        let (subscriber, _log) = probe(move |event: Arc<Event>, attempt| {
            let n: u64 = String::from_utf8_lossy(&event.data).trim().parse().unwrap();
            let subject = event.subject.clone().unwrap_or_default();
            async move {
                if is_poison(service, n) {
                    return Ok(Verdict::Reject("poison".into()));
                }
                if n % 11 == 3 && attempt == 1 {
                    return Ok(Verdict::Retry(Some(Duration::from_millis(5))));
                }
                say(&format!("seen {service} {subject} {n}"));
                Ok(Verdict::Ack)
            }
        });
        let backoff = Backoff { first: Duration::from_millis(1), max: Duration::from_millis(5), jitter: 0.5 };
        let policy = DeliveryPolicy { capacity: 40, backoff, max_attempts: 1_000, ..DeliveryPolicy::default() };
        Subscription::new("order.created", service, subscriber).with_policy(policy)
    };
    SUBSCRIBERS.map(subscription).into()
}

fn kind(file: &Path) -> BusKind {
    BusKind::Embedded(EmbeddedConfig { file: file.to_owned(), durability: Durability::Os })
}

/// Not a test: the process that is killed. In round 0 it publishes nothing, and ends when all is settled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child of `what_was_acknowledged_is_delivered_after_any_number_of_kills`"]
async fn child() {
    let Some((file, round)) = told() else { return };
    let bus = start(kind(&file), subscriptions()).await;
    say("up");
    if round == 0 {
        // As much may be left as there is: only that it goes on has its time.
        loop {
            let before = bus.snapshot().subscriptions;
            if before.iter().all(|it| it.lag == Some(0)) {
                bus.shutdown(Duration::from_secs(10)).await;
                return say("settled");
            }
            let moved = async || bus.snapshot().subscriptions.iter().zip(&before).any(|(now, it)| now.lag != it.lag);
            until(&format!("something is settled: {before:?}"), moved).await;
        }
    }
    let publishing = (0..PUBLISHERS).map(|publisher| {
        let bus = bus.clone();
        tokio::spawn(async move {
            for n in round * 1_000_000.. {
                bus.publish("order", event(publisher, n), None).await.unwrap();
                say(&format!("published {publisher} {n}"));
            }
        })
    });
    join_all(publishing).await;
}

/// The file and the round, where this process is a child.
pub(super) fn told() -> Option<(PathBuf, u64)> {
    Some((std::env::var_os(FILE)?.into(), std::env::var(ROUND).ok()?.parse().unwrap()))
}

/// Some are larger than a page.
pub(super) fn event(publisher: u64, n: u64) -> NewEvent {
    let data = format!("{n}{}", " ".repeat(if n.is_multiple_of(7) { 6_000 } else { 200 }));
    NewEvent { subject: Some(publisher.to_string()), ..NewEvent::json("order.created", data) }
}

/// What the parent knows: what was acknowledged, by publisher, and what was seen, by subscriber and publisher.
#[derive(Default)]
pub(super) struct Account {
    published: HashMap<String, Vec<u64>>,
    seen: HashMap<(String, String), HashSet<u64>>,
    order: HashMap<(String, String), Vec<u64>>,
}

impl Account {
    pub(super) fn note(&mut self, line: &str) -> bool {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["published", publisher, n, "."] => {
                self.published.entry(publisher.into()).or_default().push(n.parse().unwrap());
            }
            ["seen", service, publisher, n, "."] => {
                let key = (service.to_owned(), publisher.to_owned());
                let n = n.parse().unwrap();
                if self.seen.entry(key.clone()).or_default().insert(n) {
                    self.order.entry(key).or_default().push(n);
                }
            }
            _ => {}
        }
        words[..] == ["settled", "."]
    }
}

/// Starts a child, which is an ignored test of this folder.
pub(super) fn spawn(name: &str, file: &Path, round: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([&format!("events::bus::embedded::tests::{name}"), "--exact", "--ignored", "--nocapture"])
        .env(FILE, file)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .stderr(if round == 0 { Stdio::inherit() } else { Stdio::null() })
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn what_was_acknowledged_is_delivered_after_any_number_of_kills() {
    let folder = Folder::new();
    let kills: u64 = std::env::var(KILLS).ok().and_then(|it| it.parse().ok()).unwrap_or(25);
    let mut account = Account::default();
    // The subscriptions are there from the beginning.
    start(folder.kind(), subscriptions()).await.shutdown(Duration::from_secs(1)).await;
    for round in 1..=kills {
        let mut child = spawn("crash::child", &folder.file(), round);
        // By lines and not by time: anywhere from the very beginning to long after.
        let (mut lines, last) = (0, fastrand::usize(0..1_500));
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            account.note(&line);
            lines += usize::from(line.ends_with(" ."));
            if lines == last + 1 {
                // SIGKILL: nothing is flushed, nothing is closed. Lines that are in the pipe still come.
                child.kill().unwrap();
            }
        }
        assert!(!child.wait().unwrap().success(), "it was to be killed");
    }
    let count = settle(&folder, account).await;
    assert!(count > 100 || kills < 5, "{count} deliveries are no load");
    println!("{kills} kills, {count} deliveries accounted for");
}

/// Has all settled that is left, compares it with the account, and returns how many deliveries there were to be.
pub(super) async fn settle(folder: &Folder, mut account: Account) -> u64 {
    let mut child = spawn("crash::child", &folder.file(), 0);
    let mut settled = false;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        settled |= account.note(&line.unwrap());
    }
    assert!(settled && child.wait().unwrap().success(), "what was left was not settled");

    let bus = start(folder.kind(), vec![]).await;
    let mut dead: HashSet<(String, String, u64)> = HashSet::new();
    let mut filter = DeadLetterFilter { limit: MAX_LISTED, ..DeadLetterFilter::default() };
    loop {
        let letters = bus.dead_letters(filter.clone()).await.unwrap();
        let Some(last) = letters.last() else { break };
        filter.after = Some(last.letter.clone());
        for letter in &letters {
            let n = String::from_utf8_lossy(&letter.event.data).trim().parse().unwrap();
            let new = dead.insert((letter.service.to_string(), letter.event.subject.clone().unwrap(), n));
            assert!(new, "{n} is dead twice");
        }
    }
    let mut count = 0;
    for (publisher, published) in &account.published {
        for service in SUBSCRIBERS {
            let key = (service.to_owned(), publisher.clone());
            let (empty, nothing) = (HashSet::new(), Vec::new());
            let seen = account.seen.get(&key).unwrap_or(&empty);
            for n in published {
                let reached = if is_poison(service, *n) {
                    dead.contains(&(service.to_owned(), publisher.clone(), *n))
                } else {
                    seen.contains(n)
                };
                assert!(reached, "{n} of {publisher} was acknowledged and did not reach {service}");
                count += 1;
            }
            // Each publisher is a subject of its own, whose events come in order.
            let order = account.order.get(&key).unwrap_or(&nothing);
            assert!(order.is_sorted(), "{service} had the events of {publisher} out of order");
        }
    }
    let whole: String = folder.ask("PRAGMA integrity_check");
    assert_eq!(whole, "ok");
    count
}
