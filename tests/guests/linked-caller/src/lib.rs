//! Calls `probe:shapes` at a neighbour.
//!
//! | request | answer |
//! |---|---|
//! | `GET /echo` | 200 `same` when one of everything came back as it went |
//! | `GET /points?count=…` | how many came |
//! | `GET /sum?count=…`, `GET /bytes?count=…` | the sum of that many bytes, sent or received |
//! | `GET /mirror?name=…&count=…` | 200 `mirrored` when that many bytes came back reversed, else as `/find` |
//! | `GET /mirror-blocking?count=…` | the same, by a function that is not async |
//! | `GET /bind?pages=…&count=…` | 200 `same` when a document of so many pages of so many bytes came back as it went |
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
use wit::probe::shapes::shapes::{self, Color, Document, Everything, FindError, Point, Rights, Shape};

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
            "/sum" => reply::text(200, shapes::sum(bytes(number("count"))).await.to_string()),
            "/bytes" => {
                let bytes = shapes::bytes(number("count")).await;
                reply::text(200, bytes.into_iter().map(u64::from).sum::<u64>().to_string())
            }
            "/mirror" => {
                let sent = bytes(number("count"));
                match shapes::mirror(text("name"), sent.clone()).await {
                    Ok(received) => mirrored(&sent, &received),
                    Err(FindError::Missing) => reply::text(404, "missing"),
                    Err(FindError::Fault(fault)) => {
                        reply::text(503, format!("fault {}: {}", debug(&fault.kind), fault.message))
                    }
                }
            }
            "/mirror-blocking" => {
                let sent = bytes(number("count"));
                let received = shapes::mirror_blocking(&sent);
                mirrored(&sent, &received)
            }
            "/bind" => {
                let page = bytes(number("count"));
                let sent = Document {
                    name: "all".to_owned(),
                    pages: (0..number("pages")).map(|at| (at, page.clone())).collect(),
                    cover: Some(page.clone()),
                };
                let same = shapes::bind(sent.clone()).await == sent;
                reply::text(if same { 200 } else { 500 }, if same { "same" } else { "other" })
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

/// As many as asked, each its place modulo 251.
fn bytes(count: u32) -> Vec<u8> {
    (0..count).map(|n| (n % 251) as u8).collect()
}

fn mirrored(sent: &[u8], received: &[u8]) -> Result<Response, ErrorCode> {
    let same = sent.iter().rev().eq(received);
    reply::text(if same { 200 } else { 500 }, if same { "mirrored" } else { "other" })
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
