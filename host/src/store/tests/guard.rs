use super::*;

async fn refusal(database: &Database, statement: &str) -> String {
    let errors = [
        database.execute(sql(statement)).await.map(drop),
        database.query(sql(statement)).await.map(drop),
        database.batch(vec![sql(statement)]).await.map(drop),
    ];
    let transaction = database.begin().await.unwrap();
    let inside = transaction.execute(sql(statement)).await.map(drop);
    transaction.rollback().await.unwrap();
    for error in errors {
        assert_eq!(error, inside, "{statement}");
    }
    let Err(Error::Invalid(reason)) = inside else { panic!("{statement}: {inside:?}") };
    reason
}

#[tokio::test]
async fn no_service_names_a_file_or_another_database() {
    let scratch = Scratch::new();
    let other = Database::of_service(&scratch.0, "order", Settings::default()).await.unwrap();
    other.execute(sql("CREATE TABLE secret (v)")).await.unwrap();
    let database = scratch.table(1, Settings::default()).await;
    let path = scratch.0.join("db/order.sqlite");
    let path = path.to_str().unwrap();
    let copy = scratch.0.join("copy.sqlite");
    for statement in [
        format!("ATTACH '{path}' AS other"),
        "DETACH main".into(),
        format!("VACUUM INTO '{}'", copy.display()),
        "VACUUM".into(),
    ] {
        let reason = refusal(&database, &statement).await;
        assert!(reason.contains("VACUUM"), "{statement}: {reason}");
    }
    assert!(!copy.exists());
    for statement in ["SELECT load_extension('x')", "SELECT readfile('/etc/passwd')", "SELECT * FROM secret"] {
        refusal(&database, statement).await;
    }
}

#[tokio::test]
async fn the_connection_stays_as_the_host_made_it() {
    let scratch = Scratch::new();
    let database = scratch.table(1, Settings::default()).await;
    for pragma in
        ["foreign_keys = 0", "journal_mode = DELETE", "writable_schema = 1", "query_only = 0", "defer_foreign_keys = 1"]
    {
        let reason = refusal(&database, &format!("PRAGMA {pragma}")).await;
        assert!(reason.starts_with("PRAGMA"), "{reason}");
    }
    for statement in [
        "CREATE TEMP TABLE x (v)",
        "CREATE TABLE temp.x (v)",
        "CREATE TABLE TEMP.x AS SELECT 1",
        "CREATE VIEW temp.x AS SELECT 1",
        "CREATE TEMP VIEW x AS SELECT 1",
        "CREATE TRIGGER temp.x AFTER INSERT ON t BEGIN SELECT 1; END",
        "CREATE TEMP TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END",
        "INSERT INTO temp.sqlite_master VALUES (1, 2, 3, 4, 5)",
        "CREATE VIRTUAL TABLE x USING fts5(v)",
        "UPDATE sqlite_master SET sql = ''",
        "CREATE TABLE sqlite_x (v)",
    ] {
        refusal(&database, statement).await;
    }
    let columns = database.query(sql("PRAGMA table_info(t)")).await.unwrap();
    assert_eq!(columns.rows.len(), 2);
}

#[tokio::test]
async fn transactions_are_no_statements() {
    let scratch = Scratch::new();
    let database = scratch.table(1, Settings::default()).await;
    for statement in
        ["BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT job", "RELEASE job", "ROLLBACK TO job", "BEGIN IMMEDIATE"]
    {
        let reason = refusal(&database, statement).await;
        assert!(reason.contains("use `batch`, or `begin`"), "{statement}: {reason}");
    }
}

#[tokio::test]
async fn the_hosts_tables_are_not_a_services_to_change() {
    let scratch = Scratch::new();
    let database = scratch.table(1, Settings::default()).await;
    for statement in [
        "DROP TABLE _wharf_migrations",
        "DELETE FROM _WHARF_MIGRATIONS",
        "INSERT INTO _wharf_migrations VALUES (1, '', '', '')",
        "UPDATE _wharf_migrations SET version = 9",
        "ALTER TABLE _wharf_migrations RENAME TO x",
        "CREATE TABLE _Wharf_other (v)",
        "CREATE TRIGGER x AFTER INSERT ON _wharf_migrations BEGIN SELECT 1; END",
        "CREATE UNIQUE INDEX x ON _wharf_migrations (name)",
    ] {
        refusal(&database, statement).await;
    }
    assert_eq!(one(&database, "SELECT count(*) FROM _wharf_migrations").await, Value::Integer(0));
}

