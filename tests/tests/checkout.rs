//! Checkouts: the order, its payment and its goods, all of it or nothing, whatever fails, is replaced or is killed.

use serde_json::{Value, json};
use std::{collections::HashSet, env, time::Duration};
use tokio::{task::JoinSet, time::sleep};
use wharf_tests::{Answer, App, Connection, Host, Postgres, eventually, request};

/// How often the host is killed; `WHARF_KILLS` says otherwise.
const KILLS: usize = 8;

async fn register(host: &Host) -> String {
    let email = format!("ada-{}@example.com", host.pid());
    let user = host.post("/api/users", &json!({ "email": email, "name": "Ada" })).await;
    user.json()["id"].as_str().unwrap_or_else(|| panic!("{user:?}")).to_owned()
}

/// A product of which there are so many.
async fn stocked(host: &Host, id: &str, price: f64, quantity: u64) {
    let product = host.post("/api/products", &json!({ "id": id, "name": id, "price": price })).await;
    assert_eq!(product.status, 201, "{product:?}");
    let path = format!("/api/inventory/{id}");
    let stock = host.with_body("PUT", &path, json!({ "quantity": quantity }).to_string()).await;
    assert_eq!(stock.status, 200, "{stock:?}");
}

fn order(user: &str, items: &[(&str, u32)], method: Option<&str>) -> Value {
    let items: Vec<_> =
        items.iter().map(|(product, quantity)| json!({ "productId": product, "quantity": quantity })).collect();
    json!({ "userId": user, "items": items, "paymentMethod": method })
}

