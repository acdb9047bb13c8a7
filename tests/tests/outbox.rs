//! State and the event that tells of it, on a host that is killed again and again: no order without its event, and no event
//! without its order.

use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    env,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::task::JoinSet;
use wharf_tests::{Answer, App, Connection, Failed, Host, Postgres, Redis, eventually, request};

/// How often the host is killed; `WHARF_KILLS` says otherwise.
const KILLS: u32 = 10;
/// How many orders a customer places at most: as many as one answer lists.
const ORDERS: u32 = 96;
const CONNECTIONS: u32 = 4;

/// A number below `limit`, another one at each run.
fn chance(limit: u32) -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
    now.subsec_micros() % limit
}

async fn post(connection: &mut Connection, path: &str, body: &Value) -> Result<Answer, Failed> {
    let mut request = request("POST", path, body.to_string());
    request.headers_mut().insert("content-type", "application/json".parse().expect("a value"));
    connection.send(request).await
}

/// Places orders and confirms them, one after the other, as long as the host answers.
async fn customer(mut connection: Connection, user: String, done: Arc<AtomicU32>) -> Vec<String> {
    let mut confirmed = Vec::new();
    let order = json!({ "userId": user, "items": [{ "productId": "pen", "quantity": 1 }] });
    for _ in 0..ORDERS / CONNECTIONS {
        let Ok(placed) = post(&mut connection, "/api/orders", &order).await else { break };
        if placed.status != 201 {
            continue;
        }
        let id = placed.json()["id"].as_str().expect("an id").to_owned();
        done.fetch_add(1, SeqCst);
        let Ok(answer) = post(&mut connection, &format!("/api/orders/{id}/confirm"), &json!({})).await else { break };
        if answer.status == 200 {
            confirmed.push(id);
        }
        done.fetch_add(1, SeqCst);
    }
    confirmed
}

async fn add_pen(host: &Host) {
    let pen = json!({ "id": "pen", "name": "Pen", "price": 1.5 });
    assert_eq!(host.post("/api/products", &pen).await.status, 201);
}

async fn register(host: &Host, email: &str) -> String {
    let user = host.post("/api/users", &json!({ "email": email, "name": "Ada" })).await;
    assert_eq!(user.status, 201, "{user:?}");
    user.json()["id"].as_str().expect("an id").to_owned()
}

async fn list(host: &Host, path: String) -> Vec<Value> {
    host.get(&path).await.json().as_array().cloned().unwrap_or_default()
}

/// The orders of a user that are confirmed.
async fn confirmed(host: &Host, user: &str) -> BTreeSet<String> {
    let orders = list(host, format!("/api/orders?userId={user}")).await;
    let confirmed = orders.iter().filter(|order| order["status"] == "CONFIRMED");
    confirmed.filter_map(|order| order["id"].as_str().map(str::to_owned)).collect()
}

/// The orders that a user was told of, each as often as that happened.
async fn told(host: &Host, user: &str) -> Vec<String> {
    let told = list(host, format!("/api/notifications?userId={user}")).await;
    let mut orders: Vec<_> = told
        .iter()
        .filter(|told| told["kind"] == "order-confirmation")
        .filter_map(|told| told["message"].as_str()?.split(' ').nth(3).map(str::to_owned))
        .collect();
    orders.sort();
    orders
}

/// Waits until a user is told of each order that is confirmed, and of none twice. Returns them.
async fn told_of_each(host: &Host, user: &str) -> BTreeSet<String> {
    let confirmed = confirmed(host, user).await;
    let expected: Vec<_> = confirmed.iter().cloned().collect();
    eventually("everybody is told of each order once", async || {
        let told = told(host, user).await;
        if told == expected { Ok(()) } else { Err((told, expected.clone())) }
    })
    .await;
    confirmed
}

/// How many events are in the outboxes, as this host knows it.
async fn waiting(host: &Host, app: &App) -> u64 {
    let status = host.status(app).await;
    let outboxes = status["outboxes"].as_array().cloned().unwrap_or_default();
    assert!(!outboxes.is_empty(), "{status}");
    outboxes.iter().map(|outbox| outbox["waiting"].as_u64().expect("a number")).sum()
}

