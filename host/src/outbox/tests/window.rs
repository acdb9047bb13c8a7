//! Several events on their way to the bus at a time.

use super::*;
use tokio::sync::watch;

/// A bus that does not answer for some subjects, refuses others, and notes what it takes: subject and order.
#[derive(Clone, Default)]
struct Gate {
    hung: watch::Sender<BTreeSet<String>>,
    refused: watch::Sender<BTreeSet<String>>,
    taken: watch::Sender<Vec<(String, String)>>,
    /// How many it has not answered for.
    out: watch::Sender<usize>,
}

// === impl Gate ===

impl Gate {
    fn new<const H: usize, const R: usize>(hung: [&str; H], refused: [&str; R]) -> Self {
        let gate = Self::default();
        gate.hung.send_replace(hung.map(str::to_owned).into());
        gate.refused.send_replace(refused.map(str::to_owned).into());
        gate
    }

    fn open(&self) {
        self.hung.send_replace(BTreeSet::new());
        self.refused.send_replace(BTreeSet::new());
    }

    fn bus(&self) -> Bus {
        let gate = self.clone();
        Bus::taking_in_time("order", &["order.created"], move |prepared| {
            let gate = gate.clone();
            Box::pin(async move {
                let subject = prepared.event.subject.clone().unwrap();
                gate.out.send_modify(|out| *out += 1);
                gate.hung.subscribe().wait_for(|hung| !hung.contains(&subject)).await.unwrap();
                gate.out.send_modify(|out| *out -= 1);
                if gate.refused.borrow().contains(&subject) {
                    return Err(Fault::new(FaultKind::Unreachable, "not this one").into());
                }
                gate.taken.send_modify(|taken| taken.push((subject, order(&prepared.event))));
                Ok(())
            })
        })
    }

    /// Waits until so many are taken.
    async fn took(&self, count: usize) {
        self.taken.subscribe().wait_for(|taken| taken.len() == count).await.unwrap();
    }

    /// Waits until it has not answered for so many.
    async fn holds(&self, count: usize) {
        self.out.subscribe().wait_for(|out| *out == count).await.unwrap();
    }

    fn of(&self, subject: &str) -> Vec<String> {
        self.taken.borrow().iter().filter(|(of, _)| of == subject).map(|(_, order)| order.clone()).collect()
    }
}

async fn open(database: &Database, gate: &Gate, settings: Settings) -> Outbox {
    let settings = Settings { look_every_shared: Duration::from_millis(20), ..settings };
    Outbox::open("order", database.clone(), gate.bus(), settings).await.unwrap()
}

async fn until_rows(database: &Database, count: i64) {
    while rows(database).await != count {
        tokio::task::yield_now().await;
    }
}

on_each_backend! {
    what_the_bus_does_not_take_holds_up_its_subject_and_no_other,
    a_crash_with_a_window_out_brings_all_of_it_again,
    what_is_out_when_it_closes_is_waited_for_and_no_more,
    one_subject_that_fills_the_window_keeps_its_order,
}

async fn what_the_bus_does_not_take_holds_up_its_subject_and_no_other(scratch: Scratch) {
    let (database, gate) = (orders(&scratch).await, Gate::new(["hung"], ["refused"]));
    // Told of some, it has to read the others.
    let outbox = open(&database, &gate, Settings { held_events: 4, ..Settings::default() }).await;
    for n in 0..6 {
        for subject in ["hung", "refused", "a", "b"] {
            place_about(&outbox, &database, subject, &format!("{subject}-{n}")).await;
        }
    }
    gate.took(12).await;
    assert_eq!((gate.of("hung").len(), gate.of("refused").len()), (0, 0));
    let snapshot = outbox.snapshot();
    assert!(snapshot.error.as_ref().is_some_and(|error| error.contains("not this one")), "{snapshot:?}");
    // What was taken is deleted, though older ones are not taken.
    until_rows(&database, 12).await;
    gate.open();
    drain(&outbox).await;
    for subject in ["hung", "refused", "a", "b"] {
        assert_eq!(gate.of(subject), (0..6).map(|n| format!("{subject}-{n}")).collect::<Vec<_>>());
    }
    assert_eq!(outbox.snapshot().error, None);
    outbox.close().await;
    assert_eq!(rows(&database).await, 0);
}

async fn a_crash_with_a_window_out_brings_all_of_it_again(scratch: Scratch) {
    let subjects: Vec<String> = (0..20).map(|n| format!("s-{n:02}")).collect();
    let (database, gate) = (orders(&scratch).await, Gate::default());
    gate.hung.send_replace(subjects.iter().filter(|it| *it != "s-03").cloned().collect());
    let settings = Settings { at_once: 8, group: 1, ..Settings::default() };
    let outbox = open(&database, &gate, settings.clone()).await;
    for subject in &subjects {
        place_about(&outbox, &database, subject, &format!("{subject}-first")).await;
    }
    place_about(&outbox, &database, "s-00", "s-00-second").await;
    gate.took(1).await;
    gate.holds(8).await;
    // Only what was taken is gone: neither those before it, nor those after it.
    until_rows(&database, 20).await;
    let relay = outbox.0.relay.lock().unwrap().take().unwrap();
    relay.abort();
    assert!(relay.await.unwrap_err().is_cancelled());
    drop(outbox);
    assert_eq!(rows(&database).await, 20);

    let gate = Gate::default();
    let outbox = open(&database, &gate, settings).await;
    drain(&outbox).await;
    for subject in &subjects {
        let expected = match subject.as_str() {
            "s-00" => vec!["s-00-first".to_owned(), "s-00-second".to_owned()],
            "s-03" => Vec::new(),
            subject => vec![format!("{subject}-first")],
        };
        assert_eq!(gate.of(subject), expected);
    }
    outbox.close().await;
    assert_eq!(rows(&database).await, 0);
}

async fn what_is_out_when_it_closes_is_waited_for_and_no_more(scratch: Scratch) {
    let (database, gate) = (orders(&scratch).await, Gate::new(["a"], []));
    let outbox = open(&database, &gate, Settings::default()).await;
    place_about(&outbox, &database, "a", "a-1").await;
    place_about(&outbox, &database, "a", "a-2").await;
    gate.holds(1).await;
    outbox.0.shared.close();
    gate.open();
    outbox.close().await;
    assert_eq!(gate.of("a"), ["a-1"]);
    assert_eq!(rows(&database).await, 1);
}

async fn one_subject_that_fills_the_window_keeps_its_order(scratch: Scratch) {
    let (database, gate) = (orders(&scratch).await, Gate::new(["a"], ["b"]));
    let outbox = open(&database, &gate, Settings { at_once: 3, held_events: 2, ..Settings::default() }).await;
    let ids: Vec<String> = (0..40).map(|n| format!("{n:02}")).collect();
    for id in &ids {
        place_about(&outbox, &database, if id.ends_with('7') { "b" } else { "a" }, id).await;
    }
    gate.holds(1).await;
    gate.open();
    drain(&outbox).await;
    assert!(gate.of("a").is_sorted() && gate.of("b").is_sorted(), "{:?}", gate.taken.borrow());
    assert_eq!(gate.taken.borrow().len(), 40);
    outbox.close().await;
    assert_eq!(rows(&database).await, 0);
}
