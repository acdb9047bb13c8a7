//! Events by a real Redis: streams between hosts, and the seed's plain publish and subscribe.

use serde_json::{Value, json};
use wharf_tests::{App, Host, Redis, eventually};

fn shop(redis: &Redis, bus: &str) -> App {
    let app = App::shop(&format!("[events]\nbus = \"{bus}\"\nredis = \"{}\"\n", redis.url()));
    // A bus that keeps no events has no clock, and where events are counted, those of the clock are in the way.
    let manifest = std::fs::read_to_string(app.manifest()).expect("the manifest was just written");
    let clock = "cron = \"* * * * *\"\n";
    assert!(manifest.contains(clock));
    app.write(&manifest.replace(clock, ""));
    app
}

async fn register(host: &Host, email: &str) -> String {
    let answer = host.post("/api/users", &json!({ "email": email, "name": "Ada" })).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()["id"].as_str().expect("an id").to_owned()
}

/// Waits for the notifications of a user.
async fn notified(host: &Host, user: &str, count: usize) -> Vec<Value> {
    eventually("notifications", async || {
        let told = host.get(&format!("/api/notifications?userId={user}")).await.json();
        let told = told.as_array().cloned().unwrap_or_default();
        if told.len() == count { Ok(told) } else { Err(told) }
    })
    .await
}

async fn confirm_an_order(host: &Host, user: &str) -> String {
    let product = host.post("/api/products", &json!({ "name": "Pen", "price": 1.5 })).await.json();
    let items = json!([{ "productId": product["id"], "quantity": 2 }]);
    let order = host.post("/api/orders", &json!({ "userId": user, "items": items })).await.json();
    let id = order["id"].as_str().expect("an id").to_owned();
    assert_eq!(host.post(&format!("/api/orders/{id}/confirm"), &json!({})).await.status, 200);
    id
}

#[tokio::test]
async fn notifications_come_by_streams() {
    let redis = Redis::start().await;
    let app = shop(&redis, "redis-streams");
    let host = app.start().await;
    let user = register(&host, "ada@example.com").await;
    confirm_an_order(&host, &user).await;
    notified(&host, &user, 2).await;
    let status = host.status(&app).await;
    assert_eq!(
        (&status["events"]["bus"], &status["events"]["connection"]["state"]),
        (&json!("redis-streams"), &json!("connected"))
    );

    // What is published while nobody takes it is there later.
    host.stop().await;
    let keys = redis.session().await.command(&["KEYS", "*"]).await.expect("Redis answers");
    assert!(keys.iter().any(|key| key.contains("user.created")), "{keys:?}");
    let host = app.start().await;
    let other = register(&host, "bob@example.com").await;
    notified(&host, &other, 1).await;
    notified(&host, &user, 2).await;
    host.stop().await;
}

/// How many of these users a host has told something.
async fn told(host: &Host, users: &[String]) -> usize {
    let mut count = 0;
    for user in users {
        let told = host.get(&format!("/api/notifications?userId={user}")).await.json();
        count += usize::from(told.as_array().is_some_and(|told| !told.is_empty()));
    }
    count
}

#[tokio::test]
async fn of_two_hosts_that_share_the_work_one_is_killed_and_the_other_takes_over() {
    let redis = Redis::start().await;
    let (stays, dies) = (shop(&redis, "redis-streams"), shop(&redis, "redis-streams"));
    let (staying, mut dying) = (stays.start().await, dies.start().await);
    let mut users = Vec::new();
    eventually("each does a part of the work", async || {
        users.push(register(&staying, &format!("u{}@example.com", users.len())).await);
        let parts = (told(&staying, &users).await, told(&dying, &users).await);
        if parts.0 > 0 && parts.1 > 0 { Ok(()) } else { Err(parts) }
    })
    .await;

    // Killed with what it has in hand, and with what comes to its partitions before anyone knows.
    for n in 0..30 {
        users.push(register(&staying, &format!("v{n}@example.com")).await);
        if n == 15 {
            dying.signal("KILL");
            dying.ended().await;
        }
    }
    let after = users.split_off(users.len() - 14);
    eventually("everyone since is told by the one that is left", async || match told(&staying, &after).await {
        14 => Ok(()),
        some => Err(some),
    })
    .await;

    // What the dead one has done is in its own database.
    let again = dies.start().await;
    eventually("everyone before was told by one or the other", async || {
        let mut missing = Vec::new();
        for user in &users {
            let one = std::slice::from_ref(user);
            if told(&staying, one).await + told(&again, one).await == 0 {
                missing.push(user.clone());
            }
        }
        if missing.is_empty() { Ok(()) } else { Err(missing) }
    })
    .await;
    again.stop().await;
    staying.stop().await;
}

