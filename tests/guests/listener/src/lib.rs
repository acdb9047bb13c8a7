//! Publishes what it is told to, and hears of events, to which it says what they tell it to.
//!
//! | request | answer |
//! |---|---|
//! | `GET /publish?topic=…&subject=…&data=…&due=…` | 200 with the event's id, 403 `denied`, 422 `invalid` or 503 `fault`, with the reason; of these words all but `topic` can be left out |
//! | `GET /publish?topic=…&size=…` | the same with that many bytes of JSON |
//! | `GET /heard` | a line for each delivery: milliseconds since 1970, topic, attempt, source, id, subject or `-`, time, data |
//! | `GET /mend` | from now on this instance acknowledges everything |
//! | `GET /build` | which build this is: a text that a test replaces in another |
//!
//! The data of an event is JSON: `"reject"` is rejected as poison, `"retry"` is wanted again at once, `"trap"` traps,
//! `"hang"` is never answered, `"held-127.0.0.1:8080"` is acknowledged once that origin has answered `GET /held`,
//! `"forward-…"` is published again as `order.heard` with the attempt before the rest, and
//! everything else is acknowledged.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};
use wasip3::{
    clocks::monotonic_clock::wait_for,
    http::types::{ErrorCode, Request, Response},
};

mod wit {
    wit_bindgen::generate!({
        path: ["../../../wit/wharf/platform", "../../../wit/wharf/messaging"],
        inline: "
            package probe:listener;
            world listener {
                import wharf:messaging/publisher@0.1.0;
                export wharf:messaging/handler@0.1.0;
            }
        ",
        world: "probe:listener/listener",
        generate_all,
    });
}
use wit::{
    exports::wharf::messaging::handler::{Event, Guest, Verdict},
    wharf::messaging::publisher::{self, NewEvent, PublishError},
};

wasip3::http::service::export!(Listener);
wit::export!(Listener with_types_in wit);
struct Listener;

const HOUR: u64 = 3_600_000_000_000;

static HEARD: Mutex<String> = Mutex::new(String::new());
static MENDED: AtomicBool = AtomicBool::new(false);

impl Guest for Listener {
    async fn handle(event: Event) -> Verdict {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let Event { topic, attempt, source, id, time, .. } = &event;
        let (subject, data) = (event.subject.as_deref().unwrap_or("-"), String::from_utf8_lossy(&event.data));
        let line = format!("{now} {topic} {attempt} {source} {id} {subject} {time} {data}\n");
        HEARD.lock().unwrap_or_else(PoisonError::into_inner).push_str(&line);
        match &*data {
            _ if MENDED.load(Relaxed) => Verdict::Ack,
            "\"reject\"" => Verdict::Reject("poison".to_owned()),
            "\"retry\"" => Verdict::Retry(Some(1)),
            "\"trap\"" => trap(),
            "\"hang\"" => {
                wait_for(HOUR).await;
                Verdict::Ack
            }
            text if text.starts_with("\"held-") => {
                let origin = text.trim_matches('"').trim_start_matches("held-");
                reply::ask(origin, "/held", "").await.map_or(Verdict::Retry(None), |_| Verdict::Ack)
            }
            text if text.starts_with("\"forward-") => {
                let data = text.replacen("forward", &attempt.to_string(), 1).into_bytes();
                let topic = "order.heard".to_owned();
                let subject = event.subject.clone();
                let heard = NewEvent { topic, subject, datacontenttype: None, data, due: None };
                match publisher::publish(heard).await {
                    Ok(_) => Verdict::Ack,
                    Err(_) => Verdict::Retry(None),
                }
            }
            _ => Verdict::Ack,
        }
    }
}

impl wasip3::exports::http::handler::Guest for Listener {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let (path, query) = reply::target(&request);
        match path.as_str() {
            "/publish" => publish(&query).await,
            "/heard" => reply::text(200, HEARD.lock().unwrap_or_else(PoisonError::into_inner).clone()),
            "/build" => reply::text(200, "the listener as it was built"),
            "/mend" => {
                MENDED.store(true, Relaxed);
                reply::text(200, "mended")
            }
            _ => reply::text(200, "alive"),
        }
    }
}

async fn publish(query: &str) -> Result<Response, ErrorCode> {
    let given = |name| Some(reply::param(query, name)).filter(|value| !value.is_empty()).map(str::to_owned);
    let data = match given("size").and_then(|size| size.parse::<usize>().ok()) {
        Some(size) => vec![b'1'; size],
        None => format!("{:?}", given("data").unwrap_or_default()).into_bytes(),
    };
    let topic = given("topic").unwrap_or_default();
    let event = NewEvent { topic, subject: given("subject"), datacontenttype: None, data, due: given("due") };
    match publisher::publish(event).await {
        Ok(id) => reply::text(200, id),
        Err(PublishError::Denied(reason)) => reply::text(403, format!("denied: {reason}")),
        Err(PublishError::Invalid(reason)) => reply::text(422, format!("invalid: {reason}")),
        Err(PublishError::Fault(fault)) => reply::text(503, format!("fault: {}", fault.message)),
    }
}

fn trap() -> ! {
    #[cfg(target_arch = "wasm32")]
    std::arch::wasm32::unreachable();
    #[cfg(not(target_arch = "wasm32"))]
    std::process::abort();
}
