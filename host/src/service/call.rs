//! Calls as workers see them: every kind of call that can enter a service, and how its answer goes back.

use super::{Body, CallContext, exports::FunctionKey, tape::Tape};
use crate::{
    events::{Event, Verdict},
    policy::{Fault, FaultKind},
    saga::{self, StepCall, binding::Doing},
};
use hyper::{Request, Response};
use std::{
    sync::Arc,
    task::{Context, Poll},
};
use tokio::sync::oneshot;

/// A call on its way to a worker.
pub(super) struct Call {
    pub context: CallContext,
    pub work: Work,
    pub reply: Reply,
}

/// What is asked of the service.
#[expect(clippy::large_enum_variant, reason = "requests are what most calls are; a box would cost each of them")]
pub(super) enum Work {
    Http(Request<Body>),
    Function(Arc<FunctionKey>, Tape),
    Event(Arc<Event>, u32),
    Step(Doing, Box<StepCall>),
}

/// What the service answered.
pub(super) enum Answer {
    Http(Response<Body>),
    Function(Tape),
    Event(Verdict),
    Step(saga::Outcome),
}

/// Where the answer goes. Dropped without one, it says that the call was cancelled.
pub(super) struct Reply(Option<oneshot::Sender<Result<Answer, Fault>>>);

/// Where the answer arrives.
pub(super) type Receiver = oneshot::Receiver<Result<Answer, Fault>>;

// === impl Call ===

impl Call {
    pub fn new(context: CallContext, work: Work) -> (Self, Receiver) {
        let (sender, receiver) = oneshot::channel();
        (Self { context, work, reply: Reply(Some(sender)) }, receiver)
    }
}

// === impl Reply ===

impl Reply {
    pub fn send(mut self, answer: Result<Answer, Fault>) {
        if let Some(sender) = self.0.take() {
            // Nobody waits any more: the caller gave up in this very moment.
            let _ = sender.send(answer);
        }
    }

    /// Ready once nobody waits for the answer any more.
    pub fn poll_abandoned(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().map_or(Poll::Ready(()), |sender| sender.poll_closed(cx))
    }

    pub fn is_abandoned(&self) -> bool {
        self.0.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(sender) = self.0.take() {
            let _ = sender.send(Err(Fault::new(FaultKind::Cancelled, "the call was given up before it ended")));
        }
    }
}
