//! Payments: each happens once, whatever is called twice, late, at the same time or not at all, and the ledger adds up.

use serde_json::{Value, json};
use wharf_tests::{App, BUYER, Connection, Host, Postgres, below, eventually};

/// What `buyer` says, where it is no error.
async fn said(host: &Host, path: &str) -> String {
    let (status, text) = host.buyer(path).await;
    assert_eq!(status, 200, "{path}: {text}");
    text
}

async fn refused(host: &Host, path: &str) -> String {
    let (status, text) = host.buyer(path).await;
    assert_eq!(status, 400, "{path}: {text}");
    text
}

/// The id in `authorised ID`, which is the answer to this.
async fn id(host: &Host, path: &str, word: &str) -> String {
    let text = said(host, path).await;
    let (first, id) = text.split_once(' ').unwrap_or_else(|| panic!("{path}: {text}"));
    assert_eq!(first, word, "{path}: {text}");
    id.to_owned()
}

/// That the ledger adds up, and has so much authorised and captured.
async fn assert_ledger(host: &Host, authorised: f64, captured: f64) {
    let ledger = host.get("/api/ledger").await.json();
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{ledger}"));
    assert_eq!(ledger["sum"], json!(0), "{ledger}");
    for of in [&ledger["accounts"], &ledger["payments"]] {
        assert_eq!((number(&of["authorised"]), number(&of["captured"])), (authorised, captured), "{ledger}");
    }
    assert_eq!(number(&ledger["accounts"]["customers"]), -(authorised + captured), "{ledger}");
}

#[tokio::test]
async fn a_payment_is_authorised_captured_and_refunded_once() {
    let app = App::shop(BUYER);
    let host = app.start().await;
    assert_ledger(&host, 0.0, 0.0).await;

    let authorise = "authorise?key=a&order=o-1&user=ada&amount=1250";
    let payment = id(&host, authorise, "authorised").await;
    assert_eq!(id(&host, authorise, "authorised").await, payment);
    let others = ["order=o-2&user=ada&amount=1250", "order=o-1&user=eve&amount=1250", "order=o-1&user=ada&amount=1251"];
    for other in others {
        assert_eq!(refused(&host, &format!("authorise?key=a&{other}")).await, "conflict");
    }
    assert_eq!(refused(&host, &format!("{authorise}&method=card")).await, "conflict");
    assert_ledger(&host, 12.5, 0.0).await;

    let capture = format!("capture?key=c&payment={payment}");
    assert_eq!(id(&host, &capture, "captured").await, payment);
    assert_eq!(id(&host, &capture, "captured").await, payment);
    // It was authorised, and that is the answer still.
    assert_eq!(id(&host, authorise, "authorised").await, payment);
    assert_eq!(refused(&host, &format!("capture?key=c2&payment={payment}")).await, "not-possible captured");
    assert_eq!(refused(&host, "capture?key=c&payment=another").await, "conflict");
    assert_eq!(refused(&host, &format!("capture?key=a&payment={payment}")).await, "conflict");
    assert_eq!(refused(&host, "capture?key=c3&payment=nothing").await, "not-found");
    assert_ledger(&host, 0.0, 12.5).await;

    let found = host.get(&format!("/api/payments/{payment}")).await.json();
    let expected = json!({ "id": payment, "orderId": "o-1", "userId": "ada", "amount": 12.5, "status": "CAPTURED",
                           "createdAt": found["createdAt"] });
    assert_eq!(found, expected);
    assert_eq!(host.get("/api/payments?orderId=o-1").await.json(), json!([found]));
    assert_eq!(host.get("/api/payments?orderId=o-2").await.json(), json!([]));
    host.get("/api/payments/nothing").await.assert_error(404, "Payment not found");

    let refund = format!("refund?key=r&payment={payment}");
    for path in [&refund, &refund, &format!("refund?key=r2&payment={payment}"), "refund?key=r3&authorisation=a"] {
        assert_eq!(id(&host, path, "refunded").await, payment);
    }
    assert_eq!(refused(&host, "refund?key=r&authorisation=a").await, "conflict");
    assert_eq!(refused(&host, "refund?key=r4&payment=nothing").await, "not-found");
    // No capture's key is an authorisation's.
    assert_eq!(refused(&host, "refund?key=r5&authorisation=c").await, "conflict");
    assert_eq!(refused(&host, authorise).await, "called-off");
    assert_eq!(refused(&host, &capture).await, "called-off");
    assert_ledger(&host, 0.0, 0.0).await;

    assert!(refused(&host, "authorise?key=&order=o&user=u&amount=1").await.starts_with("invalid the key"));
    assert!(refused(&host, "authorise?key=z&order=o&user=u&amount=0").await.starts_with("invalid the amount"));
    host.stop().await;
}

