use super::*;
use crate::store::{
    postgres::{Postgres, connection::Connection, pool::Lease},
    tests::migrations::migration,
};

fn backend(database: &Database) -> &Postgres {
    let Backend::Postgres(postgres) = &database.backend else { panic!("it is not on a server") };
    postgres
}

/// A connection of the service, for what the guard would refuse.
async fn unguarded(database: &Database) -> Lease {
    backend(database).0.service.take().await.unwrap()
}

/// What PostgreSQL itself says against it.
async fn denied(connection: &Connection, statement: &str) -> String {
    let failure = connection.say(statement).await.expect_err(statement);
    connection.roll_back().await;
    let error = connection.explain(failure, None, Duration::ZERO);
    let (Error::Invalid(reason) | Error::Unavailable(reason)) = &error else { panic!("{statement}: {error:?}") };
    reason.clone()
}

/// Two services, `user` with a table `t` and a row, and `order`.
async fn neighbours(scratch: &Scratch) -> (Database, Database) {
    (scratch.table(1, Settings::default()).await, scratch.of("order", Settings::default()).await)
}

#[tokio::test]
async fn no_service_opens_the_schema_of_another() {
    let scratch = Scratch::postgres();
    let (user, order) = neighbours(&scratch).await;
    for statement in [
        "SELECT * FROM test_user.t",
        "SELECT * FROM \"test_user\".\"t\"",
        "INSERT INTO test_user.t VALUES (2, 'x')",
        "DELETE FROM test_user.t",
        "CREATE TABLE test_user.x (v TEXT)",
        "DROP TABLE test_user.t",
        "CREATE TABLE mine (t INTEGER REFERENCES test_user.t (id))",
        "CREATE VIEW test_user.x AS SELECT 1",
        "ALTER TABLE test_user.t ADD COLUMN x TEXT",
        "SELECT * FROM test_user_wharf._wharf_migrations",
        "SELECT * FROM test_wharf.services",
        "SELECT passwd FROM pg_shadow",
        "SELECT rolpassword FROM pg_authid",
    ] {
        let result = order.query(sql(statement)).await;
        assert!(matches!(result, Err(Error::Invalid(_))), "{statement}: {result:?}");
        let transaction = order.begin().await.unwrap();
        let result = transaction.execute(sql(statement)).await;
        assert!(matches!(result, Err(Error::Invalid(_))), "{statement}: {result:?}");
        transaction.rollback().await.unwrap();
    }
    // A view of one's own is no way either.
    let result = order.execute(sql("CREATE VIEW mine AS SELECT * FROM test_user.t")).await;
    assert!(matches!(result, Err(Error::Invalid(_))), "{result:?}");
    assert_eq!(count(&user).await, 1);
}

#[tokio::test]
async fn no_word_gets_past_the_role_even_without_the_guard() {
    let scratch = Scratch::postgres();
    let (user, order) = neighbours(&scratch).await;
    let (_, name) = scratch.server();
    let connection = unguarded(&order).await;
    for statement in [
        "SET ROLE owner".to_owned(),
        format!("SET ROLE \"test_user@{name}\""),
        "SET SESSION AUTHORIZATION owner".into(),
        "RESET ROLE; SELECT * FROM test_user.t".into(),
        "RESET SESSION AUTHORIZATION; SELECT * FROM test_user.t".into(),
        "SELECT set_config('role', 'owner', false)".into(),
        "SET search_path = test_user; SELECT * FROM t".into(),
        "DO $$ BEGIN EXECUTE 'SELECT * FROM test_user.t'; END $$".into(),
        "SELECT query_to_xml('SELECT * FROM test_user.t', true, true, '')".into(),
        "CREATE FUNCTION f() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT v FROM test_user.t'".into(),
        "COPY test_user.t TO STDOUT".into(),
        "COPY (SELECT 1) TO PROGRAM 'true'".into(),
        "COPY pg_class TO '/tmp/x'".into(),
        "SELECT pg_read_file('/etc/passwd')".into(),
        "SELECT lo_import('/etc/passwd')".into(),
        "SELECT * FROM pg_ls_dir('/')".into(),
        "CREATE EXTENSION dblink".into(),
        "CREATE SCHEMA mine".into(),
        "CREATE ROLE mine".into(),
        "CREATE DATABASE mine".into(),
        "ALTER SYSTEM SET fsync = off".into(),
        format!("ALTER ROLE \"test_user@{name}\" PASSWORD 'known'"),
        format!("GRANT \"test_user@{name}\" TO \"test_order@{name}\""),
        "GRANT USAGE ON SCHEMA test_user TO PUBLIC".into(),
        "CREATE TABLE public.x (v text)".into(),
        "DROP SCHEMA test_order CASCADE".into(),
        "DROP TABLE test_order_wharf._wharf_migrations".into(),
        "ALTER TABLE _wharf_migrations DISABLE TRIGGER ALL".into(),
        "CREATE TRIGGER x AFTER INSERT ON _wharf_migrations EXECUTE FUNCTION suppress_redundant_updates_trigger()"
            .into(),
        "CREATE TABLE test_order_wharf._wharf_mine (v text)".into(),
        "INSERT INTO _wharf_migrations VALUES (1, '', '', '')".into(),
        "SET wharf.key = 'guessed'; INSERT INTO _wharf_migrations VALUES (1, '', '', '')".into(),
        "BEGIN; SET session_replication_role = replica".into(),
        "TRUNCATE _wharf_migrations".into(),
    ] {
        denied(&connection, &statement).await;
    }
    assert_eq!(count(&user).await, 1);
}

