//! The answer on its way out.

use super::{exchange::Exchange, headers, problem::Problem, pump::pump};
use crate::service::{Body, BodyError};
use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, Version, header};
use hyper::body::{Body as _, Frame, SizeHint};
use std::{
    pin::Pin,
    task::{Context, Poll},
};

/// The largest piece that is handed to an HTTP/2 stream. It is taken only when the client's window is open, so pieces
/// taken show that the client reads; a large body handed over whole would show nothing more.
const PIECE: usize = 16 * 1024;

/// A body that takes its exchange along until its end.
pub(super) struct AnswerBody {
    body: Body,
    /// What is left of a frame that is handed over in pieces.
    rest: Bytes,
    exchange: Exchange,
}

/// Makes a response ready for the connection: nothing in it that a service could use to confuse the client about where
/// one answer ends and the next begins.
pub(super) fn finish(mut exchange: Exchange, result: Result<Response<Body>, Problem>) -> Response<AnswerBody> {
    let result = result.and_then(|response| match response.status().is_informational() {
        true => Err(Problem::new(StatusCode::BAD_GATEWAY, "the service gave an informational status as its answer")),
        false => Ok(response),
    });
    let mut close = false;
    let mut response = result.unwrap_or_else(|problem| {
        exchange.failed(&problem);
        close = problem.close;
        problem.into_response(exchange.trace.trace_id())
    });

    headers::remove_hop_by_hop(response.headers_mut());
    let exact = response.body().size_hint().exact();
    if *exchange.method() == Method::HEAD {
        if let Some(length @ 1..) = exact {
            response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
        }
        *response.body_mut() = Body::empty();
    } else if exact.is_some() && response.status() != StatusCode::NOT_MODIFIED {
        // NB: hyper believes this header even where it knows the length. A service could otherwise write a second
        // answer into the connection, behind its own.
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    if exchange.version() == Version::HTTP_2 && response.body().as_complete().is_none() {
        if let Some(length) = exact {
            response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
        }
        let wait = exchange.body_timeout();
        response = response.map(|body| pump(body, wait));
    }
    if let Some((limit, quota)) = exchange.quota() {
        limit.tell(response.headers_mut(), quota);
    }
    if close && exchange.version() <= Version::HTTP_11 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    exchange.answered(response.status());
    response.map(|body| AnswerBody { body, rest: Bytes::new(), exchange })
}

// === impl AnswerBody ===

impl hyper::body::Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if !this.rest.is_empty() {
            return Poll::Ready(Some(Ok(this.piece())));
        }
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        this.exchange.waits(polled.is_pending());
        match polled {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(match frame.into_data() {
                Ok(data) if this.exchange.version() == Version::HTTP_2 => {
                    this.rest = data;
                    this.piece()
                }
                Ok(data) => {
                    this.exchange.sent(data.len());
                    Frame::data(data)
                }
                Err(trailers) => trailers,
            }))),
            Poll::Ready(Some(Err(error))) => {
                tracing::debug!(%error, "the body of an answer broke off");
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(None) => {
                this.exchange.completed();
                Poll::Ready(None)
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.rest.is_empty() {
            true => self.body.size_hint(),
            false => SizeHint::default(),
        }
    }
}

impl AnswerBody {
    fn piece(&mut self) -> Frame<Bytes> {
        let piece = self.rest.split_to(self.rest.len().min(PIECE));
        self.exchange.sent(piece.len());
        Frame::data(piece)
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        // Where the length is known, nobody asks for the end.
        if hyper::body::Body::is_end_stream(self) {
            self.exchange.completed();
        }
    }
}
