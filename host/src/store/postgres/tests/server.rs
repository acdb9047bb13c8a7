use super::*;
use crate::store::tests::{migrations::migration, server};

#[tokio::test]
async fn a_server_that_goes_and_comes_is_unavailable_and_then_there_again() {
    let mut own = server::Postgres::start();
    own.create("shop");
    let server = Server::new(settings_of(own.url("shop"))).unwrap();
    let database = Database::on_server(&server, "user", None, Settings::default()).await.unwrap();
    database.execute(sql("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)")).await.unwrap();
    database.execute(insert(1)).await.unwrap();
    let transaction = database.begin().await.unwrap();
    transaction.execute(insert(2)).await.unwrap();
    own.stop();
    let lost = transaction.execute(insert(3)).await;
    assert!(matches!(lost, Err(Error::Unavailable(_))), "{lost:?}");
    assert!(matches!(transaction.commit().await, Err(Error::Closed(_))));
    for _ in 0..3 {
        let away = database.query(sql("SELECT * FROM t")).await;
        assert!(matches!(away, Err(Error::Unavailable(_))), "{away:?}");
        let away = database.execute(insert(4)).await;
        assert!(matches!(away, Err(Error::Unavailable(_))), "{away:?}");
    }
    let error = Database::on_server(&server, "order", None, Settings::default()).await.unwrap_err().to_string();
    assert!(error.contains("can't be reached") && error.contains("127.0.0.1:"), "{error}");
    own.start_again();
    assert_eq!(count(&database).await, 1);
    assert_eq!(database.execute(insert(4)).await, Ok(1));
    // Connections that were cut while nobody used them.
    own.stop();
    own.start_again();
    assert_eq!(count(&database).await, 2);
}

#[tokio::test]
async fn connections_are_bounded_and_lent_from_service_to_service() {
    let scratch = Scratch::postgres();
    let (_, name) = scratch.server();
    let server = Server::new(ServerSettings { connections: 3, ..settings_of(postgres().url(name)) }).unwrap();
    let settings = Settings { connections: 2, statement_time: Duration::from_secs(30), ..Settings::default() };
    let open = |service| Database::on_server(&server, service, None, settings.clone());
    let databases = [open("a").await.unwrap(), open("b").await.unwrap(), open("c").await.unwrap()];
    for database in &databases {
        database.execute(sql("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT UNIQUE)")).await.unwrap();
    }
    let queries = (0..60).map(|n| count(&databases[n % 3]));
    assert_eq!(join_all(queries).await, vec![0; 60]);
    let open: i64 = postgres()
        .psql(name, "SELECT count(*) FROM pg_stat_activity WHERE usename LIKE 'test%' AND datname = current_database()")
        .parse()
        .unwrap();
    assert!((1..=3).contains(&open), "{open}");
    join_all(databases.iter().map(Database::close)).await;
}

#[tokio::test]
async fn who_finds_no_connection_in_time_is_told_so() {
    let scratch = Scratch::postgres();
    let settings = Settings { connections: 1, statement_time: Duration::from_millis(300), ..Settings::default() };
    let database = scratch.table(0, settings).await;
    let transaction = database.begin().await.unwrap();
    let Err(Error::Busy(reason)) = database.execute(insert(1)).await else { panic!("it should wait in vain") };
    assert!(reason.contains("a service has 1 of them"), "{reason}");
    transaction.commit().await.unwrap();
    assert_eq!(database.execute(insert(1)).await, Ok(1));
}

#[tokio::test]
async fn of_two_transactions_that_can_not_both_be_first_one_is_busy() {
    let scratch = Scratch::postgres();
    let database = scratch.table(2, Settings::default()).await;
    let (one, two) = (database.begin().await.unwrap(), database.begin().await.unwrap());
    for (transaction, id) in [(&one, 3), (&two, 4)] {
        // Each writes what the other should have counted.
        transaction.query(sql("SELECT count(*) FROM t")).await.unwrap();
        transaction.execute(insert(id)).await.unwrap();
    }
    one.commit().await.unwrap();
    let lost = two.commit().await;
    assert!(matches!(lost, Err(Error::Busy(_))), "{lost:?}");
    assert!(matches!(two.commit().await, Err(Error::Closed(_))));
    assert_eq!(count(&database).await, 3);
}

