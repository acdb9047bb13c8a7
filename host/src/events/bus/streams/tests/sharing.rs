//! Several hosts, one subscription.

use super::*;
use crate::events::{Bus, DeliveryOrder};
use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

/// What was delivered of each subject, on whichever host, in order.
#[derive(Clone, Default)]
struct Account(Arc<Mutex<HashMap<String, Vec<u32>>>>);

impl Account {
    /// A host of this account, whose subscriber takes a moment, so that hosts could overtake each other.
    async fn host(&self, server: &Server, name: &str) -> (Bus, Arc<AtomicU32>) {
        let (account, count) = (self.clone(), Arc::new(AtomicU32::new(0)));
        let counting = Arc::clone(&count);
        let (subscriber, _) = probe(move |event, _| {
            let (account, count) = (account.clone(), Arc::clone(&counting));
            async move {
                let number = String::from_utf8_lossy(&event.data).parse().unwrap();
                let subject = event.subject.clone().unwrap_or_default();
                account.0.lock().unwrap().entry(subject).or_default().push(number);
                count.fetch_add(1, Relaxed);
                tokio::time::sleep(Duration::from_micros(fastrand::u64(..500))).await;
                Ok(Verdict::Ack)
            }
        });
        let one = DeliveryPolicy { concurrency: 1, ..policy() };
        let subscription = Subscription::new("order.created", "notification", subscriber).with_policy(one);
        (start(kind(server, name), vec![subscription]).await, count)
    }

    /// Waits until every subject has had all its events, and looks at the order of those that came first.
    async fn complete(&self, published: &HashMap<String, u32>) {
        until("every event of every subject came", async || {
            let seen = self.0.lock().unwrap();
            published.iter().all(|(subject, count)| {
                let seen = seen.get(subject).map(|it| it.iter().collect::<HashSet<_>>().len());
                seen.unwrap_or(0) == *count as usize
            })
        })
        .await;
        for (subject, numbers) in &*self.0.lock().unwrap() {
            let mut next = 0;
            for number in numbers {
                assert!(*number <= next, "{subject}: {number} came before {next}: {numbers:?}");
                next = next.max(number + 1);
            }
        }
    }
}

async fn owners(server: &Server) -> HashMap<String, usize> {
    let leases: HashMap<String, String> = cmd("HGETALL")
        .arg("wharf:shop:order.created:leases:notification")
        .query_async(&mut server.raw().await)
        .await
        .unwrap();
    let mut owners = HashMap::new();
    for (_, host) in leases.into_iter().filter(|(field, _)| field.parse::<u16>().is_ok()) {
        *owners.entry(host).or_insert(0) += 1;
    }
    owners
}

async fn shared(server: &Server, expected: &[(&str, usize)]) {
    let expected: HashMap<_, _> = expected.iter().map(|(host, count)| (host.to_string(), *count)).collect();
    until(&format!("the partitions are shared as {expected:?}"), async || owners(server).await == expected).await;
}

