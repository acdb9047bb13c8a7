//! The shop, as its customers use it: every status code and error text that a client of the seed's services knows.

use serde_json::{Value, json};
use wharf_tests::{App, Host, eventually, request};

async fn register(host: &Host, email: &str, name: &str) -> String {
    let answer = host.post("/api/users", &json!({ "email": email, "name": name })).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    text(&answer.json()["id"])
}

async fn product(host: &Host, id: &str, price: f64) {
    let answer = host.post("/api/products", &json!({ "id": id, "name": id, "price": price })).await;
    assert_eq!(answer.status, 201, "{answer:?}");
}

async fn order(host: &Host, user: &str, items: Value) -> String {
    let answer = host.post("/api/orders", &json!({ "userId": user, "items": items })).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    text(&answer.json()["id"])
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

/// That it is the time now, as RFC 3339 in UTC: it sorts as text.
#[track_caller]
fn assert_time(value: &Value) {
    let time = text(value);
    assert!(time.len() >= 20 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "{time}");
}

#[tokio::test]
async fn the_walk_through() {
    let app = App::shop("");
    let host = app.start().await;

    let answer = host.post("/api/users", &json!({ "email": "ada@example.com", "name": "Ada" })).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let user = answer.json();
    assert_eq!((&user["email"], &user["name"]), (&json!("ada@example.com"), &json!("Ada")));
    assert_time(&user["createdAt"]);
    assert_eq!(user.as_object().map(|user| user.len()), Some(4), "{user}");
    let id = text(&user["id"]);
    let found = host.get(&format!("/api/users/{id}")).await;
    assert_eq!((found.status, found.json()), (200, user.clone()));

    let pen = host.post("/api/products", &json!({ "id": "pen", "name": "Pen", "price": 1.5 })).await;
    assert_eq!((pen.status, pen.json()), (201, json!({ "id": "pen", "name": "Pen", "price": 1.5, "inStock": true })));
    let ink = host.post("/api/products", &json!({ "id": "ink", "name": "Ink", "price": 19.99, "inStock": true })).await;
    assert_eq!(ink.status, 201);
    assert_eq!(host.get("/api/products/ink").await.json(), ink.json());
    assert_eq!(host.get("/api/products").await.json(), json!([ink.json(), pen.json()]));
    assert_eq!(host.get("/api/products?limit=1&after=ink").await.json(), json!([pen.json()]));

    // The client's own prices are not looked at.
    let items = json!([
        { "productId": "pen", "quantity": 2, "price": 0.01 },
        { "productId": "ink", "quantity": 3, "price": 0.01 },
    ]);
    let answer = host.post("/api/orders", &json!({ "userId": id, "items": items })).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let order = answer.json();
    assert_eq!(order["total"], json!(62.97));
    assert_eq!((&order["status"], &order["userId"]), (&json!("PENDING"), &json!(id)));
    assert_eq!(order["items"][0], json!({ "productId": "pen", "quantity": 2, "price": 1.5 }));
    assert_eq!(order["items"][1], json!({ "productId": "ink", "quantity": 3, "price": 19.99 }));
    assert_time(&order["createdAt"]);
    let path = format!("/api/orders/{}", text(&order["id"]));
    assert_eq!(host.get(&path).await.json(), order);

    let confirmed = host.post(&format!("{path}/confirm"), &json!({})).await;
    assert_eq!((confirmed.status, &confirmed.json()["status"]), (200, &json!("CONFIRMED")));
    assert_eq!(host.get(&path).await.json(), confirmed.json());
    let again = host.post(&format!("{path}/confirm"), &json!({})).await;
    assert_eq!((again.status, again.json()), (200, confirmed.json()));
    let late = host.post(&format!("{path}/cancel"), &json!({})).await;
    late.assert_error(400, "Order is CONFIRMED and cannot become CANCELLED");

    let other = self::order(&host, &id, json!([{ "productId": "pen", "quantity": 1 }])).await;
    let cancelled = host.post(&format!("/api/orders/{other}/cancel"), &json!({})).await;
    assert_eq!((cancelled.status, &cancelled.json()["status"]), (200, &json!("CANCELLED")));

    let orders = host.get(&format!("/api/orders?userId={id}")).await;
    assert_eq!((orders.status, orders.json()), (200, json!([cancelled.json(), confirmed.json()])));
    let dashboard = host.get(&format!("/api/users/{id}/dashboard")).await;
    assert_eq!((dashboard.status, dashboard.json()), (200, json!({ "user": user, "orders": orders.json() })));

    let told = eventually("both notifications", async || {
        let told = host.get(&format!("/api/notifications?userId={id}")).await.json();
        if told.as_array().map(Vec::len) == Some(2) { Ok(told) } else { Err(told) }
    })
    .await;
    let mut kinds: Vec<_> = told.as_array().into_iter().flatten().map(|it| text(&it["kind"])).collect();
    kinds.sort();
    assert_eq!(kinds, ["order-confirmation", "welcome"]);
    assert!(told.as_array().into_iter().flatten().all(|it| it["recipient"] == "ada@example.com"), "{told}");
    host.stop().await;
}

#[tokio::test]
async fn what_is_refused_is_refused_in_the_words_that_clients_know() {
    let app = App::shop("");
    let host = app.start().await;
    let user = register(&host, "ada@example.com", "Ada").await;
    product(&host, "pen", 1.5).await;
    let out = host.post("/api/products", &json!({ "id": "gone", "name": "Gone", "price": 1, "inStock": false })).await;
    assert_eq!(out.status, 201);

    let again = host.post("/api/users", &json!({ "email": "ada@example.com", "name": "Another" })).await;
    again.assert_error(400, "User already exists");
    host.post("/api/users", &json!({ "email": "ada", "name": "Ada" })).await.assert_error(400, "Invalid email");
    let again = host.post("/api/products", &json!({ "id": "pen", "name": "Pen", "price": 2 })).await;
    again.assert_error(400, "Product already exists");

    host.get("/api/users/nobody").await.assert_error(404, "User not found");
    host.get("/api/products/nothing").await.assert_error(404, "Product not found");
    host.get("/api/orders/nothing").await.assert_error(404, "Order not found");
    // 400 and not 404: the seed answers so on these two.
    host.post("/api/orders/nothing/confirm", &json!({})).await.assert_error(400, "Order not found");
    host.post("/api/orders/nothing/cancel", &json!({})).await.assert_error(400, "Order not found");

    let order = async |user: &str, product: &str| {
        let items = json!([{ "productId": product, "quantity": 1 }]);
        host.post("/api/orders", &json!({ "userId": user, "items": items })).await
    };
    order("nobody", "pen").await.assert_error(400, "User not found");
    order(&user, "nothing").await.assert_error(400, "Product nothing not found");
    order(&user, "gone").await.assert_error(400, "Product gone out of stock");
    let none = host.post("/api/orders", &json!({ "userId": user, "items": [] })).await;
    none.assert_error(400, "Invalid items, expected 1 to 100");

    let changed = host.with_body("PATCH", "/api/products/gone", json!({ "inStock": true }).to_string()).await;
    assert_eq!((changed.status, &changed.json()["inStock"]), (200, &json!(true)));
    assert_eq!(order(&user, "gone").await.status, 201);
    let nothing = host.with_body("PATCH", "/api/products/nothing", "{}").await;
    nothing.assert_error(404, "Product not found");
    host.stop().await;
}

#[tokio::test]
async fn a_missing_user_makes_the_dashboard_fail_and_missing_orders_do_not() {
    let app = App::shop("");
    let host = app.start().await;
    let user = register(&host, "ada@example.com", "Ada").await;
    let empty = host.get(&format!("/api/users/{user}/dashboard")).await;
    assert_eq!((empty.status, &empty.json()["orders"]), (200, &json!([])));
    let nobody = host.get("/api/users/nobody/dashboard").await;
    assert_eq!(nobody.status, 404, "{nobody:?}");
    host.stop().await;
}

#[tokio::test]
async fn malformed_requests_are_the_clients_fault_and_the_host_goes_on() {
    let app = App::shop("");
    let host = app.start().await;

    for (path, body) in [
        ("/api/users", &b"not json"[..]),
        ("/api/users", b""),
        ("/api/users", b"null"),
        ("/api/users", b"{"),
        ("/api/users", b"[]"),
        ("/api/users", br#"{"email": 1, "name": "Ada"}"#),
        ("/api/users", br#"{"email": "ada@example.com"}"#),
        ("/api/users", br#"{"email": "ada@example.com", "name": null}"#),
        ("/api/users", b"{\"email\": \"ada@example.com\", \"name\": \"\xff\xfe\"}"),
        ("/api/users", br#"{"email": "ada@example.com", "name": "\ud800"}"#),
        ("/api/users", br#"{"email": "ada@example.com", "name": "a\u0000b"}"#),
        ("/api/products", br#"{"name": "Pen", "price": -1}"#),
        ("/api/products", br#"{"name": "Pen", "price": 1.005}"#),
        ("/api/products", br#"{"name": "Pen", "price": 1e400}"#),
        ("/api/products", br#"{"name": "Pen", "price": "1"}"#),
        ("/api/orders", br#"{"userId": "u", "items": [{"productId": "p", "quantity": 0}]}"#),
        ("/api/orders", br#"{"userId": "u", "items": [{"productId": "p", "quantity": 1.5}]}"#),
        ("/api/orders", br#"{"userId": "u", "items": {}}"#),
        ("/api/orders", br#"{"userId": {"$ne": null}, "items": []}"#),
    ] {
        let answer = host.with_body("POST", path, body).await;
        let shown = String::from_utf8_lossy(body);
        assert_eq!(answer.status, 400, "{path} {shown}: {answer:?}");
        assert!(answer.json()["error"].is_string(), "{path} {shown}: {answer:?}");
    }
    let deep = "[".repeat(100_000);
    assert_eq!(host.with_body("POST", "/api/users", deep).await.status, 400);

    let large = format!(r#"{{"email": "ada@example.com", "name": "{}"}}"#, "a".repeat(2 << 20));
    let answer = host.with_body("POST", "/api/users", large).await;
    assert_eq!(answer.status, 413, "{answer:?}");

    for (path, status) in [
        ("/api/users/%ff", 400),
        ("/api/orders", 400),
        ("/api/orders?userId=u&limit=0", 400),
        ("/api/orders?userId=u&limit=many", 400),
        ("/api/users/a%2Fb", 404),
        ("/api/users/'%20OR%201=1%20--", 404),
        ("/api/nothing", 404),
        ("/", 404),
    ] {
        let answer = host.get(path).await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
    }
    let wrong = host.send(request("DELETE", "/api/notifications?userId=u", "")).await;
    assert_eq!(wrong.status, 405, "{wrong:?}");
    assert_eq!(wrong.header("allow"), Some("GET, HEAD, OPTIONS"), "{wrong:?}");
    let wrong = host.send(request("DELETE", "/api/users/1", "")).await;
    assert_eq!(wrong.status, 405, "{wrong:?}");
    assert_eq!(wrong.header("allow"), Some("GET, HEAD"), "{wrong:?}");

    let user = register(&host, "ada@example.com", "Ada").await;
    assert_eq!(host.get(&format!("/api/users/{user}")).await.status, 200);
    let status = host.status(&app).await;
    let services = status["services"].as_array().into_iter().flatten();
    assert!(services.into_iter().all(|service| service["revision"]["number"] == 1), "{status}");
    assert!(!host.log().contains("trapped"), "{}", host.log());
    host.stop().await;
}

#[tokio::test]
async fn names_are_unicode() {
    let app = App::shop("");
    let host = app.start().await;
    for (at, name) in
        ["Žofie Čapková", "王小明", "محمد", "👩‍👩‍👧‍👦", "O'Brien; DROP TABLE users", "\u{202e}dlrow"].into_iter().enumerate()
    {
        let id = register(&host, &format!("u{at}@example.com"), name).await;
        let found = host.get(&format!("/api/users/{id}")).await;
        assert_eq!(found.json()["name"], name);
    }
    host.stop().await;
}

#[tokio::test]
async fn many_register_at_once_and_each_address_is_taken_once() {
    let app = App::shop("");
    let host = app.start().await;
    let asks = (0..40).map(|at| {
        let address = host.address();
        tokio::spawn(async move {
            let mut connection = wharf_tests::Connection::open(address).await?;
            let body = json!({ "email": format!("u{}@example.com", at % 10), "name": "U" }).to_string();
            connection.send(request("POST", "/api/users", body)).await
        })
    });
    let asks: Vec<_> = asks.collect();
    let mut statuses = Vec::new();
    for ask in asks {
        let answer = ask.await.expect("it does not panic").expect("it is answered");
        statuses.push(answer.status);
    }
    let made = statuses.iter().filter(|status| **status == 201).count();
    let refused = statuses.iter().filter(|status| **status == 400).count();
    assert_eq!((made, refused), (10, 30), "{statuses:?}");
    host.stop().await;
}
