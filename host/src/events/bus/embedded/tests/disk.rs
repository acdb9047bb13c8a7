//! A full disk, on a small file system in memory: only root may mount one.

use super::Folder;
use crate::{
    events::{
        BusKind, Durability, EmbeddedConfig, NewEvent, PublishError, Subscription,
        testing::{acknowledging, start, until},
    },
    policy::FaultKind,
};
use std::{path::PathBuf, process::Command};

/// A file system of 4 MiB; gone after the test.
struct Small(PathBuf);

impl Small {
    fn mount(folder: &Folder) -> Option<Self> {
        let at = folder.file().with_file_name("small");
        std::fs::create_dir(&at).unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(&at).output();
        mount.is_ok_and(|output| output.status.success()).then_some(Self(at))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[tokio::test]
async fn a_full_disk_refuses_publishers_and_loses_nothing() {
    let folder = Folder::new();
    let Some(small) = Small::mount(&folder) else {
        println!("NOT TESTED: no small file system can be mounted here, which takes root");
        return;
    };
    let ballast = small.0.join("ballast");
    std::fs::write(&ballast, vec![0; 2 << 20]).unwrap();
    let kind =
        || BusKind::Embedded(EmbeddedConfig { file: small.0.join("events.sqlite"), durability: Durability::Fsync });
    let subscribe = || {
        let (subscriber, log) = acknowledging();
        (vec![Subscription::new("order.created", "audit", subscriber)], log)
    };
    let (subscriptions, mut log) = subscribe();
    let bus = start(kind(), subscriptions).await;
    let event = |n: usize| NewEvent::json("order.created", format!("{n:05}{}", " ".repeat(4_000)));
    let mut acknowledged = Vec::new();
    let mut refused = Vec::new();
    for n in 0..2_000 {
        match bus.publish("order", event(n), None).await {
            Ok(_) => acknowledged.push(n),
            Err(error) => refused.push(error),
        }
    }
    assert!(acknowledged.len() > 50, "{} were taken: {:?}", acknowledged.len(), refused.first());
    assert!(!refused.is_empty());
    for error in &refused {
        assert!(matches!(error, PublishError::Fault(fault) if fault.kind() == FaultKind::Overloaded), "{error}");
        assert!(error.to_string().contains("no space left on the disk"), "{error}");
    }
    for n in &acknowledged {
        assert_eq!(log.next().await.text().trim(), format!("{n:05}"));
    }
    // It goes on as soon as there is space.
    std::fs::remove_file(&ballast).unwrap();
    until("it takes events again", async || bus.publish("order", event(9_000), None).await.is_ok()).await;
    log.texts(1).await;
    until("all is saved", async || {
        bus.snapshot().subscriptions[0].lag == Some(0) && {
            let file = rusqlite::Connection::open(small.0.join("events.sqlite")).unwrap();
            let unread: i64 = file.query_row("SELECT unread FROM lag", [], |row| row.get(0)).unwrap();
            unread == 0
        }
    })
    .await;
    drop(bus);
    let (subscriptions, mut log) = subscribe();
    let bus = start(kind(), subscriptions).await;
    bus.publish("order", event(9_001), None).await.unwrap();
    assert_eq!(log.next().await.text().trim(), "09001");
    let replayed = bus.replay("order.created", "audit", crate::events::ReplayFrom::Offset("0".into())).await.unwrap();
    assert!(replayed as usize > acknowledged.len());
    bus.shutdown(std::time::Duration::from_secs(1)).await;
}
