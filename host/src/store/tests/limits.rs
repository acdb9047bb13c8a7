use super::*;

const ENDLESS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)";

on_each_backend! {
    a_statement_has_a_time,
    a_full_queue_is_busy,
    a_result_has_a_size,
    so_have_values_statements_and_batches,
}

async fn a_statement_has_a_time(scratch: Scratch) {
    let settings = Settings { statement_time: Duration::from_millis(300), ..Settings::default() };
    let database = scratch.table(3, settings).await;
    for statement in [
        format!("{ENDLESS} SELECT count(*) FROM n"),
        format!("{ENDLESS} SELECT i FROM n WHERE i < 0"),
        format!("{ENDLESS} INSERT INTO t (id, v) SELECT i + 10, i FROM n"),
        format!("{ENDLESS} SELECT i FROM n ORDER BY i DESC"),
    ] {
        let statement = sql(&statement);
        for result in [database.query(statement.clone()).await.map(drop), database.execute(statement).await.map(drop)] {
            assert_eq!(result, Err(Error::TooLarge("the statement was stopped: it ran longer than 300ms".into())));
        }
    }
    assert_eq!(count(&database).await, 3);
}

async fn a_full_queue_is_busy(scratch: Scratch) {
    let settings = Settings { queue: 2, readers: 1, connections: 1, ..Settings::default() };
    let database = scratch.table(0, settings).await;
    let transaction = database.begin().await.unwrap();
    let mut results = join_all((1..=4).map(|id| database.execute(insert(id)))).boxed();
    assert!(results.as_mut().now_or_never().is_none());
    transaction.commit().await.unwrap();
    let results = results.await;
    assert_eq!(results[..2], [Ok(1), Ok(1)]);
    assert!(results[2..].iter().all(|result| matches!(result, Err(Error::Busy(_)))), "{results:?}");
}

async fn a_result_has_a_size(scratch: Scratch) {
    let settings = Settings { max_rows: 10, max_bytes: 4_096, max_value_bytes: 100_000, ..Settings::default() };
    let database = scratch.table(11, settings).await;
    assert_eq!(database.query(sql("SELECT id FROM t LIMIT 10")).await.unwrap().rows.len(), 10);
    database.execute(sql("CREATE TABLE large (v TEXT)")).await.unwrap();
    for length in [3_000, 3_000, 90_000] {
        database.execute(with("INSERT INTO large VALUES ($1)", [text(&"x".repeat(length))])).await.unwrap();
    }
    for query in
        ["SELECT id FROM t", "SELECT v FROM large WHERE length(v) < 5000", "SELECT v FROM large WHERE length(v) > 5000"]
    {
        let result = database.query(sql(query)).await;
        assert!(matches!(result, Err(Error::TooLarge(_))), "{query}: {result:?}");
    }
    // What is too large to return was not done either.
    let result = database.query(sql("DELETE FROM t RETURNING id")).await;
    assert!(matches!(result, Err(Error::TooLarge(_))), "{result:?}");
    assert_eq!(count(&database).await, 11);
}

async fn so_have_values_statements_and_batches(scratch: Scratch) {
    let settings = Settings { max_value_bytes: 50_000, max_sql_bytes: 1_000, max_batch: 2, ..Settings::default() };
    let database = scratch.table(1, settings).await;
    for statement in [
        with("SELECT CAST($1 AS BLOB)", [Value::Blob(vec![0; 60_000])]),
        sql(&format!("SELECT '{}'", "x".repeat(1_000))),
    ] {
        let result = database.query(statement).await;
        assert!(matches!(result, Err(Error::TooLarge(_))), "{result:?}");
    }
    let result = database.batch(vec![insert(2), insert(3), insert(4)]).await;
    assert!(matches!(result, Err(Error::TooLarge(_))), "{result:?}");
}