#[tokio::test]
async fn a_lock_is_not_waited_for_for_ever() {
    let scratch = Scratch::postgres();
    let settings = Settings { lock_wait: Duration::from_millis(50), ..Settings::default() };
    let database = scratch.table(1, settings).await;
    let transaction = database.begin().await.unwrap();
    transaction.execute(sql("UPDATE t SET v = 'x' WHERE id = 1")).await.unwrap();
    let waits = database.execute(sql("UPDATE t SET v = 'y' WHERE id = 1")).await;
    assert!(matches!(waits, Err(Error::Busy(_))), "{waits:?}");
    transaction.commit().await.unwrap();
    assert_eq!(database.execute(sql("UPDATE t SET v = 'y' WHERE id = 1")).await, Ok(1));
}

#[tokio::test]
async fn a_row_that_a_unit_locks_is_locked_until_the_unit_ends() {
    let scratch = Scratch::postgres();
    let settings = Settings { lock_wait: Duration::from_millis(50), ..Settings::default() };
    let database = scratch.table(1, settings).await;
    database.host_execute(sql("CREATE TABLE _wharf_claims (id INTEGER PRIMARY KEY)")).await.unwrap();
    let unit = Unit::new(database.clone(), sql("INSERT INTO _wharf_claims VALUES (1)"));
    let access = Access::Unit(unit.clone());
    assert_eq!(access.query(sql("SELECT id FROM t FOR UPDATE")).await.unwrap().rows.len(), 1);
    let change = || sql("UPDATE t SET v = 'y' WHERE id = 1");
    let waits = database.execute(change()).await;
    assert!(matches!(waits, Err(Error::Busy(_))), "{waits:?}");
    unit.commit().await.unwrap();
    assert_eq!(database.execute(change()).await, Ok(1));
}

#[tokio::test]
async fn a_row_of_any_size_does_not_reach_the_host() {
    let scratch = Scratch::postgres();
    let database = scratch.table(1, Settings { max_bytes: 100_000, ..Settings::default() }).await;
    let huge = || sql("SELECT repeat('x', 50000000)");
    let Err(Error::TooLarge(reason)) = database.query(huge()).await else { panic!("it should be too large") };
    assert!(reason.contains("a row has more than the 100000 bytes"), "{reason}");
    assert_eq!(count(&database).await, 1);
    let transaction = database.begin().await.unwrap();
    assert!(matches!(transaction.query(huge()).await, Err(Error::TooLarge(_))));
    assert!(matches!(transaction.commit().await, Err(Error::Closed(_))));
    assert_eq!(count(&database).await, 1);
}

#[tokio::test]
async fn hosts_that_start_at_once_apply_each_migration_once() {
    let scratch = Scratch::postgres();
    let (_, name) = scratch.server();
    let steps: Vec<_> = (1..=5).map(|n| migration(n, &format!("CREATE TABLE t{n} (v TEXT)"))).collect();
    let hosts = (0..4).map(|_| async {
        let server = Server::new(settings_of(postgres().url(name))).unwrap();
        let database = Database::on_server(&server, "user", None, Settings::default()).await.unwrap();
        let applied = database.migrate(&steps).await.unwrap();
        database.close().await;
        applied.to
    });
    assert_eq!(join_all(hosts).await, [5; 4]);
    let database = scratch.database().await;
    assert_eq!(one(&database, "SELECT count(*) FROM _wharf_migrations").await, Value::Integer(5));
}

