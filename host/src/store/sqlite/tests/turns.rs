//! What is done at once, what is done elsewhere, and that whoever waits gets a turn, whatever others do.

use super::*;
use crate::store::committed::Then;
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};
use tokio::task::JoinSet;

/// A statement that takes its time in a table with so many rows.
const LONG: &str = "UPDATE t SET v = v";
const ROWS: i64 = 5_000;

async fn many_rows(scratch: &Scratch) -> Database {
    scratch.table(ROWS, Settings::default()).await
}

/// Whether a statement was ever done on the thread that asks. What is short may take long now and then by chance.
async fn at_once(database: &Database, statement: impl Fn(i64) -> Statement) -> bool {
    let here = thread::current().id();
    let at_once = Arc::new(AtomicBool::new(false));
    for n in 1..=100 {
        let noted = at_once.clone();
        let note = move || {
            noted.fetch_or(thread::current().id() == here, Ordering::SeqCst);
        };
        let note = Box::new(note) as Then;
        database.batch_then(vec![statement(n)], Vec::new(), Committed::from_iter([note])).await.unwrap();
    }
    at_once.load(Ordering::SeqCst)
}

#[tokio::test]
async fn a_short_write_is_done_without_leaving_the_thread() {
    let scratch = Scratch::sqlite();
    let database = scratch.table(0, Settings::default()).await;
    assert!(at_once(&database, insert).await);
    assert!(at_once(&database, |id| with("UPDATE t SET v = NULL WHERE id = $1", [Value::Integer(id)])).await);
    assert_eq!(count(&database).await, 100);
}

#[tokio::test]
async fn what_may_take_long_is_not() {
    let scratch = Scratch::sqlite();
    let database = many_rows(&scratch).await;
    assert!(!at_once(&database, |_| sql(LONG)).await);
}

#[tokio::test]
async fn neither_is_what_has_become_so_by_another_schema() {
    let scratch = Scratch::sqlite();
    let database = many_rows(&scratch).await;
    database.execute(sql("CREATE TABLE u (id INTEGER PRIMARY KEY)")).await.unwrap();
    let insert = |id| with("INSERT INTO u VALUES ($1)", [Value::Integer(id)]);
    assert!(at_once(&database, insert).await);
    database.execute(sql(&format!("CREATE TRIGGER long AFTER INSERT ON u BEGIN {LONG}; END"))).await.unwrap();
    assert!(!at_once(&database, |id| insert(id + 100)).await);
    database.execute(sql("DROP TRIGGER long")).await.unwrap();
    assert!(at_once(&database, |id| insert(id + 200)).await);
}

#[tokio::test]
async fn a_short_transaction_is_too_and_goes_elsewhere_for_what_may_take_long() {
    let scratch = Scratch::sqlite();
    let database = many_rows(&scratch).await;
    let (mut short, mut long) = (0, 0);
    for id in ROWS + 1..=ROWS + 50 {
        let transaction = database.begin().await.unwrap();
        for (statement, changed, at_once) in [(insert(id), 1, &mut short), (sql(LONG), id, &mut long)] {
            let mut execute = Box::pin(transaction.execute(statement));
            let now = execute.as_mut().now_or_never();
            *at_once += i32::from(now.is_some());
            let done = match now {
                Some(done) => done,
                None => execute.await,
            };
            assert_eq!(done, Ok(u64::try_from(changed).unwrap()));
        }
        transaction.commit().await.unwrap();
    }
    // By chance another thread may be ready before this one looks.
    assert!(short > long && long < 25, "{short} {long}");
    assert_eq!(count(&database).await, ROWS + 50);
}

#[tokio::test]
async fn an_owner_that_goes_while_its_statement_runs_leaves_nothing_and_holds_nobody_up() {
    let scratch = Scratch::sqlite();
    let database = many_rows(&scratch).await;
    for _ in 0..20 {
        let transaction = database.begin().await.unwrap();
        drop(transaction.execute(sql("UPDATE t SET v = NULL")).now_or_never());
        drop(transaction);
        assert_eq!(database.execute(sql("DELETE FROM t WHERE v IS NULL")).await, Ok(0));
    }
}

