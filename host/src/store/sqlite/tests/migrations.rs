use super::*;
use crate::store::tests::migrations::{migration, steps};

#[tokio::test]
async fn a_migration_that_fails_leaves_those_before_it() {
    let scratch = Scratch::sqlite();
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
    let scratch = Scratch::sqlite();
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
