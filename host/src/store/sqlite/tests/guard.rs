use super::*;
use crate::store::tests::guard::refusal;

#[tokio::test]
async fn no_service_names_a_file_or_another_database() {
    let scratch = Scratch::sqlite();
    let other = Database::of_service(scratch.folder(), "order", Settings::default()).await.unwrap();
    other.execute(sql("CREATE TABLE secret (v)")).await.unwrap();
    let database = scratch.table(1, Settings::default()).await;
    let path = scratch.folder().join("db/order.sqlite");
    let path = path.to_str().unwrap();
    let copy = scratch.folder().join("copy.sqlite");
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
    let scratch = Scratch::sqlite();
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
async fn one_statement_at_a_time() {
    let scratch = Scratch::sqlite();
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
    let scratch = Scratch::sqlite();
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
