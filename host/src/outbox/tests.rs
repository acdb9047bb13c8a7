//! What the outbox promises, each promise with a test that tries to break it.

mod crash;
mod window;

use super::{rows::TURN, *};
use crate::{
    events::{Event, Prepared},
    store::{
        self, Lease, Turn, Unit, Value,
        tests::{Scratch, on_each_backend},
    },
};
use futures::future::join_all;
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering::SeqCst},
};

/// A bus that notes what it takes, and takes nothing while it is shut.
#[derive(Clone, Default)]
struct Recorder {
    taken: Arc<Mutex<Vec<Prepared>>>,
    shut: Arc<AtomicBool>,
}

/// The database of the service `order`, with a table `orders (id TEXT PRIMARY KEY)`.
async fn orders(scratch: &Scratch) -> Database {
    let database = scratch.of("order", store::Settings::default()).await;
    database.execute(sql("CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY)")).await.unwrap();
    database
}

// === impl Recorder ===

impl Recorder {
    fn shut() -> Self {
        let recorder = Self::default();
        recorder.shut.store(true, SeqCst);
        recorder
    }

    fn open(&self) {
        self.shut.store(false, SeqCst);
    }

    fn bus(&self) -> Bus {
        let Self { taken, shut } = self.clone();
        Bus::taking("order", &["order.created"], move |prepared| {
            if shut.load(SeqCst) {
                return Err(Fault::new(FaultKind::Unreachable, "the bus is shut").into());
            }
            taken.lock().unwrap().push(prepared.clone());
            Ok(())
        })
    }

    /// The orders that were told of, in order, for each subject.
    fn by_subject(&self) -> BTreeMap<String, Vec<String>> {
        let mut all = BTreeMap::<_, Vec<_>>::new();
        for Prepared { event, .. } in &*self.taken.lock().unwrap() {
            all.entry(event.subject.clone().unwrap_or_default()).or_default().push(order(event));
        }
        all
    }

    /// What was taken, by the subjects, in order.
    fn subjects(&self) -> Vec<String> {
        self.taken.lock().unwrap().iter().filter_map(|it| it.event.subject.clone()).collect()
    }
}

fn sql(sql: &str) -> Statement {
    Statement { sql: sql.into(), params: Vec::new() }
}

fn insert(id: &str) -> Statement {
    Statement { sql: "INSERT INTO orders VALUES ($1)".into(), params: vec![Value::Text(id.into())] }
}

fn created(id: &str) -> NewEvent {
    NewEvent { subject: Some(id.into()), ..NewEvent::json("order.created", format!("{{\"orderId\":\"{id}\"}}")) }
}

/// An event about something else than the order that it tells of.
fn about(subject: &str, id: &str) -> NewEvent {
    NewEvent { subject: Some(subject.into()), ..created(id) }
}

/// The order that an event tells of.
fn order(event: &Event) -> String {
    serde_json::from_slice::<serde_json::Value>(&event.data).unwrap()["orderId"].as_str().unwrap().to_owned()
}

async fn place_about(outbox: &Outbox, database: &Database, subject: &str, id: &str) {
    outbox.batch(database, vec![insert(id)], vec![about(subject, id)], None).await.unwrap();
}

async fn place(outbox: &Outbox, database: &Database, id: &str) -> Result<String, Refused> {
    let (_, ids) = outbox.batch(database, vec![insert(id)], vec![created(id)], None).await?;
    Ok(ids.into_iter().next().unwrap())
}

async fn open(database: &Database, recorder: &Recorder, settings: Settings) -> Outbox {
    Outbox::open("order", database.clone(), recorder.bus(), settings).await.unwrap()
}

async fn drain(outbox: &Outbox) {
    outbox.drain(Instant::now() + Duration::from_secs(20)).await;
    assert_eq!(outbox.snapshot().waiting, 0, "{:?}", outbox.snapshot());
}

