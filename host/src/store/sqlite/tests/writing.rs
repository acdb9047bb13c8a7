use super::*;

#[tokio::test]
async fn broken_promises_have_their_kind() {
    let scratch = Scratch::sqlite();
    let database = scratch.table(1, Settings::default()).await;
    let child =
        "CREATE TABLE child (id INTEGER PRIMARY KEY, t INTEGER NOT NULL REFERENCES t (id), n INTEGER CHECK (n > 0))";
    database.execute(sql(child)).await.unwrap();
    let raise = "CREATE TRIGGER no_nine BEFORE INSERT ON t WHEN NEW.id = 9 BEGIN SELECT RAISE(ABORT, 'not nine'); END";
    database.execute(sql(raise)).await.unwrap();
    for (statement, kind, names) in [
        ("INSERT INTO t VALUES (1, 'x')", Constraint::Unique, "t.id"),
        ("INSERT INTO t VALUES (2, 'v1')", Constraint::Unique, "t.v"),
        ("INSERT INTO child VALUES (1, 77, 1)", Constraint::ForeignKey, "FOREIGN KEY"),
        ("INSERT INTO child VALUES (1, NULL, 1)", Constraint::NotNull, "child.t"),
        ("INSERT INTO child VALUES (1, 1, 0)", Constraint::Check, "n > 0"),
        ("INSERT INTO t VALUES (9, 'nine')", Constraint::Other, "not nine"),
    ] {
        let Err(Error::Constraint((found, text))) = database.execute(sql(statement)).await else {
            panic!("{statement}")
        };
        assert_eq!(found, kind, "{statement}");
        assert!(text.contains(names), "{statement}: {text}");
    }
    for statement in ["SELEC 1", "SELECT * FROM nowhere", "INSERT INTO t VALUES (1)", "SELECT \"text\""] {
        let result = database.execute(sql(statement)).await;
        assert!(matches!(result, Err(Error::Invalid(_))), "{statement}: {result:?}");
    }
}

#[tokio::test]
async fn a_single_statement_that_fails_half_way_did_nothing() {
    let scratch = Scratch::sqlite();
    let database = scratch.table(1, Settings::default()).await;
    let failed = database.execute(sql("INSERT OR FAIL INTO t VALUES (2, 'v2'), (1, 'again')")).await;
    assert!(matches!(failed, Err(Error::Constraint(_))), "{failed:?}");
    assert_eq!(count(&database).await, 1);
}

/// Jobs that wait behind a transaction are committed as one group. `bad` is among them and fails; the others don't.
async fn bad_company(bad: &str) {
    let scratch = Scratch::sqlite();
    let database = scratch.table(0, Settings::default()).await;
    let child = "CREATE TABLE child (t INTEGER REFERENCES t (id) DEFERRABLE INITIALLY DEFERRED)";
    database.execute(sql(child)).await.unwrap();
    database.execute(insert(1_000)).await.unwrap();
    let transaction = database.begin().await.unwrap();
    let jobs = (1..=9).map(|id| database.execute(if id == 5 { sql(bad) } else { insert(id) }));
    let (results, commit) = futures::join!(join_all(jobs), transaction.commit());
    assert_eq!(commit, Ok(()));
    for (index, result) in results.iter().enumerate() {
        assert_eq!(result.is_ok(), index != 4, "{bad}: job {index}: {result:?}");
    }
    assert_eq!(count(&database).await, 9);
    assert_eq!(one(&database, "SELECT count(*) FROM child").await, Value::Integer(0));
}

#[tokio::test]
async fn one_bad_job_in_a_group_harms_no_other() {
    // It fails by itself; it keeps what it did before it failed; it ends everybody's transaction; it fails at the end.
    bad_company("INSERT INTO t VALUES (1000, 'x')").await;
    bad_company("INSERT OR FAIL INTO t VALUES (2000, 'x'), (1000, 'x')").await;
    bad_company("INSERT OR ROLLBACK INTO t VALUES (1000, 'x')").await;
    bad_company("INSERT INTO child VALUES (99)").await;
}

#[tokio::test]
async fn a_job_that_nobody_waits_for_is_not_begun() {
    let scratch = Scratch::sqlite();
    let database = scratch.table(0, Settings::default()).await;
    let transaction = database.begin().await.unwrap();
    assert!(database.execute(insert(1)).now_or_never().is_none());
    transaction.commit().await.unwrap();
    assert_eq!(database.execute(insert(2)).await, Ok(1));
    assert_eq!(one(&database, "SELECT id FROM t").await, Value::Integer(2));
}

#[tokio::test]
async fn closing_finishes_what_waits_and_leaves_one_file() {
    let scratch = Scratch::sqlite();
    let database = scratch.table(10, Settings::default()).await;
    count(&database).await;
    let waiting = tokio::spawn({
        let database = database.clone();
        async move { database.execute(insert(11)).await }
    });
    tokio::task::yield_now().await;
    database.close().await;
    assert_eq!(waiting.await.unwrap(), Ok(1));
    assert_eq!(database.execute(insert(12)).await, Err(Error::Unavailable("the database is closed".into())));
    assert_eq!(database.query(sql("SELECT 1")).await, Err(Error::Unavailable("the database is closed".into())));
    let files: Vec<_> =
        std::fs::read_dir(scratch.folder().join("db")).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(files, ["user.sqlite"]);
    assert_eq!(count(&scratch.database().await).await, 11);
}

#[tokio::test]
async fn errors_at_opening_name_the_file() {
    let scratch = Scratch::sqlite();
    let file = scratch.folder().join("db");
    std::fs::create_dir(&file).unwrap();
    let file = file.join("user.sqlite");
    std::fs::write(&file, "this is no database, but it is long enough to look like a header").unwrap();
    let error = Database::open(file.clone(), Settings::default()).await.unwrap_err().to_string();
    assert!(error.contains("user.sqlite") && error.contains("not a database"), "{error}");

    let inside = file.join("x").join("y.sqlite");
    let error = Database::open(inside, Settings::default()).await.unwrap_err().to_string();
    assert!(error.contains("user.sqlite"), "{error}");

    for name in ["", "../user", "User", "a/b", "1a"] {
        let error = Database::of_service(scratch.folder(), name, Settings::default()).await.unwrap_err();
        assert!(matches!(error, OpenError::Name(_)), "{error}");
    }
}
