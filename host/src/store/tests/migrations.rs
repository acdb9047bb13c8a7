use super::*;

fn migration(version: u32, sql: &str) -> Migration {
    Migration { version, name: format!("step {version}"), sql: sql.into() }
}

fn steps() -> Vec<Migration> {
    vec![
        migration(1, "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT); -- and\n CREATE INDEX v ON t (v);"),
        migration(2, "INSERT INTO t VALUES (1, 'one'); INSERT INTO t VALUES (2, 'two')"),
        migration(3, "ALTER TABLE t ADD COLUMN w INTEGER"),
    ]
}

#[tokio::test]
async fn each_migration_is_applied_once() {
    let scratch = Scratch::new();
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

#[tokio::test]
async fn versions_count_up_from_one() {
    let scratch = Scratch::new();
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

#[tokio::test]
async fn an_applied_migration_must_not_change() {
    let scratch = Scratch::new();
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

#[tokio::test]
async fn the_migrations_of_another_service_are_told_as_such() {
    let scratch = Scratch::new();
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

#[tokio::test]
async fn a_newer_database_is_not_touched() {
    let scratch = Scratch::new();
    let database = scratch.database().await;
    database.migrate(&steps()).await.unwrap();
    let error = database.migrate(&steps()[..2]).await;
    assert_eq!(error, Err(MigrateError::Newer { database: 3, component: 2 }));
}

#[tokio::test]
async fn a_migration_that_fails_leaves_those_before_it() {
    let scratch = Scratch::new();
    let database = scratch.database().await;
    for bad in [
        "CREATE TABLE x (v); INSERT INTO t VALUES (1, 'again')",
        "CREATE TABLE x (v); INSERT OR ROLLBACK INTO t VALUES (1, 'again')",
        "CREATE TABLE x (v); COMMIT",
        "CREATE TABLE x (v); DROP TABLE _wharf_migrations",
        "CREATE TABLE x (v); ATTACH 'other.sqlite' AS other",
        "CREATE TABLE x (v); nonsense",
    ] {
        let mut migrations = steps()[..2].to_vec();
        migrations.push(migration(3, bad));
        let error = database.migrate(&migrations).await.unwrap_err();
        assert!(matches!(error, MigrateError::Failed { version: 3, statement: 2, .. }), "{bad}: {error}");
        assert!(error.to_string().starts_with("migration 3 (`step 3`) failed at its statement 2: "), "{error}");
        assert_eq!(one(&database, "SELECT count(*) FROM _wharf_migrations").await, Value::Integer(2));
        assert_eq!(one(&database, "SELECT count(*) FROM sqlite_master WHERE name = 'x'").await, Value::Integer(0));
    }
    assert_eq!(database.migrate(&steps()).await, Ok(Applied { from: 2, to: 3 }));
}

#[tokio::test]
async fn a_table_that_others_refer_to_can_be_built_anew() {
    let scratch = Scratch::new();
    let database = scratch.database().await;
    let migrations = [
        migration(
            1,
            "CREATE TABLE t (id INTEGER PRIMARY KEY); CREATE TABLE c (t INTEGER REFERENCES t (id)); INSERT INTO t VALUES (1); INSERT INTO c VALUES (1)",
        ),
        migration(
            2,
            "CREATE TABLE new (id INTEGER PRIMARY KEY, v TEXT NOT NULL DEFAULT ''); INSERT INTO new (id) SELECT id FROM t; DROP TABLE t; ALTER TABLE new RENAME TO t",
        ),
    ];
    assert_eq!(database.migrate(&migrations).await, Ok(Applied { from: 0, to: 2 }));
    assert!(database.execute(sql("INSERT INTO c VALUES (2)")).await.is_err());
    assert_eq!(count(&database).await, 1);
    let orphans = migration(3, "DELETE FROM t");
    let error = database.migrate(&[migrations.as_slice(), &[orphans]].concat()).await.unwrap_err();
    assert_eq!(error.to_string(), "migration 3 (`step 3`) leaves rows in `c` whose rows in `t` do not exist");
    assert!(database.execute(sql("DELETE FROM t")).await.is_err());
    assert_eq!(count(&database).await, 1);
}