async fn rows(database: &Database) -> i64 {
    let rows = database.query(sql("SELECT COUNT(*) FROM _wharf_outbox")).await.unwrap().rows;
    let Value::Integer(count) = rows[0][0] else { panic!("no number") };
    count
}

on_each_backend! {
    an_event_leaves_with_what_was_written_and_its_row_goes,
    nothing_leaves_of_what_was_not_committed,
    a_service_publishes_only_what_it_may_and_what_is_an_event,
    what_the_bus_does_not_take_waits_and_goes_in_order,
    a_full_outbox_refuses_and_says_why,
    what_waits_at_the_end_goes_first_at_the_next_start,
    what_a_bus_can_not_carry_stays_and_holds_nobody_up,
    of_a_unit_of_work_what_is_undone_does_not_leave,
    every_event_of_many_writers_leaves_and_each_one_s_in_order,
}

async fn an_event_leaves_with_what_was_written_and_its_row_goes(scratch: Scratch) {
    let (database, recorder) = (orders(&scratch).await, Recorder::default());
    let outbox = open(&database, &recorder, Settings::default()).await;
    let trace = TraceContext::root();
    let (changed, ids) = outbox
        .batch(&database, vec![insert("a"), insert("b")], vec![created("a"), created("b")], Some(trace))
        .await
        .unwrap();
    assert_eq!(changed, [1, 1]);
    drain(&outbox).await;
    let taken = recorder.taken.lock().unwrap().clone();
    assert_eq!(taken.iter().map(|it| &it.event.id).collect::<Vec<_>>(), ids.iter().collect::<Vec<_>>());
    assert_eq!((&*taken[0].event.source, taken[0].event.traceparent), ("/services/order", Some(trace)));
    outbox.close().await;
    assert_eq!(rows(&database).await, 0);
}

async fn nothing_leaves_of_what_was_not_committed(scratch: Scratch) {
    let (database, recorder) = (orders(&scratch).await, Recorder::default());
    let outbox = open(&database, &recorder, Settings::default()).await;
    place(&outbox, &database, "a").await.unwrap();
    let again = place(&outbox, &database, "a").await;
    assert!(matches!(again, Err(Refused::Store(Error::Constraint(_)))), "{again:?}");
    let held = Held::Own(database.begin().await.unwrap());
    outbox.publish(&held, created("rolled-back"), None).await.unwrap();
    held.rollback().await.unwrap();
    let held = Held::Own(database.begin().await.unwrap());
    outbox.publish(&held, created("dropped"), None).await.unwrap();
    drop(held);
    let held = Held::Own(database.begin().await.unwrap());
    outbox.publish(&held, created("kept"), None).await.unwrap();
    assert_eq!(outbox.snapshot().waiting, 1 + usize::from(recorder.subjects().is_empty()));
    held.commit().await.unwrap();
    drain(&outbox).await;
    assert_eq!(recorder.subjects(), ["a", "kept"]);
    outbox.close().await;
    assert_eq!(rows(&database).await, 0);
}

async fn a_service_publishes_only_what_it_may_and_what_is_an_event(scratch: Scratch) {
    let (database, recorder) = (orders(&scratch).await, Recorder::default());
    let outbox = open(&database, &recorder, Settings::default()).await;
    let other = NewEvent { topic: "user.created".into(), ..created("a") };
    let refused = outbox.batch(&database, vec![insert("a")], vec![other], None).await;
    assert!(matches!(refused, Err(Refused::Publish(PublishError::Denied { .. }))), "{refused:?}");
    let large = NewEvent { data: vec![b' '; crate::events::MAX_DATA + 1].into(), ..created("a") };
    let refused = outbox.batch(&database, vec![insert("a")], vec![created("b"), large], None).await;
    assert!(matches!(refused, Err(Refused::Publish(PublishError::Invalid(_)))), "{refused:?}");
    // Nothing was written, and no place is taken.
    place(&outbox, &database, "a").await.unwrap();
    drain(&outbox).await;
    assert_eq!(recorder.subjects(), ["a"]);
    for sql in ["DELETE FROM _wharf_outbox", "INSERT INTO _wharf_outbox SELECT * FROM _wharf_outbox"] {
        assert!(matches!(database.execute(self::sql(sql)).await, Err(Error::Invalid(_))), "{sql}");
    }
    outbox.close().await;
}

