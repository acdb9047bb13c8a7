//! What the inbox promises, each promise with a test that tries to break it.

mod crash;

use super::*;
use crate::{
    events::{Bus, NewEvent},
    store::{
        Access, Settings,
        tests::{Scratch, on_each_backend},
    },
};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

const KEEP: Duration = Duration::from_secs(3600);

/// The database of the service `mail`, with a table `sent (event TEXT)`, in which an event may be as often as it likes.
async fn mail(scratch: &Scratch) -> Database {
    let database = scratch.of("mail", Settings::default()).await;
    database.execute(statement("CREATE TABLE IF NOT EXISTS sent (event TEXT NOT NULL)", [])).await.unwrap();
    database
}

async fn open(scratch: &Scratch) -> (Database, Inbox) {
    let database = mail(scratch).await;
    (database.clone(), Inbox::open("mail", database, KEEP).await.unwrap())
}

/// An event, always the same for one number.
fn event(number: u32) -> Event {
    let bus = Bus::taking("order", &["order.created"], |_| Ok(()));
    let prepared = bus.prepare("order", NewEvent::json("order.created", "{}"), None).unwrap();
    Event { id: format!("e-{number}"), ..(*prepared.event).clone() }
}

fn send(event: &Event) -> Statement {
    statement("INSERT INTO sent VALUES ($1)", [Value::Text(event.id.clone())])
}

async fn number(database: &Database, sql: &str) -> i64 {
    let rows = database.query(statement(sql, [])).await.unwrap().rows;
    let Value::Integer(number) = rows[0][0] else { panic!("no number") };
    number
}

async fn sent(database: &Database) -> i64 {
    number(database, "SELECT COUNT(*) FROM sent").await
}

/// A handler that writes and then answers so.
async fn handle(inbox: &Inbox, event: &Event, answer: Result<Verdict, Fault>) -> Result<Verdict, Fault> {
    let write = async |unit: Unit| {
        Access::Unit(unit).execute(send(event)).await.map_err(|_| Fault::new(FaultKind::Trapped, "it can't write"))?;
        answer
    };
    inbox.once(event, write).await
}

on_each_backend! {
    an_event_that_comes_many_times_has_its_effect_once,
    whatever_is_no_acknowledgement_writes_nothing,
    a_handler_that_writes_nothing_is_asked_once_too,
    of_deliveries_at_the_same_time_one_has_its_effect,
    a_commit_that_fails_is_a_fault_and_the_event_may_come_again,
    a_delivery_that_is_given_up_writes_nothing_and_holds_nobody_up,
}

async fn an_event_that_comes_many_times_has_its_effect_once(scratch: Scratch) {
    let (database, inbox) = open(&scratch).await;
    let (first, second) = (event(1), event(2));
    for _ in 0..20 {
        assert_eq!(handle(&inbox, &first, Ok(Verdict::Ack)).await, Ok(Verdict::Ack));
        assert_eq!(handle(&inbox, &second, Ok(Verdict::Ack)).await, Ok(Verdict::Ack));
    }
    // The same id of another source is another event.
    let other = Event { source: "/services/other".into(), ..first };
    assert_eq!(handle(&inbox, &other, Ok(Verdict::Ack)).await, Ok(Verdict::Ack));
    assert_eq!((sent(&database).await, number(&database, "SELECT COUNT(*) FROM _wharf_inbox").await), (3, 3));
}

async fn whatever_is_no_acknowledgement_writes_nothing(scratch: Scratch) {
    let (database, inbox) = open(&scratch).await;
    let event = event(1);
    for answer in [
        Ok(Verdict::Retry(None)),
        Ok(Verdict::Reject("never".into())),
        Err(Fault::new(FaultKind::Trapped, "unreachable executed")),
        Err(Fault::new(FaultKind::DeadlineExceeded, "too late")),
    ] {
        assert_eq!(handle(&inbox, &event, answer.clone()).await, answer);
        assert_eq!((sent(&database).await, number(&database, "SELECT COUNT(*) FROM _wharf_inbox").await), (0, 0));
    }
    assert_eq!(handle(&inbox, &event, Ok(Verdict::Ack)).await, Ok(Verdict::Ack));
    assert_eq!(sent(&database).await, 1);
}

