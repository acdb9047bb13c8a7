//! The body of HTTP messages inside the house.
//!
//! Most bodies of services are small and complete when the message is made. Those travel as plain [`Bytes`], without
//! box, channel or chunked encoding; only what really streams pays for streaming.

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::body::{Body as _, Frame, SizeHint};
use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
};

/// The largest body that is put together before it is handed on; a larger one streams.
const COMPLETE_BODY: usize = 64 << 10;

/// Why a body ended before its end.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A body of a request or a response.
pub struct Body(Inner);

enum Inner {
    Complete(Option<Bytes>),
    Stream(UnsyncBoxBody<Bytes, BodyError>),
}

/// A body that streams, of which as much is taken as there is, in the hope that it is all.
pub(crate) struct Gathering {
    taken: VecDeque<Result<Frame<Bytes>, BodyError>>,
    size: usize,
    ended: bool,
    rest: Body,
}

/// What one look at a body has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gathered {
    /// Nothing: whoever makes it has not got so far.
    Nothing,
    /// Some of it, and there may be more.
    More,
    /// So much of it, or of such a kind, that it has to stream.
    Enough,
    /// The end.
    All,
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

// === impl Gathering ===

impl Gathering {
    pub(crate) fn new(body: Body) -> Self {
        Self { taken: VecDeque::new(), size: 0, ended: false, rest: body }
    }

    /// Takes what comes without waiting. Where it brings [`Gathered::Nothing`], the task is woken when there is more.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Gathered {
        let mut any = false;
        while let Poll::Ready(frame) = Pin::new(&mut self.rest).poll_frame(cx) {
            let Some(frame) = frame else {
                self.ended = true;
                return Gathered::All;
            };
            let data = frame.as_ref().ok().and_then(Frame::data_ref).map(Bytes::len);
            self.taken.push_back(frame);
            self.size += data.unwrap_or(0);
            if data.is_none() || self.size > COMPLETE_BODY {
                return Gathered::Enough;
            }
            any = true;
        }
        if any { Gathered::More } else { Gathered::Nothing }
    }

    /// The body: complete where its end has come, else one that streams, what was taken first.
    pub(crate) fn into_body(self) -> Body {
        match (self.ended, self.taken.is_empty()) {
            (true, _) => Body::complete(concatenate(self.taken)),
            (false, true) => self.rest,
            (false, false) => Body::stream(Begun { taken: self.taken, rest: self.rest }),
        }
    }
}

fn concatenate(frames: VecDeque<Result<Frame<Bytes>, BodyError>>) -> Bytes {
    let mut chunks = frames.into_iter().filter_map(|frame| frame.ok()?.into_data().ok());
    let Some(first) = chunks.next() else { return Bytes::new() };
    let Some(second) = chunks.next() else { return first };
    let mut all = BytesMut::with_capacity(first.len() + second.len());
    all.extend_from_slice(&first);
    all.extend_from_slice(&second);
    chunks.for_each(|chunk| all.extend_from_slice(&chunk));
    all.freeze()
}

/// A body of which the beginning was taken out already.
struct Begun {
    taken: VecDeque<Result<Frame<Bytes>, BodyError>>,
    rest: Body,
}

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