#[tokio::test]
async fn what_never_happened_is_called_off_and_does_not_happen_late() {
    let app = App::shop(BUYER);
    let host = app.start().await;
    assert_eq!(said(&host, "refund?key=r&authorisation=late").await, "nothing");
    assert_eq!(said(&host, "refund?key=r&authorisation=late").await, "nothing");
    assert_eq!(refused(&host, "authorise?key=late&order=o&user=ada&amount=100").await, "called-off");
    assert_eq!(said(&host, "refund?key=r2&authorisation=late").await, "nothing");
    assert_eq!(host.get("/api/payments?orderId=o").await.json(), json!([]));

    // What is only authorised is voided, and can't be captured then.
    let payment = id(&host, "authorise?key=a&order=o&user=ada&amount=100", "authorised").await;
    assert_eq!(id(&host, "refund?key=v&authorisation=a", "voided").await, payment);
    assert_eq!(id(&host, "refund?key=v&authorisation=a", "voided").await, payment);
    assert_eq!(refused(&host, &format!("capture?key=c&payment={payment}")).await, "not-possible voided");
    assert_eq!(host.get(&format!("/api/payments/{payment}")).await.json()["status"], "VOIDED");
    assert_ledger(&host, 0.0, 0.0).await;
    host.stop().await;
}

#[tokio::test]
async fn what_the_rule_declines_stays_declined() {
    let app = App::shop(BUYER);
    let host = app.start().await;
    let dear = "authorise?key=dear&order=o&user=ada&amount=500001";
    assert_eq!(refused(&host, dear).await, "declined More than 5000 cannot be paid at once");
    let by_card = "authorise?key=card&order=o&user=ada&amount=1&method=card-declined";
    assert_eq!(refused(&host, by_card).await, "declined This method of payment is declined");
    id(&host, "authorise?key=just&order=o&user=ada&amount=500000", "authorised").await;
    assert_eq!(said(&host, "refund?key=r&authorisation=dear").await, "nothing");
    let declined = host.get("/api/payments?orderId=o").await.json();
    assert_eq!(
        (&declined[2]["status"], &declined[2]["reason"]),
        (&json!("DECLINED"), &json!("More than 5000 cannot be paid at once"))
    );
    assert_ledger(&host, 5000.0, 0.0).await;
    host.stop().await;

    // The rule is another one, and the answer to a key is not.
    let text = std::fs::read_to_string(app.manifest()).expect("there is a manifest");
    app.write(&text.replace("decline-above = \"5000.00\"", "decline-above = \"5000.01\", decline-users = \"eve\""));
    let host = app.start().await;
    assert_eq!(refused(&host, dear).await, "declined More than 5000 cannot be paid at once");
    id(&host, "authorise?key=dear-2&order=o&user=ada&amount=500001", "authorised").await;
    let eve = refused(&host, "authorise?key=eve&order=o&user=eve&amount=1").await;
    assert_eq!(eve, "declined This customer's payments are declined");
    host.stop().await;
}