#[tokio::test]
async fn one_statement_at_a_time() {
    let scratch = Scratch::new();
    let database = scratch.table(1, Settings::default()).await;
    for statement in ["SELECT 1; SELECT 2", "SELECT 1; nonsense", "SELECT 1\0; DROP TABLE t", "", "  -- nothing\n", ";"]
    {
        refusal(&database, statement).await;
    }
    // As many as fit: must not be a matter of the stack.
    refusal(&database, &"SELECT 1;".repeat(7_000)).await;
    for statement in ["SELECT 1;", "SELECT 1 ; -- the end\n ;;"] {
        assert_eq!(one(&database, statement).await, Value::Integer(1));
    }
    let trigger =
        "CREATE TRIGGER x AFTER INSERT ON t BEGIN DELETE FROM t WHERE id = 1; DELETE FROM t WHERE id = 2; END;";
    assert_eq!(database.execute(sql(trigger)).await, Ok(0));
}

#[tokio::test]
async fn deep_and_wide_statements_are_refused_and_the_host_goes_on() {
    let scratch = Scratch::new();
    let database = scratch.table(1, Settings::default()).await;
    let nested = |open: &str, core: &str, close: &str, depth: usize| {
        format!("SELECT {}{core}{}", open.repeat(depth), close.repeat(depth))
    };
    for statement in [
        nested("(", "1", ")", 30_000),
        nested("(SELECT ", "1", ")", 6_000),
        nested("* FROM (SELECT ", "1", ")", 3_000),
        nested("NOT ", "1", "", 15_000),
        nested("abs(", "1", ")", 10_000),
        format!("SELECT 1 {}", "UNION SELECT 1 ".repeat(4_000)),
        format!("SELECT {}1", "1,".repeat(30_000)),
        format!("SELECT {}1", "1+".repeat(30_000)),
        format!("SELECT * FROM t {}", ", t".repeat(10_000)),
        format!(
            "WITH {} SELECT 1 FROM a200",
            (1..=200).fold("a0 AS (SELECT 1)".to_string(), |with, n| {
                format!("{with}, a{n} AS (SELECT * FROM a{}, a{})", n - 1, n - 1)
            })
        ),
    ] {
        let start = &statement[..40];
        let result = database.query(sql(&statement)).await;
        assert!(result.is_err(), "{start}: {result:?}");
    }
    assert_eq!(count(&database).await, 1);
}

#[tokio::test]
async fn the_host_changes_its_tables_and_no_service_by_its_words() {
    let scratch = Scratch::new();
    let database = scratch.table(0, Settings::default()).await;
    let make = "CREATE TABLE IF NOT EXISTS _wharf_books (id INTEGER PRIMARY KEY, v TEXT)";
    let insert = || with("INSERT INTO _wharf_books VALUES ($1, $2)", [Value::Integer(1), text("one")]);
    let look = || sql("SELECT v FROM _wharf_books");
    assert_eq!(database.host_batch(vec![sql(make), insert()]).await, Ok(vec![0, 1]));
    assert_eq!(database.host_query(look()).await.unwrap().rows, [[text("one")]]);
    assert_eq!(database.host_execute(sql("DELETE FROM _wharf_books")).await, Ok(1));
    // The same words, which the connection has compiled for the host.
    for denied in [make.to_owned(), insert().sql, "DELETE FROM _wharf_books".to_owned()] {
        let reason = refusal(&database, &denied).await;
        assert!(reason.contains("_wharf_"), "{denied}: {reason}");
    }
    let transaction = database.begin().await.unwrap();
    assert_eq!(transaction.host_execute(insert()).await, Ok(1));
    assert!(matches!(transaction.execute(insert()).await, Err(Error::Invalid(_))));
    assert_eq!(transaction.host_query(look()).await.unwrap().rows.len(), 1);
    transaction.rollback().await.unwrap();
    assert_eq!(database.query(look()).await.unwrap().rows.len(), 0);
}
