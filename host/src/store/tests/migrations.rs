use super::*;

pub(in crate::store) fn migration(version: u32, sql: &str) -> Migration {
    Migration { version, name: format!("step {version}"), sql: sql.into() }
}

pub(in crate::store) fn steps() -> Vec<Migration> {
    vec![
        migration(1, "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT); -- and\n CREATE INDEX v ON t (v);"),
        migration(2, "INSERT INTO t VALUES (1, 'one'); INSERT INTO t VALUES (2, 'two')"),
        migration(3, "ALTER TABLE t ADD COLUMN w INTEGER"),
    ]
}

on_each_backend! {
    each_migration_is_applied_once,
    versions_count_up_from_one,
    an_applied_migration_must_not_change,
    the_migrations_of_another_service_are_told_as_such,
    a_newer_database_is_not_touched,
    a_migration_that_fails_leaves_those_before_it,
    foreign_keys_are_checked_at_the_end_of_a_migration,
}

async fn foreign_keys_are_checked_at_the_end_of_a_migration(scratch: Scratch) {
    let database = scratch.database().await;
    let tables = "CREATE TABLE t (id INTEGER PRIMARY KEY); CREATE TABLE c (t INTEGER NOT NULL REFERENCES t (id));
                  CREATE TABLE d (t INTEGER, FOREIGN KEY (t) REFERENCES t (id) ON DELETE NO ACTION);
                  INSERT INTO c VALUES (1); INSERT INTO d VALUES (1); INSERT INTO t VALUES (1)";
    let away = "DELETE FROM t; INSERT INTO d VALUES (2); INSERT INTO t VALUES (1); INSERT INTO t VALUES (2)";
    let mut steps = vec![migration(1, tables), migration(2, away)];
    assert_eq!(database.migrate(&steps).await, Ok(Applied { from: 0, to: 2 }));
    for (orphans, table) in [("DELETE FROM t WHERE id = 1; DELETE FROM d", "c"), ("INSERT INTO d VALUES (3)", "d")] {
        steps.push(migration(3, orphans));
        let error = database.migrate(&steps).await.unwrap_err().to_string();
        let expected = format!("migration 3 (`step 3`) leaves rows in `{table}` whose rows in `t` do not exist");
        assert_eq!(error, expected);
        steps.pop();
    }
    // For the service they are as ever.
    for orphans in ["DELETE FROM t", "INSERT INTO c VALUES (3)", "INSERT INTO d VALUES (3)"] {
        let refused = database.execute(sql(orphans)).await;
        assert!(matches!(refused, Err(Error::Constraint((Constraint::ForeignKey, _)))), "{orphans}: {refused:?}");
    }
    assert_eq!(count(&database).await, 2);
}

async fn each_migration_is_applied_once(scratch: Scratch) {
    let database = scratch.database().await;
    assert_eq!(database.migrate(&steps()[..2]).await, Ok(Applied { from: 0, to: 2 }));
    assert_eq!(database.migrate(&steps()[..2]).await, Ok(Applied { from: 2, to: 2 }));
    database.close().await;
    let database = scratch.database().await;
    assert_eq!(database.migrate(&steps()).await, Ok(Applied { from: 2, to: 3 }));
    assert_eq!(count(&database).await, 2);
    let record = database.query(sql("SELECT version, name FROM _wharf_migrations")).await.unwrap();
    assert_eq!(record.rows.last().unwrap(), &[Value::Integer(3), text("step 3")]);
}

async fn versions_count_up_from_one(scratch: Scratch) {
    let database = scratch.database().await;
    for (versions, expected, found) in
        [(vec![0], 1, 0), (vec![2], 1, 2), (vec![1, 3], 2, 3), (vec![1, 1], 2, 1), (vec![1, 2, 1], 3, 1)]
    {
        let migrations: Vec<_> = versions.iter().map(|version| migration(*version, "SELECT 1")).collect();
        let name = format!("step {found}");
        assert_eq!(
            database.migrate(&migrations).await,
            Err(MigrateError::Order { expected, found, name }),
            "{versions:?}"
        );
    }
    assert_eq!(one(&database, "SELECT count(*) FROM _wharf_migrations").await, Value::Integer(0));
}

async fn an_applied_migration_must_not_change(scratch: Scratch) {
    let database = scratch.database().await;
    database.migrate(&steps()[..2]).await.unwrap();
    let mut edited = steps();
    edited[1].sql.push(' ');
    let error = database.migrate(&edited).await.unwrap_err();
    assert!(matches!(error, MigrateError::Changed { version: 2, .. }), "{error}");
    assert!(
        error.to_string().starts_with("migration 2 (`step 2`) was changed after it had been applied on 2"),
        "{error}"
    );
}

async fn the_migrations_of_another_service_are_told_as_such(scratch: Scratch) {
    let database = scratch.database().await;
    database.migrate(&steps()).await.unwrap();
    // Also where there are fewer of them: that the component is an older one would be the wrong thing to say.
    let foreign = [Migration { version: 1, name: "create users".into(), sql: "CREATE TABLE users (id)".into() }];
    let error = database.migrate(&foreign).await.unwrap_err();
    let MigrateError::Foreign { version: 1, name, applied, .. } = &error else { panic!("{error}") };
    assert_eq!((name.as_str(), applied.as_str()), ("create users", "step 1"));
    assert!(
        error
            .to_string()
            .starts_with("migration 1 is `create users`, but the one that was applied to this database on 2"),
        "{error}"
    );
    assert_eq!(one(&database, "SELECT count(*) FROM _wharf_migrations").await, Value::Integer(3));
}

async fn a_newer_database_is_not_touched(scratch: Scratch) {
    let database = scratch.database().await;
    database.migrate(&steps()).await.unwrap();
    let error = database.migrate(&steps()[..2]).await;
    let unknown = vec!["step 3".to_owned()];
    assert_eq!(error, Err(MigrateError::Newer { database: 3, component: 2, unknown }));
    let applied = database.applied_migrations().await.unwrap();
    assert_eq!(applied, ["step 1", "step 2", "step 3"]);
}

async fn a_migration_that_fails_leaves_those_before_it(scratch: Scratch) {
    let database = scratch.database().await;
    for bad in [
        "CREATE TABLE x (v TEXT); INSERT INTO t VALUES (1, 'again')",
        "CREATE TABLE x (v TEXT); COMMIT",
        "CREATE TABLE x (v TEXT); DROP TABLE _wharf_migrations",
        "CREATE TABLE x (v TEXT); nonsense",
    ] {
        let mut migrations = steps()[..2].to_vec();
        migrations.push(migration(3, bad));
        let error = database.migrate(&migrations).await.unwrap_err();
        assert!(matches!(error, MigrateError::Failed { version: 3, statement: 2, .. }), "{bad}: {error}");
        assert!(error.to_string().starts_with("migration 3 (`step 3`) failed at its statement 2: "), "{error}");
        assert_eq!(one(&database, "SELECT count(*) FROM _wharf_migrations").await, Value::Integer(2));
        assert!(database.query(sql("SELECT * FROM x")).await.is_err());
    }
    assert_eq!(database.migrate(&steps()).await, Ok(Applied { from: 2, to: 3 }));
}
