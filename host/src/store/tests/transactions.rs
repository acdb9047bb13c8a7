use super::*;

on_each_backend! {
    a_transaction_sees_its_own_and_others_see_it_at_its_commit,
    a_transaction_dropped_or_rolled_back_did_nothing,
    a_begin_that_nobody_waits_for_holds_nobody_up,
    a_commit_that_breaks_a_promise_undoes_all,
    a_transaction_ends_at_its_time_limit_and_others_go_on,
    a_statement_can_not_outlast_its_transaction,
    a_failed_statement_changes_nothing_and_the_transaction_goes_on,
}

async fn a_transaction_sees_its_own_and_others_see_it_at_its_commit(scratch: Scratch) {
    let database = scratch.table(1, Settings::default()).await;
    let transaction = database.begin().await.unwrap();
    assert_eq!(transaction.execute(insert(2)).await, Ok(1));
    let own = transaction.query(sql("SELECT count(*) FROM t")).await.unwrap();
    assert_eq!(own.rows, [[Value::Integer(2)]]);
    assert_eq!(count(&database).await, 1);
    transaction.commit().await.unwrap();
    assert_eq!(count(&database).await, 2);
    let late = transaction.execute(insert(3)).await;
    assert_eq!(late, Err(Error::Closed("the transaction has ended: it was committed".into())));
}

async fn a_transaction_dropped_or_rolled_back_did_nothing(scratch: Scratch) {
    let database = scratch.table(1, Settings::default()).await;
    let transaction = database.begin().await.unwrap();
    transaction.execute(insert(2)).await.unwrap();
    transaction.rollback().await.unwrap();
    assert!(matches!(transaction.commit().await, Err(Error::Closed(_))));

    let transaction = database.begin().await.unwrap();
    transaction.execute(insert(2)).await.unwrap();
    drop(transaction);
    // The writer takes this only after the rollback.
    assert_eq!(database.execute(insert(2)).await, Ok(1));
    assert_eq!(count(&database).await, 2);
}

async fn a_begin_that_nobody_waits_for_holds_nobody_up(scratch: Scratch) {
    let database = scratch.table(0, Settings::default()).await;
    let first = database.begin().await.unwrap();
    assert!(database.begin().now_or_never().is_none());
    drop(first);
    assert_eq!(database.execute(insert(1)).await, Ok(1));
}

async fn a_commit_that_breaks_a_promise_undoes_all(scratch: Scratch) {
    let database = scratch.table(1, Settings::default()).await;
    let child = "CREATE TABLE child (t INTEGER REFERENCES t (id) DEFERRABLE INITIALLY DEFERRED)";
    database.execute(sql(child)).await.unwrap();
    let transaction = database.begin().await.unwrap();
    transaction.execute(insert(2)).await.unwrap();
    transaction.execute(sql("INSERT INTO child VALUES (99)")).await.unwrap();
    let commit = transaction.commit().await;
    assert!(matches!(commit, Err(Error::Constraint((Constraint::ForeignKey, _)))), "{commit:?}");
    assert!(matches!(transaction.rollback().await, Err(Error::Closed(_))));
    assert_eq!(count(&database).await, 1);
}

async fn a_transaction_ends_at_its_time_limit_and_others_go_on(scratch: Scratch) {
    let settings = Settings { transaction_time: Duration::from_millis(300), ..Settings::default() };
    let database = scratch.table(1, settings).await;
    let transaction = database.begin().await.unwrap();
    transaction.execute(insert(2)).await.unwrap();
    // Answered once the writer is free again, which is at the limit.
    assert_eq!(database.execute(insert(2)).await, Ok(1));
    let late = transaction.commit().await;
    let expected = "the transaction has ended: it was rolled back at its time limit of 300ms";
    assert_eq!(late, Err(Error::Closed(expected.into())));
}

async fn a_statement_can_not_outlast_its_transaction(scratch: Scratch) {
    let settings = Settings { transaction_time: Duration::from_millis(300), ..Settings::default() };
    let database = scratch.table(1, settings).await;
    let transaction = database.begin().await.unwrap();
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    let stopped = transaction.query(sql(endless)).await;
    assert!(matches!(stopped, Err(Error::Closed(_))), "{stopped:?}");
    assert_eq!(database.execute(insert(2)).await, Ok(1));
}

async fn a_failed_statement_changes_nothing_and_the_transaction_goes_on(scratch: Scratch) {
    let database = scratch.table(3, Settings::default()).await;
    let transaction = database.begin().await.unwrap();
    transaction.execute(insert(4)).await.unwrap();
    let fails = transaction.execute(sql("INSERT INTO t VALUES (5, 'v5'), (1, 'again')")).await;
    assert!(matches!(fails, Err(Error::Constraint((Constraint::Unique, _)))), "{fails:?}");
    let fails = transaction.query(sql("SELECT * FROM nowhere")).await;
    assert!(matches!(fails, Err(Error::Invalid(_))), "{fails:?}");
    transaction.execute(insert(5)).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(count(&database).await, 5);
}
