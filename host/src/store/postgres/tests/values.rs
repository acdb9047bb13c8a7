use super::*;

#[tokio::test]
async fn types_that_only_postgres_has_are_read_and_written_as_texts_and_numbers() {
    let scratch = Scratch::postgres();
    let database = scratch.database().await;
    let columns =
        "b boolean, s smallint, n numeric, m numeric, t timestamptz, u uuid, j jsonb, d date, c varchar(9), f float4";
    database.execute(sql(&format!("CREATE TABLE v ({columns})"))).await.unwrap();
    let id = "0190163d-8694-739b-aea5-966c26f8ad91";
    let values = [
        Value::Integer(1),
        Value::Integer(-7),
        Value::Integer(12),
        text("0.25"),
        text("2026-07-01T12:00:00.5+02:00"),
        text(id),
        text("{\"a\":  1}"),
        text("2026-07-01"),
        text("word"),
        Value::Real(0.5),
    ];
    let insert = "INSERT INTO v VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
    assert_eq!(database.execute(with(insert, values)).await, Ok(1));
    let rows = database.query(sql("SELECT * FROM v")).await.unwrap().rows;
    let expected = [
        Value::Integer(1),
        Value::Integer(-7),
        Value::Integer(12),
        Value::Real(0.25),
        text("2026-07-01T10:00:00.5Z"),
        text(id),
        text("{\"a\": 1}"),
        text("2026-07-01"),
        text("word"),
        Value::Real(0.5),
    ];
    assert_eq!(rows, [expected]);
    assert_eq!(one(&database, "SELECT avg(n) FROM v").await, Value::Integer(12));
    let Err(Error::Invalid(reason)) = database.query(sql("SELECT 1, interval '1 day'")).await else { panic!() };
    assert_eq!(reason, "column 2 of row 1 has the type interval, which no value here has; CAST it AS TEXT");
    assert_eq!(one(&database, "SELECT CAST(interval '1 day' AS TEXT)").await, text("1 day"));
}

#[tokio::test]
async fn what_does_not_fit_is_invalid() {
    let scratch = Scratch::postgres();
    let database = scratch.table(0, Settings::default()).await;
    database.execute(sql("CREATE TABLE b (v BLOB, s smallint)")).await.unwrap();
    for (statement, value) in [
        ("INSERT INTO t VALUES ($1, 'x')", text("one")),
        ("INSERT INTO t VALUES ($1, 'x')", Value::Real(1.5)),
        ("INSERT INTO t VALUES (1, $1)", Value::Blob(vec![1])),
        ("INSERT INTO t VALUES (1, $1)", text("a\0b")),
        ("INSERT INTO b (v) VALUES ($1)", text("text")),
        ("INSERT INTO b (s) VALUES ($1)", Value::Integer(100_000)),
    ] {
        let result = database.execute(with(statement, [value])).await;
        assert!(matches!(result, Err(Error::Invalid(_))), "{statement}: {result:?}");
        let transaction = database.begin().await.unwrap();
        let result = transaction.execute(with(statement, [Value::Blob(vec![1]), Value::Null])).await;
        assert!(matches!(result, Err(Error::Invalid(_))), "{statement}: {result:?}");
        assert_eq!(transaction.execute(insert(7)).await, Ok(1));
        transaction.rollback().await.unwrap();
    }
    assert_eq!(database.execute(with("INSERT INTO t VALUES ($1, 'x')", [Value::Real(2.0)])).await, Ok(1));
}
