//! Events from outside: dead letters and what an operator does with them, events for a later time, topics by the clock,
//! and the past once more.

use serde_json::Value;
use std::time::{SystemTime, UNIX_EPOCH};
use wharf_tests::{App, Host, Redis, below, eventually};

/// One service that publishes what it is told to and hears it. One instance of it, so that it remembers all.
fn listener(events: &str, more: &str) -> App {
    App::new(&format!(
        r#"
[services.listener]
component = "<listener>"
publishes = ["order.created"]
subscribes = [{{ topic = "order.created", attempts = 3, backoff = "10ms" }}]
instances = {{ max = 1 }}

[topics."order.created"]

[[gateway.routes]]
path = "/{{*rest}}"
service = "listener"

# What traps here is the event's fault.
[policy.edges."events -> listener"]
breaker = false

[events]
{events}
{more}
"#
    ))
}

/// Runs `scene` with each bus that keeps events.
async fn on_each_bus(more: &str, scene: impl AsyncFn(&App, &Host)) {
    let redis = Redis::start().await;
    for events in ["bus = \"embedded\"".to_owned(), format!("redis = \"{}\"", redis.url())] {
        let app = listener(&events, more);
        let host = app.start().await;
        scene(&app, &host).await;
        host.stop().await;
    }
}

fn millis() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_millis()
}

/// RFC 3339 of a time that is this many milliseconds from now, and the milliseconds since 1970 that it is at.
fn in_millis(later: u128) -> (String, u128) {
    let at = millis() + later;
    let (seconds, millis) = (at / 1000, at % 1000);
    // Any offset will do, and a date that is counted from 1970 is what the host's clock says too.
    let date = std::process::Command::new("date").args(["-u", "-d", &format!("@{seconds}"), "+%FT%T"]).output();
    let date = String::from_utf8(date.expect("there is a `date`").stdout).expect("text");
    (format!("{}.{millis:03}Z", date.trim()), at)
}