async fn what_the_bus_does_not_take_waits_and_goes_in_order(scratch: Scratch) {
    let (database, recorder) = (orders(&scratch).await, Recorder::shut());
    // More than the relay holds, and more than a page.
    let settings = Settings { held_events: 3, group: 4, ..Settings::default() };
    let outbox = open(&database, &recorder, settings).await;
    for n in 0..50 {
        place_about(&outbox, &database, &format!("s-{}", n % 3), &format!("o-{n:02}")).await;
    }
    let snapshot = outbox.snapshot();
    assert_eq!((snapshot.waiting, snapshot.service.as_str()), (50, "order"));
    assert!(snapshot.oldest_ms.is_some(), "{snapshot:?}");
    recorder.open();
    drain(&outbox).await;
    for (subject, ids) in recorder.by_subject() {
        assert!(ids.is_sorted() && ids.len() >= 16, "{subject}: {ids:?}");
    }
    assert_eq!(recorder.subjects().len(), 50);
    // It is told again of what comes, and needs no look.
    place(&outbox, &database, "last").await.unwrap();
    drain(&outbox).await;
    assert_eq!(recorder.subjects().last().map(String::as_str), Some("last"));
    assert_eq!(outbox.snapshot().error, None);
    outbox.close().await;
    assert_eq!(rows(&database).await, 0);
}

async fn a_full_outbox_refuses_and_says_why(scratch: Scratch) {
    let (database, recorder) = (orders(&scratch).await, Recorder::shut());
    let outbox = open(&database, &recorder, Settings { max_events: 2, ..Settings::default() }).await;
    place(&outbox, &database, "a").await.unwrap();
    place(&outbox, &database, "b").await.unwrap();
    let mut waiting = outbox.0.shared.waiting();
    let Err(Refused::Publish(PublishError::Fault(fault))) = place(&outbox, &database, "c").await else { panic!() };
    assert_eq!(fault.kind(), FaultKind::Overloaded);
    assert!(fault.message().starts_with("the outbox of service `order` is full: 2 events wait for the bus"), "{fault}");
    let Ok(orders) = database.query(sql("SELECT COUNT(*) FROM orders")).await else { panic!() };
    assert_eq!(orders.rows, [[Value::Integer(2)]]);
    recorder.open();
    waiting.wait_for(|waiting| *waiting < 2).await.unwrap();
    place(&outbox, &database, "c").await.unwrap();
    drain(&outbox).await;
    assert_eq!(recorder.subjects().into_iter().collect::<BTreeSet<_>>(), ["a", "b", "c"].map(str::to_owned).into());
    outbox.close().await;
}

async fn what_waits_at_the_end_goes_first_at_the_next_start(scratch: Scratch) {
    let (database, recorder) = (orders(&scratch).await, Recorder::shut());
    let outbox = open(&database, &recorder, Settings::default()).await;
    let due = jiff::Timestamp::now() + Duration::from_secs(86_400);
    let whole = NewEvent {
        datacontenttype: Some("text/plain".into()),
        data: vec![0, 255, b'x'].into(),
        due: Some(due),
        ..created("whole")
    };
    let trace = TraceContext::root();
    outbox.batch(&database, Vec::new(), vec![whole.clone()], Some(trace)).await.unwrap();
    place(&outbox, &database, "b").await.unwrap();
    outbox.drain(Instant::now()).await;
    outbox.close().await;
    database.close().await;

    let database = orders(&scratch).await;
    let before = rows(&database).await;
    assert_eq!(before, 2);
    recorder.open();
    let outbox = open(&database, &recorder, Settings::default()).await;
    place(&outbox, &database, "c").await.unwrap();
    drain(&outbox).await;
    assert_eq!(recorder.subjects(), ["whole", "b", "c"]);
    let first = recorder.taken.lock().unwrap()[0].clone();
    let (event, data) = (&first.event, whole.data);
    assert_eq!((first.due, &*event.datacontenttype, &event.data), (Some(due), "text/plain", &data));
    assert_eq!((event.traceparent, &*event.topic), (Some(trace), "order.created"));
    outbox.close().await;
    assert_eq!(rows(&database).await, 0);
}

