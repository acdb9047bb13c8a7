//! More publishers than may wait for the writer.

use super::{Folder, created};
use crate::{
    events::{
        Durability, EmbeddedConfig, Event, NewEvent, Prepared, PublishError, Retention, Subscription,
        bus::{Transport, embedded::Embedded},
        testing::{acknowledging, policy, start, until},
    },
    policy::FaultKind,
};
use futures::future::join_all;
use std::sync::{Arc, PoisonError, mpsc};
use tokio::{sync::oneshot, time::Duration};

/// Publishes these while the writer can't write, until all that are too many are refused; returns what became of each.
async fn crowd(embedded: &Arc<Embedded>, events: Vec<NewEvent>, too_many: usize) -> Vec<Result<(), PublishError>> {
    let (holds, is_held) = oneshot::channel();
    let (let_go, waiting) = mpsc::channel::<()>();
    let log = Arc::clone(&embedded.log);
    let holder = std::thread::spawn(move || {
        let _writer = log.writer.lock().unwrap_or_else(PoisonError::into_inner);
        holds.send(()).unwrap();
        let _ = waiting.recv();
    });
    is_held.await.unwrap();
    let publishing: Vec<_> = events
        .into_iter()
        .map(|new| {
            let embedded = Arc::clone(embedded);
            let event = Arc::new(Event::publish(new, "order.created".into(), "/services/order".into(), None));
            tokio::spawn(async move { embedded.publish(Prepared { event, due: None }).await })
        })
        .collect();
    until("those that are too many are refused", async || {
        publishing.iter().filter(|it| it.is_finished()).count() >= too_many
    })
    .await;
    drop(let_go);
    holder.join().unwrap();
    join_all(publishing).await.into_iter().map(|done| done.unwrap()).collect()
}

#[tokio::test]
async fn where_too_many_wait_publishers_are_told_and_what_was_acknowledged_is_there() {
    let folder = Folder::new();
    let (subscriber, mut log) = acknowledging();
    let subscription = || Subscription::new("order.created", "audit", Arc::clone(&subscriber)).with_policy(policy());
    let config = EmbeddedConfig { file: folder.file(), durability: Durability::Os };
    let embedded = Embedded::start(&config, &Retention::default(), vec![subscription()]).await.unwrap().0;
    let embedded = Arc::new(embedded);
    let mut acknowledged = 0;
    // By their number, and by their bytes.
    let large = "x".repeat(200 << 10);
    let in_bytes = (32 << 20) / large.len();
    for (most, event) in [(4_096, created("1")), (in_bytes, created(&large))] {
        let too_many = 50;
        let done = crowd(&embedded, vec![event; most + too_many], too_many).await;
        let refused: Vec<_> = done.iter().filter_map(|it| it.as_ref().err()).collect();
        let taken = done.len() - refused.len();
        // The log's own work may stand among them.
        assert!((most - 4..=most).contains(&taken), "{taken} of {most}");
        for error in refused {
            assert!(matches!(error, PublishError::Fault(fault) if fault.kind() == FaultKind::Overloaded), "{error}");
            let (text, file) = (error.to_string(), folder.file());
            assert!(text.contains("too many events wait to be written") && text.contains("try again later"), "{text}");
            assert!(text.contains(&*file.to_string_lossy()), "{text}");
        }
        acknowledged += taken;
        assert_eq!(log.texts(taken).await.len(), taken);
        assert_eq!(folder.ask::<i64>("SELECT count(*) FROM events"), acknowledged as i64);
    }
    embedded.shutdown(tokio::time::Instant::now() + Duration::from_secs(10)).await;
    drop(embedded);
    assert!(log.rest().is_empty(), "what was refused is not delivered");
    let bus = start(folder.kind(), vec![subscription()]).await;
    bus.publish("order", created("after"), None).await.unwrap();
    assert_eq!(log.texts(1).await, ["after"]);
}
