use super::*;
use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
};

const FOLDER: &str = "WHARF_OUTBOX_CRASH_FOLDER";

/// Which child it is: a later one has a larger number.
const CHILD: &str = "WHARF_OUTBOX_CRASH_CHILD";

/// How often the child is killed; `WHARF_CRASHES` says otherwise.
const KILLS: u32 = 25;

/// A bus whose memory is a file, so that it outlives the process: what it has taken it has. It takes its time, so that many
/// are on their way when the process is killed.
fn bus(folder: &Path) -> Bus {
    let file = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("bus")).unwrap();
    let file = Arc::new(Mutex::new(file));
    Bus::taking_in_time("order", &["order.created"], move |prepared| {
        let file = file.clone();
        Box::pin(async move {
            tokio::time::sleep(Duration::from_micros(fastrand::u64(..3_000))).await;
            if fastrand::u8(..) == 0 {
                return Err(Fault::new(FaultKind::Unreachable, "now and then").into());
            }
            let event = &prepared.event;
            // One write, which the system has whole or not at all when the process is killed.
            let line = format!("{} {} {}\n", event.id, order(event), event.subject.as_deref().unwrap_or_default());
            file.lock().unwrap().write_all(line.as_bytes()).unwrap();
            Ok(())
        })
    })
}

/// Not a test: the process that is killed, which places orders as fast as it can and says what was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child of `no_order_without_its_event_nor_an_event_without_its_order`"]
async fn child() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let (folder, child) = (Path::new(&folder), std::env::var(CHILD).unwrap());
    let database = Database::of_service(folder, "order", store::Settings::default()).await.unwrap();
    let settings =
        Settings { held_events: 8, group: 16, delete_after: Duration::from_millis(1), ..Settings::default() };
    let outbox = Outbox::open("order", database.clone(), bus(folder), settings).await.unwrap();
    join_all((0..4).map(|writer| {
        let (database, outbox, child) = (database.clone(), outbox.clone(), child.clone());
        tokio::spawn(async move {
            for n in 0.. {
                // Sorted as they are written, as far as one writer is concerned. Some are about the writer itself.
                let id = format!("{child}-{n:06}-{writer}");
                let subject = if n % 3 == 0 { format!("writer-{writer}") } else { id.clone() };
                match fastrand::u8(..4) {
                    0 => {
                        let held = Held::Own(database.begin().await.unwrap());
                        held.execute(insert(&id)).await.unwrap();
                        outbox.publish(&held, about(&subject, &id), None).await.unwrap();
                        if fastrand::bool() {
                            continue;
                        }
                        held.commit().await.unwrap();
                    }
                    _ => place_about(&outbox, &database, &subject, &id).await,
                }
                println!("\nplaced {id}");
            }
        })
    }))
    .await;
}

#[tokio::test]
async fn no_order_without_its_event_nor_an_event_without_its_order() {
    let scratch = Scratch::sqlite();
    orders(&scratch).await.close().await;
    let kills = std::env::var("WHARF_CRASHES").ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS);
    let mut placed = BTreeSet::new();
    for number in 0..kills {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["outbox::tests::crash::child", "--exact", "--ignored", "--nocapture"])
            .env(FOLDER, scratch.folder())
            .env(CHILD, format!("{number:04}"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (mut lines, after) = (0, fastrand::u32(1..200));
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let Some(id) = line.unwrap().strip_prefix("placed ").map(str::to_owned) else { continue };
            placed.insert(id);
            lines += 1;
            if lines == after {
                // SIGKILL: nothing is flushed, nothing is closed. Lines that are in the pipe still come.
                child.kill().unwrap();
            }
        }
        assert!(!child.wait().unwrap().success() && lines >= after);
    }
    // What was left goes now, with nobody else there.
    let database = orders(&scratch).await;
    let outbox = Outbox::open("order", database.clone(), bus(scratch.folder()), Settings::default()).await.unwrap();
    drain(&outbox).await;
    outbox.close().await;
    assert_eq!(rows(&database).await, 0);

    let text = std::fs::read_to_string(scratch.folder().join("bus")).unwrap();
    let mut events = BTreeMap::<String, BTreeSet<String>>::new();
    let mut last = BTreeMap::<&str, &str>::new();
    for line in text.lines() {
        let [id, order, subject] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        if !events.contains_key(order) {
            // What comes for the first time comes after all that came before it.
            let before = last.insert(subject, order);
            assert!(before.is_none_or(|before| before < order), "{order} after {before:?}");
        }
        events.entry(order.to_owned()).or_default().insert(id.to_owned());
    }
    let mut orders = BTreeSet::new();
    let mut after = String::new();
    loop {
        let page = "SELECT id FROM orders WHERE id > $1 ORDER BY id LIMIT 1000";
        let page = Statement { sql: page.into(), params: vec![Value::Text(after.clone())] };
        let rows = database.query(page).await.unwrap().rows;
        let Some(Value::Text(last)) = rows.last().map(|row| row[0].clone()) else { break };
        after = last;
        orders.extend(rows.into_iter().filter_map(|row| match &row[0] {
            Value::Text(id) => Some(id.clone()),
            _ => None,
        }));
    }
    assert!(placed.is_subset(&orders), "an order was acknowledged and is lost");
    let told: BTreeSet<String> = events.keys().cloned().collect();
    assert_eq!(orders.difference(&told).collect::<Vec<_>>(), [""; 0], "orders without their event");
    assert_eq!(told.difference(&orders).collect::<Vec<_>>(), [""; 0], "events without their order");
    assert!(events.values().all(|ids| ids.len() == 1), "a redelivery has the same id");
    assert!(orders.len() >= kills as usize);
    database.close().await;
}
