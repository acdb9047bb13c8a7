//! Orders by typed calls: placed once by their key, and taken back when it has to be.

use serde_json::json;
use wharf_tests::{App, BUYER, Host, Postgres, below, eventually};

async fn assert_refused(host: &Host, path: &str, text: &str) {
    assert_eq!(host.buyer(path).await, (400, text.to_owned()), "{path}");
}

/// The id in `pending ID 450`, which is the answer to this.
async fn id(host: &Host, path: &str, word: &str, total: u32) -> String {
    let (status, text) = host.buyer(path).await;
    let words: Vec<_> = text.split(' ').collect();
    let [first, id, last] = words[..] else { panic!("{path}: {status} {text}") };
    assert_eq!((status, first, last), (200, word, total.to_string().as_str()), "{path}: {text}");
    id.to_owned()
}

/// A user, who can buy pens.
async fn user(host: &Host) -> String {
    let pen = json!({ "id": "pen", "name": "Pen", "price": 1.5 });
    assert_eq!(host.post("/api/products", &pen).await.status, 201);
    let user = host.post("/api/users", &json!({ "email": "ada@example.com", "name": "Ada" })).await;
    user.json()["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn a_key_is_one_order() {
    let listener = below("ear", "listener", "subscribes = [\"order.cancelled\"]\ninstances = { max = 1 }");
    let app = App::shop(&format!("{BUYER}{listener}"));
    let host = app.start().await;
    let user = user(&host).await;
    let place = format!("place?key=k&user={user}&items=pen:3");
    let order = id(&host, &place, "pending", 450).await;
    assert_eq!(id(&host, &place, "pending", 450).await, order);
    assert_refused(&host, &format!("place?key=k&user={user}&items=pen:2"), "conflict").await;
    assert_refused(&host, "place?key=k&user=another&items=pen:3", "conflict").await;
    assert_refused(&host, "place?key=k2&user=nobody&items=pen:3", "refused User not found").await;
    assert_refused(&host, &format!("place?key=k2&user={user}&items=cup:1"), "refused Product cup not found").await;
    let invalid = "invalid the key is not one: expected 1 to 512 visible characters of ASCII";
    assert_refused(&host, &format!("place?key=&user={user}&items=pen:3"), invalid).await;

    // It is an order like any other.
    let found = host.get(&format!("/api/orders/{order}")).await.json();
    assert_eq!((&found["total"], &found["status"]), (&json!(4.5), &json!("PENDING")));
    assert_eq!(id(&host, &format!("order?id={order}"), "pending", 450).await, order);
    assert_refused(&host, "order?id=nothing", "not-found").await;

    for _ in 0..2 {
        assert_eq!(id(&host, &format!("confirm?id={order}"), "confirmed", 450).await, order);
    }
    assert_eq!(id(&host, &place, "confirmed", 450).await, order);
    // Customers can't cancel it any more; a compensation can, and does not mind doing it twice.
    let late = host.post(&format!("/api/orders/{order}/cancel"), &json!({})).await;
    late.assert_error(400, "Order is CONFIRMED and cannot become CANCELLED");
    for path in [format!("cancel?id={order}&reason=declined"), "cancel?key=k&reason=declined".to_owned()] {
        assert_eq!(id(&host, &path, "cancelled", 450).await, order);
    }
    let heard = eventually("it is told, once", async || {
        let heard = host.get("/ear/heard").await.text().to_owned();
        if heard.lines().count() == 1 { Ok(heard) } else { Err(heard) }
    })
    .await;
    let told = json!({ "orderId": order, "userId": user, "reason": "declined" });
    let data = heard.split_once('{').map(|(_, data)| format!("{{{data}"));
    assert_eq!(data.and_then(|data| serde_json::from_str(&data).ok()), Some(told), "{heard}");
    assert_refused(&host, &format!("confirm?id={order}"), "not-possible cancelled").await;
    assert_refused(&host, &place, "called-off").await;
    assert_refused(&host, "cancel?id=nothing&reason=declined", "not-found").await;
    let (status, text) = host.buyer(&format!("cancel?id={order}&reason=")).await;
    assert!(status == 400 && text.starts_with("invalid reason"), "{text}");

    assert_eq!(host.buyer("cancel?key=late&reason=declined").await, (200, "nothing".to_owned()));
    assert_eq!(host.buyer("cancel?key=late&reason=declined").await, (200, "nothing".to_owned()));
    assert_refused(&host, &format!("place?key=late&user={user}&items=pen:1"), "called-off").await;
    let orders = host.get(&format!("/api/orders?userId={user}")).await.json();
    assert_eq!(orders.as_array().map(Vec::len), Some(1), "{orders}");
    host.stop().await;
}

async fn placed_at_the_same_time(app: App) {
    let host = app.start().await;
    let user = user(&host).await;
    let answers = host.at_once(&format!("/buyer/place?key=k&user={user}&items=pen:1"), 24).await;
    let first = answers[0].text().to_owned();
    assert!(first.starts_with("pending "), "{first}");
    assert!(answers.iter().all(|answer| answer.text() == first), "{answers:?}");
    let orders = host.get(&format!("/api/orders?userId={user}")).await.json();
    assert_eq!(orders.as_array().map(Vec::len), Some(1), "{orders}");
    host.stop().await;
}

#[tokio::test]
async fn what_is_placed_many_times_at_once_is_one_order() {
    placed_at_the_same_time(App::shop(BUYER)).await;
}

#[tokio::test]
async fn what_is_placed_many_times_at_once_is_one_order_with_postgresql() {
    let postgres = Postgres::start();
    placed_at_the_same_time(App::shop(&format!("{BUYER}\n{}", postgres.store("shop")))).await;
}
