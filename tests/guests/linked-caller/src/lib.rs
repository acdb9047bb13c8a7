//! Calls `probe:shapes` at a neighbour.
//!
//! | request | answer |
//! |---|---|
//! | `GET /echo` | 200 `same` when one of everything came back as it went |
//! | `GET /points?count=…` | how many came |
//! | `GET /sum?count=…`, `GET /bytes?count=…` | the sum of that many bytes, sent or received |
//! | `GET /add?a=…&b=…` | the sum, by a function that is not async |
//! | `GET /nop?times=…` | how many calls were made, one after the other |
//! | `GET /find?key=…` | 200 what was found, 404 `missing`, 503 `fault <kind>` |
//! | `GET /find-plain?key=…` | 200 what was found, 404 the error; a fault ends this very request |

use std::fmt::Debug;
use wasip3::http::types::{ErrorCode, Request, Response};

mod wit {
    wit_bindgen::generate!({
        path: ["../../../wit/wharf/platform", "../wit/shapes"],
        inline: "package probe:caller; world caller { import probe:shapes/shapes@0.1.0; }",
        world: "probe:caller/caller",
        additional_derives: [PartialEq, Clone],
        generate_all,
    });
}
use wit::probe::shapes::shapes::{self, Color, Everything, FindError, Point, Rights, Shape};

wasip3::http::service::export!(Caller);
struct Caller;

impl wasip3::exports::http::handler::Guest for Caller {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let (path, query) = reply::target(&request);
        let text = |name| reply::param(&query, name).to_owned();
        let number = |name| reply::param(&query, name).parse::<u32>().unwrap_or(1);
        match path.as_str() {
            "/echo" => {
                let sent = one_of_everything();
                let received = shapes::echo(sent.clone()).await;
                if received == sent { reply::text(200, "same") } else { reply::text(500, debug(&(sent, received))) }
            }
            "/points" => reply::text(200, shapes::points(number("count")).await.len().to_string()),
            "/sum" => {
                let bytes = (0..number("count")).map(|n| (n % 251) as u8).collect();
                reply::text(200, shapes::sum(bytes).await.to_string())
            }
            "/bytes" => {
                let bytes = shapes::bytes(number("count")).await;
                reply::text(200, bytes.into_iter().map(u64::from).sum::<u64>().to_string())
            }
            "/add" => reply::text(200, shapes::add(number("a"), number("b")).to_string()),
            "/nop" => {
                let times = number("times");
                for _ in 0..times {
                    shapes::nop().await;
                }
                reply::text(200, times.to_string())
            }
            "/find" => match shapes::find(text("key")).await {
                Ok(found) => reply::text(200, found),
                Err(FindError::Missing) => reply::text(404, "missing"),
                Err(FindError::Fault(fault)) => reply::text(503, format!("fault {}", debug(&fault.kind))),
            },
            "/find-plain" => match shapes::find_plain(text("key")).await {
                Ok(found) => reply::text(200, found),
                Err(error) => reply::text(404, error),
            },
            _ => reply::text(200, "alive"),
        }
    }
}

fn debug(value: &impl Debug) -> String {
    format!("{value:?}")
}

fn one_of_everything() -> Everything {
    let corner = Point { x: f64::MAX, y: f32::MIN_POSITIVE };
    Everything {
        yes: true,
        small: (u8::MAX, i8::MIN, u16::MAX, i16::MIN),
        large: (u32::MAX, i32::MIN, u64::MAX, i64::MIN),
        letter: '🚢',
        text: "Grüße, 世界".to_owned(),
        color: Color::Blue,
        rights: Rights::READ | Rights::SHARE,
        shapes: vec![
            Shape::Nothing,
            Shape::Circle(-0.5),
            Shape::Polygon(vec![corner; 3]),
            Shape::Named(("wharf".to_owned(), '⚓')),
        ],
        maybe: Some(None),
        outcome: Err(7),
        done: Ok(()),
        lists: vec![vec![], vec![String::new(), "x".repeat(1000)]],
    }
}
