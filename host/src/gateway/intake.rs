//! Request bodies: limited in size, and in how long the next piece may take.

use super::problem::Problem;
use crate::service::{Body, BodyError};
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::*},
    },
    task::{Context, Poll, ready},
};
use tokio::time::{Duration, Instant, Sleep, sleep, timeout};

/// A body up to this size is read before the call is made, which is much cheaper for the guest than a stream.
const READ_FIRST: u64 = 64 * 1024;

/// Why a request body was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum IntakeError {
    #[error("the request body is larger than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("the request body did not come within {} ms", waited.as_millis())]
    TimedOut { waited: Duration },
    #[error("the client ended the request body before its end")]
    Broken,
}

/// What became of a streamed body: the call that reads it sees an error, and so must the client.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    failure: Arc<AtomicU8>,
    limit: u64,
    wait: Duration,
}

/// A body as the upstream reads it.
struct Intake {
    incoming: Incoming,
    left: u64,
    timer: Option<Pin<Box<Sleep>>>,
    /// Whether the timer runs: only while the upstream asks and the client does not give.
    armed: bool,
    outcome: Outcome,
}

/// Prepares `incoming` for the upstream: complete where it is small, a stream otherwise. The outcome is to be asked
/// once the call has been made.
pub(super) async fn take(
    incoming: Incoming,
    limit: u64,
    wait: Duration,
) -> Result<(Body, Option<Outcome>), IntakeError> {
    if incoming.is_end_stream() {
        return Ok((Body::empty(), None));
    }
    let hint = incoming.size_hint();
    if hint.lower() > limit {
        return Err(IntakeError::TooLarge { limit });
    }
    match hint.exact() {
        // One time limit for the whole: the wait for each piece would let a body come byte by byte for weeks.
        Some(length @ ..=READ_FIRST) => match timeout(wait, read(incoming, length)).await {
            Ok(whole) => Ok((Body::complete(whole?), None)),
            Err(_) => Err(IntakeError::TimedOut { waited: wait }),
        },
        _ => {
            let outcome = Outcome { failure: Arc::default(), limit, wait };
            let intake = Intake { incoming, left: limit, timer: None, armed: false, outcome: outcome.clone() };
            Ok((Body::stream(intake), Some(outcome)))
        }
    }
}

/// Reads a body whose length is known, without a copy where it comes in one piece.
async fn read(mut incoming: Incoming, length: u64) -> Result<Bytes, IntakeError> {
    let mut whole = BytesMut::new();
    while let Some(frame) = incoming.frame().await {
        let Ok(data) = frame.map_err(|_| IntakeError::Broken)?.into_data() else { continue };
        if data.len() as u64 == length {
            return Ok(data);
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

// === impl Outcome ===

impl Outcome {
    /// Why the body failed, if it did.
    pub(super) fn failure(&self) -> Option<IntakeError> {
        match self.failure.load(Acquire) {
            1 => Some(IntakeError::TooLarge { limit: self.limit }),
            2 => Some(IntakeError::TimedOut { waited: self.wait }),
            3 => Some(IntakeError::Broken),
            _ => None,
        }
    }

    fn fail(&self, error: IntakeError) -> IntakeError {
        let code = match error {
            IntakeError::TooLarge { .. } => 1,
            IntakeError::TimedOut { .. } => 2,
            IntakeError::Broken => 3,
        };
        self.failure.store(code, Release);
        error
    }
}

impl From<IntakeError> for Problem {
    fn from(error: IntakeError) -> Self {
        let status = match error {
            IntakeError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            IntakeError::TimedOut { .. } => StatusCode::REQUEST_TIMEOUT,
            IntakeError::Broken => StatusCode::BAD_REQUEST,
        };
        Problem::new(status, error.to_string()).closing()
    }
}

// === impl Intake ===

impl hyper::body::Body for Intake {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(error) = this.outcome.failure() {
            return Poll::Ready(Some(Err(error.into())));
        }
        let Poll::Ready(polled) = Pin::new(&mut this.incoming).poll_frame(cx) else {
            let wait = this.outcome.wait;
            let timer = this.timer.get_or_insert_with(|| Box::pin(sleep(wait)));
            if !std::mem::replace(&mut this.armed, true) {
                timer.as_mut().reset(Instant::now() + wait);
            }
            ready!(timer.as_mut().poll(cx));
            return Poll::Ready(Some(Err(this.outcome.fail(IntakeError::TimedOut { waited: wait }).into())));
        };
        this.armed = false;
        Poll::Ready(match polled {
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                match this.left.checked_sub(length) {
                    Some(left) => {
                        this.left = left;
                        Some(Ok(frame))
                    }
                    None => {
                        let limit = this.outcome.limit;
                        Some(Err(this.outcome.fail(IntakeError::TooLarge { limit }).into()))
                    }
                }
            }
            Some(Err(_)) => Some(Err(this.outcome.fail(IntakeError::Broken).into())),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