#[tokio::test]
async fn rows_that_nobody_told_of_are_found() {
    let scratch = Scratch::sqlite();
    let (database, recorder) = (orders(&scratch).await, Recorder::default());
    let settings = Settings { look_every: Duration::from_millis(20), ..Settings::default() };
    let outbox = open(&database, &recorder, settings).await;
    // As another host does it.
    let prepared = recorder.bus().prepare("order", created("theirs"), None).unwrap();
    let key = Key { at_least: 1, id: prepared.event.id.clone() };
    let mut taken = outbox.0.shared.bus.clone().snapshot().published;
    database.host_execute(super::rows::insert(&database, &key, &prepared)).await.unwrap();
    while taken == 0 {
        tokio::task::yield_now().await;
        taken = outbox.0.shared.bus.snapshot().published;
    }
    assert_eq!(recorder.subjects(), ["theirs"]);
    outbox.close().await;
    assert_eq!(rows(&database).await, 0);
}

async fn what_a_bus_can_not_carry_stays_and_holds_nobody_up(scratch: Scratch) {
    let database = orders(&scratch).await;
    let outbox = open(&database, &Recorder::shut(), Settings::default()).await;
    place(&outbox, &database, "poison").await.unwrap();
    place(&outbox, &database, "b").await.unwrap();
    outbox.close().await;
    // Another bus now, which takes JSON only, say.
    let (seen, recorder) = (Recorder::default(), Recorder::default());
    let noted = seen.clone();
    let bus = Bus::taking("order", &["order.created"], move |prepared| {
        if prepared.event.subject.as_deref() == Some("poison") {
            return Err(crate::events::InvalidEvent::NotJson("poison".into()).into());
        }
        noted.taken.lock().unwrap().push(prepared.clone());
        Ok(())
    });
    let outbox = Outbox::open("order", database.clone(), bus, Settings::default()).await.unwrap();
    let mut waiting = outbox.0.shared.waiting();
    waiting.wait_for(|waiting| *waiting == 1).await.unwrap();
    assert_eq!(seen.subjects(), ["b"]);
    outbox.close().await;
    assert_eq!(rows(&database).await, 1);
    let outbox = open(&database, &recorder, Settings::default()).await;
    drain(&outbox).await;
    assert_eq!(recorder.subjects(), ["poison"]);
    outbox.close().await;
}

async fn of_a_unit_of_work_what_is_undone_does_not_leave(scratch: Scratch) {
    let (database, recorder) = (orders(&scratch).await, Recorder::default());
    let outbox = open(&database, &recorder, Settings::default()).await;
    database.host_execute(sql("CREATE TABLE _wharf_claims (id TEXT PRIMARY KEY)")).await.unwrap();
    for commit in [false, true] {
        let unit = Unit::new(database.clone(), sql("INSERT INTO _wharf_claims VALUES ('claim')"));
        let access = Access::Unit(unit.clone());
        let batch = outbox.batch_by(&access, vec![insert("a")], vec![created("a")], None).await;
        batch.unwrap();
        let held = access.begin().await.unwrap();
        outbox.publish(&held, created("undone"), None).await.unwrap();
        held.rollback().await.unwrap();
        let held = access.begin().await.unwrap();
        outbox.publish(&held, created("dropped"), None).await.unwrap();
        drop(held);
        let held = access.begin().await.unwrap();
        outbox.publish(&held, created("b"), None).await.unwrap();
        held.commit().await.unwrap();
        let held = access.begin().await.unwrap();
        outbox.publish(&held, created("left open"), None).await.unwrap();
        assert_eq!(recorder.subjects(), [""; 0]);
        if commit {
            unit.commit().await.unwrap();
        } else {
            unit.rollback().await;
        }
        drop((held, access, unit));
        drain(&outbox).await;
        let expected: &[&str] = if commit { &["a", "b"] } else { &[] };
        assert_eq!(recorder.subjects(), expected);
    }
    outbox.close().await;
    assert_eq!(rows(&database).await, 0);
}