#[tokio::test]
async fn more_than_some_that_a_transaction_is_asked_at_a_time_are_refused() {
    let scratch = Scratch::sqlite();
    let database = many_rows(&scratch).await;
    let transaction = database.begin().await.unwrap();
    // The first is not short, and holds up the others.
    let results = join_all((0..40).map(|_| transaction.execute(sql(LONG)))).await;
    let done = results.iter().filter(|result| result.is_ok()).count();
    let refused = results.iter().filter(|result| matches!(result, Err(Error::Busy(_)))).count();
    assert_eq!((done, refused), (17, 23), "{results:?}");
    transaction.commit().await.unwrap();
}

/// Everything at once: writes, transactions that are committed, rolled back, dropped, that time out, owners that go away at
/// any moment. What was acknowledged is there, what was refused or undone is not, and nobody waits for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_waits_gets_a_turn_whatever_others_do() {
    let scratch = Scratch::sqlite();
    let settings = Settings { transaction_time: Duration::from_millis(100), ..Settings::default() };
    let database = scratch.table(0, settings).await;
    let mut tasks = JoinSet::new();
    for task in 0..32_i64 {
        let database = database.clone();
        tasks.spawn(async move {
            let mut random = fastrand::Rng::with_seed(u64::try_from(task).unwrap());
            let (mut there, mut perhaps) = (Vec::new(), 0);
            for n in 0..60 {
                let id = task * 1_000 + n;
                let patience = Duration::from_micros(random.u64(0..2_000));
                match random.u8(0..8) {
                    0..=2 => {
                        database.execute(insert(id)).await.unwrap();
                        there.push(id);
                    }
                    3 => match tokio::time::timeout(patience, database.execute(insert(id))).await {
                        Ok(done) => {
                            done.unwrap();
                            there.push(id);
                        }
                        Err(_) => perhaps += 1,
                    },
                    4 | 5 => {
                        let transaction = database.begin().await.unwrap();
                        transaction.execute(insert(id)).await.unwrap();
                        if random.bool() {
                            transaction.execute(sql("UPDATE t SET v = v WHERE id % 7 = 0")).await.unwrap();
                        }
                        match random.u8(0..4) {
                            0 => transaction.rollback().await.unwrap(),
                            1 => drop(transaction),
                            _ => {
                                transaction.commit().await.unwrap();
                                there.push(id);
                            }
                        }
                    }
                    6 => {
                        let all = async {
                            let transaction = database.begin().await.unwrap();
                            transaction.execute(insert(id)).await.unwrap();
                            transaction.execute(sql("UPDATE t SET v = v WHERE id % 3 = 0")).await.unwrap();
                            transaction.commit().await.unwrap();
                        };
                        match tokio::time::timeout(patience, all).await {
                            Ok(()) => there.push(id),
                            Err(_) => perhaps += 1,
                        }
                    }
                    _ if n % 20 == 0 => {
                        let transaction = database.begin().await.unwrap();
                        transaction.execute(insert(id)).await.unwrap();
                        // At the latest when its time is over, nobody is held up by it.
                        database.execute(sql("DELETE FROM t WHERE id < 0")).await.unwrap();
                        assert!(matches!(transaction.commit().await, Err(Error::Closed(_))));
                    }
                    _ => {
                        let changed = database.batch(vec![insert(id), insert(id)]).await;
                        assert!(matches!(changed, Err(Error::Constraint(_))), "{changed:?}");
                    }
                }
            }
            (there, perhaps)
        });
    }
    let (mut there, mut perhaps) = (Vec::new(), 0);
    while let Some(done) = tasks.join_next().await {
        let (ids, more) = done.unwrap();
        there.extend(ids);
        perhaps += more;
    }
    let found = database.query(sql("SELECT id FROM t ORDER BY id")).await.unwrap().rows;
    let found: BTreeSet<_> = found
        .into_iter()
        .flatten()
        .filter_map(|it| match it {
            Value::Integer(id) => Some(id),
            _ => None,
        })
        .collect();
    assert!(there.iter().all(|id| found.contains(id)));
    assert!(found.len() <= there.len() + perhaps, "{} {} {perhaps}", found.len(), there.len());
    database.close().await;
}
