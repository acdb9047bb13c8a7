use super::*;
use crate::events::{NewEvent, Shelf};
use http_body_util::BodyExt;
use serde_json::{Value, json};

/// Asks the API of a bus with these dead letters, which are named from `1` on, and gives status and body.
async fn ask(bus: &Bus, method: Method, path: &str, body: Value) -> (u16, Value) {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let path: Vec<&str> = path.split('/').collect();
    let response = answer(bus, &method, &path, query, body.to_string().as_bytes()).await;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.expect("a body that is there").to_bytes();
    (status, serde_json::from_slice(&body).expect("JSON"))
}

async fn get(bus: &Bus, path: &str) -> (u16, Value) {
    ask(bus, Method::GET, path, Value::Null).await
}

async fn post(bus: &Bus, path: &str, body: Value) -> (u16, Value) {
    ask(bus, Method::POST, path, body).await
}

fn named(listed: &Value) -> Vec<&str> {
    let letters = listed["letters"].as_array().expect("letters");
    letters.iter().map(|letter| letter["letter"].as_str().expect("a name")).collect()
}

/// Two topics and two services in turns.
fn shelf(count: usize) -> Shelf {
    let shelf = Shelf::default();
    for at in 0..count {
        let topic = if at % 2 == 0 { "order.created" } else { "user.created" };
        let service = if at % 4 < 2 { "mail" } else { "audit" };
        shelf.bury(service, NewEvent { subject: Some("o1".into()), ..NewEvent::json(topic, r#"{"a":1}"#) });
    }
    shelf
}

#[tokio::test]
async fn dead_letters_are_listed_in_pages_and_by_topic_and_service() {
    let bus = Bus::of_shelf(shelf(250));
    let (status, listed) = get(&bus, "dead-letters").await;
    assert_eq!((status, named(&listed).len(), &listed["more"]), (200, 100, &json!(true)));
    let (_, listed) = get(&bus, "dead-letters?limit=240&after=5").await;
    assert_eq!((named(&listed).len(), named(&listed)[0], &listed["more"]), (240, "6", &json!(true)));
    let (_, listed) = get(&bus, "dead-letters?limit=1000&topic=user.created&service=audit").await;
    assert_eq!(&named(&listed)[..2], ["4", "8"]);
    assert_eq!(listed["more"], false);
    let first = &get(&bus, "dead-letters?limit=1").await.1["letters"][0];
    assert_eq!(first["reason"], "rejected");
    assert_eq!(
        (&first["topic"], &first["service"], &first["bytes"]),
        (&json!("order.created"), &json!("mail"), &json!(7))
    );
    assert_eq!(named(&get(&bus, "dead-letters?reason=rejected&limit=2").await.1), ["1", "2"]);
    assert_eq!(get(&bus, "dead-letters?reason=denied").await.1["letters"], json!([]));
    for wrong in ["limit=0", "limit=1001", "limit=many", "topik=a", "reason=", "reason=old"] {
        assert_eq!(get(&bus, &format!("dead-letters?{wrong}")).await.0, 400, "{wrong}");
    }
}

#[tokio::test]
async fn a_letter_is_shown_with_its_event() {
    let shelf = shelf(1);
    shelf.bury("mail", NewEvent { datacontenttype: Some("text/plain".into()), ..NewEvent::json("a", "hé") });
    shelf.bury("mail", NewEvent { datacontenttype: Some("image/png".into()), ..NewEvent::json("a", vec![0x89, b'P']) });
    shelf.bury("mail", NewEvent::json("a", "{"));
    let bus = Bus::of_shelf(shelf);
    let (status, letter) = get(&bus, "dead-letters/1").await;
    assert_eq!(status, 200);
    assert_eq!((&letter["letter"], &letter["attempts"], &letter["error"]), (&json!("1"), &json!(3), &json!("no")));
    let event = &letter["event"];
    assert_eq!((&event["specversion"], &event["type"]), (&json!("1.0"), &json!("order.created")));
    assert_eq!((&event["subject"], &event["data"]), (&json!("o1"), &json!({ "a": 1 })));
    assert_eq!(get(&bus, "dead-letters/2").await.1["event"]["data"], "hé");
    assert_eq!(get(&bus, "dead-letters/3").await.1["event"]["data_base64"], "iVA=");
    assert_eq!(get(&bus, "dead-letters/4").await.1["event"]["data_base64"], "ew==");
    let (status, problem) = get(&bus, "dead-letters/99").await;
    assert_eq!(status, 404);
    assert!(problem["detail"].as_str().expect("a detail").starts_with("there is no dead letter `99`"), "{problem}");
}

#[tokio::test]
async fn letters_are_replayed_and_dropped_by_name_or_all_together() {
    let bus = Bus::of_shelf(shelf(250));
    let (status, done) = post(&bus, "dead-letters/replay", json!({ "letters": ["1", "2", "2", "999"] })).await;
    assert_eq!((status, done), (200, json!({ "count": 2, "missing": 1 })));
    let of_topic = json!({ "all": true, "topic": "order.created", "service": "audit" });
    let denied = json!({ "all": true, "reason": "denied" });
    assert_eq!(post(&bus, "dead-letters/drop", denied).await.1["count"], 0);
    let (_, done) = post(&bus, "dead-letters/drop", of_topic).await;
    assert_eq!(done, json!({ "count": 62, "missing": 0 }));
    let (_, done) = post(&bus, "dead-letters/replay", json!({ "all": true })).await;
    assert_eq!(done["count"], 250 - 2 - 62);
    assert_eq!(get(&bus, "dead-letters").await.1["letters"], json!([]));
    let many: Vec<_> = (0..1001).map(|letter| letter.to_string()).collect();
    for wrong in [
        json!({}),
        json!({ "letters": [] }),
        json!({ "all": true, "letters": ["1"] }),
        json!({ "all": false }),
        json!({ "letters": ["1"], "topic": "a" }),
        json!({ "letters": ["1"], "reason": "denied" }),
        json!({ "all": true, "reason": "old" }),
        json!({ "everything": true }),
        json!({ "letters": many }),
    ] {
        assert_eq!(post(&bus, "dead-letters/drop", wrong.clone()).await.0, 400, "{wrong}");
    }
}

#[tokio::test]
async fn letters_that_die_again_are_replayed_once() {
    let shelf = shelf(250);
    shelf.die_again();
    let bus = Bus::of_shelf(shelf);
    assert_eq!(post(&bus, "dead-letters/replay", json!({ "all": true })).await.1["count"], 250);
}

#[tokio::test]
async fn the_past_of_a_topic_is_replayed_from_a_time_or_an_offset() {
    let bus = Bus::of_shelf(Shelf::default());
    let past = |from: Value| {
        let mut past = json!({ "topic": "order.created", "service": "mail" });
        past.as_object_mut().expect("an object").extend(from.as_object().expect("an object").clone());
        past
    };
    let done = post(&bus, "replay", past(json!({ "from": "2026-11-24T00:00:00+01:00" }))).await;
    assert_eq!(done, (200, json!({ "count": 7, "missing": 0 })));
    assert_eq!(post(&bus, "replay", past(json!({ "offset": "12" }))).await.0, 200);
    assert_eq!(post(&bus, "replay", past(json!({ "offset": "twelve" }))).await.0, 422);
    let (status, problem) = post(&bus, "replay", json!({ "topic": "a", "service": "b", "offset": "1" })).await;
    assert_eq!((status, &problem["detail"]), (404, &json!("there is no service `b` with a subscription")));
    for wrong in [json!({}), json!({ "from": "yesterday" }), json!({ "from": "2026-11-24T00:00:00Z", "offset": "1" })] {
        assert_eq!(post(&bus, "replay", past(wrong.clone())).await.0, 400, "{wrong}");
    }
}

#[tokio::test]
async fn replays_are_stopped_by_topic_and_service() {
    let bus = Bus::of_shelf(Shelf::default());
    let stopped = post(&bus, "replay/stop", json!({ "topic": "order.created", "service": "mail" })).await;
    assert_eq!(stopped, (200, json!({ "count": 4, "missing": 0 })));
    assert_eq!(post(&bus, "replay/stop", json!({ "topic": "order.created", "service": "b" })).await.0, 404);
    assert_eq!(post(&bus, "replay/stop", json!({ "topic": "order.created" })).await.0, 400);
    assert_eq!(get(&bus, "replay/stop").await.0, 405);
}

#[tokio::test]
async fn other_methods_and_paths_are_told_so() {
    let bus = Bus::of_shelf(Shelf::default());
    assert_eq!(post(&bus, "dead-letters", json!({})).await.0, 405);
    assert_eq!(get(&bus, "replay").await.0, 405);
    assert_eq!(get(&bus, "dead-letters/1/2").await.0, 404);
}