fn asked(body: &Value, headers: &[(&'static str, &str)]) -> hyper::Request<wharf_tests::Body> {
    let mut request = request("POST", "/api/checkout", body.to_string());
    for (name, value) in [("content-type", "application/json")].iter().chain(headers) {
        request.headers_mut().insert(*name, value.parse().expect("a value"));
    }
    request
}

/// A checkout whose end is waited for.
async fn check_out(host: &Host, body: &Value) -> Value {
    let answer = host.send(asked(body, &[("prefer", "wait=30")])).await;
    assert_eq!(answer.status, 200, "{answer:?}\n{}", host.log());
    answer.json()
}

async fn list(host: &Host, path: &str) -> Vec<Value> {
    let answer = host.get(path).await;
    answer.json().as_array().cloned().unwrap_or_else(|| panic!("{path}: {answer:?}"))
}

/// That the books are in order: the ledger adds up, nothing was lost from the stock, nothing is set aside any more.
async fn assert_books(host: &Host) {
    let ledger = host.get("/api/ledger").await.json();
    assert_eq!(ledger["sum"], json!(0), "{ledger}");
    assert_eq!(ledger["accounts"]["authorised"], json!(0), "{ledger}");
    let stock = host.get("/api/inventory").await.json();
    assert_eq!(stock["differences"], json!([]), "{stock}");
}

#[tokio::test]
async fn what_is_there_and_paid_is_confirmed_and_told() {
    let app = App::shop("");
    let host = app.start().await;
    let user = register(&host).await;
    for (id, price) in [("tea", 4.5), ("cup", 12.25), ("pot", 30.0)] {
        stocked(&host, id, price, 10).await;
    }
    let done = check_out(&host, &order(&user, &[("tea", 2), ("cup", 1), ("pot", 1)], None)).await;
    assert_eq!((&done["status"], &done["total"], &done["reason"]), (&json!("COMPLETED"), &json!(51.25), &Value::Null));
    let (id, placed) = (done["id"].as_str().expect("an id"), done["orderId"].as_str().expect("an order"));
    assert_eq!(host.get(&format!("/api/checkout/{id}")).await.json(), done);
    let order = host.get(&format!("/api/orders/{placed}")).await.json();
    assert_eq!((&order["status"], &order["total"]), (&json!("CONFIRMED"), &json!(51.25)));
    let paid = list(&host, &format!("/api/payments?orderId={placed}")).await;
    assert_eq!((paid.len(), &paid[0]["status"], &paid[0]["id"]), (1, &json!("CAPTURED"), &done["paymentId"]));
    let tea = host.get("/api/inventory/tea").await.json();
    assert_eq!((&tea["available"], &tea["sold"]), (&json!(8), &json!(2)), "{tea}");
    assert_books(&host).await;
    // The customer hears of it.
    eventually("the confirmation", async || {
        let told = list(&host, &format!("/api/notifications?userId={user}")).await;
        let found = told.iter().any(|it| it["kind"] == "order-confirmation");
        if found { Ok(()) } else { Err(told) }
    })
    .await;
    host.stop().await;
}

#[tokio::test]
async fn what_can_not_be_paid_or_is_not_there_leaves_nothing_behind() {
    let app = App::shop("");
    let host = app.start().await;
    let user = register(&host).await;
    stocked(&host, "tea", 4.5, 3).await;
    stocked(&host, "gold", 6000.0, 3).await;

    let paid = "the payment was declined";
    let cases = [
        (order(&user, &[("gold", 1)], None), paid),
        (order(&user, &[("tea", 1)], Some("card-declined")), paid),
        (order(&user, &[("tea", 4)], None), "not enough in stock: tea (3 of 4)"),
        (order("nobody", &[("tea", 1)], None), "User not found"),
        (order(&user, &[("nothing", 1)], None), "Product nothing not found"),
    ];
    for (body, reason) in cases {
        let done = check_out(&host, &body).await;
        assert_eq!(done["status"], "COMPENSATED", "{done}");
        assert!(done["reason"].as_str().is_some_and(|it| it.contains(reason)), "{done}");
        if let Some(id) = done["orderId"].as_str() {
            let order = host.get(&format!("/api/orders/{id}")).await.json();
            assert_eq!(order["status"], "CANCELLED", "{order}");
        }
    }
    // What was captured for the tea that is not there was given back.
    let ledger = host.get("/api/ledger").await.json();
    assert_eq!(ledger["accounts"]["captured"], json!(0), "{ledger}");
    let tea = host.get("/api/inventory/tea").await.json();
    assert_eq!(tea["available"], json!(3), "{tea}");
    assert_books(&host).await;
    // And the customer hears why.
    eventually("three letters of orders that came to nothing", async || {
        let told = list(&host, &format!("/api/notifications?userId={user}")).await;
        let failed = told.iter().filter(|it| it["kind"] == "order-cancelled").count();
        if failed == 3 { Ok(()) } else { Err(told) }
    })
    .await;
    host.stop().await;
}

#[tokio::test]
async fn a_client_waits_or_looks_later_and_asking_twice_is_checking_out_once() {
    let app = App::shop("");
    let host = app.start().await;
    let user = register(&host).await;
    stocked(&host, "tea", 4.5, 100).await;
    let body = order(&user, &[("tea", 1)], None);

    let begun = host.send(asked(&body, &[("idempotency-key", "\"one\"")])).await;
    assert_eq!((begun.status, begun.json()["id"].as_str()), (202, Some("one")), "{begun:?}");
    assert_eq!(begun.headers["location"], "checkout/one");
    let ended = eventually("the end of the checkout", async || {
        let answer = host.get("/api/checkout/one").await;
        if answer.json()["status"] == "COMPLETED" { Ok(answer.json()) } else { Err(answer) }
    })
    .await;

    // Twenty at a time, and again after its end.
    let mut again = JoinSet::new();
    for _ in 0..20 {
        let (mut connection, request) =
            (host.connect().await, asked(&body, &[("idempotency-key", "two"), ("prefer", "wait=30")]));
        again.spawn(async move { connection.send(request).await.expect("an answer") });
    }
    let answers: Vec<Answer> = again.join_all().await;
    let orders: HashSet<_> = answers.iter().map(|answer| answer.json()["orderId"].to_string()).collect();
    assert_eq!(orders.len(), 1, "{answers:?}");
    assert_eq!(answers[0].headers["preference-applied"], "wait=30");
    let again = host.send(asked(&body, &[("idempotency-key", "one")])).await;
    assert_eq!((again.status, again.json()), (200, ended));
    let other = order(&user, &[("tea", 2)], None);
    let conflict = host.send(asked(&other, &[("idempotency-key", "one")])).await;
    conflict.assert_error(409, "This Idempotency-Key was used for another checkout");
    host.get("/api/checkout/nothing").await.assert_error(404, "Checkout not found");
    assert_eq!(list(&host, &format!("/api/orders?userId={user}")).await.len(), 2);
    host.stop().await;
}

/// Checks out again and again over one connection, until that breaks.
async fn customer(mut connection: Connection, user: String, name: String) {
    for n in 0.. {
        let key = format!("{name}-{n}");
        // One in five is declined, and one in five wants more than there can be.
        let (items, method) = match n % 5 {
            3 => (vec![("tea", 1), ("cup", 1)], Some("card-declined")),
            4 => (vec![("cup", 1), ("rare", 1_000)], None),
            _ => (vec![("tea", 1), ("cup", 2), ("rare", 1)], None),
        };
        let body = order(&user, &items, method);
        if connection.send(asked(&body, &[("idempotency-key", &key), ("prefer", "wait=30")])).await.is_err() {
            return;
        }
    }
}

/// Kills the host again and again while customers check out, and looks at the books in the end.
async fn killed_again_and_again(app: App) {
    let kills = env::var("WHARF_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS);
    let mut users = Vec::new();
    for kill in 0..kills {
        let mut host = app.start().await;
        if kill == 0 {
            stocked(&host, "tea", 4.5, 1_000_000).await;
            stocked(&host, "cup", 12.25, 1_000_000).await;
            stocked(&host, "rare", 1.0, 900).await;
        }
        let user = register(&host).await;
        users.push(user.clone());
        let mut customers = JoinSet::new();
        for n in 0..8 {
            customers.spawn(customer(host.connect().await, user.clone(), format!("k{kill}-{n}")));
        }
        // At another point of their way each time.
        sleep(Duration::from_millis(150 + (kill as u64 * 37) % 400)).await;
        host.signal("KILL");
        host.ended().await;
        customers.join_all().await;
    }

    let host = app.start().await;
    // What was begun comes to its end.
    eventually("the end of all sagas", async || {
        let done = host.wharf(&app, &["saga", "list", "--status", "running", "--json"]).await;
        let turning = host.wharf(&app, &["saga", "list", "--status", "compensating", "--json"]).await;
        let none = |done: &wharf_tests::Done| done.json()["sagas"].as_array().is_some_and(Vec::is_empty);
        if none(&done) && none(&turning) { Ok(()) } else { Err((done, turning)) }
    })
    .await;
    assert!(!host.log().contains("a saga is halted"), "{}", host.log());
    assert_books(&host).await;

    // Every order is confirmed and paid once, or cancelled and not paid.
    let (mut confirmed, mut captured, mut rare, mut all) = (0, 0.0, 0, true);
    for user in &users {
        let orders = list(&host, &format!("/api/orders?userId={user}&limit=100")).await;
        all &= orders.len() < 100;
        for order in orders {
            let id = order["id"].as_str().expect("an id");
            let payments = list(&host, &format!("/api/payments?orderId={id}")).await;
            let paid: Vec<_> = payments.iter().filter(|payment| payment["status"] == "CAPTURED").collect();
            match order["status"].as_str() {
                Some("CONFIRMED") => {
                    assert_eq!((paid.len(), &paid[0]["amount"]), (1, &order["total"]), "{order} {payments:?}");
                    confirmed += 1;
                    captured += order["total"].as_f64().expect("an amount");
                    let items = order["items"].as_array().expect("items").iter();
                    rare += items.filter(|item| item["productId"] == "rare").count();
                }
                Some("CANCELLED") => assert!(paid.is_empty(), "{order} {payments:?}"),
                _ => panic!("an order without an end: {order} {payments:?}"),
            }
        }
    }
    assert!(confirmed > kills, "{confirmed} of {kills} runs");
    let ledger = host.get("/api/ledger").await.json();
    let taken = ledger["accounts"]["captured"].as_f64().expect("an amount");
    let stock = host.get("/api/inventory/rare").await.json();
    let (sold, available) = (stock["sold"].as_u64().expect("a number"), stock["available"].as_u64().expect("a number"));
    assert_eq!(sold + available, 900, "{stock}");
    // Who has more orders than are listed has paid for more.
    if all {
        assert!((taken - captured).abs() < 0.001, "{ledger} {captured}");
        assert_eq!(sold, rare as u64, "{stock}");
    } else {
        assert!(taken >= captured && sold >= rare as u64, "{ledger} {stock}");
    }
    host.stop().await;
}

#[tokio::test]
async fn wherever_the_host_is_killed_money_and_goods_add_up() {
    killed_again_and_again(App::shop("")).await;
}

#[tokio::test]
async fn and_they_do_with_postgresql() {
    let postgres = Postgres::start();
    killed_again_and_again(App::shop(&postgres.store("shop"))).await;
}