async fn every_event_of_many_writers_leaves_and_each_one_s_in_order(scratch: Scratch) {
    let (database, recorder) = (orders(&scratch).await, Recorder::default());
    // So small that the relay is told, falls behind and is told again all the time.
    let settings = Settings { held_events: 2, group: 7, ..Settings::default() };
    let outbox = open(&database, &recorder, settings).await;
    let writers = (0..8).map(|writer| {
        let (outbox, database) = (outbox.clone(), database.clone());
        tokio::spawn(async move {
            for n in 0..100 {
                place_about(&outbox, &database, &writer.to_string(), &format!("{writer}-{n:03}")).await;
            }
        })
    });
    join_all(writers).await.into_iter().for_each(|writer| writer.unwrap());
    drain(&outbox).await;
    let by_subject = recorder.by_subject();
    assert_eq!(by_subject.len(), 8);
    for mut own in by_subject.into_values() {
        // What was read and told of at the same moment may come twice, one right after the other.
        own.dedup();
        assert!(own.is_sorted() && own.len() == 100, "{own:?}");
    }
    outbox.close().await;
    assert_eq!(rows(&database).await, 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever is committed, rolled back, refused by the bus and stopped in between: what left is what was committed, of
    /// each subject in its order.
    #[test]
    fn what_left_is_what_was_committed(
        steps in proptest::collection::vec((0..6_u8, any::<bool>()), 1..40),
        held_events in 0..4_usize,
        at_once in 1..4_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let scratch = Scratch::sqlite();
            let (database, recorder) = (orders(&scratch).await, Recorder::default());
            let settings = Settings { held_events, at_once, group: 3, ..Settings::default() };
            let mut outbox = open(&database, &recorder, settings.clone()).await;
            let mut committed = BTreeMap::<_, Vec<_>>::new();
            for (at, (step, commit)) in steps.into_iter().enumerate() {
                let (id, subject) = (format!("o-{at}"), format!("s-{}", at % 3));
                match step {
                    0 => recorder.shut.store(commit, SeqCst),
                    1 if commit => {
                        outbox.close().await;
                        outbox = open(&database, &recorder, settings.clone()).await;
                    }
                    2 => {
                        let held = Held::Own(database.begin().await.unwrap());
                        held.execute(insert(&id)).await.unwrap();
                        outbox.publish(&held, about(&subject, &id), None).await.unwrap();
                        if commit {
                            held.commit().await.unwrap();
                            committed.entry(subject).or_default().push(id);
                        }
                    }
                    _ => {
                        place_about(&outbox, &database, &subject, &id).await;
                        committed.entry(subject).or_default().push(id);
                    }
                }
                tokio::task::yield_now().await;
            }
            recorder.open();
            drain(&outbox).await;
            outbox.close().await;
            assert_eq!(rows(&database).await, 0);
            let mut left = recorder.by_subject();
            let mut seen = BTreeSet::new();
            left.values_mut().for_each(|ids| ids.retain(|id| seen.insert(id.clone())));
            assert_eq!(left, committed);
            database.close().await;
        });
    }
}