#[tokio::test]
async fn what_a_connection_would_keep_for_others_is_refused() {
    let scratch = Scratch::postgres();
    let database = scratch.table(1, Settings::default()).await;
    for statement in [
        "SET search_path = public",
        "RESET ALL",
        "DISCARD ALL",
        "LISTEN x",
        "LOCK TABLE t",
        "COPY t TO STDOUT",
        "DO $$ BEGIN END $$",
        "CALL f()",
        "GRANT SELECT ON t TO PUBLIC",
        "PREPARE x AS SELECT 1",
        "EXECUTE x",
        "DECLARE c CURSOR FOR SELECT 1",
        "CREATE TEMP TABLE x (v TEXT)",
        "CREATE TEMPORARY VIEW x AS SELECT 1",
        "CREATE TABLE pg_temp.x (v TEXT)",
        "SELECT 1 INTO TEMP x",
        "CREATE OR REPLACE TEMP VIEW x AS SELECT 1",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE TRIGGER x AFTER INSERT ON t EXECUTE FUNCTION f()",
        "CREATE EXTENSION dblink",
        "CREATE SCHEMA x",
        "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC",
        "SELECT set_config('statement_timeout', '0', false)",
        "SELECT \"set_config\"('statement_timeout', '0', false)",
        "SELECT U&\"set_confi\\0067\"('statement_timeout', '0', false)",
        "SELECT pg_catalog . set_config /* */ ('statement_timeout', '0', false)",
        "WITH x AS (SELECT set_config('a.b', 'c', false)) SELECT * FROM x",
        "SELECT query_to_xml('SELECT set_config(''a.b'', ''c'', false)', true, true, '')",
        "SELECT pg_advisory_lock(1)",
        "SELECT pg_terminate_backend(1)",
        "SELECT lo_create(1)",
        "VACUUM t",
    ] {
        let error = database.query(sql(statement)).await;
        assert!(matches!(error, Err(Error::Invalid(_))), "{statement}: {error:?}");
    }
    assert_eq!(one(&database, "SELECT 'SET ROLE; set_config' || '' AS v").await, text("SET ROLE; set_config"));
}