async fn publish(host: &Host, query: &str) -> String {
    let answer = host.get(&format!("/publish?topic=order.created&{query}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.text().to_owned()
}

/// The deliveries so far that have this word in them.
async fn heard(host: &Host, word: &str) -> Vec<String> {
    let heard = host.get("/heard").await;
    heard.text().lines().filter(|line| line.contains(word)).map(str::to_owned).collect()
}

/// Waits for this many deliveries with this word in them.
async fn hears(host: &Host, word: &str, count: usize) -> Vec<String> {
    eventually(&format!("{count} deliveries of {word}"), async || {
        let heard = heard(host, word).await;
        if heard.len() >= count { Ok(heard) } else { Err(heard) }
    })
    .await
}

/// Waits for this many dead letters.
async fn dead(app: &App, host: &Host, count: usize) -> Vec<Value> {
    eventually(&format!("{count} dead letters"), async || {
        let listed = host.wharf(app, &["events", "list", "--json"]).await;
        assert_eq!(listed.code(), Some(0), "{listed:?}");
        let letters = listed.json()["letters"].as_array().cloned().unwrap_or_default();
        if letters.len() == count { Ok(letters) } else { Err(letters) }
    })
    .await
}

fn name(letter: &Value) -> &str {
    letter["letter"].as_str().expect("a letter has a name")
}

#[tokio::test]
async fn poison_becomes_a_dead_letter_that_is_listed_shown_replayed_and_dropped() {
    on_each_bus("", async |app, host| {
        let id = publish(host, "subject=o1&data=reject").await;
        let letters = dead(app, host, 1).await;
        let letter = &letters[0];
        assert_eq!(
            (&letter["id"], &letter["reason"], &letter["attempts"]),
            (&id.as_str().into(), &"rejected".into(), &1.into())
        );
        assert_eq!((&letter["subject"], &letter["error"]), (&"o1".into(), &"poison".into()));

        let table = host.wharf(app, &["events", "list", "--topic", "order.created", "--service", "listener"]).await;
        assert!(table.stdout.contains("rejected") && table.stdout.contains("poison"), "{table:?}");
        let none = host.wharf(app, &["events", "list", "--service", "listener", "--reason", "denied"]).await;
        assert_eq!((none.code(), none.stdout.as_str()), (Some(0), ""), "{none:?}");
        let shown = host.wharf(app, &["events", "show", name(letter)]).await;
        for part in ["last error       poison", "\n\nreject", "/services/listener", &id] {
            assert!(shown.stdout.contains(part), "{part}: {shown:?}");
        }
        let shown = host.wharf(app, &["events", "show", name(letter), "--json"]).await.json();
        assert_eq!(shown["event"]["data"], "reject");

        // Nothing has changed, so it dies once more, as another letter.
        let replayed = host.wharf(app, &["events", "replay", name(letter), "--json"]).await;
        assert_eq!((replayed.code(), &replayed.json()["count"]), (Some(0), &1.into()), "{replayed:?}");
        hears(host, &id, 2).await;
        let again = dead(app, host, 1).await;

        host.get("/mend").await.assert_text(200, "mended");
        let replayed = host.wharf(app, &["events", "replay", "--all"]).await;
        assert_eq!(replayed.code(), Some(0), "{replayed:?}");
        hears(host, &id, 3).await;
        dead(app, host, 0).await;
        let gone = host.wharf(app, &["events", "show", name(&again[0])]).await;
        assert_eq!(gone.code(), Some(1));
        assert!(gone.stderr.contains("there is no dead letter"), "{gone:?}");
        let gone = host.wharf(app, &["events", "drop", name(&again[0])]).await;
        assert_eq!(gone.code(), Some(1));
        assert!(gone.stderr.contains("1 of the letters are not there"), "{gone:?}");
    })
    .await;
}

#[tokio::test]
async fn what_is_tried_as_often_as_allowed_is_dead_and_can_be_dropped() {
    on_each_bus("", async |app, host| {
        // A trap ends all that its instance does, so it comes when the answer to this is through.
        let (due, _) = in_millis(1000);
        let ids = [publish(host, "data=retry").await, publish(host, &format!("data=trap&due={due}")).await];
        let letters = dead(app, host, 2).await;
        for letter in &letters {
            assert_eq!((&letter["reason"], &letter["attempts"]), (&"attempts-exhausted".into(), &3.into()), "{letter}");
            assert!(ids.iter().any(|id| letter["id"] == id.as_str()), "{letter}");
        }
        let asked = host.wharf(app, &["events", "drop", "--all"]).await;
        assert_eq!(asked.code(), Some(1));
        assert!(asked.stderr.contains("--yes"), "{asked:?}");
        dead(app, host, 2).await;
        let wrong = host.wharf(app, &["events", "drop", "--topic", "order.created"]).await;
        assert_eq!(wrong.code(), Some(2), "{wrong:?}");
        let dropped = host.wharf(app, &["events", "drop", "--all", "--yes", "--json"]).await;
        assert_eq!(dropped.json()["count"], 2, "{dropped:?}");
        dead(app, host, 0).await;
    })
    .await;
}

#[tokio::test]
async fn a_subscriber_that_never_answers_has_a_dead_letter_in_the_end_and_holds_up_nobody() {
    let mut more = "[policy.defaults]\ndeadline = \"2s\"\n".to_owned();
    // One that takes everything, and publishes too: an instance that hangs ends with all that it does.
    more += &below(
        "other",
        "listener",
        "publishes = [\"order.created\"]\nsubscribes = [\"order.created\"]\ninstances = { max = 1 }",
    );
    on_each_bus(&more, async |app, host| {
        host.get("/other/mend").await.assert_text(200, "mended");
        let publish = async |query: &str| {
            let answer = host.get(&format!("/other/publish?topic=order.created&{query}")).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            answer.text().to_owned()
        };
        let hanging = publish("subject=o1&data=hang").await;
        let mut rest = vec![publish("subject=o1&data=behind").await];
        for n in 0..20 {
            rest.push(publish(&format!("subject=p{n}&data=beside")).await);
        }
        eventually("the other subscription has all", async || {
            let heard = host.get("/other/heard").await.text().to_owned();
            if rest.iter().chain([&hanging]).all(|id| heard.contains(id)) { Ok(()) } else { Err(heard) }
        })
        .await;
        let letter = &dead(app, host, 1).await[0];
        assert_eq!((&letter["id"], &letter["service"]), (&hanging.as_str().into(), &"listener".into()));
        assert_eq!((&letter["reason"], &letter["attempts"]), (&"attempts-exhausted".into(), &3.into()), "{letter}");
        assert!(letter["error"].as_str().is_some_and(|error| error.contains("deadline")), "{letter}");
        // What stood behind it comes then, and what stood beside it has come.
        eventually("all is settled", async || {
            let status = host.status(app).await;
            let all = status["events"]["subscriptions"].as_array().cloned().unwrap_or_default();
            if all.len() == 2 && all.iter().all(|it| it["lag"] == 0) { Ok(()) } else { Err(all) }
        })
        .await;
        for (reason, count) in [("attempts-exhausted", 1), ("rejected", 0)] {
            let listed = host.wharf(app, &["events", "list", "--reason", reason, "--json"]).await.json();
            assert_eq!(listed["letters"].as_array().map(Vec::len), Some(count), "{listed}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_event_for_later_comes_not_before_its_time() {
    on_each_bus("", async |_, host| {
        let (due, at) = in_millis(1500);
        let later = publish(host, &format!("due={due}")).await;
        let past = publish(host, "due=2020-01-01T00:00:00Z").await;
        let now = publish(host, "data=now").await;
        for id in [&past, &now] {
            hears(host, id, 1).await;
        }
        let heard = hears(host, &later, 1).await;
        let heard_at: u128 = heard[0].split(' ').next().and_then(|at| at.parse().ok()).expect("a time");
        assert!(heard_at >= at, "due at {at}, heard at {heard_at}");
        for (due, said) in [("tomorrow", "RFC 3339"), ("9999-01-01T00:00:00Z", "at most a year (366 days) ahead")] {
            let answer = host.get(&format!("/publish?topic=order.created&due={due}")).await;
            assert_eq!(answer.status, 422, "{answer:?}");
            assert!(answer.text().contains(said), "{answer:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_event_for_later_outlives_a_crash() {
    let app = listener("bus = \"embedded\"", "");
    let mut host = app.start().await;
    let (due, at) = in_millis(2000);
    let id = publish(&host, &format!("due={due}")).await;
    host.signal("KILL");
    assert!(!host.ended().await.success());
    let host = app.start().await;
    let heard = hears(&host, &id, 1).await;
    let heard_at: u128 = heard[0].split(' ').next().and_then(|at| at.parse().ok()).expect("a time");
    assert!(heard_at >= at, "due at {at}, heard at {heard_at}");
    host.stop().await;
}

/// Waits for two full minutes, so it takes up to two.
#[tokio::test]
async fn a_topic_comes_by_the_clock_once_a_system() {
    let redis = Redis::start().await;
    let manifest = |subscribes: &str| {
        format!(
            "[services.listener]\ncomponent = \"<listener>\"\nsubscribes = [\"{subscribes}\"]\ninstances = {{ max = 1 }}\n\
             [topics.tick]\ncron = \"* * * * *\"\nsubject = \"minute\"\n[events]\nredis = \"{}\"\n\
             [[gateway.routes]]\npath = \"/{{*rest}}\"\nservice = \"listener\"\n",
            redis.url()
        )
    };
    // Two hosts of one system, which share its Redis: each minute is one event, at one of them.
    let apps = [App::new(&manifest("tick")), App::new(&manifest("tick"))];
    let hosts = [apps[0].start().await, apps[1].start().await];
    let both = async || {
        let mut all = heard(&hosts[0], "tick").await;
        all.extend(heard(&hosts[1], "tick").await);
        all
    };
    let ids = |ticks: &[String]| {
        let mut ids: Vec<_> = ticks.iter().map(|tick| tick.split(' ').nth(4).unwrap_or_default().to_owned()).collect();
        ids.sort();
        ids
    };
    // When the second minute has come, both hosts have long looked at the first.
    let ticks = eventually("two minutes", async || {
        let ticks = both().await;
        let mut minutes = ids(&ticks);
        minutes.dedup();
        if minutes.len() >= 2 { Ok(ticks) } else { Err(ticks) }
    })
    .await;
    let (all, first) = (ids(&ticks), &ids(&ticks)[0]);
    assert_eq!(all.iter().filter(|id| *id == first).count(), 1, "a minute came twice: {ticks:?}");
    let fields: Vec<&str> = ticks[0].split(' ').collect();
    assert_eq!((fields[3], fields[5]), ("/schedules/tick", "minute"), "{ticks:?}");
    assert!(fields[6].ends_with(":00.000Z"), "{ticks:?}");
    assert!(fields[4].starts_with("tick@") && fields[7].starts_with("{\"scheduledAt\":\""), "{ticks:?}");
    for host in hosts {
        host.stop().await;
    }
}

#[tokio::test]
async fn the_past_is_replayed_into_one_subscription() {
    on_each_bus("", async |app, host| {
        let before = publish(host, "data=before").await;
        hears(host, &before, 1).await;
        let (from, _) = in_millis(0);
        let after = [publish(host, "data=after").await, publish(host, "data=after").await];
        for id in &after {
            hears(host, id, 1).await;
        }
        let topic = ["events", "replay-topic", "order.created", "--service"];
        let replay = |more: &[&'static str]| [&topic[..], more].concat();
        let done = host.wharf(app, &[&topic[..], &["listener", "--from", &from, "--json"]].concat()).await;
        assert_eq!((done.code(), &done.json()["count"]), (Some(0), &2.into()), "{done:?}");
        for id in &after {
            hears(host, id, 2).await;
        }
        assert_eq!(heard(host, &before).await.len(), 1);
        for (args, words) in [
            (
                &replay(&["listner", "--from", "1h"])[..],
                "no service `listner` with a subscription (did you mean `listener`?)",
            ),
            (&["events", "stop-replay", "order.creatd", "--service", "listener"], "(did you mean `order.created`?)"),
            (&["events", "list", "--service", "listner"], "(did you mean `listener`?)"),
            (&["events", "replay", "--all", "--topic", "order.creatd"], "(did you mean `order.created`?)"),
            (&["events", "drop", "--all", "--yes", "--service", "nobody"], "there is no service `nobody`"),
        ] {
            let done = host.wharf(app, args).await;
            assert!(done.code() == Some(1) && done.stderr.contains(words), "{done:?}");
        }
        let done = host.wharf(app, &replay(&["listener", "--from", "1h"])).await;
        assert_eq!(done.code(), Some(0), "{done:?}");
        hears(host, &before, 2).await;

        // Both are through, so there is nothing to stop.
        let stop = ["events", "stop-replay", "order.created", "--service"];
        hears(host, &after[1], 3).await;
        eventually("nothing is left of the replays", async || {
            let stopped = host.wharf(app, &[&stop[..], &["listener", "--json"]].concat()).await;
            assert_eq!(stopped.code(), Some(0), "{stopped:?}");
            if stopped.json()["count"] == 0 { Ok(()) } else { Err(stopped) }
        })
        .await;
        let refused = host.wharf(app, &[&stop[..], &["nobody"]].concat()).await;
        assert!(refused.code() == Some(1) && refused.stderr.contains("there is no service `nobody`"), "{refused:?}");

        let refused = host.wharf(app, &replay(&["nobody", "--from", "1h"])).await;
        assert_eq!(refused.code(), Some(1));
        assert!(refused.stderr.contains("there is no service `nobody` with a subscription"), "{refused:?}");
        let refused = host.wharf(app, &replay(&["listener", "--offset", "no-offset"])).await;
        assert!(refused.code() == Some(1) && refused.stderr.contains("no-offset"), "{refused:?}");
    })
    .await;
}

#[tokio::test]
async fn an_event_that_is_too_large_is_refused_with_the_limit() {
    let app = listener("bus = \"embedded\"", "");
    let host = app.start().await;
    let answer = host.get("/publish?topic=order.created&size=262145").await;
    assert_eq!(answer.status, 422, "{answer:?}");
    assert!(answer.text().contains("262145 bytes, at most 262144 (256 KiB)"), "{answer:?}");
    let answer = host.get("/publish?topic=order.deleted").await;
    assert_eq!(answer.status, 403, "{answer:?}");
    let largest = host.get("/publish?topic=order.created&size=262144").await;
    assert_eq!(largest.status, 200, "{largest:?}");
    hears(&host, largest.text(), 1).await;
    host.stop().await;
}

#[tokio::test]
async fn a_bus_that_keeps_nothing_says_so() {
    let redis = Redis::start().await;
    let app = listener(&format!("bus = \"redis-pubsub\"\nredis = \"{}\"", redis.url()), "");
    let host = app.start().await;
    let refused = host.wharf(&app, &["events", "list"]).await;
    assert_eq!(refused.code(), Some(1));
    assert!(refused.stderr.contains("the bus redis-pubsub keeps no events"), "{refused:?}");
    host.stop().await;
}