#[tokio::test]
async fn programs_of_the_seed_hear_what_services_publish() {
    let redis = Redis::start().await;
    let mut seed = redis.session().await;
    seed.command(&["SUBSCRIBE", "user.created"]).await.expect("Redis answers");
    seed.command(&["SUBSCRIBE", "order.created"]).await.expect("Redis answers");
    seed.command(&["SUBSCRIBE", "order.confirmed"]).await.expect("Redis answers");
    let app = shop(&redis, "redis-pubsub");
    let host = app.start().await;

    let user = register(&host, "ada@example.com").await;
    let order = confirm_an_order(&host, &user).await;
    let mut heard = Vec::new();
    for _ in 0..3 {
        let message = seed.reply().await.expect("Redis answers");
        let [kind, topic, data] = &message[..] else { panic!("{message:?}") };
        assert_eq!(kind, "message");
        heard.push((topic.clone(), serde_json::from_str::<Value>(data).expect("bare JSON")));
    }
    heard.sort_by(|a, b| a.0.cmp(&b.0));
    let [(confirmed, confirmation), (created, creation), (registered, registration)] = &heard[..] else { panic!() };
    assert_eq!(
        (confirmed.as_str(), created.as_str(), registered.as_str()),
        ("order.confirmed", "order.created", "user.created")
    );
    assert_eq!(registration, &json!({ "userId": user, "email": "ada@example.com", "name": "Ada" }));
    assert_eq!(confirmation, &json!({ "orderId": order, "userId": user }));
    assert_eq!(
        (&creation["orderId"], &creation["userId"], &creation["total"]),
        (&json!(order), &json!(user), &json!(3))
    );
    assert_eq!(creation["items"][0]["quantity"], 2);
    notified(&host, &user, 2).await;
    host.stop().await;
}

#[tokio::test]
async fn services_hear_what_programs_of_the_seed_publish() {
    let redis = Redis::start().await;
    let app = shop(&redis, "redis-pubsub");
    let host = app.start().await;
    let mut seed = redis.session().await;
    let event = json!({ "userId": "from-the-seed", "email": "seed@example.com", "name": "Seed" }).to_string();
    let heard = seed.command(&["PUBLISH", "user.created", &event]).await.expect("Redis answers");
    assert_eq!(heard, ["1"], "one host listens");
    let told = notified(&host, "from-the-seed", 1).await;
    assert_eq!((&told[0]["kind"], &told[0]["recipient"]), (&json!("welcome"), &json!("seed@example.com")));

    // What is no event of the shop is put aside, and what comes after it is delivered.
    for data in ["not json", "{}", "[1, 2]", "\u{0}", ""] {
        seed.command(&["PUBLISH", "user.created", data]).await.expect("Redis answers");
    }
    let event = json!({ "orderId": "o-1", "userId": "from-the-seed" }).to_string();
    seed.command(&["PUBLISH", "order.confirmed", &event]).await.expect("Redis answers");
    notified(&host, "from-the-seed", 2).await;
    host.stop().await;
}

/// Waits until `wharf status` says of the connection to Redis that it is in this state.
async fn connection_is(host: &Host, app: &App, state: &str) {
    eventually(&format!("Redis is {state}"), async || {
        let events = host.status(app).await["events"].clone();
        if events["connection"]["state"] == state { Ok(()) } else { Err(events) }
    })
    .await;
}

#[tokio::test]
async fn services_go_on_without_redis_and_events_come_again_when_it_does() {
    for bus in ["redis-streams", "redis-pubsub"] {
        let mut redis = Redis::start().await;
        let app = shop(&redis, bus);
        let host = app.start().await;
        let before = register(&host, "before@example.com").await;
        notified(&host, &before, 1).await;

        redis.stop().await;
        connection_is(&host, &app, "disconnected").await;
        assert_eq!(host.get(&format!("/api/users/{before}")).await.status, 200, "{bus}");
        // What was saved is saved, and its event waits.
        let meanwhile = register(&host, "meanwhile@example.com").await;
        assert_eq!(host.get(&format!("/api/users/{meanwhile}")).await.status, 200, "{bus}");
        eventually("the event waits in the outbox", async || {
            let status = host.status(&app).await;
            assert_eq!(status["events"]["published"], json!(1), "{bus}: {status}");
            let outboxes = status["outboxes"].as_array().cloned().unwrap_or_default();
            let waits =
                |outbox: &Value| outbox["service"] == "user" && outbox["waiting"] == 1 && outbox["error"].is_string();
            if outboxes.iter().any(waits) { Ok(()) } else { Err(outboxes) }
        })
        .await;

        redis.start_again().await;
        connection_is(&host, &app, "connected").await;
        if bus == "redis-streams" {
            notified(&host, &meanwhile, 1).await;
        }
        // It came back empty. Where nobody keeps events for those that are not there yet, the first may pass unheard.
        let mut users = Vec::new();
        eventually("an event arrives again", async || {
            users.push(register(&host, &format!("after-{}@example.com", users.len())).await);
            for user in &users {
                let told = host.get(&format!("/api/notifications?userId={user}")).await.json();
                if told.as_array().is_some_and(|told| told.len() == 1) {
                    return Ok(());
                }
            }
            Err(host.status(&app).await["events"].clone())
        })
        .await;
        let last = register(&host, "last@example.com").await;
        notified(&host, &last, 1).await;
        host.stop().await;
    }
}

#[tokio::test]
async fn no_redis_is_one_clear_error() {
    for bus in ["redis-streams", "redis-pubsub"] {
        let mut redis = Redis::start().await;
        let app = shop(&redis, bus);
        let url = redis.url();
        redis.stop().await;
        let done = app.wharf(&["up"]).await;
        assert_eq!(done.code(), Some(1), "{done:?}");
        let address = url.trim_start_matches("redis://");
        assert!(done.stderr.contains(&format!("Redis at {address} can't be used")), "{done:?}");
        assert!(done.stderr.contains("bus = \"embedded\""), "{done:?}");
        assert!(!app.folder().join(".wharf/admin.sock").exists());
    }
}
