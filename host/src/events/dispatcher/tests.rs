//! The dispatcher on a paused clock against what a plain account of its tries must show.

use super::*;
use crate::{
    events::{DeliveryOrder, NewEvent, room::Room, testing::policy},
    policy::Backoff,
};
use proptest::{prelude::*, test_runner::TestCaseResult};
use std::{collections::HashMap, sync::Mutex};
use tokio::time::sleep;

/// What happens to an event when it is tried: how long that takes, and what comes of it.
#[derive(Clone, Debug)]
struct Try {
    takes: u64,
    says: Says,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Says {
    Ack,
    Reject,
    Retry(Option<u64>),
    Fault,
    Panic,
}

/// An event of a run: when it comes, what it is about, and what its tries are like.
#[derive(Clone, Debug)]
struct Plan {
    comes: u64,
    subject: Option<u8>,
    tries: Vec<Try>,
}

/// What was seen of one event, in milliseconds since the beginning.
#[derive(Clone, Debug, Default)]
struct Account {
    /// From when to when each try took, and when the next was due.
    tries: Vec<(u64, u64, Option<u64>)>,
    /// When it was settled, and whether as a dead letter after how many tries.
    settled: Vec<(u64, Option<u32>)>,
}

#[derive(Clone)]
struct Accounts {
    begin: Instant,
    all: Arc<Mutex<Vec<Account>>>,
}

struct Actor {
    plans: Vec<Plan>,
    accounts: Accounts,
}

// === impl Accounts ===

impl Accounts {
    fn note(&self, index: usize, note: impl FnOnce(&mut Account, u64)) {
        let now = u64::try_from(self.begin.elapsed().as_millis()).unwrap();
        note(&mut self.all.lock().unwrap()[index], now);
    }
}

impl Ledger for Accounts {
    type Receipt = (usize, Place);
    const DURABLE: bool = false;

    async fn settle(&self, (index, _): (usize, Place)) {
        self.note(index, |account, now| account.settled.push((now, None)));
    }

    async fn failed(&self, (index, _): &(usize, Place), attempt: u32, due: Duration, _: &str) {
        self.note(*index, |account, now| {
            assert_eq!(account.tries.len(), attempt as usize);
            account.tries.last_mut().unwrap().2 = Some(now + u64::try_from(due.as_millis()).unwrap());
        });
    }

    async fn bury(&self, (index, _): (usize, Place), burial: Burial) {
        self.note(index, |account, now| account.settled.push((now, Some(burial.attempts))));
    }

    fn leave(&self, (index, _): (usize, Place)) {
        panic!("event {index} was left");
    }
}

impl Subscriber for Actor {
    fn deliver(&self, event: Arc<Event>, attempt: u32) -> BoxFuture<'_, Result<Verdict, Fault>> {
        let index: usize = String::from_utf8_lossy(&event.data).parse().unwrap();
        let it = self.plans[index].tries[attempt as usize - 1].clone();
        self.accounts.note(index, |account, now| account.tries.push((now, now, None)));
        Box::pin(async move {
            sleep(Duration::from_millis(it.takes)).await;
            self.accounts.note(index, |account, now| account.tries.last_mut().unwrap().1 = now);
            match it.says {
                Says::Ack => Ok(Verdict::Ack),
                Says::Reject => Ok(Verdict::Reject("never".into())),
                Says::Retry(after) => Ok(Verdict::Retry(after.map(Duration::from_millis))),
                Says::Fault => Err(Fault::new(FaultKind::Trapped, "away")),
                Says::Panic => panic!("a bug in the subscriber"),
            }
        })
    }
}

const MAX_ATTEMPTS: u32 = 3;

