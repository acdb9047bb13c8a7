use super::*;

#[tokio::test]
async fn a_failed_statement_changes_nothing_and_the_transaction_goes_on() {
    let scratch = Scratch::sqlite();
    let database = scratch.table(3, Settings::default()).await;
    let transaction = database.begin().await.unwrap();
    transaction.execute(insert(4)).await.unwrap();
    // OR FAIL would keep the rows before the one that failed.
    let fails = "INSERT OR FAIL INTO t VALUES (5, 'v5'), (1, 'again')";
    assert!(matches!(transaction.execute(sql(fails)).await, Err(Error::Constraint((Constraint::Unique, _)))));
    transaction.commit().await.unwrap();
    assert_eq!(count(&database).await, 4);
}

#[tokio::test]
async fn a_statement_that_gives_up_the_transaction_closes_it() {
    let scratch = Scratch::sqlite();
    let database = scratch.table(3, Settings::default()).await;
    let transaction = database.begin().await.unwrap();
    transaction.execute(insert(4)).await.unwrap();
    let fails = transaction.execute(sql("INSERT OR ROLLBACK INTO t VALUES (1, 'again')")).await;
    assert!(matches!(fails, Err(Error::Constraint(_))), "{fails:?}");
    let after = transaction.commit().await;
    let expected = "the transaction has ended: it was rolled back by a statement that failed";
    assert_eq!(after, Err(Error::Closed(expected.into())));
    assert_eq!(count(&database).await, 3);
}
