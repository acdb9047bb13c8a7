use super::*;

on_each_backend! {
    statements_tell_how_many_rows_they_changed,
    a_batch_is_all_or_nothing,
    many_writers_lose_nothing,
    broken_promises_have_their_kind,
    a_single_statement_that_fails_half_way_did_nothing,
    one_row_counted_up_by_many_loses_no_count,
    a_closed_database_takes_nothing,
    who_may_only_read_changes_nothing,
}

async fn statements_tell_how_many_rows_they_changed(scratch: Scratch) {
    let database = scratch.table(5, Settings::default()).await;
    for (statement, changed) in [
        ("UPDATE t SET v = v || '!' WHERE id <= 3", 3),
        ("UPDATE t SET v = '' WHERE id > 99", 0),
        ("CREATE TABLE other (v TEXT)", 0),
        ("SELECT * FROM t", 0),
        ("DELETE FROM t WHERE id = 5", 1),
        ("CREATE INDEX i ON other (v)", 0),
        ("INSERT INTO other SELECT v FROM t", 4),
        ("DELETE FROM other", 4),
    ] {
        assert_eq!(database.execute(sql(statement)).await, Ok(changed), "{statement}");
    }
}

async fn a_batch_is_all_or_nothing(scratch: Scratch) {
    let database = scratch.table(1, Settings::default()).await;
    assert_eq!(database.batch(vec![]).await, Ok(vec![]));
    assert_eq!(database.batch(vec![insert(2), sql("UPDATE t SET v = v || '!'"), insert(3)]).await, Ok(vec![1, 2, 1]));
    let failed = database.batch(vec![insert(4), insert(5), insert(2)]).await;
    assert!(matches!(failed, Err(Error::Constraint((Constraint::Unique, _)))), "{failed:?}");
    assert_eq!(count(&database).await, 3);
}

async fn many_writers_lose_nothing(scratch: Scratch) {
    let database = scratch.table(0, Settings::default()).await;
    let writers = (0..16).map(|writer| {
        let database = database.clone();
        tokio::spawn(async move {
            for n in 0..50 {
                database.execute(insert(writer * 50 + n)).await.unwrap();
            }
        })
    });
    for writer in join_all(writers).await {
        writer.unwrap();
    }
    assert_eq!(count(&database).await, 800);
}

async fn broken_promises_have_their_kind(scratch: Scratch) {
    let database = scratch.table(1, Settings::default()).await;
    let child =
        "CREATE TABLE child (id INTEGER PRIMARY KEY, t INTEGER NOT NULL REFERENCES t (id), n INTEGER CHECK (n > 0))";
    database.execute(sql(child)).await.unwrap();
    for (statement, kind) in [
        ("INSERT INTO t VALUES (1, 'x')", Constraint::Unique),
        ("INSERT INTO t VALUES (2, 'v1')", Constraint::Unique),
        ("INSERT INTO child VALUES (1, 77, 1)", Constraint::ForeignKey),
        ("INSERT INTO child VALUES (1, NULL, 1)", Constraint::NotNull),
        ("INSERT INTO child VALUES (1, 1, 0)", Constraint::Check),
    ] {
        let Err(Error::Constraint((found, text))) = database.execute(sql(statement)).await else {
            panic!("{statement}")
        };
        assert_eq!(found, kind, "{statement}: {text}");
    }
    for statement in ["SELEC 1", "SELECT * FROM nowhere", "INSERT INTO t VALUES (1", "SELECT \"text\""] {
        let result = database.execute(sql(statement)).await;
        assert!(matches!(result, Err(Error::Invalid(_))), "{statement}: {result:?}");
    }
}

async fn a_single_statement_that_fails_half_way_did_nothing(scratch: Scratch) {
    let database = scratch.table(1, Settings::default()).await;
    let failed = database.execute(sql("INSERT INTO t VALUES (2, 'v2'), (1, 'again')")).await;
    assert!(matches!(failed, Err(Error::Constraint(_))), "{failed:?}");
    assert_eq!(count(&database).await, 1);
}

async fn one_row_counted_up_by_many_loses_no_count(scratch: Scratch) {
    let database = scratch.database().await;
    database.execute(sql("CREATE TABLE n (name TEXT PRIMARY KEY, times INTEGER NOT NULL)")).await.unwrap();
    let count = "INSERT INTO n VALUES ('a', 1) ON CONFLICT (name) DO UPDATE SET times = n.times + 1";
    let counts = join_all((0..40).map(|_| database.execute(sql(count)))).await;
    assert!(counts.iter().all(|count| *count == Ok(1)), "{counts:?}");
    assert_eq!(one(&database, "SELECT times FROM n").await, Value::Integer(40));
}

async fn a_closed_database_takes_nothing(scratch: Scratch) {
    let database = scratch.table(1, Settings::default()).await;
    count(&database).await;
    database.close().await;
    assert_eq!(database.execute(insert(2)).await, Err(Error::Unavailable("the database is closed".into())));
    assert_eq!(database.query(sql("SELECT 1")).await, Err(Error::Unavailable("the database is closed".into())));
    assert_eq!(count(&scratch.database().await).await, 1);
}

async fn who_may_only_read_changes_nothing(scratch: Scratch) {
    let database = scratch.table(3, Settings::default()).await;
    let reader = database.read_only();
    assert_eq!(count(&reader).await, 3);
    let values = reader.query(sql("  values (1), (2)")).await.unwrap();
    assert_eq!(values.rows.len(), 2);
    let refused = |error: Error| matches!(error, Error::Unavailable(_));
    for statement in [
        "INSERT INTO t (id, v) VALUES (9, 'x') RETURNING id",
        "UPDATE t SET v = '' RETURNING id",
        "DELETE FROM t RETURNING id",
        "WITH gone AS (SELECT 1) DELETE FROM t RETURNING id",
        "/* SELECT */ DELETE FROM t RETURNING id",
    ] {
        assert!(refused(reader.query(sql(statement)).await.unwrap_err()), "{statement}");
    }
    assert!(refused(reader.execute(insert(9)).await.unwrap_err()));
    assert!(refused(reader.batch(vec![insert(9)]).await.unwrap_err()));
    assert!(refused(reader.begin().await.unwrap_err()));
    assert_eq!(count(&database).await, 3);
}
