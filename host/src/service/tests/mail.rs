//! Handlers with a database: their effect happens once, and what they publish leaves with it.

use super::house::{House, context, plan};
use crate::{
    events::{Bus, Event, NewEvent, Verdict},
    inbox::Inbox,
    outbox::{self, Outbox},
    policy::{Fault, FaultKind},
    service::CallContext,
    store::{
        Database, Settings, Statement, Value,
        tests::{Scratch, on_each_backend},
    },
};
use futures::future::join_all;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::time::Instant;

/// The service `mail` by `mail.wat`, with its database and its inbox.
struct Mail {
    house: House,
    database: Database,
    inbox: Inbox,
    outbox: Outbox,
    /// How many events have left.
    told: Arc<AtomicU32>,
    bus: Bus,
    _scratch: Scratch,
}

// === impl Mail ===

impl Mail {
    async fn new(scratch: Scratch) -> Self {
        let database = scratch.of("mail", Settings::default()).await;
        let table = Statement { sql: "CREATE TABLE sent (told INTEGER NOT NULL)".into(), params: Vec::new() };
        database.execute(table).await.unwrap();
        let told = Arc::<AtomicU32>::default();
        let count = told.clone();
        let bus = Bus::taking("mail", &["mail.sent"], move |_| {
            count.fetch_add(1, SeqCst);
            Ok(())
        });
        let outbox = Outbox::open("mail", database.clone(), bus.clone(), outbox::Settings::default()).await.unwrap();
        let inbox = Inbox::open("mail", database.clone(), Duration::from_secs(3600)).await.unwrap();
        let plan = plan("mail", include_str!("mail.wat").into(), &[]);
        let house = House::with_state(plan, bus.clone(), database.clone(), outbox.clone()).await;
        Self { house, database, inbox, outbox, told, bus, _scratch: scratch }
    }

    /// An event that tells the handler what to do.
    fn event(&self, what: &str) -> Arc<Event> {
        let new = NewEvent { subject: Some(what.into()), ..NewEvent::json("mail.sent", "{}") };
        self.bus.prepare("mail", new, None).unwrap().event
    }

    /// Delivers an event to the subscription that recognises what it had.
    async fn deliver(&self, event: &Arc<Event>) -> Result<Verdict, Fault> {
        let edge = &self.house.edges[&("test", "mail")];
        let handle = async |unit| edge.event(&CallContext { unit: Some(unit), ..context() }, event, 1).await;
        self.inbox.once(event, handle).await
    }

    async fn sent(&self) -> i64 {
        let count = Statement { sql: "SELECT COUNT(*) FROM sent".into(), params: Vec::new() };
        let rows = self.database.query(count).await.unwrap().rows;
        let Value::Integer(count) = rows[0][0] else { panic!("no number") };
        count
    }

    /// How many events have left, once all have that will.
    async fn told(&self) -> u32 {
        self.outbox.drain(Instant::now() + Duration::from_secs(20)).await;
        self.told.load(SeqCst)
    }
}

on_each_backend! {
    a_handler_s_effect_happens_once_however_often_it_is_delivered,
    what_was_written_before_another_verdict_or_a_trap_is_undone,
    a_transaction_of_the_handler_is_part_of_its_effect_if_it_was_committed,
    what_a_handler_publishes_leaves_with_its_effect_and_once,
    a_handler_that_writes_nothing_is_marked_too,
}

async fn a_handler_s_effect_happens_once_however_often_it_is_delivered(scratch: Scratch) {
    let mail = Mail::new(scratch).await;
    let event = mail.event("ack");
    for _ in 0..10 {
        assert_eq!(mail.deliver(&event).await, Ok(Verdict::Ack));
    }
    assert_eq!(mail.sent().await, 1);
    // Without an inbox it happens each time.
    let edge = &mail.house.edges[&("test", "mail")];
    assert_eq!(edge.event(&context(), &event, 1).await, Ok(Verdict::Ack));
    assert_eq!(mail.sent().await, 2);
}

