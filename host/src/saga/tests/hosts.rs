//! Several hosts with one database on a server.

use super::*;

async fn host(scratch: &Scratch, script: &Script) -> Sagas {
    let steps = Arc::new(script.clone());
    let definitions = vec![checkout(), saga("pay", [awaiting("a", "settled")])];
    Sagas::open("order", database(scratch).await, definitions, steps, settings()).await.unwrap()
}

#[tokio::test]
async fn one_of_several_hosts_runs_what_all_of_them_start_and_hear() {
    let scratch = Scratch::postgres();
    let scripts = [Script::default(), Script::default()];
    let hosts = [host(&scratch, &scripts[0]).await, host(&scratch, &scripts[1]).await];
    while !hosts.iter().any(Sagas::leads) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let leads = usize::from(hosts[1].leads());
    let (one, other) = (&hosts[leads], &hosts[1 - leads]);
    for (host, id) in [(one, "1"), (other, "2")] {
        host.start("checkout", id, b"{}").await.unwrap();
        host.start("pay", id, b"{}").await.unwrap();
    }
    for id in ["1", "2"] {
        assert_eq!(ended(one, "checkout", id).await.status, Status::Completed);
        assert_eq!(ended(other, "checkout", id).await.status, Status::Completed);
        other.deliver(event("settled", id, id)).await.unwrap();
        assert_eq!(ended(other, "pay", id).await.status, Status::Completed);
    }
    assert_eq!(other.start("checkout", "1", b"{\"a\":1}").await, Err(Error::Conflict));
    assert!(matches!(other.retry(Some("pay"), "1").await, Err(Error::Refused(_))));
    assert_eq!((scripts[leads].calls().len(), scripts[1 - leads].calls().len()), (10, 0));
    // It ends, and the other goes on, with what was left too.
    other.start("pay", "3", b"{}").await.unwrap();
    let third = loop {
        let third = host(&scratch, &Script::default()).await;
        if third.counts() == (Counts { waiting: 1, ..Counts::default() }) {
            break third;
        }
        third.close(soon()).await;
    };
    third.close(soon()).await;
    one.close(soon()).await;
    other.deliver(event("settled", "3", "3")).await.unwrap();
    assert_eq!(ended(other, "pay", "3").await.status, Status::Completed);
    assert!(other.leads());
    assert_eq!(scripts[1 - leads].calls(), ["act a"]);
    other.close(soon()).await;
}