#[tokio::test]
async fn the_key_is_nowhere_to_be_seen_by_the_service() {
    let scratch = Scratch::postgres();
    let database = scratch.table(0, Settings::default()).await;
    database.host_batch(vec![sql("CREATE TABLE _wharf_books (id INTEGER PRIMARY KEY, v TEXT)")]).await.unwrap();
    let book = |id| with("INSERT INTO _wharf_books VALUES ($1, 'x')", [Value::Integer(id)]);
    // Code of the service that would run within the host's statement, if the host could be led to it.
    let connection = unguarded(&database).await;
    connection
        .say(
            "CREATE TABLE seen (v text);
             CREATE FUNCTION test_user.note() RETURNS trigger LANGUAGE plpgsql AS
               'BEGIN INSERT INTO test_user.seen VALUES (current_setting(''wharf.key'', true)); RETURN NULL; END';
             CREATE TABLE _wharf_books (id bigint, v text);
             CREATE TEMP TABLE _wharf_books (id bigint, v text);
             CREATE TRIGGER note AFTER INSERT ON pg_temp._wharf_books FOR EACH ROW EXECUTE FUNCTION test_user.note();
             CREATE TRIGGER note AFTER INSERT ON test_user._wharf_books FOR EACH ROW EXECUTE FUNCTION test_user.note();
             CREATE FUNCTION test_user.lower(bigint) RETURNS text LANGUAGE sql AS
               'INSERT INTO test_user.seen VALUES (current_setting(''wharf.key'', true)) RETURNING v'",
        )
        .await
        .unwrap();
    drop(connection);
    let transaction = database.begin().await.unwrap();
    assert_eq!(transaction.host_execute(book(1)).await, Ok(1));
    assert!(transaction.host_query(sql("SELECT lower(id) FROM _wharf_books")).await.is_err());
    let key = transaction.query(sql("SELECT current_setting('wharf.key', true)")).await.unwrap();
    assert_eq!(key.rows, [[text("")]]);
    assert!(transaction.execute(book(2)).await.is_err());
    let failed = transaction.host_execute(book(1)).await;
    assert!(matches!(failed, Err(Error::Constraint((Constraint::Unique, _)))), "{failed:?}");
    let key = transaction.query(sql("SELECT current_setting('wharf.key', true)")).await.unwrap();
    assert_eq!(key.rows, [[text("")]]);
    assert_eq!(transaction.query(sql("SELECT * FROM seen")).await.unwrap().rows.len(), 0);
    transaction.commit().await.unwrap();
    assert_eq!(database.host_query(sql("SELECT id FROM _wharf_books")).await.unwrap().rows, [[Value::Integer(1)]]);
    let connection = unguarded(&database).await;
    for statement in
        ["INSERT INTO test_user_wharf._wharf_books VALUES (3, '')", "UPDATE test_user_wharf._wharf_books SET v = ''"]
    {
        assert!(denied(&connection, statement).await.contains("the host's"), "{statement}");
    }
}

#[tokio::test]
async fn a_role_that_could_do_more_is_refused() {
    let scratch = Scratch::postgres();
    let (_, name) = scratch.server();
    let (service, none) = (format!("svc_{name}"), format!("plain_{name}"));
    postgres().psql(
        name,
        &format!(
            "CREATE ROLE {service} LOGIN PASSWORD 'x'; CREATE ROLE {none} LOGIN PASSWORD 'x';
             GRANT CREATE ON DATABASE {name} TO {service}, {none}"
        ),
    );
    let own = postgres().url_of(&service, "x", name);
    let open = async |server: &Server, service: &str, url: Option<&str>| {
        Database::on_server(server, service, url, Settings::default())
            .await
            .map(drop)
            .map_err(|error| error.to_string())
    };
    // The URL's role can't make roles.
    let poor = Server::new(settings_of(postgres().url_of(&none, "x", name))).unwrap();
    let error = open(&poor, "user", None).await.unwrap_err();
    assert!(error.contains("may not create roles") && error.contains("CREATEROLE"), "{error}");
    // A service's own role.
    let database = Database::on_server(&poor, "user", Some(&own), Settings::default()).await.unwrap();
    database.execute(sql("CREATE TABLE t (v TEXT)")).await.unwrap();
    assert!(matches!(database.execute(sql("DELETE FROM _wharf_migrations")).await, Err(Error::Invalid(_))));
    // The same for two services.
    let error = open(&poor, "order", Some(&own)).await.unwrap_err();
    assert!(error.contains("two services have the role"), "{error}");
    let again = Server::new(settings_of(postgres().url_of(&none, "x", name))).unwrap();
    let error = open(&again, "order", Some(&own)).await.unwrap_err();
    assert!(error.contains("can open the schema `test_user"), "{error}");
    // One that is more than a service's.
    let error = open(&again, "product", Some(&postgres().url(name))).await.unwrap_err();
    assert!(error.contains("is a superuser"), "{error}");
    postgres().psql(name, &format!("GRANT pg_read_all_data TO {none}"));
    let error = open(&again, "product", Some(&postgres().url_of(&none, "x", name))).await.unwrap_err();
    assert!(error.contains("is a member of `pg_read_all_data`"), "{error}");
}