/// Publishes to random subjects, several at a time.
async fn publish(bus: &Bus, published: &mut HashMap<String, u32>, count: usize) {
    for _ in 0..count {
        let subject = fastrand::u32(..40).to_string();
        let number = published.entry(subject.clone()).or_insert(0);
        bus.publish("order", about(subject, *number), None).await.unwrap();
        *number += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subjects_keep_their_order_while_hosts_come_go_and_die() {
    let server = Server::start();
    let (account, mut published) = (Account::default(), HashMap::new());
    let publisher = start(kind(&server, "publisher"), vec![]).await;
    let (first, first_count) = account.host(&server, "a").await;
    publish(&publisher, &mut published, 500).await;
    let (second, second_count) = account.host(&server, "b").await;
    publish(&publisher, &mut published, 500).await;
    shared(&server, &[("a", 4), ("b", 4)]).await;
    publish(&publisher, &mut published, 500).await;
    assert!(first_count.load(Relaxed) > 0);
    until("the second host has its part", async || second_count.load(Relaxed) > 0).await;

    // It dies with what it has.
    publish(&publisher, &mut published, 300).await;
    drop(first);
    publish(&publisher, &mut published, 300).await;
    shared(&server, &[("b", 8)]).await;
    let (third, _) = account.host(&server, "c").await;
    publish(&publisher, &mut published, 300).await;
    shared(&server, &[("b", 4), ("c", 4)]).await;

    // It goes: what it had is free at once, whatever the lease.
    publish(&publisher, &mut published, 300).await;
    second.shutdown(SOON).await;
    publish(&publisher, &mut published, 300).await;
    account.complete(&published).await;
    nothing_pending(&server).await;
    shared(&server, &[("c", 8)]).await;
    drop(third);
}

#[tokio::test]
async fn a_host_that_works_long_keeps_what_it_has() {
    let server = Server::start();
    let (working, mut first, gate) = gated();
    let bus = start(kind(&server, "a"), subscription(working)).await;
    bus.publish("order", created(1), None).await.unwrap();
    first.next().await;
    let (subscriber, mut second) = acknowledging();
    let other = start(kind(&server, "b"), subscription(subscriber)).await;
    let begin = Instant::now();
    until("it has worked several times as long as it may be silent", async || {
        assert!(second.rest().is_empty(), "taken from a host that works on it");
        begin.elapsed() > 4 * LEASE
    })
    .await;
    gate.add_permits(1000);
    nothing_pending(&server).await;
    shared(&server, &[("a", 4), ("b", 4)]).await;
    drop(other);
}

#[tokio::test]
async fn tries_go_on_counting_at_another_host_and_what_was_only_read_is_not_given_up() {
    let server = Server::start();
    // Of one subject, so that all lie in one partition in their order, and yet tried side by side.
    let subscription = |subscriber| {
        let mut subscriptions = subscription(subscriber);
        subscriptions[0].policy.order = DeliveryOrder::None;
        subscriptions
    };
    // The handler kills its host, as it were: it never answers, and the host is gone.
    let mut attempts = Vec::new();
    for host in ["a", "b", "c", "d"] {
        let (hanging, mut log, _gate) = gated();
        let bus = start(kind(&server, host), subscription(hanging)).await;
        if host == "a" {
            for n in 0..100 {
                bus.publish("order", about("s", n), None).await.unwrap();
            }
        }
        until("all of them are read", async || pending(&server).await == 100).await;
        let mut seen = Vec::new();
        while seen.len() < 16 {
            seen.push(log.next().await);
        }
        attempts.push(seen.iter().find(|it| it.text() == "0").unwrap().attempt);
        drop(bus);
    }
    assert_eq!(attempts, [1, 2, 3, 4]);
    let (trapping, mut log) = probe(|_, _| async { Err(trapped()) });
    let bus = start(kind(&server, "e"), subscription(trapping)).await;
    let (mut last, mut other) = (None, None);
    while last.is_none() || other.is_none() {
        let seen = log.next().await;
        match &*seen.text() {
            "0" => last = last.or(Some(seen.attempt)),
            "99" => other = other.or(Some(seen.attempt)),
            _ => {}
        }
    }
    assert_eq!((last, other), (Some(5), Some(2)), "the poison is at its end, and what was read four times counts once");
    until("the poison is dead", async || !bus.dead_letters(DeadLetterFilter::default()).await.unwrap().is_empty())
        .await;
}

#[tokio::test]
async fn an_event_with_one_try_is_not_lost_by_being_read() {
    let server = Server::start();
    let once = |subscriber| {
        let policy = DeliveryPolicy { max_attempts: 1, concurrency: 1, ..policy() };
        vec![Subscription::new("order.created", "notification", subscriber).with_policy(policy)]
    };
    let (hanging, mut log, _gate) = gated();
    let bus = start(kind(&server, "a"), once(hanging)).await;
    for n in 0..10 {
        bus.publish("order", about("s", n), None).await.unwrap();
    }
    assert_eq!(log.next().await.text(), "0");
    drop(bus);
    let (subscriber, mut log) = acknowledging();
    let bus = start(kind(&server, "b"), once(subscriber)).await;
    all(&mut log, (1..10).map(|n| n.to_string())).await;
    nothing_pending(&server).await;
    let letters = bus.dead_letters(DeadLetterFilter::default()).await.unwrap();
    assert_eq!(letters.len(), 1, "only what was tried is given up: {letters:?}");
    assert_eq!((letters[0].reason, &letters[0].event.data[..]), (DeadReason::AttemptsExhausted, &b"0"[..]));
}
