use super::support::*;
use crate::service::{Body, BodyError};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Frame;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;

type Sender = mpsc::UnboundedSender<Result<Frame<Bytes>, BodyError>>;

/// A service whose answer's body is whatever the test sends.
fn dictated() -> (Sender, Arc<dyn crate::gateway::Upstream>) {
    let (send, frames) = mpsc::unbounded_channel();
    let frames = Mutex::new(Some(frames));
    let upstream = service(move |_, _| {
        let frames = frames.lock().unwrap().take().expect("called once");
        let body = stream::unfold(frames, |mut frames| async { frames.recv().await.map(|frame| (frame, frames)) });
        std::future::ready(Ok(Response::new(Body::stream(StreamBody::new(body.boxed())))))
    });
    (send, upstream)
}

fn data(text: &'static str) -> Result<Frame<Bytes>, BodyError> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

#[tokio::test]
async fn an_answer_is_passed_on_frame_by_frame() {
    let (send, upstream) = dictated();
    let server = Server::start(routes([route("/stream", upstream)]));
    let mut client = server.connect().await;
    client.send("GET /stream HTTP/1.1\r\nhost: shop\r\n\r\n").await;
    let head = client.head().await;
    assert_eq!(head.header("transfer-encoding"), Some("chunked"));
    for text in ["first", "second"] {
        send.send(data(text)).unwrap();
        assert!(client.read_to("\r\n").await.starts_with(&format!("{:X}", text.len())));
        assert_eq!(client.read_to("\r\n").await.trim(), text);
    }
    drop(send);
    assert_eq!(client.read_to("0\r\n\r\n").await, "0\r\n\r\n");
    let lines = server.logged(1).await;
    assert_eq!((&lines[0]["bytes"], lines[0].get("aborted")), (&11.into(), None));
}

#[tokio::test]
async fn an_answer_that_breaks_off_never_looks_whole() {
    let (send, upstream) = dictated();
    let server = Server::start(routes([route("/stream", upstream)]));
    let mut client = server.connect().await;
    client.send("GET /stream HTTP/1.1\r\nhost: shop\r\n\r\n").await;
    send.send(data("first")).unwrap();
    client.read_to("first\r\n").await;
    send.send(Err("the service ended abnormally".into())).unwrap();
    let rest = client.rest().await;
    assert!(!rest.ends_with(b"0\r\n\r\n"));
    assert_eq!(server.logged(1).await[0]["aborted"], true);
}

#[tokio::test]
async fn http2_streams_too() {
    let (send, upstream) = dictated();
    let server = Server::start(routes([route("/stream", upstream)]));
    let mut client = http2::<Empty<Bytes>>(server.address).await;
    let request = Request::get("http://shop/stream").body(Empty::new()).unwrap();
    let mut body = soon(client.send_request(request)).await.unwrap().into_body();
    for text in ["first", "second"] {
        send.send(data(text)).unwrap();
        assert_eq!(soon(body.frame()).await.unwrap().unwrap().into_data().unwrap(), text);
    }
    drop(send);
    assert!(soon(body.collect()).await.unwrap().to_bytes().is_empty());
}

#[tokio::test]
async fn a_request_body_reaches_the_service_while_it_is_still_being_sent() {
    // Answers every frame of the request with the same frame.
    let echo = service(|_, request: Request<Body>| async move { Ok(Response::new(Body::stream(request.into_body()))) });
    let server = Server::start(routes([route("/echo", echo)]));
    let mut client = server.connect().await;
    client.send("POST /echo HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\n\r\n").await;
    assert_eq!(client.head().await.status, 200);
    for text in ["one", "two", "three"] {
        client.send(format!("{:x}\r\n{text}\r\n", text.len())).await;
        client.read_to(&format!("{text}\r\n")).await;
    }
    client.send("0\r\n\r\n").await;
    assert_eq!(client.read_to("0\r\n\r\n").await, "0\r\n\r\n");
}

/// The window that a client grants a stream from the beginning.
const WINDOW: usize = 65_535;

#[tokio::test]
async fn a_stream_that_nobody_reads_frees_its_service_while_the_connection_lives() {
    struct Freed(mpsc::UnboundedSender<()>);
    impl Drop for Freed {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let (tell, mut freed) = mpsc::unbounded_channel();
    let endless = service(move |_, _| {
        let held = Freed(tell.clone());
        let frames = stream::repeat_with(move || {
            let _held = &held;
            Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(&[b'x'; 1024])))
        });
        std::future::ready(Ok(Response::new(Body::stream(StreamBody::new(frames)))))
    });
    let config = crate::gateway::GatewayConfig { body_timeout: std::time::Duration::from_millis(200), ..config() };
    let server = Server::with(config, routes([route("/endless", endless), route("/a", answers(200, "ok"))]));
    let mut client = http2::<Empty<Bytes>>(server.address).await;
    let get = |path| Request::get(format!("http://shop{path}")).body(Empty::new()).unwrap();
    let unread = soon(client.send_request(get("/endless"))).await.unwrap();
    // The connection is busy all the time, so that only the stream's own stalling can be what ends it.
    let busy = async {
        loop {
            assert_eq!(client.send_request(get("/a")).await.unwrap().status(), 200);
        }
    };
    soon(async {
        tokio::select! {
            () = busy => {}
            told = freed.recv() => assert_eq!(told, Some(())),
        }
    })
    .await;
    drop(unread);
}

#[tokio::test]
async fn a_large_answer_over_http2_arrives_whole() {
    let large = service(|_, _| async { Ok(Response::new(Body::complete(vec![b'x'; 20 * WINDOW]))) });
    let server = Server::start(routes([route("/large", large)]));
    let mut client = http2::<Empty<Bytes>>(server.address).await;
    let request = Request::get("http://shop/large").body(Empty::new()).unwrap();
    let response = soon(client.send_request(request)).await.unwrap();
    assert_eq!(response.headers()["content-length"], (20 * WINDOW).to_string().as_str());
    assert_eq!(soon(response.into_body().collect()).await.unwrap().to_bytes().len(), 20 * WINDOW);
    let lines = server.logged(1).await;
    assert_eq!((&lines[0]["bytes"], lines[0].get("aborted")), (&(20 * WINDOW).into(), None));
}