async fn what_was_written_before_another_verdict_or_a_trap_is_undone(scratch: Scratch) {
    let mail = Mail::new(scratch).await;
    let event = mail.event("trap");
    for _ in 0..3 {
        assert_eq!(mail.deliver(&event).await.unwrap_err().kind(), FaultKind::Trapped);
    }
    assert_eq!(mail.deliver(&mail.event("retry")).await, Ok(Verdict::Retry(None)));
    assert_eq!(mail.deliver(&mail.event("say-no")).await, Ok(Verdict::Reject("no".into())));
    assert_eq!(mail.deliver(&mail.event("mute")).await.unwrap_err().kind(), FaultKind::Trapped);
    assert_eq!((mail.sent().await, mail.told().await), (0, 0));
}

async fn a_transaction_of_the_handler_is_part_of_its_effect_if_it_was_committed(scratch: Scratch) {
    let mail = Mail::new(scratch).await;
    let nest = mail.event("nest");
    assert_eq!(mail.deliver(&nest).await, Ok(Verdict::Ack));
    assert_eq!(mail.deliver(&nest).await, Ok(Verdict::Ack));
    assert_eq!((mail.sent().await, mail.told().await), (2, 1));
    assert_eq!(mail.deliver(&mail.event("open")).await, Ok(Verdict::Ack));
    assert_eq!((mail.sent().await, mail.told().await), (3, 1));
    // The instance goes on, and holds up nobody.
    assert_eq!(mail.deliver(&mail.event("ack")).await, Ok(Verdict::Ack));
    assert_eq!(mail.sent().await, 4);
}

async fn what_a_handler_publishes_leaves_with_its_effect_and_once(scratch: Scratch) {
    let mail = Mail::new(scratch).await;
    let event = mail.event("tell");
    for _ in 0..3 {
        assert_eq!(mail.deliver(&event).await, Ok(Verdict::Ack));
    }
    assert_eq!((mail.sent().await, mail.told().await), (1, 1));
    // And without an inbox each time, as it is a batch of its own then.
    let edge = &mail.house.edges[&("test", "mail")];
    assert_eq!(edge.event(&context(), &event, 1).await, Ok(Verdict::Ack));
    assert_eq!((mail.sent().await, mail.told().await), (2, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_deliveries_of_one_event_at_the_same_time_one_has_its_effect() {
    let mail = Mail::new(Scratch::sqlite()).await;
    for _ in 0..20 {
        let before = mail.sent().await;
        let event = mail.event("ack");
        for verdict in join_all((0..6).map(|_| mail.deliver(&event))).await {
            assert_eq!(verdict, Ok(Verdict::Ack));
        }
        assert_eq!(mail.sent().await, before + 1);
    }
    mail.house.quiet().await;
}

async fn a_handler_that_writes_nothing_is_marked_too(scratch: Scratch) {
    let mail = Mail::new(scratch).await;
    assert_eq!(mail.deliver(&mail.event("none")).await, Ok(Verdict::Ack));
    let marks = Statement { sql: "SELECT topic FROM _wharf_inbox".into(), params: Vec::new() };
    assert_eq!(mail.database.query(marks).await.unwrap().rows, [[Value::Text("mail.sent".into())]]);
}

/// PostgreSQL lets them overlap: one that loses asks for another try, or is a fault, and is delivered again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_deliveries_that_overlap_one_has_its_effect() {
    let mail = Mail::new(Scratch::postgres()).await;
    for _ in 0..20 {
        let before = mail.sent().await;
        let event = mail.event("ack");
        let until_settled = async || loop {
            match mail.deliver(&event).await {
                Ok(Verdict::Ack) => break,
                Ok(verdict) => assert_eq!(verdict, Verdict::Retry(None)),
                Err(fault) => assert_eq!(fault.kind(), FaultKind::Overloaded, "{fault}"),
            }
        };
        join_all((0..6).map(|_| until_settled())).await;
        assert_eq!(mail.sent().await, before + 1);
    }
    mail.house.quiet().await;
}
