//! Streamed answers over HTTP/2, freed from the client's pace.
//!
//! On HTTP/1 a client that does not read stops the connection, and the watch sees that. On HTTP/2 it can stop one
//! stream by keeping its window shut, go on with others, and hold the instance behind it for as long as it likes. So
//! each streamed answer gets a task that gives up when the client takes nothing for too long, and lets go of the
//! service with it. Answers that are complete hold nobody and do without.

use crate::service::{Body, BodyError};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Frame;
use std::{
    pin::Pin,
    task::{Context, Poll},
};
use tokio::{
    sync::mpsc,
    time::{Duration, timeout},
};

/// `None` is the regular end; a channel that closes without it broke off.
type Message = Option<Result<Frame<Bytes>, BodyError>>;

struct Pumped(mpsc::Receiver<Message>);

/// The client took nothing of the answer for too long.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the client does not read its answer")]
struct Stalled;

/// `body`, read by a task that drops it when nobody takes a frame of it for as long as `wait`.
pub(super) fn pump(mut body: Body, wait: Duration) -> Body {
    let (send, frames) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let frame = tokio::select! {
                frame = body.frame() => frame,
                () = send.closed() => return,
            };
            let last = frame.is_none();
            match timeout(wait, send.send(frame)).await {
                Ok(Ok(())) if !last => {}
                _ => return,
            }
        }
    });
    Body::stream(Pumped(frames))
}

// === impl Pumped ===

impl hyper::body::Body for Pumped {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.0.poll_recv(cx).map(|message| message.unwrap_or_else(|| Some(Err(Stalled.into()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{StreamExt, stream};
    use http_body_util::StreamBody;
    use std::{convert::Infallible, sync::Arc};

    const WAIT: Duration = Duration::from_secs(30);

    fn frames(texts: &'static [&'static str]) -> Body {
        let frames =
            stream::iter(texts).map(|text| Ok::<_, Infallible>(Frame::data(Bytes::from_static(text.as_bytes()))));
        Body::stream(StreamBody::new(frames))
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_taken_in_time_arrives_whole() {
        let mut body = pump(frames(&["a", "b", "c"]), WAIT);
        for expected in ["a", "b", "c"] {
            tokio::time::sleep(WAIT / 2).await;
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), expected);
        }
        assert!(body.frame().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_takes_is_let_go_and_never_looks_whole() {
        let held = Arc::new(());
        let of_service = held.clone();
        let endless = stream::repeat_with(move || {
            let _held = &of_service;
            Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"x")))
        });
        let mut body = pump(Body::stream(StreamBody::new(endless)), WAIT);
        body.frame().await.unwrap().unwrap();
        tokio::time::sleep(WAIT * 2).await;
        assert_eq!(Arc::strong_count(&held), 1, "the service is free again");
        while let Some(frame) = body.frame().await {
            if let Err(error) = frame {
                assert!(error.is::<Stalled>());
                return;
            }
        }
        panic!("it ended as if it were whole");
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_frees_a_service_that_says_nothing() {
        let held = Arc::new(());
        let of_service = held.clone();
        let silent = stream::poll_fn(move |_| {
            let _held = &of_service;
            Poll::<Option<Result<Frame<Bytes>, Infallible>>>::Pending
        });
        drop(pump(Body::stream(StreamBody::new(silent)), WAIT));
        while Arc::strong_count(&held) > 1 {
            tokio::task::yield_now().await;
        }
    }
}