/// Kills the host while customers order, again and again, and then looks whether all fits together.
async fn killed_again_and_again(app: App) {
    let kills = env::var("WHARF_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS);
    let (mut users, mut acknowledged) = (Vec::new(), BTreeSet::new());
    for kill in 0..kills {
        let mut host = app.start().await;
        if kill == 0 {
            add_pen(&host).await;
        }
        let user = register(&host, &format!("ada-{kill}@example.com")).await;
        let (done, after) = (Arc::new(AtomicU32::new(0)), 1 + chance(ORDERS));
        let mut customers = JoinSet::new();
        for _ in 0..CONNECTIONS {
            customers.spawn(customer(host.connect().await, user.clone(), done.clone()));
        }
        eventually("orders are placed", async || match done.load(SeqCst) {
            enough if enough >= after => Ok(()),
            count => Err((count, after)),
        })
        .await;
        host.signal("KILL");
        assert!(!host.ended().await.success());
        for confirmed in customers.join_all().await {
            acknowledged.extend(confirmed);
        }
        users.push(user);
    }

    let host = app.start().await;
    for user in &users {
        let confirmed = told_of_each(&host, user).await;
        acknowledged.retain(|order| !confirmed.contains(order));
        // Of the registration too, which was acknowledged.
        let told = list(&host, format!("/api/notifications?userId={user}")).await;
        assert_eq!(told.iter().filter(|told| told["kind"] == "welcome").count(), 1, "{told:?}");
    }
    assert!(acknowledged.is_empty(), "confirmed to the customer, and not confirmed: {acknowledged:?}");
    eventually("no event waits", async || match waiting(&host, &app).await {
        0 => Ok(()),
        count => Err(count),
    })
    .await;
    host.stop().await;
}

#[tokio::test]
async fn no_order_without_its_event_nor_an_event_without_its_order() {
    killed_again_and_again(App::shop("")).await;
}

#[tokio::test]
async fn nor_with_redis_streams() {
    let redis = Redis::start().await;
    let events = format!("[events]\nbus = \"redis-streams\"\nredis = \"{}\"\n", redis.url());
    killed_again_and_again(App::shop(&events)).await;
}

#[tokio::test]
async fn nor_with_postgresql() {
    let postgres = Postgres::start();
    killed_again_and_again(App::shop(&postgres.store("shop"))).await;
}

#[tokio::test]
async fn what_waits_in_the_outbox_of_a_host_that_is_killed_another_relays() {
    let (mut redis, postgres) = (Redis::start().await, Postgres::start());
    postgres.create("shop");
    let (redis_url, postgres_url) = (redis.url(), postgres.url("shop"));
    let both =
        format!("[store]\nurl = \"{postgres_url}\"\n[events]\nbus = \"redis-streams\"\nredis = \"{redis_url}\"\n");
    let (dies, stays) = (App::shop(&both), App::shop(&both));
    // It is the first, so it relays.
    let mut dying = dies.start().await;
    let staying = stays.start().await;
    add_pen(&dying).await;
    let user = register(&dying, "ada@example.com").await;
    // This Redis keeps nothing over its end, and whoever was not welcomed before is told of no order.
    eventually("the user is welcomed", async || {
        let told = list(&dying, format!("/api/notifications?userId={user}")).await;
        if told.iter().any(|told| told["kind"] == "welcome") { Ok(()) } else { Err(told) }
    })
    .await;
    // Nothing can leave, so all of it waits, and is left when the host is killed.
    redis.stop().await;
    let orders = customer(dying.connect().await, user.clone(), Arc::default()).await;
    assert_eq!(orders.len() as u32, ORDERS / CONNECTIONS);
    eventually("the events wait", async || match waiting(&dying, &dies).await {
        enough if enough >= 2 * orders.len() as u64 => Ok(()),
        count => Err(count),
    })
    .await;
    dying.signal("KILL");
    assert!(!dying.ended().await.success());
    redis.start_again().await;
    assert_eq!(told_of_each(&staying, &user).await, orders.into_iter().collect());
    eventually("no event waits", async || match waiting(&staying, &stays).await {
        0 => Ok(()),
        count => Err(count),
    })
    .await;
    staying.stop().await;
}
