//! Stock and reservations: nothing is promised twice, and nothing is lost.

use serde_json::{Value, json};
use wharf_tests::{App, BUYER, Connection, Host, Postgres, eventually};

async fn assert_said(host: &Host, path: &str, text: &str) {
    assert_eq!(host.buyer(path).await, (200, text.to_owned()), "{path}");
}

async fn assert_refused(host: &Host, path: &str, text: &str) {
    assert_eq!(host.buyer(path).await, (400, text.to_owned()), "{path}");
}

async fn set(host: &Host, product: &str, quantity: u32) {
    let path = format!("/api/inventory/{product}");
    let answer = host.with_body("PUT", &path, json!({ "quantity": quantity }).to_string()).await;
    assert_eq!((answer.status, &answer.json()["available"]), (200, &json!(quantity)), "{answer:?}");
}

/// That there is so much of a product.
async fn assert_stock(host: &Host, product: &str, available: u32, reserved: u32, sold: u32) {
    let stock = host.get(&format!("/api/inventory/{product}")).await.json();
    let received = available + reserved + sold;
    let expected = json!({ "productId": product, "available": available, "reserved": reserved, "sold": sold,
                           "received": received });
    assert_eq!(stock, expected);
}

/// All products together, which add up and agree with the reservations.
async fn totals(host: &Host) -> Value {
    let totals = host.get("/api/inventory").await.json();
    let number = |name: &str| totals[name].as_i64().unwrap_or_else(|| panic!("{totals}"));
    assert_eq!(number("available") + number("reserved") + number("sold"), number("received"), "{totals}");
    assert_eq!(totals["differences"], json!([]), "{totals}");
    totals
}

