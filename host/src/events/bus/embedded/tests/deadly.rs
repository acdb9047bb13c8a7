//! An event of which the host dies.

use super::{
    Folder,
    crash::{say, spawn, told},
    created,
};
use crate::events::{
    BusKind, DeadLetterFilter, DeadReason, DeliveryPolicy, Durability, EmbeddedConfig, Event, Subscription, Verdict,
    testing::{policy, probe, start, until},
};
use std::{
    io::{BufRead, BufReader},
    sync::Arc,
};
use tokio::time::Duration;

const ATTEMPTS: u32 = 3;
const EVENTS: usize = 60;
const CONCURRENCY: usize = 4;

fn subscriptions(is_deadly: bool) -> Vec<Subscription> {
    let (subscriber, _log) = probe(move |event: Arc<Event>, attempt| {
        let text = String::from_utf8_lossy(&event.data).into_owned();
        async move {
            if text == "deadly" {
                say(&format!("try {attempt}"));
                // As a kernel does it that is out of memory: nothing is flushed or closed.
                std::process::abort();
            }
            if is_deadly {
                say(&format!("seen {text}"));
            }
            Ok(Verdict::Ack)
        }
    });
    let policy = DeliveryPolicy { max_attempts: ATTEMPTS, concurrency: CONCURRENCY, ..policy() };
    vec![Subscription::new("order.created", "audit", subscriber).with_policy(policy)]
}

/// Not a test: the host that dies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child of `an_event_that_the_host_dies_of_each_time_becomes_a_dead_letter`"]
async fn child() {
    let Some((file, round)) = told() else { return };
    let kind = BusKind::Embedded(EmbeddedConfig { file, durability: Durability::Os });
    let bus = start(kind, subscriptions(true)).await;
    if round == 1 {
        for n in 0..EVENTS {
            let data = if n == EVENTS / 2 { "deadly".to_owned() } else { n.to_string() };
            bus.publish("order", created(data), None).await.unwrap();
        }
    }
    until("all is settled", async || bus.snapshot().subscriptions[0].lag == Some(0)).await;
    bus.shutdown(Duration::from_secs(10)).await;
    say("settled");
}

#[tokio::test]
async fn an_event_that_the_host_dies_of_each_time_becomes_a_dead_letter() {
    let folder = Folder::new();
    start(folder.kind(), subscriptions(false)).await.shutdown(Duration::from_secs(1)).await;
    let (mut tries, mut settled) = (Vec::new(), false);
    for round in 1.. {
        let mut child = spawn("deadly::child", &folder.file(), round);
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            if let Some(attempt) = line.strip_prefix("try ").and_then(|it| it.strip_suffix(" .")) {
                tries.push(attempt.parse::<u32>().unwrap());
            }
            settled |= line == "settled .";
        }
        let ended = child.wait().unwrap();
        assert_eq!(settled, ended.success(), "{ended}");
        assert!(settled || round < 10, "it dies again and again: {tries:?}");
        if settled {
            break;
        }
    }
    // The first of these was not counted: nobody knew yet.
    assert_eq!(tries, [1, 1, 2, 3]);
    let bus = start(folder.kind(), vec![]).await;
    let dead = bus.dead_letters(DeadLetterFilter::default()).await.unwrap();
    let dead: Vec<_> = dead.iter().map(|it| (&it.event.data[..], it.reason, it.attempts)).collect();
    assert!(dead.contains(&(&b"deadly"[..], DeadReason::AttemptsExhausted, ATTEMPTS)), "{dead:?}");
    // Nobody can tell it from what was being handled beside it each time, and from nothing else.
    assert!(dead.len() <= CONCURRENCY && dead.iter().all(|it| it.1 == DeadReason::AttemptsExhausted), "{dead:?}");
    assert_eq!(folder.ask::<i64>("SELECT count(*) FROM pending"), 0);
    bus.shutdown(Duration::from_secs(1)).await;
    // After an orderly end nobody is suspected.
    assert!(!crate::events::bus::embedded::schema::was_left_open(&folder.file()));
}
