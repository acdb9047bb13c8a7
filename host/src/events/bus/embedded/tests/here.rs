//! What is written where it is published.

use super::*;
use futures::FutureExt;
use std::pin::pin;
use tokio::time::advance;

/// Publishes some, one after the other and not too fast; returns how many were written before the first wait.
async fn at_once(kind: BusKind, size: usize) -> usize {
    let bus = start(kind, Vec::new()).await;
    let mut at_once = 0;
    for _ in 0..50 {
        advance(Duration::from_millis(1)).await;
        let mut publishing = pin!(bus.publish("order", created("x".repeat(size)), None));
        match publishing.as_mut().now_or_never() {
            Some(published) => {
                published.unwrap();
                at_once += 1;
            }
            None => drop(publishing.await.unwrap()),
        }
    }
    at_once
}

#[tokio::test(start_paused = true)]
async fn a_short_event_that_comes_alone_is_written_at_once() {
    let folder = Folder::new();
    // Not all: a commit may take long by chance, and then it is left to others for a while.
    assert!(at_once(folder.kind(), 100).await > 0);
    assert_eq!(folder.ask::<i64>("SELECT count(*) FROM events"), 50);
}

#[tokio::test(start_paused = true)]
async fn what_must_reach_the_disk_is_not() {
    let folder = Folder::new();
    let kind = BusKind::Embedded(EmbeddedConfig { file: folder.file(), durability: Durability::Fsync });
    // By chance another thread may be ready before this one looks.
    assert!(at_once(kind, 100).await < 25);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_here_for_who_has_the_file() {
    let folder = Folder::new();
    let bus = start(folder.kind(), Vec::new()).await;
    bus.publish("order", created(1), None).await.unwrap();
    for n in 0..5 {
        advance(Duration::from_millis(1)).await;
        let other = rusqlite::Connection::open(folder.file()).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let mut publishing = pin!(bus.publish("order", created(n), None));
        assert!(publishing.as_mut().now_or_never().is_none());
        other.execute_batch("COMMIT").unwrap();
        publishing.await.unwrap();
    }
    assert_eq!(folder.ask::<i64>("SELECT count(*) FROM events"), 6);
}