#[tokio::test]
async fn what_happens_to_a_payment_is_told_in_its_order() {
    let topics = ["payment.authorised", "payment.captured", "payment.refunded"];
    let listener = below("ear", "listener", &format!("subscribes = {topics:?}\ninstances = {{ max = 1 }}"));
    let app = App::shop(&format!("{BUYER}{listener}"));
    let host = app.start().await;
    let taken = id(&host, "authorise?key=a&order=o-1&user=ada&amount=1250", "authorised").await;
    id(&host, &format!("capture?key=c&payment={taken}"), "captured").await;
    id(&host, "refund?key=r&authorisation=a", "refunded").await;
    let voided = id(&host, "authorise?key=b&order=o-2&user=ada&amount=5", "authorised").await;
    id(&host, &format!("refund?key=v&payment={voided}"), "voided").await;
    refused(&host, "authorise?key=d&order=o-3&user=ada&amount=500001").await;
    said(&host, "refund?key=n&authorisation=d").await;
    // Once more: nothing happens, and nothing is told.
    id(&host, &format!("refund?key=v&payment={voided}"), "voided").await;
    let heard = eventually("all of it is heard", async || {
        let heard = host.get("/ear/heard").await.text().to_owned();
        if heard.lines().count() >= 5 { Ok(heard) } else { Err(heard) }
    })
    .await;
    assert_eq!(heard.lines().count(), 5, "{heard}");
    for (payment, order, amount, told) in [
        (&taken, "o-1", 12.5, vec![(topics[0], "AUTHORISED"), (topics[1], "CAPTURED"), (topics[2], "REFUNDED")]),
        (&voided, "o-2", 0.05, vec![(topics[0], "AUTHORISED"), (topics[2], "VOIDED")]),
    ] {
        let lines = heard.lines().filter(|line| line.contains(payment.as_str()));
        let lines: Vec<_> = lines.map(|line| (line, line.split_once('{').map_or("", |(_, data)| data))).collect();
        assert_eq!(lines.len(), told.len(), "{heard}");
        for ((topic, status), (line, data)) in told.into_iter().zip(lines) {
            assert!(line.contains(topic), "{line}");
            let data: Value =
                serde_json::from_str(&format!("{{{data}")).unwrap_or_else(|error| panic!("{error}: {line}"));
            let expected =
                json!({ "paymentId": payment, "orderId": order, "userId": "ada", "amount": amount, "status": status });
            assert_eq!(data, expected);
        }
    }
    host.stop().await;
}

#[tokio::test]
async fn a_rule_that_is_none_is_no_service() {
    let app = App::shop(BUYER);
    let text = std::fs::read_to_string(app.manifest()).expect("there is a manifest");
    app.write(&text.replace("decline-above = \"5000.00\"", "decline-above = \"much\""));
    let done = app.wharf(&["--manifest", &app.manifest().display().to_string(), "up"]).await;
    assert_ne!(done.code(), Some(0));
    assert!(done.stderr.contains("config decline-above = \"much\" is not an amount of money"), "{done:?}");
}

/// The same thing many times at once, and things that exclude each other.
async fn at_the_same_time(app: App) {
    let host = app.start().await;
    let answers = host.at_once("/buyer/authorise?key=a&order=o&user=ada&amount=100", 24).await;
    let first = answers[0].text().to_owned();
    assert!(first.starts_with("authorised "), "{first}");
    assert!(answers.iter().all(|answer| answer.text() == first), "{answers:?}");
    let payments = host.get("/api/payments?orderId=o").await.json();
    assert_eq!(payments.as_array().map(Vec::len), Some(1), "{payments}");
    let payment = first.split_once(' ').map(|(_, id)| id.to_owned()).unwrap_or_default();

    let asking: Vec<_> = (0..16).map(|n| host.ask(&format!("/buyer/capture?key=c-{n}&payment={payment}"))).collect();
    let mut captured = 0;
    for asking in asking {
        match asking.answer().await.text() {
            "not-possible captured" => {}
            text => {
                assert_eq!(text, format!("captured {payment}"));
                captured += 1;
            }
        }
    }
    assert_eq!(captured, 1);
    assert_ledger(&host, 0.0, 1.0).await;

    // Of an authorisation and what calls it off either comes first, and nothing is left in the end.
    for round in 0..8 {
        let asking = [
            format!("/buyer/authorise?key=b-{round}&order=p-{round}&user=ada&amount=100"),
            format!("/buyer/refund?key=r-{round}&authorisation=b-{round}"),
        ]
        .map(|path| host.ask(&path));
        for asking in asking {
            let answer = asking.answer().await;
            assert!(!answer.text().starts_with("fault"), "{answer:?}");
        }
        let again = refused(&host, &format!("authorise?key=b-{round}&order=p-{round}&user=ada&amount=100")).await;
        assert_eq!(again, "called-off");
    }
    assert_ledger(&host, 0.0, 1.0).await;
    host.stop().await;
}

