use super::*;
use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

const FOLDER: &str = "WHARF_STORE_CRASH_FOLDER";

/// Not a test: the process that is killed, writing as fast as it can and saying what was acknowledged.
#[tokio::test]
#[ignore = "the child of `every_acknowledged_write_survives_a_kill`"]
async fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let database = Database::of_service(Path::new(&folder), "user", Settings::default()).await.unwrap();
    join_all((0..8).map(|writer| {
        let database = database.clone();
        async move {
            for n in 0.. {
                let id = n * 8 + writer;
                database
                    .batch(vec![insert(id), with("INSERT INTO log VALUES ($1)", [Value::Integer(id)])])
                    .await
                    .unwrap();
                println!("\nwritten {id}");
            }
        }
    }))
    .await;
}

#[tokio::test]
async fn every_acknowledged_write_survives_a_kill() {
    let scratch = Scratch::sqlite();
    let database = scratch.table(0, Settings::default()).await;
    database.execute(sql("CREATE TABLE log (id INTEGER PRIMARY KEY)")).await.unwrap();
    database.close().await;
    let mut killed = 0;
    let mut written = Vec::new();
    for after in [1, 100, 1_500] {
        // Each child begins anew.
        let database = scratch.database().await;
        database.batch(vec![sql("DELETE FROM t"), sql("DELETE FROM log")]).await.unwrap();
        database.close().await;
        written.clear();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["store::sqlite::tests::crash::child", "--exact", "--ignored", "--nocapture"])
            .env(FOLDER, scratch.folder())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let Some(id) = line.unwrap().strip_prefix("written ").map(str::to_owned) else { continue };
            written.push(id.parse::<i64>().unwrap());
            if written.len() == after {
                // SIGKILL: nothing is flushed, nothing is closed. Lines that are in the pipe still come.
                child.kill().unwrap();
                killed += 1;
            }
        }
        child.wait().unwrap();
        assert!(written.len() >= after);
        let database = scratch.database().await;
        assert_eq!(one(&database, "SELECT count(*) FROM t").await, one(&database, "SELECT count(*) FROM log").await);
        let settings = with("SELECT id FROM t WHERE id = $1", [Value::Null]);
        for id in &written {
            let query = Statement { params: vec![Value::Integer(*id)], ..settings.clone() };
            assert_eq!(database.query(query).await.unwrap().rows.len(), 1, "row {id} was acknowledged and is lost");
        }
        database.close().await;
        let file = rusqlite::Connection::open(scratch.folder().join("db/user.sqlite")).unwrap();
        let whole: String = file.pragma_query_value(None, "integrity_check", |row| row.get(0)).unwrap();
        assert_eq!(whole, "ok");
    }
    assert_eq!(killed, 3);
}
