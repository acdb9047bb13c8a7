use super::*;

on_each_backend! {
    all_of_a_unit_is_written_or_nothing,
    a_unit_that_wrote_nothing_claims_at_its_commit,
    what_another_has_claimed_is_not_written,
    a_failed_batch_and_a_transaction_not_committed_are_undone_alone,
    a_unit_that_is_dropped_holds_nobody_up,
    a_unit_whose_time_is_over_is_no_success,
    what_follows_a_commit_follows_nothing_else,
}

const CLAIM: &str = "INSERT INTO _wharf_claims VALUES ($1)";

/// A database with `t` and a table of claims.
async fn claims(scratch: &Scratch) -> Database {
    let database = scratch.table(1, Settings::default()).await;
    database.host_execute(sql("CREATE TABLE _wharf_claims (id INTEGER PRIMARY KEY)")).await.unwrap();
    database
}

fn unit(database: &Database, claim: i64) -> (Unit, Access) {
    let unit = Unit::new(database.clone(), with(CLAIM, [Value::Integer(claim)]));
    (unit.clone(), Access::Unit(unit))
}

async fn claimed(database: &Database) -> Value {
    one(database, "SELECT count(*) FROM _wharf_claims").await
}

async fn all_of_a_unit_is_written_or_nothing(scratch: Scratch) {
    let database = claims(&scratch).await;
    for commit in [false, true] {
        let (unit, access) = unit(&database, 1);
        // Before it has written it reads as anybody.
        assert_eq!(access.query(sql("SELECT count(*) FROM t")).await.unwrap().rows, [[Value::Integer(1)]]);
        assert_eq!(access.execute(insert(2)).await, Ok(1));
        assert_eq!(access.batch(vec![insert(3), insert(4)]).await, Ok(vec![1, 1]));
        let returning = "INSERT INTO t VALUES (5, 'v5') RETURNING id";
        assert_eq!(access.query(sql(returning)).await.unwrap().rows, [[Value::Integer(5)]]);
        let held = access.begin().await.unwrap();
        held.execute(insert(6)).await.unwrap();
        held.commit().await.unwrap();
        // After it has written it sees what it wrote, and nobody else does.
        assert_eq!(access.query(sql("SELECT count(*) FROM t")).await.unwrap().rows, [[Value::Integer(6)]]);
        assert_eq!(count(&database).await, 1);
        if commit {
            assert_eq!(unit.commit().await, Ok(Ended::Committed));
        } else {
            assert!(!unit.rollback().await);
        }
        assert!(matches!(access.execute(insert(9)).await, Err(Error::Closed(_))));
        assert_eq!(count(&database).await, if commit { 6 } else { 1 });
        assert_eq!(claimed(&database).await, Value::Integer(commit.into()));
    }
}

async fn a_unit_that_wrote_nothing_claims_at_its_commit(scratch: Scratch) {
    let database = claims(&scratch).await;
    let (first, _) = unit(&database, 1);
    assert_eq!(first.commit().await, Ok(Ended::Committed));
    let (second, _) = unit(&database, 1);
    assert_eq!(second.commit().await, Ok(Ended::Claimed));
    assert_eq!(claimed(&database).await, Value::Integer(1));
}

async fn what_another_has_claimed_is_not_written(scratch: Scratch) {
    let database = claims(&scratch).await;
    let ((first, writes), (second, late)) = (unit(&database, 1), unit(&database, 1));
    writes.execute(insert(2)).await.unwrap();
    // Waits for the first, which holds the writer.
    let waits = tokio::spawn(async move { late.execute(insert(3)).await });
    assert_eq!(first.commit().await, Ok(Ended::Committed));
    assert!(matches!(waits.await.unwrap(), Err(Error::Closed(reason)) if reason.contains("done already")));
    assert_eq!(second.commit().await, Ok(Ended::Claimed));
    assert!(second.rollback().await);
    assert_eq!(count(&database).await, 2);
}

async fn a_failed_batch_and_a_transaction_not_committed_are_undone_alone(scratch: Scratch) {
    let database = claims(&scratch).await;
    let (unit, access) = unit(&database, 1);
    access.execute(insert(2)).await.unwrap();
    assert!(matches!(access.batch(vec![insert(3), insert(1)]).await, Err(Error::Constraint(_))));
    let rolled_back = access.begin().await.unwrap();
    rolled_back.execute(insert(4)).await.unwrap();
    // A call may read beside its transaction.
    access.query(sql("SELECT 1")).await.unwrap();
    rolled_back.rollback().await.unwrap();
    assert!(matches!(rolled_back.commit().await, Err(Error::Closed(_))));
    let dropped = access.begin().await.unwrap();
    dropped.execute(insert(5)).await.unwrap();
    drop(dropped);
    assert_eq!(access.execute(insert(6)).await, Ok(1));
    let left_open = access.begin().await.unwrap();
    left_open.execute(insert(7)).await.unwrap();
    assert_eq!(unit.commit().await, Ok(Ended::Committed));
    assert!(matches!(left_open.commit().await, Err(Error::Closed(_))));
    let ids = database.query(sql("SELECT id FROM t ORDER BY id")).await.unwrap().rows;
    assert_eq!(ids, [1, 2, 6].map(|id| vec![Value::Integer(id)]));
}

async fn a_unit_that_is_dropped_holds_nobody_up(scratch: Scratch) {
    let database = claims(&scratch).await;
    let (unit, access) = unit(&database, 1);
    access.execute(insert(2)).await.unwrap();
    drop((unit, access));
    assert_eq!(database.execute(insert(2)).await, Ok(1));
    assert_eq!(claimed(&database).await, Value::Integer(0));
}

async fn a_unit_whose_time_is_over_is_no_success(scratch: Scratch) {
    claims(&scratch).await.close().await;
    // Time enough for a write on a busy machine, and less than the other waits.
    let (transaction_time, lock_wait) = (Duration::from_millis(500), Duration::from_secs(4));
    let database = scratch.with(Settings { transaction_time, lock_wait, ..Settings::default() }).await;
    let (unit, access) = unit(&database, 1);
    access.execute(insert(2)).await.unwrap();
    // The same row: it waits for the end of the unit, wherever transactions may overlap.
    assert_eq!(database.execute(insert(2)).await, Ok(1));
    assert!(matches!(unit.commit().await, Err(Error::Closed(_))));
    assert_eq!((count(&database).await, claimed(&database).await), (2, Value::Integer(0)));
}

async fn what_follows_a_commit_follows_nothing_else(scratch: Scratch) {
    use std::sync::atomic::{AtomicU32, Ordering};
    let database = scratch.table(1, Settings::default()).await;
    let done = Arc::new(AtomicU32::new(0));
    let then = |number: u32| {
        let done = done.clone();
        Committed::from_iter([Box::new(move || {
            done.fetch_add(number, Ordering::SeqCst);
        }) as Then])
    };
    database.batch_then(vec![insert(2)], Vec::new(), then(1)).await.unwrap();
    database.batch_then(vec![insert(2)], Vec::new(), then(10)).await.unwrap_err();
    let transaction = database.begin().await.unwrap();
    transaction.then().append(&then(100));
    transaction.rollback().await.unwrap();
    let transaction = database.begin().await.unwrap();
    transaction.then().append(&then(1_000));
    assert_eq!(done.load(Ordering::SeqCst), 1);
    transaction.commit().await.unwrap();
    assert_eq!(done.load(Ordering::SeqCst), 1_001);
}
