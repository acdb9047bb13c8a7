use super::*;

pub(in crate::store) async fn refusal(database: &Database, statement: &str) -> String {
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

on_each_backend! {
    transactions_are_no_statements,
    the_hosts_tables_are_not_a_services_to_change,
    the_host_changes_its_tables_and_no_service_by_its_words,
    one_statement_at_a_time,
}

async fn transactions_are_no_statements(scratch: Scratch) {
    let database = scratch.table(1, Settings::default()).await;
    for statement in
        ["BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT job", "RELEASE job", "ROLLBACK TO job", "BEGIN IMMEDIATE"]
    {
        let reason = refusal(&database, statement).await;
        assert!(reason.contains("use `batch`, or `begin`"), "{statement}: {reason}");
    }
}

async fn the_hosts_tables_are_not_a_services_to_change(scratch: Scratch) {
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

async fn the_host_changes_its_tables_and_no_service_by_its_words(scratch: Scratch) {
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

async fn one_statement_at_a_time(scratch: Scratch) {
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
}