#[tokio::test]
async fn an_owner_without_all_rights_is_enough() {
    let scratch = Scratch::postgres();
    let (_, name) = scratch.server();
    let owner = format!("owner_{name}");
    postgres().psql(
        name,
        &format!("CREATE ROLE {owner} LOGIN CREATEROLE PASSWORD 'x'; GRANT CREATE ON DATABASE {name} TO {owner}"),
    );
    let server = Server::new(settings_of(postgres().url_of(&owner, "x", name))).unwrap();
    for _ in 0..2 {
        let database = Database::on_server(&server, "user", None, Settings::default()).await.unwrap();
        database.execute(sql("CREATE TABLE IF NOT EXISTS t (v TEXT)")).await.unwrap();
        database.host_execute(sql("CREATE TABLE IF NOT EXISTS _wharf_x (v TEXT)")).await.unwrap();
        database.close().await;
    }
    // It can back up what is the services'.
    let dump = postgres().dump(&postgres().url_of(&owner, "x", name));
    assert!(dump.contains("CREATE TABLE test_user.t") && dump.contains("CREATE TABLE test_wharf.services"), "{dump}");
    // A role of that name that somebody else has made is not taken over.
    postgres().psql(name, &format!("CREATE ROLE \"test_order@{name}\" LOGIN SUPERUSER"));
    let error = Database::on_server(&server, "order", None, Settings::default()).await.unwrap_err().to_string();
    assert!(error.contains("Wharf did not make it"), "{error}");
}

/// A service with a URL of its own, whose role therefore owns the host's tables too, with a table `t` and a row. No fence
/// but the guard is around those.
async fn owning(scratch: &Scratch) -> Database {
    let (_, name) = scratch.server();
    let role = format!("svc_{name}");
    postgres().psql(
        name,
        &format!("CREATE ROLE {role} LOGIN PASSWORD 'x'; GRANT CREATE ON DATABASE {name} TO {role}; CREATE EXTENSION tablefunc"),
    );
    let server = Server::new(settings_of(postgres().url(name))).unwrap();
    let own = postgres().url_of(&role, "x", name);
    let database = Database::on_server(&server, "user", Some(&own), Settings::default()).await.unwrap();
    database.execute(sql("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT UNIQUE)")).await.unwrap();
    database.execute(insert(1)).await.unwrap();
    let books = "CREATE TABLE _wharf_books (id BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, v TEXT)";
    database.host_execute(sql(books)).await.unwrap();
    database.host_execute(sql("INSERT INTO _wharf_books (v) VALUES ('kept')")).await.unwrap();
    database
}

/// All of the host's tables that a service might spoil: what they are, what keeps them, what is in them.
fn books(scratch: &Scratch) -> String {
    let (_, name) = scratch.server();
    let look = "SELECT relname, relkind, relowner, relrowsecurity, reltriggers FROM (SELECT relname, relkind, relowner, \
                relrowsecurity, (SELECT array_agg(tgname::text || tgenabled::text ORDER BY tgname) FROM pg_trigger t \
                WHERE t.tgrelid = c.oid) AS reltriggers FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace \
                WHERE nspname = 'test_user_wharf') AS all_of_it ORDER BY relname; \
                SELECT * FROM test_user_wharf._wharf_books; SELECT * FROM test_user_wharf._wharf_books_id_seq; \
                SELECT count(*) FROM test_user_wharf._wharf_migrations; \
                SELECT nspname, relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace \
                WHERE relname LIKE '\\_wharf%' ORDER BY 1, 2";
    postgres().psql(name, look)
}