#[tokio::test]
async fn a_table_whose_rows_wait_to_be_checked_is_changed_if_they_are_right() {
    let scratch = Scratch::postgres();
    let database = scratch.database().await;
    let mut steps = vec![migration(
        1,
        "CREATE TABLE t (id INTEGER PRIMARY KEY); CREATE TABLE c (t INTEGER REFERENCES t (id));
         INSERT INTO t VALUES (1); INSERT INTO c VALUES (1); ALTER TABLE c ADD COLUMN v TEXT",
    )];
    database.migrate(&steps).await.unwrap();
    // It is what it was to the service.
    let orphan = database.execute(sql("INSERT INTO c VALUES (2, '')")).await;
    assert!(matches!(orphan, Err(Error::Constraint((Constraint::ForeignKey, _)))), "{orphan:?}");
    steps.push(migration(2, "INSERT INTO c VALUES (2, ''); ALTER TABLE c ADD COLUMN w TEXT; INSERT INTO t VALUES (2)"));
    let error = database.migrate(&steps).await.unwrap_err().to_string();
    assert!(error.starts_with("migration 2 (`step 2`) failed at its statement 2: "), "{error}");
    assert!(error.ends_with("write those rows first"), "{error}");
    steps[1] = migration(
        2,
        "INSERT INTO c VALUES (2, ''); CREATE TABLE other (t INTEGER REFERENCES t (id)); INSERT INTO other VALUES (3);
         INSERT INTO t VALUES (2); INSERT INTO t VALUES (3)",
    );
    database.migrate(&steps).await.unwrap();
    assert_eq!(count(&database).await, 3);
}

#[tokio::test]
async fn a_batch_may_use_what_it_makes() {
    let scratch = Scratch::postgres();
    let database = scratch.database().await;
    let batch = vec![sql("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)"), insert(1), insert(2)];
    assert_eq!(database.batch(batch).await, Ok(vec![0, 1, 1]));
    // What does not fit is found before any of it is sent.
    let wrong = with("INSERT INTO t VALUES ($1, $2)", [Value::Integer(4), Value::Blob(vec![1])]);
    let result = database.batch(vec![insert(3), wrong, insert(5)]).await;
    assert!(matches!(result, Err(Error::Invalid(_))), "{result:?}");
    assert_eq!(count(&database).await, 2);
}

#[tokio::test]
async fn tls_is_spoken_to_whom_the_certificates_vouch_for() {
    let own = server::Postgres::start();
    own.create("shop");
    let certificates = own.enable_tls();
    let url = format!("{}?sslmode=require", own.url("shop"));
    let open = async |certificates: Option<&Path>| {
        let settings = ServerSettings { certificates: certificates.map(Into::into), ..settings_of(url.clone()) };
        let limits = Settings { max_bytes: 100_000, ..Settings::default() };
        Database::on_server(&Server::new(settings)?, "user", None, limits).await
    };
    // It takes a moment until the server knows that it may.
    let database = loop {
        match open(Some(&certificates)).await {
            Ok(database) => break database,
            Err(error) if error.to_string().contains("does not support TLS") => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    let ssl = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    assert_eq!(one(&database, ssl).await, Value::Integer(1));
    let huge = database.query(sql("SELECT repeat('x', 5000000)")).await;
    assert!(matches!(huge, Err(Error::TooLarge(_))), "{huge:?}");
    let error = open(None).await.unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
    let error = open(Some(Path::new("/nowhere.pem"))).await.unwrap_err().to_string();
    assert!(error.contains("/nowhere.pem"), "{error}");
}

#[tokio::test]
async fn wrong_urls_are_told_without_their_passwords() {
    for (url, expected) in [
        ("postgres://ada:hunter2@/shop", "it names no host"),
        ("postgres://ada:hunter2@localhost", "it names no database"),
        ("postgres://localhost/shop", "it names no user"),
        ("postgres://ada:hunter2@localhost:port/shop", "invalid"),
        ("postgres://ada:hunter2@localhost/shop?sslmoda=x", "sslmoda"),
    ] {
        let error = Server::new(settings_of(url.into())).unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains("hunter2"), "{url}: {error}");
    }
    let wrong = Server::new(settings_of(postgres().url_of("owner", "wrong", "postgres"))).unwrap();
    let error = Database::on_server(&wrong, "user", None, Settings::default()).await.unwrap_err().to_string();
    assert!(error.contains("password authentication failed"), "{error}");
    // A server that has no TLS.
    let url = format!("{}?sslmode=require", postgres().url("postgres"));
    let tls = Server::new(settings_of(url)).unwrap();
    let error = Database::on_server(&tls, "user", None, Settings::default()).await.unwrap_err().to_string();
    assert!(error.contains("TLS"), "{error}");
}