#[tokio::test]
async fn of_hosts_with_one_database_one_relays_what_all_write_in_order() {
    let scratch = Scratch::postgres();
    let recorder = Recorder::default();
    let first = (orders(&scratch).await, orders(&scratch).await);
    let settings = Settings { look_every_shared: Duration::from_millis(20), ..Settings::default() };
    let hosts = [
        (open(&first.0, &recorder, settings.clone()).await, first.0),
        (open(&first.1, &recorder, settings.clone()).await, first.1),
    ];
    // One row that all of them change tells what came before what.
    hosts[0].1.execute(sql("CREATE TABLE last (number INTEGER)")).await.unwrap();
    hosts[0].1.execute(sql("INSERT INTO last VALUES (0)")).await.unwrap();
    let writing = hosts.iter().map(|(outbox, database)| async move {
        let mut written = 0;
        while written < 50 {
            let held = Held::Own(database.begin().await.unwrap());
            let next = async {
                let rows = held.query(sql("UPDATE last SET number = number + 1 RETURNING number")).await?.rows;
                let Value::Integer(number) = rows[0][0] else { panic!("no number") };
                match outbox.publish(&held, about("last", &format!("{number:03}")), None).await {
                    Ok(_) => held.commit().await,
                    Err(Refused::Store(error)) => Err(error),
                    Err(refused) => panic!("{refused:?}"),
                }
            };
            match next.await {
                Ok(()) => written += 1,
                // It lost against the other host.
                Err(Error::Busy(_) | Error::Closed(_)) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    });
    join_all(writing).await;
    for (outbox, _) in &hosts {
        drain(outbox).await;
    }
    let all: Vec<String> = (1..=100).map(|number| format!("{number:03}")).collect();
    assert_eq!(recorder.by_subject(), [("last".to_owned(), all)].into());
    // Whichever of them had its turn: the other goes on when that one has ended.
    let [(one, database), (other, _)] = &hosts;
    one.close().await;
    place(other, database, "a").await.unwrap();
    drain(other).await;
    other.close().await;
    let last = open(database, &recorder, settings).await;
    place(&last, database, "b").await.unwrap();
    drain(&last).await;
    assert_eq!(recorder.subjects()[100..], ["a", "b"]);
    last.close().await;
    assert_eq!(rows(database).await, 0);
}

#[tokio::test]
async fn the_turn_of_a_host_that_fell_silent_is_taken_by_another() {
    let scratch = Scratch::postgres();
    let (database, recorder) = (orders(&scratch).await, Recorder::default());
    let outbox = open(&database, &Recorder::shut(), Settings::default()).await;
    place(&outbox, &database, "a").await.unwrap();
    outbox.close().await;
    // A host that was killed.
    let turn = Turn::read(&database, TURN).await.unwrap();
    assert!(turn.take(&database, TURN, "killed").await.unwrap());
    let outbox = open(&database, &recorder, Settings::default()).await;
    drain(&outbox).await;
    assert_eq!(recorder.subjects(), ["a"]);
    outbox.close().await;
    assert_eq!(Turn::read(&database, TURN).await.unwrap().holder, "");
}

#[tokio::test]
async fn a_host_that_was_killed_and_starts_again_takes_its_own_turn_at_once() {
    let scratch = Scratch::postgres();
    let database = orders(&scratch).await;
    open(&database, &Recorder::default(), Settings::default()).await.close().await;
    let held_by = async || Turn::read(&database, TURN).await.unwrap().holder;
    for (before, after, is_own) in [("a", "a", true), ("a", "b", false), ("a", "ab", false)] {
        let mut killed = Lease::new(database.clone(), TURN, Some(before));
        killed.beat().await.unwrap();
        assert!(killed.is_held());
        let mut lease = Lease::new(database.clone(), TURN, Some(after));
        lease.beat().await.unwrap();
        assert_eq!(lease.is_held(), is_own, "{before} {after}");
        // One that was taken for killed and was not gives way, and does not take it back.
        killed.beat().await.unwrap();
        assert_eq!(killed.is_held(), !is_own, "{before} {after}");
        assert!(held_by().await.starts_with(if is_own { after } else { before }));
        lease.release().await.unwrap();
        killed.release().await.unwrap();
        assert_eq!(held_by().await, "");
    }
}
