//! A host that is killed just while it drops old events, or copies the write-ahead log into the file.

use super::{
    Folder,
    crash::{Account, PUBLISHERS, event, say, settle, spawn, subscriptions, told},
};
use crate::events::{
    Durability, EmbeddedConfig, Event, Prepared, Retention,
    bus::{
        Transport,
        embedded::{Embedded, keeper, schema, writer},
    },
    testing::start,
};
use futures::future::join_all;
use std::{
    io::{BufRead, BufReader},
    sync::Arc,
};
use tokio::{
    task::spawn_blocking,
    time::{Duration, Instant},
};

/// How often each is to be interrupted, and in how many rounds at most.
const INTERRUPTED: usize = 4;
const ROUNDS: u64 = 100;
/// Of how many of his own events a publisher thinks of the house.
const EVERY: u64 = 20;

/// Not a test: the process that is killed. Everything that is settled may go at once, and two of the publishers see to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child of `nothing_is_lost_by_a_kill_amid_retention_or_a_checkpoint`"]
async fn child() {
    let Some((file, round)) = told() else { return };
    let config = EmbeddedConfig { file: file.clone(), durability: Durability::Os };
    let retention = Retention { age: Duration::ZERO, size: 0, ..Retention::default() };
    let embedded = Arc::new(Embedded::start(&config, &retention, subscriptions()).await.unwrap().0);
    let publishing = (0..PUBLISHERS).map(|publisher| {
        let (embedded, file) = (Arc::clone(&embedded), file.clone());
        tokio::spawn(async move {
            for n in round * 1_000_000.. {
                let new = event(publisher, n);
                let event = Event::publish(new, "order.created".into(), "/services/order".into(), None);
                embedded.publish(Prepared { event: Arc::new(event), due: None }).await.unwrap();
                say(&format!("published {publisher} {n}"));
                match publisher {
                    0 if n % EVERY == 0 => {
                        say("begin sweep");
                        keeper::sweep_once(&embedded.log).await.unwrap();
                        say("end sweep");
                    }
                    1 if n % EVERY == 0 => {
                        let connection = schema::open_to_checkpoint(&file, Durability::Os).unwrap();
                        let copying = spawn_blocking(move || {
                            say("begin copy");
                            writer::checkpoint(&connection).unwrap();
                            say("end copy");
                        });
                        copying.await.unwrap();
                    }
                    _ => {}
                }
            }
        })
    });
    join_all(publishing).await;
    embedded.shutdown(Instant::now()).await;
}

#[tokio::test]
async fn nothing_is_lost_by_a_kill_amid_retention_or_a_checkpoint() {
    let folder = Folder::new();
    let mut account = Account::default();
    start(folder.kind(), subscriptions()).await.shutdown(Duration::from_secs(1)).await;
    let mut interrupted = [0, 0];
    for round in 1..=ROUNDS {
        // Whichever was interrupted less often, at one of its first few times.
        let which = usize::from(interrupted[0] > interrupted[1]);
        let (what, mut left) = (["sweep", "copy"][which], fastrand::u32(1..6));
        let mut child = spawn("housekeeping::child", &folder.file(), round);
        let mut under_way = 0;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            account.note(&line);
            if line == format!("begin {what} .") {
                under_way += 1;
                left = left.saturating_sub(1);
                if left == 0 {
                    // Its lines that are in the pipe still come, so that it shows whether this was in time.
                    child.kill().unwrap();
                }
            } else if line == format!("end {what} .") {
                under_way -= 1;
            }
        }
        assert!(!child.wait().unwrap().success(), "it was to be killed");
        interrupted[which] += under_way;
        if interrupted.iter().all(|it| *it >= INTERRUPTED) {
            break;
        }
    }
    assert!(interrupted.iter().all(|it| *it >= INTERRUPTED), "interrupted {interrupted:?} times");
    let count = settle(&folder, account).await;
    assert!(count > 100, "{count} deliveries are no load");
    println!("{interrupted:?} kills while it was at it, {count} deliveries accounted for");
}