#[tokio::test]
async fn all_of_an_order_is_reserved_or_nothing() {
    let app = App::shop(BUYER);
    let host = app.start().await;
    set(&host, "pen", 5).await;
    set(&host, "ink", 1).await;
    host.get("/api/inventory/cup").await.assert_error(404, "Product not in the inventory");

    let reserve = "reserve?key=k1&order=o1&items=pen:2,ink:1";
    assert_said(&host, reserve, "held k1").await;
    assert_said(&host, reserve, "held k1").await;
    assert_stock(&host, "pen", 3, 2, 0).await;
    assert_refused(&host, "reserve?key=k1&order=o2&items=pen:2,ink:1", "conflict").await;
    assert_refused(&host, "reserve?key=k1&order=o1&items=pen:1,ink:1", "conflict").await;

    assert_refused(&host, "reserve?key=k2&order=o2&items=pen:3,ink:1,cup:1", "shortage cup:0/1 ink:0/1").await;
    assert_stock(&host, "pen", 3, 2, 0).await;
    // Nothing came of it, so the same key may succeed later.
    set(&host, "ink", 1).await;
    set(&host, "cup", 1).await;
    assert_said(&host, "reserve?key=k2&order=o2&items=pen:3,ink:1,cup:1", "held k2").await;

    assert_said(&host, "keep?key=k1", "kept k1").await;
    assert_said(&host, "keep?key=k1", "kept k1").await;
    assert_said(&host, reserve, "kept k1").await;
    assert_refused(&host, "keep?key=nothing", "not-found").await;
    assert_stock(&host, "pen", 0, 3, 2).await;

    assert_said(&host, "release?key=k2", "released").await;
    assert_said(&host, "release?key=k2", "nothing").await;
    assert_refused(&host, "keep?key=k2", "called-off").await;
    assert_refused(&host, "reserve?key=k2&order=o2&items=pen:3,ink:1,cup:1", "called-off").await;
    assert_stock(&host, "pen", 3, 0, 2).await;
    // A sale that is called off.
    assert_said(&host, "release?key=k1", "released").await;
    assert_stock(&host, "pen", 5, 0, 0).await;

    assert_said(&host, "release?key=late", "nothing").await;
    assert_refused(&host, "reserve?key=late&order=o&items=pen:1", "called-off").await;
    assert_refused(&host, "keep?key=late", "called-off").await;

    for (path, word) in [
        ("reserve?key=&order=o&items=pen:1", "invalid"),
        ("reserve?key=k&order=o&items=", "invalid"),
        ("reserve?key=k&order=o&items=pen:0", "invalid"),
        ("reserve?key=k&order=o&items=pen:1&ttl=0", "invalid"),
    ] {
        let (status, text) = host.buyer(path).await;
        assert!(status == 400 && text.starts_with(word), "{path}: {text}");
    }
    let wrong = host.with_body("PUT", "/api/inventory/pen", r#"{"quantity": 1000001}"#).await;
    wrong.assert_error(400, "Invalid quantity, expected 0 to 1000000");
    assert_eq!(totals(&host).await["received"], json!(8));
    host.stop().await;
}

#[tokio::test]
async fn what_the_catalogue_says_follows_the_inventory() {
    let app = App::shop(BUYER);
    let host = app.start().await;
    for (id, in_stock) in [("pen", true), ("ink", false), ("tea", false)] {
        let product = json!({ "id": id, "name": id, "price": 1, "inStock": in_stock });
        assert_eq!(host.post("/api/products", &product).await.status, 201);
    }
    let becomes = async |id: &str, in_stock: bool| {
        eventually("the catalogue follows", async || {
            let product = host.get(&format!("/api/products/{id}")).await.json();
            if product["inStock"] == json!(in_stock) { Ok(()) } else { Err(product) }
        })
        .await;
    };
    set(&host, "ink", 2).await;
    becomes("ink", true).await;
    assert_said(&host, "reserve?key=k&order=o&items=ink:2", "held k").await;
    becomes("ink", false).await;
    assert_said(&host, "release?key=k", "released").await;
    becomes("ink", true).await;
    set(&host, "ink", 0).await;
    becomes("ink", false).await;
    // Those that the inventory has never heard of are as they were said to be, and can be said to be otherwise.
    let product = async |id: &str| host.get(&format!("/api/products/{id}")).await.json()["inStock"].clone();
    assert_eq!((product("pen").await, product("tea").await), (json!(true), json!(false)));
    let changed = host.with_body("PATCH", "/api/products/tea", r#"{"inStock": true}"#).await;
    assert_eq!(changed.json()["inStock"], json!(true));

    // The inventory may know a product before the catalogue does.
    set(&host, "cup", 0).await;
    set(&host, "ink", 1).await;
    becomes("ink", true).await;
    let cup = host.post("/api/products", &json!({ "id": "cup", "name": "Cup", "price": 1 })).await;
    assert_eq!(cup.status, 201, "{cup:?}");
    becomes("cup", false).await;
    host.stop().await;
}

/// Many who want more than there is, some in one order and some in the other.
async fn many_want_the_same(app: App) {
    let host = app.start().await;
    set(&host, "pen", 40).await;
    set(&host, "ink", 1000).await;
    let asking: Vec<_> = (0..60)
        .map(|n| {
            let items = if n % 2 == 0 { "pen:1,ink:2" } else { "ink:2,pen:1" };
            host.ask(&format!("/buyer/reserve?key=k-{n}&order=o-{n}&items={items}"))
        })
        .collect();
    let (mut held, mut short) = (Vec::new(), 0);
    for (n, asking) in asking.into_iter().enumerate() {
        match asking.answer().await.text() {
            "shortage pen:0/1" => short += 1,
            text => {
                assert_eq!(text, format!("held k-{n}"));
                held.push(n);
            }
        }
    }
    assert_eq!((held.len(), short), (40, 20));
    assert_stock(&host, "pen", 0, 40, 0).await;
    assert_stock(&host, "ink", 920, 80, 0).await;

    // Kept, released and both at once, each twice.
    let mut asking = Vec::new();
    for n in &held {
        let verbs = match n % 3 {
            0 => ["keep", "keep"],
            1 => ["release", "release"],
            _ => ["keep", "release"],
        };
        asking.extend(verbs.map(|verb| host.ask(&format!("/buyer/{verb}?key=k-{n}"))));
    }
    for asking in asking {
        let answer = asking.answer().await;
        assert!(!answer.text().starts_with("fault"), "{answer:?}");
    }
    let kept = held.iter().filter(|n| **n % 3 == 0).count() as u32;
    assert_stock(&host, "pen", 40 - kept, 0, kept).await;
    assert_stock(&host, "ink", 1000 - 2 * kept, 0, 2 * kept).await;
    totals(&host).await;
    host.stop().await;
}

#[tokio::test]
async fn many_who_want_the_same_get_what_there_is() {
    many_want_the_same(App::shop(BUYER)).await;
}

#[tokio::test]
async fn many_who_want_the_same_get_what_there_is_with_postgresql() {
    let postgres = Postgres::start();
    many_want_the_same(App::shop(&format!("{BUYER}\n{}", postgres.store("shop")))).await;
}

#[tokio::test]
async fn what_is_not_kept_in_time_is_back_in_stock() {
    let app = App::shop(BUYER);
    let host = app.start().await;
    set(&host, "pen", 1).await;
    set(&host, "ink", 1).await;
    assert_said(&host, "reserve?key=k1&order=o1&items=pen:1&ttl=1", "held k1").await;
    // Whoever wants it does not wait for the clock.
    eventually("it is overdue", async || match host.buyer("reserve?key=k2&order=o2&items=pen:1").await {
        (200, _) => Ok(()),
        (_, text) => Err(text),
    })
    .await;
    assert_refused(&host, "keep?key=k1", "expired").await;
    assert_refused(&host, "reserve?key=k1&order=o1&items=pen:1", "expired").await;
    assert_said(&host, "release?key=k1", "nothing").await;
    assert_said(&host, "keep?key=k2", "kept k2").await;
    assert_stock(&host, "pen", 0, 0, 1).await;

    // And where nobody wants it, the clock does it, within a minute.
    assert_said(&host, "reserve?key=k3&order=o3&items=ink:1&ttl=1", "held k3").await;
    eventually("the clock has come by", async || {
        let totals = totals(&host).await;
        if totals["reserved"] == json!(0) { Ok(()) } else { Err(totals) }
    })
    .await;
    assert_refused(&host, "keep?key=k3", "expired").await;
    assert_stock(&host, "ink", 1, 0, 0).await;
    host.stop().await;
}

/// Reserves, and keeps or releases, one after the other, until the host is gone.
async fn customer(mut connection: Connection, name: String) {
    for n in 0.. {
        let key = format!("{name}-{n}");
        let reserve = format!("/buyer/reserve?key={key}&order={key}&items=pen:1,ink:2");
        let verb = if n % 3 == 0 { "release" } else { "keep" };
        for path in [reserve, format!("/buyer/{verb}?key={key}")] {
            let Ok(_) = connection.get(&path).await else { return };
        }
    }
}

#[tokio::test]
async fn nothing_is_lost_on_a_host_that_is_killed() {
    let app = App::shop(BUYER);
    for kill in 0..4 {
        let mut host = app.start().await;
        if kill == 0 {
            set(&host, "pen", 100_000).await;
            set(&host, "ink", 200_000).await;
        }
        let before = totals(&host).await["sold"].as_i64();
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
        eventually("things are sold", async || {
            let sold = totals(&host).await["sold"].as_i64();
            if sold > before.map(|sold| sold + 50 + 17 * kill) { Ok(()) } else { Err(sold) }
        })
        .await;
        host.signal("KILL");
        assert!(!host.ended().await.success());
        for customer in customers {
            customer.await.expect("it does not panic");
        }
    }
    let host = app.start().await;
    let totals = totals(&host).await;
    assert_eq!(totals["received"], json!(300_000));
    // No more than what each of them had in hand.
    assert!(totals["reserved"].as_i64().is_some_and(|reserved| reserved <= 4 * 4 * 3), "{totals}");
    host.stop().await;
}