async fn run(plans: Vec<Plan>, concurrency: usize, order: DeliveryOrder) -> Vec<Account> {
    let backoff = Backoff { first: Duration::from_millis(40), max: Duration::from_millis(60), jitter: 0.0 };
    let policy = DeliveryPolicy { concurrency, order, max_attempts: MAX_ATTEMPTS, backoff, ..policy() };
    let all = Arc::new(Mutex::new(vec![Account::default(); plans.len()]));
    let accounts = Accounts { begin: Instant::now(), all: Arc::clone(&all) };
    let room = Arc::new(Room::new(&policy));
    let actor = Arc::new(Actor { plans: plans.clone(), accounts: accounts.clone() });
    let subscription = Subscription::new("a", "b", actor).with_policy(policy);
    let meter = Arc::new(Meter::new(&subscription, Arc::clone(&room), None));
    let (inbox, outbox) = mpsc::unbounded_channel();
    let (_closing, closing) = watch::channel(None);
    let feeding = async {
        let mut at = 0;
        for (index, plan) in plans.iter().enumerate() {
            sleep(Duration::from_millis(plan.comes - at)).await;
            at = plan.comes;
            let subject = plan.subject.map(|it| it.to_string());
            let new = NewEvent { subject, ..NewEvent::json("a", index.to_string()) };
            let event = Arc::new(Event::publish(new, "a".into(), "/services/a".into(), None));
            let place = room.try_enter(&event.data).unwrap();
            assert!(inbox.send(Delivery { event, attempt: 1, receipt: (index, place) }).is_ok());
        }
        drop(inbox);
    };
    tokio::join!(Dispatcher::new(subscription, meter, Arc::new(accounts), outbox, closing).run(), feeding);
    assert_eq!(room.taken(), 0);
    Arc::try_unwrap(all).unwrap().into_inner().unwrap()
}

/// Holds the accounts of a run against what was planned.
fn examine(plans: &[Plan], accounts: &[Account], concurrency: usize, order: DeliveryOrder) -> TestCaseResult {
    // Every event was tried as planned and settled once, by an acknowledgement or as a dead letter.
    for (index, (plan, account)) in plans.iter().zip(accounts).enumerate() {
        let last = plan.tries.iter().position(|it| matches!(it.says, Says::Ack | Says::Reject));
        let tries = last.map_or(MAX_ATTEMPTS as usize, |last| last + 1).min(MAX_ATTEMPTS as usize);
        prop_assert_eq!(account.tries.len(), tries, "tries of {}", index);
        let dead = (plan.tries[tries - 1].says != Says::Ack).then(|| u32::try_from(tries).unwrap());
        let end = account.tries[tries - 1].1;
        prop_assert_eq!(&account.settled, &vec![(end, dead)], "end of {}", index);
        for (number, (pair, it)) in account.tries.windows(2).zip(&plan.tries).enumerate() {
            let delay = match it.says {
                Says::Retry(Some(after)) => after,
                _ => [40, 60][number],
            };
            prop_assert_eq!(pair[0].2, Some(pair[0].1 + delay), "due of {}", index);
        }
    }
    // From when on each try could have been made: the event is there, the one before it of its subject is settled, the
    // delay is over.
    let mut before: HashMap<u8, u64> = HashMap::new();
    let mut able = Vec::new();
    for (plan, account) in plans.iter().zip(accounts) {
        let mut from = plan.comes;
        if let (Some(subject), DeliveryOrder::Subject) = (plan.subject, order) {
            from = from.max(before.get(&subject).copied().unwrap_or(0));
            before.insert(subject, account.settled[0].0);
        }
        for &(begin, _, due) in &account.tries {
            prop_assert!(begin >= from, "a try at {} which could not be before {}", begin, from);
            able.push((from, begin, begin != account.tries[0].0));
            from = due.unwrap_or(u64::MAX);
        }
    }
    // Nobody waits while there is a place, and there are no more places than allowed.
    let under_way = |at: u64| {
        let tries = accounts.iter().flat_map(|account| &account.tries);
        tries.filter(|(begin, end, _)| *begin <= at && at < *end).count()
    };
    let first: Vec<_> = accounts.iter().map(|account| account.tries[0].0).collect();
    for (from, begin, again) in able {
        for at in from..begin {
            prop_assert_eq!(under_way(at), concurrency, "one that could go at {} waits at {} till {}", from, at, begin);
        }
        prop_assert!(under_way(begin) <= concurrency);
        // Not even behind those that are new.
        prop_assert!(!again || !first.iter().any(|new| (from + 1..begin).contains(new)), "overtaken since {}", from);
    }
    Ok(())
}

fn tries() -> impl Strategy<Value = Vec<Try>> {
    let says = prop_oneof![
        6 => Just(Says::Ack),
        1 => Just(Says::Reject),
        2 => proptest::option::of(0..150u64).prop_map(Says::Retry),
        1 => Just(Says::Fault),
        1 => Just(Says::Panic),
    ];
    let one = (1..30u64, says).prop_map(|(takes, says)| Try { takes, says });
    proptest::collection::vec(one, MAX_ATTEMPTS as usize)
}

fn plans() -> impl Strategy<Value = Vec<Plan>> {
    let one = (0..20u64, proptest::option::weighted(0.8, 0..4u8), tries());
    proptest::collection::vec(one, 1..40).prop_map(|events| {
        let mut comes = 0;
        let plan = |(after, subject, tries)| {
            comes += after;
            Plan { comes, subject, tries }
        };
        events.into_iter().map(plan).collect()
    })
}

