//! The body of HTTP messages inside the house.
//!
//! Most bodies of services are small and complete when the message is made. Those travel as plain [`Bytes`], without
//! box, channel or chunked encoding; only what really streams pays for streaming.

use bytes::Bytes;
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::body::{Frame, SizeHint};
use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
};

/// Why a body ended before its end.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A body of a request or a response.
pub struct Body(Inner);

enum Inner {
    Complete(Option<Bytes>),
    Stream(UnsyncBoxBody<Bytes, BodyError>),
}

/// A body of which some frames were taken out already.
struct Begun {
    taken: VecDeque<Result<Frame<Bytes>, BodyError>>,
    rest: Body,
}

// === impl Body ===

impl Body {
    /// No body.
    pub fn empty() -> Self {
        Self(Inner::Complete(None))
    }

    /// A body that is complete already.
    pub fn complete(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self(Inner::Complete((!bytes.is_empty()).then_some(bytes)))
    }

    /// A body whose frames come as they are made.
    pub fn stream<B>(body: B) -> Self
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        Self(Inner::Stream(body.map_err(Into::into).boxed_unsync()))
    }

    /// A body of which some frames were taken out already.
    pub(super) fn begun(taken: VecDeque<Result<Frame<Bytes>, BodyError>>, rest: Self) -> Self {
        Self::stream(Begun { taken, rest })
    }

    /// The whole body, where it is complete already.
    pub fn as_complete(&self) -> Option<&[u8]> {
        match &self.0 {
            Inner::Complete(bytes) => Some(bytes.as_deref().unwrap_or_default()),
            Inner::Stream(_) => None,
        }
    }

    /// Like [`Body::as_complete`], sharing the bytes.
    pub fn to_complete(&self) -> Option<Bytes> {
        match &self.0 {
            Inner::Complete(bytes) => Some(bytes.clone().unwrap_or_default()),
            Inner::Stream(_) => None,
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::complete(bytes)
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Inner::Complete(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Inner::Stream(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Complete(bytes) => bytes.is_none(),
            Inner::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Complete(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Inner::Stream(body) => body.size_hint(),
        }
    }
}

// === impl Begun ===

impl hyper::body::Body for Begun {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.taken.pop_front() {
            Some(frame) => Poll::Ready(Some(frame)),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.taken.is_empty() && self.rest.is_end_stream()
    }
}