#[tokio::test]
async fn what_comes_at_the_same_time_happens_once() {
    at_the_same_time(App::shop(BUYER)).await;
}

#[tokio::test]
async fn what_comes_at_the_same_time_happens_once_with_postgresql() {
    let postgres = Postgres::start();
    at_the_same_time(App::shop(&format!("{BUYER}\n{}", postgres.store("shop")))).await;
}

/// Pays for orders, one after the other, until the host is gone; every third is given back.
async fn customer(mut connection: Connection, name: String) {
    for n in 0.. {
        let key = format!("{name}-{n}");
        let authorise = format!("/buyer/authorise?key={key}&order={key}&user=ada&amount=100");
        let Ok(answer) = connection.get(&authorise).await else { return };
        let Some(payment) = answer.text().strip_prefix("authorised ").map(str::to_owned) else { continue };
        let Ok(_) = connection.get(&format!("/buyer/capture?key={key}-c&payment={payment}")).await else { return };
        if n % 3 == 0 {
            let refund = format!("/buyer/refund?key={key}-r&authorisation={key}");
            let Ok(_) = connection.get(&refund).await else { return };
        }
    }
}

#[tokio::test]
async fn the_ledger_adds_up_on_a_host_that_is_killed() {
    let app = App::shop(BUYER);
    for kill in 0..4 {
        let mut host = app.start().await;
        let customers: Vec<_> = (0..4)
            .map(|n| {
                let address = host.address();
                tokio::spawn(async move {
                    if let Ok(connection) = Connection::open(address).await {
                        customer(connection, format!("k{kill}-{n}")).await;
                    }
                })
            })
            .collect();
        eventually("payments are made", async || {
            let found = host.get(&format!("/api/payments?orderId=k{kill}-0-{}", 10 + kill * 7)).await.json();
            if found.as_array().is_some_and(|found| !found.is_empty()) { Ok(()) } else { Err(found) }
        })
        .await;
        host.signal("KILL");
        assert!(!host.ended().await.success());
        for customer in customers {
            customer.await.expect("it does not panic");
        }
    }

    // Each does again what it may not have got the answer to: all of it is there once.
    let host = app.start().await;
    let (mut captured, mut customers) = (0.0, 0);
    for (kill, n) in (0..4).flat_map(|kill| (0..4).map(move |n| (kill, n))) {
        for order in 0.. {
            let key = format!("k{kill}-{n}-{order}");
            let path = format!("/api/payments?orderId={key}");
            if host.get(&path).await.json() == json!([]) {
                break;
            }
            customers += u32::from(order == 0);
            if order % 3 == 0 {
                said(&host, &format!("refund?key={key}-r&authorisation={key}")).await;
            } else {
                let authorise = format!("authorise?key={key}&order={key}&user=ada&amount=100");
                let payment = id(&host, &authorise, "authorised").await;
                id(&host, &format!("capture?key={key}-c&payment={payment}"), "captured").await;
                captured += 1.0;
            }
            assert_eq!(host.get(&path).await.json().as_array().map(Vec::len), Some(1), "{key}");
        }
    }
    assert!(customers >= 4, "{customers} customers paid");
    assert_ledger(&host, 0.0, captured).await;
    host.stop().await;
}