proptest! {
    #[test]
    fn events_of_a_subject_go_one_after_the_other_and_hold_up_nobody_else(
        plans in plans(),
        concurrency in 1..5usize,
        by_subject in proptest::bool::weighted(0.8),
    ) {
        let order = if by_subject { DeliveryOrder::Subject } else { DeliveryOrder::None };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let accounts = runtime.block_on(run(plans.clone(), concurrency, order));
        examine(&plans, &accounts, concurrency, order)?;
    }
}

#[tokio::test(start_paused = true)]
async fn one_stuck_subject_does_not_stop_the_others() {
    let plan = |subject, says| Plan { comes: 0, subject: Some(subject), tries: vec![Try { takes: 1, says }; 3] };
    let mut plans = vec![plan(0, Says::Retry(Some(10_000)))];
    plans.extend((0..50).map(|n| plan(u8::from(n % 2 == 1), Says::Ack)));
    let accounts = run(plans, 1, DeliveryOrder::Subject).await;
    let ends: Vec<_> = accounts.iter().map(|account| account.settled[0].0).collect();
    let (stuck, others): (Vec<_>, Vec<_>) = ends[1..].iter().enumerate().partition(|(n, _)| n % 2 == 0);
    assert_eq!((ends[0], accounts[0].settled[0].1), (20_003, Some(3)));
    assert!(others.iter().all(|(_, end)| **end < 100), "{others:?}");
    assert!(stuck.iter().map(|(_, end)| **end).eq(20_004..20_029), "{stuck:?}");
}

/// Answers like this, one delivery after the other, and says when each came.
struct Answers(Mutex<std::vec::IntoIter<Result<Verdict, Fault>>>, mpsc::UnboundedSender<(u32, Instant)>);

impl Subscriber for Answers {
    fn deliver(&self, _: Arc<Event>, attempt: u32) -> BoxFuture<'_, Result<Verdict, Fault>> {
        self.1.send((attempt, Instant::now())).unwrap();
        let answer = self.0.lock().unwrap().next().unwrap();
        Box::pin(std::future::ready(answer))
    }
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_cannot_be_asked_uses_up_no_try() {
    let fault = |kind| Err(Fault::new(kind, "away"));
    let open = Fault::new(FaultKind::CircuitOpen, "open").with_retry_after(Duration::from_secs(30));
    let mut answers = vec![fault(FaultKind::Unreachable); 8];
    answers.extend([Err(open), fault(FaultKind::Overloaded), fault(FaultKind::Trapped), fault(FaultKind::Unreachable)]);
    answers.push(Ok(Verdict::Ack));
    let (seen, mut log) = mpsc::unbounded_channel();
    let actor = Arc::new(Answers(Mutex::new(answers.into_iter()), seen));
    let backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(10), jitter: 0.0 };
    let policy = DeliveryPolicy { max_attempts: 2, backoff, ..policy() };
    let room = Arc::new(Room::new(&policy));
    let subscription = Subscription::new("a", "b", actor).with_policy(policy);
    let meter = Arc::new(Meter::new(&subscription, Arc::clone(&room), None));
    let (inbox, outbox) = mpsc::unbounded_channel();
    let (_closing, closing) = watch::channel(None);
    let event = Event::publish(NewEvent::json("a", "{}"), "a".into(), "/services/x".into(), None);
    let receipt = room.try_enter(&event.data).unwrap();
    assert!(inbox.send(Delivery { event: Arc::new(event), attempt: 1, receipt }).is_ok());
    drop(inbox);
    Dispatcher::new(subscription, Arc::clone(&meter), Arc::new(InMemory), outbox, closing).run().await;
    let mut tries = Vec::new();
    let begin = Instant::now();
    while let Ok((attempt, at)) = log.try_recv() {
        tries.push((attempt, (begin - at).as_secs()));
    }
    let attempts: Vec<u32> = tries.iter().map(|(attempt, _)| *attempt).collect();
    assert_eq!(attempts, [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2]);
    let pauses: Vec<u64> = tries.windows(2).map(|pair| pair[0].1 - pair[1].1).collect();
    assert_eq!(
        pauses,
        [1, 2, 4, 8, 10, 10, 10, 10, 30, 10, 1, 2],
        "a pause that grows, the callee's word, and then anew"
    );
    assert_eq!((meter.snapshot().delivered, meter.snapshot().rejected), (1, 0));
}
