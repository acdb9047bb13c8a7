use super::*;

on_each_backend! {
    parameters_go_by_number_not_by_order,
    a_query_sees_every_write_acknowledged_before_it,
    readers_go_on_during_a_write_transaction_and_see_what_was_before,
    compiled_statements_follow_a_changed_schema,
    an_abandoned_query_leaves_no_session_lost,
    a_query_that_writes_returns_rows_and_is_seen,
    every_kind_of_value_comes_back_as_it_went,
    the_number_of_parameters_must_be_right,
    texts_sort_by_their_bytes,
}

async fn parameters_go_by_number_not_by_order(scratch: Scratch) {
    let database = scratch.database().await;
    let query = with("SELECT $2 || $1 || $2", [text("a"), text("b")]);
    assert_eq!(database.query(query).await.unwrap().rows, [[text("bab")]]);
}

async fn a_query_sees_every_write_acknowledged_before_it(scratch: Scratch) {
    let database = scratch.table(0, Settings::default()).await;
    for id in 1..=500 {
        database.execute(insert(id)).await.unwrap();
        assert_eq!(count(&database).await, id);
    }
}

async fn readers_go_on_during_a_write_transaction_and_see_what_was_before(scratch: Scratch) {
    let database = scratch.table(10, Settings::default()).await;
    let transaction = database.begin().await.unwrap();
    for id in 11..=20 {
        transaction.execute(insert(id)).await.unwrap();
        let counts = join_all((0..8).map(|_| count(&database))).await;
        assert_eq!(counts, [10; 8]);
    }
    transaction.commit().await.unwrap();
    assert_eq!(count(&database).await, 20);
}

async fn compiled_statements_follow_a_changed_schema(scratch: Scratch) {
    let database = scratch.table(1, Settings::default()).await;
    let all = || sql("SELECT * FROM t");
    for _ in 0..3 {
        assert_eq!(database.query(all()).await.unwrap().columns, ["id", "v"]);
    }
    database.execute(sql("ALTER TABLE t ADD COLUMN w INTEGER DEFAULT 3")).await.unwrap();
    let rows = database.query(all()).await.unwrap();
    assert_eq!((rows.columns.len(), &rows.rows[0][2]), (3, &Value::Integer(3)));
}

async fn an_abandoned_query_leaves_no_session_lost(scratch: Scratch) {
    let database = scratch.table(10, Settings { readers: 2, ..Settings::default() }).await;
    for n in 0..20 {
        // Each text is new, so each of them goes to a blocking thread, where nobody waits for it.
        let query = database.query(sql(&format!("SELECT {n}")));
        assert!(query.now_or_never().is_none());
    }
    assert_eq!(count(&database).await, 10);
    database.close().await;
}

async fn a_query_that_writes_returns_rows_and_is_seen(scratch: Scratch) {
    let database = scratch.table(0, Settings::default()).await;
    let returned = database.query(sql("INSERT INTO t VALUES (7, 'x') RETURNING id")).await.unwrap();
    assert_eq!(returned.rows, [[Value::Integer(7)]]);
    // It begins as a query does, so a reader finds out that it isn't one.
    let insert = "WITH n(v) AS (VALUES ('y')) INSERT INTO t (id, v) SELECT 8, v FROM n RETURNING id";
    assert_eq!(database.query(sql(insert)).await.unwrap().rows, [[Value::Integer(8)]]);
    assert_eq!(count(&database).await, 2);
}

async fn every_kind_of_value_comes_back_as_it_went(scratch: Scratch) {
    let database = scratch.database().await;
    let columns = "n TEXT, i INTEGER, r REAL, t TEXT, e TEXT, b BLOB, z BLOB";
    database.execute(sql(&format!("CREATE TABLE v ({columns}) STRICT"))).await.unwrap();
    let values = vec![
        Value::Null,
        Value::Integer(i64::MIN),
        Value::Real(-0.1),
        text("naïve \u{1} 日本"),
        text(""),
        Value::Blob(vec![0, 255]),
        Value::Blob(vec![]),
    ];
    database.execute(with("INSERT INTO v VALUES ($1, $2, $3, $4, $5, $6, $7)", values.clone())).await.unwrap();
    let nulls = vec![Value::Null; 7];
    database.execute(with("INSERT INTO v VALUES ($1, $2, $3, $4, $5, $6, $7)", nulls.clone())).await.unwrap();
    let Rows { columns, rows } = database.query(sql("SELECT * FROM v ORDER BY i")).await.unwrap();
    assert_eq!(columns, ["n", "i", "r", "t", "e", "b", "z"]);
    assert!(rows == [values.clone(), nulls.clone()] || rows == [nulls, values], "{rows:?}");
    assert_eq!(one(&database, "SELECT b FROM v WHERE b = x'00ff'").await, Value::Blob(vec![0, 255]));
    assert_eq!(one(&database, "SELECT CAST('12' AS INTEGER)").await, Value::Integer(12));
    assert_eq!(one(&database, "SELECT CAST(1 AS REAL) / 2").await, Value::Real(0.5));
    assert_eq!(one(&database, "SELECT sum(i) FROM v").await, Value::Integer(i64::MIN));
}

async fn the_number_of_parameters_must_be_right(scratch: Scratch) {
    let database = scratch.database().await;
    for (query, params, expected) in [
        ("SELECT $1", 0, "the statement takes 1 parameters, 0 were given"),
        ("SELECT $1", 2, "the statement takes 1 parameters, 2 were given"),
        ("SELECT 1", 1, "the statement takes 0 parameters, 1 were given"),
        ("SELECT $2", 2, "$2 leaves a gap: there are 1 parameters, $1 to $1"),
        ("SELECT $01", 1, "`$01` is not a parameter; expected `$1`, `$2`, …"),
        ("SELECT $0", 1, "`$0` is not a parameter; expected `$1`, `$2`, …"),
    ] {
        let statement = with(query, std::iter::repeat_n(Value::Null, params));
        assert_eq!(database.query(statement).await, Err(Error::Invalid(expected.into())), "{query}");
    }
}

async fn texts_sort_by_their_bytes(scratch: Scratch) {
    let database = scratch.table(0, Settings::default()).await;
    for (id, name) in (1..).zip(["b", "A", "é", "a", "B", "_"]) {
        database.execute(with("INSERT INTO t VALUES ($1, $2)", [Value::Integer(id), text(name)])).await.unwrap();
    }
    let rows = database.query(sql("SELECT v FROM t ORDER BY v")).await.unwrap().rows;
    assert_eq!(rows.concat(), ["A", "B", "_", "a", "b", "é"].map(text));
    let rows = database.query(sql("SELECT v FROM t WHERE lower(v) = 'a' AND v > 'A'")).await.unwrap().rows;
    assert_eq!(rows.concat(), [text("a")]);
}