/// What would spoil the host's tables, each in another way.
const ATTACKS: &[&str] = &[
    // By their names, in every way in which they can be written.
    "DELETE FROM _wharf_books",
    "DELETE FROM test_user_wharf._wharf_books",
    "DELETE FROM \"test_user_wharf\".\"_wharf_books\"",
    "DELETE FROM test_user_wharf . /* so */ _WHARF_books",
    "DELETE FROM U&\"\\005fwharf_books\"",
    "DELETE FROM U&\"!005fwharf_books\" UESCAPE '!'",
    "UPDATE ONLY _wharf_books SET v = 'x'",
    "TRUNCATE t, _wharf_books",
    "DROP TABLE t, _wharf_books CASCADE",
    "MERGE INTO _wharf_books USING t ON true WHEN MATCHED THEN DELETE",
    "WITH gone AS (DELETE FROM _wharf_books RETURNING *) SELECT * FROM gone",
    "(WITH gone AS (DELETE FROM _wharf_books RETURNING *) SELECT * FROM gone)",
    "INSERT INTO t SELECT 2, v FROM t RETURNING (SELECT v FROM _wharf_books)",
    // By another name for them.
    "CREATE VIEW v AS SELECT * FROM _wharf_books",
    "CREATE VIEW v AS TABLE \"_wharf_books\"",
    "ALTER TABLE _wharf_books RENAME TO mine",
    "ALTER TABLE _wharf_books SET SCHEMA test_user",
    "CREATE TABLE mine () INHERITS (_wharf_books)",
    "ALTER TABLE _wharf_books INHERIT t",
    "CREATE TABLE mine (b BIGINT REFERENCES _wharf_books (id) ON DELETE CASCADE)",
    // By what belongs to them.
    "ALTER TABLE _wharf_books DISABLE TRIGGER ALL",
    "ALTER TABLE _wharf_books OWNER TO CURRENT_USER",
    "ALTER TABLE _wharf_books ENABLE ROW LEVEL SECURITY",
    "CREATE UNIQUE INDEX mine ON _wharf_books ((1))",
    "DROP INDEX _wharf_books_pkey",
    "ALTER INDEX _wharf_books_pkey RENAME TO x",
    "ALTER SEQUENCE _wharf_books_id_seq RESTART WITH 9",
    "SELECT setval('_wharf_books_id_seq', 9)",
    "SELECT setval(('_wha' || 'rf_books_id_seq')::regclass, 9)",
    "SELECT \"setval\"('_wharf_books_id_seq', 9)",
    "DROP FUNCTION test_user_wharf._wharf_only_host() CASCADE",
    "DROP SCHEMA test_user_wharf CASCADE",
    "ALTER SCHEMA test_user_wharf RENAME TO mine",
    "GRANT ALL ON _wharf_books TO PUBLIC",
    "REASSIGN OWNED BY CURRENT_USER TO CURRENT_USER",
    "DROP OWNED BY CURRENT_USER",
    "ALTER TABLE ALL IN TABLESPACE pg_default SET TABLESPACE pg_default",
    "COMMENT ON TABLE _wharf_books IS 'x'",
    "LOCK TABLE _wharf_books",
    "SELECT * FROM _wharf_books FOR UPDATE",
    "SELECT * FROM _wharf_books LIMIT 1 FOR NO KEY UPDATE",
    "SELECT * FROM _wharf_books LIMIT 1FOR UPDATE",
    // By taking their place.
    "CREATE TABLE _wharf_inbox (v TEXT)",
    "SELECT 1 AS v INTO _wharf_inbox",
    "SELECT 1 AS v INTO test_user_wharf._wharf_inbox",
    "WITH one AS (SELECT 1 AS v) SELECT * INTO _wharf_inbox FROM one",
    "WITH one AS (SELECT 1 AS v) SELECT * INTO test_user_wharf._wharf_inbox FROM one",
    "CREATE TEMP TABLE _wharf_books (v TEXT)",
    "SET search_path = test_user, test_user_wharf",
    "SET LOCAL search_path = test_user",
    "SELECT set_config('search_path', 'test_user', false)",
    "ALTER ROLE CURRENT_USER SET search_path = test_user",
    "ALTER ROLE CURRENT_USER PASSWORD 'known'",
    "ALTER DATABASE CURRENT SET search_path = test_user",
    // By code that is text until it runs.
    "DO $$ BEGIN DELETE FROM _wharf_books; END $$",
    "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'DELETE FROM _wharf_books'",
    "CREATE PROCEDURE f() LANGUAGE sql AS 'DELETE FROM _wharf_books'",
    "CREATE TRIGGER x AFTER INSERT ON t EXECUTE FUNCTION f()",
    "CREATE RULE x AS ON INSERT TO t DO ALSO DELETE FROM _wharf_books",
    "PREPARE x AS DELETE FROM _wharf_books",
    "EXPLAIN ANALYZE DELETE FROM _wharf_books",
    "SELECT query_to_xml('DELETE FROM _wharf_books', true, true, '')",
    "SELECT * FROM crosstab('DELETE FROM _wharf_books RETURNING 1, 2, 3') AS (a text, b text)",
    "COPY _wharf_books FROM STDIN",
    "SET ROLE NONE",
    "SET SESSION AUTHORIZATION DEFAULT",
    "SELECT 1; DELETE FROM _wharf_books",
    "SELECT 1 /* ; */ ; DELETE FROM _wharf_books",
    "COMMIT",
    // By what the guard might take for a string, and PostgreSQL for words.
    "WITH x AS (SELECT E'a'\n'\\' , '), y AS (DELETE FROM _wharf_books RETURNING 1) SELECT count(*) FROM y --'",
    "WITH x AS (SELECT e'a' -- so\n  '\\' , '), y AS (DELETE FROM _wharf_books RETURNING 1) SELECT count(*) FROM y --'",
    "WITH x AS (SELECT E'a'\x0b\n'\\' , '), y AS (DELETE FROM _wharf_books RETURNING 1) SELECT count(*) FROM y --'",
    "SELECT E'a'\n'\\', ', set_config('search_path', 'test_user', false) --'",
    "SELECT 1e'\\' , ', setval('_wharf_books_id_seq', 9) --'",
    "WITH x AS (SELECT $$ $a$ $$), y AS (DELETE FROM _wharf_books RETURNING 1) SELECT '$a$' FROM y",
    "WITH x AS (SELECT /* /* */ '*/), y AS (DELETE FROM _wharf_books RETURNING 1) SELECT 1 FROM y -- */ '), z AS (SELECT 1",
    "WITH x AS (SELECT U&'\\0027'), y AS (DELETE FROM _wharf_books RETURNING 1) SELECT '' FROM y",
];