async fn a_handler_that_writes_nothing_is_asked_once_too(scratch: Scratch) {
    let (_database, inbox) = open(&scratch).await;
    let (event, asked) = (event(1), AtomicU32::new(0));
    for _ in 0..3 {
        let answer = async |_| {
            asked.fetch_add(1, SeqCst);
            Ok(Verdict::Ack)
        };
        assert_eq!(inbox.once(&event, answer).await, Ok(Verdict::Ack));
    }
    assert_eq!(asked.load(SeqCst), 1);
}

async fn of_deliveries_at_the_same_time_one_has_its_effect(scratch: Scratch) {
    let (database, inbox) = open(&scratch).await;
    for number in 0..20 {
        let event = event(number);
        // All have looked for the mark before any of them writes.
        let together = Arc::new(tokio::sync::Barrier::new(4));
        let deliveries = (0..4).map(|_| {
            let (inbox, event, together) = (inbox.clone(), event.clone(), together.clone());
            tokio::spawn(async move {
                let write = async |unit: Unit| {
                    together.wait().await;
                    match Access::Unit(unit).execute(send(&event)).await {
                        Ok(_) => Ok(Verdict::Ack),
                        Err(_) => Ok(Verdict::Retry(None)),
                    }
                };
                inbox.once(&event, write).await
            })
        });
        for delivery in futures::future::join_all(deliveries).await {
            assert_eq!(delivery.unwrap(), Ok(Verdict::Ack));
        }
    }
    assert_eq!(sent(&database).await, 20);
}

async fn a_commit_that_fails_is_a_fault_and_the_event_may_come_again(scratch: Scratch) {
    let (database, inbox) = open(&scratch).await;
    for sql in [
        "CREATE TABLE parent (id INTEGER PRIMARY KEY)",
        "CREATE TABLE child (id INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)",
    ] {
        database.execute(statement(sql, [])).await.unwrap();
    }
    let event = event(1);
    let write = async |unit: Unit| {
        let orphan = statement("INSERT INTO child VALUES (7)", []);
        Access::Unit(unit).batch(vec![send(&event), orphan]).await.unwrap();
        Ok(Verdict::Ack)
    };
    let fault = inbox.once(&event, write).await.unwrap_err();
    assert!(fault.message().starts_with("the database of service `mail` did not commit: "), "{fault}");
    assert_eq!(sent(&database).await, 0);
    assert_eq!(handle(&inbox, &event, Ok(Verdict::Ack)).await, Ok(Verdict::Ack));
    assert_eq!(sent(&database).await, 1);
}

async fn a_delivery_that_is_given_up_writes_nothing_and_holds_nobody_up(scratch: Scratch) {
    let (database, inbox) = open(&scratch).await;
    let event = event(1);
    let (written, is_written) = tokio::sync::oneshot::channel();
    let delivery = {
        let (inbox, event) = (inbox.clone(), event.clone());
        tokio::spawn(async move {
            let write = async |unit: Unit| {
                Access::Unit(unit).execute(send(&event)).await.unwrap();
                written.send(()).unwrap();
                std::future::pending().await
            };
            inbox.once(&event, write).await
        })
    };
    is_written.await.unwrap();
    delivery.abort();
    assert!(delivery.await.unwrap_err().is_cancelled());
    assert_eq!(handle(&inbox, &event, Ok(Verdict::Ack)).await, Ok(Verdict::Ack));
    assert_eq!(sent(&database).await, 1);
}

#[tokio::test]
async fn marks_that_are_old_enough_go() {
    let scratch = Scratch::sqlite();
    let (database, inbox) = open(&scratch).await;
    handle(&inbox, &event(1), Ok(Verdict::Ack)).await.unwrap();
    let old = "INSERT INTO _wharf_inbox (source, id, topic, at) \
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500) SELECT 's', i, 't', 0 FROM n";
    database.host_execute(statement(old, [])).await.unwrap();
    tokio::time::pause();
    tokio::time::advance(FORGET_EVERY + Duration::from_millis(1)).await;
    tokio::time::resume();
    while number(&database, "SELECT COUNT(*) FROM _wharf_inbox").await > 1 {
        tokio::task::yield_now().await;
    }
    handle(&inbox, &event(1), Ok(Verdict::Ack)).await.unwrap();
    assert_eq!(sent(&database).await, 1);
}
