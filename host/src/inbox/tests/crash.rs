use super::*;
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

const FOLDER: &str = "WHARF_INBOX_CRASH_FOLDER";

/// How often the child is killed; `WHARF_CRASHES` says otherwise.
const KILLS: u32 = 25;

/// How many events there are.
const EVENTS: u32 = 60;

/// Not a test: the process that is killed. It is given each event several times at once and over again, and handles it in
/// several writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child of `an_effect_is_there_once_whatever_is_killed`"]
async fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let database = Database::of_service(Path::new(&folder), "mail", Settings::default()).await.unwrap();
    let inbox = Inbox::open("mail", database, KEEP).await.unwrap();
    let deliveries = (0..4).map(|_| {
        let inbox = inbox.clone();
        tokio::spawn(async move {
            loop {
                let event = event(fastrand::u32(..EVENTS));
                let write = async |unit: Unit| {
                    let access = Access::Unit(unit);
                    for _ in 0..2 {
                        if access.execute(send(&event)).await.is_err() {
                            return Ok(Verdict::Retry(None));
                        }
                    }
                    Ok(if fastrand::u8(..4) == 0 { Verdict::Retry(None) } else { Verdict::Ack })
                };
                if inbox.once(&event, write).await == Ok(Verdict::Ack) {
                    println!("\nacknowledged {}", event.id);
                }
            }
        })
    });
    futures::future::join_all(deliveries).await;
}

#[tokio::test]
async fn an_effect_is_there_once_whatever_is_killed() {
    let scratch = Scratch::sqlite();
    mail(&scratch).await.close().await;
    let kills = std::env::var("WHARF_CRASHES").ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS);
    let mut acknowledged = BTreeMap::<String, u32>::new();
    for _ in 0..kills {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["inbox::tests::crash::child", "--exact", "--ignored", "--nocapture"])
            .env(FOLDER, scratch.folder())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (mut lines, after) = (0, fastrand::u32(1..8));
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let Some(id) = line.unwrap().strip_prefix("acknowledged ").map(str::to_owned) else { continue };
            *acknowledged.entry(id).or_default() += 1;
            lines += 1;
            if lines == after {
                // SIGKILL: nothing is flushed, nothing is closed. Lines that are in the pipe still come.
                child.kill().unwrap();
            }
        }
        assert!(!child.wait().unwrap().success() && lines >= after);
    }
    let (database, inbox) = open(&scratch).await;
    let rows = database.query(statement("SELECT event, COUNT(*) FROM sent GROUP BY event", [])).await.unwrap().rows;
    // Each effect is two rows: whole, and once.
    assert!(rows.iter().all(|row| row[1] == Value::Integer(2)), "{rows:?}");
    let effects = i64::try_from(rows.len()).unwrap();
    assert_eq!(number(&database, "SELECT COUNT(*) FROM _wharf_inbox").await, effects);
    let done: Vec<_> = rows.iter().map(|row| &row[0]).collect();
    for id in acknowledged.keys() {
        assert!(done.contains(&&Value::Text(id.clone())), "{id} was acknowledged, and its effect is not there");
    }
    assert!(acknowledged.values().any(|times| *times > 1), "{acknowledged:?}");
    // All of them once more.
    for number in 0..EVENTS {
        let event = event(number);
        if done.contains(&&Value::Text(event.id.clone())) {
            let never = async |_| panic!("{} was handled again", event.id);
            assert_eq!(inbox.once(&event, never).await, Ok(Verdict::Ack));
        }
    }
}
