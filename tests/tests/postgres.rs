//! The shop on PostgreSQL: the same components, and what holds of their data there.

use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};
use wharf_tests::{App, Connection, Host, Postgres, eventually, request, send_signal};

/// The shop with its data in a database `shop` on this server.
fn shop(postgres: &Postgres, more: &str) -> App {
    App::shop(&(postgres.store("shop") + more))
}

async fn register(host: &Host, email: &str) -> String {
    let answer = host.post("/api/users", &json!({ "email": email, "name": "Ada" })).await;
    assert_eq!(answer.status, 201, "{answer:?}\n{}", host.log());
    answer.json()["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn the_shop_runs_on_it_unchanged() {
    let postgres = Postgres::start();
    let app = shop(&postgres, "");
    let host = app.start().await;
    let user = register(&host, "ada@example.com").await;
    let again = host.post("/api/users", &json!({ "email": "ADA@example.com", "name": "Another" })).await;
    again.assert_error(400, "User already exists");
    host.get("/api/users/nobody").await.assert_error(404, "User not found");

    let pen = host.post("/api/products", &json!({ "id": "pen", "name": "Pen", "price": 1.5 })).await;
    assert_eq!((pen.status, pen.json()), (201, json!({ "id": "pen", "name": "Pen", "price": 1.5, "inStock": true })));
    let ink =
        host.post("/api/products", &json!({ "id": "ink", "name": "Ink", "price": 19.99, "inStock": false })).await;
    assert_eq!(host.get("/api/products").await.json(), json!([ink.json(), pen.json()]));
    assert_eq!(host.get("/api/products?limit=1&after=ink").await.json(), json!([pen.json()]));
    let changed = host.with_body("PATCH", "/api/products/ink", json!({ "inStock": true }).to_string()).await;
    assert_eq!((changed.status, &changed.json()["inStock"]), (200, &json!(true)), "{changed:?}");

    let items = json!([{ "productId": "pen", "quantity": 2 }, { "productId": "ink", "quantity": 3 }]);
    let order = host.post("/api/orders", &json!({ "userId": user, "items": items })).await.json();
    assert_eq!((&order["total"], &order["status"]), (&json!(62.97), &json!("PENDING")));
    let path = format!("/api/orders/{}", order["id"].as_str().expect("an id"));
    assert_eq!(host.get(&path).await.json(), order);
    let confirmed = host.post(&format!("{path}/confirm"), &json!({})).await;
    assert_eq!((confirmed.status, &confirmed.json()["status"]), (200, &json!("CONFIRMED")));
    let late = host.post(&format!("{path}/cancel"), &json!({})).await;
    late.assert_error(400, "Order is CONFIRMED and cannot become CANCELLED");
    let dashboard = host.get(&format!("/api/users/{user}/dashboard")).await.json();
    assert_eq!(dashboard["orders"], json!([confirmed.json()]));

    let notifications = format!("/api/notifications?userId={user}");
    let told = eventually("both notifications", async || {
        let told = host.get(&notifications).await.json();
        if told.as_array().map(Vec::len) == Some(2) { Ok(told) } else { Err(told) }
    })
    .await;
    host.stop().await;

    // Another host, with another data folder, finds all of it.
    let other = App::shop(&format!("[store]\nurl = \"{}\"\n", postgres.url("shop")));
    let host = other.start().await;
    assert_eq!(host.get(&path).await.json(), confirmed.json());
    assert_eq!(host.get(&notifications).await.json(), told);
    host.stop().await;

    // What the README says of psql, and of who can open what.
    let statuses = postgres.psql("shop", "SELECT status FROM shop_order.orders");
    assert_eq!(statuses, "CONFIRMED");
    let reach = "SELECT r.rolname || ' ' || n.nspname FROM pg_roles r, pg_namespace n WHERE r.rolname LIKE 'shop%' \
                 AND n.nspname LIKE 'shop%' AND has_schema_privilege(r.oid, n.oid, 'USAGE') ORDER BY 1";
    let mut expected = Vec::new();
    for service in ["checkout", "inventory", "notification", "order", "payment", "product", "user"] {
        expected.push(format!("shop_{service}@shop shop_{service}"));
        expected.push(format!("shop_{service}@shop shop_{service}_wharf"));
    }
    assert_eq!(postgres.psql("shop", reach).lines().collect::<Vec<_>>(), expected);
    let powers =
        "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'shop%' AND (rolsuper OR rolcreaterole OR rolcreatedb)";
    assert_eq!(postgres.psql("shop", powers), "0");
}

#[tokio::test]
async fn every_acknowledged_write_survives_a_kill_of_the_host() {
    let postgres = Postgres::start();
    let app = shop(&postgres, "");
    let mut written = BTreeSet::new();
    for round in 0..3 {
        let mut host = app.start().await;
        let (address, pid) = (host.address(), host.pid());
        let (acknowledged, count) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let writers = (0..8).map(|writer| {
            let (acknowledged, count) = (acknowledged.clone(), count.clone());
            tokio::spawn(async move {
                let Ok(mut connection) = Connection::open(address).await else { return };
                for n in 0.. {
                    let body =
                        json!({ "email": format!("{round}-{writer}-{n}@example.com"), "name": "Ada" }).to_string();
                    let Ok(answer) = connection.send(request("POST", "/api/users", body)).await else { return };
                    if answer.status == 201 {
                        let id = answer.json()["id"].as_str().expect("an id").to_owned();
                        acknowledged.lock().unwrap_or_else(PoisonError::into_inner).push(id);
                        if count.fetch_add(1, Ordering::Relaxed) == 60 * round + 20 {
                            send_signal(pid, "KILL");
                        }
                    }
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.expect("it does not panic");
        }
        assert!(!host.ended().await.success());
        let acknowledged = acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(acknowledged.len() > 60 * round + 20);
        written.extend(acknowledged.iter().cloned());
    }
    let there = postgres.psql("shop", "SELECT id FROM shop_user.users");
    let there: BTreeSet<_> = there.lines().map(str::to_owned).collect();
    assert_eq!(written.difference(&there).count(), 0, "what was acknowledged is lost");
}

#[tokio::test]
async fn services_answer_while_postgres_is_away_and_work_when_it_is_back() {
    let mut postgres = Postgres::start();
    let app = shop(&postgres, "[policy.edges.\"gateway -> user\"]\nbreaker = false\n");
    let host = app.start().await;
    let user = register(&host, "ada@example.com").await;
    let path = format!("/api/users/{user}");
    for round in 0..2 {
        postgres.stop();
        for _ in 0..5 {
            let answer = host.get(&path).await;
            assert_eq!(answer.status, 503, "{answer:?}");
            let answer = host.post("/api/users", &json!({ "email": "bob@example.com", "name": "Bob" })).await;
            assert_eq!(answer.status, 503, "{answer:?}");
        }
        postgres.start_again();
        assert_eq!(host.get(&path).await.status, 200, "{}", host.log());
        register(&host, &format!("{round}@example.com")).await;
    }
    assert!(!host.log().contains("a password"), "{}", host.log());
    host.stop().await;
}

#[tokio::test]
async fn a_start_without_postgres_says_where_it_was_looked_for() {
    let mut postgres = Postgres::start();
    let app = shop(&postgres, "");
    postgres.stop();
    let manifest = app.manifest().display().to_string();
    let done = app.wharf(&["--manifest", &manifest, "up"]).await;
    assert_ne!(done.code(), Some(0), "{done:?}");
    for part in ["store.url", "PostgreSQL at 127.0.0.1:", "can't be reached"] {
        assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
    }
    assert!(!done.stderr.contains("password"), "{}", done.stderr);

    let text = std::fs::read_to_string(app.manifest()).expect("the manifest");
    app.write(&text.replace("/shop\"", "\""));
    let done = app.wharf(&["--manifest", &manifest, "check"]).await;
    assert_ne!(done.code(), Some(0), "{done:?}");
    assert!(done.stderr.contains("store.url") && done.stderr.contains("it names no database"), "{}", done.stderr);
}

#[tokio::test]
async fn two_hosts_on_one_database_start_at_once() {
    let postgres = Postgres::start();
    let apps = [shop(&postgres, ""), App::shop(&format!("[store]\nurl = \"{}\"\n", postgres.url("shop")))];
    let [one, two] = &apps;
    let (one, two) = tokio::join!(one.start(), two.start());
    let user = register(&one, "ada@example.com").await;
    let found: Value = two.get(&format!("/api/users/{user}")).await.json();
    assert_eq!(found["email"], "ada@example.com");
    one.stop().await;
    two.stop().await;
}
