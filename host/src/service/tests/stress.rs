//! Many calls from many threads, dropped, trapped and swapped away at random: afterwards the books must balance.

use super::{
    components::{leaf, relay},
    house::{House, plan, within},
};
use crate::policy::FaultKind;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::timeout;

const TASKS: u64 = 24;
const CALLS: u64 = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_call_is_answered_once_whatever_happens_around_it() {
    let settings = |it: &mut crate::service::InstanceSettings| {
        (it.max, it.concurrency, it.reuse, it.queue) = (3, 3, 20, 64);
        it.cpu = Duration::from_secs(5);
    };
    let plans = move || {
        vec![
            plan("relay", relay("t:relay/work", "t:leaf/work"), &["leaf"]).with(settings),
            plan("leaf", leaf("t:leaf/work"), &[]).with(settings),
        ]
    };
    let house = Arc::new(House::new(plans()).await);
    let stop = Arc::new(AtomicBool::new(false));
    let swaps = tokio::spawn({
        let (house, stop) = (house.clone(), stop.clone());
        async move {
            let mut before = Vec::new();
            let mut at = 0;
            while !stop.load(Ordering::Relaxed) {
                let plan = &plans()[at % 2];
                at += 1;
                let revision = house.revision(plan).unwrap();
                revision.warm().await.unwrap();
                before.extend(house.services[plan.name].swap(Some(revision.into())));
                tokio::time::sleep(Duration::from_millis(15)).await;
            }
            before
        }
    });
    let callers = (0..TASKS).map(|seed| {
        let house = house.clone();
        tokio::spawn(async move {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut ends: BTreeMap<String, u32> = BTreeMap::new();
            for _ in 0..CALLS {
                let service = *random.choice(&["relay", "leaf"]).unwrap();
                let (function, params): (_, &[u32]) = match random.u32(..20) {
                    0 => ("trap", &[]),
                    1..=9 => ("sleep", &[random.u32(1..6)]),
                    _ => ("add", &[40, 2]),
                };
                let limit = if random.u32(..8) == 0 { random.u64(1..4) } else { 10_000 };
                let call = house.call_within(within(Duration::from_secs(60)), service, function, params);
                // Dropped: its caller leaves without a word.
                let end = match timeout(Duration::from_millis(limit), call).await {
                    Err(_) if limit == 10_000 => panic!("`{function}` of `{service}` was lost"),
                    Err(_) => "left".to_string(),
                    Ok(Ok(sum)) => {
                        assert!(function != "add" || sum == 42, "{function} gave {sum}");
                        "answered".to_string()
                    }
                    Ok(Err(fault)) => {
                        // Calls that share an instance with a trap end with it; `cancelled` would be a call lost.
                        let fair = matches!(fault.kind(), FaultKind::Trapped | FaultKind::Overloaded);
                        assert!(fair, "`{function}` of `{service}`: {fault}");
                        fault.kind().as_str().to_string()
                    }
                };
                *ends.entry(end).or_default() += 1;
            }
            ends
        })
    });
    let mut ends: BTreeMap<String, u32> = BTreeMap::new();
    for caller in callers.collect::<Vec<_>>() {
        for (end, count) in caller.await.unwrap() {
            *ends.entry(end).or_default() += count;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let before = swaps.await.unwrap();
    assert_eq!(u64::from(ends.values().sum::<u32>()), TASKS * CALLS);
    assert!(ends["answered"] > 0 && ends["trapped"] > 0 && ends["left"] > 0, "{ends:?}");
    house.quiet().await;
    for revision in &before {
        let limit = tokio::time::Instant::now() + Duration::from_secs(20);
        while revision.instances().under_way + revision.instances().queued > 0 {
            assert!(tokio::time::Instant::now() < limit, "{:?}", revision.instances());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(revision.instances().at_rest, 0, "a revision of the past keeps no instance");
        assert_eq!(revision.pool.counted(), 0, "every seat was given back");
    }
    for service in ["relay", "leaf"] {
        let revision = house.services[service].revision().unwrap();
        assert_eq!(revision.pool.counted(), revision.instances().at_rest, "{service}");
    }
}
