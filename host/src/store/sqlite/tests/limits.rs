use super::*;

#[tokio::test]
async fn a_result_has_a_size() {
    let scratch = Scratch::sqlite();
    let settings = Settings { max_rows: 10, max_bytes: 4_096, max_value_bytes: 100_000, ..Settings::default() };
    let database = scratch.table(11, settings).await;
    assert_eq!(database.query(sql("SELECT id FROM t LIMIT 10")).await.unwrap().rows.len(), 10);
    for query in ["SELECT id FROM t", "SELECT zeroblob(5000)", "SELECT zeroblob(1000) FROM t LIMIT 5"] {
        let result = database.query(sql(query)).await;
        assert!(matches!(result, Err(Error::TooLarge(_))), "{query}: {result:?}");
    }
    // What is too large to return was not done either.
    let result = database.query(sql("DELETE FROM t RETURNING id")).await;
    assert!(matches!(result, Err(Error::TooLarge(_))), "{result:?}");
    assert_eq!(count(&database).await, 11);
}

#[tokio::test]
async fn so_have_values_statements_batches_and_files() {
    let scratch = Scratch::sqlite();
    let settings = Settings {
        max_value_bytes: 50_000,
        max_sql_bytes: 1_000,
        max_migration_bytes: 1_000,
        max_batch: 2,
        max_file_bytes: 1 << 20,
        ..Settings::default()
    };
    let database = scratch.table(1, settings).await;
    for statement in [
        sql("SELECT zeroblob(60000)"),
        with("SELECT $1", [Value::Blob(vec![0; 60_000])]),
        sql(&format!("SELECT '{}'", "x".repeat(1_000))),
    ] {
        let result = database.query(statement).await;
        assert!(matches!(result, Err(Error::TooLarge(_))), "{result:?}");
    }
    let result = database.batch(vec![insert(2), insert(3), insert(4)]).await;
    assert!(matches!(result, Err(Error::TooLarge(_))), "{result:?}");
    let fill = || sql("INSERT INTO t (v) VALUES (hex(randomblob(20000)))");
    let mut result = Ok(1);
    for _ in 0..100 {
        result = database.execute(fill()).await;
        if result.is_err() {
            break;
        }
    }
    assert!(matches!(result, Err(Error::Unavailable(_))), "{result:?}");
    database.execute(sql("DELETE FROM t")).await.unwrap();
    database.execute(fill()).await.unwrap();
}
