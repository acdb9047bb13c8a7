use super::*;

#[tokio::test]
async fn every_kind_of_value_comes_back_as_it_went() {
    let scratch = Scratch::sqlite();
    let database = scratch.database().await;
    let values = vec![
        Value::Null,
        Value::Integer(i64::MIN),
        Value::Real(-0.1),
        text("naïve \0 日本"),
        text(""),
        Value::Blob(vec![0, 255]),
        Value::Blob(vec![]),
    ];
    let query = with("SELECT $1 AS a, $2, $3, $4, $5, $6, $7", values.clone());
    let Rows { columns, rows } = database.query(query).await.unwrap();
    assert_eq!((columns.len(), columns[0].as_str()), (7, "a"));
    assert_eq!(rows, [values]);
}

#[tokio::test]
async fn the_number_of_parameters_must_be_right() {
    let scratch = Scratch::sqlite();
    let database = scratch.database().await;
    for (query, params, expected) in [
        ("SELECT $1", 0, "the statement takes 1 parameters, 0 were given"),
        ("SELECT $1", 2, "the statement takes 1 parameters, 2 were given"),
        ("SELECT 1", 1, "the statement takes 0 parameters, 1 were given"),
        ("SELECT $2", 2, "$2 leaves a gap: there are 1 parameters, $1 to $1"),
        ("SELECT ?", 1, "`?` is not a parameter; expected `$1`, `$2`, …"),
        ("SELECT ?1", 1, "`?1` is not a parameter; expected `$1`, `$2`, …"),
        ("SELECT :name", 1, "`:name` is not a parameter; expected `$1`, `$2`, …"),
        ("SELECT $01", 1, "`$01` is not a parameter; expected `$1`, `$2`, …"),
        ("SELECT $0", 1, "`$0` is not a parameter; expected `$1`, `$2`, …"),
        ("SELECT $1::text", 1, "`$1::text` is not a parameter; expected `$1`, `$2`, …"),
    ] {
        let statement = with(query, std::iter::repeat_n(Value::Null, params));
        assert_eq!(database.query(statement).await, Err(Error::Invalid(expected.into())), "{query}");
    }
}

#[tokio::test]
async fn text_that_is_not_utf8_is_an_error_and_its_bytes_can_be_read() {
    let scratch = Scratch::sqlite();
    let database = scratch.database().await;
    let error = database.query(sql("SELECT 1, CAST(x'ff' AS TEXT)")).await.unwrap_err();
    let expected = "column 2 of row 1 holds text that is not UTF-8; CAST it AS BLOB to read it";
    assert_eq!(error, Error::Invalid(expected.into()));
    assert_eq!(one(&database, "SELECT CAST(CAST(x'ff' AS TEXT) AS BLOB)").await, Value::Blob(vec![255]));
}

#[tokio::test]
async fn a_statement_that_was_quick_answers_without_leaving_the_thread() {
    let scratch = Scratch::sqlite();
    let database = scratch.table(100, Settings::default()).await;
    let point = || with("SELECT v FROM t WHERE id = $1", [Value::Integer(42)]);
    let mut at_once = false;
    for _ in 0..1_000 {
        let mut query = Box::pin(database.query(point()));
        let rows = match query.as_mut().now_or_never() {
            Some(rows) => {
                at_once = true;
                rows
            }
            None => query.await,
        };
        assert_eq!(rows.unwrap().rows, [[text("v42")]]);
    }
    assert!(at_once);
}

#[tokio::test]
async fn a_quick_statement_that_turns_slow_still_gets_its_answer() {
    let scratch = Scratch::sqlite();
    let database = scratch.database().await;
    let sum = |to| {
        let recursive =
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1) SELECT sum(i) FROM n";
        with(recursive, [Value::Integer(to)])
    };
    for _ in 0..20 {
        assert_eq!(database.query(sum(10)).await.unwrap().rows, [[Value::Integer(55)]]);
    }
    assert_eq!(database.query(sum(100_000)).await.unwrap().rows, [[Value::Integer(5_000_050_000)]]);
    assert_eq!(database.query(sum(10)).await.unwrap().rows, [[Value::Integer(55)]]);
}