#[tokio::test]
async fn a_service_that_owns_the_host_s_tables_spoils_none() {
    let scratch = Scratch::postgres();
    let database = owning(&scratch).await;
    let before = books(&scratch);
    assert!(before.contains("kept") && before.contains("_wharf_only_hostO"), "{before}");
    for attack in ATTACKS {
        let refused = [
            database.execute(sql(attack)).await.map(drop),
            database.query(sql(attack)).await.map(drop),
            database.batch(vec![insert(7), sql(attack)]).await.map(drop),
        ];
        for refused in refused {
            assert!(matches!(refused, Err(Error::Invalid(_))), "{attack}: {refused:?}");
        }
        let transaction = database.begin().await.unwrap();
        let refused = transaction.query(sql(attack)).await;
        assert!(matches!(refused, Err(Error::Invalid(_))), "{attack}: {refused:?}");
        transaction.commit().await.unwrap();
        let error = database.migrate(&[migration(1, attack)]).await;
        assert!(matches!(error, Err(MigrateError::Failed { .. })), "{attack}: {error:?}");
        assert_eq!(books(&scratch), before, "{attack}");
    }
    // PostgreSQL itself finds the words in a string that goes on.
    let hidden = ATTACKS.iter().find(|attack| attack.starts_with("WITH x AS (SELECT E'a'")).unwrap();
    assert!(denied(&*unguarded(&database).await, hidden).await.contains("the table _wharf_books is the host's"));
    // The service reads them, and what looks like an attack is none.
    assert_eq!(one(&database, "SELECT v FROM _wharf_books").await, text("kept"));
    assert_eq!(one(&database, "SELECT E'it\\'s' || ' 1FOR' || 1.5e-1").await, text("it's 1FOR0.15"));
    assert_eq!(one(&database, "SELECT 'a'\n'b' FROM t FOR UPDATE").await, text("ab"));
    assert_eq!(count(&database).await, 1);
}
